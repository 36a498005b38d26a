"""What today's torch, numpy and setuptools need of OpenMMLab's packages, and what works here.

``install()`` runs at ``import cmp_mm`` and costs nothing there: it only puts two finders on
``sys.meta_path``, which act when one of the modules they know is imported later. So a downstream config
that says ``custom_imports = dict(imports=['cmp_mm.downstream'])`` is served by the tools of
mmsegmentation, mmpose and mmdetection too: they read the config before they import their models.

What is done, and what makes it needless:

- ``mmcv._ext``: a stand-in where mmcv-lite is installed; needless with the compiled mmcv, which is never
  replaced.
- ``xtcocotools._mask``: pycocotools' module where its own does not load; needless with an xtcocotools
  (> 1.14.3) built against numpy 2.
- ``mmengine.config.utils``: knows ``cmp_mm::`` as a config base; needless with an mmengine (> 0.10.7) that
  takes any installed package.
- ``mmengine.config.config``: finds packages without pkg_resources, also when installed editable; needless
  with an mmengine (> 0.10.7) that uses importlib.metadata.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from functools import cache

# Hard floors: older ones lack what the code calls. Ceilings are the first versions that are not known to
# work: they only warn, as most of them will.
FLOORS = {'torch': '2.4', 'mmengine': '0.10.4', 'mmcv': '2.0.1', 'numpy': '1.22'}
CEILINGS = {'torch': '3', 'mmengine': '1', 'mmcv': '3', 'numpy': '3'}

# By name on PyPI. mmpose declares chumpy, which does not build today and is never imported.
INSTALL_COMMANDS = {
    'mmsegmentation': "pip install 'cmp_mm[mmseg]'",
    'mmpose': "pip install 'cmp_mm[mmpose]' && pip install --no-deps 'mmpose>=1.3,<2'",
    'mmdet': "pip install 'cmp_mm[mmdet]'",
}
COMPILED_MMCV_COMMAND = (
    "pip uninstall -y mmcv-lite && pip install 'setuptools<82' wheel && "
    "pip install --no-build-isolation 'mmcv==2.1.0'"
)


def version_tuple(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, three at most: ``'2.13.0+cpu'`` gives ``(2, 13, 0)``."""
    release = re.match(r'\d+(\.\d+)*', version)
    return tuple(int(number) for number in release[0].split('.')[:3]) if release else ()


def installed_version(package: str) -> str | None:
    """Version of an installed distribution; for mmcv that of mmcv or of mmcv-lite; None if there is none."""
    for name in ('mmcv', 'mmcv-lite') if package == 'mmcv' else (package,):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@cache  # looking for a package reads directories, which a training step would do each time
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec('triton') is not None


@cache
def triton_builds() -> bool:
    """Whether Triton's kernels can be used on this machine's GPU; a warning says why if they cannot.

    What launches them Triton compiles on first use, which takes a C compiler and Python's headers. Only to be
    asked where there is a GPU.
    """
    if not has_triton():
        return False
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        warnings.warn(
            f'Triton does not work here, so plain torch is used, several times slower: {reason} (it needs a '
            "C compiler and Python's headers, such as the packages gcc and python3-dev)",
            stacklevel=2,
        )
        return False
    return True


def check_versions() -> None:
    """Check the packages that cmp_mm always needs.

    Raises:
        ImportError: if one is missing or older than its floor; the message names the command.
    """
    for package, floor in FLOORS.items():
        wanted = 'mmcv-lite' if package == 'mmcv' else package
        command = f"pip install '{wanted}>={floor}'"
        if importlib.util.find_spec(package) is None:
            what = 'mmcv or mmcv-lite' if package == 'mmcv' else package
            raise ImportError(f'cmp_mm needs {what} >= {floor}, and it is not installed: {command}')
        found = installed_version(package)
        if found is None:
            continue  # on PYTHONPATH without metadata: nothing to compare
        if version_tuple(found) < version_tuple(floor):
            raise ImportError(f'cmp_mm needs {package} >= {floor}, but {found} is installed: {command}')
        if version_tuple(found) >= version_tuple(CEILINGS[package]):
            warnings.warn(
                f'cmp_mm was not tried with {package} {found} (known: < {CEILINGS[package]})', stacklevel=3
            )


# --- mmcv._ext -------------------------------------------------------------------------------------------

# What Mask R-CNN calls, and torchvision has under other names.
TORCHVISION_OPS = ('nms', 'roi_align_forward', 'roi_align_backward')


class MissingOpError(RuntimeError):
    """A compiled op of mmcv was called where mmcv-lite is installed."""


def _missing_op(name: str) -> Callable:
    def op(*args, **kwargs):
        raise MissingOpError(
            f"the mmcv op '{name}' is compiled code, and mmcv-lite has none; install the compiled mmcv "
            f'(needs a C++ compiler, about 15 minutes on 2 cores): {COMPILED_MMCV_COMMAND}'
        )

    op.__name__ = op.__qualname__ = name
    return op


def _through_torchvision(name: str) -> Callable:
    def op(*args, **kwargs):
        try:
            ops = importlib.import_module('cmp_mm.compat_ops')
        except (ImportError, RuntimeError):  # RuntimeError: a torchvision that does not fit torch
            return _missing_op(name)()
        return getattr(ops, name)(*args, **kwargs)

    op.__name__ = op.__qualname__ = name
    return op


def _not_compiled() -> str:
    return 'not available (mmcv-lite)'


class _ExtStandIn(types.ModuleType):
    """``mmcv._ext`` for mmcv-lite: every op is there; one that is called does its work or says what to do."""

    # collect_env asks for these two whenever mmcv.ops can be imported.
    get_compiler_version = staticmethod(_not_compiled)
    get_compiling_cuda_version = staticmethod(_not_compiled)

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        op = _through_torchvision(name) if name in TORCHVISION_OPS else _missing_op(name)
        setattr(self, name, op)
        return op


class _StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``mmcv._ext``; last on ``sys.meta_path``, so only where nothing else has found it."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target=None):
        if fullname != 'mmcv._ext':
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin='cmp_mm.compat')

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _ExtStandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


# --- amendments to modules that exist ----------------------------------------------------------------------


def _know_cmp_mm(module: types.ModuleType) -> None:
    module.MODULE2PACKAGE.setdefault('cmp_mm', 'cmp_mm')


def _module_name(package: str) -> str:
    from mmengine.config.utils import MODULE2PACKAGE

    return next((module for module, name in MODULE2PACKAGE.items() if name == package), package)


def is_installed(package: str) -> bool:
    """Whether a package, named as on PyPI, can be imported.

    Raises:
        ModuleNotFoundError: it cannot, and is one whose command is known; mmengine would say less.
    """
    found = importlib.util.find_spec(_module_name(package)) is not None
    if not found and package in INSTALL_COMMANDS:
        raise ModuleNotFoundError(f'{package} is not installed: {INSTALL_COMMANDS[package]}')
    return found


def get_installed_path(package: str) -> str:
    """Folder of an installed package, named as on PyPI: where Python itself finds it."""
    spec = importlib.util.find_spec(_module_name(package))
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f'{package} is not installed')
    return os.path.dirname(spec.origin)


def _find_without_pkg_resources(module: types.ModuleType) -> None:
    module.is_installed = is_installed
    module.get_installed_path = get_installed_path


def _lend_pycocotools_mask(module: types.ModuleType, error: Exception) -> None:
    try:
        lent = importlib.import_module('pycocotools._mask')
    except ImportError:
        raise ImportError(
            f'xtcocotools was built against another numpy ({error}); pycocotools can stand in for its '
            'compiled part: pip install pycocotools'
        ) from error
    names = ('iou', 'merge', 'frPyObjects', 'encode', 'decode', 'area', 'toBbox')
    vars(module).update({name: getattr(lent, name) for name in names})


AMENDMENTS: dict[str, Callable[[types.ModuleType], None]] = {
    'mmengine.config.utils': _know_cmp_mm,
    'mmengine.config.config': _find_without_pkg_resources,
}
RESCUES: dict[str, Callable[[types.ModuleType, Exception], None]] = {
    'xtcocotools._mask': _lend_pycocotools_mask,
}


class _AmendingLoader(importlib.abc.Loader):
    """Loads a module as its own loader does, then amends it, or rescues it where loading failed."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str):
        return getattr(self.loader, name)  # get_source and the like, for tracebacks and inspect

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        name = module.__name__
        try:
            self.loader.exec_module(module)
        except (ImportError, ValueError) as error:  # ValueError: numpy's binary incompatibility
            if name not in RESCUES:
                raise
            RESCUES[name](module, error)
        if name in AMENDMENTS:
            AMENDMENTS[name](module)


class _AmendingFinder(importlib.abc.MetaPathFinder):
    """First on ``sys.meta_path``; lets the others find the module and wraps its loader."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target=None):
        if fullname not in AMENDMENTS and fullname not in RESCUES:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, 'find_spec'):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _AmendingLoader(spec.loader)
                return spec
        return None


def install() -> None:
    """Put the finders in place and amend what is already imported; a second call changes nothing."""
    if any(isinstance(finder, _AmendingFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _AmendingFinder())
    sys.meta_path.append(_StandInFinder())
    for name, amend in AMENDMENTS.items():
        if name in sys.modules:
            amend(sys.modules[name])
