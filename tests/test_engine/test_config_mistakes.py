import pytest
import torch
from mmengine.registry import OPTIMIZERS, VISUALIZERS, DefaultScope
from mmengine.runner import Runner

from cmp_mm.engine import launch
from cmp_mm.engine.config_mistakes import config_mistake
from cmp_mm.registry import HOOKS, MODELS, TASK_UTILS


def said(cfg, registry=TASK_UTILS):
    with pytest.raises(Exception) as caught:
        registry.build(cfg)
    return config_mistake(caught.value)


def test_misspelt_option_names_the_one_meant():
    cfg = dict(type='QuantizedFlowCodec', num_bin=61, max_flow=15.0)
    assert said(cfg) == "QuantizedFlowCodec has no option 'num_bin'; did you mean 'num_bins'?"


def test_unknown_option_names_those_there_are():
    wrong = said(dict(type='QuantizedFlowCodec', num_bins=61, max_flow=15.0, colour='red'))
    assert wrong == "QuantizedFlowCodec has no option 'colour'; it has num_bins, max_flow"


def test_missing_option():
    assert said(dict(type='ConvNeck'), MODELS).startswith("ConvNeck needs 'in_channels'")


def test_misspelt_type():
    assert said(dict(type='QuantisedFlowCodec')) == (
        "no task util is called 'QuantisedFlowCodec'; there is 'QuantizedFlowCodec'"
    )
    assert said(dict(type='Wholly')) == "no task util is called 'Wholly'"


def test_part_inside_a_part():
    cfg = dict(type='CMP', backbone=dict(type='ResNet', dept=18), neck={}, guidance_encoder={}, decoder={})
    assert said(dict(cfg, loss={}), MODELS) == "ResNet has no option 'dept'; did you mean 'depth'?"


def test_named_single_objects_too():
    with DefaultScope.overwrite_default_scope('cmp_mm'):
        wrong = said(dict(type='FlowVisualizer', name='a name of its own', max_radii=5), VISUALIZERS)
    assert wrong == "FlowVisualizer has no option 'max_radii'; did you mean 'max_radius'?"


@pytest.mark.parametrize('error', [TypeError("f() got an unexpected keyword argument 'x'"), KeyError('x')])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)), launch.one_line_errors('train.py'):
        raise error


def test_a_mistake_inside_a_constructor_keeps_its_traceback():
    @TASK_UTILS.register_module(name='Broken', force=True)
    class Broken:
        def __init__(self):
            dict(1, 2)

    try:
        assert said(dict(type='Broken')) is None
    finally:
        TASK_UTILS.module_dict.pop('Broken')


def test_value_that_a_part_refuses():
    assert said(dict(type='ResNet', depth=51), MODELS) == (
        'ResNet: depth must be one of [18, 34, 50, 101, 152]; got 51.'
    )


def test_option_of_a_data_loader():
    loader = dict(
        dataset=[1, 2], sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1, shufle=True
    )
    with pytest.raises(TypeError) as caught:
        Runner.build_dataloader(loader)
    assert config_mistake(caught.value) == "DataLoader has no option 'shufle'; did you mean 'shuffle'?"


def test_option_of_the_checkpoint_hook_is_refused_at_the_start():
    wrong = said(dict(type='AtomicCheckpointHook', intervall=5), HOOKS)
    assert wrong == "AtomicCheckpointHook has no option 'intervall'; did you mean 'interval'?"


def test_it_is_one_line():
    wanted = "^train.py: error: config: ResNet has no option 'dept'"
    with pytest.raises(SystemExit, match=wanted), launch.one_line_errors('train.py'):
        MODELS.build(dict(type='ResNet', dept=18))


def test_parts_of_a_network_that_do_not_go_together():
    neck = MODELS.build(dict(type='ConvNeck', in_channels=8, out_channels=4))
    wanted = r'^train.py: error: config: ConvNeck: in_channels is 8, but .* is 16 channels wide\.$'
    with pytest.raises(SystemExit, match=wanted), launch.one_line_errors('train.py'):
        neck([torch.zeros(1, 16, 4, 4)])
    # By any other part the same words are no mistake of a config's.
    with pytest.raises(ValueError), launch.one_line_errors('train.py'):
        raise ValueError('ConvNeck: in_channels is 8')


def test_value_that_an_optimizer_refuses():
    weights = [torch.zeros(1, requires_grad=True)]
    assert said(dict(type='AdamW', params=weights, eps=-1), OPTIMIZERS) == 'AdamW: Invalid epsilon value: -1'
