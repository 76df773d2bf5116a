#!/usr/bin/env bash
# LoRA adapters are task vectors too: kept as their factors, added, negated, written out again.
. "$(dirname "$0")/prepare.sh"

say "PEFT trains an adapter on the base (some seconds)"
tiny adapter models/base listen listening
run ls listening

say "Import it: the vector is the two factors of every matrix, never their product"
run tvc init mymodel --base models/base
cd mymodel
run tvc import ../listening --name listening -m "Listen, as an adapter"
run tvc vectors

say "It takes part in recipes like any other vector"
run tvc checkout -o ../with
run tvc add listening --scale -1.5
run tvc commit -m "Listen less than the base does"
run tvc checkout -o ../against

say "A fine-tune and an adapter are merged like two fine-tunes"
run tvc switch -c both main~1
run tvc switch -c brief main~2
run tvc commit ../models/brief -m "Answer briefly"
run tvc switch both
run tvc merge brief -m "Listen, and be brief"
run tvc checkout -o ../both

say "Export gives the adapter back, byte for byte"
run tvc export listening -o ../exported
run cmp ../listening/adapter_model.safetensors ../exported/adapter_model.safetensors
echo "the same bit for bit"

cd ..
tiny ask models/base with against both
