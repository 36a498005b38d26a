from .cmp import CMP

__all__ = ['CMP']
