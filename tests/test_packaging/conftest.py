import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ('cmp_mm', 'configs', 'tools', 'requirements')
FILES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'model-index.yml', 'README.md', 'LICENSE')


def run(*command: str, cwd: Path) -> str:
    result = subprocess.run(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


@pytest.fixture(scope='session')
def source_tree(tmp_path_factory) -> Path:
    """A copy of the sources, so that building leaves nothing in the working tree."""
    copy = tmp_path_factory.mktemp('source')
    ignore = shutil.ignore_patterns('__pycache__', '.mim', '*.egg-info')
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=ignore)
    for file in FILES:
        shutil.copy(ROOT / file, copy / file)
    return copy


@pytest.fixture(scope='session')
def installed(request, source_tree, tmp_path_factory) -> Path:
    """site-packages of a prefix that holds cmp_mm alone, from a wheel or editable."""
    prefix = tmp_path_factory.mktemp(request.param)
    what = ('-e', str(source_tree)) if request.param == 'editable' else (str(source_tree),)
    options = (
        '--no-deps',
        '--no-build-isolation',
        '--ignore-installed',
        '--no-compile',
        '--quiet',
        '--prefix',
        str(prefix),
    )
    run(sys.executable, '-m', 'pip', 'install', *options, *what, cwd=prefix)
    return Path(sysconfig.get_path('purelib', vars={'base': str(prefix), 'platbase': str(prefix)}))


@pytest.fixture
def run_installed(installed, tmp_path):
    """Runs code that sees the installed cmp_mm and the other packages of this environment.

    ``-E`` and ``-S`` keep out PYTHONPATH and this environment's .pth files, which may point elsewhere.
    """
    others = [path for path in sys.path if path.endswith(('site-packages', 'dist-packages'))]
    head = f'import site, sys; site.addsitedir({str(installed)!r}); sys.path += {others!r}\n'

    def run_code(code: str) -> str:
        return run(sys.executable, '-E', '-S', '-W', 'ignore', '-c', head + code, cwd=tmp_path)

    return run_code
