"""The amendments act where they are needed, and only there. Each case runs in a process of its own."""

import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch

from cmp_mm import compat

ROOT = Path(__file__).resolve().parents[2]


def run_code(code: str, *paths: Path) -> subprocess.CompletedProcess:
    head = f'import sys; sys.path[:0] = {[str(path) for path in (*paths, ROOT)]!r}\n'
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', head + textwrap.dedent(code)], capture_output=True, text=True
    )


def passes(code: str, *paths: Path) -> str:
    result = run_code(code, *paths)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def fake_package(folder: Path, name: str, files: dict[str, str], version: str | None = None) -> Path:
    for file, text in files.items():
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if version is not None:
        info = folder / f'{name}-{version}.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    return folder


def test_import_is_light():
    passes("""
        import cmp_mm, sys
        heavy = {'torch', 'mmengine', 'mmcv', 'cv2', 'numpy', 'scipy'} & set(sys.modules)
        assert not heavy, heavy
    """)


def test_stand_in_names_op_and_command(tmp_path):
    lite = fake_package(tmp_path, 'mmcv', {'__init__.py': ''}, '2.1.0')
    passes(
        """
        import cmp_mm, importlib
        ext = importlib.import_module('mmcv._ext')
        assert hasattr(ext, 'deform_conv_forward')
        assert ext.get_compiler_version() == 'not available (mmcv-lite)'
        try:
            ext.deform_conv_forward(1, 2, groups=3)
        except RuntimeError as error:
            assert "'deform_conv_forward'" in str(error) and 'pip install' in str(error), error
        else:
            raise AssertionError('no error')
        """,
        lite,
    )


def test_compiled_mmcv_is_left_alone(tmp_path):
    files = {'__init__.py': '', '_ext.py': 'def nms():\n    return "compiled"\n'}
    passes(
        """
        import cmp_mm, mmcv._ext
        assert mmcv._ext.nms() == 'compiled' and not hasattr(mmcv._ext, 'roi_align_forward')
        """,
        fake_package(tmp_path, 'mmcv', files, '2.1.0'),
    )


def test_broken_compiled_mmcv_keeps_its_error(tmp_path):
    files = {'__init__.py': '', '_ext.py': 'raise ImportError("undefined symbol")'}
    result = run_code('import cmp_mm, mmcv._ext', fake_package(tmp_path, 'mmcv', files, '2.1.0'))
    assert 'undefined symbol' in result.stderr


@pytest.mark.parametrize(
    ('broken', 'expected'),
    [('raise ValueError("numpy.dtype size changed")', 'lent'), ('iou = "own"', 'own')],
)
def test_xtcocotools_borrows_a_mask_module(tmp_path, broken, expected):
    names = ('iou', 'merge', 'frPyObjects', 'encode', 'decode', 'area', 'toBbox')
    lent = '\n'.join(f'{name} = "lent"' for name in names)
    fake_package(tmp_path, 'xtcocotools', {'__init__.py': '', '_mask.py': broken})
    fake_package(tmp_path, 'pycocotools', {'__init__.py': '', '_mask.py': lent})
    out = passes('import cmp_mm, xtcocotools._mask as mask; print(mask.iou)', tmp_path)
    assert out.strip() == expected


def test_amends_an_mmengine_imported_before_or_after():
    for order in ('import cmp_mm, mmengine.config', 'import mmengine.config, cmp_mm'):
        passes(f"""
            {order}
            from mmengine.config.utils import MODULE2PACKAGE
            from mmengine.config import config
            assert MODULE2PACKAGE['cmp_mm'] == 'cmp_mm'
            assert config.is_installed('cmp_mm') and not config.is_installed('no_such_package')
            assert config.get_installed_path('cmp_mm').endswith('cmp_mm')
            assert config.get_installed_path('mmengine') == mmengine.__path__[0]
        """)


def test_no_registry_warns_that_cmp_mm_is_not_installed():
    result = run_code("""
        import cmp_mm.registry, mmengine.registry as registries
        from mmengine.registry import Registry
        for parent in vars(registries).values():
            if isinstance(parent, Registry) and 'cmp_mm' in parent.children:
                parent.children['cmp_mm'].import_from_location()
                print(parent.name)
    """)
    assert result.returncode == 0 and 'not installed' not in result.stdout + result.stderr
    assert len(result.stdout.splitlines()) > 15


def test_config_base_of_a_missing_package_gives_the_command(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmpose::_base_/default_runtime.py'")
    result = run_code(f"""
        import cmp_mm, importlib.util
        find_spec = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == 'mmpose' else find_spec(name, *rest)
        from mmengine.config import Config
        Config.fromfile({str(tmp_path / 'mine.py')!r})
    """)
    assert "mmpose is not installed: pip install 'cmp_mm[mmpose]'" in result.stderr


def test_installing_twice_changes_nothing():
    passes("""
        import cmp_mm, sys
        before = list(sys.meta_path)
        cmp_mm.compat.install()
        assert sys.meta_path == before
    """)


def test_version_floor_is_one_sentence(monkeypatch):
    monkeypatch.setitem(compat.FLOORS, 'mmengine', '99.1')
    with pytest.raises(ImportError, match=r"mmengine >= 99\.1, but .* is installed: pip install 'mmengine"):
        compat.check_versions()


def test_missing_mmcv_names_both(monkeypatch):
    find_spec = compat.importlib.util.find_spec
    monkeypatch.setattr(
        compat.importlib.util, 'find_spec', lambda name: None if name == 'mmcv' else find_spec(name)
    )
    with pytest.raises(ImportError, match=r"mmcv or mmcv-lite .*: pip install 'mmcv-lite"):
        compat.check_versions()


def test_version_ceiling_only_warns(monkeypatch):
    monkeypatch.setitem(compat.CEILINGS, 'numpy', '1')
    with pytest.warns(UserWarning, match='not tried with numpy'):
        compat.check_versions()


@pytest.mark.parametrize(
    ('text', 'numbers'),
    [('2.13.0+cpu', (2, 13, 0)), ('0.10.7', (0, 10, 7)), ('2.0.0rc4', (2, 0, 0)), ('x', ())],
)
def test_version_tuple(text, numbers):
    assert compat.version_tuple(text) == numbers


def test_where_triton_does_not_build_it_is_said_once_and_done_without(monkeypatch):
    """As on a machine with a GPU but no C compiler."""
    driver = pytest.importorskip('triton').runtime.driver

    def no_compiler(self):
        raise RuntimeError('Failed to find C compiler.')

    monkeypatch.setattr(type(driver), 'active', property(no_compiler), raising=False)
    compat.triton_builds.cache_clear()
    try:
        with pytest.warns(UserWarning, match='plain torch is used.*: Failed to find C compiler. .it needs'):
            assert compat.triton_builds() is False
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert compat.triton_builds() is False
    finally:
        compat.triton_builds.cache_clear()


def test_the_ops_lent_to_mmcv_lite_are_torchvisions():
    try:
        ops = pytest.importorskip('torchvision.ops')
    except RuntimeError:
        pytest.skip('this torchvision does not go with this torch')
    from cmp_mm import compat_ops

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 16, 20, generator=generator).requires_grad_()
    rois = torch.tensor([[0, 8.0, 4, 40, 28], [1, 0, 0, 30, 24]])
    for aligned in (True, False):
        shared = dict(spatial_scale=0.5, sampling_ratio=2, aligned=aligned)
        options = dict(shared, aligned_height=3, aligned_width=5, pool_mode=1)
        wanted = ops.roi_align(features, rois, (3, 5), **shared)
        found, none = torch.zeros(2, 3, 3, 5), torch.empty(0)
        compat_ops.roi_align_forward(features.detach(), rois, found, none, none, **options)
        torch.testing.assert_close(found, wanted.detach())
        above = torch.randn(2, 3, 3, 5, generator=generator)
        (slope,) = torch.autograd.grad(wanted, features, above)
        gradient = torch.ones_like(features)  # it is added to what is there
        compat_ops.roi_align_backward(above, rois, none, none, gradient, **options)
        torch.testing.assert_close(gradient, slope + 1)
    boxes, scores = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4]]), torch.tensor([0.5, 0.9])
    # They overlap by 36/81, and by 50/100 where a box ends with its last pixel.
    assert compat_ops.nms(boxes, scores, 0.47, 0).tolist() == [1, 0]
    assert compat_ops.nms(boxes, scores, 0.47, 1).tolist() == [1]
