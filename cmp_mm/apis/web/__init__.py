"""The page in the browser: arrows to flow, animation, masks from points. Needs the extra ``web``."""

from .server import serve
from .session import PageSession

__all__ = ['PageSession', 'serve']
