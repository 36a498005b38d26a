"""The network's training pass as two CUDA graphs: launched at once instead of kernel by kernel."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn

from cmp_mm.ops.differentiable_once import differentiable_once

WARM_UP = 3  # passes before the recording, in which cuDNN looks for its algorithms


class GraphedNetwork:
    """Calls a network, after the first time by replaying what that recorded.

    A training step of a few images is bound by the launching of its kernels: about a thousand for ResNet-50.
    Recorded once (``torch.cuda.CUDAGraph``), forward and backward pass take one launch each. Inputs are
    copied to where the recording reads them; parameters and running statistics are read and written where
    they lie. The kernels, and so the numbers, are those of an ordinary pass.

    Args:
        module: whose parameters, buffers and mode count.
        network: of some tensors, gives a tensor or a tuple of them; called on the module's device, without
            waiting for it.
    """

    def __init__(self, module: nn.Module, network: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
        self.module, self.network = module, network
        self._recorded: _Recording | None = None

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The network's output; recorded for the first inputs, and replayed for others like them.

        An ordinary pass where a recording does not fit: inputs of another size; several processes; gradients
        that are there already, as when they are accumulated over iterations, since a replay writes its
        gradients to the same place each time; an output whose backward pass may still come, since what that
        reads would be overwritten.

        Raises:
            RuntimeError: the network waits for the GPU somewhere, so that it cannot be recorded.
        """
        if torch.compiler.is_compiling():
            return self.network(*inputs)
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        usable = (
            all(_on_gpu(x) and not x.requires_grad for x in inputs)
            and bool(parameters)
            and self.module.training
            and torch.is_grad_enabled()
            and get_world_size() == 1
            and all(p.grad is None for p in parameters)
        )
        if not usable:
            return self.network(*inputs)
        key = _key(self.module, inputs)
        if self._recorded is None or self._recorded.parameters_key != key[0]:
            try:
                self._recorded = _Recording(self.module, self.network, parameters, inputs, key)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = (str(error).strip().splitlines() or [''])[0]
                raise RuntimeError(
                    f'CMP: the network cannot be recorded as a CUDA graph: {reason}. Train it with '
                    'cuda_graph=False.'
                ) from error
        if self._recorded.key != key or self._recorded.is_awaited():
            return self.network(*inputs)
        return self._recorded(inputs)

    def __getstate__(self) -> dict:
        # A copy, as of an averaged model, records for itself: graphs cannot be copied.
        return dict(self.__dict__, _recorded=None)


class _Recording:
    """Both graphs, and the places they read from and write to."""

    def __init__(
        self,
        module: nn.Module,
        network: Callable,
        parameters: list[nn.Parameter],
        inputs: Sequence[Tensor],
        key: tuple,
    ) -> None:
        self.parameters, self.key, self.parameters_key = parameters, key, key[0]
        self.awaited: weakref.ref | None = None  # the step of autograd's whose backward pass may come
        self.inputs = [x.clone() for x in inputs]
        # The passes before and while recording must leave no trace.
        kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
        device = inputs[0].device
        state = torch.cuda.get_rng_state(device)
        with (
            torch.cuda.device(device),  # streams and graphs are made on the current one
            torch.autocast(
                'cuda',
                torch.get_autocast_dtype('cuda'),
                enabled=torch.is_autocast_enabled('cuda'),
                cache_enabled=False,  # its copies of the weights would outlive the recording
            ),
        ):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    outputs = _as_tuple(network(*self.inputs))
                    self._gradients(outputs, [torch.zeros_like(one) for one in outputs])
                del outputs
            torch.cuda.current_stream().wait_stream(aside)
            pool = torch.cuda.graph_pool_handle()
            self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            # Thread-local: the thread that copies batches to page-locked memory goes on meanwhile.
            # A stream of this device: torch's own is of the one that was current when it was made.
            record = dict(pool=pool, stream=torch.cuda.Stream(), capture_error_mode='thread_local')
            with torch.cuda.graph(self.forward, **record):
                outputs = network(*self.inputs)
            self.is_single = isinstance(outputs, Tensor)
            attached = _as_tuple(outputs)
            self.output_gradients = [torch.zeros_like(one) for one in attached]
            with torch.cuda.graph(self.backward, **record):
                self.gradients = self._gradients(attached, self.output_gradients)
        self.outputs = [one.detach() for one in attached]
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
        torch.cuda.set_rng_state(state, device)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        outputs = _Replay.apply(self, *self.parameters)
        return outputs[0] if self.is_single else outputs

    def is_awaited(self) -> bool:
        """Whether the backward pass of the last output was not run and still can be."""
        return self.awaited is not None and self.awaited() is not None

    def _gradients(self, outputs: Sequence[Tensor], of: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(outputs, self.parameters, of, allow_unused=True)


class _Replay(torch.autograd.Function):
    """The two graphs as one step of autograd's."""

    @staticmethod
    def forward(ctx: Any, recording: _Recording, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.recording = recording
        recording.awaited = weakref.ref(ctx)
        recording.forward.replay()
        return tuple(one.detach() for one in recording.outputs)

    @staticmethod
    @differentiable_once('train CMP with cuda_graph=False')
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        recording = ctx.recording
        if recording.awaited is None or recording.awaited() is not ctx:
            raise RuntimeError('CMP: a second backward pass of one output needs cuda_graph=False')
        recording.awaited = None
        for place, value in zip(recording.output_gradients, gradients, strict=True):
            place.copy_(value)
        recording.backward.replay()
        return None, *(None if one is None else one.detach() for one in recording.gradients)


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def _key(module: nn.Module, inputs: Sequence[Tensor]) -> tuple:
    """What a recording holds for: parameters, buffers and modes, and how inputs look.

    Of parameters and buffers where they lie, of parameters too whether they learn; frozen ones are read at
    their place as well. A part may be in another mode than the whole, as a normalisation that is frozen.
    """
    places = (
        tuple((one.data_ptr(), one.requires_grad) for one in module.parameters()),
        tuple(one.data_ptr() for one in module.buffers()),
        tuple(part.training for part in module.modules()),
    )
    looks = tuple((x.shape, x.stride(), x.dtype, x.device) for x in inputs)
    casts = torch.get_autocast_dtype('cuda') if torch.is_autocast_enabled('cuda') else None
    return places, looks, casts


def _as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
