"""Build of cmp_mm: everything static is in pyproject.toml, only the ``.mim`` folder needs code.

OpenMMLab's tools look for configs, tools and the model index of an installed package in its folder
``.mim``. A wheel gets a copy there; an editable install gets links beside the sources, so that an edited
config is seen at once.
"""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_PARTS = ('configs', 'tools', 'model-index.yml')
CLONE_ONLY = ('quickstart.sh', 'run_tests.sh', 'venv.sh')  # they install the sources around them


def link_or_copy(source: Path, target: Path) -> None:
    """Link ``target`` to ``source``, relatively; copy where the file system has no links."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)
    try:
        target.symlink_to(os.path.relpath(source, target.parent), target_is_directory=source.is_dir())
    except OSError:
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder without what Python leaves behind in it and what only works in a clone."""
    if source.is_dir():
        ignore = shutil.ignore_patterns('__pycache__', '*.pyc', *CLONE_ONLY)
        shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


class BuildWithMim(build_py):
    """``build_py`` that also lays out ``cmp_mm/.mim``.

    ``editable_mode`` is what setuptools sets for ``pip install -e``; looking for ``develop`` in sys.argv,
    as the zoo's older setup files do, misses it.
    """

    def run(self) -> None:
        """Build as usual, then add the ``.mim`` folder."""
        super().run()
        place = link_or_copy if self.editable_mode else copy
        package = ROOT / 'cmp_mm' if self.editable_mode else Path(self.build_lib) / 'cmp_mm'
        folder = package / '.mim'
        if folder.exists() and not self.editable_mode:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for part in MIM_PARTS:
            place(ROOT / part, folder / part)


setup(cmdclass={'build_py': BuildWithMim})
