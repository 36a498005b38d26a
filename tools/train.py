"""Train a model by its config: ``train.py CONFIG``; see ``--help``.

Under ``torchrun`` (``dist_train.sh``) or slurm (``slurm_train.sh``) add ``--launcher``.
"""

import argparse
import os
from collections.abc import Sequence

# Read as torch loads. Threads that spin while they wait for one that another program has displaced make a
# step many times slower than the share of the cores that is lost.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from cmp_mm.downstream import check_config
from cmp_mm.engine import launch, run_config, stopping


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line; the zoo's usual options."""
    parser = argparse.ArgumentParser(description='Train a model by its config.')
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/CONFIG_NAME)')
    parser.add_argument(
        '--data-root',
        help='data root of every dataset of the config; for pretraining, what video2pairs.py wrote',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint; without a name from the last whole one in the work directory, or '
        'from the beginning (or load_from of the config) where there is none',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision; on a CPU in bfloat16, which needs a CPU with instructions for it to be faster',
    )
    parser.add_argument('--no-validate', action='store_true', help='no validation during training')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the actual batch size'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=run_config.ConfigOptions,
        metavar='KEY=VALUE',
        help='change settings of the config, such as train_dataloader.batch_size=8 or a.b="[1,2]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun sets LOCAL_RANK; torch.distributed.launch passes one of these.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    args = parse_args(argv)
    cfg = run_config.load_config(args.config, args.cfg_options, args.data_root)
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or launch.default_work_dir(args.config)
    if args.no_validate:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    if args.amp:
        launch.use_amp(cfg)
    launch.require_accelerator_for_amp(cfg)
    if args.auto_scale_lr:
        launch.scale_learning_rate(cfg)
    start_from = cfg.get('load_from')
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
        if cfg.load_from or run_config.is_begun(cfg):
            run_config.validate_what_was_not(cfg)
    elif not cfg.get('resume'):
        run_config.require_no_run(cfg)
    splits = ('train',) if args.no_validate else ('train', 'val')
    run_config.require_data(cfg, splits)
    run_config.require_numbers(cfg, splits)
    run_config.require_one_codec(cfg)
    check_config(cfg, splits)
    launch.drop_missing_backends(cfg)
    launch.start_processes(cfg, args.launcher, args.local_rank)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    launch.warn_of_long_schedule(cfg, runner.logger)
    if args.resume == 'auto':
        launch.start_where_nothing_resumes(runner, start_from)
    with stopping.saving_when_stopped(runner):
        runner.train()
    launch.stop_processes()


if __name__ == '__main__':
    with launch.one_line_errors('train.py'):
        main()
