#!/usr/bin/env bash
# A merge method of your own: a package with one decorated function and one entry-point line.
. "$(dirname "$0")/prepare.sh"

say "The package: a function over tensors, and the line that announces it"
run cat "$examples/06_median/tvc_median.py"
run grep -A 1 entry-points "$examples/06_median/pyproject.toml"

say "Install it (here into a folder of its own, so that your environment stays as it is)"
cp -r "$examples/06_median" source
run "$python" -m pip install --quiet --no-deps --no-build-isolation --target site ./source
export PYTHONPATH="$PWD/site"

say "tvc knows it"
run tvc init mymodel --base models/base
cd mymodel
for habit in listen brief hedging; do
    run tvc switch -c "$habit" main
    run tvc commit "../models/$habit" -m "Learn: $habit"
done
run tvc switch main
run tvc merge --method median listen brief hedging -m "What most of them want"
run tvc checkout -o ../median

say "Without the package, the recipe is refused by the method's name"
unset PYTHONPATH
refused 1 tvc checkout -o ../without

cd ..
tiny ask models/base median
