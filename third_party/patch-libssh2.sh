#!/bin/sh
# Puts a copy of libssh2's fetched source with our patches into BUILD; what was fetched is left as it is.
#
#     third_party/patch-libssh2.sh FETCHED PATCHES BUILD
#
# Nothing is done where BUILD has been made of the same before. Where a patch does not fit any more, this says
# which, and what to look at: the source has changed, and may have the mend already.
set -eu

fetched=$1 patches=$2 build=$3
fail() {
    echo "$1" >&2
    exit 1
}
for tool in patch sha256sum; do
    command -v $tool >/dev/null || fail "$tool was not found: install it (on Debian: make deps)."
done

# Of all that goes in, this script included: BUILD/made-of says what it was made of.
made_of=$({
    cat "$0" "$patches"/*.patch
    cd "$fetched"
    cat debian/changelog
    find src include -type f | LC_ALL=C sort | xargs cat
} | sha256sum)
if [ "$(cat "$build/made-of" 2>/dev/null)" = "$made_of" ]; then exit 0; fi

rm -rf "$build" "$build.new"
mkdir -p "$build.new"
cp -R "$fetched/src" "$fetched/include" "$build.new/"
for patch in "$patches"/*.patch; do
    # No fuzz: what stands around it has to be what it was made for.
    try() { patch -d "$build.new" -p1 --fuzz=0 --batch --dry-run "$@" <"$patch" 2>&1; }
    if said=$(try --forward); then
        patch -d "$build.new" -p1 --fuzz=0 --batch --forward --silent <"$patch"
    elif try --reverse >/dev/null; then
        fail "$patch is in the source of libssh2 already ($(head -n 1 "$fetched/debian/changelog")): remove it from third_party/libssh2-patches, and its line from the table in third_party/README.md."
    else
        fail "$patch does not fit the source of libssh2 any more ($(head -n 1 "$fetched/debian/changelog")): $said
Look whether $fetched has what its head describes in another form; if so, remove it from third_party/libssh2-patches, else make it anew for this source. The test that its head names has to pass either way."
    fi
done
echo "$made_of" >"$build.new/made-of"
mv "$build.new" "$build"
