#!/bin/sh
# Puts Debian's patched source of libssh2 into CACHE/source, fetched and verified by apt.
#
#     third_party/fetch-libssh2.sh CACHE
#
# libssh2 1.11.1 as released lacks the fixes of ten CVEs of 2025 and 2026; Debian 13 (trixie)
# carries them as patches. So a source list for trixie is derived from the machine's own sources
# (same mirror, same keyring), in a temporary place with temporary apt state: nothing under
# /etc/apt or /var/lib/apt is touched, and root is not needed. The chain of trust is apt's: the
# archive's signed Release file names the hash of the source index, which names the hash of each
# file.
#
# What was fetched stays in CACHE: a later run is done at once and needs no network.
set -eu

wanted='1.11.1-1+deb13u2' # the first with all ten; a newer one is taken where there is one
cache=$1

fail() {
    echo "Cannot get the source of libssh2: $1." >&2
    exit 1
}

if [ -f "$cache/source/src/Makefile.inc" ]; then exit 0; fi

for tool in apt-get apt-cache dpkg dpkg-source; do
    command -v $tool >/dev/null ||
        fail "$tool was not found; on Debian install dpkg-dev"
done

# apt drops its rights to the user _apt while it downloads, so the directory has to be one that
# anybody may enter; a build directory below a home directory often is not.
work=$(mktemp -d "${TMPDIR:-/tmp}/nfreeze-libssh2.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$work"
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/download"
log=$work/log

# Read after the machine's own configuration (proxies, credentials for the mirror), this moves
# all that apt writes, drops the machine's hooks, and insists on signatures whatever it allows.
cat >"$work/apt.conf" <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "$work/state";
Dir::State::lists "$work/state/lists";
Dir::Cache "$work/cache";
Dir::Cache::archives "$work/cache/archives";
Dir::Etc::sourcelist "$work/trixie.sources";
Dir::Etc::sourceparts "/dev/null";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Retries "3";
END

# signed_by FILE:NUMBER prints the Signed-By that belongs to an entry of the machine's sources.
# apt counts lines in *.list and stanzas in *.sources. A key that is written out is kept as it
# is; to a list of files or fingerprints Debian's own keyring is added, for the keyring that is
# named may hold the keys of the machine's release only.
debian_keys=/usr/share/keyrings/debian-archive-keyring.gpg
signed_by() {
    file=${1%:*} number=${1##*:}
    case $file in
    *.sources)
        keys=$(grep -v '^#' "$file" | awk -v RS= -v n="$number" 'NR == n' |
            awk 'tolower($0) ~ /^signed-by:/ { on = 1; print substr($0, 11); next }
                 /^[ \t]/ { if (on) print; next }
                 { on = 0 }') ;;
    *)
        keys=$(sed -n "${number}p" "$file" |
            sed -n 's/^[^]]*[[ ]signed-by=\([^] ]*\).*/\1/p' | tr , ' ') ;;
    esac
    case $keys in
    *BEGIN*) printf 'Signed-By:%s\n' "$keys" ;;
    ?*)
        if [ -r $debian_keys ]; then keys="$keys $debian_keys"; fi
        # The words of $keys are meant to be split: this puts them on one line.
        # shellcheck disable=SC2086
        echo Signed-By: $keys ;;
    esac
}

# stanza URI SUITE [SIGNED-BY]
stanza() {
    printf 'Types: deb-src\nURIs: %s\nSuites: %s\nComponents: main\n%s\n\n' "$1" "$2" "${3:-}"
}

# apt itself says which sources the machine has, whatever the form they are written in.
own_sources() {
    codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release | tr -d '"')
    # shellcheck disable=SC2016 # apt-get expands these
    apt-get indextargets --no-release-info 'Created-By: Packages' \
        --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(SOURCESENTRY)' | sort -u |
        while read -r uri suite component entry; do
            case "$component:$uri:$suite" in
            main:cdrom:*) ;;
            main:*:"$codename-security" | main:*:*stable-security)
                stanza "$uri" trixie-security "$(signed_by "$entry")" ;;
            main:*:"$codename" | main:*:stable | main:*:oldstable | main:*:oldoldstable)
                stanza "$uri" trixie "$(signed_by "$entry")" ;;
            esac
        done
}

# For a machine whose release is not Debian's: the public archive, but only with Debian's keys.
public_sources() {
    if [ -r $debian_keys ]; then
        stanza http://deb.debian.org/debian trixie "Signed-By: $debian_keys"
        stanza http://deb.debian.org/debian-security trixie-security "Signed-By: $debian_keys"
    fi
}

# newest prints the newest version of Debian 13 that apt now knows. That one source of several
# is missing (a mirror without trixie-security, say) is no error: the version decides.
newest() {
    apt-get -c "$work/apt.conf" update >>"$log" 2>&1 || true
    best=
    for version in $(apt-cache -c "$work/apt.conf" madison libssh2 2>>"$log" | awk '{ print $3 }'); do
        case $version in *+deb13u*) ;; *) continue ;; esac
        dpkg --compare-versions "$version" ge "${best:-$wanted}" && best=$version
    done
    echo "$best"
}

version=
for sources in own_sources public_sources; do
    $sources >"$work/trixie.sources" 2>>"$log"
    if [ -s "$work/trixie.sources" ]; then
        cat "$work/trixie.sources" >>"$log"
        version=$(newest)
        if [ -n "$version" ]; then break; fi
    fi
done

mkdir -p "$cache"
if [ -z "$version" ]; then
    cp "$log" "$cache/fetch.log"
    fail "apt found no $wanted or newer in Debian 13 ($cache/fetch.log has apt's words); check the network, and where a key is missing, apt-get install debian-archive-keyring"
fi

if ! (cd "$work/download" &&
    apt-get -c "$work/apt.conf" source --download-only "libssh2=$version" &&
    dpkg-source -x "libssh2_$version.dsc" "$work/download/source") >>"$log" 2>&1; then
    cp "$log" "$cache/fetch.log"
    fail "apt found version $version but could not download or unpack it ($cache/fetch.log has its words)"
fi

# The source is moved last and whole, so that a run that was cut off leaves no half of it.
rm -rf "$cache/partial" "$cache/source"
cp -R "$work/download/source" "$cache/partial"
cp "$work/download/"libssh2_* "$cache/"
mv "$cache/partial" "$cache/source"
echo "Fetched libssh2 $version, verified by apt."
