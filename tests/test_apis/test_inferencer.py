import copy
import inspect
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from cmp_mm.apis import CMPInferencer, EncodedImage, InputError, flow_to_array
from cmp_mm.apis.inferencer import _ENCODE_OPTIONS
from cmp_mm.evaluation import correct_at_points
from cmp_mm.guidance import guidance_map
from cmp_mm.registry import MODELS
from cmp_mm.structures import FlowDataSample

ROOT = Path(__file__).parents[2]
ARROWS = [(10, 20, 8.0, -3.0), (50, 40, 0.0, 0.0)]


@pytest.fixture
def calls(inferencer, monkeypatch):
    """How often the image encoder has run, and the guidance maps the network has seen."""
    seen = dict(images=0, guidance=[])
    encode_image, encode_guidance = inferencer.model.encode_image, inferencer.model.encode_guidance

    def count(image):
        seen['images'] += 1
        return encode_image(image)

    def keep(guidance):
        seen['guidance'].append(guidance)
        return encode_guidance(guidance)

    monkeypatch.setattr(inferencer.model, 'encode_image', count)
    monkeypatch.setattr(inferencer.model, 'encode_guidance', keep)
    return seen


def test_same_flow_as_the_training_pipeline(inferencer, image):
    sample = FlowDataSample()
    sample.guidance_points = torch.tensor([(20, 10), (40, 50)])
    sample.guidance_vectors = torch.tensor([(8.0, -3.0), (0.0, 0.0)])
    bgr = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)
    batch = inferencer.model.data_preprocessor(dict(inputs=dict(image=[bgr]), data_samples=[sample]))
    with torch.no_grad():
        wanted = inferencer.model(**batch, mode='predict')[0].pred_flow
    got = inferencer.propagate(image, ARROWS, color_order='rgb')
    assert got.shape == (1, 2, 45, 61)
    assert wanted.abs().max() > 1
    torch.testing.assert_close(got[0], wanted, atol=1e-3, rtol=1e-4)
    array = inferencer(image, ARROWS, color_order='rgb')
    np.testing.assert_array_equal(array, flow_to_array(got[0]))
    assert array.shape == (45, 61, 2)


def test_under_autocast_the_flow_is_float32_and_nearly_the_same(inferencer, image):
    wanted = inferencer.propagate(inferencer.encode(image, 'rgb'), ARROWS)
    with torch.autocast(inferencer.device.type, torch.bfloat16):
        encoded = inferencer.encode(image, 'rgb')
        flow = inferencer.propagate(encoded, ARROWS)
    assert encoded.features[-1].dtype == torch.bfloat16 and flow.dtype == torch.float32
    assert not torch.equal(flow, wanted)
    torch.testing.assert_close(flow, wanted, atol=0.02 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize('decoder', ['PlainDecoder', 'SkipDecoder'])
def test_what_was_encoded_under_autocast_is_propagated_without(inferencer, image, decoder):
    if decoder == 'SkipDecoder':
        torch.manual_seed(0)
        network = MODELS.build(Config.fromfile(ROOT / 'configs/_base_/models/cmp_resnet50_skip.py').model)
        with torch.no_grad():
            network.decoder.head.weight.mul_(20)
        inferencer = CMPInferencer(network.eval(), device='cpu')
    sets = [ARROWS, ARROWS[:1]]
    wanted = inferencer.propagate(inferencer.encode(image, 'rgb'), sets)
    with torch.autocast(inferencer.device.type, torch.bfloat16):
        encoded = inferencer.encode(image, 'rgb')
    assert encoded.features[-1].dtype == torch.bfloat16
    for count in (1, 2):
        flow = inferencer.propagate(encoded, sets[:count])
        torch.testing.assert_close(flow, wanted[:count], atol=0.02 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize('batch_size', [1, 3, 16])
def test_image_is_encoded_once_for_all_sets(inferencer, image, calls, batch_size):
    sets = [[(10, 20, t, 0), (5, 5, 0, 0)][: 1 + t % 2] for t in range(7)]
    encoded = inferencer.encode(image, 'rgb')
    flows = inferencer.propagate(encoded, sets, batch_size=batch_size)
    assert calls['images'] == 1
    assert flows.shape == (7, 2, 45, 61)
    for one, flow in zip(sets, flows, strict=True):
        torch.testing.assert_close(inferencer.propagate(encoded, one)[0], flow, atol=1e-3, rtol=1e-3)


def test_guidance_map_is_arrows(inferencer, image):
    encoded = inferencer.encode(image, 'rgb')
    wanted = inferencer.propagate(encoded, ARROWS)
    array = guidance_map([(20, 10), (40, 50)], [(8, -3), (0, 0)], (45, 61))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for guidance in (array, tensor, np.stack([array, array]), torch.stack([tensor, tensor])):
        got = inferencer.propagate(encoded, guidance_map=guidance)
        torch.testing.assert_close(got, wanted.expand(len(got), -1, -1, -1), atol=1e-4, rtol=1e-4)


def test_order_and_normalisation_matter_and_are_named(make_inferencer, image):
    planes = torch.from_numpy(image).permute(2, 0, 1).float()
    reference, habit, none = (
        make_inferencer(normalization=name) for name in ('reference', 'minus_one_to_one', 'none')
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    for inferencer, normalised in ((reference, (planes - mean) / std), (habit, planes / 255 * 2 - 1)):
        wanted = none.propagate(normalised, ARROWS)
        torch.testing.assert_close(inferencer.propagate(image, ARROWS, color_order='rgb'), wanted)
        swapped = inferencer.propagate(image, ARROWS, color_order='bgr')
        assert not torch.allclose(swapped, wanted, atol=1e-3)
    with pytest.raises(InputError, match='normalised already'):
        none.encode(image, 'rgb')


def test_stated_normalisation_of_the_config_is_used(tiny_config, weights, image):
    config = {
        **tiny_config.model,
        'data_preprocessor': dict(type='FlowDataPreprocessor', mean=[0] * 3, std=[255] * 3),
    }
    got = CMPInferencer(config, weights, 'cpu').propagate(image, ARROWS, color_order='rgb')
    planes = torch.from_numpy(image).permute(2, 0, 1) / 255
    wanted = CMPInferencer(config, weights, 'cpu', normalization='none').propagate(planes, ARROWS)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize('size', [(1, 1), (8, 8), (7, 33), (64, 9)])
def test_any_size(inferencer, size):
    image = np.full((*size, 3), 90, np.uint8)
    flow = inferencer(image, [(size[1] - 1, size[0] - 1, 3, 4)], color_order='rgb')
    assert flow.shape == (*size, 2)
    assert np.isfinite(flow).all()


def test_working_size_scales_each_axis(inferencer, calls, image, monkeypatch):
    encoded = inferencer.encode(image, 'rgb', working_size=(90, 122))
    assert (encoded.size, encoded.working_size) == ((45, 61), (90, 122))
    anisotropic = inferencer.encode(image, 'rgb', working_size=(90, 61))
    assert inferencer.encode(image, 'rgb', working_size=90).working_size == (90, 122)
    # A network that answers with the same flow everywhere, of the working size.
    monkeypatch.setattr(
        inferencer.model,
        'to_flow',
        lambda output, size: torch.tensor([6.0, 8.0]).view(1, 2, 1, 1).expand(len(output), 2, *size),
    )
    for handle, seen, flow in ((encoded, [16, -6, 1, 1], [3, 4]), (anisotropic, [8, -6, 1, 1], [6, 4])):
        got = inferencer.propagate(handle, ARROWS)
        assert got.shape == (1, 2, 45, 61)
        assert got[0].flatten(1).unique(dim=1).tolist() == [[flow[0]], [flow[1]]]
        guidance = calls['guidance'][-1][0]
        assert guidance[2].sum() == 2
        place = guidance[0].nonzero()[0]
        assert guidance[:, place[0], place[1]].tolist() == seen


@pytest.mark.parametrize('wanted', [0, 2.5, 'big', (1, 2, 3), (4, -1), True])
def test_wrong_working_size(inferencer, make_inferencer, image, wanted):
    with pytest.raises(InputError, match='working_size'):
        make_inferencer(working_size=wanted)
    with pytest.raises(InputError, match='working_size'):
        inferencer.encode(image, 'rgb', working_size=wanted)


def test_vectors_beyond_the_codec(inferencer, calls, image):
    encoded = inferencer.encode(image, 'rgb')
    long = [(10, 20, 100.0, -20.0), (30, 30, 10.0, 0.0)]

    def seen(option):
        inferencer.out_of_range = option
        flow = inferencer.propagate(encoded, long)
        guidance = calls['guidance'][-1][0]
        return flow, guidance[:2, 20, 10].tolist(), guidance[:2, 30, 30].tolist()

    with pytest.warns(UserWarning, match='100 px at the working size, .* up to 50 px there'):
        assert seen('warn')[1:] == ([100, -20], [10, 0])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert seen('clip')[1:] == ([50, -20], [10, 0])
        flow, *vectors = seen('rescale')
        assert vectors == [[50, -10], [5, 0]]
        half = inferencer.propagate(encoded, [(10, 20, 50.0, -10.0), (30, 30, 5.0, 0.0)])
        torch.testing.assert_close(flow, 2 * half)
        inferencer.propagate(encoded, [(10, 20, 50.0, -50.0)])
        # A working size of half the side halves the vectors too.
        smaller = inferencer.encode(image, 'rgb', working_size=(23, 31))
        inferencer.out_of_range = 'error'
        inferencer.propagate(smaller, [(10, 20, 98.0, 0.0)])
    with pytest.raises(InputError, match="out_of_range='rescale'"):
        inferencer.propagate(encoded, long)


def test_a_correction_has_the_flow_meet_its_arrows(inferencer, make_inferencer, image):
    encoded = inferencer.encode(image, 'rgb')
    sets = [[(10, 20, 6.0, -2.0), (30, 30, 0.0, 0.0)], [(60, 44, 100.0, -20.0)]]  # the last beyond the codec
    places = [[(20, 10), (30, 30)], [(44, 60)]]

    def missed(flows):
        found = [[flow[:, row, column] for row, column in at] for flow, at in zip(flows, places, strict=True)]
        wanted = [[torch.tensor(arrow[2:]) for arrow in one] for one in sets]
        pairs = zip(sum(found, []), sum(wanted, []), strict=True)
        return max((one - other).abs().max().item() for one, other in pairs)

    inferencer.out_of_range = 'rescale'  # of the second set alone
    plain = inferencer.propagate(encoded, sets)
    assert missed(plain) > 1
    corrected = inferencer.propagate(encoded, sets, correction='fade')
    assert missed(corrected) < 1e-4
    np.testing.assert_allclose(
        corrected[0].permute(1, 2, 0).numpy(),
        correct_at_points(plain[0].permute(1, 2, 0).numpy(), places[0], np.array(sets[0])[:, 2:]),
        atol=1e-4,
    )
    always = make_inferencer(out_of_range='rescale', correction='fade')
    torch.testing.assert_close(always.propagate(image, sets, color_order='rgb'), corrected)
    without = always.propagate(image, sets, color_order='rgb', correction='none')
    torch.testing.assert_close(without, plain)


@pytest.mark.parametrize('working', [(90, 122), (23, 31)])
def test_a_correction_is_of_the_working_size(make_inferencer, image, working):
    """There a pixel of its own is met, and resizing the flow back moves it by little."""
    arrow = (30, 22, 5.0, -3.0)
    sized = make_inferencer(working_size=working)
    without = sized(image, [arrow], color_order='rgb')
    flow = sized(image, [arrow], color_order='rgb', correction='fade')
    assert np.abs(without[22, 30] - arrow[2:]).max() > 1
    np.testing.assert_allclose(flow[22, 30], arrow[2:], atol=0.5)


def test_a_correction_of_cut_vectors_of_maps_and_under_autocast(inferencer, image):
    encoded = inferencer.encode(image, 'rgb')
    inferencer.out_of_range = 'clip'
    cut = inferencer.propagate(encoded, [(60, 44, 100.0, -20.0)], correction='fade')
    torch.testing.assert_close(cut[0, :, 44, 60], torch.tensor([50.0, -20]))
    arrows = [(10, 20, 6.0, -2.0), (30, 30, 0.0, 0.0)]
    corrected = inferencer.propagate(encoded, arrows, correction='fade')
    points, vectors = np.array([(20, 10), (30, 30)]), np.array([(6, -2), (0, 0)], np.float32)
    drawn = guidance_map(points, vectors, image.shape[:2])
    torch.testing.assert_close(
        inferencer.propagate(encoded, guidance_map=drawn, correction='fade'), corrected
    )
    with torch.autocast('cpu', torch.bfloat16):
        mixed = inferencer.propagate(encoded, arrows, correction='fade')
    torch.testing.assert_close(
        mixed[0, :, [20, 30], [10, 30]].T, torch.from_numpy(vectors), atol=1e-4, rtol=0
    )


def test_gradient_of_a_corrected_flow(inferencer, image):
    arrows = torch.tensor([(10, 20, 6.0, -2.0), (30, 30, 0.0, 0.0)], requires_grad=True)
    encoded = inferencer.encode(image, 'rgb')
    flow = inferencer.propagate(encoded, arrows, requires_grad=True, correction='fade')
    flow[0, 0, 20, 10].backward()
    np.testing.assert_allclose(arrows.grad[:, 2:], [(1, 0), (0, 0)], atol=1e-4)  # it is the arrow's own


def test_too_many_arrows_to_correct_by(make_inferencer, image, monkeypatch):
    monkeypatch.setattr('cmp_mm.apis.correction._MOST_ARROWS', 2)
    inferencer = make_inferencer(correction='fade')
    arrows = [(x, 5, 1.0, 0.0) for x in (5, 15, 25)]
    message = "a guidance set has 3 points; with correction 'fade' expected at most 2"
    with pytest.raises(InputError, match=message):
        inferencer.propagate(image, [arrows[:2], arrows], color_order='rgb')
    with pytest.raises(InputError, match=message):
        inferencer.check_arrows(image.shape[:2], torch.tensor(arrows))
    inferencer.check_arrows(image.shape[:2], torch.tensor(arrows[:2]))
    inferencer.propagate(image, arrows, color_order='rgb', correction='none')


def test_gradient_reaches_arrows_map_and_image(inferencer, image):
    arrows = torch.tensor(ARROWS, requires_grad=True)
    encoded = inferencer.encode(image, 'rgb')
    flow = inferencer.propagate(encoded, arrows, requires_grad=True)
    flow.square().sum().backward()
    assert arrows.grad[0, 2:].abs().min() > 0

    guidance = torch.zeros(4, 45, 61)
    guidance[2:, 20, 10] = 1
    guidance.requires_grad_()
    inferencer.propagate(encoded, guidance_map=guidance, requires_grad=True).square().sum().backward()
    assert guidance.grad[:2, 20, 10].abs().min() > 0

    planes = torch.from_numpy(image).permute(2, 0, 1).float().requires_grad_()
    options = dict(color_order='rgb', value_range=(0, 255), requires_grad=True, working_size=30)
    handle = inferencer.encode(planes, **options)
    inferencer.propagate(handle, ARROWS, requires_grad=True).square().sum().backward()
    assert planes.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in inferencer.model.parameters())


def test_without_asking_there_is_no_graph(inferencer, image):
    arrows = torch.tensor(ARROWS, requires_grad=True)
    flow = inferencer.propagate(image, arrows, color_order='rgb')
    assert flow.is_inference() and not flow.requires_grad


def test_gradient_is_the_slope(make_inferencer, tiny_config, weights):
    inferencer = make_inferencer(normalization='none')
    encoded = inferencer.encode(torch.zeros(3, 16, 16))
    arrow = torch.tensor([[8.0, 8.0, 4.0, 2.0]], requires_grad=True)

    def total(row):
        return inferencer.propagate(encoded, row, requires_grad=True)[:, 0].sum()

    total(arrow).backward()
    step = torch.tensor([[0, 0, 0.05, 0]])
    with torch.no_grad():
        slope = (total(arrow + step) - total(arrow - step)) / 0.1
    torch.testing.assert_close(arrow.grad[0, 2], slope, rtol=0.05, atol=1e-3)


def test_an_encoded_image_can_be_kept(inferencer, make_inferencer, image, tmp_path):
    encoded = inferencer.encode(image, color_order='rgb')
    wanted = inferencer.propagate(encoded, ARROWS)
    path = tmp_path / 'encoded.pickle'
    path.write_bytes(pickle.dumps(encoded))
    assert path.stat().st_size < 1e5 + sum(one.numel() * 4 for one in encoded.features)
    bare = EncodedImage(encoded.features, encoded.size, encoded.working_size)
    same = CMPInferencer(inferencer.model)
    for kept in (encoded, copy.deepcopy(encoded), pickle.loads(path.read_bytes()), bare):
        for one in (inferencer, same):
            torch.testing.assert_close(one.propagate(kept, ARROWS), wanted)
    make_inferencer().propagate(pickle.loads(path.read_bytes()), ARROWS)  # perhaps of another day
    other = CMPInferencer(inferencer.model, normalization='minus_one_to_one')
    with pytest.raises(InputError, match='another network or normalization'):
        other.propagate(encoded, ARROWS)


def test_whole_numbers_may_be_numpys(inferencer, image):
    wanted = inferencer.propagate(image, ARROWS, color_order='rgb', working_size=30)
    for size in (np.int64(30), [np.int32(30)]):
        found = inferencer.propagate(
            image, ARROWS, batch_size=np.int64(2), color_order='rgb', working_size=size
        )
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_what_is_passed_on_as_it_is_is_looked_at(make_inferencer, image):
    inferencer = make_inferencer(normalization='none')
    planes = torch.from_numpy(image).permute(2, 0, 1) / 255
    rgb, bgr = (inferencer.propagate(planes, ARROWS, color_order=order) for order in ('rgb', 'bgr'))
    assert not torch.equal(rgb, bgr)
    for change, order, message in (
        (planes, 'BGR', "'BGR'; expected one of 'rgb', 'bgr'"),
        (planes * float('nan'), 'rgb', 'not finite'),
    ):
        with pytest.raises(InputError, match=message):
            inferencer.propagate(change, ARROWS, color_order=order)


def test_options_and_calls_that_make_no_sense(inferencer, make_inferencer, tiny_config, image):
    encoded = inferencer.encode(image, 'rgb')
    for call, message in (
        (lambda: inferencer.propagate(encoded), 'either arrows or a guidance_map'),
        (lambda: inferencer.propagate(encoded, ARROWS, np.zeros((45, 61, 4))), 'either'),
        (lambda: inferencer.propagate(encoded, []), 'no arrows'),
        (lambda: inferencer.propagate(encoded, ARROWS, batch_size=0), 'batch_size'),
        (lambda: inferencer.propagate(encoded, ARROWS, color_order='rgb'), 'encoded already'),
        (lambda: inferencer.propagate(encoded, ARROWS, batch_size=np.float32(2)), 'batch_size'),
        (lambda: make_inferencer().propagate(encoded, ARROWS), 'encoded by another network'),
        (lambda: inferencer.propagate('no/image.png', ARROWS), 'no/image.png cannot be read'),
        (lambda: inferencer.propagate('no/image.png', ARROWS, value_range=1), r'value_range is 1; expected'),
        (lambda: inferencer(encoded, [ARROWS, ARROWS]), '2 guidance sets'),
        (lambda: CMPInferencer(tiny_config, device='abacus'), "device 'abacus' cannot be used"),
        (lambda: make_inferencer(normalization='imagenet'), "'imagenet'"),
        (lambda: make_inferencer(collisions='sum'), "'sum'; expected one of 'last', 'mean', 'error'"),
        (lambda: make_inferencer(out_of_range='ignore'), "'ignore'"),
        (lambda: make_inferencer(correction='rbf'), "correction is 'rbf'; expected one of 'none', 'fade'"),
        (lambda: inferencer.propagate(encoded, ARROWS, correction='all'), "correction is 'all'"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    blind = CMPInferencer(MODELS.build({**tiny_config.model, 'use_guidance': False, '_scope_': 'cmp_mm'}))
    with pytest.raises(InputError, match='without guidance'):
        blind.propagate(image, ARROWS, color_order='rgb')


def test_options_of_another_call_are_told(inferencer, image):
    encoded = inferencer.encode(image, 'rgb')
    for call, message in (
        (
            lambda: inferencer.propagate(encoded, arrows=ARROWS, collisions='mean'),
            r"propagate() has no option 'collisions' (CMPInferencer(...) takes it)",
        ),
        (
            lambda: inferencer.encode(image, 'rgb', collisions='mean'),
            r"encode() has no option 'collisions' (CMPInferencer(...) takes it)",
        ),
        (
            lambda: inferencer.encode(image, 'rgb', correction='fade'),
            r"encode() has no option 'correction' (propagate() and CMPInferencer(...) take it)",
        ),
        (
            lambda: inferencer.propagate(encoded, arows=ARROWS),
            r"propagate() has no option 'arows' (did you mean 'arrows'?)",
        ),
        (
            lambda: inferencer.propagate(image, ARROWS, colour_order='rgb', zzz=1),
            r"propagate() has no option 'colour_order' (did you mean 'color_order'?) or 'zzz'",
        ),
        (
            lambda: inferencer.propagate(encoded, ARROWS, color_order='rgb'),
            'the image is encoded already; color_order must go to encode()',
        ),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == message


def test_what_propagate_passes_on_are_the_options_of_encode():
    options = set(inspect.signature(CMPInferencer.encode).parameters)
    assert set(_ENCODE_OPTIONS) == options - {'self', 'image', 'requires_grad', 'unknown'}


def test_a_better_side_is_told_where_pictures_are_far_from_it(make_inferencer):
    inferencer = make_inferencer()
    assert inferencer.trained_side is None and inferencer.better_side((900, 900)) is None
    inferencer.trained_side = 100
    sizes = [(151, 400), (150, 400), (400, 67), (66, 400)]
    assert [inferencer.better_side(size) for size in sizes] == [100, None, None, 100]
    inferencer.working_size = 300
    assert inferencer.better_side((900, 900)) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_device_gives_the_same(make_inferencer, tiny_config, weights, image, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    wanted = make_inferencer().propagate(image, ARROWS, color_order='rgb')
    got = CMPInferencer(tiny_config, weights, 'cuda').propagate(image, ARROWS, color_order='rgb')
    torch.testing.assert_close(got.cpu(), wanted, atol=1e-2, rtol=1e-2)


def test_a_network_that_learnt_from_bgr_gets_bgr(inferencer, image, monkeypatch):
    wanted = inferencer.propagate(image, ARROWS, color_order='bgr')
    monkeypatch.setattr(inferencer.model.data_preprocessor, 'bgr_to_rgb', False)
    got = inferencer.propagate(image, ARROWS, color_order='rgb')
    torch.testing.assert_close(got, wanted)


def test_each_of_several_sets_has_its_own_factor_and_the_longest_is_told(inferencer, image):
    encoded = inferencer.encode(image, 'rgb')
    sets = [[(10, 20, 200.0, 0.0)], [(10, 20, 100.0, -20.0)], [(10, 20, 4.0, 3.0)]]
    with pytest.warns(UserWarning, match='component of 200 px'):
        inferencer.propagate(encoded, sets)
    inferencer.out_of_range = 'rescale'
    for one, flow in zip(sets, inferencer.propagate(encoded, sets), strict=True):
        torch.testing.assert_close(inferencer.propagate(encoded, one)[0], flow, atol=5e-3, rtol=1e-3)
    inferencer.out_of_range = 'error'
    with pytest.raises(InputError, match='component of 200 px'):
        inferencer.propagate(encoded, sets)


def test_arrows_that_meet_are_dealt_with_as_asked(make_inferencer, image):
    meet = [(10, 20, 8.0, 0.0), (10, 20, 0.0, 4.0)]
    for options, vector in (
        ({}, (0, 4)),
        (dict(collisions='last'), (0, 4)),
        (dict(collisions='mean'), (4, 2)),
    ):
        one = make_inferencer(**options)
        torch.testing.assert_close(
            one.propagate(image, meet, color_order='rgb'),
            one.propagate(image, [(10, 20, *vector)], color_order='rgb'),
        )
    strict = make_inferencer(collisions='error')
    with pytest.raises(InputError, match='same pixel'):
        strict.propagate(strict.encode(image, 'rgb'), meet)
    # These meet at the working size alone.
    with pytest.raises(InputError, match='same pixel'):
        make_inferencer(collisions='error', working_size=16).check_arrows(
            (45, 61), torch.tensor([(9.0, 20, 1, 0), (10.0, 20, 2, 0)])
        )


def test_flow_of_the_working_size_comes_back_to_its_place(inferencer, monkeypatch):
    def ramp(output, size):
        y, x = torch.meshgrid(*(torch.arange(s) + 0.5 for s in size), indexing='ij')
        return torch.stack([x, y])[None].expand(len(output), -1, -1, -1)

    monkeypatch.setattr(inferencer.model, 'to_flow', ramp)
    image = np.zeros((40, 60, 3), np.uint8)
    flow = inferencer.propagate(image, [(9, 9, 1, 1)], color_order='rgb', working_size=(20, 30))
    torch.testing.assert_close(flow[0, 0, 5, 2:-2], torch.arange(60)[2:-2] + 0.5)
    torch.testing.assert_close(flow[0, 1, 2:-2, 5], torch.arange(40)[2:-2] + 0.5)


def test_a_shrunk_image_is_averaged(make_inferencer, monkeypatch):
    inferencer, seen = make_inferencer(normalization='none'), []
    encode = inferencer.model.encode_image
    monkeypatch.setattr(
        inferencer.model, 'encode_image', lambda planes: seen.append(planes) or encode(planes)
    )
    stripes = torch.zeros(3, 48, 96)
    stripes[..., 1::2] = 1
    inferencer.encode(stripes, working_size=(16, 32))
    assert (seen[0][..., 4:-4] - 0.5).abs().max() < 0.1  # sampled: 0 and 1 in turn


def test_a_network_of_raw_flow_has_no_limit(tiny_config, image):
    model = copy.deepcopy(tiny_config.model.to_dict())
    model.update(codec=None, loss=dict(type='SmoothL1FlowLoss'))
    model['decoder']['out_channels'] = 2
    inferencer = CMPInferencer(MODELS.build(model))
    assert inferencer.max_vector is None
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for inferencer.out_of_range in ('warn', 'clip', 'rescale', 'error'):
            flow = inferencer.propagate(image, [(10, 20, 200.0, 0.0)], color_order='rgb')
            assert flow.shape == (1, 2, 45, 61)


def test_an_encoded_image_holds_no_graph(tiny_config, image):
    inferencer = CMPInferencer(MODELS.build(tiny_config.model))
    assert not any(one.requires_grad for one in inferencer.encode(image, 'rgb').features)
