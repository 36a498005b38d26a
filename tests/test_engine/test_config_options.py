"""``--cfg-options``: which take effect, and dicts among their values."""

import argparse
import inspect
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from cmp_mm.engine import config_options, run_config

ROOT = Path(__file__).parents[2]
QUICK = ROOT / 'configs/cmp/cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py'
STEP = 'train_dataloader.dataset.pipeline'


@pytest.fixture(scope='module')
def quick():
    return Config.fromfile(QUICK)


def parse(*texts):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=run_config.ConfigOptions)
    return parser.parse_args(['--cfg-options', *texts]).cfg_options


@pytest.mark.parametrize(
    ('option', 'place'),
    [
        ('crop_size', f'{STEP}.3.size'),
        ('codec.num_bins', 'model.codec.num_bins'),
        ('guidance.max_points', f'{STEP}.5.max_points'),
        ('max_iters', 'train_cfg.max_iters, param_scheduler.1.end'),
        ('short_side', f'{STEP}.2.short_side'),
    ],
)
def test_a_variable_of_the_file_is_refused_with_the_places_it_went_to(quick, option, place):
    name = option.partition('.')[0]
    with pytest.raises(run_config.UsageError, match=f"'{name}' is a variable of the config file") as caught:
        run_config.load_config(str(QUICK), {option: 5})
    assert f'; its value is at {place}' in str(caught.value)


@pytest.mark.parametrize('value', [None, True, dict(a=1)])
def test_what_code_of_the_users_may_read_is_warned_of(value, capsys):
    """Its value is at no place; of switches and None, which half of the settings are, nobody can tell."""
    cfg = Config(dict(other=value, model=dict(pretrained=None, frozen=True)))
    config_options.require_effect(cfg, {'other.a': 5})
    assert capsys.readouterr().err == (
        "warning: --cfg-options: 'other' is no section that mmengine reads, and changes nothing unless code "
        'of yours does\n'
    )


def test_of_many_places_some_are_named():
    cfg = Config(dict(width=7, model=[7] * 5))
    with pytest.raises(run_config.UsageError, match=r'model\.0, model\.1, model\.2 and 2 more$'):
        config_options.require_effect(cfg, {'width': 5})


@pytest.mark.parametrize(
    ('option', 'said'),
    [
        ('optim_wraper.optimizer.lr', "no section 'optim_wraper'; did you mean 'optim_wrapper'?"),
        ('zzz', "no section 'zzz', and nothing reads 'zzz'"),
    ],
)
def test_a_section_that_there_is_not(option, said):
    with pytest.raises(run_config.UsageError) as caught:
        run_config.load_config(str(QUICK), {option: 5})
    assert said in str(caught.value)


def test_all_that_mmengine_reads_is_taken():
    read = [name for name in inspect.signature(Runner.__init__).parameters if name not in ('self', 'cfg')]
    assert len(read) > 20
    others = ['compile', 'sync_bn', 'model_wrapper_cfg', 'tta_model', 'custom_imports', 'strategy']
    config_options.require_effect(Config(dict(vis_backends=[])), dict.fromkeys([*read, *others]))


@pytest.mark.parametrize(
    'text',
    [
        "[dict(type='grid', stride=30)]",
        '[dict(type=grid,stride=30)]',
        "[{'type': 'grid', 'stride': 30}]",
        '\'[{"type":"grid","stride":30}]\'',
    ],
)
def test_dicts_among_the_values(quick, text):
    options = parse(f'{STEP}.5.strategies={text}', 'model.loss=dict(a=(1, -2.5), b=[True, None])')
    assert options == {
        f'{STEP}.5.strategies': [dict(type='grid', stride=30)],
        'model.loss': dict(a=(1, -2.5), b=[True, None]),
    }
    cfg = run_config.load_config(str(QUICK), options)
    assert cfg.train_dataloader.dataset.pipeline[5].strategies[0].stride == 30


@pytest.mark.parametrize(
    'text', ['[grid(3,4)]', '[dict(3)]', "[dict(type='grid', stride=]", 'dict(a=open(1))']
)
def test_what_is_no_value_is_one_line(capsys, text):
    with pytest.raises(SystemExit):
        parse(f'{STEP}.5.strategies={text}')
    assert capsys.readouterr().err.splitlines()[-1].count('is no value; expected') == 1


def test_braces_of_patterns_and_names_of_types_are_text():
    options = parse(
        'a={:04d}', 'b={name}', 'c=[iter_{}.pth,epoch_{}.pth]', 'd=[dict(type=cmp_mm.FlowRandomFlip)]'
    )
    assert options == dict(
        a='{:04d}', b='{name}', c=['iter_{}.pth', 'epoch_{}.pth'], d=[dict(type='cmp_mm.FlowRandomFlip')]
    )


@pytest.mark.parametrize('key', ['model.backbone.init_cfg', 'model.neck.init_cfg'])
def test_a_dict_in_the_place_of_another_value_or_of_none(key):
    """mmengine leaves the mark in where there is nothing to delete."""
    options = parse(f"{key}=dict(_delete_=True, type='Normal')")
    cfg = run_config.load_config(str(QUICK), options)
    assert cfg.model[key.split('.')[1]].init_cfg == dict(type='Normal')
