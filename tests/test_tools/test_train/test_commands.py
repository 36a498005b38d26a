"""What the command line of train.py and test.py takes, and what it says when something is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

TOOLS = Path(__file__).resolve().parents[3] / 'tools'


@pytest.mark.parametrize('name', ['train.py', 'test.py'])
@pytest.mark.parametrize('given', [None, 'ACTIVE'])
def test_threads_wait_without_spinning_unless_told_to(name, given):
    # A package read from here sees what torch will see as it loads.
    code = (
        'import os, runpy, sys\n'
        'class Stop:\n'
        '    def find_spec(self, name, *_):\n'
        '        if name in ("mmengine", "torch"): sys.exit(os.environ.get("OMP_WAIT_POLICY"))\n'
        'sys.meta_path.insert(0, Stop())\n'
        f'runpy.run_path({str(TOOLS / name)!r})\n'
    )
    environment = {key: value for key, value in os.environ.items() if key != 'OMP_WAIT_POLICY'}
    if given:
        environment['OMP_WAIT_POLICY'] = given
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
    assert done.stderr.strip() == (given or 'PASSIVE')


def test_missing_config(fails, tmp_path):
    assert 'nowhere.py: there is no such file' in fails('train.py', tmp_path / 'nowhere.py')


def test_broken_config(fails, tmp_path):
    (tmp_path / 'broken.py').write_text('model = dict(\n')
    assert 'broken.py cannot be read' in fails('train.py', tmp_path / 'broken.py')


def test_missing_data(fails, tiny_config, tmp_path):
    line = fails('train.py', tiny_config, '--data-root', tmp_path / 'nothing')
    assert 'nothing/train.json: there is no such file' in line and 'video2pairs.py' in line
    # The same by the option that would otherwise change a variable nobody reads any more.
    again = fails('train.py', tiny_config, '--cfg-options', f'data_root={tmp_path / "nothing"}')
    assert again == line


def test_missing_and_wrong_checkpoints(fails, tiny_config, tmp_path):
    assert 'none.pth: there is no such file' in fails('test.py', tiny_config, tmp_path / 'none.pth')
    other = tmp_path / 'other.pth'
    torch.save(dict(state_dict=dict(w=torch.ones(1))), other)
    line = fails('test.py', tiny_config, other, '--work-dir', tmp_path / 'w')
    assert 'other.pth is not one of this config' in line and '1 unexpected (w)' in line
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(other.read_bytes()[:300])
    line = fails('train.py', tiny_config, '--work-dir', tmp_path / 'w', '--resume', broken)
    assert 'broken.pth: not a whole checkpoint file' in line


def test_resume_of_weights_alone_or_of_another_model(fails, tiny_config, tmp_path):
    weights = tmp_path / 'weights.pth'
    torch.save(dict(meta={}, state_dict=dict(w=torch.ones(1))), weights)
    line = fails('train.py', tiny_config, '--work-dir', tmp_path / 'w', '--resume', weights)
    assert 'weights.pth cannot be resumed: it holds no optimizer, message_hub' in line
    whole = dict(meta=dict(epoch=0, iter=1), state_dict=dict(w=torch.ones(1)), optimizer={}, message_hub={})
    torch.save(whole, weights)
    line = fails('train.py', tiny_config, '--work-dir', tmp_path / 'w', '--resume', weights)
    assert 'weights.pth is not one of this config' in line


def test_options_that_cannot_be(fails, tiny_config, tmp_path):
    if not torch.cuda.is_available():
        assert 'needs an accelerator' in fails('train.py', tiny_config, '--launcher', 'mpi')
        amp = ('--cfg-options', 'optim_wrapper.type=AmpOptimWrapper')
        assert 'AmpOptimWrapper needs an accelerator' in fails('train.py', tiny_config, *amp)
    other = fails('train.py', tiny_config, '--amp', '--cfg-options', 'optim_wrapper.type=ApexOptimWrapper')
    assert '--amp: optim_wrapper.type is ApexOptimWrapper, expected OptimWrapper' in other
    assert 'RANK, WORLD_SIZE' in fails('train.py', tiny_config, '--launcher', 'pytorch')
    text = tiny_config.read_text().replace('auto_scale_lr', 'unused')
    (tmp_path / 'plain.py').write_text(text)
    assert 'base_batch_size' in fails('train.py', tmp_path / 'plain.py', '--auto-scale-lr')


def test_mixed_precision_trains_and_goes_on_without(tool, tiny_config, tmp_path):
    work_dir = tmp_path / 'w'
    code, output = tool(
        'train.py', tiny_config, '--amp', '--work-dir', work_dir, '--cfg-options', 'train_cfg.max_iters=4'
    )
    assert code == 0, output
    if not torch.cuda.is_available():
        assert Config.fromfile(work_dir / 'tiny.py').optim_wrapper.type == 'cmp_mm.Bfloat16OptimWrapper'
    code, output = tool('train.py', tiny_config, '--work-dir', work_dir, '--resume')
    assert code == 0 and 'resumed epoch: 0, iter: 4' in output, output
    weights = torch.load(work_dir / 'iter_12.pth', weights_only=False)['state_dict']
    assert all(value.dtype != torch.bfloat16 for value in weights.values())


def test_unreadable_data_is_one_message_with_the_files(fails, tiny_config, pairs_root, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(pairs_root, data)
    for path in (data / 'flow').iterdir():
        path.write_bytes(b'not a flow')
    options = [
        '--data-root',
        data,
        '--work-dir',
        tmp_path / 'w',
        '--cfg-options',
        'train_dataloader.num_workers=1',
    ]
    assert '.flo' in fails('train.py', tiny_config, *options)


def test_the_usual_options_and_a_run_elsewhere(tool, tiny_config, pairs_root, tmp_path):
    """Data root moved, no validation, scaled rate, weights evaluated and drawn."""
    data = shutil.copytree(pairs_root, tmp_path / 'elsewhere')
    work, train = (
        tmp_path / 'work',
        ['--cfg-options', 'train_cfg.max_iters=2', 'default_hooks.logger.interval=1'],
    )
    code, output = tool(
        'train.py',
        tiny_config,
        '--work-dir',
        work,
        '--data-root',
        data,
        '--no-validate',
        '--auto-scale-lr',
        *train,
    )
    assert code == 0, output
    assert 'Scaling the original LR by 0.5' in output and 'Iter(val)' not in output
    assert 'guidance_points: ' in output and 'eta: ' in output
    (log,) = work.glob('*/vis_data/scalars.json')
    first = json.loads(log.read_text().splitlines()[0])
    # Grid points of stride 16 on 32 x 32 are 4, and the watershed adds some.
    assert 4 <= first['guidance_points'] < 100 and first['loss'] > 0
    show, out = tmp_path / 'show', tmp_path / 'metrics.json'
    options = ['--work-dir', work, '--out', out, '--show-dir', show, '--show-number', '3']
    # A test reads the test set alone.
    options += ['--data-root', data, '--cfg-options', 'train_dataloader.dataset.data_root=nowhere']
    code, output = tool('test.py', tiny_config, work / 'iter_2.pth', *options)
    assert code == 0, output
    metrics = json.loads(out.read_text())
    assert metrics['cmp/epe'] > 0 and metrics['nearest/epe'] > 0
    assert len(list(show.rglob('test_*.png'))) == 3


def test_nothing_to_resume_starts_from_the_weights_of_the_config(tool, tiny_config, tmp_path):
    options = ['--no-validate', '--cfg-options', 'train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.0']
    code, output = tool('train.py', tiny_config, '--work-dir', tmp_path / 'first', *options)
    assert code == 0, output
    start = tmp_path / 'first' / 'iter_1.pth'
    again = [*options, f'load_from={start}', 'randomness.seed=5']
    code, output = tool('train.py', tiny_config, '--work-dir', tmp_path / 'second', '--resume', *again)
    assert code == 0, output
    assert f'starts at iteration 0, with the weights of {start}' in output
    first, second = (
        torch.load(path, weights_only=True)['state_dict']
        for path in (start, tmp_path / 'second' / 'iter_1.pth')
    )
    weights = [key for key in first if key.endswith('weight')]
    assert weights and all(torch.equal(first[key], second[key]) for key in weights)
    # From there on it goes on from its own.
    code, output = tool('train.py', tiny_config, '--work-dir', tmp_path / 'second', '--resume', *again)
    assert code == 0 and 'resumed epoch: 0, iter: 1' in output, output


def test_flow_is_validated_in_the_bins_of_the_network(fails, tiny_config, tmp_path):
    """A perfect prediction would else have a tenth of its bins right."""
    options = ['--work-dir', tmp_path / 'run', '--cfg-options', 'model.codec.max_flow=30']
    said = fails('train.py', tiny_config, *options)
    assert 'val_evaluator.codec is {' in said and 'expected that of the model, {' in said, said
    assert "'max_flow': 30" in said and not (tmp_path / 'run').exists()


def test_no_data_workers_by_the_number_alone(tool, tiny_config, tmp_path):
    """torch takes neither persistent workers nor prefetching without any."""
    config = tmp_path / 'workers.py'
    loader = 'dict(num_workers=2, persistent_workers=True, prefetch_factor=4)'
    config.write_text(
        f"_base_ = '{tiny_config}'\ntrain_dataloader = {loader}\nval_dataloader = {loader}\n"
        'test_dataloader = val_dataloader\n'
    )
    options = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0', 'train_cfg.max_iters=1']
    options += ['train_cfg.val_interval=1']
    code, output = tool('train.py', config, '--work-dir', tmp_path / 'run', '--cfg-options', *options)
    assert code == 0 and 'cmp/epe' in output, output


def test_a_second_run_in_a_folder_and_a_backbone_for_a_whole_network(tool, fails, tiny_config, tmp_path):
    work, options = tmp_path / 'run', ['--no-validate', '--cfg-options', 'train_cfg.max_iters=1']
    code, output = tool('train.py', tiny_config, '--work-dir', work, *options)
    assert code == 0, output
    assert 'param_scheduler.0.end=1 param_scheduler.0.T_max=1 ends it with the run' in output
    again = fails('train.py', tiny_config, '--work-dir', work, *options)
    assert f'{work} holds a run of 1 iteration; add --resume' in again
    backbone = tmp_path / 'backbone.pth'
    code, output = tool('model_converters/extract_backbone.py', work / 'iter_1.pth', backbone)
    assert code == 0, output
    other = ['--work-dir', tmp_path / 'other', *options]
    said = fails('train.py', tiny_config, *other, f'load_from={backbone}')
    assert f'checkpoint {backbone}: load_from takes one of the whole network, and this holds a bac' in said
    # As it says to do.
    start = said[said.index('"') + 1 : said.rindex('"')]
    code, output = tool('train.py', tiny_config, *other, start)
    assert code == 0 and 'tensors found in' in output, output


def test_values_that_cannot_be_are_one_line(fails, tiny_config, tmp_path):
    options = ['--work-dir', tmp_path / 'run', '--cfg-options', 'train_cfg.max_iters=1']
    for option, said in (
        ('optim_wrapper.optimizer.lr=abc', "optim_wrapper.optimizer.lr is 'abc'; expected a number"),
        ('train_dataloader.batch_size=0', 'train_dataloader.batch_size is 0; expected'),
        ('model.backbone.depth=50', 'ConvNeck: in_channels is 128, but the last feature map'),
    ):
        assert said in fails('train.py', tiny_config, *options, option)
