"""Evaluate a checkpoint: ``test.py CONFIG CHECKPOINT``; see ``--help``."""

import argparse
import json
import os
from collections.abc import Sequence

# Read as torch loads. Threads that spin while they wait for one that another program has displaced make a
# step many times slower than the share of the cores that is lost.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS
from mmengine.runner import CheckpointLoader, Runner

from cmp_mm.downstream import check_config
from cmp_mm.engine import NoTraining, check_weights_fit, launch, run_config, state_dict_of, write_durably


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line; the zoo's usual options."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--work-dir', help='where logs go (default: work_dirs/CONFIG_NAME)')
    parser.add_argument(
        '--data-root',
        help='data root of the test set of the config; for pretraining, what video2pairs.py wrote',
    )
    parser.add_argument('--out', help='write the metrics to this file, as JSON')
    parser.add_argument(
        '--show-dir', help='draw predictions into this folder (default: under the work directory)'
    )
    parser.add_argument(
        '--show-number',
        type=int,
        metavar='N',
        help='draw N images, spread evenly over the set; the main process draws, of its share',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=run_config.ConfigOptions,
        metavar='KEY=VALUE',
        help='change settings of the config, such as test_dataloader.batch_size=8 or a.b="[1,2]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torchrun sets LOCAL_RANK; torch.distributed.launch passes one of these.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict:
    """Evaluate; returns the metrics."""
    args = parse_args(argv)
    cfg = run_config.load_config(args.config, args.cfg_options, args.data_root, ('test',))
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or launch.default_work_dir(args.config)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if cfg.get('test_dataloader') is None:
        raise run_config.UsageError(f'config {args.config} has no test_dataloader')
    run_config.show_predictions(cfg, args.show_dir, args.show_number)
    run_config.require_data(cfg, ('test',))
    run_config.require_numbers(cfg, ('test',))
    run_config.require_one_codec(cfg)
    check_config(cfg, ('test',))
    launch.drop_missing_backends(cfg)
    launch.start_processes(cfg, args.launcher, args.local_rank, training=False)
    runner = Runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)
    runner._train_loop = NoTraining(runner, cfg.get('train_cfg'))
    model = runner.model.module if runner.distributed else runner.model
    # mmengine loads what fits and goes on; an evaluation of half a network has no meaning.
    state = state_dict_of(CheckpointLoader.load_checkpoint(args.checkpoint, 'cpu'))
    check_weights_fit(model, state, args.checkpoint)
    metrics = runner.test()
    if args.out and is_main_process():
        write_durably(os.path.abspath(args.out), json.dumps(metrics, indent=2, default=float).encode())
    launch.stop_processes()
    return metrics


if __name__ == '__main__':
    with launch.one_line_errors('test.py'):
        main()
