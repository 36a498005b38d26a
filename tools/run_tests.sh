#!/usr/bin/env bash
# Set up everything, downstream packages included, and run all tests.
#
#     bash tools/run_tests.sh [PYTEST ARGUMENTS]
#
# The page of tools/demo/web_demo.py is clicked through where there are chromium and chromedriver (Debian:
# `apt-get install chromium chromium-driver`); elsewhere those tests are skipped.
# The virtual environment (about 6 GB, 4 minutes) is $CMP_MM_VENV, by default .venv-tests; it is reused.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

open_venv "${CMP_MM_VENV:-.venv-tests}"
STAMP=$(stamp tests)
if installed "$STAMP"; then
    say "$VIRTUAL_ENV is up to date"
else
    say '1/4 Build tools'
    pins 'setuptools<82' wheel
    say '2/4 torch and torchvision, the builds that fit each other'
    # Three =: not a local CPU build, for which there is no torchvision.
    pins 'torch===2.13.0' 'torchvision===0.28.0'
    say '3/4 cmp_mm with its extras'
    pins --no-build-isolation --editable '.[lite,raft,mmseg,mmpose,mmdet,tensorboard,safetensors,web,tests]'
    say '4/4 mmpose without what it declares and never imports'
    pins --no-deps mmpose
    finish_install "$STAMP"
fi

say 'Style'
STYLE=good
ruff check . || STYLE=bad
ruff format --check . || STYLE=bad

say 'Tests'
OWN=$(mktemp)
trap 'rm -f "$OWN"' EXIT
# What ran is read from a report, ours or the one asked for: -q and colours change the last line.
REPORT=$OWN BEFORE=
for ARGUMENT in "$@"; do
    case "$BEFORE" in --junit-xml | --junitxml) REPORT=$ARGUMENT ;; esac
    case "$ARGUMENT" in --junit-xml=* | --junitxml=*) REPORT=${ARGUMENT#*=} ;; esac
    BEFORE=$ARGUMENT
done
python -m pytest --junit-xml "$OWN" "$@"
if ! python - "$REPORT" <<'END'; then
import sys
from xml.etree import ElementTree

suites = ElementTree.parse(sys.argv[1]).iter('testsuite')
sys.exit(sum(int(suite.get('tests')) - int(suite.get('skipped')) for suite in suites) < 1)
END
    echo 'No test passed: nothing was shown.' >&2
    exit 1
fi
if [ "$STYLE" = bad ]; then
    echo 'The tests passed; ruff above asks for changes.' >&2
    exit 1
fi
say 'All passed'
