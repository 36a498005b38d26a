"""cmp_mm: Conditional Motion Propagation (Zhan et al., CVPR 2019) for the OpenMMLab model zoo."""

from cmp_mm.version import __version__

__all__ = ['__version__']
