"""Both forms of annotation, and what is refused with which sentence."""

import json
import os
import pickle

import pytest

from cmp_mm.datasets import AnnotationError, ImageFlowDataset
from cmp_mm.datasets.annotations import read_annotation

ENTRY = dict(img_path='a/0.jpg', img2_path='a/1.jpg', flow_path='a/0.flo', video='a')


def write_json(path, data_list, **metainfo):
    path.write_text(json.dumps(dict(metainfo=metainfo, data_list=data_list)))
    return str(path)


def info(ann_file, index=0, **kwargs):
    return ImageFlowDataset(ann_file=str(ann_file), **kwargs).get_data_info(index)


def test_json_paths_are_relative_to_its_folder(tmp_path):
    pair = dict(ENTRY, flow_path=['a/x.jpg', 'a/y.jpg'])
    ann_file = write_json(tmp_path / 'train.json', [pair], flow_format='jpg', flow_bound=20, estimator='dis')
    dataset = ImageFlowDataset(ann_file=ann_file)
    found = dataset.get_data_info(0)
    assert found['img_path'] == f'{tmp_path}/a/0.jpg' and found['img2_path'] == f'{tmp_path}/a/1.jpg'
    assert found['flow_path'] == (f'{tmp_path}/a/x.jpg', f'{tmp_path}/a/y.jpg')
    assert (found['flow_format'], found['flow_bound'], found['video']) == ('jpg', 20, 'a')
    assert found['sample_idx'] == 0
    assert dataset.metainfo['estimator'] == 'dis'


def test_json_may_state_little(tmp_path):
    ann_file = write_json(tmp_path / 'train.json', [dict(img_path='v/0.jpg', flow_path='v/0.npz')])
    found = info(ann_file)
    assert found['img2_path'] is None and found['video'] == 'v' and found['flow_format'] == 'npz'
    assert found['flow_bound'] == 50.0


@pytest.mark.parametrize(('mark', 'ending'), [('', '\n'), ('', '\r\n'), ('\ufeff', '\r\n')])
def test_lists_of_both_forms_whatever_the_file_is_called(tmp_path, mark, ending):
    lines = ['a/0.jpg a/1.jpg a/0.flo', '', 'b/0.jpg  b/1.jpg\tb/x.jpg b/y.jpg', 'c/ä.jpg c/1.jpg c/0.png']
    (tmp_path / 'list.json').write_bytes((mark + ending.join(lines)).encode())
    dataset = ImageFlowDataset(ann_file='list.json', data_root=str(tmp_path))
    infos = [dataset.get_data_info(index) for index in range(3)]
    assert len(dataset) == 3
    assert [found['flow_format'] for found in infos] == ['flo', 'jpg', 'kitti']
    assert infos[1]['flow_path'] == (f'{tmp_path}/b/x.jpg', f'{tmp_path}/b/y.jpg')
    assert [found['video'] for found in infos] == ['a', 'b', 'c']
    assert infos[0]['img_path'] == f'{tmp_path}/a/0.jpg'
    assert infos[2]['img_path'] == f'{tmp_path}/c/ä.jpg'


def test_reference_lists_name_their_paths_from_its_working_directory(tmp_path):
    lists = tmp_path / 'elsewhere/lists'
    lists.mkdir(parents=True)
    line = ' '.join(f'data/yfcc/{name}' for name in ('f/0.jpg', 'f/1.jpg', 'flow/x.jpg', 'flow/y.jpg'))
    (lists / 'train.txt').write_text(f'{line}\nf/2.jpg f/3.jpg flow/2x.jpg flow/2y.jpg\n')
    root = str(tmp_path / 'elsewhere')
    dataset = ImageFlowDataset(ann_file='lists/train.txt', data_root=root, strip_prefix='data/yfcc/')
    assert dataset.get_data_info(0)['img_path'] == f'{root}/f/0.jpg'
    assert dataset.get_data_info(1)['flow_path'] == (f'{root}/flow/2x.jpg', f'{root}/flow/2y.jpg')
    # Run from that directory they also read as they are.
    as_is = ImageFlowDataset(ann_file=str(lists / 'train.txt'), data_root='')
    assert as_is.get_data_info(0)['img_path'] == 'data/yfcc/f/0.jpg'


def test_prefixes_are_put_between_root_and_path(tmp_path):
    ann_file = write_json(tmp_path / 'train.json', [ENTRY])
    assert info(ann_file, data_prefix='sub')['img_path'] == f'{tmp_path}/sub/a/0.jpg'
    apart = info(ann_file, data_prefix=dict(img='frames/', flow='/flows'))
    assert apart['img_path'] == f'{tmp_path}/frames/a/0.jpg' and apart['flow_path'] == '/flows/a/0.flo'
    remote = info(ann_file, data_prefix='s3://bucket/set')
    assert remote['img_path'] == 's3://bucket/set/a/0.jpg'


def test_several_sources_with_their_own_settings(tmp_path):
    for name, number in (('one', 10), ('two', 4)):
        (tmp_path / name).mkdir()
        entries = [dict(ENTRY, img_path=f'{name}/{i}.jpg') for i in range(number)]
        write_json(tmp_path / name / 'train.json', entries, name=name)
    sources = [
        dict(ann_file=str(tmp_path / 'one/train.json'), ratio=0.5),
        dict(ann_file='train.json', data_root=str(tmp_path / 'two'), ratio=2.25, data_prefix='p'),
    ]
    dataset = ImageFlowDataset(sources=sources)
    paths = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    assert len(paths) == 5 + 9
    assert len(set(paths[:5])) == 5 and all(path.startswith(f'{tmp_path}/one/one/') for path in paths[:5])
    counts = [paths.count(f'{tmp_path}/two/p/two/{i}.jpg') for i in range(4)]
    assert sorted(counts) == [2, 2, 2, 3]
    again = ImageFlowDataset(sources=sources)
    assert paths == [again.get_data_info(index)['img_path'] for index in range(len(again))]
    other = ImageFlowDataset(sources=sources, seed=1)
    assert paths != [other.get_data_info(index)['img_path'] for index in range(len(other))]


@pytest.mark.parametrize(
    'content,message',
    [
        ('{"metainfo": {}', 'starts like JSON but is not'),
        ('[1, 2]', 'holds list; expected an object with'),
        ('{"metainfo": {}}', r"holds keys \['metainfo'\]; expected an object"),
        ('{"metainfo": [], "data_list": {}}', "'metainfo' is list and 'data_list' is dict; expected"),
        ('{"metainfo": {}, "data_list": []}', 'holds no samples'),
        ('{"metainfo": {}, "data_list": [3]}', 'entry 0 is int; expected an object'),
        ('{"metainfo": {}, "data_list": [{"img_path": "a"}]}', "'flow_path' is None; expected a path or"),
        ('{"metainfo": {}, "data_list": [{"flow_path": "a.flo"}]}', "'img_path' is None; expected a path"),
        (
            '{"metainfo": {}, "data_list": [{"img_path": "a", "flow_path": ["a", 3]}]}',
            r"'flow_path' is \('a', 3\); expected a path or a pair",
        ),
        (
            '{"metainfo": {}, "data_list": [{"img_path": "a", "flow_path": "b.flo", "video": 3}]}',
            "'video' is 3; expected text",
        ),
        (
            '{"metainfo": {}, "data_list": [{"img_path": "a", "flow_path": "b"}]}',
            "format of 'b' is not known",
        ),
        (
            '{"metainfo": {"flow_format": "jpg"}, "data_list": [{"img_path": "a", "flow_path": "b.flo"}]}',
            'jpg flow is a pair of files',
        ),
        (
            '{"metainfo": {"flow_format": "flo"}, "data_list": [{"img_path": "a", "flow_path": ["b", "c"]}]}',
            'flo flow is one file',
        ),
        (
            '{"metainfo": {"flow_format": "gif"}, "data_list": []}',
            "flow_format is 'gif'; expected one of flo",
        ),
        ('{"metainfo": {"flow_bound": NaN}, "data_list": []}', 'flow_bound is nan; expected a number'),
        ('{"metainfo": {"flow_bound": true}, "data_list": []}', 'flow_bound is True; expected a number'),
        ('{"metainfo": {"dataset_type": "Other"}, "data_list": []}', "is for 'Other'; expected"),
        ('[' * 100_000, 'starts like JSON but is not'),
        ('', 'holds no samples'),
        ('a.jpg b.jpg', 'line 1 has 2 columns; expected `img0 img1 flow`'),
        ('a b c.flo\na b c d e', 'line 2 has 5 columns'),
        ('a.jpg b.jpg c.jpg', "flow 'c.jpg' is not one of .flo, .npz, .png"),
        (b'\x80\x04 \xff \xfe', 'line 1 is not text'),
    ],
)
def test_annotation_of_the_wrong_form_is_one_sentence(tmp_path, content, message):
    (tmp_path / 'train.json').write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AnnotationError, match=message) as caught:
        ImageFlowDataset(ann_file=str(tmp_path / 'train.json'))
    assert '\n' not in str(caught.value) and str(tmp_path / 'train.json') in str(caught.value)


def test_a_missing_annotation_is_one_sentence(tmp_path):
    with pytest.raises(AnnotationError, match='missing.json cannot be read: .*No such file'):
        ImageFlowDataset(ann_file=str(tmp_path / 'missing.json'))


@pytest.mark.parametrize('suffix', ['.pkl', '.json', '.txt', '.yaml'])
def test_a_pickle_in_place_of_an_annotation_is_refused_unopened(tmp_path, suffix):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'was_here'),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f'train{suffix}'
        path.write_bytes(pickle.dumps(Payload(), protocol=protocol))
        with pytest.raises(AnnotationError):
            ImageFlowDataset(ann_file=str(path))
    assert not (tmp_path / 'was_here').exists()


@pytest.mark.parametrize(
    'path', ['../a.jpg', 'a/../../b.jpg', '/etc/passwd', '\\\\host\\a', 'C:\\a', 's3://b/a']
)
@pytest.mark.parametrize('key', ['img_path', 'img2_path', 'flow_path'])
def test_paths_do_not_leave_the_root_unless_allowed(tmp_path, path, key):
    value = [path + '_x.jpg', path + '_y.jpg'] if key == 'flow_path' else path
    ann_file = write_json(tmp_path / 'train.json', [ENTRY, dict(ENTRY, **{key: value})])
    with pytest.raises(AnnotationError, match='sample 1: .* data root.*allow_outside=True'):
        ImageFlowDataset(ann_file=ann_file)
    assert len(ImageFlowDataset(ann_file=ann_file, allow_outside=True)) == 2


@pytest.mark.parametrize('path', ['', 'a\0b', 'a\ud800b'])
def test_what_is_no_path_is_refused_always(tmp_path, path):
    ann_file = write_json(tmp_path / 'train.json', [dict(ENTRY, img_path=path)])
    for allow_outside in (False, True):
        with pytest.raises(AnnotationError, match='is not a path'):
            ImageFlowDataset(ann_file=ann_file, allow_outside=allow_outside)


def test_dots_in_names_are_fine(tmp_path):
    ann_file = write_json(tmp_path / 'train.json', [dict(ENTRY, img_path='a..b/..c.jpg', flow_path='é.flo')])
    assert info(ann_file)['img_path'].endswith('/a..b/..c.jpg')


@pytest.mark.parametrize(
    'arguments,message',
    [
        (dict(), 'either ann_file or sources'),
        (dict(ann_file='a', sources=[]), 'either ann_file or sources'),
        (dict(ann_file=''), "ann_file is ''; expected the path"),
        (dict(sources=[dict(annotation='a')]), 'a source is not of the right form: .*annotation'),
        (dict(ann_file='a', max_bad_share=1.5), r'max_bad_share is 1.5; expected a share in \[0, 1\]'),
        (dict(ann_file='a', seed=-1), 'seed is -1; expected a whole number'),
        (dict(ann_file='a', data_prefix=dict(image='x')), 'expected text, or a dict with the keys img, flow'),
        (dict(sources=[dict(ann_file='a', ratio=0)]), 'ratio of a is 0; expected a number above 0'),
        (dict(ann_file='a', flow_format='avi'), "flow_format is 'avi'"),
        (dict(ann_file='a', flow_bound=-1), 'flow_bound is -1'),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, message):
    with pytest.raises(AnnotationError, match=message):
        ImageFlowDataset(**arguments)


def test_entries_are_read_one_by_one(tmp_path):
    (tmp_path / 'list').write_text('a b c.flo\nwrong line\n')
    metainfo, entries = read_annotation(str(tmp_path / 'list'))
    assert metainfo == {}
    assert next(entries) == dict(img_path='a', img2_path='b', flow_path='c.flo', video=None)
    with pytest.raises(AnnotationError, match='line 2'):
        next(entries)


def test_what_is_stated_leads_over_the_annotation(tmp_path):
    entries = [dict(ENTRY, flow_path='a/0.png')]
    ann_file = write_json(tmp_path / 'train.json', entries, flow_format='npz', flow_bound=20)
    found = info(ann_file, flow_format='kitti', flow_bound=30.0)
    assert (found['flow_format'], found['flow_bound']) == ('kitti', 30.0)
    dataset = ImageFlowDataset(sources=[dict(ann_file=ann_file, flow_bound=40.0)], flow_bound=30.0)
    assert dataset.get_data_info(0)['flow_bound'] == 40.0
