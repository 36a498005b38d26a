"""The reference's weight initialisation, as a mmengine initialiser."""

from mmengine.model import NormalInit, XavierInit, update_init_info
from torch import nn

from cmp_mm.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module()
class ReferenceInit:
    """Xavier-normal convolutions with a small gain, batch normalisation around one, biases zero.

    The reference applies it to the whole network *after* it has loaded a pretrained encoder, and so throws
    that encoder away: a bug, which this class does not repeat. As ``init_cfg`` of the model it runs before
    ``Pretrained`` of any part, which therefore stays; and a ``backbone`` of another package is left alone,
    because it may have loaded its weights when it was built (timm's do), and initialises itself otherwise.

    Args:
        gain: of Xavier's rule.
        bn_std: standard deviation of the batch normalisation's scale around 1.
    """

    def __init__(self, gain: float = 0.02, bn_std: float = 0.02) -> None:
        self.initializers = (
            XavierInit(layer=['Conv2d', 'ConvTranspose2d'], distribution='normal', gain=gain),
            NormalInit(layer='_BatchNorm', mean=1, std=bn_std),
        )
        self.info = f'ReferenceInit: gain={gain}, bn_std={bn_std}'

    def __call__(self, module: nn.Module) -> None:
        """Initialise ``module`` in place, all but a backbone of another package."""
        for name, child in module.named_children():
            if name == 'backbone' and not type(child).__module__.startswith('cmp_mm.'):
                continue
            for initialize in self.initializers:
                initialize(child)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self.info)
