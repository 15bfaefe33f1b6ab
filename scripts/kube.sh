#!/usr/bin/env bash
# A Kubernetes control plane for tests: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, helm and
# grpcurl, built from tests/kube/controlplane. Prints the folder of the programs.
#
# Kept outside the tree and built again only when that Go module changes. VEG_ETCD, VEG_KUBE_APISERVER,
# VEG_KUBE_CONTROLLER_MANAGER, VEG_KUBE_SCHEDULER, VEG_KUBECTL, VEG_HELM and VEG_GRPCURL may each name a program to take
# instead; with all of them nothing is built. Without Go (and without these) it says in one line what is needed, prints
# nothing, and fails only where CI=true.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/../tests/kube/controlplane"

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

plane=(etcd kube-apiserver kube-controller-manager kube-scheduler kubectl)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/vpc-egress-gateway/kube
given=()
missing=0
for program in "${plane[@]}" helm grpcurl; do
  variable=VEG_$(tr 'a-z-' 'A-Z_' <<<"$program")
  if [ -n "${!variable:-}" ]; then
    path=$(cd "$from" && realpath "${!variable}" 2>/dev/null) && [ -x "$path" ] ||
      { echo "kube: $variable=${!variable} is no program" >&2; exit 1; }
    given+=("$program=$path")
  else
    missing=1
  fi
done

built=$cache/$(cat go.mod go.sum main.go | sha256sum | cut -c1-16)
if [ "$missing" = 1 ] && [ ! -e "$built/.ready" ]; then
  mkdir -p "$cache"
  exec 9>"$built.lock"
  flock -w 3600 9 || { echo "kube: another process holds $built.lock for too long" >&2; exit 1; }
fi
if [ "$missing" = 1 ] && [ ! -e "$built/.ready" ]; then
  if ! command -v go >/dev/null; then
    echo "kube: the tests on Kubernetes need $(sed -n 's/^go /Go >= /p' go.mod) (or programs named by VEG_KUBE_APISERVER and the like, see scripts/kube.sh)" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
  fi
  version=$(sed -n 's/^require k8s.io\/kubernetes //p' go.mod)
  minor=$(cut -d. -f2 <<<"$version")
  stamp=k8s.io/component-base/version
  say "building Kubernetes $version, helm and grpcurl (10 to 20 minutes on two processors, once; kept in $built)"
  work=$built.new
  rm -rf "$work" && mkdir "$work"
  go build -buildvcs=false -trimpath -o "$work/controlplane" -ldflags "-s -w \
    -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=$minor -X $stamp.gitTreeState=clean" . >&2
  go build -buildvcs=false -trimpath -ldflags "-s -w" -o "$work/" \
    helm.sh/helm/v3/cmd/helm github.com/fullstorydev/grpcurl/cmd/grpcurl >&2
  for program in "${plane[@]}"; do ln -s controlplane "$work/$program"; done
  "$work/kubectl" version --client >/dev/null || { echo "kube: kubectl does not run" >&2; exit 1; }
  touch "$work/.ready"
  rm -rf "$built" && mv "$work" "$built"
fi

if [ "${#given[@]}" = 0 ]; then
  echo "$built"
  exit
fi
mixed=$cache/given-$(printf '%s\n' "$built" "${given[@]}" | sha256sum | cut -c1-16)
mkdir -p "$mixed"
for program in "${plane[@]}" helm grpcurl; do
  [ "$missing" = 1 ] && ln -sfn "$built/$program" "$mixed/$program"
done
for pair in "${given[@]}"; do ln -sfn "${pair#*=}" "$mixed/${pair%%=*}"; done
echo "$mixed"
