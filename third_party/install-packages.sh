#!/bin/sh
# Installs the Debian packages that are missing for a purpose, and says which.
#
#     third_party/install-packages.sh build|demo|test|ci|s3|servers|bench|chroots|filesystems|aarch64
#
# Where all is there already, nothing is done and no network is needed. Where there is no apt-get,
# what is needed is printed, and the build goes on and finds out for itself.
set -eu

build='g++ make cmake pkg-config patch libcrypto++-dev libxxhash-dev libzstd-dev libssl-dev libcxxopts-dev'
test="$build openssh-server openssh-client doctest-dev rsync attr acl git rclone man-db
    python3 python3-cryptography python3-xxhash python3-zstandard python3-pyftpdlib python3-paramiko python3-asyncssh
    python3-fusepy"
of= # which architecture's libssh2
case ${1:-} in
build) packages=$build ;;
demo) packages="$build openssh-server openssh-client" ;;
test) packages=$test ;;
ci) packages="$test clang clang-format clang-tidy libclang-rt-dev valgrind" ;;
s3) packages="nodejs npm" ;;
servers) packages="$test proftpd-core proftpd-mod-crypto dropbear-bin python3-paramiko python3-asyncssh
    erlang-base erlang-ssh fuse3" ;;
bench) packages="$build openssh-server openssh-client python3 restic borgbackup rclone" ;;
chroots) packages="$build openssh-server openssh-client debootstrap" ;;
filesystems) packages="$test xfsprogs btrfs-progs e2fsprogs dosfstools exfatprogs exfat-fuse ntfs-3g fusefat" ;;
aarch64)
    of=:arm64
    packages="g++-aarch64-linux-gnu qemu-user rsync openssh-server openssh-client"
    for package in libc6-dev libcrypto++-dev libxxhash-dev libzstd-dev libssl-dev; do
        packages="$packages $package$of"
    done ;;
*)
    echo "usage: $0 build|demo|test|ci|s3|servers|bench|chroots|filesystems|aarch64" >&2
    exit 2 ;;
esac

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "No apt-get here; these are needed, by the names they have in Debian:"
    # shellcheck disable=SC2086 # all on one line
    echo " " $packages "libssh2-1-dev (1.11.1 or newer)"
    exit 0
fi

installed() { dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q '^install ok installed$'; }
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -v '(none)'; }

# libssh2's source is fetched from Debian 13 and unpacked by dpkg-source (fetch-libssh2.sh), but where the
# system's is asked for.
case ${SYSTEM_LIBSSH2:-0} in 0) libssh2=dpkg-dev ;; *) libssh2=libssh2-1-dev$of ;; esac

missing() {
    for package in $packages $libssh2; do
        installed "$package" || printf '%s ' "$package"
    done
}

list=$(missing)
if [ -z "$list" ]; then exit 0; fi

as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
        echo "These packages are missing, and neither root nor sudo is at hand to install them: $list" >&2
        exit 1
    }
    as_root=sudo
fi

apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }

# Libraries of another architecture lie beside this one's, each in a directory of its own.
if [ -n "$of" ] && ! { dpkg --print-architecture; dpkg --print-foreign-architectures; } | grep -qx "${of#:}"; then
    echo "dpkg --add-architecture ${of#:}"
    $as_root dpkg --add-architecture "${of#:}"
fi

# The lists of packages are fetched anew only if they do not know a package, or know one that the
# mirror no longer has.
update() {
    echo "apt-get update"
    apt update
    list=$(missing)
}
for package in $list; do
    if ! candidate "$package" >/dev/null; then
        update
        break
    fi
done

# The tests, the benchmark and the demonstration start their servers by themselves, on ports of their own.
# The system's services must not come along: they are neither started now (a policy-rc.d for the time of
# the installation, where the machine has none) nor at the next boot (disabled afterwards).
policy=/usr/sbin/policy-rc.d
services=
for package in $list; do
    case $package in
    openssh-server) services="$services ssh" ;;
    proftpd-core) services="$services proftpd" ;;
    erlang-base) services="$services epmd" ;;
    esac
done
if [ -n "$services" ] && [ ! -e $policy ]; then
    trap '$as_root rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod 755 $policy
fi

# dpkg's progress is left out; what goes wrong is on stderr.
install() {
    echo "Installing $list"
    # shellcheck disable=SC2086 # a list of words
    apt install -y --no-install-recommends $list >/dev/null
}
install || { update && install; } || {
    echo "These packages could not be installed (apt-get's reason is above): $list" >&2
    exit 1
}

for service in $services; do
    if [ -e "/etc/init.d/$service" ]; then $as_root update-rc.d "$service" disable >/dev/null 2>&1 || true; fi
    if command -v systemctl >/dev/null; then
        for unit in "$service.service" "$service.socket"; do
            $as_root systemctl disable "$unit" >/dev/null 2>&1 || true
        done
    fi
    echo "The service $service was installed; it is disabled and was not started."
done
