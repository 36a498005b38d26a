# Walker et al.'s baseline: flow from the image alone, ResNet-50 on YFCC100M.
# The network is the same, layer by layer, and sees an empty guidance map. Guidance is still sampled, so that
# validation shows what interpolating it would give, which this network does not have.
_base_ = './cmp_resnet50-plain_16xb10-42k_yfcc-320x320.py'

model = dict(use_guidance=False)
