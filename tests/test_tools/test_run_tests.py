"""tools/run_tests.sh says that all passed where tests passed, and only there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ('code', 'style', 'skipped', 'ends'), [(0, 0, 1, 0), (1, 0, 1, 1), (0, 1, 1, 1), (0, 0, 3, 1)]
)
def test_how_it_ends(tmp_path, venv_script, code, style, skipped, ends):
    repo, programs = tmp_path / 'repo', tmp_path / 'bin'
    (repo / 'tools').mkdir(parents=True)
    programs.mkdir()
    shutil.copy(ROOT / 'tools' / 'run_tests.sh', repo / 'tools')
    (repo / 'tools' / 'venv.sh').write_text(venv_script)
    (programs / 'ruff').write_text(f'#!/bin/sh\nexit {style}\n')
    (programs / 'python').write_text(
        f"""#!/bin/sh
[ "$2" = pytest ] || exec {sys.executable} "$@"
echo '<testsuites><testsuite tests="3" skipped="{skipped}"/></testsuites>' > "$4"
exit {code}
"""
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    env = {**os.environ, 'PATH': f'{programs}:{os.environ["PATH"]}'}
    script = str(repo / 'tools' / 'run_tests.sh')
    done = subprocess.run(['bash', script], env=env, capture_output=True, text=True)
    assert done.returncode == ends and ('All passed' in done.stdout) == (ends == 0), done.stderr
