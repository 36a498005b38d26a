"""Sparse motion in, dense motion out, for anyone's images."""

import inspect
import os
import uuid
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor
from tqdm import tqdm

from cmp_mm.models import CMP
from cmp_mm.models.data_preprocessor import pad_to

from .arrows import (
    COLLISIONS,
    OUT_OF_RANGE,
    draw_guidance,
    limit_vectors,
    parse_arrows,
    parse_guidance_map,
    raise_or_warn,
    to_working_size,
)
from .correction import CORRECTIONS, check_few, correct_at_arrows
from .errors import InputError, check_choice, check_count, unknown_option
from .images import COLOR_ORDERS, ImageLike, to_rgb_tensor
from .loading import load_trained

# A name for each network there is, so that an encoded image need not hold the network itself.
_NAMES: weakref.WeakKeyDictionary[CMP, str] = weakref.WeakKeyDictionary()
NORMALIZATIONS = ('reference', 'minus_one_to_one', 'none')


@dataclass(frozen=True)
class EncodedImage:
    """An image after the encoder, from `CMPInferencer.encode`, good for any number of guidance sets.

    Attributes:
        features: feature maps, as `CMP.encode_image` gives them.
        size: (height, width) of the image; arrows and flow are in its pixels.
        working_size: (height, width) the network sees, before padding.
        network: which one encoded it, of how normalised values; None where that is not known.
    """

    features: tuple[Tensor, ...]
    size: tuple[int, int]
    working_size: tuple[int, int]
    network: str | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple:
        # The name is good in this process only: what was stored or copied goes without.
        return EncodedImage, (self.features, self.size, self.working_size)


class CMPInferencer:
    """Propagates a few motion vectors over an image (CMP, section 3).

    An image is encoded once and then serves any number of guidance sets::

        inferencer = CMPInferencer('cmp_resnet50-skip_8xb8-42k_vip-mpii-384x384', 'checkpoint.pth')
        encoded = inferencer.encode('image.jpg')
        flows = inferencer.propagate(encoded, [[(120, 80, 15, 0)], [(120, 80, 0, 15), (30, 40, 0, 0)]])

    Args:
        model: name of a config, path of one, a Config or its ``model`` part; a built `CMP`; or None, which
            takes the network from a checkpoint that tells it, as ours and the reference implementation's do.
        weights: checkpoint of this project or of the reference implementation. It is read as data:
            nothing in it is executed. A built `CMP` needs none.
        device: such as 'cuda:1'; None is a built network's own, else the first CUDA device,
            else the CPU.
        normalization: what the network was trained on. 'reference': mean and standard deviation of the
            config, the published ones by default. 'minus_one_to_one': image / 255 * 2 - 1, which one family
            of video generators feeds. 'none': images are passed as they come, RGB.
        working_size: what images are resized to before the network: None leaves them, an int is the short
            side, (height, width) may change the aspect. Vectors follow, each axis by its own ratio.
        collisions: of several arrows in one pixel (of the working size) the 'last' counts, their 'mean', or
            it is an 'error'. They are never summed.
        out_of_range: vectors with a component beyond what the codec expresses (50 px of the working size)
            are passed on with a warning ('warn'), cut ('clip'), shrunk with all of their set and the flow
            enlarged again ('rescale'), or an 'error'.
        correction: 'none' is the network's own flow, the reference's; with 'fade' what it misses at an arrow
            is added there, and less with distance, so that the arrow is met in its pixel of the working size
            (as far as ``collisions`` and 'clip' leave it); see `correct_at_arrows`.

    Attributes:
        trained_side: short side in pixels that the network's training images were resized to, as the config
            in its checkpoint tells, else the one given; None where that is not known. Pictures of another
            size are not resized to it unless ``working_size`` says so.

    Raises:
        InputError: an unknown config, no weights, or an unknown choice.
        CheckpointError: the checkpoint is missing, broken, not plain data, or of another network.
    """

    def __init__(
        self,
        model: str | os.PathLike | Config | Mapping[str, Any] | CMP | None = None,
        weights: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        normalization: str = 'reference',
        working_size: int | Sequence[int] | None = None,
        collisions: str = 'last',
        out_of_range: str = 'warn',
        correction: str = 'none',
    ) -> None:
        check_choice('normalization', normalization, NORMALIZATIONS)
        check_choice('collisions', collisions, COLLISIONS)
        check_choice('out_of_range', out_of_range, OUT_OF_RANGE)
        check_choice('correction', correction, CORRECTIONS)
        _check_working_size(working_size)
        if device is None and isinstance(model, CMP):
            device = next(model.parameters()).device
        self.device = _usable_device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
        network, self.trained_side = load_trained(model, weights)
        self.model = network.to(self.device)
        self.normalization = normalization
        self.working_size = working_size
        self.collisions = collisions
        self.out_of_range = out_of_range
        self.correction = correction

    @property
    def max_vector(self) -> float | None:
        """Largest component of a vector, in pixels of the working size; None where there is no limit."""
        return None if self.model.codec is None else self.model.codec.max_flow

    def better_side(self, size: tuple[int, int]) -> int | None:
        """``trained_side``, where pictures of this (height, width) reach the network at far another, or None.

        Far is a factor of over 1.5. With a ``working_size`` that is the user's choice, and nothing is said.
        """
        if self.working_size is not None or self.trained_side is None:
            return None
        ratio = min(size) / self.trained_side
        return self.trained_side if max(ratio, 1 / ratio) > 1.5 else None

    def encode(
        self,
        image: ImageLike,
        color_order: str | None = None,
        value_range: Sequence[float] | None = None,
        working_size: int | Sequence[int] | None = None,
        requires_grad: bool = False,
        **unknown: Any,
    ) -> EncodedImage:
        """Run the image encoder.

        Args:
            image: path; PIL image; array (H, W, 3) or (H, W); tensor (3, H, W), (1, 3, H, W) or (H, W); of
                any size. A file is turned upright as its EXIF says; what is decoded already is taken as its
                pixels lie, a PIL image too (`PIL.ImageOps.exif_transpose` turns it). It is padded at the
                right and bottom to the network's stride.
            color_order: 'rgb' or 'bgr', to be stated for arrays and tensors of three channels.
            value_range: (low, high), the values of black and white, to be stated for all but uint8, which
                is (0, 255). With normalization 'none' it is not used.
            working_size: overrides the inferencer's.
            requires_grad: keep the graph back to ``image``, a tensor.
            unknown: there are none; it is told which call takes them.

        Raises:
            InputError: the image cannot be read, its order or range is missing or wrong, or an option is not
                one of this call.
        """
        if unknown:
            raise unknown_option('encode()', unknown, _calls())
        with torch.set_grad_enabled(requires_grad):
            planes = self._normalized(image, color_order, value_range)[None]
            size = tuple(planes.shape[-2:])
            working = _resolve_working_size(self.working_size if working_size is None else working_size, size)
            if working != size:
                planes = F.interpolate(planes, working, mode='bilinear', antialias=True)
            features = self.model.encode_image(pad_to(planes, self._canvas(working)))
            return EncodedImage(tuple(features), size, working, self._network())

    def propagate(
        self,
        image: EncodedImage | ImageLike,
        arrows: Any = None,
        guidance_map: Tensor | np.ndarray | None = None,
        batch_size: int = 8,
        requires_grad: bool = False,
        progress: bool = False,
        correction: str | None = None,
        **image_options: Any,
    ) -> Tensor:
        """Predict dense flow for each of T guidance sets.

        Args:
            image: from :meth:`encode`, or anything that takes.
            arrows: one set, rows x, y, u, v in pixels of the image, or a list of T sets; see
                `cmp_mm.apis.parse_arrows`. (x, y) is where an arrow begins, (u, v) its motion to the right
                and down; a vector of zero says that something stands still.
            guidance_map: instead of arrows: (4, H, W) or (T, 4, H, W) tensor or (H, W, 4) or (T, H, W, 4)
                array of u, v, mask, mask.
            batch_size: guidance sets decoded at a time.
            requires_grad: keep the graph back to arrows or map, and to an image encoded with it. Otherwise
                the result is an inference tensor.
            progress: show a bar over the guidance sets.
            correction: overrides the inferencer's.
            image_options: of :meth:`encode`, if ``image`` is not encoded yet.

        Returns:
            (T, 2, H, W) float32 pixels of the image, channel 0 = x to the right, channel 1 = y down, on the
            device; T is 1 for one set.

        Raises:
            InputError: no arrows, an arrow outside the image or not finite, colliding or too long ones
                where that is an error, over 10000 of them to correct by, a map that does not fit, an image
                that another network encoded, or an option of another call.
        """
        batch_size = check_count('batch_size', batch_size, 1)
        correction = self._chosen(correction)
        if unknown := [name for name in image_options if name not in _ENCODE_OPTIONS]:
            raise unknown_option('propagate()', unknown, _calls())
        if not isinstance(image, EncodedImage):
            image = self.encode(image, requires_grad=requires_grad, **image_options)
        elif image_options:
            raise InputError(f'the image is encoded already; {", ".join(image_options)} must go to encode()')
        elif image.network not in (None, self._network()):
            raise InputError(
                'the image was encoded by another network or normalization; encode it with this inferencer'
            )
        with torch.enable_grad() if requires_grad else torch.inference_mode():
            sets = self._sets(image.size, image.working_size, arrows, guidance_map)
            for one, _ in sets:
                check_few(len(one), correction)
            canvas, flows = self._canvas(image.working_size), []
            bar = tqdm(total=len(sets), desc='propagating', unit='set', disable=not progress)
            with bar:
                for start in range(0, len(sets), batch_size):
                    chunk = sets[start : start + batch_size]
                    guidance = torch.stack([draw_guidance(one, canvas, self.collisions) for one, _ in chunk])
                    factors = guidance.new_tensor([factor for _, factor in chunk])
                    flows.append(self._decode(image, guidance, factors, correction))
                    bar.update(len(chunk))
            return torch.cat(flows)

    def __call__(self, image: EncodedImage | ImageLike, arrows: Any, **options: Any) -> np.ndarray:
        """One guidance set, as an array.

        Args:
            image: see :meth:`propagate`.
            arrows: one set, rows x, y, u, v.
            options: of :meth:`propagate`.

        Returns:
            (H, W, 2) float32 flow, u to the right and v down, pixels.
        """
        flows = self.propagate(image, arrows, **options)
        if len(flows) != 1:
            raise InputError(
                f'{len(flows)} guidance sets were given, expected one; propagate() takes several'
            )
        return flow_to_array(flows[0])

    def check_arrows(self, size: tuple[int, int], arrows: Tensor, correction: str | None = None) -> None:
        """Refuse without running the network what :meth:`propagate` of a picture would, but for long vectors.

        Args:
            size: (height, width) of the picture, uint8.
            arrows: (P, 4), one set of `cmp_mm.apis.parse_arrows`.
            correction: overrides the inferencer's.

        Raises:
            InputError: the network knows no guidance, pictures are not what it is fed with (normalization
                'none'), there is no such correction, or arrows meet where that is an error, or are too many
                to correct by.
        """
        self._check_guided()
        self.check_takes_pictures()
        check_few(len(arrows), self._chosen(correction))
        working = _resolve_working_size(self.working_size, size)
        draw_guidance(to_working_size(arrows, size, working), self._canvas(working), self.collisions)

    def check_takes_pictures(self) -> None:
        """Raise InputError where images are passed to the network as they come: a picture is 0 to 255."""
        if self.normalization == 'none':
            raise InputError(
                "normalization is 'none', which passes images on as they come; a picture needs another, "
                "'reference' or 'minus_one_to_one'"
            )

    def _chosen(self, correction: str | None) -> str:
        if correction is None:
            return self.correction
        check_choice('correction', correction, CORRECTIONS)
        return correction

    def _network(self) -> str:
        return f'{_NAMES.setdefault(self.model, uuid.uuid4().hex)} {self.normalization}'

    def _check_guided(self) -> None:
        if not self.model.use_guidance:
            raise InputError(
                'the network was trained without guidance (use_guidance=False), arrows mean nothing to it; '
                'use a config that propagates motion'
            )

    def _normalized(self, image: ImageLike, color_order: str | None, value_range: Any) -> Tensor:
        if color_order is not None:
            check_choice('color_order', color_order, COLOR_ORDERS)
        if self.normalization == 'none':
            if not (isinstance(image, Tensor) and image.is_floating_point()):
                raise InputError(
                    f"the image is a {type(image).__name__}; with normalization 'none' expected a float "
                    'tensor (3, H, W), RGB, normalised already'
                )
            planes = image[0] if image.ndim == 4 and len(image) == 1 else image
            if planes.ndim != 3 or len(planes) != 3 or 0 in planes.shape:
                raise InputError(
                    f'the image has shape {tuple(image.shape)}; expected (3, H, W) or (1, 3, H, W)'
                )
            planes = planes.to(self.device, torch.float32)
            if not planes.detach().isfinite().all():
                raise InputError('the image holds values that are not finite')
            return planes.flip(0) if color_order == 'bgr' else planes
        planes = to_rgb_tensor(image, color_order, value_range).to(self.device)
        if self.normalization == 'minus_one_to_one':
            return planes / 127.5 - 1
        preprocessor = self.model.data_preprocessor
        if not preprocessor.bgr_to_rgb:
            planes = planes.flip(0)  # a network that learnt from BGR
        return (planes - preprocessor.mean) / preprocessor.std

    def _canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width), enlarged where the coarsest scale of the decoder would have no pixel."""
        least = self.model.guidance_encoder.stride * max(self.model.decoder.propagation.combo)
        return max(size[0], least), max(size[1], least)

    def _sets(
        self,
        size: tuple[int, int],
        working: tuple[int, int],
        arrows: Any,
        guidance_map: Tensor | np.ndarray | None,
    ) -> list[tuple[Tensor, float]]:
        """Sets of arrows at the working size, and the factor to multiply the flow of each by."""
        self._check_guided()
        if (arrows is None) == (guidance_map is None):
            raise InputError('expected either arrows or a guidance_map, one of the two')
        sets = parse_arrows(arrows, size) if guidance_map is None else parse_guidance_map(guidance_map, size)
        limited, largest = [], 0.0
        for one in sets:
            one = to_working_size(one.to(self.device), size, working)
            one, factor, longest = limit_vectors(one, self.max_vector, self.out_of_range)
            limited.append((one, factor))
            largest = max(largest, longest)
        raise_or_warn(largest, self.max_vector, self.out_of_range)
        return limited

    def _decode(self, image: EncodedImage, guidance: Tensor, factors: Tensor, correction: str) -> Tensor:
        motion = self.model.encode_guidance(guidance)
        # An image encoded under autocast, or on another device, may be propagated without, or here.
        features = [feature.to(motion) for feature in image.features]
        flow = self.model.to_flow(self.model.decode(features, motion), guidance.shape[-2:])
        flow = flow[..., : image.working_size[0], : image.working_size[1]]
        if correction == 'fade':
            flow = correct_at_arrows(flow, guidance[..., : flow.shape[-2], : flow.shape[-1]])
        flow = flow * factors[:, None, None, None]
        if image.working_size == image.size:
            return flow
        ratio = [image.size[1] / image.working_size[1], image.size[0] / image.working_size[0]]
        flow = F.interpolate(flow, image.size, mode='bilinear')
        return flow * flow.new_tensor(ratio)[:, None, None]


# What propagate() passes on.
_ENCODE_OPTIONS = ('color_order', 'value_range', 'working_size')


def _calls() -> dict[str, list[str]]:
    """The options of each call, as its signature has them."""
    made, encode, propagate = (
        [name for name in inspect.signature(each).parameters if name not in ('unknown', 'image_options')]
        for each in (CMPInferencer, CMPInferencer.encode, CMPInferencer.propagate)
    )
    return {'encode()': encode, 'propagate()': [*propagate, *_ENCODE_OPTIONS], 'CMPInferencer(...)': made}


def flow_to_array(flow: Tensor) -> np.ndarray:
    """(2, H, W) or (T, 2, H, W) flow on any device to a (H, W, 2) or (T, H, W, 2) float32 array."""
    return np.ascontiguousarray(flow.detach().float().movedim(-3, -1).cpu().numpy())


def _usable_device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = (str(error).strip().splitlines() or [''])[0]
        raise InputError(f'device {str(device)!r} cannot be used: {reason}') from None


def _check_working_size(size: Any) -> None:
    sides = size if isinstance(size, Sequence) and not isinstance(size, str) else (size,)
    whole = all(isinstance(side, Integral) and not isinstance(side, bool) and side >= 1 for side in sides)
    if size is not None and not (whole and len(sides) in (1, 2)):
        raise InputError(
            f'working_size is {size!r}; expected pixels of the short side, (height, width), or None'
        )


def _resolve_working_size(working: Any, size: tuple[int, int]) -> tuple[int, int]:
    _check_working_size(working)
    if working is None:
        return size
    if isinstance(working, Sequence) and len(working) == 2:
        return tuple(map(int, working))
    short = working[0] if isinstance(working, Sequence) else working
    ratio = int(short) / min(size)
    return tuple(max(1, round(side * ratio)) for side in size)
