#!/bin/sh
# install.sh IMAGE: the project and what it needs for one image into /opt/veg, a virtual environment without pip.
# Run in the source tree, in the build stage. Every package is pinned by hash; nothing is downloaded to build one.
set -eu
image=$1
# No debugging information: it would name the folder of this one build.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}" PYTHONDONTWRITEBYTECODE=1 CFLAGS=-g0
python3 -m venv --without-pip /opt/veg
tools=$(mktemp -d)
python3 -m venv --system-site-packages "$tools/venv"
pip="$tools/venv/bin/pip --disable-pip-version-check"
$pip install --quiet --require-hashes -r requirements/build.lock
$pip wheel --quiet --no-deps --no-build-isolation --require-hashes --wheel-dir "$tools/wheels" -r "requirements/$image.lock"
$pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$tools/wheels" .
$pip --python /opt/veg/bin/python install --quiet --no-index --no-deps --no-compile "$tools"/wheels/*.whl
# pip notes from which folder it installed.
find /opt/veg -name direct_url.json -delete
find /opt/veg -name RECORD -exec sed -i '/direct_url.json,/d' {} +
# Compiled once, checked never: the root file system is read-only.
/opt/veg/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/veg/lib
rm -rf "$tools"
