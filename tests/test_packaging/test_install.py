"""A wheel install and an editable install both serve OpenMMLab's tools."""

import importlib.util
from pathlib import Path

import pytest

both_installs = pytest.mark.parametrize('installed', ['wheel', 'editable'], indirect=True)

RESOLVE = """
import cmp_mm
from pathlib import Path
mim = Path(cmp_mm.__file__).parent / '.mim'
for name in ('model-index.yml', 'configs/_base_/models/cmp_alexnet_plain.py', 'tools/train.py'):
    assert (mim / name).is_file(), name
from mmengine.config import Config
Path('mine.py').write_text("_base_ = 'cmp_mm::_base_/models/cmp_alexnet_plain.py'")
model = Config.fromfile('mine.py').model
"""
BUILD = """
from mmseg.registry import MODELS
model['_scope_'] = 'mmseg'
model['type'] = 'cmp_mm.CMP'
for part in ('backbone', 'neck', 'guidance_encoder', 'decoder', 'loss', 'codec', 'data_preprocessor'):
    if part in model:
        model[part]['type'] = 'cmp_mm.' + model[part]['type'].rpartition('.')[2]
assert type(MODELS.build(model)).__name__ == 'CMP'
print(cmp_mm.__file__)
"""


@both_installs
def test_mim_folder_and_config_base(installed, run_installed, source_tree):
    where = Path(run_installed(RESOLVE + 'print(cmp_mm.__file__)').split()[-1])
    assert where.is_relative_to(source_tree) != where.is_relative_to(installed)


@both_installs
@pytest.mark.skipif(importlib.util.find_spec('mmseg') is None, reason='mmsegmentation is not installed')
def test_builds_from_the_scope_of_mmseg(installed, run_installed):
    assert '__init__.py' in run_installed(RESOLVE + BUILD)


@pytest.mark.parametrize('installed', ['wheel'], indirect=True)
def test_wheel_holds_no_leftovers(installed):
    names = [path.name for path in (installed / 'cmp_mm' / '.mim').rglob('*')]
    assert not [name for name in names if name.endswith('.pyc') or name == '__pycache__']
    assert 'dist_train.sh' in names
    assert not {'quickstart.sh', 'run_tests.sh', 'venv.sh'} & set(names), 'they need the sources around them'
    tops = {path.name.partition('-')[0] for path in installed.iterdir()}
    assert tops - {'__pycache__'} == {'cmp_mm'}


@pytest.mark.parametrize('installed', ['editable'], indirect=True)
def test_editable_configs_are_links(installed, source_tree):
    """An edited config is the one that is used."""
    mim = source_tree / 'cmp_mm' / '.mim'
    assert (mim / 'configs').resolve() == source_tree / 'configs'
