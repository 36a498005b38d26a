"""cmp_mm: Conditional Motion Propagation (Zhan et al., CVPR 2019) for the OpenMMLab model zoo.

Importing the package checks versions and installs the amendments of :mod:`cmp_mm.compat`; it imports
neither torch nor mmengine.
"""

from cmp_mm import compat
from cmp_mm.version import __version__

__all__ = ['__version__']

compat.check_versions()
compat.install()
