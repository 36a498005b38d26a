import io
import re
import struct
import subprocess
import sys
import zlib

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from cmp_mm.datasets.preparation.errors import SourceError
from cmp_mm.datasets.preparation.frames import FrameReader, stored_size
from cmp_mm.datasets.preparation.pool import WorkerPool
from cmp_mm.datasets.preparation.settings import PairSettings
from cmp_mm.datasets.preparation.store import Store

UPRIGHT = struct.pack('>9i', 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
QUARTER_TURN = struct.pack('>9i', 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize(
    ('size', 'expected'),
    [
        ((480, 640), (416, 555)),
        ((1920, 1080), (740, 416)),
        ((240, 320), (240, 320)),
        ((416, 9000), (416, 9000)),
    ],
)
def test_the_short_side_is_scaled_down_and_never_up(size, expected):
    assert stored_size(*size, 416) == expected


def test_video_and_folder_give_the_same_frames_in_order(
    tmp_path, moving_frames, write_video, write_folder, source_of
):
    frames = moving_frames(12)
    settings = PairSettings(short_side=64)
    from_video = FrameReader(source_of(write_video(tmp_path / 'v.mp4', frames)), settings)
    from_folder = FrameReader(source_of(write_folder(tmp_path / 'f', frames)), settings)
    for reader, tolerance in ((from_video, 6.0), (from_folder, 0.0)):
        read = list(reader)
        assert [frame.index for frame in read] == list(range(12))
        for frame, expected in zip(read, frames, strict=True):
            assert frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous
            assert np.abs(frame.image.astype(int) - expected).mean() <= tolerance
        assert reader.problem is None and reader.progress == 1.0


def test_frames_are_shrunk(tmp_path, moving_frames, write_video, write_folder, source_of):
    frames = moving_frames(3, size=(96, 128))
    expected = [cv2.resize(frame, (64, 48), interpolation=cv2.INTER_AREA) for frame in frames]
    for source in (write_video(tmp_path / 'v.mp4', frames), write_folder(tmp_path / 'f', frames)):
        for frame, reference in zip(
            FrameReader(source_of(source), PairSettings(short_side=48)), expected, strict=True
        ):
            assert np.abs(frame.image.astype(int) - reference).mean() < 6


@pytest.mark.parametrize(
    ('options', 'numbers'),
    [
        ({'stride': 3}, [0, 3, 6, 9]),
        ({'fps': 5.0}, [0, 2, 4, 6, 8, 10]),
        ({'fps': 4.0}, [0, 3, 5, 8, 10]),
        ({'fps': 30.0}, list(range(12))),
    ],
)
def test_sampling_by_stride_and_by_rate(
    tmp_path, moving_frames, write_video, write_folder, source_of, options, numbers
):
    frames = moving_frames(12)
    settings = PairSettings(short_side=64, folder_fps=10.0, **options)
    for source in (write_video(tmp_path / 'v.mp4', frames, rate=10), write_folder(tmp_path / 'f', frames)):
        read = list(FrameReader(source_of(source), settings))
        assert [frame.number for frame in read] == numbers
        assert [frame.index for frame in read] == list(range(len(numbers)))


@pytest.mark.parametrize('suffix', ['mkv', 'wmv', 'avi', 'mp4'])
@pytest.mark.parametrize(('rate', 'fps', 'step'), [(30, 30.0, 1), (30, 15.0, 2), (60, 30.0, 2), (24, 8.0, 3)])
def test_times_that_are_rounded_to_milliseconds_are_sampled_evenly(
    tmp_path, moving_frames, write_video, source_of, suffix, rate, fps, step
):
    video = write_video(tmp_path / f'v.{suffix}', moving_frames(13), rate=rate)
    numbers = [frame.number for frame in FrameReader(source_of(video), PairSettings(short_side=64, fps=fps))]
    assert numbers == list(range(0, 13, step))


def test_times_in_the_order_of_decoding_cost_no_frames_but_the_first(tmp_path, moving_frames, source_of):
    """As AVI with H.264 in it has them."""
    path = tmp_path / 'v.avi'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10, options={'bf': '3'})
        stream.height, stream.width, stream.pix_fmt = 96, 128, 'yuv420p'
        for frame in moving_frames(24, size=(96, 128)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times != sorted(times)
    numbers = [f.number for f in FrameReader(source_of(path), PairSettings(short_side=64, fps=10.0))]
    assert set(range(5, 24)) <= set(numbers)


def test_a_phones_portrait_video_is_turned_upright(tmp_path, moving_frames, write_video, source_of):
    frames = moving_frames(2)
    path = write_video(tmp_path / 'v.mp4', frames)
    data = path.read_bytes()
    assert data.count(UPRIGHT) == 2  # the movie's and the track's; the track's is the second
    place = data.rindex(UPRIGHT)
    path.write_bytes(data[:place] + QUARTER_TURN + data[place + len(UPRIGHT) :])
    first, _ = FrameReader(source_of(path), PairSettings(short_side=64))
    assert first.image.shape == (96, 64, 3)
    # The matrix turns the picture clockwise.
    assert np.abs(first.image.astype(int) - np.rot90(frames[0], -1)).mean() < 6


def test_a_cut_off_video_is_reported(tmp_path, moving_frames, write_video, source_of):
    path = write_video(tmp_path / 'v.mkv', moving_frames(40))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    reader = FrameReader(source_of(path), PairSettings(short_side=64))
    assert 2 < len(list(reader)) < 36
    assert 'of 4.0 seconds' in reader.problem


def test_frames_after_a_damaged_packet_are_left_out_up_to_the_next_key_frame(
    tmp_path, moving_frames, write_video, source_of
):
    path = write_video(tmp_path / 'v.avi', moving_frames(40))
    data = bytearray(path.read_bytes())
    chunks, place = [], data.index(b'movi')
    while len(chunks) < 40:
        place = data.index(b'00dc', place) + 4
        chunks.append((place + 4, struct.unpack('<I', data[place : place + 4])[0]))
    start, length = chunks[5]
    data[start : start + length] = bytes([0x55]) * length
    path.write_bytes(data)
    reader = FrameReader(source_of(path), PairSettings(short_side=64))
    read = list(reader)
    numbers = [frame.number for frame in read]
    assert numbers[:5] == [0, 1, 2, 3, 4]
    (gap,) = [frame for frame in read if frame.after_gap]
    assert gap.number > 5
    assert 'cannot be decoded' in reader.problem


def test_unreadable_images_leave_a_gap(tmp_path, moving_frames, write_folder, source_of):
    folder = write_folder(tmp_path / 'f', moving_frames(5))
    (folder / 'frame2.png').write_bytes(b'no image')
    reader = FrameReader(source_of(folder), PairSettings(short_side=64))
    read = list(reader)
    assert [(frame.index, frame.after_gap) for frame in read] == [
        (0, False),
        (1, False),
        (3, True),
        (4, False),
    ]
    assert reader.problem == '1 images cannot be read, the first is frame2.png'


def test_a_cut_short_jpg_or_png_is_unreadable_although_it_decodes(
    tmp_path, moving_frames, write_folder, source_of
):
    folder = write_folder(tmp_path / 'f', moving_frames(3))
    for suffix in ('.jpg', '.png'):
        done, data = cv2.imencode(suffix, moving_frames(1)[0])
        (folder / f'frame9{suffix}').write_bytes(data.tobytes()[: len(data) * 2 // 3])
    reader = FrameReader(source_of(folder), PairSettings(short_side=64))
    assert len(list(reader)) == 3
    assert reader.problem.startswith('2 images cannot be read')


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('empty.mp4', b'', 'cannot be read as a video'),
        ('text.mp4', b'hello\n' * 100, 'cannot be read as a video'),
        ('gone.mp4', None, 'cannot be read as a video'),
    ],
)
def test_what_is_no_video_says_so(tmp_path, source_of, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(FrameReader(source_of(tmp_path / name), PairSettings()))


def test_too_small_frames_are_refused(tmp_path, texture, write_video, source_of):
    path = write_video(tmp_path / 'v.avi', [texture[:8, :100]] * 3)
    with pytest.raises(SourceError, match='frames are 100 x 8 pixels; expected sides of at least 16'):
        list(FrameReader(source_of(path), PairSettings()))


def chunk(kind, body):
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


@pytest.fixture
def claims(texture):
    """Small files whose headers claim about 10^9 pixels, or more than are read, by name."""
    side, picture = 31623, texture[:32, :32]
    jpg, bmp, tiff, gif = (
        bytearray(cv2.imencode(suffix, picture)[1].tobytes()) for suffix in ('.jpg', '.bmp', '.tiff', '.gif')
    )
    place = jpg.index(b'\xff\xc0')
    jpg[place + 5 : place + 9] = struct.pack('>HH', side, side)
    bmp[18:26] = struct.pack('<ii', side, side)
    for tag in (256, 257):  # width and height
        for kind, form in ((3, '<HHIHH'), (4, '<HHII')):
            entry = struct.pack(form, tag, kind, 1, 32, *([0] if kind == 3 else []))
            tiff = tiff.replace(entry, struct.pack('<HHII', tag, 4, 1, side))
    header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    chunks = ((b'IHDR', header), (b'IDAT', zlib.compress(bytes(999))), (b'IEND', b''))
    png = b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*one) for one in chunks)
    files = {'1.jpg': jpg, '2.bmp': bmp, '3.tiff': tiff, '4.png': png}
    files['5.ppm'] = f'P6 {side} {side} 255\n'.encode() + bytes(3 * 32 * 32)
    for name, side in (('6.gif', 31623), ('7.gif', 15000)):
        gif[6:10] = struct.pack('<HH', side, side)
        files[name] = bytes(gif)
    # FFmpeg decodes a frame as it opens this, and refuses of itself only what has 2^28 pixels or more.
    header = struct.pack('>IIBBBBB', 16000, 16000, 16, 6, 0, 0, 0)
    files['8.mov'] = png_in_a_video(header)
    return files


def png_in_a_video(header: bytes) -> bytes:
    """Two frames of 32 x 32 pixels, whose PNG headers say otherwise."""
    buffer = io.BytesIO()
    with av.open(buffer, 'w', format='mov') as container:
        stream = container.add_stream('png', rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, 'rgb24'
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), 'rgb24')
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return re.sub(rb'(?s)\x00\x00\x00\x0dIHDR.{17}', lambda _: chunk(b'IHDR', header), buffer.getvalue())


READ_CLAIMS = """
import sys
from pathlib import Path
from cmp_mm.datasets.preparation.errors import SourceError
from cmp_mm.datasets.preparation.frames import FrameReader, _read_image
from cmp_mm.datasets.preparation.settings import PairSettings
from cmp_mm.datasets.preparation.sources import Source

def peak():
    # Of the address space: memory that was asked for, whether or not it was used.
    (line,) = [line for line in open('/proc/self/status') if line.startswith('VmPeak')]
    return int(line.split()[1]) // 1024

for path in sorted(Path(sys.argv[1]).iterdir()):
    base = peak()
    if path.suffix in ('.gif', '.mov'):
        try:
            found = list(FrameReader(Source(str(path), 'video', 'v', 'v', 'v'), PairSettings(short_side=16)))
        except SourceError:
            found = None
    else:
        found = _read_image(str(path))
    print(path.name, 'read' if found else 'refused', 'large' if peak() > base + 300 else 'small')
"""


def test_a_huge_claim_is_refused_before_allocation(tmp_path, claims):
    folder = tmp_path / 'claims'
    folder.mkdir()
    for name, content in claims.items():
        (folder / name).write_bytes(content)
    environment = WorkerPool(Store(tmp_path / 'out', PairSettings()), 1, 9.0)._environment(0, 1)
    done = subprocess.run(
        [sys.executable, '-c', READ_CLAIMS, str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [f'{name} refused small' for name in claims], done.stderr


def test_a_gif_whose_last_frame_is_shown_long_is_whole(tmp_path, moving_frames, source_of, small):
    frames = [Image.fromarray(frame) for frame in moving_frames(5)]
    path = tmp_path / 'a.gif'
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100] * 4 + [3000], loop=0)
    reader = FrameReader(source_of(path), small, 1)
    assert len(list(reader)) == 5
    assert reader.problem is None
