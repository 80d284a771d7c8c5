#!/bin/bash
# A backup and a restore over SSH, from nothing to the comparison, on this machine alone:
#
#     NFREEZE=build/nfreeze DIR=/usr/include tests/demo.sh
#
# A throw-away sshd with fresh keys listens on a free port of 127.0.0.1, as the user who runs
# this. All files, the copy of DIR too, lie in one temporary directory, which is removed at the
# end, however it comes; so are the server and, where root had to make it, /run/sshd.
set -euo pipefail
# shellcheck source=tests/sshd.sh
. "$(dirname "$0")/sshd.sh"

nfreeze=$(realpath -- "${NFREEZE:-build/nfreeze}")
dir=${DIR:-/usr/include}
[ -x "$nfreeze" ] || fail "$nfreeze is not there: run make first."
[ -d "$dir" ] || fail "$dir is no directory: name one with DIR=..."

say() { printf '\n# %s\n' "$*"; }
# run 'COMMAND' shows a command as it would be typed, then does it, here in $tmp.
run() {
    printf '$ %s\n' "$1"
    (cd "$tmp" && eval "$1")
}

mkdir -p "$tmp/bin" "$tmp/server"
ln -s "$nfreeze" "$tmp/bin/nfreeze"
start_sshd

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
