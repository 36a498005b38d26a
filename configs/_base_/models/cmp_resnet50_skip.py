# ResNet-50 at stride 8 with the skip-layer decoder, output at half resolution, 28.5 M parameters.
model = dict(
    type='CMP',
    data_preprocessor=dict(
        type='FlowDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(type='ResNet', depth=50, out_stem=True, out_indices=(0, 3)),
    neck=dict(type='ConvNeck', in_channels=2048, out_channels=256),
    guidance_encoder=dict(type='GuidanceEncoder', stride=8),
    decoder=dict(
        type='SkipDecoder', in_channels=272, skip_channels=(64, 256), combo=(1, 2, 4, 8), out_channels=198
    ),
    codec=dict(type='QuantizedFlowCodec', num_bins=99, max_flow=50.0),
    loss=dict(type='QuantizedFlowLoss'),
    # Unlike the reference's, it leaves a pretrained encoder as it is.
    init_cfg=dict(type='cmp_mm.ReferenceInit', gain=0.02),
)
