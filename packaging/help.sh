#!/bin/sh
# Takes `nfreeze help` and `nfreeze help VERB` apart, for man.sh and completion.sh. Prints lines of fields
# that are separated by tabs:
#
#     version 0.1.0                     name    keeps encrypted backups ...
#     about   PARAGRAPH                 exit    CODE    MEANING
#     verb    NAME    OPERANDS   SUMMARY             each followed by those of its options that not all have:
#     option  VERB|all   -SHORT   --LONG   ARGUMENT   HELP
#     action  VERB    WORD                           for an operand that is one of some words
#
#     packaging/help.sh build/nfreeze
set -eu
export LC_ALL=C
nfreeze=$1

verbs=$("$nfreeze" help | sed -n 's/^  nfreeze \([a-z]*\) .*/\1/p' | grep -vx help)
{
    "$nfreeze" --version
    "$nfreeze" help
    for verb in $verbs; do
        printf '\f%s\n' "$verb"
        "$nfreeze" help "$verb"
    done
} | awk '
BEGIN { OFS = "\t" }
NR == 1 { print "version", $2; next }
NR == 2 { sub(/^nfreeze /, ""); sub(/\.$/, ""); print "name", $0; next }

# Behind the list of verbs: paragraphs, the last of which are the exit codes.
function end_paragraph(    n, i, codes) {
    if (sub(/^Exit codes: /, "", paragraph)) {
        sub(/\.$/, "", paragraph)
        n = split(paragraph, codes, "; ")
        for (i = 1; i <= n; ++i) print "exit", codes[i] + 0, substr(codes[i], index(codes[i], " ") + 1)
    } else if (paragraph != "") print "about", paragraph
    paragraph = ""
}

# A form feed and its name stand before what a verb says about itself: how it is called, in one or more
# lines what it does, its options.
/^\f/ { end_paragraph(); verb = verbs[++count] = substr($0, 2); next }
!verb && /^  nfreeze / { next }
!verb && $0 != "" { paragraph = paragraph (paragraph == "" ? "" : " ") $0; next }
!verb { end_paragraph(); next }
operands[verb] == "" { sub(/^nfreeze [a-z]+ /, ""); operands[verb] = $0; next }
/^  +-/ {
    match($0, /--[a-z0-9-]+/)
    long = substr($0, RSTART, RLENGTH)
    text = substr($0, RSTART + RLENGTH)
    short = /^  -[^-]/ ? substr($0, 3, 2) : ""
    argument = ""
    if (match(text, /^(\[=| )[^ ]+/)) { # one blank at most stands before an argument
        argument = substr(text, 1, RLENGTH)
        text = substr(text, RLENGTH + 1)
    }
    sub(/^ /, "", argument)
    sub(/^ +/, "", text)
    option = short OFS long OFS argument OFS text
    options[verb, ++options_of[verb]] = option
    ++owners[option]
    next
}
$0 != "" { summary[verb] = summary[verb] (summary[verb] == "" ? "" : " ") $0 }

# "ACTION is list, add, remove ID, passwd (...), export (...), or import FILE.": the words.
function print_actions(verb,    s, n, i, list, word) {
    s = summary[verb]
    if (!sub(/^ACTION is /, "", s)) return
    gsub(/ \([^)]*\)/, "", s)
    n = split(s, list, /,( or)? /)
    for (i = 1; i <= n; ++i) {
        split(list[i], word, " ")
        print "action", verb, word[1]
    }
}
END {
    for (i = 1; i <= count; ++i) {
        verb = verbs[i]
        print "verb", verb, operands[verb], summary[verb]
        for (j = 1; j <= options_of[verb]; ++j)
            if (owners[options[verb, j]] < count) print "option", verb, options[verb, j]
        print_actions(verb)
    }
    for (j = 1; j <= options_of[verb]; ++j)
        if (owners[options[verb, j]] == count) print "option", "all", options[verb, j]
}'
