"""The reference's five networks through the converter: their golden outputs, end to end."""

import importlib.util
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from cmp_mm.registry import MODELS

ROOT = Path(__file__).parents[2]
DATA = ROOT / 'tests' / 'data' / 'model'
SHAPES = json.loads((DATA / 'official_state_dict_shapes.json').read_text())
CHANNEL_STEP = {'resnet50_skip': 3, 'resnet50_flownet': 11}
NAMES = {
    'alexnet_plain': 'AlexNet, PlainDecoder over scales (1, 2, 4), 198 channels',
    'resnet50_plain': 'ResNet-50, PlainDecoder over scales (1, 2, 4), 198 channels',
    'resnet50_plain8': 'ResNet-50, PlainDecoder over scales (1, 2, 4, 8), 198 channels',
    'resnet50_skip': 'ResNet-50, SkipDecoder over scales (1, 2, 4, 8), 198 channels',
    'resnet50_flownet': 'ResNet-50, FlowNetDecoder over scales (1, 2, 4, 8), 198 channels',
}


@pytest.fixture(scope='module')
def main():
    path = ROOT / 'tools' / 'model_converters' / 'official2cmp_mm.py'
    spec = importlib.util.spec_from_file_location('official2cmp_mm', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def golden_weight(key, shape, seed):
    """The formula the golden figures were made with."""
    x = np.random.RandomState((zlib.crc32(key.encode()) ^ seed) & 0x7FFFFFFF).standard_normal(shape)
    x = np.asarray(x, dtype=np.float32)
    if key.endswith('num_batches_tracked'):
        return torch.tensor(0)
    if key.endswith('running_var'):
        x = 0.5 + np.abs(x)
    elif key.endswith('running_mean'):
        x = 0.1 * x
    elif len(shape) == 1:
        x = 1 + 0.1 * x if key.endswith('weight') else 0.1 * x
    else:
        x = x * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


def official_weights(variant, seed=0):
    return {key: golden_weight(key, shape, seed) for key, shape in SHAPES[variant].items()}


@pytest.mark.parametrize('network', ['checkpoint', 'config'])
@pytest.mark.parametrize('variant', NAMES)
def test_golden_outputs_through_the_converter(variant, network, main, tmp_path, capsys):
    """Of the network that the converted file describes, and of the one that the configs train."""
    golden = np.load(DATA / f'model_{variant}.npz')
    state = official_weights(variant, int(golden['seed']))
    if variant == 'resnet50_plain8':  # as older files are
        state = {
            k.removeprefix('module.'): v for k, v in state.items() if not k.endswith('num_batches_tracked')
        }
    optimizer = dict(state={0: dict(momentum_buffer=torch.zeros(3))}, param_groups=[dict(lr=0.1, params=[0])])
    torch.save(dict(step=70000, state_dict=state, optimizer=optimizer), tmp_path / 'official.pth.tar')
    assert main([str(tmp_path / 'official.pth.tar'), str(tmp_path / 'ours.pth')]) == 0
    out = capsys.readouterr().out
    assert NAMES[variant] in out
    assert 'missing keys: [], unexpected keys: []' in out

    checkpoint = torch.load(tmp_path / 'ours.pth', weights_only=True)
    assert set(checkpoint) == {'meta', 'state_dict'}
    config = checkpoint['meta']['model']
    if network == 'config':
        config = Config.fromfile(ROOT / f'configs/_base_/models/cmp_{variant}.py').model
    model = MODELS.build(config).eval()
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    with torch.no_grad():
        output = model(
            dict(image=torch.from_numpy(golden['image']), guidance=torch.from_numpy(golden['sparse']))
        )
    outputs = [output] if isinstance(output, torch.Tensor) else output
    names = sorted(name for name in golden if name.startswith('output'))
    assert len(outputs) == len(names)
    for got, name in zip(outputs, names, strict=True):
        expected = golden[name]
        got = got[:, :: CHANNEL_STEP.get(variant, 1)].numpy()
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max(), name


def test_an_extracted_encoder_becomes_a_backbone_for_downstream_models(main, tmp_path, capsys):
    state = {
        key.removeprefix('module.image_encoder.'): torch.randn(shape) if shape else torch.tensor(0)
        for key, shape in SHAPES['resnet50_plain'].items()
        if 'image_encoder' in key
    }
    torch.save(state, tmp_path / 'encoder.pth')
    assert main([str(tmp_path / 'encoder.pth'), str(tmp_path / 'ours.pth')]) == 0
    assert 'ResNet-50 image encoder' in capsys.readouterr().out
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'ours.pth'), prefix='backbone.')
    backbone = MODELS.build(dict(type='ResNet', depth=50, init_cfg=init_cfg))
    backbone.init_weights()
    assert torch.equal(backbone.layer4[2].conv3.weight, state['layer4.2.conv3.weight'])


def test_the_source_is_not_overwritten(main, tmp_path, capsys):
    path = tmp_path / 'official.pth.tar'
    torch.save(dict(state_dict=official_weights('alexnet_plain')), path)
    before = path.stat()
    assert main([str(path), str(tmp_path / '.' / path.name)]) == 1
    assert 'is SRC itself' in capsys.readouterr().err
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_size == before.st_size


class _Program:
    def __reduce__(self):
        return (print, ('this must not run',))


def _something_else(folder):
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(2)}), folder / 'ours.pth')
    torch.save(torch.zeros(3), folder / 'tensor.pth')
    torch.save(dict(state_dict=_Program()), folder / 'program.pth')
    (folder / 'text.pth').write_text('weights')
    (folder / 'empty.pth').write_bytes(b'')
    return ['ours.pth', 'tensor.pth', 'program.pth', 'text.pth', 'empty.pth', 'absent.pth', '.']


def test_something_else_is_refused_in_one_line_and_writes_nothing(main, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    for name in _something_else(tmp_path / 'in'):
        assert main([str(tmp_path / 'in' / name), str(tmp_path / 'out.pth')]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith('error: '), name
        assert captured.err.count('\n') == 1, captured.err
        assert 'this must not run' not in captured.out
    assert not (tmp_path / 'out.pth').exists()
    assert [path.name for path in tmp_path.iterdir()] == ['in']


def test_an_unwritable_destination_is_one_line(main, tmp_path, capsys):
    state = {
        key.removeprefix('module.image_encoder.'): torch.zeros(shape)
        for key, shape in SHAPES['resnet50_plain'].items()
        if 'image_encoder' in key
    }
    torch.save(state, tmp_path / 'encoder.pth')
    (tmp_path / 'file').write_text('not a folder')
    assert main([str(tmp_path / 'encoder.pth'), str(tmp_path / 'file' / 'ours.pth')]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert error.count('\n') == 1
