#!/bin/bash
# A backup and a restore over SSH, from nothing to the comparison, on this machine alone:
#
#     NFREEZE=build/nfreeze DIR=/usr/include tests/demo.sh
#
# A throw-away sshd with fresh keys listens on a free port of 127.0.0.1, as the user who runs
# this. All files, the copy of DIR too, lie in one temporary directory, which is removed at the
# end, however it comes; so are the server and, where root had to make it, /run/sshd.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

nfreeze=$(realpath -- "${NFREEZE:-build/nfreeze}")
dir=${DIR:-/usr/include}

fail() {
    echo "demo: $*" >&2
    exit 1
}
[ -x "$nfreeze" ] || fail "$nfreeze is not there: run make first."
[ -d "$dir" ] || fail "$dir is no directory: name one with DIR=..."
sshd=$(command -v sshd) || fail "sshd was not found: install openssh-server (on Debian: make deps-demo)."
command -v ssh-keygen >/dev/null || fail "ssh-keygen was not found: install openssh-client."

tmp=$(mktemp -d "${TMPDIR:-/tmp}/nfreeze-demo.XXXXXX")
sshd_pid=
made_run_sshd=

other_sshd() {
    local name
    for name in /proc/[0-9]*/comm; do
        if [ "$(cat "$name" 2>/dev/null)" = sshd ]; then return 0; fi
    done
    return 1
}
clean_up() {
    trap - EXIT
    if [ -n "$sshd_pid" ]; then
        kill "$sshd_pid" 2>/dev/null || true
        wait "$sshd_pid" 2>/dev/null || true
    fi
    chmod -R u+rwX "$tmp" 2>/dev/null || true # a copied tree can hold read-only directories
    rm -rf "$tmp"
    if [ -n "$made_run_sshd" ] && ! other_sshd; then rmdir /run/sshd || true; fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

say() { printf '\n# %s\n' "$*"; }
# run 'COMMAND' shows a command as it would be typed, then does it, here in $tmp.
run() {
    printf '$ %s\n' "$1"
    (cd "$tmp" && eval "$1")
}

# --- the server: its key, the client's key, the client's known_hosts ---

mkdir -p "$tmp/bin" "$tmp/server" "$tmp/home/.ssh"
chmod 700 "$tmp/home/.ssh"
ln -s "$nfreeze" "$tmp/bin/nfreeze"
ssh-keygen -q -t ed25519 -N '' -C 'demo server' -f "$tmp/server_key"
ssh-keygen -q -t ed25519 -N '' -C 'demo client' -f "$tmp/home/.ssh/id_ed25519"
cp "$tmp/home/.ssh/id_ed25519.pub" "$tmp/authorized_keys"
user=$(id -un)

pam=no
if [ "$(id -u)" = 0 ]; then
    # sshd drops privileges into this directory when root starts it.
    if [ ! -d /run/sshd ]; then
        mkdir /run/sshd
        made_run_sshd=1
    fi
    # Without PAM sshd lets nobody in whose password is locked, not even with a key.
    case $(getent shadow "$user" | cut -d: -f2) in '!'*) pam=yes ;; esac
fi

start_sshd() {
    cat >"$tmp/sshd_config" <<END
ListenAddress 127.0.0.1
Port $port
HostKey $tmp/server_key
AuthorizedKeysFile $tmp/authorized_keys
PidFile none
# The directories above, /tmp for one, may be writable for others.
StrictModes no
UsePAM $pam
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
ForceCommand internal-sftp
END
    "$sshd" -D -e -f "$tmp/sshd_config" 2>"$tmp/sshd.log" &
    sshd_pid=$!
    for _ in {1..100}; do
        if grep -q 'Server listening' "$tmp/sshd.log"; then return 0; fi
        kill -0 "$sshd_pid" 2>/dev/null || break
        sleep 0.05
    done
    kill "$sshd_pid" 2>/dev/null || true
    wait "$sshd_pid" 2>/dev/null || true
    sshd_pid=
    return 1
}
for _ in {1..20}; do # another program may hold the port
    port=$((RANDOM % 20000 + 20000))
    if start_sshd; then break; fi
done
[ -n "$sshd_pid" ] || fail "sshd did not start: $(cat "$tmp/sshd.log")"
echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$tmp/server_key.pub")" >"$tmp/home/.ssh/known_hosts"

# --- the client's side, as somebody would type it ---

unset SSH_AUTH_SOCK NFREEZE_REPOSITORY NFREEZE_SSH_PASSWORD
export HOME="$tmp/home" PATH="$tmp/bin:$PATH"
export REPO="sftp://$user@127.0.0.1:$port/$tmp/server/backup" # a second slash: an absolute path
NFREEZE_PASSWORD=$(head -c 18 /dev/urandom | base64)
export NFREEZE_PASSWORD

say "A copy of $dir, as the demonstration changes files in it."
cp -a -- "$dir/." "$tmp/tree" || fail "$dir could not be copied whole."
printf '%s files, %s\n' "$(find "$tmp/tree" -type f -printf x | wc -c)" "$(du -sh "$tmp/tree" | cut -f1)"
for n in 1 2 3; do # so that there is something to edit, rename and delete in any tree
    echo "file $n of the demonstration" >"$tmp/tree/demo-$n"
done

say "An SFTP server listens on 127.0.0.1:$port. A repository on it, and a first backup."
printf '$ export REPO=%s\n' "$REPO"
# shellcheck disable=SC2016 # shown as they are typed, expanded when they are run
{
    printf '$ export NFREEZE_PASSWORD=...\n'
    run 'nfreeze init $REPO'
    run 'nfreeze backup tree $REPO'

    say 'Something is edited, renamed, added and deleted; then a second backup, with -v.'
    run 'echo "one more line" >> tree/demo-1'
    run 'mv tree/demo-2 tree/demo-2-renamed'
    run 'mkdir tree/demo-new && date > tree/demo-new/today'
    run 'rm tree/demo-3'
    run 'nfreeze backup -v tree $REPO'

    say 'What is there now.'
    run 'nfreeze snapshots $REPO'
    run 'nfreeze ls -l $REPO | tail -n 5'

    say 'What the server sees of it.'
    run 'find server/backup -type f -printf "%M %9s %P\n" | sort -k3 | cut -c1-72 | sed -n 1,8p'

    say 'All of it back, into a new directory, and compared with the original.'
    run 'nfreeze restore $REPO restored'
    run 'diff -r --no-dereference tree restored && echo "no difference"'
    if command -v rsync >/dev/null; then
        run 'rsync -naiHAX --checksum --delete tree/ restored/ | tee differences'
        [ ! -s "$tmp/differences" ] || fail 'the restored tree differs from the original.'
        echo '(rsync finds nothing to change: content, times, modes, owners, links, ACLs, xattrs)'
    fi
}
say 'Done. The server is stopped and the temporary directory removed.'
