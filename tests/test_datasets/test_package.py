import subprocess
import sys

import pytest

import cmp_mm.datasets


def test_every_name_is_there():
    for name in cmp_mm.datasets.__all__:
        assert getattr(cmp_mm.datasets, name).__name__ == name
        assert name in dir(cmp_mm.datasets)
    with pytest.raises(AttributeError, match='no attribute .Nothing'):
        cmp_mm.datasets.Nothing  # noqa: B018


def test_preparing_processes_start_without_torch():
    code = "import sys, cmp_mm.datasets; assert not {'torch', 'mmengine', 'mmcv'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)


def test_registries_find_the_classes_by_themselves():
    code = (
        'from cmp_mm.registry import DATASETS, DATA_SAMPLERS, TRANSFORMS\n'
        "assert DATASETS.get('ImageFlowDataset') and DATA_SAMPLERS.get('ResumableSampler')\n"
        "assert all(TRANSFORMS.get(name) for name in ('LoadImage', 'FlowResize', 'PackFlowInputs'))\n"
    )
    subprocess.run([sys.executable, '-c', code], check=True)
