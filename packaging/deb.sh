#!/bin/sh
# Makes build/nfreeze_VERSION_ARCHITECTURE.deb of what `make` has built; `make deb` calls it. CPack packs; what
# goes in is put together here, as `make install` does it, with what a Debian package has besides.
#
# DEBFULLNAME and DEBEMAIL name the maintainer. All times are SOURCE_DATE_EPOCH, so that the same source
# gives the same package.
set -eu
export LC_ALL=C TZ=UTC
umask 022
cd "$(dirname "$0")/.."
: "${SOURCE_DATE_EPOCH:?seconds since 1970}"

version=$(build/nfreeze --version | sed -n 's/^nfreeze \([^ ]*\) .*/\1/p')
maintainer="${DEBFULLNAME:-the nfreeze authors} <${DEBEMAIL:-nfreeze@localhost}>"
dynamic=ON
if grep -qx 'STATIC:BOOL=\(1\|ON\)' build/CMakeCache.txt; then dynamic=OFF; fi

tree=build/deb
documents=$tree/usr/share/doc/nfreeze
rm -rf $tree build/_CPack_Packages build/nfreeze_*.deb
make -s install DESTDIR=$tree PREFIX=/usr
mkdir -p $documents/examples

install -m 644 README.md $documents/
{
    echo "nfreeze ($version) unstable; urgency=medium"
    echo
    echo '  * See README.md for what it does.'
    echo
    echo " -- $maintainer  $(date -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >$documents/changelog.gz

# The units that README.md shows under "Every day", with the program where the package puts it.
for unit in nfreeze.service nfreeze.timer; do
    awk -v unit="# /etc/systemd/system/$unit" '$0 == unit { on = 1; next } /^```/ { on = 0 } on' README.md |
        sed 's|/usr/local/bin/|/usr/bin/|' >$documents/examples/$unit
    [ -s $documents/examples/$unit ] || { echo "$0: README.md does not show $unit" >&2; exit 1; }
done

# The terms of all that is in a static binary, in the words of the packages it came from.
{
    echo 'nfreeze'
    echo
    cat LICENSE
    if [ $dynamic = OFF ]; then
        archives=$(grep -o '/[^ ]*\.a' build/CMakeFiles/nfreeze.dir/link.txt)
        for library in libstdc++.a libc.a; do
            archives="$archives $(${CXX:-g++} -print-file-name=$library)"
        done
        # shellcheck disable=SC2086 # words
        packages=$(realpath $archives | xargs dpkg -S | cut -d: -f1 | sort -u)
        for package in $packages libcxxopts-dev libssh2-1-dev; do
            terms=/usr/share/doc/$package/copyright
            if [ ! -e "$terms" ] && [ "$package" = libssh2-1-dev ]; then
                terms=build/third_party/libssh2/source/debian/copyright
            fi
            printf '\n----\n\nThe program contains code of %s, whose terms are these:\n\n' "$package"
            cat "$terms"
        done
    fi
} >$documents/copyright
if [ $dynamic = OFF ]; then
    mkdir -p $tree/usr/share/lintian/overrides
    cat >$tree/usr/share/lintian/overrides/nfreeze <<END
# One file that runs anywhere, also where a system has to be restored, is what this is about.
nfreeze: statically-linked-binary
END
fi
find $tree -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

cat >build/deb.cmake <<END
set(CPACK_GENERATOR DEB)
set(CPACK_CMAKE_GENERATOR "Unix Makefiles")
set(CPACK_PACKAGE_NAME nfreeze)
set(CPACK_PACKAGE_VERSION "$version")
set(CPACK_PACKAGE_FILE_NAME nfreeze)
set(CPACK_PACKAGE_CONTACT "$maintainer")
set(CPACK_PACKAGE_DIRECTORY "$PWD/build")
set(CPACK_INSTALLED_DIRECTORIES "$PWD/$tree;/")
set(CPACK_PACKAGING_INSTALL_PREFIX /)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS openssh-client)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS $dynamic)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "encrypted backups on servers that need not be trusted")
set(CPACK_PACKAGE_DESCRIPTION "Directories are backed up to any server that gives one an SFTP login, or to a
local directory. Everything is deduplicated, compressed and encrypted before
it leaves the machine, nothing is kept on it between two runs, and nothing
needs to be installed on the server.")
END
cpack --config build/deb.cmake >build/deb.log || { cat build/deb.log >&2; exit 1; }
rm -rf build/_CPack_Packages
ls build/nfreeze_*.deb
