from .plain_decoder import PlainDecoder

__all__ = ['PlainDecoder']
