#!/bin/sh
# Prints the completion for bash: packaging/nfreeze.bash.in, with the verbs and options in its places that
# `nfreeze help` and `nfreeze help VERB` name.
#
#     packaging/completion.sh build/nfreeze >completions/nfreeze
set -eu
export LC_ALL=C
nfreeze=$1
here=$(dirname "$0")

"$here/help.sh" "$nfreeze" | awk -F '\t' '
function add(to, separator, word) { return to (to == "" ? "" : separator) word }

FILENAME == "-" {
    names = $3 == "" ? $4 : $3 " " $4
    if ($1 == "version") put["VERSION"] = $2
    if ($1 == "verb") {
        put["VERBS"] = add(put["VERBS"], " ", $2)
        verbs[++count] = $2
    }
    if ($1 == "action") actions[$2] = add(actions[$2], " ", $3)
    if ($1 == "option") {
        if ($2 == "all") put["COMMON"] = add(put["COMMON"], " ", names)
        else options[$2] = add(options[$2], " ", names)
        # What an option takes is known by the word for it. What may be left out ("[=AMOUNT]") is no word
        # of its own.
        if ($5 == "" || $5 ~ /^\[/ || seen[names]++) next
        sub(/\.\.\.$/, "", $5) # it may be repeated
        kind = $5 == "FILE" || $5 == "DIR" ? $5 : $5 == "PATH" ? "FILE" : "OTHER"
        sub(/ /, "|", names)
        put[kind] = add(put[kind], "|", names)
    }
    next
}
/^@CASES@$/ {
    for (i = 1; i <= count; ++i) {
        verb = verbs[i]
        printf "    %s)", verb
        if (options[verb] != "") printf " options+=\047 %s\047", options[verb]
        if (actions[verb] != "") printf "%s actions=\047%s\047", options[verb] == "" ? "" : ";", actions[verb]
        print " ;;"
    }
    next
}
{
    while (match($0, /@[A-Z]+@/)) {
        name = substr($0, RSTART + 1, RLENGTH - 2)
        if (put[name] == "") exit 1
        $0 = substr($0, 1, RSTART - 1) put[name] substr($0, RSTART + RLENGTH)
    }
    print
}' - "$here/nfreeze.bash.in"
