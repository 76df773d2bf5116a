#!/usr/bin/env bash
# Sets up .venv if needed, and checks everything: style, types, tests. With --all, slow tests too.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    echo "usage: ./test.sh [--all] [PYTEST OPTIONS]"
    echo "Runs ruff, pyright and the tests: the fast ones (minutes), with --all the slow ones too."
}

selection=(-m "not slow and not real_model and not vllm")
case "${1:-}" in
--all)
    selection=()
    shift
    ;;
--help | -h)
    usage
    exit 0
    ;;
esac

scripts/setup.sh

step() {
    echo "==> $*"
    "$@"
}

# Nothing of who runs this reaches the tests: see also tests/conftest.py.
unset PYTHONPATH PYTEST_ADDOPTS PYTEST_PLUGINS
export PATH="$PWD/.venv/bin:$PATH" CI=true PYTHONWARNINGS=

step ruff check .
step ruff format --check .
step pyright --pythonpath .venv/bin/python
step pytest -q tests/architecture
step pytest -q -n 2 --dist loadfile --ignore tests/architecture ${selection[@]+"${selection[@]}"} "$@"
