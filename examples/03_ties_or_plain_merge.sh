#!/usr/bin/env bash
# Two ways to merge branches: term by term as git merges lines, or by a merge method.
. "$(dirname "$0")/prepare.sh"

say "Two fine-tunes, each on a branch"
run tvc init mymodel --base models/base
cd mymodel
run tvc switch -c listen
run tvc commit ../models/listen -m "Listen before suggesting"
run tvc switch -c brief main
run tvc commit ../models/brief -m "Answer briefly"

say "A plain merge is three-way, as git's: what one side added is added"
run tvc switch -c plain main
run tvc merge listen brief -m "Both, plainly"
run tvc checkout -o ../plain

say "A merge method is given the two changes themselves. How much do they clash?"
run tvc switch -c ties main
run tvc merge --dry-run --ties listen brief --density 0.2

say "TIES: keep the largest 20 % of each, elect a sign, average those that agree, here times 1.3"
run tvc merge --ties listen brief --density 0.2 --lambda 1.3 -m "Both, by TIES"
run cat recipe.toml
run tvc checkout -o ../ties

say "Any other method the same way, with weights; random ones have their seed in the recipe"
run tvc switch -c dare main
run tvc merge --method dare listen brief --density 0.5 --seed 7 --weight listen=1.2 -m "Both, by DARE"
run tvc checkout -o ../dare

cd ..
tiny ask models/base plain ties dare
