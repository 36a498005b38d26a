"""The readers of checkpoints, of guidance from users, and of what a browser sends to the page."""

import argparse
import ast
import contextlib
import functools
import json
import math
import random
import struct
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from .common import ROOT
from .mutate import TEXTS, change_member, mutate
from .readers_files import Reader, encoded, texture

SIZE = (24, 40)


class Choices:
    """Turns bytes into values, so that what changes bytes changes structures too.

    Args:
        data: where values come from; zeros once it is used up.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    @property
    def left(self) -> int:
        """Bytes not used yet."""
        return len(self._data) - self._place

    def take(self, count: int) -> bytes:
        """The next bytes."""
        piece = self._data[self._place : self._place + count]
        self._place += count
        return piece.ljust(count, b'\0')

    def pick(self, values: Any) -> Any:
        """One of some values."""
        return values[self.take(1)[0] % len(values)]

    def number(self) -> Any:
        """A number as a user may give it, or what is none."""
        kind = self.take(1)[0] % 8
        if kind < 3:
            return self.take(1)[0] % 44
        if kind == 3:
            return self.take(1)[0] / 7 - 9
        if kind == 4:
            return struct.unpack('<d', self.take(8))[0]
        if kind == 5:
            return int.from_bytes(self.take(8), 'little', signed=True) << self.pick((0, 0, 0, 999))
        if kind == 6:
            return self.pick((math.nan, math.inf, -math.inf, -1, 0, 10**9, 39.5, 1e308, -0.0))
        return self.pick((None, True, 'x', b'x', [], {}, (), '7', 1j, object()))

    def nested(self, depth: int = 0) -> Any:
        """Rows, rows of rows, ragged or not, of lists, tuples, arrays or tensors."""
        kind = self.take(1)[0]
        if depth > 3 or kind % 8 == 0 or not self.left:
            return self.number()
        rows = [self.nested(depth + 1) for _ in range(kind // 8 % 6)]
        if kind % 8 < 5:
            return rows
        if kind % 8 == 5:
            return tuple(rows)
        try:
            return np.array(rows)
        except (ValueError, OverflowError):
            return rows

    def rows(self, columns: int) -> list[list[Any]]:
        """Mostly right rows."""
        return [[self.number() for _ in range(columns)] for _ in range(1 + self.take(1)[0] % 4)]


def checkpoint_readers(folder: Path) -> list[Reader]:
    """Checkpoints, backbones as safetensors, and what points to the last checkpoint."""
    import io

    import torch
    from mmengine.logging import HistoryBuffer

    from cmp_mm.downstream.backbone_init import read_weights
    from cmp_mm.engine import (
        CheckpointError,
        checkpoint_files,
        find_resumable,
        load_checkpoint_file,
        state_dict_of,
    )
    from cmp_mm.models import official
    from cmp_mm.models.official import OfficialFormatError, convert_official
    from cmp_mm.registry import MODELS

    path, tensors = folder / 'mutant.pth', folder / 'mutant.safetensors'
    # The checkpoints that are pointed to stay as they are: once read is enough.
    checkpoint_files._why_not = functools.lru_cache(checkpoint_files._why_not)
    checkpoint_files._saved_at = functools.lru_cache(checkpoint_files._saved_at)

    def saved(content: Any, legacy: bool = False) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
        return buffer.getvalue()

    def check(checkpoint: dict) -> str:
        try:
            state_dict_of(checkpoint)
        except CheckpointError:
            return 'CheckpointError'
        return 'read'

    def read(data: bytes) -> str:
        path.write_bytes(data)
        try:
            checkpoint = load_checkpoint_file(path)
        except CheckpointError as error:
            # An allocation that failed was tried.
            assert '\n' not in str(error) and 'alloc' not in str(error), str(error)
            return 'CheckpointError'
        return check(checkpoint)

    def read_tensors(data: bytes) -> str:
        tensors.write_bytes(data)
        try:
            read_weights(str(tensors))
        except CheckpointError as error:
            assert '\n' not in str(error)
            return 'CheckpointError'
        return 'read'

    def point(data: bytes) -> str:
        (folder / 'run' / 'last_checkpoint').write_bytes(data)
        assert find_resumable([folder / 'run']) == str(folder / 'run' / 'iter_2.pth')
        return 'read'

    def convert(data: bytes) -> str:
        choices = Choices(data)
        shapes = dict(choices.pick(variants))
        for _ in range(choices.take(1)[0] % 6):
            key = list(shapes)[int.from_bytes(choices.take(2), 'little') % len(shapes)]
            kind = choices.take(1)[0] % 5
            if kind == 0:
                del shapes[key]
            elif kind == 1:
                part, other = choices.pick(key.split('.')), choices.pick(parts)
                shapes[key.replace(part, other)] = shapes.pop(key)
            elif kind == 2:
                stem = choices.pick(('module.image_encoder', 'module.', 'module.flow'))
                shapes = {key.removeprefix(stem): shapes[key] for key in shapes if stem in key}
            else:
                key = choices.pick(keys) if kind == 3 else key
                sides = [
                    choices.pick((0, 1, 2, 3, 64, 198, 256, 10**9)) for _ in range(choices.pick(range(6)))
                ]
                shapes[key] = sides
            if not shapes:
                break
        try:
            state = {key: torch.empty(shape, device='meta') for key, shape in shapes.items()}
        except RuntimeError:  # more numbers than any tensor can have: no file holds that
            return 'no such tensor'
        try:
            convert_official(state)
        except OfficialFormatError as error:
            assert '\n' not in str(error) and len(str(error)) < 2000
            return 'OfficialFormatError'
        return 'read'

    def change(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
        whole = data[:2] == b'PK' and rng.random() < 0.6
        return change_member(data, rng, []) if whole else mutate(data, rng, others)

    variants = list(
        json.loads((ROOT / 'tests/data/model/official_state_dict_shapes.json').read_text()).values()
    )
    keys = (
        'head.weight',
        'predict_flow8.weight',
        'fusion8.0.weight',
        'decoder8.1.weight',
        'decoder0.0.weight',
    )
    keys = tuple(f'module.flow_decoder.{key}' for key in keys) + ('module.image_encoder.conv1.0.weight', '')
    parts = ('', 'x', '0', '7', '9' * 5000, 'image_encoder', 'conv1', 'layer4', 'decoder1', 'bn1', '\n')
    # A network of each config is built once.
    built = functools.lru_cache(64)(lambda config: MODELS.build(ast.literal_eval(config)))
    official.MODELS = SimpleNamespace(build=lambda config: built(repr(config)))
    state = dict(w=torch.arange(8.0), b=torch.arange(3))
    meta = dict(meta=dict(iter=1, epoch=0, time='t'), optimizer={}, message_hub={})
    wholes = [
        saved(dict(meta, state_dict=state)),
        saved(dict(meta, state_dict=state), legacy=True),
        saved(dict(state_dict=state, history=HistoryBuffer([1.0, 2.0], [1, 1]), number=np.float64(2.5))),
        saved(state),
    ]
    # safetensors: the length of a JSON header, the header, the numbers.
    header = json.dumps(dict(w=dict(dtype='F32', shape=[2, 4], data_offsets=[0, 32]))).encode()
    safetensors = [struct.pack('<Q', len(header)) + header + bytes(32)]
    (folder / 'run').mkdir()
    (folder / 'run' / 'iter_2.pth').write_bytes(wholes[0])
    pointers = [b'iter_2.pth', str(folder / 'run' / 'iter_2.pth').encode(), b'/proc/self/mem', b'../x']
    return [
        Reader('checkpoint', wholes, read, change),
        Reader('checkpoint (safetensors)', safetensors, read_tensors),
        Reader('checkpoint (last_checkpoint)', pointers, point),
        Reader('checkpoint (reference, keys)', [bytes([i]) + bytes(24) for i in range(5)], convert),
    ]


def guidance_readers(folder: Path) -> list[Reader]:
    """Arrows and points, as text, JSON, Python values and maps; clicks; what the page's server lets pass."""
    import torch

    from cmp_mm.apis.arrows import (
        draw_guidance,
        limit_vectors,
        parse_arrows,
        parse_guidance_map,
        to_working_size,
        trajectories_to_arrows,
    )
    from cmp_mm.apis.command_line import glue_negative_numbers, numbers, read_json
    from cmp_mm.apis.errors import InputError
    from cmp_mm.apis.web.gate import Gate
    from cmp_mm.apis.web.session import ARROW_MODES, POINT_MODES, PageSession

    warnings.simplefilter('ignore')
    path = folder / 'trajectories.json'

    def use(sets: list[torch.Tensor]) -> None:
        for one in sets:
            assert one.ndim == 2 and one.shape[1] == 4 and one.isfinite().all()
            moved, _, _ = limit_vectors(to_working_size(one, SIZE, (16, 64)), 50.0, 'rescale')
            assert draw_guidance(moved, (16, 64)).shape == (4, 16, 64)

    def refused(step: Any) -> str:
        try:
            step()
        except InputError as error:
            assert '\n' not in str(error)
            return 'InputError'
        return 'read'

    def trajectories(data: bytes) -> str:
        path.write_bytes(data)
        return refused(
            lambda: use(parse_arrows(trajectories_to_arrows(read_json(str(path), 'trajectories')), SIZE))
        )

    def options(data: bytes) -> str:
        words = glue_negative_numbers(data.decode('utf-8', 'replace').split('|'))
        try:
            arrows = [numbers(4, 'x,y,u,v')(word) for word in words]
        except argparse.ArgumentTypeError:
            return 'usage'
        return refused(lambda: use(parse_arrows(arrows, SIZE)))

    def values(data: bytes) -> str:
        choices = Choices(data)
        arrows = choices.nested() if choices.take(1)[0] % 2 else choices.rows(4)
        if choices.take(1)[0] % 3 == 0:
            with contextlib.suppress(ValueError, TypeError, RuntimeError, OverflowError):
                arrows = torch.tensor(arrows)
        return refused(lambda: use(parse_arrows(arrows, SIZE)))

    def maps(data: bytes) -> str:
        choices = Choices(data)
        right = choices.take(1)[0] % 4 > 0
        sets = choices.take(1)[0] % 3
        shape = [choices.take(1)[0] % 5 for _ in range(choices.take(1)[0] % 6)]
        kinds = ('f4', 'f4', 'f8', 'f2', 'i4', 'u1', 'u2', 'bool', 'c8', 'O', 'U2', '>f4')
        array = np.zeros((max(sets, 1), *SIZE, 4) if right else shape, choices.pick(kinds))
        if right and array.dtype.kind in 'fiu':
            for _ in range(choices.take(1)[0] % 4):
                place = choices.take(1)[0] % SIZE[0], choices.take(1)[0] % SIZE[1]
                array[:, place[0], place[1]] = (3, 5, 1, 1)
        if array.size and array.dtype.kind in 'fc' and choices.take(1)[0] % 2:
            value = choices.pick((0, 1, -1, 3, 0.5, math.nan, math.inf, 1e300))
            with np.errstate(all='ignore'):
                array.flat[int.from_bytes(choices.take(2), 'little') % array.size] = value
        guidance: Any = array[0] if right and sets == 0 else array
        if choices.take(1)[0] % 2:
            try:
                guidance = torch.from_numpy(np.ascontiguousarray(guidance))
                guidance = guidance.movedim(-1, -3) if guidance.ndim > 2 else guidance
            except (TypeError, ValueError):
                guidance = choices.pick((None, 'map', [array]))
        return refused(lambda: use(parse_guidance_map(guidance, SIZE)))

    picture = encoded('.png', texture(*SIZE))

    def clicks(data: bytes) -> str:
        choices, session, outcome = Choices(data), PageSession(), 'read'
        if choices.take(1)[0] % 8:
            session.load(picture, 1024)
        while choices.left > 0:
            kind = choices.take(1)[0] % 8
            place = choices.pick(((choices.number(), choices.number()), (1.0, 2.0), choices.nested()))
            steps = {
                0: session.undo_arrow,
                1: session.clear_arrows,
                2: session.arrow_picture,
                3: session.arrow_list,
                4: lambda place=place: session.click_point(place, choices.pick(POINT_MODES)),
            }
            step = steps.get(kind, lambda place=place: session.click_arrow(place, choices.pick(ARROW_MODES)))
            if refused(step) != 'read':
                outcome = 'InputError'
        return outcome

    served = folder / 'served'
    served.mkdir()
    (served / 'own.png').write_bytes(picture)
    (served / 'link').symlink_to('/etc/passwd')
    gate = Gate(None, served, frozenset(('127.0.0.1', 'localhost')))

    def events(data: bytes) -> str:
        allowed = gate._names_own_files(data)
        if allowed:
            stack = [json.loads(data)]
            while stack:
                one = stack.pop()
                if isinstance(one, dict):
                    named = one.get('path')
                    assert named is None or Path(named).resolve().is_relative_to(served.resolve())
                    stack += one.values()
                elif isinstance(one, list):
                    stack += one
        return 'passed' if allowed else 'refused'

    def requests(data: bytes) -> str:
        text = data.decode('latin-1')
        path, _, rest = text.partition('|')
        method, _, host = rest.partition('|')
        host, _, origin = host.partition('|')
        headers = [
            (b'host', host.encode('latin-1')),
            *([(b'origin', origin.encode('latin-1'))] if origin else []),
        ]
        refusal = gate._refusal(dict(method=method, path=path, headers=headers))
        if refusal is None and path.startswith('/gradio_api/file='):
            target = Path(path.removeprefix('/gradio_api/file=')).resolve()
            assert target.is_relative_to(served.resolve()), f'{target} was let out'
        return 'passed' if refusal is None else 'refused'

    bodies = [
        json.dumps(dict(data=[dict(path=str(served / 'own.png'), meta={}), [1, None]], fn_index=1)).encode(),
        json.dumps(dict(path=str(served / 'link'))).encode(),
        json.dumps(dict(data=['x', dict(path=f'{served}/../secret')], session_hash='a')).encode(),
    ]
    asked = [
        f'/gradio_api/file={served}/own.png|GET|127.0.0.1:7860|http://127.0.0.1:7860'.encode(),
        f'/gradio_api/file={served}/link|GET|localhost|'.encode(),
        b'/gradio_api/queue/join|POST|127.0.0.1|',
        b'/config|GET|[::1]:7860|null',
        b'/gradio_api/file=/etc/passwd|GET|localhost|',
    ]
    paths = json.dumps([[[1, 2], [3, 4.5]], [[10, 20], [1e3, -7]]]).encode()
    seeds = [random.Random(number).randbytes(60) for number in range(12)]
    return [
        Reader('guidance (trajectories json)', [paths, b'[[[5, 5]]]', *TEXTS[:6]], trajectories),
        Reader('guidance (arrow options)', [b'1,2,3,4|5,6,-7,8', b'-1,0,0,0', b'nan,1,inf,2'], options),
        Reader('guidance (arrow values)', seeds, values),
        Reader('guidance (maps)', seeds, maps),
        Reader('page (clicks)', seeds, clicks),
        Reader('page (events)', bodies, events),
        Reader('page (requests)', asked, requests),
    ]


GUIDANCE_READERS = {'checkpoint': checkpoint_readers, 'guidance': guidance_readers}
