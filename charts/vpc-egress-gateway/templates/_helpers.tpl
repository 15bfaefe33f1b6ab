{{/* Name of the chart, or what replaces it. */}}
{{- define "veg.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* What names of objects begin with. 40 characters: the longest suffix must leave a valid label. */}}
{{- define "veg.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "veg.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "veg.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels that select pods of a component: (dict "root" $ "component" "api"). */}}
{{- define "veg.selector" -}}
app.kubernetes.io/name: {{ include "veg.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of an object of a component. */}}
{{- define "veg.labels" -}}
{{ include "veg.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* An image: (dict "root" $ "image" .Values.api.image). */}}
{{- define "veg.image" -}}
{{- $registry := .root.Values.image.registry | trimSuffix "/" -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end }}

{{- define "veg.api.name" -}}{{ include "veg.fullname" . }}-api{{- end }}
{{- define "veg.programmer.name" -}}{{ include "veg.fullname" . }}-ovn-programmer{{- end }}

{{/* host:port at which api reaches ovn-programmer. */}}
{{- define "veg.programmer.target" -}}
{{- $ip := .Values.ovnProgrammer.service.clusterIP -}}
{{- $host := default (include "veg.programmer.name" .) $ip -}}
{{- if contains ":" $host }}[{{ $host }}]{{ else }}{{ $host }}{{ end }}:{{ .Values.ovnProgrammer.ports.grpc }}
{{- end }}

{{- define "veg.tls.secret" -}}
{{- if eq .Values.tls.mode "secret" -}}
{{- required "tls.existingSecret: a name is needed with tls.mode=secret" .Values.tls.existingSecret }}
{{- else -}}
{{ include "veg.fullname" . }}-tls
{{- end }}
{{- end }}

{{/* Names in the certificate, as JSON: {"items": [...]}. */}}
{{- define "veg.tls.names" -}}
{{- $names := list "localhost" -}}
{{- $ns := .Release.Namespace -}}
{{- range $name := list (include "veg.api.name" .) (include "veg.programmer.name" .) -}}
{{- $names = concat $names (list $name (printf "%s.%s" $name $ns) (printf "%s.%s.svc" $name $ns) (printf "%s.%s.svc.cluster.local" $name $ns)) -}}
{{- end -}}
{{- dict "items" (concat $names .Values.tls.extraDnsNames) | toJson }}
{{- end }}

{{/* Addresses in the certificate, as JSON: {"items": [...]}. */}}
{{- define "veg.tls.addresses" -}}
{{- $found := list "127.0.0.1" "::1" -}}
{{- with .Values.ovnProgrammer.service.clusterIP }}{{- $found = append $found . }}{{- end -}}
{{- dict "items" (concat $found .Values.tls.extraIpAddresses) | toJson }}
{{- end }}

{{/* A pod's own address as it stands before ":port". */}}
{{- define "veg.podAddress" -}}
{{- if .Values.ipv6 }}[$(POD_IP)]{{ else }}$(POD_IP){{ end }}
{{- end }}

{{/* What both services' pods have in common: (dict "root" $ "values" .Values.api "component" "api"). */}}
{{- define "veg.podSettings" -}}
enableServiceLinks: false
{{- if .root.Values.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  {{- if .values.affinity }}
  {{- toYaml .values.affinity | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "veg.selector" . | nindent 14 }}
  {{- end }}
{{- end }}

{{/* What both services' containers have in common. */}}
{{- define "veg.containerSettings" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
ports:
  - name: grpc
    containerPort: {{ .values.ports.grpc }}
  - name: metrics
    containerPort: {{ .values.ports.metrics }}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
resources:
  {{- toYaml .values.resources | nindent 2 }}
{{- end }}

{{/* Environment of both services. */}}
{{- define "veg.env" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- end }}

{{/*
A CRD of files/crds, or nothing: (dict "root" $ "value" .Values.crds.vpc "file" "vpcs").
auto: unless there is one that belongs to nobody or to another release.
*/}}
{{- define "veg.crd" -}}
{{- $crd := .root.Files.Get (printf "files/crds/%s.yaml" .file) | fromYaml -}}
{{- $install := eq (toString .value.install) "true" -}}
{{- if eq (toString .value.install) "auto" -}}
{{- $found := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $crd.metadata.name -}}
{{- $marks := dig "metadata" "annotations" (dict) ($found | default dict) -}}
{{- $ours := and (eq (get $marks "meta.helm.sh/release-name") .root.Release.Name) (eq (get $marks "meta.helm.sh/release-namespace") .root.Release.Namespace) -}}
{{- $install = or (not $found) $ours -}}
{{- end -}}
{{- if $install -}}
{{- $_ := set $crd.metadata "labels" (include "veg.labels" (dict "root" .root "component" "crds") | fromYaml) -}}
{{- if .root.Values.crds.keep -}}
{{- $_ := set $crd.metadata "annotations" (dict "helm.sh/resource-policy" "keep") -}}
{{- end -}}
{{ toYaml $crd }}
{{- end -}}
{{- end }}
