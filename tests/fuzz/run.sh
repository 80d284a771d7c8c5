#!/bin/bash
# Runs fuzz targets, as many at a time as there are processors (JOBS).
#
#     tests/fuzz/run.sh build/fuzz/nfreeze_fuzz SECONDS [TARGET...]
#
# Each begins with the seeds of tests/fuzz/fuzz.cpp, what tests/fuzz/seeds/TARGET holds (inputs that once
# broke something), and what earlier runs found, which is kept beside the binary. An input that breaks
# something is left in the same place; run the binary with it alone to see how.
set -u
export fuzzer=$(realpath "${1:?the fuzzer}") seconds=${2:?seconds for each target} here=$(realpath "$(dirname "$0")")
shift 2

fuzz() {
    local target=$1 found log
    found=$(dirname "$fuzzer")/$1
    log=$found.log
    mkdir -p "$found/corpus" "$found/seeds"
    FUZZ=$target FUZZ_SEEDS=$found/seeds "$fuzzer" || exit 1
    set -- "$found/corpus" "$found/seeds"
    if [ -d "$here/seeds/$target" ]; then set -- "$@" "$here/seeds/$target"; fi
    # Memory: what a parser may take for 4 kB of input, the sanitizers' own included. Time: an input that
    # takes 10 s is a hang.
    if FUZZ=$target "$fuzzer" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1500 -malloc_limit_mb=300 \
        -print_final_stats=1 -artifact_prefix="$found/broken-" "$@" >"$log" 2>&1; then
        printf '%-12s %10s inputs\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    else
        printf '%-12s BROKEN, see %s:\n' "$target" "$log"
        grep -v '^#' "$log" | tail -60
        exit 1
    fi
}
export -f fuzz

[ $# -gt 0 ] || set -- $(FUZZ=list "$fuzzer")
printf '%s\n' "$@" | xargs -P "${JOBS:-$(nproc)}" -I{} bash -c 'fuzz {}'
