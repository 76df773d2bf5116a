#!/usr/bin/env bash
# Two people change the same term differently: a conflict, its ways out, and undo.
. "$(dirname "$0")/prepare.sh"

run tvc init mymodel --base models/base
cd mymodel
run tvc commit ../models/brief -m "Answer briefly" --name brief

say "One branch wants more of it, the other one less"
run tvc switch -c more
run tvc scale brief 1.5
run tvc commit -m "Briefer"
run tvc switch -c less main
run tvc scale brief 0.5
run tvc commit -m "Less brief"

say "That is a conflict (exit code 4): it is shown as terms, and written into recipe.toml"
refused 4 tvc merge more
run cat recipe.toml
run tvc status

say "One way out is back"
run tvc merge --abort
run tvc status

say "Another is to say whose side is right"
run tvc merge more --theirs -m "Briefer after all"
run tvc show

say "And the third is to choose oneself"
run tvc undo
refused 4 tvc merge more
printf 'format = 1\nbase = "base"\nterms = ["1.1 * brief"]\n' >recipe.toml
run cat recipe.toml
run tvc commit -m "A compromise"

say "Undo takes back the last command; undoing again goes further back"
run tvc undo
run tvc undo
run tvc op log
run tvc --no-pager log --graph --all
