#!/bin/bash
# Runs the tests in several processes side by side and shows one result.
#
#     tests/run.sh build/nfreeze_tests [filters of doctest, such as -tc='*prune*' or -sf='*ssh*']
#
# JOBS says how many at a time. More than there are processors is best: many tests wait for a
# server, or for a clock. The suite "alone" holds what measures time, memory or round trips and would
# suffer from neighbours: it runs last, by itself.
set -u

tests=${1:?the test executable}
shift
jobs=${JOBS:-$(($(nproc) + 1))}
logs=$(mktemp -d)
# Keys of servers and users, made once.
NFREEZE_TEST_KEYS=$(mktemp -d)
chmod 755 "$NFREEZE_TEST_KEYS"
export NFREEZE_TEST_KEYS
# A fifth of what the tests take is memory that is given out page by page: large pages are given out faster,
# but what "alone" measures is memory as it is elsewhere.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}
# sshd insists on it; whichever process made it would take it away from the others.
made=
if [ "$(id -u)" = 0 ] && [ ! -d /run/sshd ]; then mkdir /run/sshd && made=1; fi
trap 'rm -rf "$logs" "$NFREEZE_TEST_KEYS"; [ -z "$made" ] || rmdir /run/sshd 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

count() { "$tests" --count "$@" | sed -n 's/.*passing the current filters: //p'; }

# Runs a part of the tests. What it has to say besides its result is shown when it has ended, so that
# parts never mix.
part() { # NAME FILTERS...
    local log=$logs/$1.log code=0
    shift
    "$tests" "$@" >"$log" 2>&1 || code=$?
    {
        flock 9
        grep -v -e '^\[doctest\]' -e '^=*$' -e '^skipped here: ' -e '^test cases begun: ' -e '^SKIPPED: ' "$log"
        # Failed assertions end it with code 1, all else is a crash or somebody's kill.
        if [ "$code" -gt 1 ] || ! grep -q '^\[doctest\] Status: ' "$log"; then
            echo "A test process ended with code $code: $tests $*"
        fi
    } 9>"$logs/lock"
}

# Short ranges, taken one after the other, because a test takes from a millisecond to half a minute. Those
# that wait for a line or a clock come one by one between the others, from the start, so that none is left
# at the end for which the processors wait.
waiting='networks,servers,real servers'
slow=$(count -ts="$waiting" "$@")
many=$(count "$@" -tse="alone,$waiting")
alone=$(count -ts=alone "$@")
size=$((many / (jobs * 8) + 1))
begin() { # NAME FILTERS...
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    part "$@" &
}
for ((next = 1, first = 1; next <= slow || first <= many; ++next, first += size)); do
    if [ "$next" -le "$slow" ]; then begin "waiting-$next" -ts="$waiting" "$@" --first="$next" --last="$next"; fi
    if [ "$first" -le "$many" ]; then begin "$first" "$@" -tse="alone,$waiting" --first="$first" --last=$((first + size - 1)); fi
done
wait
if [ "$alone" -gt 0 ]; then GLIBC_TUNABLES='' part alone -ts=alone "$@"; fi

# The sums of what the parts report, and what none of them reports. (The runner's own count of test
# cases includes those outside of a range.)
sum() { # PATTERN: of lines that end in a number
    cat "$logs"/*.log | sed -n "s/^$1 *\([0-9]*\).*/\1/p" | awk '{ n += $1 } END { print n + 0 }'
}
wanted=$((slow + many + alone))
run=$(sum 'test cases begun:')
failed=$(sum '\[doctest\] test cases:.*passed |')
grep -h '^SKIPPED: ' "$logs"/*.log
echo "==============================================================================="
echo "test cases: $run of $wanted run | $failed failed | assertions: $(sum '\[doctest\] assertions:')" \
    "| $(sum '\[doctest\] assertions:.*passed |') failed | $SECONDS s"
unfinished=$(grep -L '^\[doctest\] Status: SUCCESS' "$logs"/*.log)
if [ "$wanted" -gt 0 ] && [ "$run" = "$wanted" ] && [ -z "$unfinished" ]; then
    echo "All passed."
else
    echo "FAILED: each failure is shown above."
    exit 1
fi
