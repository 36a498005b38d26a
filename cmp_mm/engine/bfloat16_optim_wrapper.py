"""Training in bfloat16 where mmengine's AmpOptimWrapper does not work: on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from cmp_mm.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """OptimWrapper whose forward pass runs under ``torch.autocast`` in bfloat16, on a CPU as on a GPU.

    bfloat16 has float32's range, so gradients need no scaling and there is no state beyond the optimizer's:
    a checkpoint goes on with this wrapper or with OptimWrapper. Parameters, their gradients, batch statistics
    and the loss stay float32.

    On a GPU ``AmpOptimWrapper`` with ``dtype='bfloat16', loss_scale=1.0`` does the same; it asserts that
    there is one.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """As OptimWrapper's, under autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


def computes_in_bfloat16() -> bool | None:
    """Whether this CPU has instructions for bfloat16; None where torch does not tell (before 2.11).

    Without them oneDNN converts to and fro: a training step takes twice as long as in float32 with AVX512,
    and twelve times with AVX2.
    """
    if not hasattr(torch.cpu, 'get_capabilities'):
        return None
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ('avx512_bf16', 'amx_bf16', 'avx10_2', 'bf16'))
