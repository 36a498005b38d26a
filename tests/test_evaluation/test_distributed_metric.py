"""Two processes give the numbers of one, also when the sampler pads the last round."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cmp_mm.evaluation import FlowMetric


def sample_of(index):
    g = torch.Generator().manual_seed(index)
    size = (5 + 3 * index, 7 + index)
    return dict(
        gt_flow=torch.randn(2, *size, generator=g) * 5,
        pred_flow=torch.randn(2, *size, generator=g),
        gt_valid=torch.rand(*size, generator=g) > 0.5,
        guidance_points=torch.tensor([[0, index]]),
        guidance_vectors=torch.tensor([[float(index), 1.0]]),
    )


def evaluate_part(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=world)
    metric = FlowMetric(collect_dir=f'{folder}/parts')
    # Five images over two processes: the second one repeats image 0 to fill its last round.
    for index in [(rank + step * world) % 5 for step in range(3)]:
        metric.process(None, [sample_of(index)])
    result = metric.evaluate(5)
    if rank == 0:
        torch.save(result, f'{folder}/result.pth')
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_as_one(tmp_path):
    mp.spawn(evaluate_part, (2, str(tmp_path)), nprocs=2)
    alone = FlowMetric()
    for index in range(5):
        alone.process(None, [sample_of(index)])
    expected = alone.evaluate(5)
    found = torch.load(tmp_path / 'result.pth', weights_only=True)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert abs(found[key] - value) < 1e-9, key
