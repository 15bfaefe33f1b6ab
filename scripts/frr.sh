#!/usr/bin/env bash
# FRR, the BFD peer that the tests and `make bench-bfd` put beside ours. Prints the folder that it is unpacked in.
# Unpacked, not installed: the Debian package would start daemons and add users to the machine.
set -euo pipefail

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

root=${XDG_CACHE_HOME:-/var/cache}/vpc-egress-gateway/frr-$(uname -m)
mkdir -p "$root"
exec 9>"$root.lock"
flock -w 300 9 || { echo "frr: another process holds $root.lock for too long" >&2; exit 1; }

if [ ! -e "$root/.ready" ]; then
  [ "$(id -u)" = 0 ] || { echo "frr: needs root to download packages" >&2; exit 1; }
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # what this machine's release has, with those of its libraries that are not installed
  fetch() {
    apt-get install -y -qq --no-install-recommends --download-only --reinstall -o "Dir::Cache::archives=$work" frr >/dev/null
  }
  say "fetching FRR (about 5 MB, once; kept in $root)"
  mkdir "$work/partial"
  fetch 2>/dev/null || { apt-get update -qq && fetch; }
  for package in "$work"/*.deb; do dpkg -x "$package" "$work/root"; done
  rm -rf "$root" && mkdir "$root"
  cp -a "$work/root/usr" "$root/"
  libraries=$(find "$root/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
  LD_LIBRARY_PATH=$libraries "$root/usr/lib/frr/bfdd" --version >/dev/null || { echo "frr: bfdd does not run" >&2; exit 1; }
  printf '%s\n' "$libraries" >"$root/libraries"
  touch "$root/.ready"
fi
echo "$root"
