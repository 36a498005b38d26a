default_scope = 'cmp_mm'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # Whole files of plain data; the last one can always be resumed.
    checkpoint=dict(
        type='AtomicCheckpointHook',
        by_epoch=False,
        interval=2000,
        max_keep_ckpts=3,
        save_best='cmp/epe',
        rule='less',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='FlowVisualizationHook', interval=1000),
)
custom_hooks = [
    # With the seed below these make a resumed run equal to one that was not stopped.
    dict(type='IterationSeedHook'),
    dict(type='FiniteLossHook'),
    # What is validated is what is saved, with any number of processes.
    dict(type='BroadcastBuffersHook'),
]
randomness = dict(seed=0)

# Losses and guidance points in a line of the log are means over the iterations since the line before, so the
# window is the logger's interval; validation metrics are those of the whole set.
log_processor = dict(
    by_epoch=False,
    window_size=50,
    mean_pattern=r'.*(loss|time|data_time|grad_norm|guidance_points).*',
)
log_level = 'INFO'

visualizer = dict(
    type='FlowVisualizer',
    name='visualizer',
    # TensorBoard is left out where it is not installed.
    vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
)

env_cfg = dict(
    cudnn_benchmark=True,
    # The data workers are the parallelism: OpenCV's own threads would fight them.
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # A data worker has a file open for each tensor it hands over; without one it loses a batch, for which
    # the training waits for ever. mmengine's 4096 are too few for batches of 400.
    resource_limit=65536,
    # gloo instead where there is no accelerator.
    dist_cfg=dict(backend='nccl'),
)

load_from = None
resume = False
