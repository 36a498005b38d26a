from .bfloat16_optim_wrapper import Bfloat16OptimWrapper, computes_in_bfloat16
from .bin_prior_hook import BinPriorHook
from .broadcast_buffers_hook import BroadcastBuffersHook
from .checkpoint_files import find_resumable, write_durably
from .checkpoint_hook import AtomicCheckpointHook
from .checkpoint_loading import (
    CheckpointError,
    check_weights_fit,
    compare_keys,
    load_checkpoint_file,
    state_dict_of,
)
from .children import child_process, ending_children
from .finite_loss_hook import DivergedError, FiniteLossHook
from .flow_visualization_hook import FlowVisualizationHook
from .iteration_seed_hook import IterationSeedHook
from .loops import NoTraining, ResumableTrainLoop
from .parallel import in_parallel
from .plain_state import restore_histories, to_plain
from .scalars import read_curve, read_scalars

__all__ = [
    'AtomicCheckpointHook',
    'Bfloat16OptimWrapper',
    'BinPriorHook',
    'BroadcastBuffersHook',
    'CheckpointError',
    'DivergedError',
    'FiniteLossHook',
    'FlowVisualizationHook',
    'IterationSeedHook',
    'NoTraining',
    'ResumableTrainLoop',
    'check_weights_fit',
    'child_process',
    'compare_keys',
    'computes_in_bfloat16',
    'ending_children',
    'find_resumable',
    'in_parallel',
    'load_checkpoint_file',
    'read_curve',
    'read_scalars',
    'restore_histories',
    'state_dict_of',
    'to_plain',
    'write_durably',
]
