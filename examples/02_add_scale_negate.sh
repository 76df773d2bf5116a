#!/usr/bin/env bash
# The algebra of habits: add one, scale it, turn another around.
. "$(dirname "$0")/prepare.sh"

say "Three fine-tunes, each on a branch"
run tvc init mymodel --base models/base
cd mymodel
for habit in listen brief hedging; do
    run tvc switch -c "$habit" main
    run tvc commit "../models/$habit" -m "Learn: $habit"
done
run tvc switch main

say "Edits are staged in recipe.toml. A vector is found by its name on any branch"
run tvc add listen
run tvc add brief
run tvc scale brief 0.8
run tvc negate hedging
run tvc status
run tvc commit -m "Listen, be rather brief, never hedge"
run tvc checkout -o ../one

say "Negating again would subtract it twice; scale says the coefficient itself, exactly"
run tvc scale hedging -1/3
run tvc remove brief
run tvc commit -m "Listen, hedge less"
run tvc diff HEAD~1 HEAD
run tvc checkout -o ../other

say "How they answer now"
cd ..
tiny ask models/base one other
