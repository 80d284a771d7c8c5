#!/bin/bash
# The program for 64-bit ARM, run by qemu's user emulation, and the one for this machine: each restores what the
# other has backed up to a throw-away sshd, and both restore the golden repository.
#
#     tests/aarch64.sh build/aarch64/nfreeze build/nfreeze
set -euo pipefail
# shellcheck source=tests/sshd.sh
. "$(dirname "$0")/sshd.sh"

arm_program=$(realpath -- "${1:?the program for aarch64}")
own_program=$(realpath -- "${2:?the program for this machine}")
tests=$(realpath -- "$(dirname "$0")")
golden=$tests/golden/v1
command -v qemu-aarch64 >/dev/null || fail "qemu-aarch64 was not found: install qemu-user."
unset SSH_AUTH_SOCK NFREEZE_REPOSITORY NFREEZE_SSH_PASSWORD
start_sshd
export HOME="$tmp/home" NFREEZE_PASSWORD="correct horse battery staple"
cd "$tmp"

arm() { qemu-aarch64 -cpu max "$arm_program" "$@"; }
own() { "$own_program" "$@"; }
# Content, times, modes, owners, links, ACLs, attributes, and the names themselves.
same() {
    local differences
    differences=$(rsync -naiHAX --checksum --delete "$1/" "$2/")
    [ -z "$differences" ] || fail "$1 and $2 differ: $differences"
}
size() { du -sb "$1" | cut -f1; }

readelf -h "$arm_program" | grep -q AArch64 || fail "$1 is not for aarch64"
! readelf -l "$arm_program" | grep INTERP || fail "$1 is not static"
arm --version
[ "$(arm --version)" = "$(own --version)" ] || fail 'these are two versions'

echo 'The golden repository:'
for id in aafd2d4a f45cca72; do
    for program in arm own; do $program restore --snapshot $id "$golden" $program-$id; done
    same own-$id arm-$id
done
[ "$(arm cat --snapshot 80faccd8 "$golden" dump)" = 'from a pipe' ] || fail 'the dump is something else'
arm check -q --read-data "$golden"

# Whatever that has, and what is cut into many chunks.
mv own-f45cca72 tree
cp -a "$tests" tree/tests
head -c 30M /dev/urandom >tree/random
seq 1500000 >tree/numbers
for first in arm own; do
    second=$([ $first = arm ] && echo own || echo arm)
    REPO="sftp://$user@127.0.0.1:$port/$tmp/from-$first"
    echo "Backed up by $first, restored by $second:"
    $first init "$REPO"
    $first backup tree "$REPO"
    $second restore "$REPO" restored
    same tree restored
    rm -rf restored
    # What one has cut, the other cuts at the same places: it sends nothing but the snapshot.
    before=$(size from-$first)
    $second backup --checksum tree "$REPO"
    [ $(($(size from-$first) - before)) -lt 100000 ] || fail 'the other program cuts at other places'
    $first restore -q "$REPO" restored
    same tree restored
    rm -rf restored
    $second check -q --read-data "$REPO"
done
echo 'aarch64: all well'
