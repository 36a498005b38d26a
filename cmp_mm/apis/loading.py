"""From a config name and a checkpoint to a network ready for use."""

import copy
import difflib
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

import cmp_mm
from cmp_mm import models
from cmp_mm.engine import CheckpointError, check_weights_fit, load_checkpoint_file, state_dict_of
from cmp_mm.engine.checkpoint_loading import CHECKPOINT_SUFFIXES
from cmp_mm.engine.export import LOADERS, OF_TRAINING
from cmp_mm.engine.run_config import load_config
from cmp_mm.models import CMP
from cmp_mm.models.official import OfficialFormatError, convert_official
from cmp_mm.registry import MODELS

from .errors import InputError, InputWarning

HOW_TO_GET_WEIGHTS = (
    '`bash tools/quickstart.sh` trains a small one in minutes, `python tools/train.py CONFIG` a real one; '
    'checkpoints of the reference implementation are read too'
)
_OFFICIAL_KEYS = ('image_encoder.', 'flow_encoder.', 'flow_decoder.')
_NORMS = ('BN', 'SyncBN', 'GN')  # mmcv's names of normalisations
_RESIZE = ('FlowResize', 'cmp_mm.FlowResize')


def config_folders() -> list[Path]:
    """Folders of this project's configs: of a checkout, and of an installed package's ``.mim``."""
    package = Path(cmp_mm.__file__).resolve().parent
    candidates = [package.parent / 'configs', package / '.mim' / 'configs']
    # In site-packages the parent may hold a stranger's `configs`.
    return [folder for folder in candidates if (folder / '_base_' / 'models').is_dir()]


def find_config(name: str) -> Path:
    """A config by its base name, such as 'cmp_resnet50_plain'.

    Args:
        name: file name without folder and '.py', of anything in ``configs/_base_/models`` or
            ``configs/cmp``.

    Raises:
        InputError: there is none of this name; names similar ones.
    """
    known: dict[str, Path] = {}
    for folder in config_folders():
        for path in (*(folder / '_base_' / 'models').glob('*.py'), *(folder / 'cmp').glob('*.py')):
            known.setdefault(path.stem, path)
    wanted = name.removesuffix('.py')
    if wanted in known:
        return known[wanted]
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
    raise InputError(
        f'config {name!r} is neither a file nor the name of a config'
        + (f'; similar names: {", ".join(close)}' if close else '')
    )


def model_config(model: str | os.PathLike | Config | Mapping[str, Any]) -> dict[str, Any]:
    """The ``model`` part of a config given by name, path or itself.

    Raises:
        InputError: it cannot be found or read, or is no config of CMP.
    """
    return _model_part(*_read_config(model))


def load_network(
    model: str | os.PathLike | Config | Mapping[str, Any] | CMP | None,
    weights: str | os.PathLike | None,
) -> CMP:
    """Build a network and fill it; nothing in the checkpoint is executed.

    Args:
        model: config name, path, Config or its ``model`` part; a built network; or None, which takes the
            network from the checkpoint: ours tell it, unless a part of it is another package's; those of the
            reference implementation are recognised, an AlexNet's always as that of stride 32, with an
            ``InputWarning``.
        weights: own checkpoint, or one of the reference implementation, which is recognised and converted.
            None for a built network only, which is then used as it is.

    Returns:
        The network in eval mode, on the CPU if built here; then its parameters need no gradient.

    Raises:
        InputError: unknown config, or no weights.
        CheckpointError: the file is missing, broken, not plain data, or of another network.
    """
    return load_trained(model, weights)[0]


def load_trained(
    model: str | os.PathLike | Config | Mapping[str, Any] | CMP | None,
    weights: str | os.PathLike | None,
) -> tuple[CMP, int | None]:
    """As :func:`load_network`, with the size it was trained at.

    Returns:
        The network, and the short side in pixels that its training images were resized to: of the config
        that the checkpoint was trained with, else of the one given; None where neither tells one size.
    """
    if isinstance(model, CMP):
        side = None
        if weights is not None:
            _, state, side = _read_weights(weights, model.guidance_encoder.stride)
            _fill(model, state, weights)
        return model.eval(), side
    if isinstance(model, (str, os.PathLike)) and Path(model).suffix in CHECKPOINT_SUFFIXES:
        raise InputError(
            f'{os.fspath(model)} is a checkpoint; give it as weights, and as model its config or None'
        )
    if weights is None:
        raise InputError(f'no weights were given: name a checkpoint; {HOW_TO_GET_WEIGHTS}')
    if model is None:
        config, state, side = _read_weights(weights, None)
        if config is None:
            raise InputError(
                f'checkpoint {weights} does not tell its network; name the config it was trained with'
            )
        network = _build(config)
    else:
        whole, name = _read_config(model)
        network = _build(_model_part(whole, name))
        _, state, side = _read_weights(weights, network.guidance_encoder.stride)
        side = side or _the_one(_sides(whole.get('train_dataloader')))
    _fill(network, state, weights)
    return network.eval().requires_grad_(False), side


def _read_config(model: str | os.PathLike | Config | Mapping[str, Any]) -> tuple[Mapping | Config, str]:
    """A config given by name, path or itself, and what to call it."""
    name = 'the config given'
    if isinstance(model, (str, os.PathLike)):
        name = f'config {os.fspath(model)}'
        path = Path(model)
        try:
            model = load_config(str(path if path.is_file() else find_config(os.fspath(model))))
        except InputError:
            raise
        except ValueError as error:  # launch's UsageError
            raise InputError(str(error)) from None
    if not isinstance(model, Mapping | Config):
        raise InputError(
            f'the model is a {type(model).__name__}; expected the name or path of a config, a Config or a CMP'
        )
    return model, name


def _model_part(whole: Mapping | Config, name: str) -> dict[str, Any]:
    config = whole.get('model', whole)
    kind = config.get('type') if isinstance(config, Mapping) else None
    if kind not in ('CMP', 'cmp_mm.CMP', CMP):
        raise InputError(f"{name} is of model type {kind!r}; expected 'CMP', which propagates motion")
    return dict(config)


def _sides(node: Any) -> set[int]:
    """Short sides of every FlowResize in a part of a config, wrapped or not."""
    if isinstance(node, Mapping):
        kind, side = node.get('type'), node.get('short_side')
        own = {side} if kind in _RESIZE and isinstance(side, int) and side > 0 else set()
        return own.union(*map(_sides, node.values()))
    return set().union(*map(_sides, node)) if isinstance(node, (list, tuple)) else set()


def _sides_in_text(text: Any) -> set[int]:
    """Likewise of the training part of a config that a checkpoint holds as text, which is not executed."""
    if not isinstance(text, str):
        return set()
    part = re.search(r'^train_dataloader = .*?(?=^\w+ = |\Z)', text, re.MULTILINE | re.DOTALL)
    steps = re.findall(r'\bdict\(([^()]*)\)', part.group()) if part else []
    resizing = [step for step in steps if any(f"type='{name}'" in step for name in _RESIZE)]
    found = (re.search(r'\bshort_side=([1-9]\d{0,5})\b', step) for step in resizing)
    return {int(side.group(1)) for side in found if side}


def _the_one(sides: set[int]) -> int | None:
    """Training at several sizes has no one that a picture should have."""
    return next(iter(sides)) if len(sides) == 1 else None


def _build(config: Mapping[str, Any]) -> CMP:
    try:
        return MODELS.build({'_scope_': 'cmp_mm', **config})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f'the network of the config cannot be built: {reason}') from error


def _read_weights(
    path: str | os.PathLike, stride: int | None
) -> tuple[dict | None, dict[str, torch.Tensor], int | None]:
    """The config, where the file tells it, the state dict under our names, and the size trained at if told.

    ``stride`` is that of the network to be filled, None where it is not known.
    """
    checkpoint = load_checkpoint_file(path, 'cpu')
    try:
        state = state_dict_of(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f'checkpoint {path}: {error}') from None
    state = {re.sub(r'^module\.', '', key): value for key, value in state.items()}
    side = None
    if any(key.startswith(_OFFICIAL_KEYS) for key in state):
        try:
            config, state = convert_official(state, stride if stride in (8, 32) else 32)
        except OfficialFormatError as error:
            raise CheckpointError(f'checkpoint {path}: {error}') from None
        if stride is None and config.get('backbone', {}).get('type') == 'AlexNetFCN':
            warnings.warn(
                f'checkpoint {path} holds an AlexNet of stride 32 or 8, which its weights do not tell; 32 is '
                'taken: for 8 convert it by official2cmp_mm.py --alexnet-stride 8 first',
                InputWarning,
                stacklevel=4,
            )
    else:
        meta = checkpoint.get('meta')
        meta = meta if isinstance(meta, dict) else {}
        config = _plain_config(meta.get('model'))
        side = _the_one(_sides_in_text(meta.get('cfg')))
    if all(key.startswith(('backbone.', 'neck.')) for key in state):
        raise CheckpointError(
            f'checkpoint {path} holds an image encoder alone; propagation needs the whole network it was '
            'trained in'
        )
    return config, state, side


def _plain_config(config: Any) -> dict | None:
    """The network a checkpoint describes, if every part of it is one of ours.

    A registry imports whatever dotted name it is given, so a type out of a file must be looked at first. How
    training began is left out: the weights are in the file.
    """
    if not isinstance(config, dict) or config.get('type') not in ('CMP', 'cmp_mm.CMP'):
        return None
    config = copy.deepcopy(config)
    allowed, stack = {*models.__all__, *_NORMS}, [config]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            for key in LOADERS + OF_TRAINING:
                value.pop(key, None)
            if isinstance(value.get('type'), str):
                value['type'] = value['type'].removeprefix('cmp_mm.')
            if 'type' in value and not (isinstance(value['type'], str) and value['type'] in allowed):
                return None
            if '_scope_' in value:
                return None
            stack.extend(value.values())
        elif isinstance(value, (list, tuple)):
            stack.extend(value)
    return config


def _fill(network: CMP, state: Mapping[str, torch.Tensor], path: str | os.PathLike) -> None:
    check_weights_fit(network, state, str(path))
    # check_weights_fit lets nothing be missing but the counters of old files.
    network.load_state_dict(state, strict=False)
