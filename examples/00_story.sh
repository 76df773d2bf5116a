#!/usr/bin/env bash
# The whole story: three fine-tunes are committed, composed, negated, merged and checked out.
. "$(dirname "$0")/prepare.sh"

say "The models: a base that answers people, and three fine-tunes that each learned one habit"
run ls models
tiny ask models/base models/listen models/brief models/hedging

say "A repository on the base; its weights are hashed and stay where they are"
run tvc init mymodel --base models/base
cd mymodel

say "Each fine-tune is committed on a branch of its own: what is kept is what it changed"
run tvc switch -c listen
run tvc commit ../models/listen -m "Listen before suggesting" --name listen
run tvc switch -c brief main
run tvc commit ../models/brief -m "Answer briefly" --name brief
run tvc switch -c hedging main
run tvc commit ../models/hedging -m "Hedge" --name hedging

say "A committed fine-tune comes back bit for bit"
run tvc checkout listen -o ../listen
tiny same ../models/listen ../listen

say "Compose: the base plus two of the fine-tunes. Edits are staged in recipe.toml, then committed"
run tvc switch main
run tvc add listen
run tvc add brief
run tvc status
run tvc commit -m "Listen, and be brief"
run tvc checkout main -o ../composed

say "Negate: subtract half of what made a model hedge"
run tvc add hedging --scale -0.5
run tvc commit -m "Hedge less"
run tvc show
run tvc checkout main -o ../hedging_less

say "Change your mind: a revert cancels the term exactly, so the same bytes come back"
run tvc revert HEAD
run tvc diff main~2 main
run tvc checkout main -o ../reverted
tiny same ../composed ../reverted
run tvc undo

say "Merge: first see how much two habits are in each other's way, then let TIES settle it"
run tvc switch -c ties main~2
run tvc merge --dry-run --ties listen brief --density 0.3
run tvc merge --ties listen brief --density 0.3 -m "Listen, and be brief, by TIES"
run tvc checkout ties -o ../ties

say "What there is now"
run tvc --no-pager log --graph --all
run ls ../ties

say "transformers loads what was checked out. Each model, asked 384 times how it answers:"
cd ..
ln -s models/base base
tiny ask base listen composed hedging_less ties

say "Read it as: listening and brevity add up (composed); subtracting the hedging vector takes
# “maybe” out (hedging_less); TIES keeps the strongest 30 % of each change and settles their signs."
