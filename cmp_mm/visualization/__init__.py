from .drawing import draw_arrows, draw_panel, put_below, put_side_by_side
from .flow_visualizer import FlowVisualizer

__all__ = ['FlowVisualizer', 'draw_arrows', 'draw_panel', 'put_below', 'put_side_by_side']
