"""The ``--cfg-options`` of the tools: read, and refused where they would change nothing."""

import argparse
import ast
import difflib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config, DictAction

from .checkpoint_loading import CHECKPOINT_SUFFIXES

# What mmengine's Runner, its strategies and the tools of the downstream packages read of a config, beside
# what is of each split; data_root and labelled_draws are this package's own.
_SECTIONS = (
    'model',
    *(f'{split}_{part}' for part in ('dataloader', 'cfg', 'evaluator') for split in ('train', 'val', 'test')),
    *('data_preprocessor', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr'),
    *('default_hooks', 'custom_hooks', 'visualizer', 'log_processor', 'log_level'),
    *('default_scope', 'custom_imports', 'env_cfg', 'randomness', 'launcher', 'local_rank'),
    *('load_from', 'resume', 'work_dir', 'experiment_name', 'runner_type', 'strategy', 'compile', 'fp16'),
    *('sync_bn', 'model_wrapper_cfg', 'find_unused_parameters', 'efficient_conv_bn_eval'),
    *('activation_checkpointing', 'tta_model', 'tta_pipeline', 'data_root', 'labelled_draws'),
)
_PLACES = 3  # of a variable's value, named at most


class UsageError(ValueError):
    """A command line or config that cannot be run; the message is one line."""


class ConfigOptions(DictAction):
    """mmengine's ``KEY=VALUE`` options; one that is none is an error of usage, not a traceback.

    The name of a file of weights, another name with spaces, and that of a file or folder that is there are
    taken as they are: mmengine drops spaces, and splits at commas. Dicts, which it does not know, are taken
    as Python writes them, ``[dict(type='grid', stride=30)]`` or with braces.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        """Parse the options."""
        for text in values:
            if not text.partition('=')[0] or '=' not in text:
                parser.error(f'{option_string} {text}: expected KEY=VALUE')
        parsed: dict[str, Any] = {}
        for text in values:
            key, _, value = text.partition('=')
            try:
                parsed[key] = self._parse(value)
            except (AssertionError, ValueError) as error:  # brackets that do not match, or no value
                parser.error(f'{option_string}: {error}')
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest, None) or {}), **parsed})

    def _parse(self, value: str) -> Any:
        text = value.strip().strip('\'"')
        if _has_dicts(text) and not os.path.exists(value):
            try:
                return _literal(text)
            except ValueError:
                if 'dict(' in text:
                    raise
                # Braces of a name's pattern, {:04d}: as mmengine takes them.
        name = _as_name(value)
        if name is not None:
            return name
        try:
            return self._parse_iterable(value)
        except RecursionError:  # mmengine's, of a comma inside brackets behind a name
            raise ValueError(f'{value} is no value; expected a number, a name, a list or a dict') from None


def _has_dicts(text: str) -> bool:
    is_closed = text.startswith(('[', '(', '{', 'dict(')) and text.endswith((']', ')', '}'))
    return is_closed and ('{' in text or 'dict(' in text)


def _literal(text: str) -> Any:
    """A value as Python writes it, with ``dict(...)`` too; names are strings, as in mmengine's lists.

    Raises:
        ValueError: it is none.
    """

    def convert(node: ast.AST) -> Any:
        if isinstance(node, (ast.List, ast.Tuple)):
            return (list if isinstance(node, ast.List) else tuple)(map(convert, node.elts))
        if isinstance(node, ast.Dict) and None not in node.keys:
            return {convert(key): convert(item) for key, item in zip(node.keys, node.values, strict=True)}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            if node.func.id != 'dict' or not all(item.arg for item in node.keywords):
                raise ValueError(text)
            return {item.arg: convert(item.value) for item in node.keywords}
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = ast.unparse(node)
            return {'true': True, 'false': False}.get(name, name)
        return ast.literal_eval(node)

    try:
        return convert(ast.parse(text, mode='eval').body)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        raise ValueError(
            f"{text} is no value; expected one as Python writes it, such as [dict(type='grid', stride=30)]"
        ) from None


def _as_name(value: str) -> str | None:
    """An option's value if it is a name, and no number, list or tuple; without quotes around it."""
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in '"\'' and ' ' in text:
        text = value = text[1:-1]
    if text.startswith(('[', '(')) and text.endswith((']', ')')):
        return None
    is_spaced = ' ' in text and ',' not in text
    is_name = text.endswith(CHECKPOINT_SUFFIXES) or is_spaced or (',' in text and os.path.exists(text))
    return value if is_name else None


def require_effect(cfg: Config, options: Mapping[str, Any]) -> None:
    """Refuse options that would change nothing: a section that nobody reads, or a variable of the file.

    Args:
        cfg: as it was read.
        options: ``--cfg-options``, dotted keys.

    Raises:
        UsageError: names the section meant, or the places of the variable's value. Where that is at none, a
            line warns.
    """
    for option in options:
        root, _, rest = option.partition('.')
        if root in _SECTIONS:
            continue
        if root not in cfg:
            near = difflib.get_close_matches(root, _SECTIONS, n=1)
            hint = f'; did you mean {near[0]!r}?' if near else f', and nothing reads {option!r}'
            raise UsageError(f'--cfg-options: the config has no section {root!r}{hint}')
        places = list(dict.fromkeys(_places(cfg, cfg[root])))
        if not places:
            # Code of the user's may read it; of switches and None nobody can tell.
            print(
                f'warning: --cfg-options: {root!r} is no section that mmengine reads, and changes nothing '
                'unless code of yours does',
                file=sys.stderr,
            )
            continue
        named = [f'{place}.{rest}' if rest else place for place in places[:_PLACES]]
        more = f' and {len(places) - _PLACES} more' if len(places) > _PLACES else ''
        raise UsageError(
            f'--cfg-options: {root!r} is a variable of the config file, which has done its work when the '
            f'file was read; set the places it went to; its value is at {", ".join(named)}{more}'
        )


def _places(cfg: Config, value: Any) -> Iterator[str]:
    """Dotted keys of the parts of a config that equal ``value``."""

    def walk(node: Any, place: str) -> Iterator[str]:
        if type(node) is type(value) and node == value:
            yield place
        elif isinstance(node, (dict, list, tuple)):
            parts = node.items() if isinstance(node, dict) else enumerate(node)
            for key, part in parts:
                yield from walk(part, f'{place}.{key}')

    if value is None or isinstance(value, bool):
        return  # half of the settings
    for section in _SECTIONS:
        if section in cfg:
            yield from walk(cfg[section], section)
