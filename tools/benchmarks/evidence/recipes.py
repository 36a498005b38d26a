"""Pretraining recipes that the tables compare, and how one is trained, exported and found again."""

import argparse
import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Lock

from mmengine.config import Config

from cmp_mm.engine import child_process, in_parallel, read_scalars, write_durably

ROOT = Path(__file__).resolve().parents[3]
QUICK = ROOT / 'configs/cmp/cmp_resnet18-plain_quick-1xb16-800_pairs-96x96.py'

WATERSHED = dict(type='watershed', kernel_size=15)
GRID = dict(type='grid', stride=60)
_READING = Lock()  # mmengine reads a config as a module of the whole process
PRECISIONS = ('float32', 'bfloat16')
# At its own 32 a small crop has too few positions to learn from. It is a stride of the first layers too: the
# weights at another one would see the image at another scale.
PRETRAINED_STRIDE = {'alexnet': dict(stride=8)}
# name -> the backbone instead of the quick config's, and the channels it ends with
LARGER = {
    'resnet50': (dict(type='ResNet', depth=50), 2048),
    'alexnet': (dict(type='AlexNetFCN', **PRETRAINED_STRIDE['alexnet']), 4096),
}
BACKBONES = ('resnet18', *LARGER)
# AdamW's. AlexNet's fc6 has weights of .007: ten steps of .001 replace them, by three directions of features.
PRETRAIN_LR = {'resnet18': 2e-3, 'resnet50': 1e-3, 'alexnet': 2e-4}


@dataclass(frozen=True)
class Scale:
    """Sizes of a set of experiments.

    Attributes:
        short_side: short side frames are resized to, pixels.
        crop: side of the square training crop, pixels.
        iterations: length of a pretraining, at least 2.
        batch_size: images a step.
        lr: learning rate at its peak.
        precision: 'float32', or 'bfloat16' for a CPU that has instructions for it (``--amp`` of train.py).
    """

    short_side: int = 112
    crop: int = 96
    iterations: int = 800
    batch_size: int = 16
    lr: float = PRETRAIN_LR['resnet18']
    precision: str = 'float32'


@dataclass(frozen=True)
class Recipe:
    """One way to pretrain.

    Attributes:
        text: what it is, for the table.
        change: called with the config, to change it.
        data: name of the pairs it trains on, where several estimators made pairs of the same videos.
    """

    text: str
    change: Callable[[Config], None] = lambda cfg: None
    data: str = 'pairs'


def set_guidance(cfg: Config, strategies: list[dict], max_points: int | tuple[int, int] = -1) -> None:
    """Replace the guidance of the training pipeline; validation keeps the quick config's."""
    for step in cfg.train_dataloader.dataset.pipeline:
        if step['type'] == 'SampleGuidance':
            step.update(strategies=strategies, max_points=max_points)


def _points(number: int | tuple[int, int]) -> Callable[[Config], None]:
    return lambda cfg: set_guidance(cfg, [WATERSHED, GRID], number)


def _kernel(size: int, stride: int) -> Callable[[Config], None]:
    return lambda cfg: set_guidance(
        cfg, [dict(type='watershed', kernel_size=size), dict(type='grid', stride=stride)]
    )


def _either(*kernels: tuple[int, int]) -> Callable[[Config], None]:
    """For each image one of several pairs of K and grid, as likely as each other."""

    def change(cfg: Config) -> None:
        pipeline = cfg.train_dataloader.dataset.pipeline
        place = next(i for i, step in enumerate(pipeline) if step['type'] == 'SampleGuidance')
        choices = []
        for kernel in kernels:
            _kernel(*kernel)(cfg)
            choices.append([dict(pipeline[place], type='cmp_mm.SampleGuidance')])
        pipeline[place] = dict(type='RandomChoice', transforms=choices)

    return change


def _walker(cfg: Config) -> None:
    cfg.model.use_guidance = False


def _kaiming(cfg: Config) -> None:
    # As large as the weights a downstream package would start from, so that a step there changes both alike.
    cfg.model.backbone.init_cfg = [
        dict(type='Kaiming', layer='Conv2d'),
        dict(type='Constant', val=1, layer='BatchNorm2d'),
    ]


def _zero_init(cfg: Config) -> None:
    # What mmseg's, mmpose's and mmdet's own ResNets start from.
    kind = cfg.model.backbone.type
    if kind != 'ResNet':
        raise ValueError(
            f'a recipe that starts residual blocks at zero needs a ResNet; the backbone is {kind}'
        )
    cfg.model.backbone.zero_init_residual = True


def _augmented(cfg: Config) -> None:
    # The image no longer says which way or how fast things move, only what moves together.
    cfg.train_dataloader.dataset.pipeline[5:5] = [
        dict(type='FlowRandomRotate', prob=1.0),
        dict(type='FlowRandomScale', range=(0.5, 2.0)),
    ]


def _camera(cfg: Config) -> None:
    cfg.train_dataloader.dataset.pipeline.insert(5, dict(type='FlowRandomCamera'))


def _prior(cfg: Config) -> None:
    cfg.custom_hooks.append(dict(type='BinPriorHook'))


def _videos(number: int) -> Callable[[Config], None]:
    """Train on so many of the videos only, evenly spread over their names; validation keeps its own."""

    def change(cfg: Config) -> None:
        data = cfg.train_dataloader.dataset
        entries = json.loads(Path(data.data_root, data.ann_file).read_bytes())['data_list']
        of_videos = [entry.get('video') for entry in entries]
        videos = sorted({video for video in of_videos if video})
        if len(videos) < number:
            raise ValueError(
                f'{data.data_root}: videos to train on: {len(videos)}; the recipe expects at least {number}'
            )
        chosen = {videos[i * len(videos) // number] for i in range(number)}
        data.indices = [index for index, video in enumerate(of_videos) if video in chosen]

    return change


def _both(*changes: Callable[[Config], None]) -> Callable[[Config], None]:
    def change(cfg: Config) -> None:
        for one in changes:
            one(cfg)

    return change


def _sgd(cfg: Config) -> None:
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))


_EITHER = _either((15, 60), (41, 120))

RECIPES = {
    'walker': Recipe('Walker: no guidance', _walker),
    'cmp': Recipe('CMP, K 15, grid 60'),
    'cmp-4': Recipe('CMP, the same, at most 4 points', _points(4)),
    'cmp-1to32': Recipe('CMP, the same, at most 1 to 32 points, drawn per image', _points((1, 32))),
    'cmp-kaiming': Recipe('CMP, the same, Kaiming initialisation of the backbone', _kaiming),
    'cmp-prior-kaiming': Recipe(
        'CMP, the same, and a bias that starts at how often each bin occurs', _both(_kaiming, _prior)
    ),
    'cmp-zero-kaiming': Recipe(
        'CMP, Kaiming initialisation of the backbone, the last norm of each block at zero',
        _both(_kaiming, _zero_init),
    ),
    'walker-kaiming': Recipe('Walker, Kaiming initialisation of the backbone', _both(_walker, _kaiming)),
    'cmp-4-kaiming': Recipe(
        'CMP, at most 4 points, Kaiming initialisation of the backbone', _both(_points(4), _kaiming)
    ),
    'cmp-4-augmented': Recipe(
        'CMP, at most 4 points, motion turned and scaled at random', _both(_points(4), _augmented)
    ),
    'cmp-2': Recipe('CMP, the same, at most 2 points', _points(2)),
    'cmp-k41': Recipe('CMP, K 41, grid 120', _kernel(41, 120)),
    'cmp-k41-kaiming': Recipe(
        'CMP, K 41, grid 120, Kaiming initialisation of the backbone', _both(_kernel(41, 120), _kaiming)
    ),
    'cmp-k15or41-kaiming': Recipe(
        'CMP, K 15 and grid 60 or K 41 and grid 120, drawn per image, Kaiming initialisation of the backbone',
        _both(_EITHER, _kaiming),
    ),
    'cmp-k15or41-6videos-kaiming': Recipe(
        'CMP, K 15 or K 41, Kaiming initialisation, on 6 of the videos', _both(_EITHER, _kaiming, _videos(6))
    ),
    'cmp-k15or41-camera-kaiming': Recipe(
        "CMP, K 15 or K 41, a camera's motion added to half of the pairs, Kaiming initialisation",
        _both(_EITHER, _camera, _kaiming),
    ),
    'cmp-0to4-kaiming': Recipe(
        'CMP, at most 0 to 4 points, drawn per image, Kaiming initialisation of the backbone',
        _both(_points((0, 4)), _kaiming),
    ),
    'cmp-augmented-kaiming': Recipe(
        'CMP, motion turned and scaled at random, Kaiming initialisation of the backbone',
        _both(_augmented, _kaiming),
    ),
    'cmp-sgd-kaiming': Recipe(
        "CMP, the reference's optimizer, Kaiming initialisation of the backbone", _both(_sgd, _kaiming)
    ),
    'cmp-ultrafast-kaiming': Recipe(
        'CMP, flow by DIS at its fastest, Kaiming initialisation of the backbone', _kaiming, 'ultrafast'
    ),
    'cmp-4-sgd': Recipe("CMP, at most 4 points, the reference's optimizer", _both(_points(4), _sgd)),
    'cmp-4-exact': Recipe('CMP, at most 4 points, exact flow', _points(4), 'exact'),
}


def pretraining_config(
    recipe: Recipe, data_root: Path, scale: Scale, seed: int = 0, backbone: str = 'resnet18'
) -> Config:
    """The quick config at another scale, with a recipe's changes and perhaps another backbone.

    A recipe of ResNet-18 starts from torch's own initialisation unless it says otherwise; the quick config
    itself is ``cmp-kaiming``.
    """
    cfg = Config.fromfile(QUICK)
    cfg.model.backbone.pop('init_cfg')
    if backbone in LARGER:
        cfg.model.backbone, cfg.model.neck.in_channels = copy.deepcopy(LARGER[backbone])
        cfg.model.init_cfg = dict(type='ReferenceInit', gain=1.0)  # as in their quick configs
        cfg.model.cuda_graph = True  # a small batch is bound by launching kernels
    size = (scale.crop, scale.crop)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.batch_size = scale.batch_size
        loader.dataset.data_root = str(data_root)
        for step in loader.dataset.pipeline:
            if step['type'] == 'FlowResize':
                step.short_side = scale.short_side
            if step['type'] in ('FlowRandomCrop', 'FlowCenterCrop'):
                step.size = size
    cfg.test_dataloader = cfg.val_dataloader
    cfg.optim_wrapper.optimizer.lr = scale.lr
    warm_up = min(20, scale.iterations // 2)
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = warm_up
    cfg.param_scheduler[1].end = cfg.train_cfg.max_iters = cfg.max_iters = scale.iterations
    cfg.train_cfg.val_interval = max(1, scale.iterations // 4)
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.val_interval
    cfg.default_hooks.visualization.interval = cfg.train_cfg.val_interval
    cfg.randomness = dict(seed=seed)
    recipe.change(cfg)
    if scale.precision == 'bfloat16':
        cfg.optim_wrapper.type = 'Bfloat16OptimWrapper'
    return cfg


def run(command: list, log: Path) -> None:
    """Run a tool of this repository, its output in a log.

    Raises:
        RuntimeError: it failed; with the end of its log.
    """
    with open(log, 'a', encoding='utf-8') as file:
        command = [sys.executable, *map(str, command)]
        with child_process(command, lock=log.parent, stdout=file, stderr=subprocess.STDOUT) as process:
            process.wait()
    if process.returncode != 0:
        end = '\n'.join(log.read_text(encoding='utf-8', errors='replace').splitlines()[-8:])
        raise RuntimeError(f'{Path(command[1]).name} failed; the end of {log}:\n{end}')


def _stamp(cfg: Config, data_root: Path) -> str:
    """What a pretraining depends on: its config, and the pairs by their lists and how they were made."""
    digest = hashlib.sha256(cfg.pretty_text.encode())
    videos = set()
    for name in ('train.json', 'val.json'):
        text = (data_root / name).read_bytes()
        digest.update(text)
        videos.update(entry.get('video') for entry in json.loads(text).get('data_list', ()))
    settings = data_root / 'settings.json'
    if settings.is_file():  # a set made by hand has none
        digest.update(settings.read_bytes())
    # Of another video by the same name the lists may be equal; how its pairs move is not.
    records = (json.loads(file.read_bytes()) for file in data_root.glob('records/*.json'))
    pairs = {record['video']: record.get('pairs') for record in records if record.get('video') in videos}
    digest.update(json.dumps(pairs, sort_keys=True).encode() if pairs else b'')
    return digest.hexdigest()[:12]


def chosen_data(name: str, pairs: dict[str, Path]) -> Path:
    """The folder of pairs that the recipe of a name asks for.

    Raises:
        ValueError: it is not given.
    """
    data = RECIPES[name].data
    if data not in pairs:
        raise ValueError(f'recipe {name} needs pairs named {data!r}; given are {", ".join(pairs)}')
    return pairs[data]


def pretrain(
    name: str,
    pairs: dict[str, Path],
    scale: Scale,
    out: Path,
    seed: int = 0,
    backbone: str = 'resnet18',
    workers: int = 1,
) -> dict:
    """Train a recipe and export its backbone, or find what an earlier call left.

    Args:
        name: key of ``RECIPES``.
        pairs: folders written by ``video2pairs.py`` or ``render_puppets.py``: 'pairs', and those other names
            that recipes ask for.
        scale: sizes.
        out: folder for all pretrainings; each has its own inside, by recipe and settings.
        seed: seed of the training.
        backbone: key of ``BACKBONES``.
        workers: data workers; what is trained does not depend on them.

    Returns:
        dict of ``checkpoint``, ``backbone`` and ``config`` (paths as text), ``seconds``, ``metrics`` of the
        last validation.

    Raises:
        RuntimeError: a tool failed.
        ValueError: no such pairs.
    """
    recipe = RECIPES[name]
    data_root = chosen_data(name, pairs)
    with _READING:
        cfg = pretraining_config(recipe, data_root, scale, seed, backbone)
    folder = out / f'{name}-seed{seed}-{_stamp(cfg, data_root)}'
    cfg.train_dataloader.num_workers = workers
    result = folder / 'result.json'
    checkpoint, backbone_file = folder / f'iter_{scale.iterations}.pth', folder / 'backbone.pth'
    files = dict(config=folder / 'config.py', checkpoint=checkpoint, backbone=backbone_file)
    files = {name: str(file) for name, file in files.items()}
    if result.exists():
        # Where the folder is now: it may have been named from another directory, or moved.
        return {**json.loads(result.read_text(encoding='utf-8')), **files}
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(folder / 'config.py')
    log = folder / 'console.log'
    print(f'pretraining {name}, seed {seed}: {scale.iterations} iterations, log in {log}', flush=True)
    run([ROOT / 'tools/train.py', folder / 'config.py', '--work-dir', folder, '--resume'], log)
    run([ROOT / 'tools/model_converters/extract_backbone.py', checkpoint, backbone_file], log)
    curve = [row for row in read_scalars(folder) if 'cmp/epe' in row]
    found = dict(
        recipe=name,
        text=recipe.text,
        seed=seed,
        data=str(data_root),
        scale=asdict(scale),
        **files,
        metrics=curve[-1] if curve else {},
        curve=[[entry['step'], entry['cmp/epe']] for entry in curve],
    )
    write_durably(result, json.dumps(found, indent=1).encode())
    return found


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least ``least``."""

    def number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f'expected a whole number of at least {least}, got {text!r}')
        return int(text)

    return number


class Distinct(argparse.Action):
    """Several values of an option, each at most once: one that counts twice is no evidence of its own."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: list, option: str = ''
    ) -> None:
        """Keep the values; end with one line where one is repeated."""
        repeated = next((value for value in values if values.count(value) > 1), None)
        if repeated is not None:
            parser.error(f'{option}: expected different values, got {repeated} more than once')
        setattr(namespace, self.dest, values)


def add_labels(parser: argparse.ArgumentParser) -> None:
    """The option that says how many are labelled."""

    def number(text: str) -> str:
        return text if text == 'all' else str(at_least(1)(text))

    parser.add_argument(
        '--labels',
        nargs='+',
        type=number,
        action=Distinct,
        default=['all'],
        help='numbers of labelled images (figures for a pose), or all',
    )


def chosen_labels(labels: list[str], total: int) -> list[str]:
    """``--labels`` where ``total`` are labelled: so many or more of them are all."""
    return list(dict.fromkeys('all' if n == 'all' or int(n) >= total else n for n in labels))


def add_pairs(parser: argparse.ArgumentParser) -> None:
    """Options that say what to pretrain on."""
    parser.add_argument(
        '--pairs',
        nargs='+',
        required=True,
        metavar='[NAME=]DIR',
        help='folders of pairs; one without a name is what recipes use unless they ask for another',
    )
    parser.add_argument('--pretrained', type=Path, help='folder of the pretrainings; default OUT')
    parser.add_argument(
        '--jobs',
        type=at_least(1),
        default=1,
        help='trainings at once; small ones leave a large GPU mostly idle',
    )
    parser.add_argument(
        '--pretrain-workers', type=at_least(0), default=1, help='data workers of each pretraining'
    )
    parser.add_argument(
        '--pretrain-seeds',
        type=at_least(0),
        nargs='+',
        action=Distinct,
        default=[0],
        help='one pretraining of each recipe for each of these; what is measured with several seeds goes '
        'through them in turn (default: %(default)s)',
    )


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """The option that says which network is pretrained."""
    parser.add_argument(
        '--backbone',
        choices=BACKBONES,
        default='resnet18',
        help='resnet18 (three stages, what two CPU cores can train), or resnet50 or alexnet on an '
        'accelerator (default: %(default)s)',
    )


def require_all_measured(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a sentence where more pretrainings are asked for than ``--seeds`` goes through."""
    if args.seeds < len(args.pretrain_seeds):
        parser.error(
            f'--seeds is {args.seeds}; expected at least {len(args.pretrain_seeds)}, as many as '
            '--pretrain-seeds: the others would be trained and not measured'
        )


def add_recipes(parser: argparse.ArgumentParser) -> None:
    """The option that says which recipes to compare; the quick config and its twin without guidance."""
    parser.add_argument(
        '--recipes',
        nargs='+',
        action=Distinct,
        choices=RECIPES,
        default=['walker-kaiming', 'cmp-kaiming'],
        metavar='NAME',
        help=f'of {", ".join(RECIPES)} (default: %(default)s)',
    )


def chosen_pairs(args: argparse.Namespace) -> dict[str, Path]:
    """Name -> folder.

    Raises:
        ValueError: a folder holds no train.json, or two have the same name.
    """
    pairs = {}
    for one in args.pairs:
        name, equals, folder = one.partition('=')
        if not equals or Path(one, 'train.json').is_file():  # a path may hold the sign
            name, folder = '', one
        if (name or 'pairs') in pairs:
            raise ValueError(
                f'--pairs {one}: expected a name that no other folder has, as NAME=DIR; another is named '
                f'{name or "pairs"} too'
            )
        if not Path(folder, 'train.json').is_file():
            raise ValueError(
                f'--pairs {one}: expected a folder written by video2pairs.py; it has no train.json'
            )
        pairs[name or 'pairs'] = Path(folder).resolve()
    return pairs


def pretrain_all(args: argparse.Namespace) -> dict[str, list[dict]]:
    """Name -> what :func:`pretrain` gives for each of ``--pretrain-seeds``, of all ``--recipes``.

    Raises:
        RuntimeError: a tool failed.
        ValueError: pairs that a recipe needs are not there, or the backbone is not one for it.
    """
    pairs, scale, out = chosen_pairs(args), chosen_scale(args), args.pretrained or args.out

    def one(name: str, seed: int) -> dict:
        return pretrain(name, pairs, scale, out, seed, args.backbone, args.pretrain_workers)

    for name in args.recipes:  # what cannot be built is told before anything is trained
        pretraining_config(RECIPES[name], chosen_data(name, pairs), scale, 0, args.backbone)
    wanted = [(name, seed) for name in args.recipes for seed in args.pretrain_seeds]
    found = list(in_parallel(one, wanted, args.jobs))
    return {
        name: [result for (other, _), result in zip(wanted, found, strict=True) if other == name]
        for name in args.recipes
    }


def add_scale(parser: argparse.ArgumentParser) -> None:
    """Options of a pretraining's size."""
    rates = ', '.join(f'{rate:g} for {name}' for name, rate in PRETRAIN_LR.items())
    for field in fields(Scale):
        kind = type(field.default)
        if kind is int:
            kind = at_least(2 if field.name == 'iterations' else 1)
        flag = '--pretrain-' + field.name.replace('_', '-')
        choices = PRECISIONS if field.name == 'precision' else None
        default, text = field.default, 'default: %(default)s'
        if field.name == 'lr':
            default, text = None, f'at its peak (default: {rates})'
        parser.add_argument(flag, type=kind, default=default, choices=choices, help=text)


def chosen_scale(args: argparse.Namespace) -> Scale:
    """The sizes asked for, at the learning rate of the backbone unless one is given."""
    asked = {field.name: getattr(args, f'pretrain_{field.name}') for field in fields(Scale)}
    if asked['lr'] is None:
        asked['lr'] = PRETRAIN_LR[args.backbone]
    return Scale(**asked)
