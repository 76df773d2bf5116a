# Sourced by every example: finds tvc, makes the tiny models, and says how commands are shown.
#
# An example takes one argument, the folder it works in (default: .work beside this folder). The
# models are kept there for the next example; the example's own folder is made anew every time.

set -euo pipefail

examples="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if ! command -v tvc >/dev/null; then
    PATH="$examples/../.venv/bin:$PATH"
    command -v tvc >/dev/null || { echo "tvc is not installed: run ./try.sh first" >&2; exit 1; }
fi

# Who commits, for these demonstrations only: nobody's git settings are read or changed.
export GIT_AUTHOR_NAME="Tiny Example" GIT_AUTHOR_EMAIL="tiny@example.org"
export GIT_COMMITTER_NAME="$GIT_AUTHOR_NAME" GIT_COMMITTER_EMAIL="$GIT_AUTHOR_EMAIL"
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 HF_HUB_OFFLINE=1

bold="" dim="" plain=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[36m' plain=$'\e[0m'
fi

# say TEXT: what comes next, and why.
say() {
    printf '\n%s# %s%s\n' "$bold" "$*" "$plain"
}

# show COMMAND...: print a command as one would type it.
show() {
    local word line=""
    for word in "$@"; do
        [[ "$word" =~ ^[A-Za-z0-9_./=~^:,@+-]+$ ]] || word="\"$word\""
        line+=" $word"
    done
    printf '%s$%s%s\n' "$dim" "${line//"$examples/"/}" "$plain"
}

# run COMMAND...: print a command, then run it.
run() {
    show "$@"
    "$@"
}

# refused CODE COMMAND...: print and run a command that must end with this exit code.
refused() {
    local wanted="$1" code=0
    shift
    show "$@"
    "$@" 2>&1 || code=$?
    [ "$code" = "$wanted" ] || { echo "it ended with $code, not with $wanted" >&2; exit 1; }
    echo "(exit code $code)"
}

# tiny COMMAND...: run tiny_models.py without a word about it.
tiny() {
    "$python" "$examples/tiny_models.py" "$@"
}

python="$(dirname "$(command -v tvc)")/python"
mkdir -p "${1:-$examples/../.work}"
work="$(cd "${1:-$examples/../.work}" && pwd)"
if [ ! -d "$work/models/hedging" ]; then
    say "Making a tiny base model and three tiny fine-tunes of it (some seconds)"
    tiny make "$work/models"
fi

name="$(basename "$0" .sh)"
rm -rf "${work:?}/$name"
mkdir -p "$work/$name"
cd "$work/$name"
ln -s ../models models
