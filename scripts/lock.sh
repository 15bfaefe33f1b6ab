#!/usr/bin/env bash
# Resolves pyproject.toml into requirements/dev.lock (versions and hashes, no registry named).
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools" && "$tools/bin/pip" install --quiet pip-tools
"$tools/bin/pip-compile" --quiet --upgrade --allow-unsafe --generate-hashes --strip-extras --no-header \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
  --extra api --extra ovn-programmer --extra node-agent --extra sandbox --extra dev \
  --output-file requirements/dev.lock pyproject.toml
