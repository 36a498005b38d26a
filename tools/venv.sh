# Sourced by quickstart.sh and run_tests.sh: a virtual environment that is set up once and reused until what it
# was made from changes. Needs python3 and pip, no compiler.

SCRIPT=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON="${PYTHON:-python3}"
export PIP_DISABLE_PIP_VERSION_CHECK=1
START=$SECONDS

say() { # TEXT: a heading with the time since the start
    printf '\n[%d:%02d] %s\n' $(((SECONDS - START) / 60)) $(((SECONDS - START) % 60)) "$1"
}

pins() { pip install --constraint requirements/constraints.txt "$@"; }

open_venv() { # FOLDER: make it if need be, and use it from here on
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "The pinned versions need Python 3.11 or newer; $PYTHON is $("$PYTHON" --version 2>&1)." >&2
        exit 1
    fi
    if [ ! -x "$1/bin/pip" ]; then
        say "Virtual environment in $1"
        "$PYTHON" -m venv "$1"
    fi
    # shellcheck disable=SC1091
    source "$1/bin/activate"
}

stamp() { # NAME...: what an installation depends on, as one line
    printf '%s\n' "$PWD" "$@" | cat - requirements/*.txt setup.py pyproject.toml cmp_mm/version.py tools/venv.sh "$SCRIPT" |
        sha256sum | cut -c 1-64
}

installed() { # STAMP: whether the open environment was made from this
    [ "$(cat "$VIRTUAL_ENV/cmp_mm.stamp" 2>/dev/null)" = "$1" ]
}

finish_install() { # STAMP
    # opencv-python needs libGL; a machine without it gets the same version without windows.
    if ! python -c 'import cv2' 2>/dev/null; then
        say 'opencv-python does not load here: its headless build instead'
        pip uninstall --yes opencv-python
        pins opencv-python-headless
    fi
    python -c 'import cmp_mm'
    echo "$1" > "$VIRTUAL_ENV/cmp_mm.stamp"
}
