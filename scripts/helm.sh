#!/usr/bin/env bash
# Prints the helm that is there without building anything: $VEG_HELM, the one of scripts/kube.sh, or the system's.
# Prints nothing where there is none.
set -euo pipefail
cd "$(dirname "$0")/../tests/kube/controlplane"
cached=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/vpc-egress-gateway/kube/$(cat go.mod go.sum main.go | sha256sum | cut -c1-16)
if [ -n "${VEG_HELM:-}" ]; then
  echo "$VEG_HELM"
elif [ -e "$cached/.ready" ]; then
  echo "$cached/helm"
else
  command -v helm || true
fi
