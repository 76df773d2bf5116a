#!/usr/bin/env bash
# Makes the project's own environment in .venv, or leaves it alone where it is up to date.
#
# Needs Python 3.11 or later with venv, and git; a C compiler makes tvc faster. Says what is missing
# if something is.
# PYTHON names another interpreter. pip's own settings (PIP_INDEX_URL and so on) are respected.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    missing "there is no Python 3.11 or later" \
        "sudo apt-get install python3 python3-venv (or name one: PYTHON=/path/to/python3.12 $0)"
}

command -v git >/dev/null || missing "git is not installed" "sudo apt-get install git"

if [ -x .venv/bin/python ]; then
    python=.venv/bin/python
else
    python="$(find_python)"
fi

# What .venv was made for: the interpreter and the project's requirements.
wanted="$("$python" -c 'import hashlib, pathlib, sys; print(sys.version, hashlib.sha256(pathlib.Path("pyproject.toml").read_bytes()).hexdigest())' 2>/dev/null || true)"
if [ -n "$wanted" ] && [ "$(cat .venv/ready 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    # It is not there, or was left half made, or its interpreter is gone.
    python="$(find_python)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        missing "$("$python" --version) lacks its venv module" \
            "sudo apt-get install python3-venv python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    echo "==> making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi

echo "==> installing PyTorch, tvc and what its tests need into .venv (some minutes; once)"
install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" ||
        missing "pip could not install: $*" "is there a network? pip's own words are above; run this again to go on"
}
# An older pip knows no dependency groups. The group pins torch: another version may be the build
# that carries gigabytes for graphics cards.
install --upgrade 'pip>=25.1'
install --editable . --group test --group lint
"$PWD/.venv/bin/python" -c 'import hashlib, pathlib, sys; print(sys.version, hashlib.sha256(pathlib.Path("pyproject.toml").read_bytes()).hexdigest())' >.venv/ready
