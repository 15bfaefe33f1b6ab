#!/usr/bin/env bash
# generate: protos/veg -> protos/gen.  check: lint, compatibility with the committed baseline, and
# that protos/gen is what the contracts generate.  baseline: accept the present contracts as the baseline.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
export PATH="$bin:$PATH"

generate() { # generate DIR
  mkdir -p "$1"
  (cd protos && python -m grpc_tools.protoc -I . --python_out="$1" --grpc_python_out="$1" \
    --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" $(find veg -name '*.proto' | sort))
}

case "${1:-check}" in
generate)
  rm -rf protos/gen/veg
  generate "$PWD/protos/gen"
  ;;
check)
  (cd protos && buf lint && buf breaking --against baseline/v1.txtpb)
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  generate "$tmp"
  diff -r -x __pycache__ "$tmp/veg" protos/gen/veg >/dev/null ||
    { echo "protos/gen is out of date: run 'make proto'" >&2; exit 1; }
  ;;
baseline) (cd protos && buf build -o baseline/v1.txtpb) ;;
*)
  echo "usage: $0 generate|check|baseline" >&2
  exit 2
  ;;
esac
