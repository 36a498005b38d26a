import copy

import pytest
import torch

from cmp_mm.models import ConvNeck, FlowNetDecoder, PlainDecoder, SkipDecoder


def features_for(decoder, side=8, layer1=256):
    """Stem, layer1 and projected features of an image of 8 * side."""
    maps = [torch.randn(1, 64, 4 * side, 4 * side), torch.randn(1, layer1, 2 * side, 2 * side)]
    image = [torch.randn(1, 3, 8 * side, 8 * side)] if decoder.uses_image else []
    return [*image, *maps, torch.randn(1, 256, side, side)], torch.randn(1, 16, side, side)


@pytest.mark.parametrize('combo', [(1,), (1, 2, 4), (1, 2, 4, 8), (3, 1)])
def test_plain_decoder_keeps_the_size_for_every_combo(combo):
    decoder = PlainDecoder(combo=combo, out_channels=2).eval()
    features, motion = features_for(decoder, 9)
    assert decoder(features, motion).shape == (1, 2, 9, 9)


def test_skip_decoder_gives_half_resolution():
    decoder = SkipDecoder(out_channels=2).eval()
    assert decoder(*features_for(decoder)).shape == (1, 2, 32, 32)


def test_flownet_decoder_gives_four_scales_finest_first():
    decoder = FlowNetDecoder(out_channels=2).eval()
    assert [tuple(o.shape) for o in decoder(*features_for(decoder))] == [
        (1, 2, s, s) for s in (64, 32, 16, 8)
    ]


@pytest.mark.parametrize(
    'decoder',
    [
        PlainDecoder(combo=(1, 2, 4), out_channels=6),
        SkipDecoder(out_channels=6),
        FlowNetDecoder(out_channels=6),
    ],
)
def test_one_image_for_many_motions_is_the_image_repeated(decoder):
    """The plain path: everything repeated and concatenated."""
    decoder = copy.deepcopy(decoder).double().eval()
    features, motion = features_for(decoder)
    if isinstance(decoder, PlainDecoder):
        features = features[-1:]
    motion = torch.cat([motion, 2 * motion.flip(-1), 0 * motion]).double().requires_grad_()
    features = [feature.double().requires_grad_() for feature in features]
    repeated = [feature.expand(3, -1, -1, -1) for feature in features]
    found, expected = decoder(features, motion), decoder(repeated, motion)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    outputs = [output if isinstance(output, tuple) else (output,) for output in (found, expected)]
    inputs = [motion, *features, *decoder.parameters()]
    gradients = [
        torch.autograd.grad(sum(one.square().mean() for one in output), inputs) for output in outputs
    ]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)


def test_what_depends_on_the_image_alone_is_computed_once():
    decoder, sizes = SkipDecoder(out_channels=2).eval(), []
    for name in ('skipconv4', 'skipconv2', 'fusion4', 'fusion2'):
        getattr(decoder, name).register_forward_hook(
            lambda _module, parts, out, name=name: sizes.append((name, [len(p) for p in parts], len(out)))
        )
    features, motion = features_for(decoder)
    decoder(features, motion.expand(5, -1, -1, -1))
    assert sorted(sizes) == [
        ('fusion2', [5, 1], 5),
        ('fusion4', [5, 1], 5),
        ('skipconv2', [1], 1),
        ('skipconv4', [1], 1),
    ]


def test_the_neck_projects_the_deepest_map_only():
    neck = ConvNeck(8, 4)
    shallow, deep = torch.randn(1, 3, 4, 4), torch.randn(1, 8, 2, 2)
    out = neck([shallow, deep])
    assert out[0] is shallow
    assert out[1].shape == (1, 4, 2, 2)


@pytest.mark.parametrize('combo', [(), (1, 1), (0, 1), (1, 2.0), (-2,)])
def test_a_combo_that_is_none_is_refused(combo):
    with pytest.raises(ValueError, match='combo must hold distinct positive integers'):
        PlainDecoder(combo=combo)


@pytest.mark.parametrize('decoder', [PlainDecoder(combo=(1, 2, 4, 8)), SkipDecoder(), FlowNetDecoder()])
def test_maps_too_small_to_pool_are_refused(decoder):
    features, motion = features_for(decoder, 4)
    if isinstance(decoder, PlainDecoder):
        features = features[-1:]
    with pytest.raises(ValueError, match='a feature map of 4x4 cannot be max-pooled by 8; use larger inputs'):
        decoder(features, motion)


@pytest.mark.parametrize('decoder', [PlainDecoder(combo=(1, 2, 4, 8)), SkipDecoder(), FlowNetDecoder()])
def test_a_batch_of_one_too_small_for_batch_normalisation_is_refused(decoder):
    features, motion = features_for(decoder, 12)
    if isinstance(decoder, PlainDecoder):
        features = features[-1:]
    decoder.train()
    one = [feature[:1] for feature in features], motion[:1]
    with pytest.raises(
        ValueError, match='12x12, max-pooled by 8, is one pixel, too few for batch norm.*larger'
    ):
        decoder(*one)
    decoder([feature.repeat(2, 1, 1, 1) for feature in one[0]], one[1].repeat(2, 1, 1, 1))
    decoder.eval()
    decoder(*one)


def test_parts_that_do_not_fit_are_refused():
    feature, motion = torch.zeros(1, 256, 8, 8), torch.zeros(1, 16, 8, 8)
    with pytest.raises(ValueError, match='image features are 8x8 but motion features are 2x2; the strides'):
        PlainDecoder()([feature], motion[..., :2, :2])
    with pytest.raises(
        ValueError, match='in_channels is 272, but image features of 128 and motion .* make 144'
    ):
        PlainDecoder()([feature[:, :128]], motion)
    with pytest.raises(
        ValueError, match=r'expected 3 feature maps \(stem, layer1, neck\), got 1; .* out_stem'
    ):
        SkipDecoder()([feature], motion)
    with pytest.raises(ValueError, match='expected 4 feature maps'):
        FlowNetDecoder()([feature], motion)
    with pytest.raises(ValueError, match='skip_channels needs 2 widths'):
        SkipDecoder(skip_channels=(3, 64, 256))
    with pytest.raises(ValueError, match='skip_channels needs 3 widths'):
        FlowNetDecoder(skip_channels=(64, 256))
    with pytest.raises(ValueError, match='in_channels is 512, but the last feature map .* 256 channels wide'):
        ConvNeck(512)([feature])
    with pytest.raises(ValueError, match=r'the backbone gives \(1, 512\), expected a feature map'):
        ConvNeck(512)([torch.zeros(1, 512)])
