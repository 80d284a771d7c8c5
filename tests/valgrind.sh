#!/bin/bash
# The main job under valgrind: a backup of a small tree, another one, a check and a restore, by way of the
# local disk. Any error and any block that is definitely lost fails.
set -eu
nfreeze=$(realpath "${1:-build/nfreeze}")
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/nfreeze-valgrind.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
export HOME=$scratch NFREEZE_PASSWORD=valgrind NFREEZE_SCRYPT_LOGN=15

mkdir -p src/dir/below
for i in 1 2 3 4 5 6 7 8; do echo "file $i" >src/dir/$i; done
head -c 3000000 /dev/urandom >src/large
yes 'a line of text' | head -c 3000000 >src/text
truncate -s 2M src/sparse
ln src/large src/linked
ln -s dir/1 src/link

run() {
    echo "nfreeze $*"
    valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --num-callers=30 "$nfreeze" "$@" >/dev/null
}
run init repo
run backup src repo
rm src/dir/2
echo changed >>src/text
run backup src repo
run check --read-data repo
run restore repo dest
run snapshots repo
diff -r --no-dereference src dest
echo "valgrind: clean"
