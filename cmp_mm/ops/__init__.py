"""The fused loss: one public function, with a plain, a CPU and a Triton path."""

from .upsample_cross_entropy import upsample_cross_entropy

__all__ = ['upsample_cross_entropy']
