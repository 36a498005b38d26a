"""Outside bytes, mutated: an annotation gives a data set or one error, a file a sample or a counted skip."""

import json
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmp_mm.datasets import AnnotationError, BadSampleError, ImageFlowDataset, LoadImage
from cmp_mm.flow import encode_flow

# The suite tries a few hundred; set this for as many as one has time for.
EXAMPLES = int(os.environ.get('CMP_MM_FUZZ_EXAMPLES', '200'))
bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SIZE = (24, 40)
IMAGE = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8), SIZE[::-1])
FLOW = np.zeros((*SIZE, 2), dtype=np.float32)
FLOW[8:16, 8:30] = (5, -3)
IMAGES = [cv2.imencode(suffix, IMAGE)[1].tobytes() for suffix in ('.jpg', '.png')]
IMAGES.append(cv2.imencode('.jpg', IMAGE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
ENTRY = dict(img_path='v/0.jpg', img2_path='v/1.jpg', flow_path=['v/x.jpg', 'v/y.jpg'], video='v')
ANNOTATION = dict(
    metainfo=dict(flow_format='jpg', flow_bound=50.0), data_list=[ENTRY, dict(ENTRY, video='w')]
)
LIST = b'v/0.jpg v/1.jpg v/x.jpg v/y.jpg\nw/0.jpg w/1.jpg w/0.flo\n'

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(['../x', '/x']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw, wholes):
    """One of the byte strings, with a few bytes changed, put in, cut out or cut off."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(['change', 'insert', 'delete', 'cut', 'copy']))
        if kind == 'change':
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=2))
        elif kind == 'insert':
            data[place:place] = draw(st.binary(max_size=8))
        elif kind == 'delete':
            del data[place : place + draw(st.integers(1, 40))]
        elif kind == 'cut':
            del data[place:]
        else:
            data[place:place] = data[: draw(st.integers(1, 40))]
    return bytes(data)


def check_annotation(path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        dataset = ImageFlowDataset(ann_file=str(path))
    except AnnotationError as error:
        assert '\n' not in str(error)
        return
    root = str(path.parent)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        flow = [info['flow_path']] if isinstance(info['flow_path'], str) else info['flow_path']
        for one in (info['img_path'], *flow):
            assert (os.path.abspath(one) + os.sep).startswith(root + os.sep)


@bounded
@given(content=mutated([json.dumps(ANNOTATION).encode(), LIST]))
def test_mutated_annotations(tmp_path, content):
    check_annotation(tmp_path / 'train.json', content)


@bounded
@given(data=st.data())
def test_json_annotations_with_wrong_values(tmp_path, data):
    content = json.loads(json.dumps(ANNOTATION))
    place = data.draw(st.sampled_from(['metainfo', 'data_list', 'entry', 'whole']))
    if place == 'whole':
        content = data.draw(json_values)
    elif place == 'entry':
        content['data_list'][1][data.draw(st.sampled_from(sorted(ENTRY)))] = data.draw(json_values)
    else:
        inner = st.sampled_from(['flow_format', 'flow_bound', 'dataset_type'])
        content[place] = data.draw(json_values | st.dictionaries(inner, json_values) | st.lists(json_values))
    check_annotation(tmp_path / 'train.json', json.dumps(content).encode())


@bounded
@given(content=mutated(IMAGES))
def test_mutated_images(tmp_path, content):
    path = tmp_path / 'image.jpg'
    path.write_bytes(content)
    try:
        results = LoadImage()(dict(img_path=str(path)))
    except BadSampleError:
        return
    assert results['img'].dtype == np.uint8 and results['img'].shape == (*results['img_shape'], 3)
    assert results['img'].size <= 3 * 1032 * 8 * len(content)


@pytest.mark.parametrize('content', IMAGES)
def test_a_huge_claim_is_refused_before_a_decoder_sees_it(tmp_path, monkeypatch, content):
    side = 31623  # 10^9 pixels
    data = bytearray(content)
    if data[:2] == b'\xff\xd8':
        place = max(data.find(b'\xff\xc0'), data.find(b'\xff\xc2'))
        data[place + 5 : place + 9] = struct.pack('>HH', side, side)
    else:
        data[16:24] = struct.pack('>II', side, side)
        data[29:33] = struct.pack('>I', zlib.crc32(bytes(data[12:29])))
    (tmp_path / 'image').write_bytes(data)

    def decode(*_):
        raise AssertionError('it was decoded')

    monkeypatch.setattr(cv2, 'imdecode', decode)
    with pytest.raises(BadSampleError, match='header claims 31623 x 31623 pixels'):
        LoadImage()(dict(img_path=str(tmp_path / 'image')))


def test_a_png_chunk_of_4_gb_is_refused_before_a_decoder_sees_it(tmp_path, monkeypatch):
    """OpenCV took the memory a chunk claims: 4 GB for a file of 166 bytes."""
    data = IMAGES[1]
    (tmp_path / 'image').write_bytes(data[:33] + b'\xfa' + data[33:])
    monkeypatch.setattr(cv2, 'imdecode', None)
    with pytest.raises(BadSampleError, match=r'claims 41943040\d\d bytes, more than there are'):
        LoadImage()(dict(img_path=str(tmp_path / 'image')))


@pytest.fixture
def small_set(tmp_path):
    (tmp_path / 'v').mkdir()
    x, y = encode_flow(FLOW, 'jpg')
    entries = []
    for index in range(3):
        names = [f'v/{index}{tail}.jpg' for tail in ('', 'x', 'y')]
        for name, content in zip(names, (IMAGES[0], x, y), strict=True):
            (tmp_path / name).write_bytes(content)
        entries.append(dict(img_path=names[0], flow_path=names[1:]))
    (tmp_path / 'train.json').write_text(json.dumps(dict(metainfo={}, data_list=entries)))
    return tmp_path


@bounded
@given(content=mutated([*IMAGES, *encode_flow(FLOW, 'jpg')]), place=st.sampled_from(['v/0.jpg', 'v/0x.jpg']))
def test_a_mutated_file_gives_a_sample_or_a_counted_skip(small_set, content, place):
    before = (small_set / place).read_bytes()
    (small_set / place).write_bytes(content)
    pipeline = [
        dict(type='LoadImage'),
        dict(type='LoadFlow'),
        dict(type='FlowResize', short_side=30),
        dict(type='FlowRandomCrop', size=(32, 32)),
        dict(type='SampleGuidance', strategies=[dict(type='watershed', kernel_size=9)]),
        dict(type='PackFlowInputs'),
    ]
    dataset = ImageFlowDataset(ann_file=str(small_set / 'train.json'), pipeline=pipeline, max_bad_share=1)
    sample = dataset[0]
    (small_set / place).write_bytes(before)
    assert (sample['data_samples'].sample_idx != 0) == (dataset.ledger.bad_indices == [0])
    assert sample['inputs']['image'].shape == (3, 32, 32)
    assert sample['data_samples'].gt_flow.shape == (2, 32, 32)
    assert sample['data_samples'].gt_flow.isfinite().all()
