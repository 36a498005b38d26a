import itertools

import av
import numpy as np
import pytest
import torch
from PIL import Image

from cmp_mm.apis import CMPInferencer, InputError, animate, write_video
from cmp_mm.apis.guided_video import fill_holes, splat_frame
from cmp_mm.apis.video_files import even_size
from cmp_mm.registry import MODELS


def shift(arrows, size):
    """All of the image moves as the first arrow does."""
    return arrows[0, 2:].view(2, 1, 1).expand(2, *size)


def test_straight_frames_move_their_share(by_hand, image):
    frames = list(
        animate(by_hand(shift), image, [(5, 5, 8, -4)], num_frames=5, color_order='rgb', fill='none')
    )
    assert len(frames) == 5
    np.testing.assert_array_equal(frames[0], image)
    for k, frame in enumerate(frames):
        wanted = np.zeros_like(image)
        wanted[: 45 - k, 2 * k :] = image[k:, : 61 - 2 * k]
        np.testing.assert_array_equal(frame, wanted)


def test_steps_follow_the_arrow(by_hand, image):
    network = by_hand(shift)
    frames = list(
        animate(network, image, [(5, 5, 8, -4)], num_frames=5, motion='stepwise', color_order='rgb')
    )
    assert [one[0].tolist() for one in network.asked] == [[5 + 2 * k, 5 - k, 2, -1] for k in range(4)]
    np.testing.assert_array_equal(frames[4][: 45 - 4, 8:], image[4:, : 61 - 8])


@pytest.mark.parametrize('total', [3, 7, 9])
def test_steps_below_a_pixel_add_up(by_hand, total):
    image = np.zeros((20, 40, 3), np.uint8)
    image[8:12, 5:9] = 255
    frames = list(
        animate(
            by_hand(shift), image, [(6, 9, total, 0)], num_frames=16, motion='stepwise', color_order='rgb'
        )
    )
    left = [int(np.nonzero(frame.any((0, 2)))[0][0]) for frame in frames]
    assert left[0] == 5 and left[-1] == 5 + total
    steps = np.arange(16) * total / 15
    assert np.abs(np.array(left) - 5 - steps).max() <= 0.5 + 1e-6


def test_an_arrow_that_leaves_the_picture_ends(by_hand, image):
    network = by_hand(shift)
    frames = list(
        animate(network, image, [(50, 5, 30, 0)], num_frames=4, motion='stepwise', color_order='rgb')
    )
    assert len(frames) == 4 and len(network.asked) == 2
    np.testing.assert_array_equal(frames[3], frames[2])


def test_trajectories_encode_once(by_hand, image):
    network = by_hand(shift)
    paths = [[(5, 5), (7, 5), (5, 9)]]
    frames = list(animate(network, image, trajectories=paths, color_order='rgb', fill='none'))
    assert network.encoded == 1 and len(frames) == 3
    np.testing.assert_array_equal(frames[2][4:], image[:-4])
    np.testing.assert_array_equal(frames[1][:, 2:], image[:, :-2])


@pytest.mark.parametrize('fill', ['nearest', 'inpaint'])
def test_holes_are_filled_from_around(fill):
    picture = np.full((20, 20, 3), (10, 200, 90), np.uint8)
    hole = np.zeros((20, 20), bool)
    hole[5:9, 6:12] = True
    holed = picture * ~hole[..., None]
    assert np.abs(fill_holes(holed, hole, fill).astype(int) - picture).max() <= 3
    everywhere = np.ones((20, 20), bool)
    np.testing.assert_array_equal(fill_holes(holed, everywhere, fill), holed)


def test_real_network_makes_frames(inferencer, image):
    for options in (dict(arrows=[(9, 9, 5, 5)]), dict(trajectories=[[(9, 9), (10, 9), (12, 9)]])):
        frames = list(animate(inferencer, image, num_frames=3, color_order='rgb', **options))
        assert [frame.shape for frame in frames] == [image.shape] * 3
        assert frames[1].dtype == np.uint8


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'either arrows or trajectories'),
        (dict(arrows=[]), 'no arrows'),
        (dict(arrows=[(99, 0, 1, 1)]), 'outside'),
        (dict(arrows=[[(1, 1, 1, 1)], [(2, 2, 1, 1)]]), '2 sets'),
        (dict(arrows=[(1, 1, 1, 1)], num_frames=1), 'num_frames'),
        (dict(arrows=[(1, 1, 1, 1)], fill='smear'), "'smear'"),
        (dict(arrows=[(1, 1, 1, 1)], motion='wild'), "'wild'"),
        (dict(trajectories=[[(1, 1)]]), 'at least 2'),
        (dict(trajectories=[[(1, 99), (1, 1)]]), 'outside'),
    ],
)
def test_wrong_input_is_named_before_the_first_frame(by_hand, image, options, message):
    with pytest.raises(InputError, match=message):
        animate(by_hand(shift), image, color_order='rgb', **options)


@pytest.mark.parametrize('motion', ['straight', 'stepwise'])
def test_what_the_network_cannot_use_is_named_before_the_first_frame(
    make_inferencer, tiny_config, image, motion
):
    arrows = [(9, 9, 5, 5), (9, 9, 1, 1)]
    built = MODELS.build({**tiny_config.model, 'use_guidance': False, '_scope_': 'cmp_mm'})
    for inferencer, message in (
        (make_inferencer(collisions='error'), 'arrows 0 and 1 begin at the same pixel'),
        (make_inferencer(normalization='none'), "normalization is 'none'"),
        (CMPInferencer(built), 'without guidance'),
    ):
        for options in (
            dict(arrows=arrows, motion=motion),
            dict(trajectories=[[(x, y), (x + u, y + v)] for x, y, u, v in arrows]),
        ):
            with pytest.raises(InputError, match=message):
                animate(inferencer, image, color_order='rgb', **options)


@pytest.mark.parametrize(
    'options',
    [
        dict(arrows=[(9, 9, 5, 5)], motion='straight'),
        dict(arrows=[(55, 9, 9, 0)], motion='stepwise'),  # it leaves: the last frames are equal
        dict(trajectories=[[(9, 9), (10, 9), (12, 9), (14, 9)]]),
    ],
)
@pytest.mark.parametrize('fill', ['nearest', 'none'])
def test_a_frame_may_be_drawn_on(inferencer, image, options, fill):
    frames = list(animate(inferencer, image, num_frames=4, fill=fill, color_order='rgb', **options))
    assert not any(np.shares_memory(one, other) for one, other in itertools.combinations(frames, 2))
    before = image.copy()
    drawn_on = []
    for frame in animate(inferencer, image, num_frames=4, fill=fill, color_order='rgb', **options):
        drawn_on.append(frame.copy())
        frame[:] = 255
    np.testing.assert_array_equal(drawn_on, frames)
    np.testing.assert_array_equal(image, before)


@pytest.fixture
def frames():
    """7 frames of odd size in which a white square moves over blue."""
    made = np.zeros((7, 33, 47, 3), np.uint8)
    made[..., 2] = 200
    for k in range(7):
        made[k, 10:20, 5 * k : 5 * k + 10] = 255
    return list(made)


def test_mp4_holds_the_frames(frames, tmp_path):
    path = tmp_path / 'video.mp4'
    assert write_video(iter(frames), path, fps=12.5, progress=True, total=7) == 7
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, float(stream.average_rate)) == (48, 34, 12.5)
        back = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
    assert len(back) == 7
    assert np.abs(np.stack(back)[:, :33, :47].astype(int) - np.stack(frames)).mean() < 8
    assert [p.name for p in tmp_path.iterdir()] == ['video.mp4']


def test_a_rate_may_be_numpys(frames, tmp_path):
    assert write_video(frames, tmp_path / 'a.mp4', np.float32(12.5)) == 7


def test_gif_holds_the_frames(frames, tmp_path):
    path = tmp_path / 'video.gif'
    # The last two are alike; Pillow stores them as one that lasts twice as long.
    assert write_video([*frames, frames[-1]], path, fps=20) == 8
    with Image.open(path) as gif:
        assert gif.n_frames == 7
        for k in range(7):
            gif.seek(k)
            assert gif.info['duration'] == (100 if k == 6 else 50)
            assert np.abs(np.array(gif.convert('RGB')).astype(int) - frames[k]).max() < 12


@pytest.mark.parametrize('suffix', ['.gif', '.mp4'])
def test_a_failing_source_leaves_no_file(frames, tmp_path, suffix):
    def fail():
        yield frames[0]
        raise RuntimeError('source')

    with pytest.raises(RuntimeError, match='source'):
        write_video(fail(), tmp_path / f'video{suffix}')
    for wrong in ([], [frames[0], frames[0][1:]], [frames[0].astype(float)]):
        with pytest.raises(InputError, match='frame'):
            write_video(wrong, tmp_path / f'video{suffix}')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['12:30.mp4', 'take-2:1.mp4', '%d.mp4', 'é:ü.gif'])
def test_a_name_is_a_name(frames, tmp_path, monkeypatch, name):
    """FFmpeg takes what is before a colon for a protocol, and %d for a number."""
    monkeypatch.chdir(tmp_path)
    assert write_video(frames[:2], name) == 2
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize('suffix', ['.gif', '.mp4'])
def test_who_cannot_write_is_told_the_name_asked_for(frames, tmp_path, suffix):
    path = tmp_path / 'no folder' / f'a{suffix}'
    with pytest.raises(OSError) as caught:
        write_video(frames, path)
    assert caught.value.filename == str(path)


def test_a_picture_that_stands_longer_than_a_gif_can_tell(frames, tmp_path):
    with pytest.raises(InputError, match='stands still for over 655 s at fps 0.1'):
        write_video([frames[0]] * 70, tmp_path / 'a.gif', 0.1)
    assert list(tmp_path.iterdir()) == []


def test_wrong_video_settings(frames, tmp_path):
    for name, fps, message in (
        ('a.avi', 10, "'.avi'"),
        ('a.gif', 60, '0.002 to 50'),
        ('a.mp4', 0, 'fps is 0'),
    ):
        with pytest.raises(InputError, match=message):
            write_video(frames, tmp_path / name, fps)
    with pytest.raises(OSError):
        write_video(frames, tmp_path / 'no folder' / 'a.mp4')


def test_fast_things_cover_slow_ones(by_hand):
    image = np.zeros((4, 12, 3), np.uint8)
    image[:, 2], image[:, 6] = 255, 100

    def flow(arrows, size):
        moved = torch.zeros(2, *size)
        moved[0, :, 2] = 4
        return moved

    frame = list(animate(by_hand(flow), image, [(2, 1, 4, 0)], num_frames=2, color_order='rgb'))[1]
    assert (frame[:, 6] == 255).all()


def test_steps_follow_the_flow_where_a_pixel_has_come_to(by_hand):
    image = np.zeros((12, 20, 3), np.uint8)
    image[5, 8] = 255

    def flow(arrows, size):
        moved = torch.zeros(2, *size)
        moved[0, :, 7:10] = 4  # to the right,
        moved[1, :, 10:] = 1  # and there down
        return moved

    network, shown = by_hand(flow), []
    propagate = network.propagate

    def remember(image, arrows, **options):
        shown.append(image.copy())
        return propagate(image, arrows, **options)

    network.propagate = remember
    frames = list(animate(network, image, [(8, 5, 8, 0)], num_frames=3, motion='stepwise', color_order='rgb'))
    assert (frames[1][5, 12] == 255).all() and (frames[2][6, 12] == 255).all()
    np.testing.assert_array_equal(shown, frames[:2])


@pytest.mark.parametrize(
    'options',
    [
        dict(arrows=[(9, 9, 6, 3)], num_frames=2),
        dict(arrows=[(9, 9, 6, 3)], num_frames=2, motion='stepwise'),
        dict(trajectories=[[(9, 9), (15, 12)]]),
    ],
)
def test_the_network_sees_the_colours_as_they_are(inferencer, image, options):
    def frame(order):
        return splat_frame(image, inferencer.propagate(image, [(9, 9, 6, 3)], color_order=order)[0])

    wanted = frame('rgb')
    assert (frame('bgr') != wanted).any()
    for given, more in (
        (image, dict(color_order='rgb')),
        (image[..., ::-1], dict(color_order='bgr')),
        (image / 255, dict(color_order='rgb', value_range=(0, 1))),
    ):
        np.testing.assert_array_equal(list(animate(inferencer, given, **options, **more))[1], wanted)


@pytest.mark.parametrize('arrow', [(50, 5, 22, 0), (5, 40, 0, 10), (10, 5, -22, 0), (5, 5, 0, -12)])
def test_an_arrow_may_leave_by_every_side(by_hand, image, arrow):
    network = by_hand(shift)
    frames = list(animate(network, image, [arrow], num_frames=3, motion='stepwise', color_order='rgb'))
    assert len(frames) == 3 and len(network.asked) == 1


def test_holes_take_the_nearest_pixel_and_are_filled_unless_asked(by_hand):
    picture = np.full((4, 12, 3), 10, np.uint8)
    picture[:, 8:] = 200
    hole = np.zeros((4, 12), bool)
    hole[:, 4:8] = True
    filled = fill_holes(picture * ~hole[..., None], hole, 'nearest')
    assert (filled[:, 4:6] == 10).all() and (filled[:, 6:8] == 200).all()
    frames = list(animate(by_hand(shift), picture, [(1, 1, 3, 0)], num_frames=2, color_order='rgb'))
    assert frames[1].all()


@pytest.mark.parametrize(
    'options',
    [
        dict(arrows=[(5, 5, 8, -4)], num_frames=3),
        dict(arrows=[(5, 5, 8, -4)], num_frames=3, motion='stepwise'),
        dict(trajectories=np.array([[(5, 5), (9, 3), (13, 1)]])),
    ],
)
def test_a_correction_may_be_chosen_for_one_video(inferencer, make_inferencer, image, options):
    def frames(network, **more):
        return np.stack(list(animate(network, image, color_order='rgb', **options, **more)))

    always = make_inferencer(correction='fade')
    corrected, plain = frames(always), frames(inferencer)
    assert (corrected != plain).any()
    np.testing.assert_array_equal(frames(inferencer, correction='fade'), corrected)
    np.testing.assert_array_equal(frames(always, correction='none'), plain)
    with pytest.raises(InputError, match="correction is 'rbf'"):
        animate(inferencer, image, color_order='rgb', **options, correction='rbf')


def test_the_arrows_given_stay_as_they_are(by_hand, image):
    arrows = torch.tensor([(5, 5, 8.0, -4.0)])
    list(animate(by_hand(shift), image, arrows, num_frames=3, motion='stepwise', color_order='rgb'))
    assert arrows.tolist() == [[5, 5, 8, -4]]


def test_each_side_of_an_mp4_is_made_even():
    assert even_size((33, 40)) == (34, 40) and even_size((40, 33)) == (40, 34) and even_size((2, 4)) == (2, 4)
