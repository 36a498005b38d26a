import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from cmp_mm.models import CMP, QuantizedFlowCodec
from cmp_mm.models.algorithms.upsampled_bins import upsampled_bins

RESNETS = ['cmp_resnet50_plain', 'cmp_resnet50_plain8', 'cmp_resnet50_skip', 'cmp_resnet50_flownet']
PARAMETERS = {
    'cmp_alexnet_plain': 32.5,
    'cmp_resnet50_plain': 25.5,
    'cmp_resnet50_plain8': 26.0,
    'cmp_resnet50_skip': 28.5,
    'cmp_resnet50_flownet': 34.3,
}


@pytest.mark.parametrize(('name', 'millions'), PARAMETERS.items())
def test_published_parameter_counts(model_cfg, name, millions):
    with torch.device('meta'):
        cfg = model_cfg(name, light=False)
        cfg.pop('data_preprocessor')
        model = MMENGINE_MODELS.build({**cfg, 'type': 'cmp_mm.CMP', 'data_preprocessor': nn.Identity()})
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize('name', RESNETS)
def test_forward_and_backward_reach_every_parameter(build, flow_batch, name):
    model = build(name).train()
    data = model.data_preprocessor(flow_batch((64, 64), (61, 70)), True)
    losses = model(**data, mode='loss')
    assert losses['guidance_points'].item() == 1
    losses['loss'].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert model.backbone.conv1.weight.grad.any()


def test_raw_flow_trains_and_predicts_without_a_codec(build, flow_batch):
    for name, loss in (('cmp_resnet50_plain', 'SmoothL1FlowLoss'), ('cmp_resnet50_flownet', 'MSEFlowLoss')):
        model = build(name, codec=None, decoder=dict(out_channels=2), loss=dict(_delete_=True, type=loss))
        batch = flow_batch((64, 64), (64, 64))
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        losses['loss'].backward()
        assert model.backbone.conv1.weight.grad.isfinite().all()
        (sample, _) = model.val_step(batch)
        assert sample.pred_flow.shape == (2, 64, 64)
        assert 'pred_bins' not in sample


def test_a_few_steps_learn_one_batch(build, flow_batch):
    model = build()
    model.init_weights()
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    losses = [model.train_step(flow_batch((40, 40), (40, 40)), optimizer)['loss'].item() for _ in range(4)]
    assert losses[0] == pytest.approx(2 * torch.tensor(99.0).log().item(), abs=0.1)  # two uniform softmaxes
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('cmp_resnet50_plain', (33, 50)),
        ('cmp_resnet50_plain', (39, 40)),
        ('cmp_resnet50_skip', (57, 66)),
        ('cmp_resnet50_flownet', (57, 66)),
    ],
)
def test_any_size_is_padded_to_the_stride_and_results_are_cropped_back(build, network_inputs, name, size):
    model = build(name).eval()
    inputs = network_inputs(*size)
    height, width = (-(-side // 8) * 8 for side in size)
    padded = {k: F.pad(v, (0, width - size[1], 0, height - size[0])) for k, v in inputs.items()}
    with torch.no_grad():
        output, expected = model(inputs), model(padded)
        torch.testing.assert_close(output, expected)
        (sample,) = model(inputs, mode='predict')
        (whole,) = model(padded, mode='predict')
    assert sample.pred_flow.shape == (2, *size)
    assert sample.pred_bins.shape == (2, *size)
    torch.testing.assert_close(sample.pred_flow, whole.pred_flow[:, : size[0], : size[1]])


def test_alexnet_pads_to_32(build, network_inputs):
    model = build('cmp_alexnet_plain').eval()
    with torch.no_grad():
        assert model(network_inputs(100, 130)).shape == (1, 198, 4, 5)


def test_the_loss_ignores_the_padding(build, flow_batch):
    model = build().eval()
    data = model.data_preprocessor(flow_batch((61, 70), (64, 66)), True)
    seen = {}
    model.loss_module.register_forward_hook(
        lambda module, args, output: seen.update(args=args, output=output)
    )
    loss = model(**data, mode='loss')['loss']
    prediction, codec, flow, valid = seen['args']
    assert flow.shape[-2:] == (64, 72)
    assert valid.sum(dim=(1, 2)).tolist() == [61 * 70, 64 * 66]
    poisoned = flow.masked_fill(~valid[:, None], 1e6)
    assert torch.equal(model.loss_module(prediction, codec, poisoned, valid), loss)


def test_prediction_is_the_upsampled_expectation_and_the_argmax_of_upsampled_logits(build, network_inputs):
    model = build('cmp_resnet50_plain').eval()
    inputs = network_inputs(64, 80, batch=2)
    with torch.no_grad():
        logits = 20 * model(inputs)
        samples = model.predict(logits, None, inputs['image'])
    flow = F.interpolate(model.codec.decode(logits), size=(64, 80), mode='bilinear', align_corners=True)
    full = F.interpolate(logits, size=(64, 80), mode='bilinear', align_corners=True)
    bins = full.unflatten(1, (2, 99)).argmax(2)
    torch.testing.assert_close(torch.stack([s.pred_flow for s in samples]), flow)
    predicted = torch.stack([s.pred_bins for s in samples])
    assert predicted.dtype == torch.int16
    assert (predicted == bins).float().mean() > 0.9999


@pytest.mark.parametrize(
    ('rows', 'size'), [((5, 7), (40, 49)), ((1, 3), (8, 24)), ((4, 1), (9, 1)), ((3, 3), (1, 5))]
)
def test_bins_by_blocks_of_rows_are_those_of_the_whole(rows, size):
    codec = QuantizedFlowCodec(9, 10.0)
    logits = torch.randn(2, 18, *rows, dtype=torch.float64)
    full = F.interpolate(logits.float(), size=size, mode='bilinear', align_corners=True)
    expected = full.unflatten(1, (2, 9)).argmax(2)
    for max_elements in (1, 4000, 2**24):
        got = upsampled_bins(logits, codec, size, max_elements)
        assert got.shape == expected.shape
        assert (got == expected).float().mean() > 0.999


def test_mixed_sizes_get_predictions_of_their_own_size(build, flow_batch):
    samples = build().eval().val_step(flow_batch((64, 72), (70, 66)))
    assert [tuple(s.pred_flow.shape) for s in samples] == [(2, 64, 72), (2, 70, 66)]
    assert all('gt_flow' in s and s.gt_flow.shape == s.pred_flow.shape for s in samples)


def test_one_encoded_image_serves_many_guidance_maps(build, network_inputs):
    model = build('cmp_resnet50_skip').eval()
    inputs = network_inputs(64, 64)
    guidance = torch.cat([inputs['guidance'], 2 * inputs['guidance'], 0 * inputs['guidance']])
    with torch.no_grad():
        once = model.decode(model.encode_image(inputs['image']), model.encode_guidance(guidance))
        repeated = model(dict(image=inputs['image'].repeat(3, 1, 1, 1), guidance=guidance))
    torch.testing.assert_close(once, repeated)
    assert model.to_flow(once, (64, 64)).shape == (3, 2, 64, 64)


def test_walker_has_the_same_parameters_and_never_sees_the_guidance(build, network_inputs):
    cmp, walker = build().eval(), build(use_guidance=False).eval()
    assert {k: v.shape for k, v in cmp.state_dict().items()} == {
        k: v.shape for k, v in walker.state_dict().items()
    }
    inputs = network_inputs(64, 64)
    with torch.no_grad():
        assert not torch.equal(cmp(inputs), cmp(dict(inputs, guidance=torch.zeros(1, 4, 64, 64))))
        blind = walker(inputs)
        assert torch.equal(blind, walker(dict(inputs, guidance=-inputs['guidance'])))
        assert torch.equal(blind, walker(dict(image=inputs['image'])))
        assert torch.equal(blind, cmp(dict(inputs, guidance=torch.zeros(1, 4, 64, 64))))


def test_nothing_is_kept_between_calls(build, network_inputs):
    model = build().eval()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    with torch.no_grad():
        model(network_inputs(64, 64), mode='predict')
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


def test_state_dict_parts_are_named_for_downstream_use(build):
    parts = {key.split('.')[0] for key in build('cmp_resnet50_skip').state_dict()}
    assert parts == {'backbone', 'neck', 'guidance_encoder', 'decoder'}


def test_it_builds_whole_from_the_scope_of_another_package(other_package, model_cfg):
    model = other_package.build({**model_cfg(), 'type': 'cmp_mm.CMP'})
    model.init_weights()
    assert isinstance(model, CMP)
    assert model.neck.conv.weight.std() < 0.01


def test_a_backbone_that_returns_one_tensor_or_a_list_is_fine(build, network_inputs):
    model = build().eval()
    inputs = network_inputs(64, 64)
    expected = model(inputs)
    forward = model.backbone.forward
    for wrap in (lambda maps: maps[0], list):
        model.backbone.forward = lambda image, wrap=wrap: wrap(forward(image))
        assert torch.equal(model(inputs), expected)


def test_wrong_inputs_are_one_sentence(build, network_inputs):
    model = build().eval()
    inputs = network_inputs(64, 64)
    with pytest.raises(ValueError, match='mode must be one of .* got .logits.'):
        model(inputs, mode='logits')
    with pytest.raises(ValueError, match='inputs hold no guidance map; give one, or set use_guidance=False'):
        model(dict(image=inputs['image']))
    with pytest.raises(ValueError, match=r'guidance map is \(1, 4, 32, 64\), expected \(1, 4, 64, 64\)'):
        model(dict(inputs, guidance=torch.zeros(1, 4, 32, 64)))
    with pytest.raises(ValueError, match='a feature map of 2x8 cannot be max-pooled by 4'):
        model(network_inputs(16, 64))
    with pytest.raises(ValueError, match=r'decoder.out_channels is 198, expected 42: 2 axes of the codec'):
        build(codec=dict(num_bins=21))
    with pytest.raises(
        ValueError, match=r'decoder.out_channels is 198, expected 2: raw flow, as codec is None'
    ):
        build(codec=None)


def test_of_several_scales_the_finest_is_predicted(build):
    model = build().eval()
    finest, coarsest = torch.zeros(1, 198, 64, 64), torch.zeros(1, 198, 8, 8)
    finest[:, [60, 99 + 30]] = coarsest[:, [10, 99 + 80]] = 50
    (sample,) = model.predict((finest, coarsest), None, torch.zeros(1, 3, 64, 64))
    torch.testing.assert_close(sample.pred_flow, model.codec.decode(finest)[0])
    assert [axis.unique().tolist() for axis in sample.pred_bins] == [[60], [30]]
