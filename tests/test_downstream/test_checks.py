"""What is missing is said in one line, with the command or the layout."""

import pytest

from cmp_mm.downstream import check_config, check_data, check_package, checks


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


def test_mmcv_that_the_package_refuses(monkeypatch):
    with_versions(monkeypatch, mmsegmentation='1.2.2', mmcv='2.2.0')
    with pytest.raises(ImportError) as error:
        check_package('mmseg')
    assert 'mmcv >= 2.2.0' in one_line(error)


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
