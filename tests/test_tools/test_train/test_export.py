"""What a training run leaves, made into files for others."""

import hashlib
import runpy
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config

from cmp_mm.engine import export
from cmp_mm.registry import MODELS

ROOT = Path(__file__).parents[3]
RESNET50 = 'maps of out_indices 0, 1, 2, 3, which in_index counts, have 256, 512, 1024, 2048 channels'
EXTRACT, PUBLISH = 'model_converters/extract_backbone.py', 'model_converters/publish_model.py'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint as a run writes it: an encoder with the whole ResNet-18, other parts tiny."""
    model = dict(
        type='CMP',
        backbone=dict(
            type='ResNet', depth=18, init_cfg=dict(type='Pretrained', checkpoint='/home/me/secret.pth')
        ),
        neck=dict(type='ConvNeck', in_channels=512, out_channels=8),
        guidance_encoder=dict(type='GuidanceEncoder', stride=8),
        decoder=dict(type='PlainDecoder', in_channels=24, combo=(1,), out_channels=6),
        codec=dict(type='QuantizedFlowCodec', num_bins=3),
        loss=dict(type='QuantizedFlowLoss'),
    )
    state = MODELS.build({**model, 'backbone': dict(type='ResNet', depth=18)}).state_dict()
    path = tmp_path_factory.mktemp('trained') / 'iter_5.pth'
    history = dict(log_history=torch.tensor([4.0, 3.5]), count_history=torch.ones(2), max_length=10)
    meta = dict(model=model, iter=5, epoch=0, cfg='load_from = "/home/me"', experiment_name='me', time='now')
    hub = dict(
        log_scalars={'val/cmp/epe': history, 'val/time': history},
        runtime_info=dict(validated_iter=5),
        resumed_keys={},
    )
    torch.save(dict(meta=meta, state_dict=state, optimizer={}, message_hub=hub), path)
    return path


def test_backbone_loads_without_a_prefix(tool, trained, tmp_path):
    out = tmp_path / 'backbone.pth'
    code, output = tool(EXTRACT, trained, out)
    assert code == 0 and '120 tensors matched; 0 missing; 0 unexpected; 0 misshapen' in output, output
    saved = torch.load(out, weights_only=True)
    assert 'secret' not in str(saved['meta']) and saved['meta']['backbone']['depth'] == 18
    whole = torch.load(trained, weights_only=True)['state_dict']
    assert all(torch.equal(value, whole[f'backbone.{key}']) for key, value in saved['state_dict'].items())
    # As a downstream config does it.
    module = MODELS.build(
        dict(type='ResNet', depth=18, init_cfg=dict(type='Pretrained', checkpoint=str(out)))
    )
    module.init_weights()
    assert all(torch.equal(value, whole[f'backbone.{key}']) for key, value in module.state_dict().items())


def test_what_it_says_of_downstream_loads_the_weights_and_stops_where_they_do_not_fit(
    tool, trained, tmp_path
):
    from cmp_mm.downstream import BackboneMismatchError

    out = tmp_path / "it's a backbone.pth"
    _, output = tool(EXTRACT, trained, out)
    said = next(line for line in output.splitlines() if line.startswith('downstream: '))
    config = Config.fromstring(said.removeprefix('downstream: ').replace('), ', ')\n', 1), '.py')
    assert config.custom_imports.imports == ['cmp_mm.downstream']
    # Over the base's backbone, of which nothing stays.
    assert config.backbone.pop('_delete_') is True
    assert output.splitlines()[-1].endswith('have 64, 128, 256, 512 channels'), output
    module = MODELS.build(config.backbone)
    module.init_weights()
    whole = torch.load(trained, weights_only=True)['state_dict']
    assert all(torch.equal(value, whole[f'backbone.{key}']) for key, value in module.state_dict().items())
    with pytest.raises(BackboneMismatchError, match='missing'):
        MODELS.build(dict(config.backbone, depth=34)).init_weights()


@pytest.mark.parametrize(
    ('backbone', 'expected', 'widths'),
    [
        (dict(type='ResNet', depth=50), "type='ResNet', depth=50, init_cfg", RESNET50),
        # A skip-layer decoder's: the segmentation's own config says which stages its heads read.
        (
            dict(type='ResNet', depth=50, out_stem=True, out_indices=(0, 3)),
            "type='ResNet', depth=50, init_cfg",
            RESNET50,
        ),
        (
            dict(type='ResNet', depth=18, num_stages=3, out_indices=(2,)),
            "type='cmp_mm.ResNet', depth=18, num_stages=3, out_indices=(0, 1, 2), init_cfg",
            'maps of out_indices 0, 1, 2, which in_index counts, have 64, 128, 256 channels',
        ),
        (
            dict(type='AlexNetFCN', stride=8),
            "type='cmp_mm.AlexNetFCN', stride=8, init_cfg",
            'have 4096 channels',
        ),
    ],
)
def test_what_it_says_of_downstream_is_the_network_that_was_trained(
    tool, tmp_path, backbone, expected, widths
):
    state = MODELS.build(dict(backbone)).state_dict()
    state = {f'backbone.{key}': value for key, value in state.items()}
    torch.save(
        dict(meta=dict(model=dict(type='CMP', backbone=backbone)), state_dict=state), tmp_path / 'a.pth'
    )
    code, output = tool(EXTRACT, tmp_path / 'a.pth', tmp_path / 'backbone.pth')
    assert code == 0 and f'backbone=dict(_delete_=True, {expected}=' in output, output
    assert output.splitlines()[-1].endswith(widths), output
    said = output[output.index('backbone=dict(') :].splitlines()[0]
    config = Config.fromstring(said, '.py').backbone
    config.pop('_delete_')
    module = MODELS.build(config)
    module.init_weights()
    assert len(module.state_dict()) == len(state)


def test_of_a_fine_tuned_network_it_says_what_to_do(tool, tmp_path):
    backbone = dict(type='ResNet', depth=18, norm_cfg=dict(type='SyncBN'))
    meta = dict(model=dict(type='EncoderDecoder', backbone=backbone, decode_head=dict(type='FCNHead')))
    state = MODELS.build(dict(type='ResNet', depth=18)).state_dict()
    state = {f'backbone.{key}': value for key, value in state.items()}
    torch.save(dict(meta=meta, state_dict=state), tmp_path / 'tuned.pth')
    code, output = tool(EXTRACT, tmp_path / 'tuned.pth', tmp_path / 'backbone.pth')
    assert code == 1 and 'BackboneInit takes a checkpoint of EncoderDecoder as it is' in output, output
    assert not (tmp_path / 'backbone.pth').exists()
    start = dict(type='cmp_mm.BackboneInit', source=str(tmp_path / 'tuned.pth'))
    module = MODELS.build(dict(type='ResNet', depth=18, init_cfg=start))
    module.init_weights()
    assert torch.equal(module.conv1.weight, state['backbone.conv1.weight'])


@pytest.mark.parametrize('layout', ['torchvision', 'safetensors'])
def test_other_layouts(tool, trained, tmp_path, layout):
    if layout == 'safetensors':
        load = pytest.importorskip('safetensors.torch').load_file
    else:

        def load(path):
            return torch.load(path, weights_only=True)

    out = tmp_path / f'backbone.{layout}'
    code, output = tool(EXTRACT, trained, out, '--layout', layout)
    assert code == 0, output
    whole = torch.load(trained, weights_only=True)['state_dict']
    loaded = load(out)
    assert len(loaded) == 120
    assert all(torch.equal(value, whole[f'backbone.{key}']) for key, value in loaded.items())


def test_a_name_of_safetensors_is_kept(tool, trained, tmp_path):
    load = pytest.importorskip('safetensors.torch').load_file
    out = tmp_path / 'backbone.safetensors'
    code, output = tool(EXTRACT, trained, out)
    assert code == 0, output
    assert len(load(out)) == 120
    code, output = tool(EXTRACT, trained, out, '--layout', 'torchvision')
    assert code == 2 and 'is named as safetensors, --layout is torchvision' in output
    assert len(load(out)) == 120
    # And the other way round: what reads it goes by its name.
    code, output = tool(EXTRACT, trained, tmp_path / 'backbone.pth', '--layout', 'safetensors')
    assert code == 2 and 'backbone.pth has not that ending: change one of them' in output
    assert not (tmp_path / 'backbone.pth').exists()


def test_torchvision_takes_it(tool, trained, tmp_path):
    try:
        models = pytest.importorskip('torchvision.models')
    except RuntimeError:
        pytest.skip('this torchvision does not go with this torch')
    code, output = tool(EXTRACT, trained, tmp_path / 'backbone.pth', '--layout', 'torchvision')
    assert code == 0, output
    state = torch.load(tmp_path / 'backbone.pth', weights_only=True)
    missing, unexpected = models.resnet18().load_state_dict(state, strict=False)
    assert missing == ['fc.weight', 'fc.bias'] and not unexpected


def test_published_file_is_weights_alone_under_its_digits(tool, trained, tmp_path):
    metafile = tmp_path / 'entry.yml'
    options = ['--metafile', metafile, '--dataset', 'YFCC']
    code, output = tool(PUBLISH, trained, tmp_path / 'cmp_small.pth', *options)
    assert code == 0 and '0 missing; 0 unexpected; 0 misshapen' in output, output
    (path,) = tmp_path.glob('cmp_small-*.pth')
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert path.name == f'cmp_small-{digits}.pth'
    published = torch.load(path, weights_only=True)
    assert published.keys() == {'meta', 'state_dict'}
    assert published['meta'].keys() == {'cmp_mm_version', 'model', 'iter'}
    assert 'me' not in str(published['meta']).replace('name', '').split('/'), (
        'no paths of the training machine'
    )
    (entry,) = yaml.safe_load(metafile.read_text())
    assert entry['Name'] == 'cmp_small' and entry['Weights'] == path.name
    assert entry['Results'][0]['Dataset'] == 'YFCC'
    assert entry['Results'][0]['Metrics'] == {'cmp/epe': 3.5} and entry['Metadata'] == {'Iterations': 5}
    # Metrics of earlier weights are not given as these weights' own.
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint['message_hub']['runtime_info']['validated_iter'] = 4
    torch.save(checkpoint, tmp_path / 'later.pth')
    code, output = tool(PUBLISH, tmp_path / 'later.pth', path, *options)
    assert code == 0 and 'later.pth tells of no validation of these weights' in output, output
    (entry,) = yaml.safe_load(metafile.read_text())
    assert 'Results' not in entry and entry['Metadata'] == {'Iterations': 5}
    (tmp_path / 'later.pth').unlink()
    # Publishing it again changes nothing, not even the name.
    code, output = tool(PUBLISH, path, path)
    assert code == 0, output
    assert [found.name for found in tmp_path.glob('*.pth')] == [path.name]


@pytest.mark.parametrize(
    ('given', 'name'),
    [
        ('r18.pth', 'r18-{}.pth'),
        ('r18', 'r18-{}.pth'),
        ('r18_v0.2', 'r18_v0.2-{}.pth'),
        ('r18_v0.2-0123abcd.pth', 'r18_v0.2-{}.pth'),
        ('r18.pt', 'r18-{}.pt'),
    ],
)
def test_the_digits_come_before_the_suffix(tmp_path, given, name):
    final = export.write_published(tmp_path / given, dict(a=torch.zeros(1)))
    assert final.name == name.format(hashlib.sha256(final.read_bytes()).hexdigest()[:8])


def test_an_encoder_alone_is_published_as_the_backbone_it_is(tool, trained, tmp_path):
    """As official2cmp_mm.py writes one: the backbone's config, and its keys with their prefix."""
    checkpoint = torch.load(trained, weights_only=True)
    state = {key: value for key, value in checkpoint['state_dict'].items() if key.startswith('backbone.')}
    config = dict(type='ResNet', depth=18)
    torch.save(dict(meta=dict(model=config), state_dict=state), tmp_path / 'encoder.pth')
    code, output = tool(PUBLISH, tmp_path / 'encoder.pth', tmp_path / 'out.pth')
    assert code == 0 and '0 missing; 0 unexpected' in output, output
    (path,) = tmp_path.glob('out-*.pth')
    MODELS.build(config).load_state_dict(torch.load(path, weights_only=True)['state_dict'])


def test_an_encoder_that_reads_a_tensor_as_it_is_built(tool, trained, tmp_path):
    """On the meta device Swin cannot be built."""
    pytest.importorskip('mmseg')
    backbone = dict(
        type='mmseg.SwinTransformer', embed_dims=8, depths=(1, 1), num_heads=(1, 1), strides=(4, 2)
    )
    backbone.update(out_indices=(1,), window_size=2)
    config = tmp_path / 'swin.py'
    config.write_text(f"model = dict(type='CMP', backbone={backbone})\n")
    state = MODELS.build(dict(backbone)).state_dict()
    state = {f'backbone.{key}': value for key, value in state.items()}
    torch.save(dict(state_dict=state), tmp_path / 'swin.pth')
    code, output = tool(EXTRACT, tmp_path / 'swin.pth', tmp_path / 'out.pth', '--config', config)
    assert code == 0 and f'{len(state)} tensors matched; 0 missing' in output, output
    # It takes nothing but mmengine's own initialiser.
    said = output[output.index('backbone=dict(') :].splitlines()[0]
    assert output.splitlines()[-1].endswith(
        'maps of out_indices 1, which in_index counts, have 16 channels'
    ), output
    config = Config.fromstring(said, '.py').backbone
    config.pop('_delete_')
    module = MODELS.build(config)
    module.init_weights()
    loaded = module.state_dict()
    assert all(torch.equal(loaded[key.removeprefix('backbone.')], value) for key, value in state.items())


@pytest.mark.parametrize(
    ('backbone', 'out', 'said'),
    [
        (dict(type='mmseg.ResNeXt', depth=50, groups=32), 'b.safetensors', 'cmp_mm.BackboneInit'),
        (dict(type='mmseg.ConvNeXt', pretrained='x.pth'), 'b.pth', 'cmp_mm.BackboneInit'),
        (dict(type='mmdet.PyramidVisionTransformerV2'), 'b.pth', 'Pretrained'),
        (dict(type='mmpose.ShuffleNetV2', widen_factor=1.0), 'b.pth', 'Pretrained'),
    ],
)
def test_backbones_of_others_are_guarded_where_they_can_be(backbone, out, said):
    downstream = runpy.run_path(str(ROOT / 'tools' / EXTRACT))['downstream']
    config = Config.fromstring(downstream(backbone, out), '.py').backbone
    assert config.pop('init_cfg')['type'] == said and config.pop('_delete_')
    backbone.pop('pretrained', None)
    assert config == backbone


def test_averaged_and_raw_weights(tool, trained, tmp_path):
    """mmengine's EMAHook stores the averaged weights as state_dict and the others as ema_state_dict."""
    checkpoint = torch.load(trained, weights_only=True)
    raw = {f'module.{key}': value + 1 for key, value in checkpoint['state_dict'].items()}
    torch.save(dict(checkpoint, ema_state_dict=dict(raw, steps=torch.tensor(3))), tmp_path / 'ema.pth')
    for options, shift in ((['--raw'], 1), ([], 0)):
        code, output = tool(EXTRACT, tmp_path / 'ema.pth', tmp_path / 'out.pth', *options)
        assert code == 0, output
        found = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']['conv1.weight']
        assert torch.equal(found, checkpoint['state_dict']['backbone.conv1.weight'] + shift)
        # It is the averaged ones that were validated.
        code, output = tool(PUBLISH, tmp_path / 'ema.pth', tmp_path / 'p.pth', *options, '--metafile', '-')
        assert code == 0 and ('cmp/epe: 3.5' in output) == (not shift), output
        assert ('no validation of these weights: the entry has no metrics' in output) == bool(shift)


def test_keys_that_do_not_fit_are_listed(tool, trained, tmp_path):
    checkpoint = torch.load(trained, weights_only=True)
    state = checkpoint['state_dict']
    state['backbone.stem.weight'] = state.pop('backbone.conv1.weight')
    torch.save(checkpoint, tmp_path / 'odd.pth')
    code, output = tool(EXTRACT, tmp_path / 'odd.pth', tmp_path / 'out.pth')
    assert code == 1 and '1 missing conv1.weight; 1 unexpected stem.weight' in output, output
    assert 'does not fill ResNet' in output
    code, output = tool(PUBLISH, tmp_path / 'odd.pth', tmp_path / 'out.pth')
    assert code == 1 and '1 missing backbone.conv1.weight' in output, output
    assert not list(tmp_path.glob('out*.pth')), 'nothing was written'


def test_what_was_there_is_not_lost(tool, fails, trained, tmp_path):
    out = tmp_path / 'out.pth'
    assert tool(EXTRACT, trained, out)[0] == 0
    before = out.read_bytes()
    other = tmp_path / 'other.py'
    other.write_text("model = dict(type='CMP', backbone=dict(type='ResNet', depth=34))\n")
    code, output = tool(EXTRACT, trained, out, '--config', other)
    assert code == 1 and 'missing' in output, output
    assert out.read_bytes() == before
    checkpoint = tmp_path / 'run.pth'
    checkpoint.write_bytes(trained.read_bytes())
    assert 'is CKPT itself' in fails(EXTRACT, checkpoint, tmp_path / '.' / 'run.pth')
    assert checkpoint.read_bytes() == trained.read_bytes()


@pytest.mark.parametrize('kind', ['os.system', 'mmengine.utils.mkdir_or_exist', 'Pretrained', None])
def test_a_checkpoint_cannot_name_what_is_called(fails, trained, tmp_path, kind):
    checkpoint, marker = torch.load(trained, weights_only=True), tmp_path / 'made'
    checkpoint['meta']['model'] = dict(
        type='CMP', backbone=dict(type=kind, command=f'mkdir {marker}', dir_name=str(marker))
    )
    torch.save(checkpoint, tmp_path / 'bad.pth')
    for name in (EXTRACT, PUBLISH):
        assert 'as a part of its model' in fails(name, tmp_path / 'bad.pth', tmp_path / 'out.pth')
    assert not marker.exists() and not (tmp_path / 'out.pth').exists()


def test_a_model_too_large_for_memory_is_not_allocated(tool, trained, tmp_path):
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint['meta']['model']['neck']['in_channels'] = 10**9
    torch.save(checkpoint, tmp_path / 'large.pth')
    code, output = tool(PUBLISH, tmp_path / 'large.pth', tmp_path / 'out.pth')
    assert code == 1 and '1 misshapen neck.' in output, output


def test_unknown_model_and_no_backbone(fails, tool, trained, tmp_path):
    checkpoint = torch.load(trained, weights_only=True)
    model = checkpoint['meta'].pop('model')
    torch.save(checkpoint, tmp_path / 'nameless.pth')
    assert 'add --config' in fails(EXTRACT, tmp_path / 'nameless.pth', tmp_path / 'out.pth')
    (tmp_path / 'mine.py').write_text(f'model = {model!r}\n')
    code, output = tool(
        EXTRACT, tmp_path / 'nameless.pth', tmp_path / 'out.pth', '--config', tmp_path / 'mine.py'
    )
    assert code == 0, output
    torch.save(dict(state_dict=dict(w=torch.ones(1))), tmp_path / 'other.pth')
    line = fails(EXTRACT, tmp_path / 'other.pth', tmp_path / 'out2.pth')
    assert "no key begins with 'backbone.'; the keys begin with w" in line
    assert 'there is no such file' in fails(PUBLISH, tmp_path / 'none.pth', tmp_path / 'out2.pth')
