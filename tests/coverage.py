#!/usr/bin/env python3
"""Which lines of nfreeze.cpp the tests have run, of the program and of the unit tests together.

    tests/coverage.py BUILD          after tests that were built with --coverage (`make cov`)

Prints the share of lines, and each place that reports damage and was never reached. All lines that were
not reached are in BUILD/not-covered.txt. Ends with 1 if less than 90 % of lines are covered, or damage is
reported anywhere that no test reaches.
"""
import collections
import json
import os
import re
import subprocess
import sys
import tempfile

# How nfreeze.cpp reports damage: by an error, or, where it goes on, by a word and a note of it.
DAMAGE = re.compile(r'''
    \bCorrupt\(             (?!const)       # thrown, or made by what is thrown
  | \b(?:in_?|body)(?:\.|->)fail\("         # of a Reader, by who uses it
  | \bfail\("(?:an?|bytes)[ ]               # and by itself; not "list" or "log in", of a store
  | \bthrow[ ]bad\(\)
  | Exit::damaged
  | \bnote\((?:damage|doubts)               # of the index
  | \bwrong\((?!const)                      # of check
  | \bdamaged[ ]=[ ]true | ^\s*whole[ ]=[ ]false
  | \+\+(?:result_->|result_\.|r\.)?(?:damaged|unreadable|lost)\b
  | \bdamage\(                             # of a walk through trees
  | \bcatch[ ]\(const[ ]Corrupt           # what becomes of it
''', re.VERBOSE)


def statement(text, n):
    """The lines of the statement that line n is in, up to n."""
    first = n
    while first > 1 and not re.search(r'[;{}:]\s*(//.*)?$', text[first - 1]) and text[first - 1].strip():
        first -= 1
    return range(first, n + 1)


def main():
    build = os.path.realpath(sys.argv[1])
    source = os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'nfreeze.cpp')
    hits = collections.Counter()
    # For each line and each function that has code there, a lambda for one, whether all of that was run. A line
    # that was run is not enough: "if (bad) throw" is, even where nothing ever was bad.
    all_of_it = collections.defaultdict(dict)
    notes = [os.path.join(base, name) for base, _, names in os.walk(build) for name in names if name.endswith('.gcno')]
    with tempfile.TemporaryDirectory() as scratch:
        for note in notes:
            # Exceptions make gcov's branches many; its lines are what counts.
            out = subprocess.run(['gcov', '--json-format', '--stdout', note], cwd=scratch, capture_output=True, check=True).stdout
            for text in out.splitlines():
                for file in json.loads(text)['files']:
                    if os.path.basename(file['file']) != 'nfreeze.cpp':
                        continue
                    # Instances of one template begin at the same place: one of them will do.
                    place = {f['name']: (f['start_line'], f['start_column']) for f in file['functions']}
                    for line in file['lines']:
                        n, at = line['line_number'], place.get(line.get('function_name'))
                        hits[n] += line['count']
                        done = line['count'] > 0 and not line['unexecuted_block']
                        all_of_it[n][at] = all_of_it[n].get(at, False) or done
    if not hits:
        sys.exit('nothing was measured below ' + build)
    missed = sorted(n for n in hits if hits[n] == 0)
    with open(source, encoding='utf-8') as file:
        text = [''] + file.read().splitlines()
    with open(os.path.join(build, 'not-covered.txt'), 'w', encoding='utf-8') as file:
        file.writelines(f'{n}: {text[n]}\n' for n in missed)
    damage = [n for n in range(1, len(text)) if DAMAGE.search(text[n].split('//')[0])
              and not all(all(all_of_it[m].values()) for m in statement(text, n) if m in all_of_it)]
    for n in damage:
        print(f'never reached: nfreeze.cpp:{n}: {text[n].strip()}')
    share = 100 * (len(hits) - len(missed)) / len(hits)
    print(f'nfreeze.cpp: {len(hits) - len(missed)} of {len(hits)} lines covered, {share:.1f} %; '
          f'{len(damage)} lines that report damage were never reached; the rest: {build}/not-covered.txt')
    if share < 90:
        sys.exit('less than 90 % are covered')
    if damage:
        sys.exit('damage is reported where no test reaches')


main()
