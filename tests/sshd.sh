# For the scripts beside it, which source it: a throw-away sshd with fresh keys on a free port of 127.0.0.1, as
# the user who runs this, and a temporary directory, $tmp, for its files and all others. Both are gone at the
# end, however it comes; so is, where root had to make it, /run/sshd.
#
# start_sshd sets $port and $user, and makes of $tmp/home a client's home: with its key and known_hosts.
# shellcheck shell=bash
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

script=$(basename "$0" .sh)
fail() {
    echo "$script: $*" >&2
    exit 1
}
sshd=$(command -v sshd) || fail "sshd was not found: install openssh-server (on Debian: make deps-demo)."
command -v ssh-keygen >/dev/null || fail "ssh-keygen was not found: install openssh-client."

tmp=$(mktemp -d "${TMPDIR:-/tmp}/nfreeze-$script.XXXXXX")
sshd_pid=
made_run_sshd=

other_sshd() {
    local comm
    for comm in /proc/[0-9]*/comm; do
        if [ "$(cat "$comm" 2>/dev/null)" = sshd ]; then return 0; fi
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
    rm -rf --one-file-system "$tmp"
    if [ -n "$made_run_sshd" ] && ! other_sshd; then rmdir /run/sshd || true; fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM

try_port() {
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
    : >"$tmp/sshd.log" # looked into before sshd comes to make it
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

start_sshd() {
    mkdir -p "$tmp/home/.ssh"
    chmod 700 "$tmp/home/.ssh"
    ssh-keygen -q -t ed25519 -N '' -C "$script server" -f "$tmp/server_key"
    ssh-keygen -q -t ed25519 -N '' -C "$script client" -f "$tmp/home/.ssh/id_ed25519"
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
    for _ in {1..20}; do # another program may hold the port
        port=$((RANDOM % 20000 + 20000))
        if try_port; then break; fi
    done
    [ -n "$sshd_pid" ] || fail "sshd did not start: $(cat "$tmp/sshd.log")"
    echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$tmp/server_key.pub")" >"$tmp/home/.ssh/known_hosts"
}
