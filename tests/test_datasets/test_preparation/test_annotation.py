import json

import pytest

from cmp_mm.datasets.preparation.annotation import (
    _whole,
    check_reference_lists,
    choose_val,
    group_of,
    write_annotations,
)
from cmp_mm.datasets.preparation.errors import IncompleteError, PrepareError
from cmp_mm.datasets.preparation.settings import MergeSettings, PairSettings
from cmp_mm.datasets.preparation.store import Store
from cmp_mm.datasets.preparation.summary import summarise


def record(video: str, label: str, pairs: int) -> dict:
    rows = [[2 * index, 48, 64, 1.5, 4.0, 0.1, 7 * (index == 0)] for index in range(pairs)]
    return {
        'video': video,
        'label': label,
        'source': f'videos/{label}',
        'fingerprint': {},
        'retry': False,
        'status': 'ok',
        'reason': None,
        'frames': 3 * pairs + 2,
        'pairs': rows,
        'rejected': {'static': 2},
    }


def test_the_split_is_stable_and_near_its_share():
    groups = [f'group{number}' for number in range(2000)]
    val = choose_val(groups, 0.1)
    assert len(val) == pytest.approx(200, abs=40)
    assert choose_val(reversed(groups), 0.1) == val
    # More groups, or a larger share, move none of the groups that were in validation.
    assert choose_val([*groups, 'new', 'newer'], 0.1) - {'new', 'newer'} == val
    assert choose_val(groups, 0.2) > val


@pytest.mark.parametrize('number', [2, 3, 5])
def test_neither_side_is_empty_from_two_groups_on(number):
    for first in range(0, 60, number):
        groups = [f'g{first + index}' for index in range(number)]
        for share in (0.001, 0.5, 0.999):
            assert 0 < len(choose_val(groups, share)) < number
    assert choose_val(groups, 0) == set()
    assert choose_val(groups, 1) == set(groups)
    # One video is there to be learnt from, whatever it is called.
    assert all(choose_val([name], share) == set() for name in 'abcdefgh' for share in (0.1, 0.5, 0.99))
    assert choose_val(['one'], 1) == {'one'}
    assert choose_val([], 0.5) == set()


@pytest.mark.parametrize(
    ('label', 'group_by', 'group'),
    [
        ('davis_camel', None, 'davis_camel'),
        ('davis_camel', '[^_]+', 'davis'),
        ('set/davis_camel', '([^/_]+)_', 'davis'),
        ('set/camel', '^[^/]+', 'set'),
        ('camel', '_(.+)', 'camel'),
        ('_camel', '^[^_]*', '_camel'),
    ],
)
def test_groups_come_from_the_label(label, group_by, group):
    assert group_of(label, group_by) == group


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / 'out', PairSettings())
    store.claim()
    for video, label, pairs in (('a_1', 'a_1', 3), ('a_2', 'a_2', 2), ('b_1', 'b_1', 4), ('c', 'c', 0)):
        store.write_record(video, record(video, label, pairs))
    return store


def test_annotations_hold_each_pair_once_and_keep_groups_together(store):
    merge = MergeSettings(val_share=0.5, group_by='[^_]+', reference_lists=True)
    videos = ['a_1', 'a_2', 'b_1', 'c']
    summary, val_groups, pairs = summarise(store, videos, merge)
    write_annotations(store, videos, val_groups, merge)
    assert pairs == {'a_1': 3, 'a_2': 2, 'b_1': 4}

    entries = {}
    for split in ('train', 'val'):
        content = json.loads((store.out / f'{split}.json').read_text())
        assert set(content) == {'metainfo', 'data_list'}
        assert content['metainfo']['dataset_type'] == 'ImageFlowDataset'
        assert content['metainfo']['flow_format'] == 'jpg' and content['metainfo']['flow_bound'] == 50.0
        entries[split] = content['data_list']
        lines = (store.out / f'{split}.txt').read_text().splitlines()
        assert lines == [' '.join([e['img_path'], e['img2_path'], *e['flow_path']]) for e in entries[split]]
    assert {len(entries['train']), len(entries['val'])} == {4, 5}
    groups = [{entry['video'][0] for entry in part} for part in entries.values()]
    assert groups[0] & groups[1] == set()
    assert summary['pairs'] == {'total': 9, 'train': len(entries['train']), 'val': len(entries['val'])}
    entry = min(entries['train'] + entries['val'], key=lambda entry: entry['img_path'])
    assert entry == {
        'img_path': 'frames/a_1/000000.jpg',
        'img2_path': 'frames/a_1/000001.jpg',
        'flow_path': ['flow/a_1/000000_x.jpg', 'flow/a_1/000000_y.jpg'],
        'video': 'a_1',
        'height': 48,
        'width': 64,
    }


def test_the_summary_counts(store):
    summary = summarise(store, ['a_1', 'a_2', 'b_1', 'c'], MergeSettings()).summary
    assert summary['videos'] == {'total': 4, 'ok': 4, 'damaged': 0, 'skipped': 0, 'without_pairs': 1}
    assert summary['groups']['total'] == 3
    assert summary['rejected'] == {'cut': 0, 'static': 8, 'size': 0, 'gap': 0, 'no_flow': 0}
    assert summary['motion']['mean_px']['mean'] == 1.5
    assert summary['clipped'] == {
        'bound_px': 50.0,
        'vectors_share': pytest.approx(21 / (9 * 48 * 64), rel=1e-4),
        'pairs': 3,
    }
    assert summary['sizes'] == {'64x48': 9}


def test_a_missing_record_leaves_no_annotation(store):
    with pytest.raises(IncompleteError, match='d.json'):
        write_annotations(store, ['a_1', 'd'], set(), MergeSettings())
    assert not [path for path in store.out.iterdir() if 'train' in path.name]


def test_two_processes_of_one_number_merge_at_once(store):
    """As containers on two machines have it: each writes a file of its own, and the last one stays."""
    path = store.out / 'train.json'
    with _whole(path) as first:
        first.write('first')
        with _whole(path) as second:
            second.write('second')
        assert path.read_text() == 'second'
    assert path.read_text() == 'first'


def test_lists_are_refused_for_flow_the_reference_cannot_read():
    check_reference_lists(PairSettings(flow_format='flo'))
    with pytest.raises(PrepareError, match='jpg or flo; got flow format npz'):
        check_reference_lists(PairSettings(flow_format='npz'))
    with pytest.raises(PrepareError, match='bound 50; got 20'):
        check_reference_lists(PairSettings(flow_bound=20.0))


def test_a_later_version_splits_as_an_earlier_one_did():
    """Another split of the same videos would train on what was validated on."""
    groups = [f'g{number}' for number in range(10)]
    assert choose_val(groups, 0.1) == {'g6', 'g8', 'g9'}
    assert choose_val(groups, 0.25) == {'g3', 'g5', 'g6', 'g8', 'g9'}
