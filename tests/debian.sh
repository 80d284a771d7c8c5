# For the scripts beside it, which source it: bare Debians to try things in. They come from debootstrap and the
# first mirror that apt uses here, or out of what NFREEZE_TEST_CHROOT names: a tar file of a Debian 12, or a
# directory of RELEASE.tar.
# shellcheck shell=bash

# shellcheck disable=SC2016 # apt-get expands it
mirror=$(apt-get indextargets --no-release-info 'Created-By: Packages' 'Component: main' --format '$(REPO_URI)' |
    grep -v -e security -e '^cdrom' | head -n 1)
mirror=${mirror:-http://deb.debian.org/debian}

# debian_tar RELEASE prints the tar file there is of it.
debian_tar() {
    local given=${NFREEZE_TEST_CHROOT:-}
    if [ -f "$given" ] && [ "$1" = bookworm ]; then echo "$given"; fi
    if [ -d "$given" ] && [ -f "$given/$1.tar" ]; then echo "$given/$1.tar"; fi
}
debian_is_there() { [ -n "$(debian_tar "$1")" ] || wget -q --spider --tries=2 --timeout=20 "${mirror%/}/dists/$1/Release"; }

# bare_debian RELEASE DIR
bare_debian() {
    local tar
    tar=$(debian_tar "$1")
    mkdir -p "$2"
    if [ -n "$tar" ]; then
        tar -C "$2" -xpf "$tar" --numeric-owner
    else
        debootstrap --variant=minbase "$1" "$2" "$mirror" >"$2.log" 2>&1 || {
            tail -n 20 "$2.log" >&2
            rm -f "$2.log"
            echo "debootstrap $1 failed" >&2
            return 1
        }
        rm -f "$2.log"
    fi
    grep -qx "VERSION_CODENAME=$1" "$2/etc/os-release" || { echo "this is no Debian $1" >&2; return 1; }
    echo "in a Debian $(cat "$2/etc/debian_version"):"
}
