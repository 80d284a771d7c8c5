#!/bin/bash
# The static program, as it is, in bare Debians: the oldest that the mirror still has, 12, 13, or those that are
# named. For root.
#
#     NFREEZE=build/nfreeze tests/chroots.sh [RELEASE...]
#
# debian.sh says where they come from. A throw-away sshd of this machine holds the other repositories. All is
# done in a directory that is removed at the end.
set -euo pipefail
export TMPDIR="${TMPDIR:-/var/tmp}"
# shellcheck source=tests/sshd.sh
. "$(dirname "$0")/sshd.sh"
# shellcheck source=tests/debian.sh
. "$(dirname "$0")/debian.sh"

nfreeze=$(realpath -- "${NFREEZE:-build/nfreeze}")
[ "$(id -u)" = 0 ] || fail 'only root can do this'
! readelf -l "$nfreeze" | grep INTERP || fail "$nfreeze is not static"
releases=("$@")
if [ $# = 0 ]; then
    for release in jessie stretch buster bullseye bookworm; do
        if debian_is_there $release; then break; fi
    done
    releases=("$release")
    for other in bookworm trixie; do [ $other = "$release" ] || releases+=("$other"); done
fi
chmod 755 "$tmp"
start_sshd

# What is done in each, by root and by somebody else.
cat >"$tmp/try.sh" <<'END'
list() {
    (cd "$1" && find . -type d -printf '%P %y %m %U %G %T@\n' -o -printf '%P %y %m %U %G %T@ %s %l\n' | sort)
}
round_trip() { # SOURCE REPO
    rm -rf restored
    nfreeze init -q "$2"
    nfreeze backup -q "$1" "$2"
    nfreeze restore -q "$2" restored
    diff -r --no-dereference "$1" restored
    list "$1" >before
    list restored >after
    diff before after
    nfreeze check -q --read-data "$2"
}
cd "$HOME"
echo "$1"
shift
for repository; do
    round_trip "$SOURCE" "$repository"
done
END

# inside ID COMMAND...: as this user, with nothing of the environment here, and with what $within has around it.
inside() {
    local id=$1 home=/root
    shift
    if [ "$id" != 0 ]; then home=/home/tester; fi
    env -i HOME=$home PATH=/usr/sbin:/usr/bin:/sbin:/bin NFREEZE_PASSWORD=secret SOURCE="$source" \
        "${within[@]}" chroot --userspec="$id:$id" --groups= "$root" "$@"
}
# The directories of the system are mounted in the namespace of one command only.
cat >"$tmp/mounted.sh" <<'END'
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
shift
exec "$@"
END

for release in "${releases[@]}"; do
    root=$tmp/$release source=/etc within=()
    bare_debian "$release" "$root"
    cp "$nfreeze" "$root/usr/bin/nfreeze"
    cp "$tmp/try.sh" "$root/"
    find "$root/dev" -mindepth 1 -delete
    echo 'tester:x:4711:4711::/home/tester:/bin/sh' >>"$root/etc/passwd"
    echo 'tester:x:4711:' >>"$root/etc/group"
    mkdir -p "$root/root" "$root/home/tester"
    cp -R "$tmp/home/.ssh" "$root/root/"
    cp -R "$tmp/home/.ssh" "$root/home/tester/"
    chown -R 4711:4711 "$root/home/tester"
    url="sftp://$user@127.0.0.1:$port/$tmp/$release-server"
    mkdir "$tmp/$release-server"

    [ "$(inside 0 nfreeze --version)" = "$("$nfreeze" --version)" ] || fail 'it does not say its version'
    inside 0 sh -eu /try.sh '- no /proc, an empty /dev' bare "$url/bare"

    # Owners go by their names: another number, the same name.
    tree=$root/root/tree
    mkdir "$tree"
    echo content >"$tree/file"
    mkfifo -m 640 "$tree/fifo"
    ln -s file "$tree/link"
    chown -hR 4711:4711 "$tree"
    inside 0 nfreeze backup -q /root/tree /root/bare
    sed -i 's/^tester:x:4711:4711/tester:x:4712:4712/' "$root/etc/passwd"
    sed -i 's/^tester:x:4711/tester:x:4712/' "$root/etc/group"
    inside 0 nfreeze restore -q --source /root/tree /root/bare /root/owned
    for name in . file fifo link; do
        [ "$(stat -c '%u:%g %F %a' "$root/root/owned/$name")" = "$(stat -c '4712:4712 %F %a' "$tree/$name")" ] ||
            fail "the owner of $name: $(stat -c '%u:%g %F %a' "$root/root/owned/$name")"
    done
    inside 0 nfreeze ls -l --source /root/tree /root/bare | grep -q '^-rw-r--r--  *tester  *tester .* file$' ||
        fail 'ls does not name the owner'
    sed -i 's/^tester:x:4712:4712/tester:x:4711:4711/' "$root/etc/passwd"
    sed -i 's/^tester:x:4712/tester:x:4711/' "$root/etc/group"

    cp -RL "$root/etc/apt" "$root/home/tester/source"
    chown -R 4711:4711 "$root/home/tester/source"
    source=/home/tester/source inside 4711 sh -eu /try.sh '- as another user' own "$url/own"

    within=(unshare --mount --propagation private sh -eu "$tmp/mounted.sh" "$root")
    inside 0 sh -eu /try.sh '- with /proc and /dev' mounted "$url/mounted"
    rm -rf "$root"
done
echo "${releases[*]}: all well"
