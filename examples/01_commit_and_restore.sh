#!/usr/bin/env bash
# Commit a fine-tune and get it back, bit for bit.
. "$(dirname "$0")/prepare.sh"

say "A repository on the base model"
run tvc init mymodel --base models/base
cd mymodel

say "Commit a fine-tune: the new vector is what it changed, stored as a difference from the base"
run tvc commit ../models/listen -m "Listen before suggesting" --name listen
run cat recipe.toml

say "What would a checkout do? Every tensor that one fine-tune alone changed is restored"
run tvc checkout --dry-run

say "Check it out, in shards of 200 kB at most, and read back what was written"
run tvc checkout -o ../shards --shard-size 200kB --verify
run ls ../shards

say "Check it out in one file, and compare it with the fine-tune"
run tvc checkout -o ../restored
tiny same ../models/listen ../restored

say "Nothing is written over by accident"
refused 1 tvc checkout -o ../restored
