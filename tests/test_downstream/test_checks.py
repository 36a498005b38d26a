"""What is missing is said in one line, with the command or the layout."""

import pytest

from cmp_mm.downstream import check_config, check_data, check_package, checks
from cmp_mm.downstream.checks import check_import
from cmp_mm.engine import run_config


def one_line(error) -> str:
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('package', ['mmseg', 'mmpose', 'mmdet'])
def test_missing_package_gives_the_command(monkeypatch, package):
    monkeypatch.setattr(checks.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError) as error:
        check_package(package)
    assert f"pip install 'cmp_mm[{package}]'" in one_line(error)


def with_versions(monkeypatch, **versions):
    monkeypatch.setattr(checks.importlib.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(checks, 'installed_version', versions.get)


def test_wrong_version(monkeypatch):
    with_versions(monkeypatch, mmsegmentation='0.30.0', mmcv='2.1.0')
    with pytest.raises(ImportError) as error:
        check_package('mmseg')
    assert 'mmsegmentation 0.30.0 is installed, expected >= 1.2' in one_line(error)


@pytest.mark.parametrize('package', ['mmseg', 'mmdet'])
def test_mmcv_that_the_package_refuses(monkeypatch, package):
    with_versions(monkeypatch, mmsegmentation='1.2.2', mmpose='1.3.2', mmdet='3.2.0', mmcv='2.2.0')
    with pytest.raises(ImportError) as error:
        check_package(package)
    assert 'mmcv >= 2.2.0' in one_line(error) and 'pip uninstall -y mmcv' in one_line(error)
    check_package('mmpose')  # takes it


def test_what_an_import_fails_on_is_one_line(tmp_path, monkeypatch):
    (tmp_path / 'half').mkdir()
    (tmp_path / 'half' / '__init__.py').touch()
    (tmp_path / 'half' / 'models.py').write_text('import no_such_requirement')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(checks.PACKAGES, 'half', ('mmsegmentation', '1', '2'))
    with pytest.raises(ImportError) as error:
        check_import('half')
    assert "No module named 'no_such_requirement'): pip install 'cmp_mm[mmseg]'" in one_line(error)
    (tmp_path / 'half' / 'models.py').write_text('assert False, "MMCV==9 is used but incompatible"')
    with pytest.raises(ImportError, match='MMCV==9 is used but incompatible'):
        check_import('half')


def test_right_versions_and_other_scopes_pass(monkeypatch):
    with_versions(monkeypatch, mmsegmentation='1.2.2', mmcv='2.1.0')
    check_package('mmseg')
    monkeypatch.setattr(checks.importlib.util, 'find_spec', lambda name: None)
    check_package('cmp_mm')
    check_config(dict(default_scope='cmp_mm', train_dataloader=dict(dataset=dict(data_root='nowhere'))))


def test_missing_data_names_folder_and_layout(tmp_path):
    missing = str(tmp_path / 'VOC2012')
    inner = [dict(type='PascalVOCDataset', data_root=missing)]
    cfg = dict(train_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=inner)))
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg)
    assert missing in one_line(error) and 'SegmentationClassAug' in one_line(error)
    check_data(cfg, splits=('val',))
    (tmp_path / 'VOC2012').mkdir()
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg)
    assert f'{missing} is empty' in one_line(error)
    (tmp_path / 'VOC2012' / 'JPEGImages').mkdir()
    check_data(cfg)


@pytest.mark.parametrize(
    ('dataset', 'present', 'missing'),
    [
        (dict(type='CocoDataset', ann_file='a.json'), [], 'a.json'),
        (dict(type='CocoDataset', ann_file='a.json', data_prefix=dict(img='val')), ['a.json'], 'val'),
        (dict(type='MpiiDataset', headbox_file='{root}/gt.mat'), [], 'gt.mat'),
    ],
)
def test_an_incomplete_folder_names_what_is_missing(tmp_path, dataset, present, missing):
    dataset = {
        key: value.replace('{root}', str(tmp_path)) if isinstance(value, str) else value
        for key, value in dataset.items()
    }
    cfg = dict(val_dataloader=dict(dataset=dict(dataset, data_root=str(tmp_path))))
    for name in present:
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError) as error:
        check_data(cfg)
    assert f'{missing}; {tmp_path} should hold' in one_line(error)
    (tmp_path / missing).touch()
    check_data(cfg)


@pytest.mark.parametrize(
    ('kind', 'parts'),
    [
        ('CamVidDataset', ['images/val', 'masks/val']),
        ('CCPDataset', ['images/val', 'masks/val', 'coarse_map.json']),
        ('PuppetPartsDataset', ['val.json']),
        ('ForegroundDataset', ['images', 'masks']),
    ],
)
def test_small_sets_are_looked_into_before_anything_is_built(tmp_path, kind, parts):
    dataset = dict(type=f'cmp_mm.{kind}', data_root=str(tmp_path), split='val')
    cfg = dict(val_dataloader=dict(dataset=dataset))
    (tmp_path / 'README').touch()
    for part in parts:
        with pytest.raises(FileNotFoundError) as error:
            check_data(cfg)
        assert f'there is no {tmp_path / part}; {tmp_path} should hold' in one_line(error)
        if part.endswith('.json'):
            (tmp_path / part).touch()
        else:
            (tmp_path / part).mkdir(parents=True)
            with pytest.raises(FileNotFoundError, match=f'{part} is empty'):
                check_data(cfg)
            (tmp_path / part / 'x').touch()
    check_data(cfg)


def test_layout_of_coco_is_the_one_the_config_names(tmp_path):
    def message(**names) -> str:
        dataset = dict(type='CocoDataset', data_root=str(tmp_path / 'coco'), **names)
        with pytest.raises(FileNotFoundError) as error:
            check_data(dict(train_dataloader=dict(dataset=dataset)))
        return one_line(error)

    assert 'hold key.json and images/;' in message(ann_file='key.json', data_prefix=dict(img='images/'))
    assert 'annotations/*.json, train2017' in message(ann_file='annotations/a.json')


def test_a_config_whose_imports_fail_names_what_is_missing(tmp_path, monkeypatch):
    """mmengine says that custom_imports failed, and of what only in the traceback."""
    (tmp_path / 'half_a_module.py').write_text('import no_such_requirement')
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['half_a_module'])")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        run_config.UsageError, match="config.py cannot .* No module named 'no_such_req"
    ) as error:
        run_config.load_config(str(tmp_path / 'config.py'))
    one_line(error)
    text = (
        'from cmp_mm.downstream.checks import PackageError\n'
        'raise PackageError("mmx is missing: pip") from ImportError("no mmx")'
    )
    (tmp_path / 'packaged.py').write_text(text)
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['packaged'])")
    with pytest.raises(run_config.UsageError) as error:
        run_config.load_config(str(tmp_path / 'config.py'))
    assert one_line(error) == 'mmx is missing: pip'
