#!/bin/sh
# Prints the manual page: packaging/nfreeze.1.in, with what `nfreeze help` and `nfreeze help VERB` say in
# its places, so that every verb and option is described in one table, that of the program.
#
#     packaging/man.sh build/nfreeze >nfreeze.1
set -eu
export LC_ALL=C
nfreeze=$1
here=$(dirname "$0")

"$here/help.sh" "$nfreeze" | awk -F '\t' '
# What roff would take for its own: backslashes, quotes, tildes; a hyphen that is one to type.
function roff(s) {
    gsub(/\\/, "\\e", s)
    gsub(/-/, "\\-", s)
    gsub(/\047/, "\\(aq", s)
    gsub(/`/, "\\(ga", s)
    gsub(/~/, "\\(ti", s)
    gsub(/\^/, "\\(ha", s)
    return s ~ /^\./ ? "\\&" s : s
}
function bold(s) { return "\\fB" roff(s) "\\fR" }
function italic(s) { return "\\fI" roff(s) "\\fR" }
# "[options] REPO [PATH...]": what is to be replaced is in italics.
function usage(verb, operands,    n, i, word, out) {
    out = bold("nfreeze " verb)
    n = split(operands, word, " ")
    for (i = 1; i <= n; ++i) {
        gsub(/[A-Za-z]+/, "\\fI&\\fR", word[i])
        out = out " " word[i]
    }
    return out
}
function described(short, long, argument, text) {
    out = ".TP\n" (short != "" ? bold(short) ", " : "") bold(long)
    if (argument ~ /^\[/) out = out "[" bold("=") italic(substr(argument, 3, length(argument) - 3)) "]"
    else if (argument != "") out = out " " italic(argument)
    return out "\n" roff(text) "\n"
}

FILENAME == "-" {
    if ($1 == "version") put["VERSION"] = $2
    if ($1 == "name") put["NAME"] = "nfreeze \\- " roff($2) "\n"
    if ($1 == "about") put["ABOUT"] = put["ABOUT"] (put["ABOUT"] == "" ? "" : ".PP\n") roff($2) "\n"
    if ($1 == "exit") put["EXIT"] = put["EXIT"] ".TP\n" bold($2) "\n" roff($3) "\n"
    if ($1 == "verb") {
        put["SYNOPSIS"] = put["SYNOPSIS"] usage($2, $3) "\n"
        put["VERBS"] = put["VERBS"] ".SS " usage($2, $3) "\n" roff($4) "\n"
    }
    if ($1 == "option") {
        text = described($3, $4, $5, $6)
        if ($2 == "all") put["OPTIONS"] = put["OPTIONS"] text
        else put["VERBS"] = put["VERBS"] text
    }
    next
}
/^@[A-Z]+@$/ {
    name = substr($0, 2, length($0) - 2)
    if (put[name] == "") exit 1
    printf "%s", put[name]
    next
}
{
    sub(/@VERSION@/, put["VERSION"])
    print
}' - "$here/nfreeze.1.in"
