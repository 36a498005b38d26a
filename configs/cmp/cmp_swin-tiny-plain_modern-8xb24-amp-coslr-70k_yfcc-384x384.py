# An encoder of another package: Swin-T of mmsegmentation (pip install -e '.[mmseg]'), by config alone.
_base_ = './cmp_alexnet-plain_modern-8xb24-amp-coslr-70k_yfcc-384x384.py'

# Three lines make any zoo backbone the encoder: the backbone, which has to return feature maps; the width of
# the last map, for the neck; and its stride, for the guidance encoder.
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmseg.SwinTransformer',
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        out_indices=(3,),
    ),
    neck=dict(in_channels=768),
    guidance_encoder=dict(stride=32),
    cuda_graph=False,  # not tried with other packages' encoders
)

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=5e-4, weight_decay=0.05))
