#!/usr/bin/env bash
# images.sh [IMAGE…]: OCI archives of api, ovn-programmer and node-agent in dist/images, from Debian packages, without a
# registry or a container engine. Load one with `podman load -i`, `ctr images import`, or `skopeo copy oci-archive:…`.
#
# The same tree and the same packages give the same bytes (times are those of the last commit). The Debian roots are kept
# in a cache folder: remove it to take newer packages.
# Needs root. Packages come from the Debian archive that this machine's apt uses, Python packages from pip's index.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=bookworm
say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
[ "$(id -u)" = 0 ] || { echo "images: needs root (chroot, owners of files)" >&2; exit 1; }
missing=()
for need in mmdebstrap umoci; do command -v "$need" >/dev/null || missing+=("$need"); done
if [ "${#missing[@]}" -gt 0 ]; then
  say "installing Debian packages: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
out=$PWD/dist/images
cache=${XDG_CACHE_HOME:-/var/cache}/vpc-egress-gateway/images-$suite-$(uname -m)
mkdir -p "$out" "$cache"
exec 9>"$cache.lock"
flock -w 1800 9 || { echo "images: another process holds $cache.lock for too long" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/veg-images.XXXXXX")
trap 'rm -rf "$work"' EXIT

mirror=$(PYTHONPATH=sandbox/src .venv/bin/python -c 'from veg_sandbox.ovn import apt; print(apt.debian_mirror() or "")')
[ -n "$mirror" ] || { echo "images: apt's sources name no Debian archive" >&2; exit 1; }
mapfile -t options < <(PYTHONPATH=sandbox/src .venv/bin/python -c 'from veg_sandbox.ovn import apt; print(*apt.acquire_options(), sep="\n")')

packages() { sort -u "${@/#/images/packages/}" | paste -sd,; }

# debian TARGET PACKAGE-LIST… : a minimal Debian with the packages of the lists
debian() {
  local target=$1 arguments=(--aptopt='Apt::Install-Recommends "false"') option log=$work/mmdebstrap.log
  shift
  for option in "${options[@]}"; do [ -z "$option" ] || arguments+=("--aptopt=$option"); done
  mmdebstrap --quiet --mode=root --variant=minbase --format=directory --dpkgopt=force-unsafe-io "${arguments[@]}" \
    --dpkgopt=path-exclude='/usr/share/man/*' --dpkgopt=path-exclude='/usr/share/locale/*' \
    --dpkgopt=path-exclude='/usr/share/doc/*' --dpkgopt=path-include='/usr/share/doc/*/copyright' \
    --include="$(packages "$@")" "$suite" "$target" "$mirror" >"$log" 2>&1 ||
    { tail -5 "$log" >&2; echo "images: mmdebstrap failed" >&2; exit 1; }
}

# kept NAME PACKAGE-LIST…: prints a minimal Debian that is made once and again when its lists or the release change
kept() {
  local name=$1 root=$cache/$1 of
  shift
  of=$(cd images/packages && sha256sum "$@")
  if [ "$(cat "$root.of" 2>/dev/null)" != "$of" ]; then
    say "a Debian $suite for $name (kept in $root)" >&2
    rm -rf "$root" "$root.of"
    debian "$root" "$@"
    printf '%s\n' "$of" >"$root.of"
  fi
  echo "$root"
}

# built IMAGE TARGET: /opt/veg of an image, made in a Debian with a compiler, copied to TARGET
built() {
  local image=$1 target=$2 root
  root=$(kept build build)
  rm -rf "$root/src" "$root/opt/veg"
  mkdir -p "$root/src"
  git archive HEAD pyproject.toml README.md LICENSE protos/gen services sandbox | tar -x -C "$root/src"
  cp -r images requirements "$root/src/"
  install -m 644 /etc/resolv.conf "$root/etc/resolv.conf"
  if [ -n "${PIP_CERT:-}" ]; then install -D -m 644 "$PIP_CERT" "$root$PIP_CERT"; fi
  chroot "$root" /usr/bin/env -u PIP_FIND_LINKS -u TMPDIR HOME=/root sh -c "cd /src && images/install.sh $image"
  cp -a "$root/opt/veg" "$target"
}

# tidy ROOT: what differs from run to run, and what nobody needs in a container
tidy() {
  rm -rf "$1"/var/cache/* "$1"/var/lib/apt/lists/* "$1"/var/log/* "$1"/tmp/* "$1"/var/tmp/* "$1"/var/lib/dpkg/*-old
  rm -f "$1/etc/machine-id" "$1/etc/resolv.conf" "$1/etc/hostname"
  : >"$1/etc/machine-id"
  mkdir -p "$1/run/veg" "$1/etc/veg"
  find "$1" -newermt "@$SOURCE_DATE_EPOCH" -print0 | xargs -0 --no-run-if-empty touch --no-dereference --date="@$SOURCE_DATE_EPOCH"
}

# archive IMAGE ROOT USER ENTRYPOINT
archive() {
  local image=$1 root=$2 user=$3 entrypoint=$4 layout=$work/$1.oci
  umoci init --layout "$layout"
  umoci new --image "$layout:$version"
  umoci insert --image "$layout:$version" --history.created "$created" --history.created_by "scripts/images.sh $image" "$root" /
  umoci config --image "$layout:$version" --created "$created" --author "" --no-history \
    --config.user "$user" --config.entrypoint "$entrypoint" --config.workingdir / \
    --config.env PATH=/opt/veg/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --config.env PYTHONUNBUFFERED=1 --config.env PYTHONDONTWRITEBYTECODE=1 \
    --config.label "org.opencontainers.image.title=vpc-egress-gateway/$image" \
    --config.label "org.opencontainers.image.version=$version"
  umoci gc --layout "$layout"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$layout" -cf "$out/$image-$version.tar" .
}

# works ROOT COMMAND…: the entry point starts in the image
works() {
  local root=$1
  shift
  chroot "$root" /usr/bin/env -i PYTHONDONTWRITEBYTECODE=1 PATH=/opt/veg/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" >/dev/null ||
    { echo "images: $* does not start in the image" >&2; exit 1; }
}

build() {
  local image=$1 root=$work/$1 base
  say "$image"
  case $image in
  node-agent) base=$(kept gateway service node-agent) ;;
  *) base=$(kept service service) ;;
  esac
  cp -a "$base" "$root"
  built "$image" "$root/opt/veg"
  tidy "$root"
  case $image in
  node-agent)
    for command in "veg-node-agent --help" "veg-node-agent run --help" "veg-bfd --help" "bfdd-control --help" \
      "ip -V" "iptables-legacy --version" "nft --version" "conntrack --version" "find --version" "grep --version"; do
      works "$root" $command
    done
    archive "$image" "$root" 0:0 veg-node-agent
    ;;
  *)
    works "$root" "veg-$image" --help
    works "$root" "veg-$image" run --help
    [ "$image" != api ] || works "$root" veg-api --version
    archive "$image" "$root" 65532:65532 "veg-$image"
    ;;
  esac
  rm -rf "$root"
  say "$out/$image-$version.tar: $(du -h "$out/$image-$version.tar" | cut -f1), sha256 $(sha256sum "$out/$image-$version.tar" | cut -c1-16)…"
}

[ "$#" -gt 0 ] || set -- api ovn-programmer node-agent
for image in "$@"; do
  [ -f "requirements/$image.lock" ] || { echo "images: unknown image '$image' (api, ovn-programmer, node-agent)" >&2; exit 2; }
  build "$image"
done
