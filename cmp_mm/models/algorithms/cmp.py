"""Conditional Motion Propagation: image and a few vectors in, dense flow out."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModel
from mmengine.registry import Registry
from torch import Tensor

from cmp_mm.registry import MODELS, TASK_UTILS
from cmp_mm.structures import FlowDataSample

from ..data_preprocessor import pad_to, stack_flow
from ..decoders.propagation import resize_to
from .graphed import GraphedNetwork
from .upsampled_bins import upsampled_bins

_MODES = ('tensor', 'loss', 'predict')


@MODELS.register_module()
class CMP(BaseModel):
    """Self-supervised pretraining by conditional motion propagation (Zhan et al., CVPR 2019).

    ``backbone`` is what pretraining is for; the other parts exist to train it, or to use the network for
    motion propagation itself. Inputs of any size work from the stride times the decoder's largest scale on:
    they are padded at the right and bottom with zeros to the stride, and results are cropped back.

    Args:
        backbone: image encoder config; any zoo backbone that returns feature maps.
        neck: projection config, :class:`ConvNeck`.
        guidance_encoder: sparse motion encoder config; its stride is the backbone's.
        decoder: decoder config.
        loss: loss config.
        codec: quantised-flow codec config (TASK_UTILS); None where the decoder gives raw flow.
        data_preprocessor: config; None is :class:`FlowDataPreprocessor` with its defaults.
        use_guidance: False is Walker et al.'s baseline, flow from the image alone. The network stays the
            same, layer by layer, and sees an empty guidance map: parameters and checkpoints stay comparable.
        cuda_graph: on a GPU record the training pass of the network once and replay it, for crops of one
            size and one process: a small batch is bound by the launching of its kernels otherwise
            (:class:`GraphedNetwork`). Elsewhere it has no effect.
        init_cfg: mmengine init config.

    Raises:
        ValueError: the decoder's width does not fit the codec.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        guidance_encoder: dict,
        decoder: dict,
        loss: dict,
        codec: dict | None = None,
        data_preprocessor: dict | None = None,
        use_guidance: bool = True,
        cuda_graph: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(_build(MODELS, data_preprocessor or dict(type='FlowDataPreprocessor')), init_cfg)
        self.backbone = _build(MODELS, backbone)
        self.neck = _build(MODELS, neck)
        self.guidance_encoder = _build(MODELS, guidance_encoder)
        self.decoder = _build(MODELS, decoder)
        self.loss_module = _build(MODELS, loss)
        self.codec = _build(TASK_UTILS, codec) if codec is not None else None
        self.use_guidance = use_guidance
        # Not a module: its parameters are this one's.
        self._graphed = GraphedNetwork(self, self._network) if cuda_graph else None
        expected = self.codec.channels if self.codec is not None else 2
        if self.decoder.out_channels != expected:
            raise ValueError(
                f'CMP: decoder.out_channels is {self.decoder.out_channels}, expected {expected}: '
                + ("2 axes of the codec's bins." if self.codec is not None else 'raw flow, as codec is None.')
            )
        layout = getattr(self.data_preprocessor, 'memory_format', torch.contiguous_format)
        if layout != torch.contiguous_format:
            # As the images, so that gradients have the weights' strides, which distributed training expects.
            self.to(memory_format=layout)

    def forward(
        self,
        inputs: dict[str, Tensor],
        data_samples: Sequence[FlowDataSample] | None = None,
        mode: str = 'tensor',
    ) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor] | list[FlowDataSample]:
        """Run one of the three modes.

        Args:
            inputs: ``image`` (N, 3, H, W) normalised RGB and ``guidance`` (N, 4, H, W) = u, v in pixels,
                mask, mask. Without guidance in use, ``guidance`` may be absent.
            data_samples: N samples; ``loss`` reads their ``gt_flow`` and ``gt_valid``.
            mode: ``'tensor'``, ``'loss'`` or ``'predict'``.

        Returns:
            ``tensor``: logits (N, 2 * bins, h, w), or raw flow (N, 2, h, w), of the padded input; a tuple,
            finest first, where the decoder gives several scales. ``loss``: dict of ``loss`` and
            ``guidance_points``, the mean number per image. ``predict``: the samples with ``pred_flow`` and
            ``pred_bins``.
        """
        if mode not in _MODES:
            raise ValueError(f'CMP: mode must be one of {_MODES}; got {mode!r}.')
        image = inputs['image']
        guidance = self._guidance(inputs)
        network = self._graphed if mode == 'loss' and self._graphed is not None else self._network
        output = network(image, guidance)
        if mode == 'tensor':
            return output
        if mode == 'loss':
            return self.loss(output, data_samples, image, guidance)
        return self.predict(output, data_samples, image)

    def encode_image(self, image: Tensor) -> tuple[Tensor, ...]:
        """Image features for :meth:`decode`; one call serves any number of guidance maps.

        Args:
            image: (N, 3, H, W) normalised RGB, of any size.

        Returns:
            Feature maps of the padded image, shallow to deep; the last one is the neck's projection. The
            padded image itself comes first where the decoder reads it.
        """
        image = pad_to(image, self.padded_size(image))
        features = self.backbone(image)
        features = self.neck([features] if isinstance(features, Tensor) else features)
        return (image, *features) if self.decoder.uses_image else features

    def encode_guidance(self, guidance: Tensor) -> Tensor:
        """(N, 4, H, W) guidance map of any size to motion features for :meth:`decode`."""
        return self.guidance_encoder(pad_to(guidance, self.padded_size(guidance)))

    def decode(self, features: Sequence[Tensor], motion: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits or raw flow from :meth:`encode_image` and :meth:`encode_guidance`.

        Features of one image go with any number of motion features; what depends on the image alone is then
        computed once.
        """
        if self.training and len(features[-1]) == 1 and len(motion) > 1:
            # Batch statistics are those of all sets.
            features = [feature.expand(len(motion), -1, -1, -1) for feature in features]
        return self.decoder(features, motion)

    def to_flow(self, output: Tensor | Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Flow at the size of the unpadded input.

        Args:
            output: what ``tensor`` mode or :meth:`decode` gives; of several scales the finest is taken.
            size: (height, width) of the input before padding.

        Returns:
            (N, 2, height, width) float32 pixels.
        """
        finest = output if isinstance(output, Tensor) else output[0]
        # As the reference: the expectation first, then the upsampling, which also is 99 times less work.
        flow = self.codec.decode(finest) if self.codec is not None else finest.float()
        return resize_to(flow, self._round_up(size))[..., : size[0], : size[1]]

    def loss(
        self,
        output: Tensor | Sequence[Tensor],
        data_samples: Sequence[FlowDataSample],
        image: Tensor,
        guidance: Tensor,
    ) -> dict[str, Tensor]:
        """Loss over the valid pixels, and the mean number of guidance points per image for the log."""
        flow, valid = stack_flow(data_samples, self.padded_size(image))
        return dict(
            loss=self.loss_module(output, self.codec, flow, valid),
            guidance_points=guidance[:, 2].sum(dim=(1, 2)).mean(),
        )

    def predict(
        self,
        output: Tensor | Sequence[Tensor],
        data_samples: Sequence[FlowDataSample] | None,
        image: Tensor,
    ) -> list[FlowDataSample]:
        """Samples with ``pred_flow`` (2, H, W), and ``pred_bins`` (2, H, W) int16 where there is a codec.

        H x W is the sample's ``img_shape``, or the input's where it has none.
        """
        size = tuple(image.shape[-2:])
        samples = list(data_samples) if data_samples else [FlowDataSample() for _ in image]
        flow = self.to_flow(output, size)
        bins = None
        if self.codec is not None:
            finest = output if isinstance(output, Tensor) else output[0]
            bins = upsampled_bins(finest, self.codec, self.padded_size(image)).to(torch.int16)
        for index, sample in enumerate(samples):
            height, width = sample.metainfo.get('img_shape', size)[:2]
            sample.pred_flow = flow[index, :, :height, :width]
            if bins is not None:
                sample.pred_bins = bins[index, :, :height, :width]
        return samples

    def padded_size(self, x: Tensor) -> tuple[int, int]:
        """(height, width) of (N, C, H, W) ``x``, rounded up to the stride."""
        return self._round_up(x.shape[-2:])

    def _round_up(self, size: Sequence[int]) -> tuple[int, int]:
        stride = self.guidance_encoder.stride
        return tuple(-(-side // stride) * stride for side in size)

    def _network(self, image: Tensor, guidance: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.decode(self.encode_image(image), self.encode_guidance(guidance))

    def _guidance(self, inputs: dict[str, Tensor]) -> Tensor:
        image = inputs['image']
        if not self.use_guidance:
            return image.new_zeros(len(image), 4, *image.shape[-2:])
        guidance = inputs.get('guidance')
        if guidance is None:
            raise ValueError('CMP: inputs hold no guidance map; give one, or set use_guidance=False.')
        expected = (len(image), 4, *image.shape[-2:])
        if tuple(guidance.shape) != expected:
            raise ValueError(
                f'CMP: the guidance map is {tuple(guidance.shape)}, expected {expected} to go with the image.'
            )
        return guidance


def _build(registry: Registry, cfg: dict | object) -> object:
    """Build a part in scope cmp_mm, so that the model builds from any other package's scope too."""
    if not isinstance(cfg, dict):
        return cfg
    return registry.build({'_scope_': 'cmp_mm', **cfg})
