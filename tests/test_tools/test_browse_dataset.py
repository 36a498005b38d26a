import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from cmp_mm.datasets.puppets.render_set import render_set
from cmp_mm.datasets.puppets.writer import ClipSettings
from cmp_mm.engine import run_config
from cmp_mm.flow import write_flow

TOOL = Path(__file__).parents[2] / 'tools' / 'visualization' / 'browse_dataset.py'
CONFIG = """
pipeline = [
    dict(type='LoadImage'),
    dict(type='LoadFlow'),
    dict(type='FlowRandomCrop', size=(32, 32)),
    dict(type='SampleGuidance', strategies=[dict(type='grid', stride=16)]),
    dict(type='PackFlowInputs'),
]
train_dataloader = dict(dataset=dict(type='ImageFlowDataset', ann_file='train.json', pipeline=pipeline))
visualizer = dict(type='FlowVisualizer', max_radius=8.0, vis_backends=[dict(type='LocalVisBackend')])
"""


@pytest.fixture(scope='module')
def main():
    return runpy.run_path(str(TOOL))['main']


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('browse')
    (folder / 'config.py').write_text(CONFIG)
    render_set(folder / 'puppets', ClipSettings(0, 4, 40, 48, 'flo'), clips=3)
    return folder


def test_pictures_of_the_pipeline(main, config, tmp_path, capsys):
    command = [
        str(config / 'config.py'),
        '--data-root',
        str(config / 'puppets'),
        '--out',
        str(tmp_path / 'a'),
    ]
    main([*command, '--number', '3'])
    names = sorted(path.name for path in (tmp_path / 'a').iterdir())
    assert len(names) == 3 and names[0] == '00000000.png'
    text = capsys.readouterr().out
    assert '3 of 6 samples of train' in text and 'guidance vectors: 4.0 on average, from 4 to 4' in text
    first = cv2.imread(str(tmp_path / 'a' / names[0]))
    # Another draw is another crop; the same one is the same picture.
    main([*command[:-1], str(tmp_path / 'b'), '--number', '1'])
    main([*command[:-1], str(tmp_path / 'c'), '--number', '1', '--draw', '1'])
    again, other = (cv2.imread(str(tmp_path / folder / names[0])) for folder in 'bc')
    assert (again == first).all() and (other != first).any()


def test_colours_are_the_file_s(main, config, tmp_path):
    (tmp_path / 'frames').mkdir()
    for number in range(2):
        cv2.imwrite(str(tmp_path / 'frames' / f'{number}.png'), np.full((40, 48, 3), (200, 40, 10), np.uint8))
    write_flow(np.zeros((40, 48, 2), np.float32), tmp_path / '0.flo')
    item = dict(img_path='frames/0.png', img2_path='frames/1.png', flow_path='0.flo', height=40, width=48)
    item['video'] = 'blue'
    annotation = dict(metainfo=dict(dataset_type='ImageFlowDataset', flow_format='flo'), data_list=[item])
    (tmp_path / 'train.json').write_text(json.dumps(annotation))
    out = tmp_path / 'out'
    main([str(config / 'config.py'), '--data-root', str(tmp_path), '--out', str(out), '--number', '1'])
    picture = cv2.imread(str(out / '00000000.png'))
    assert (picture == (200, 40, 10)).all(axis=2).sum() > 500


def test_another_set_and_another_option_are_one_line(main, config, tmp_path, capsys):
    common = [str(config / 'config.py'), '--out', str(tmp_path), '--data-root', str(config / 'puppets')]
    with pytest.raises(SystemExit):
        main([*common, '--cfg-options', 'foo'])
    assert '--cfg-options foo: expected KEY=VALUE' in capsys.readouterr().err
    several = tmp_path / 'several.py'
    several.write_text(
        (config / 'config.py').read_text()
        + "val_dataloader = dict(dataset=dict(type='ImageFlowDataset', ann_file='val.json', data_root='x',"
        + ' pipeline=pipeline))\n'
        + "train_dataloader['dataset']['sources'] = [dict(ann_file='a', data_root='b')]\n"
    )
    main(
        [
            str(several),
            *common[1:],
            '--split',
            'val',
            '--cfg-options',
            'val_dataloader.dataset.ann_file=train.json',
        ]
    )
    assert 'samples of val' in capsys.readouterr().out
    joined = tmp_path / 'joined.py'
    joined.write_text(
        (config / 'config.py').read_text()
        + "one = train_dataloader['dataset']\n"
        + "train_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[one]))\n"
    )
    with pytest.raises(run_config.UsageError, match='is a ConcatDataset, expected an ImageFlowDataset'):
        main([str(joined), *common[1:]])


def test_bad_input_is_one_line(main, config, tmp_path):
    common = [str(config / 'config.py'), '--out', str(tmp_path), '--data-root']
    with pytest.raises(run_config.UsageError, match='no such file'):
        main([*common, str(tmp_path)])
    with pytest.raises(run_config.UsageError, match='no val_dataloader'):
        main([*common, str(config / 'puppets'), '--split', 'val'])
    with pytest.raises(run_config.UsageError, match='max_radius is -1'):
        main([*common, str(config / 'puppets'), '--max-radius', '-1'])
    with pytest.raises(SystemExit):
        main([*common, str(config / 'puppets'), '--number', '0'])
