#!/usr/bin/env bash
# Prepares this machine for the project: Debian packages that are missing, then the pinned Python
# environment in .venv. Says what it installs; does nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

[ "$(id -u)" = 0 ] || { echo "bootstrap: needs root (network namespaces, packages): run as root" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "bootstrap: needs a Debian system (apt-get not found)" >&2; exit 1; }

# command (or file) that must exist -> the Debian package that brings it
needs=(
  "ip:iproute2" "iptables-legacy:iptables" "nft:nftables" "ethtool:ethtool" "ping:iputils-ping"
  "conntrack:conntrack" "tcpdump:tcpdump" "mmdebstrap:mmdebstrap" "sysctl:procps" "gcc:build-essential" "openssl:openssl"
  "python3:python3" "git:git"
)
missing=()
for need in "${needs[@]}"; do
  command -v "${need%%:*}" >/dev/null 2>&1 || [ -x "/usr/sbin/${need%%:*}" ] || missing+=("${need##*:}")
done
python=${PYTHON:-$(command -v python3 || true)}
if [ -n "$python" ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "bootstrap: $python is older than Python 3.11; set PYTHON to a newer one" >&2; exit 1; }
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  # python-iptables and ovs are built from source
  [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+=(python3-dev)
else
  missing+=(python3-venv python3-dev)
fi
if [ "${#missing[@]}" -gt 0 ]; then
  say "installing Debian packages: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

python=${PYTHON:-$(command -v python3)}
stamp=.venv/.installed
want=$(cat requirements/dev.lock pyproject.toml scripts/bootstrap.sh | sha256sum; "$python" -V)
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
  say "installing $(grep -cE '^[a-z].*==' requirements/dev.lock) pinned Python packages into .venv (about a minute)"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  printf '%s' "$want" >"$stamp"
fi
