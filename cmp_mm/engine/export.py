"""From a training checkpoint to files that others load: the backbone, or the weights alone."""

import copy
import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import cmp_mm
from cmp_mm.registry import MODELS, TASK_UTILS

from .checkpoint_files import VALIDATED_KEY, write_durably
from .checkpoint_loading import (
    CHECKPOINT_SUFFIXES,
    CheckpointError,
    load_checkpoint_file,
    state_dict_of,
)
from .plain_state import to_plain
from .run_config import UsageError

PREFIX = 'backbone.'
LAYOUTS = ('mmengine', 'torchvision', 'safetensors')
# Entries of a config that make a module load something; an export is filled from its checkpoint.
LOADERS = ('init_cfg', 'pretrained')
# Of training alone, its strategies are named by a type as modules are.
OF_TRAINING = ('guidance',)
_OUR_SCOPES = ('', 'cmp_mm', 'mmengine', 'mmcv')


def select_weights(checkpoint: dict, raw: bool = False) -> dict[str, Tensor]:
    """The model's weights in a checkpoint.

    Args:
        checkpoint: as loaded. One written under mmengine's ``EMAHook`` holds two sets: its ``state_dict`` is
            the averaged one, ``ema_state_dict`` the one the optimizer worked on (the hook swaps them).
        raw: take the latter.

    Raises:
        CheckpointError: no weights, or no second set.
    """
    if not raw:
        return _plain_tensors(state_dict_of(checkpoint))
    averaged = checkpoint.get('ema_state_dict')
    if not isinstance(averaged, dict):
        raise CheckpointError('there is no ema_state_dict in the checkpoint: it holds one set of weights')
    prefix = 'module.'
    return _plain_tensors(
        {key[len(prefix) :]: value for key, value in averaged.items() if key.startswith(prefix)}
    )


def select_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under ``backbone.``, without that prefix.

    Raises:
        CheckpointError: there are none.
    """
    backbone = {key[len(PREFIX) :]: value for key, value in state.items() if key.startswith(PREFIX)}
    if not backbone:
        beginnings = sorted({key.split('.')[0] for key in state})
        raise CheckpointError(f'no key begins with {PREFIX!r}; the keys begin with {", ".join(beginnings)}')
    return backbone


def _plain_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Contiguous copies: a view would drag its whole storage into the file.
    # Contiguous whatever layout they were trained in: others map the bytes as they are.
    return {
        re.sub(r'^module\.', '', key): value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in state.items()
    }


def model_config(checkpoint: dict) -> dict | None:
    """Config of the model that a checkpoint is of, as data (``meta['model']``), or None."""
    meta = checkpoint.get('meta')
    model = meta.get('model') if isinstance(meta, dict) else None
    return model if isinstance(model, dict) else None


def build_module(config: Mapping, trusted: bool = False) -> nn.Module:
    """Build the shapes of a module, on torch's meta device if it can be: no memory for weights, none loaded.

    A config names what is to be called, and mmengine takes any importable name. From a checkpoint only
    names registered by cmp_mm, mmcv and mmengine are accepted.

    Args:
        config: of the module.
        trusted: the config is the user's own, not the checkpoint's.

    Raises:
        CheckpointError: another name, or a module that cannot be built from it.
    """
    config = copy.deepcopy(dict(config))
    _prepare(config, None if trusted else _known_names())
    try:
        try:
            with torch.device('meta'):
                return MODELS.build({'_scope_': 'cmp_mm', **copy.deepcopy(config)})
        except RuntimeError:
            # Some backbones of other packages read a tensor as they are built.
            if not trusted:
                raise
            return MODELS.build({'_scope_': 'cmp_mm', **config})
    except Exception as error:
        reason = (str(error).strip().splitlines() or [''])[0]
        raise CheckpointError(f'its model cannot be built: {type(error).__name__}: {reason}') from None


def _prepare(node: object, known: set[str] | None) -> None:
    """Take out what loads weights; hold every name against ``known``, if given."""
    if isinstance(node, dict):
        for key in LOADERS + OF_TRAINING:
            node.pop(key, None)
        if known is not None and ('type' in node or '_scope_' in node):
            node.pop('_scope_', None)
            name = node.get('type')
            scope, _, plain = name.rpartition('.') if isinstance(name, str) else ('', '', None)
            if scope not in _OUR_SCOPES or plain not in known:
                raise CheckpointError(
                    f'it names {name!r} as a part of its model, which is none of cmp_mm; if you know what '
                    'model it is, add --config CONFIG'
                )
            node['type'] = plain
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            _prepare(value, known)


def _known_names() -> set[str]:
    names = set()
    for registry in (MODELS, TASK_UTILS):
        registry.import_from_location()
        while registry is not None:
            names |= registry.module_dict.keys()
            registry = registry.parent
    return names


def last_validation(checkpoint: dict) -> dict[str, float]:
    """The metrics of a checkpoint's weights; empty where they were not validated before it was saved.

    A checkpoint is saved before the validation of its iteration, and again after it only where that was the
    best so far; what it tells of an earlier validation is of other weights.
    """
    hub = checkpoint.get('message_hub')
    hub = hub if isinstance(hub, dict) else {}
    info, scalars = hub.get('runtime_info'), hub.get('log_scalars')
    validated = info.get(VALIDATED_KEY) if isinstance(info, dict) else None
    if validated is None or validated != (checkpoint.get('meta') or {}).get('iter'):
        return {}
    metrics = {}
    for key, value in (scalars or {}).items():
        history = value.get('log_history') if isinstance(value, dict) else None
        if (
            key.startswith('val/')
            and not key.endswith('time')
            and isinstance(history, Tensor)
            and len(history)
        ):
            metrics[key.removeprefix('val/')] = float(history[-1])
    return metrics


def export_meta(checkpoint: dict, **configs: Mapping) -> dict:
    """What an exported file says about itself: no paths, no dates.

    Args:
        checkpoint: what is exported.
        configs: of the model or a part of it, by the name it gets in ``meta``.
    """
    meta = dict(cmp_mm_version=cmp_mm.__version__)
    for name, config in configs.items():
        config = copy.deepcopy(dict(config))
        # Where the weights came from is the user's own affair, and they are in the file now.
        _prepare(config, None)
        meta[name] = to_plain(config, name)
    iteration = (checkpoint.get('meta') or {}).get('iter')
    if isinstance(iteration, int):
        meta['iter'] = iteration
    return meta


def serialize(content: object) -> bytes:
    """The bytes ``torch.save`` writes; the same for the same content, whatever the file is called."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def write_backbone(path: str | Path, backbone: Mapping[str, Tensor], meta: dict, layout: str) -> None:
    """Write backbone weights.

    Args:
        path: file to write.
        backbone: keys without the ``backbone.`` prefix.
        meta: goes beside them in the 'mmengine' layout.
        layout: 'mmengine' is ``dict(meta=..., state_dict=...)``; 'torchvision' the bare state dict, whose
            keys are torchvision's for a ResNet; 'safetensors' the bare tensors in that format.

    Raises:
        UsageError: safetensors is asked for and not installed.
        OSError: the file cannot be written.
    """
    if layout == 'safetensors':
        try:
            from safetensors.torch import save
        except ImportError:
            raise UsageError(
                "the safetensors layout needs safetensors: pip install 'cmp_mm[safetensors]'"
            ) from None
        data = save(dict(backbone), metadata=dict(format='pt'))
    elif layout == 'torchvision':
        data = serialize(dict(backbone))
    else:
        data = serialize(dict(meta=meta, state_dict=dict(backbone)))
    write_durably(path, data)


def read_backbone(path: str | Path, layout: str) -> dict[str, Tensor]:
    """Read what :func:`write_backbone` wrote, as data."""
    if layout == 'safetensors':
        from safetensors.torch import load_file

        return load_file(path)
    return state_dict_of(load_checkpoint_file(path, 'cpu'))


def write_published(path: str | Path, content: dict) -> Path:
    """Write a checkpoint under ``NAME-<sha8>.pth``, the first 8 digits of its SHA-256.

    Args:
        path: ``NAME.pth``, or ``NAME`` alone; a ``-<sha8>`` that is already there is replaced.
        content: what ``torch.save`` is given.

    Returns:
        The path with the digits in it.
    """
    path, data = Path(path), serialize(content)
    # A dot elsewhere, as in r18_v0.2, is part of the name.
    name, suffix = (path.stem, path.suffix) if path.suffix in CHECKPOINT_SUFFIXES else (path.name, '.pth')
    name = re.sub(r'-[0-9a-f]{8}$', '', name)
    final = path.with_name(f'{name}-{hashlib.sha256(data).hexdigest()[:8]}{suffix}')
    write_durably(final, data)
    return final
