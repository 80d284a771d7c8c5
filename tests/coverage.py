#!/usr/bin/env python3
"""Which lines of nfreeze.cpp the tests have run, of the program and of the unit tests together.

    tests/coverage.py BUILD          after tests that were built with --coverage (`make cov`)

Prints the share of lines, and those that report damage but were never reached. All lines that were not
reached are in BUILD/not-covered.txt.
"""
import collections
import json
import os
import re
import subprocess
import sys
import tempfile


def main():
    build = os.path.realpath(sys.argv[1])
    source = os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'nfreeze.cpp')
    hits = collections.Counter()
    lines = set()
    notes = [os.path.join(base, name) for base, _, names in os.walk(build) for name in names if name.endswith('.gcno')]
    with tempfile.TemporaryDirectory() as scratch:
        for note in notes:
            # Exceptions make gcov's branches many; its lines are what counts.
            out = subprocess.run(['gcov', '--json-format', '--stdout', note], cwd=scratch, capture_output=True, check=True).stdout
            for text in out.splitlines():
                for file in json.loads(text)['files']:
                    if os.path.basename(file['file']) == 'nfreeze.cpp':
                        for line in file['lines']:
                            lines.add(line['line_number'])
                            hits[line['line_number']] += line['count']
    if not lines:
        sys.exit('nothing was measured below ' + build)
    missed = sorted(n for n in lines if hits[n] == 0)
    with open(source, encoding='utf-8') as file:
        text = [''] + file.read().splitlines()
    with open(os.path.join(build, 'not-covered.txt'), 'w', encoding='utf-8') as file:
        file.writelines(f'{n}: {text[n]}\n' for n in missed)
    damage = [n for n in missed if re.search(r'Corrupt\(|\bfail\("|throw bad\(\)|Exit::damaged', text[n])]
    for n in damage:
        print(f'never reached: nfreeze.cpp:{n}: {text[n].strip()}')
    share = 100 * (len(lines) - len(missed)) / len(lines)
    print(f'nfreeze.cpp: {len(lines) - len(missed)} of {len(lines)} lines covered, {share:.1f} %; '
          f'{len(damage)} lines that report damage were never reached; the rest: {build}/not-covered.txt')
    if share < 90:
        sys.exit('less than 90 % are covered')


main()
