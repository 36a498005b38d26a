from .guidance_encoder import GuidanceEncoder

__all__ = ['GuidanceEncoder']
