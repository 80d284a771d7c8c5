#!/bin/bash
# Runs tests that were built with a sanitizer, and fails if any process, the program's own included, had
# something reported.
#
#     tests/sanitized.sh build/asan [filters of doctest]
set -u

build=${1:?the build directory}
shift
reports=$(realpath "$build")/reports
rm -rf "$reports"
mkdir -p "$reports"
chmod 1777 "$reports" # servers and clients of other users report, too

# Exit code 99 is none of the program's.
common=exitcode=99:log_path=$reports/report
export ASAN_OPTIONS=$common:detect_stack_use_after_return=1
export UBSAN_OPTIONS=$common:print_stacktrace=1
export LSAN_OPTIONS=suppressions=$(realpath "$(dirname "$0")")/lsan.supp:print_suppressions=0
export TSAN_OPTIONS=$common:second_deadlock_stack=1

# Memory is measured elsewhere, and a chroot holds no shared libraries.
left_out='memory:*,binary:*,*in bounded memory*,*bounded time and memory*,*default cost of a guess*'
# To look for secrets would be to read all of the terabytes that sanitizers reserve.
left_out+=',secrets: the search*,secrets: of a passphrase*,secrets: each step*,secrets: a passphrase*'
code=0
"$(dirname "$0")/run.sh" "$build/nfreeze_tests" -tse=alone -tce="$left_out" "$@" || code=$?
if [ -n "$(ls "$reports")" ]; then
    head -c 20000 "$reports"/*
    echo "REPORTED: $(ls "$reports" | wc -l) processes, see $reports"
    exit 1
fi
exit "$code"
