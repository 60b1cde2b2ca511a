#!/bin/sh
# Makes .venv hold what pyproject.toml asks for, and does nothing where it does already.
#
#   scripts/bootstrap.sh run      the program and what it needs
#   scripts/bootstrap.sh dev      the tools of the dev group as well
#   scripts/bootstrap.sh python   print the Python that .venv would be made from
#
# uv is used where it is on PATH, venv and pip otherwise. $PYTHON names a Python to prefer.
set -eu
cd "$(dirname "$0")/.."

venv=.venv
lock=.venv.lock
need='sys.version_info >= (3, 12)' # mitmproxy 12 asks for it; pyproject.toml says the same

say() { printf '%s\n' "$*" >&2; }

have_uv() { command -v uv >/dev/null 2>&1; }

# Asked by running it: a shim named python3.13 may stand on PATH and have nothing behind it.
fits() { "$1" -c "import sys; sys.exit(not ($need and sys.implementation.name == 'cpython'))" >/dev/null 2>&1; }

can_make_venvs() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

candidates() {
    printf '%s\n' "${PYTHON:-}" python3.13 python3.12 python3.14 python3 python
    pyenv_root=${PYENV_ROOT:-$(pyenv root 2>/dev/null || printf '%s' "${HOME:-}/.pyenv")}
    for minor in 13 12 14; do
        for python in "$pyenv_root/versions/3.$minor".*/bin/python; do printf '%s\n' "$python"; done
    done
    if have_uv; then uv python find --no-project '>=3.12' 2>/dev/null || :; fi
}

# Prints the first candidate that fits; where only Python without its venv module fits, says so.
find_python() {
    bare=''
    while IFS= read -r candidate; do
        { [ -n "$candidate" ] && fits "$candidate"; } || continue
        if have_uv || can_make_venvs "$candidate"; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
        bare=${bare:-$candidate}
    done <<CANDIDATES
$(candidates)
CANDIDATES
    if have_uv; then
        say "Found no Python 3.12 or newer; asking uv for one ..."
        if uv python install -q 3.13 >/dev/null 2>&1; then
            uv python find --no-project 3.13
            return
        fi
    fi
    if [ -n "$bare" ]; then
        say "$bare is new enough but cannot make virtual environments: install its venv module" \
            "(Debian, Ubuntu: apt install python3-venv) or uv, then run make again."
    else
        say "kimi-mitm needs Python 3.12 or newer and found none: install one (macOS: brew install python@3.13;" \
            "Debian, Ubuntu: apt install python3 python3-venv; pyenv install 3.13; uv python install 3.13;" \
            "or python.org), then run make again."
    fi
    return 1
}

# What a finished .venv was made from. The place is part of it: scripts in .venv/bin name it in their first line.
fingerprint() {
    pwd
    cksum <pyproject.toml
}

stamp_is_fresh() {
    [ -x "$venv/bin/python" ] && [ -f "$venv/.made-$1" ] && [ "$(cat "$venv/.made-$1")" = "$(fingerprint)" ]
}

have_already() { stamp_is_fresh "$1" || stamp_is_fresh dev; } # dev holds what run does

venv_is_usable() {
    [ -x "$venv/bin/python" ] && fits "$venv/bin/python" || return 1
    have_uv || "$venv/bin/python" -m pip --version >/dev/null 2>&1 || return 1
    for made in "$venv/.made-run" "$venv/.made-dev"; do
        if [ -f "$made" ] && [ "$(head -n 1 "$made")" != "$(pwd)" ]; then return 1; fi
    done
}

make_venv() {
    python=$(find_python)
    say "Making $venv with $("$python" --version) ..."
    rm -rf "$venv"
    if have_uv; then uv venv -q --seed --python "$python" "$venv"; else "$python" -m venv "$venv"; fi
}

# The dev group is read here: neither an old pip nor an old uv knows --group.
dev_group='import tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["dependency-groups"]["dev"]))'

install() {
    set -- "$1" --editable .
    if [ "$1" = dev ]; then
        "$venv/bin/python" -c "$dev_group" >"$venv/dev-group.txt"
        set -- "$@" --requirement "$venv/dev-group.txt"
    fi
    shift
    say "Installing into $venv (the first time takes a minute or two) ..."
    if have_uv; then
        uv pip install -q --python "$venv/bin/python" "$@"
    else
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@"
    fi
}

# One at a time: `make run` and `make login` may be typed into two terminals at once.
take_lock() {
    waiting=''
    until mkdir "$lock" 2>/dev/null; do
        owner=$(cat "$lock/pid" 2>/dev/null || :)
        if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
            rm -rf "$lock"
            continue
        fi
        [ -n "$waiting" ] || say "Another make is setting up $venv; waiting for it (if none runs, remove $lock)."
        waiting=yes
        sleep 1
    done
    trap 'rm -rf "$lock"' EXIT
    trap 'exit 130' INT TERM
    echo $$ >"$lock/pid"
}

case ${1:-} in
python) find_python ;;
run | dev)
    if have_already "$1"; then exit 0; fi
    take_lock
    if have_already "$1"; then exit 0; fi
    venv_is_usable || make_venv
    rm -f "$venv/.made-$1"
    install "$1"
    fingerprint >"$venv/.made-$1"
    ;;
*)
    say "usage: scripts/bootstrap.sh run | dev | python"
    exit 2
    ;;
esac
