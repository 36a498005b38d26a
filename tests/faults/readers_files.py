"""The readers of files that come from outside: flow, annotations, images, samples, videos.

Each returns what became of the bytes: "read", or the name of the defined error. Anything else is a fault.
"""

import contextlib
import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .mutate import change_member, mend_png, mutate


@dataclass
class Reader:
    """What reads bytes from outside.

    Attributes:
        name: of the reader.
        corpus: whole files to start from.
        read: takes bytes; returns 'read' or the name of a defined error.
        change: makes other bytes of whole ones; by default `mutate`.
        seconds: an input may take.
        may_crash: a library may take its process along; the product reads in one that may die.
        megabytes: that an input may take, where that is more than the script allows.
    """

    name: str
    corpus: list[bytes]
    read: Callable[[bytes], str]
    change: Callable[[bytes, random.Random, list[bytes]], bytes] = mutate
    seconds: float = 5.0
    may_crash: bool = False
    megabytes: int = 0


def texture(height: int = 24, width: int = 40) -> np.ndarray:
    """A small RGB picture that compresses like a real one."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height))


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    """The bytes OpenCV writes."""
    return cv2.imencode(suffix, image, list(options))[1].tobytes()


def images() -> list[bytes]:
    """JPEG and PNG in the variants that decoders treat apart."""
    picture = texture()
    grey = picture[..., 0]
    wide = picture.astype(np.uint16) * 257
    with_alpha = np.dstack((picture, grey))
    return [
        encoded('.jpg', picture),
        encoded('.jpg', grey),
        encoded('.jpg', picture, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        encoded('.jpg', picture, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        encoded('.png', picture),
        encoded('.png', grey),
        encoded('.png', wide),
        encoded('.png', with_alpha),
        encoded('.png', (grey > 99).astype(np.uint8) * 255, cv2.IMWRITE_PNG_BILEVEL, 1),
    ]


def change_image(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Change an image; a png gets true checksums in half of the cases."""
    changed = mutate(data, rng, others)
    return mend_png(changed) if changed[:4] == b'\x89PNG' and rng.random() < 0.5 else changed


def flow_readers(folder: Path) -> list[Reader]:
    """The four flow formats."""
    from cmp_mm.flow import FLOW_FORMATS, FlowFormatError, decode_flow, encode_flow

    flow = np.random.default_rng(3).normal(0, 10, (5, 7, 2)).astype(np.float32)
    holes = np.arange(35).reshape(5, 7) % 3 > 0
    other = encode_flow(flow, 'jpg')[1]

    def reader(fmt: str) -> Reader:
        def read(data: bytes) -> str:
            try:
                found, valid = decode_flow((data, other) if fmt == 'jpg' else data, fmt)
            except FlowFormatError as error:
                assert str(error) and '\n' not in str(error)
                return 'FlowFormatError'
            assert found.dtype == np.float32 and found.ndim == 3 and np.isfinite(found).all()
            assert found.size <= 2 * 1032 * 8 * len(data)
            assert valid is None or (valid.dtype == bool and not found[~valid].any())
            return 'read'

        def change(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
            if fmt == 'npz' and rng.random() < 0.5:
                return change_member(data, rng, [])
            return change_image(data, rng, others)

        whole = [encode_flow(flow, fmt), *([] if fmt == 'jpg' else [encode_flow(flow, fmt, valid=holes)])]
        corpus = [one[0] for one in whole] if fmt == 'jpg' else whole
        return Reader(f'flow {fmt}', corpus, read, change)

    return [reader(fmt) for fmt in FLOW_FORMATS]


def annotation_readers(folder: Path) -> list[Reader]:
    """Annotation files of both forms; no path of one that is read may leave its folder."""
    from cmp_mm.datasets import AnnotationError, ImageFlowDataset

    path, root = folder / 'train.json', f'{folder}{os.sep}'
    entry = dict(img_path='v/0.jpg', img2_path='v/1.jpg', flow_path=['v/x.jpg', 'v/y.jpg'], video='v')
    one_file = dict(img_path='v/0.png', flow_path='v/0.flo', video='w')
    contents = [
        dict(metainfo=dict(flow_format='jpg', flow_bound=50.0), data_list=[entry, dict(entry, video='w')]),
        dict(metainfo=dict(dataset_type='ImageFlowDataset'), data_list=[entry, one_file]),
    ]
    lists = [b'v/0.jpg v/1.jpg v/x.jpg v/y.jpg\nw/0.jpg w/1.jpg w/0.flo\n']

    def read(data: bytes) -> str:
        path.write_bytes(data)
        try:
            dataset = ImageFlowDataset(ann_file=str(path))
        except AnnotationError as error:
            assert '\n' not in str(error)
            return 'AnnotationError'
        for index in range(min(len(dataset), 8)):
            info = dataset.get_data_info(index)
            flow = [info['flow_path']] if isinstance(info['flow_path'], str) else info['flow_path']
            for one in (info['img_path'], *flow):
                assert (os.path.abspath(one) + os.sep).startswith(root), f'{one!r} leaves the root'
        return 'read'

    corpus = [json.dumps(content).encode() for content in contents]
    return [
        Reader('annotation json', corpus, read),
        Reader('annotation list', lists, read),
    ]


def image_readers(folder: Path) -> list[Reader]:
    """Images as training, the preparation and the inferencer read them; and whole samples."""
    from PIL import Image

    from cmp_mm.apis.errors import InputError
    from cmp_mm.apis.images import decode_image
    from cmp_mm.datasets import BadSampleError, ImageFlowDataset, LoadImage
    from cmp_mm.datasets.preparation.frames import _read_image
    from cmp_mm.flow import encode_flow

    picture, path, frame = texture(), folder / 'image.jpg', folder / 'frame.png'

    def load_image(data: bytes) -> str:
        path.write_bytes(data)
        try:
            results = LoadImage()(dict(img_path=str(path)))
        except BadSampleError:
            return 'BadSampleError'
        assert results['img'].dtype == np.uint8 and results['img'].shape == (*results['img_shape'], 3)
        return 'read'

    def read_frame(data: bytes) -> str:
        frame.write_bytes(data)
        image = _read_image(str(frame))
        return 'counted skip' if image is None else 'read'

    def read_picture(data: bytes) -> str:
        try:
            image = decode_image(data)
        except InputError as error:
            assert '\n' not in str(error)
            return 'InputError'
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        return 'read'

    pictures = images()
    for form in ('gif', 'webp', 'bmp', 'tiff', 'ppm', 'jpeg2000', 'ico', 'tga', 'pcx', 'eps', 'dds', 'icns'):
        buffer = io.BytesIO()
        with contextlib.suppress(OSError, KeyError):
            Image.fromarray(picture).resize((32, 32)).save(buffer, form)
            pictures.append(buffer.getvalue())
    frames = [encoded(suffix, picture) for suffix in ('.jpg', '.png', '.bmp', '.webp', '.tiff', '.ppm')]

    (folder / 'v').mkdir()
    flow = np.zeros((24, 40, 2), np.float32)
    flow[8:16, 8:30] = (5, -3)
    whole = {'v/0.jpg': images()[0], 'v/0x.jpg': encode_flow(flow, 'jpg')[0]}
    for index in range(3):
        (folder / f'v/{index}.jpg').write_bytes(whole['v/0.jpg'])
        for axis, content in zip('xy', encode_flow(flow, 'jpg'), strict=True):
            (folder / f'v/{index}{axis}.jpg').write_bytes(content)
    entries = [dict(img_path=f'v/{i}.jpg', flow_path=[f'v/{i}x.jpg', f'v/{i}y.jpg']) for i in range(3)]
    (folder / 'samples.json').write_text(json.dumps(dict(metainfo={}, data_list=entries)))
    pipeline = [
        dict(type='LoadImage'),
        dict(type='LoadFlow'),
        dict(type='FlowResize', short_side=30),
        dict(type='FlowRandomCrop', size=(32, 32)),
        dict(type='SampleGuidance', strategies=[dict(type='watershed', kernel_size=9)]),
        dict(type='PackFlowInputs'),
    ]
    dataset = ImageFlowDataset(ann_file=str(folder / 'samples.json'), pipeline=pipeline, max_bad_share=1)

    def load_sample(data: bytes) -> str:
        # Which of its files: a picture of three channels is the image, of one the flow.
        place = 'v/0.jpg' if len(data) % 2 else 'v/0x.jpg'
        (folder / place).write_bytes(data)
        dataset._reset_ledger()
        sample = dataset[0]
        (folder / place).write_bytes(whole[place])
        skipped = sample['data_samples'].sample_idx != 0
        assert skipped == (dataset.ledger.bad_indices == [0])
        assert sample['inputs']['image'].shape == (3, 32, 32)
        assert sample['data_samples'].gt_flow.isfinite().all()
        return 'counted skip' if skipped else 'read'

    return [
        Reader('image (training)', images(), load_image, change_image),
        Reader('image (frame of a folder)', frames, read_frame, change_image, may_crash=True),
        Reader('image (inferencer, page)', pictures, read_picture, change_image),
        Reader('sample of a data set', [*whole.values()], load_sample, change_image),
    ]


VIDEOS = (
    *(('mp4', 'mpeg4'), ('mp4', 'libx264'), ('avi', 'mjpeg'), ('mkv', 'ffv1'), ('webm', 'libvpx')),
    *(('gif', 'gif'), ('ts', 'mpeg2video'), ('flv', 'flv'), ('wmv', 'wmv2'), ('y4m', 'wrapped_avframe')),
    *(('mov', 'png'), ('webm', 'libvpx-vp9'), ('ogv', 'libtheora'), ('mkv', 'libx265')),
)


def videos() -> list[bytes]:
    """Four frames of 32 x 32 pixels, in each container and codec that this PyAV can write."""
    import av

    source, found = texture(60, 80), []
    frames = [np.ascontiguousarray(source[i : i + 32, i : i + 32]) for i in range(4)]
    for suffix, codec in VIDEOS:
        buffer = io.BytesIO()
        form = dict(mkv='matroska', ts='mpegts', wmv='asf', y4m='yuv4mpegpipe', ogv='ogg').get(suffix, suffix)
        try:
            with av.open(buffer, 'w', format=form) as container:
                stream = container.add_stream(codec, rate=10)
                stream.height = stream.width = 32
                if codec == 'libx265':
                    stream.options = {'x265-params': 'log-level=none'}  # it prints its settings
                stream.pix_fmt = dict(gif='rgb8', png='rgb24', mjpeg='yuvj420p').get(codec, 'yuv420p')
                for image in frames:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'bgr24')))
                container.mux(stream.encode())
        except (av.error.FFmpegError, ValueError):
            continue
        found.append(buffer.getvalue())
    return found


def video_readers(folder: Path) -> list[Reader]:
    """Videos, as the preparation's worker processes read them."""
    import av

    from cmp_mm.datasets.preparation.errors import SourceError
    from cmp_mm.datasets.preparation.frames import FrameReader
    from cmp_mm.datasets.preparation.settings import PairSettings
    from cmp_mm.datasets.preparation.sources import Source

    av.logging.set_level(None)
    path, settings = folder / 'video', PairSettings(short_side=16)

    def read(data: bytes) -> str:
        path.write_bytes(data)
        reader = FrameReader(Source(str(path), 'video', 'v', 'v', 'v'), settings)
        try:
            for frame in reader:
                assert frame.image.dtype == np.uint8 and min(frame.image.shape[:2]) >= 16
        except SourceError as error:
            assert str(error)
            return 'SourceError'
        return 'damaged, counted' if reader.problem else 'read'

    # Frames of up to 2^26 pixels are read, however few bytes they take in the file.
    return [Reader('video', videos(), read, seconds=20.0, may_crash=True, megabytes=1024)]


FILE_READERS = {
    'flow': flow_readers,
    'annotation': annotation_readers,
    'image': image_readers,
    'video': video_readers,
}
