#!/bin/bash
# Installs the Debian package in a bare Debian 12, uses the program there, and removes it again. For root.
#
#     tests/deb.sh build/nfreeze_*.deb
#
# debian.sh says where the Debian 12 comes from. All is done in a directory that is removed at the end.
set -euo pipefail
# shellcheck source=tests/debian.sh
. "$(dirname "$0")/debian.sh"
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin

package=$(realpath -- "${1:?the package}")
root=$(mktemp -d "${TMPDIR:-/var/tmp}/nfreeze-deb.XXXXXX")
trap 'rm -rf "$root"' EXIT
trap 'exit 130' INT TERM
chmod 755 "$root"

fail() {
    echo "deb.sh: $*" >&2
    exit 1
}
inside() { env -i HOME=/root PATH="$PATH" NFREEZE_PASSWORD=secret chroot "$root" "$@"; }

bare_debian bookworm "$root"

# Its documentation would be left out by some minimal systems.
rm -f "$root"/etc/dpkg/dpkg.cfg.d/*
cp "$package" "$root/nfreeze.deb"
before=$(inside find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /var/lib/dpkg -o -path /var/log \
    -o -path /root \) -prune -o -print | sort)
inside dpkg -i /nfreeze.deb

# Everything that was promised is there, and as large as it was packed.
for file in bin/nfreeze share/man/man1/nfreeze.1.gz share/bash-completion/completions/nfreeze \
    share/doc/nfreeze/{copyright,changelog.gz,README.md} share/doc/nfreeze/examples/nfreeze.{service,timer}; do
    [ -s "$root/usr/$file" ] || fail "/usr/$file is not there"
done
inside dpkg --verify nfreeze
[ -z "$(inside dpkg --verify nfreeze)" ] || fail 'dpkg finds files that are not as they were packed'
grep -q '^ExecStart=/usr/bin/nfreeze backup ' "$root/usr/share/doc/nfreeze/examples/nfreeze.service" ||
    fail 'the unit does not start what the package installs'
inside bash -n /usr/share/bash-completion/completions/nfreeze

# shellcheck disable=SC2016 # expanded inside
inside sh -eu -c '
    version=$(dpkg-query -W -f "\${Version}" nfreeze)
    nfreeze --version | grep -F "nfreeze $version "
    cd /root
    cp -a /usr/share/perl5 tree
    ln -s nowhere tree/link
    nfreeze init repo
    nfreeze backup tree repo
    echo more >>tree/new
    nfreeze backup tree repo
    nfreeze restore repo restored
    diff -r --no-dereference tree restored
    nfreeze check --read-data repo
    rm -rf tree repo restored'

inside dpkg --purge nfreeze
after=$(inside find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /var/lib/dpkg -o -path /var/log \
    -o -path /root \) -prune -o -print | sort)
[ "$before" = "$after" ] || fail "something is left behind or gone: $(diff <(echo "$before") <(echo "$after"))"
echo 'installed, used and removed: all well'
