#!/usr/bin/python3
"""Draws what bench.py measured: tests/bench/plot.py build/bench.json tests/bench/bench.svg

For each workload that has a peer, bars of the median wall times, each workload with a scale of its
own (its slowest program fills the width), and a thin line from the fastest to the slowest round.
"""

import json
import statistics
import sys
from html import escape

NAMES = {
    "(a) first": "first backup",
    "(a) restore": "restore",
    "(b) first": "first backup",
    "(b) restore": "restore",
    "(c) first": "first backup at 50 ms",
    "(c) unchanged": "nothing changed, at 50 ms",
    "(c) restore": "restore at 50 ms",
    "(d) unchanged": "nothing changed",
    "(e) 1 % changed": "1 % of the files changed",
    "(f) renamed": "largest directory renamed",
    "(g) first": "first backup",
    "(g) cluster": "rows changed in one place",
    "(g) scattered": "rows changed all over",
    "(j) up": "backup at 50 ms",
    "(j) down": "restore at 50 ms",
}
INPUTS = {"d": "b", "e": "b", "f": "b"}  # these workloads use the input of another

WIDTH, COLUMN, GAP = 900, 430, 20  # of the picture, of each of its two columns, around them
BARS, LONGEST = 116, 190  # where bars begin in a column, and how far they go
LINE, HEADING = 17, 30

STYLE = """
svg { font: 12px system-ui, sans-serif }
.paper { fill: #ffffff } .ink { fill: #1f2328 } .pale { fill: #59636e } .rule { stroke: #1f2328 }
.ours { fill: #1f7a4d } .theirs { fill: #a9b4c0 }
.strong { font-weight: 600 } .end { text-anchor: end }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117 } .ink { fill: #e6edf3 } .pale { fill: #9198a1 } .rule { stroke: #e6edf3 }
.ours { fill: #3fb97c } .theirs { fill: #57626e }
}
"""


def text(x, y, classes, words):
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{classes}">{escape(words)}</text>'


def seconds(value):
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def ratio_of(value):
    return f"×{value:.2f}" if value < 1 else f"×{value:.1f}" if value < 10 else f"×{value:.0f}"


def group(x, y, row, samples, inputs):
    """One workload: its heading, and a bar for each program."""
    walls = {name: [one["wall"] for one in runs] for name, runs in samples.items() if runs}
    slowest = max(max(found) for found in walls.values())
    ours = statistics.median(walls["nfreeze"])
    letter = INPUTS.get(row[1], row[1])
    out = [
        f'<text x="{x}" y="{y + 20}" class="ink"><tspan class="strong">({row[1]}) {NAMES[row]}'
        f'</tspan> <tspan class="pale">· {escape(inputs[letter])}</tspan></text>'
    ]
    y += HEADING
    for name, found in walls.items():
        out += bar(x, y, name, found, slowest, ours)
        y += LINE
    return out


def bar(x, y, name, walls, slowest, ours):
    middle = statistics.median(walls)
    left, length, least, most = x + BARS, *(
        LONGEST * value / slowest for value in (middle, min(walls), max(walls))
    )
    own = name == "nfreeze"
    ratio = "" if own else f"  {ratio_of(middle / ours)}"
    return [
        text(left - 6, y + 10, "ink end strong" if own else "ink end", name),
        f'<rect x="{left}" y="{y}" width="{max(length, 1):.1f}" height="12" rx="1" '
        f'class="{"ours" if own else "theirs"}"/>',
        f'<path d="M{left + least:.1f} {y + 6}H{left + most:.1f}" class="rule"/>',
        text(left + max(length, most) + 6, y + 10, "ink", seconds(middle) + ratio),
    ]


def height(samples):
    return HEADING + LINE * sum(1 for runs in samples.values() if runs) + 4


def groups(rows, inputs, top):
    """In two columns of about the same height; and where the longer one ends."""
    shown = [(row, rows[row]) for row in NAMES if len(rows.get(row, {})) > 1]
    half = sum(height(samples) for _, samples in shown) / 2
    x, y, done, bottom, out = GAP, top, 0, top, []
    for row, samples in shown:
        if x == GAP and done + height(samples) / 2 > half:
            x, y = GAP + COLUMN, top
        out += group(x, y, row, samples, inputs)
        y += height(samples)
        done += height(samples)
        bottom = max(bottom, y)
    return out, bottom


def small_files(rows, inputs):
    """Workload (h) has no peers: a sentence."""
    firsts = [row for row in rows if row.startswith("(h) first")]
    if not firsts or "(h) one file" not in rows:
        return []
    count = firsts[-1].removeprefix("(h) first, ")
    kinds = [firsts[-1], f"(h) unchanged, {count}", "(h) one file"]
    first, unchanged, one = (
        statistics.median(sample["wall"] for sample in rows[row]["nfreeze"]) for row in kinds
    )
    memory = max(sample["memory"] for row in kinds for sample in rows[row]["nfreeze"]) / 1e6
    return [
        f"(h) {count} small files, nfreeze alone: first backup {seconds(first)}, nothing changed "
        f"{seconds(unchanged)}, one file back at 50 ms {seconds(one)}, at most {memory:.0f} MB "
        "of memory."
    ]


def caption(result):
    machine = result["machine"]
    programs = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    note = " A quick run with small inputs." if result["quick"] else ""
    return [
        "Median wall time of each program and how many times nfreeze's it is; the thin line spans "
        "all rounds. Every group has its own scale.",
        f"{result['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Linux {machine['kernel']}.{note}",
        f"{programs}. Server and client on the same machine.",
    ]


def picture(result):
    drawn, y = groups(result["rows"], result["inputs"], 4)
    lines = small_files(result["rows"], result["inputs"])
    notes = [text(GAP, y + 22 + 17 * i, "ink", line) for i, line in enumerate(lines)]
    y += 17 * len(lines) + 8
    notes += [text(GAP, y + 22 + 16 * i, "pale", line) for i, line in enumerate(caption(result))]
    bottom = y + 22 + 16 * 3
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" '
            f'width="{WIDTH}" height="{bottom}">',
            f"<title>nfreeze and its peers, {result['date']}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{bottom}"/>',
            *drawn,
            *notes,
            "</svg>\n",
        ]
    )


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: plot.py build/bench.json tests/bench/bench.svg")
    try:
        with open(sys.argv[1]) as file:
            result = json.load(file)
    except FileNotFoundError:
        sys.exit(f"{sys.argv[1]} is not there: run make bench first.")
    with open(sys.argv[2], "w") as file:
        file.write(picture(result))


if __name__ == "__main__":
    main()
