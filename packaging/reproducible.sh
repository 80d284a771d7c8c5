#!/bin/bash
# Builds program and package once more, in another directory, and compares: the same source has to give
# the same bytes wherever it lies and whoever builds it. `make reproducible` calls this when it has built
# them here.
set -euo pipefail
cd "$(dirname "$0")/.."

place=$(mktemp -d "${TMPDIR:-/var/tmp}/nfreeze-reproducible.XXXXXX")
trap 'rm -rf "$place"' EXIT
trap 'exit 130' INT TERM
copy=$place/elsewhere/and/deeper
mkdir -p "$copy/build"

# Whatever may differ between two machines with the same Debian.
umask 027
export TZ=Asia/Tokyo LANG=C.UTF-8
tar -c --exclude=./build --exclude=./.git . | tar -x --no-same-permissions -C "$copy"
if [ -d build/third_party ]; then cp -R build/third_party "$copy/build/"; fi
make -s -C "$copy" STATIC="${STATIC:-1}" deb

code=0
for file in build/nfreeze build/nfreeze.1.gz build/nfreeze.bash build/nfreeze_*.deb; do
    cmp "$file" "$copy/$file" && echo "the same: $(sha256sum "$file")" || code=1
done
exit $code
