# Walker et al.'s baseline: flow from the image alone, AlexNet on YFCC100M.
# The network is the same, layer by layer, and sees an empty guidance map. Guidance is still sampled, so that
# validation shows what interpolating it would give, which this network does not have.
_base_ = './cmp_alexnet-plain_16xb12-70k_yfcc-384x384.py'

model = dict(use_guidance=False)
