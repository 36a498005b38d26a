from .alexnet import AlexNetFCN
from .resnet import ResNet

__all__ = ['AlexNetFCN', 'ResNet']
