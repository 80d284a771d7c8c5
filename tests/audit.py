#!/usr/bin/env python3
# Which lines of nfreeze.cpp hold each of the claims in its head, by the marks "// ==> C1 C2" (from here on) and
# "// <== C1 C2" (up to here), how many there are of code and of comments, and how long they take to read.
#
#     tests/audit.py [SOURCE] [--quiet]
#
# tests/audit.txt has the number for each claim. More is an error: whoever lets a claim grow changes its number, on
# purpose. So is a mark without its counterpart, or a claim that the head does not make.
import os
import re
import sys

here = os.path.dirname(os.path.abspath(__file__))
arguments = [a for a in sys.argv[1:] if a != "--quiet"]
quiet = "--quiet" in sys.argv
source = arguments[0] if arguments else os.path.join(here, "..", "nfreeze.cpp")

claims = {}  # what the head says
lines = {}  # claim: numbers of lines
open_since = {}
wrong = []
text = open(source, encoding="utf-8").read().split("\n")
for number, line in enumerate(text, 1):
    if said := re.match(r"//   (C\d)  (.*)", line):
        claims[said[1]] = said[2]
        lines[said[1]] = []
    mark = re.fullmatch(r"\s*// (==>|<==) ((?:C\d ?)+)", line)
    for claim in mark[2].split() if mark else []:
        if claim not in claims:
            wrong.append(f"line {number}: the head makes no claim {claim}")
        elif (mark[1] == "==>") == (claim in open_since):
            wrong.append(f"line {number}: {claim} has no counterpart")
        elif mark[1] == "==>":
            open_since[claim] = number
        else:
            lines[claim] += range(open_since.pop(claim) + 1, number)
wrong += [f"line {at}: {claim} has no end" for claim, at in open_since.items()]


def is_comment(number):
    return text[number - 1].lstrip().startswith("//")


def stretches(numbers):
    found = []
    for n in numbers:
        if found and found[-1][1] == n - 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return ", ".join(f"{a}-{b}" for a, b in found)


allowed = dict(line.split() for line in open(os.path.join(here, "audit.txt")) if not line.startswith("#"))
everything = sorted(set().union(*lines.values()))
for claim, numbers in [*lines.items(), ("all", everything)]:
    numbers = sorted(n for n in set(numbers) if text[n - 1].strip() and not re.match(r"\s*// (==>|<==)", text[n - 1]))
    comments = sum(map(is_comment, numbers))
    words = sum(len(text[n - 1].split()) for n in numbers)
    if not quiet:
        print(f"{claim:4} {claims.get(claim, 'All of these together.')}")
        print(f"     {len(numbers)} lines ({len(numbers) - comments} of code, {comments} of comments), {words} words;"
              f" {len(numbers) / 300:.1f} hours at 300 lines an hour")
        if claim != "all":
            print(f"     lines {stretches(sorted(set(lines[claim])))}")
    if len(numbers) > int(allowed.get(claim, 0)):
        wrong.append(f"{claim} has {len(numbers)} lines, and {allowed.get(claim, 0)} in tests/audit.txt")
for w in wrong:
    print(w, file=sys.stderr)
sys.exit(1 if wrong else 0)
