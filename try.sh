#!/usr/bin/env bash
# Sets up .venv if needed, and shows what tvc does, as a story with tiny models made on the spot.
set -euo pipefail
cd "$(dirname "$0")"

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
    echo "usage: ./try.sh"
    echo "Makes .venv (once), then tiny models in .work, and runs the main job on them. Under three"
    echo "minutes besides the download. Everything it writes is in .venv and .work."
    exit 0
fi

scripts/setup.sh
PATH="$PWD/.venv/bin:$PATH" exec examples/00_story.sh .work
