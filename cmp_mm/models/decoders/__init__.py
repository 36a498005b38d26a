from .flownet_decoder import FlowNetDecoder
from .plain_decoder import PlainDecoder
from .skip_decoder import SkipDecoder

__all__ = ['FlowNetDecoder', 'PlainDecoder', 'SkipDecoder']
