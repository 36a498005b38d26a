"""Pairs of an image and the optical flow to its next frame, from any number of annotation files."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from cmp_mm.registry import DATASETS, TRANSFORMS

from .annotations import AnnotationError
from .bad_samples import BadSampleError, SampleLedger, TooManyBadSamplesError
from .seeding import sample_seed
from .sources import FlowSource, source_of

LISTED_FILES = 50  # of the bad ones, in the message that stops a run


@DATASETS.register_module()
class ImageFlowDataset(BaseDataset):
    """The data of conditional motion propagation: an image, and the flow from it to the next frame.

    ``dataset[i]`` is sample i; ``dataset[(i, draw)]`` is the same sample as drawn for the draw-th time of a
    run (`ResumableSampler` yields such pairs). Around the pipeline the global random numbers of python,
    numpy and torch are seeded from (seed, draw, i) and restored, so what a sample looks like depends
    neither on the number of data workers nor on where a run was resumed.

    A sample that cannot be read, or whose flow and image differ in size, is replaced by another one, chosen
    by (seed, draw, i). It is logged once and counted over all data workers of the process. When the
    distinct bad samples exceed ``ceil(max_bad_share * max(distinct samples read, min(1000,
    len(dataset))))``, reading stops with the list of their files. Under distributed training each rank
    counts the samples it meets, and those above 0, which have no log, tell of them on stderr.

    The pipeline starts from the keys ``img_path``, ``img2_path`` (or None), ``flow_path`` (str, or an (x,
    y) pair for jpg), ``flow_format``, ``flow_bound``, ``video``, ``sample_idx``, ``backend_args``, and
    ``img_root``, ``flow_root``: the folders that the files must lie in (None under ``allow_outside``).

    Args:
        ann_file: annotation of a single source; see `FlowSource` for this and the following ones.
        data_root: folder that its paths are relative to; None means the folder of ``ann_file``, '' the
            working directory.
        sources: several sources instead, each a dict of `FlowSource` arguments. What it does not state is
            taken from the arguments of the same name here.
        data_prefix: see `FlowSource`; also ``strip_prefix``, ``flow_format``, ``flow_bound``,
            ``backend_args``.
        pipeline: transforms, or their configs, which are looked up in scope ``cmp_mm`` first.
        seed: non-negative; of the samples' random numbers, and of the part a fractional ``ratio`` takes.
        max_bad_share: in [0, 1]; 0 stops at the first bad sample, 1 never stops.
        allow_outside: accept annotations whose paths leave their data root ('..', absolute, links).
        test_mode: has no effect: a bad sample of a validation is replaced, too, rather than ending a run.
        metainfo, indices, serialize_data, lazy_init, max_refetch: as in mmengine's BaseDataset.

    Raises:
        AnnotationError: an annotation or an argument is of the wrong form, or there is no sample in it.
    """

    METAINFO: dict = dict(dataset_type='ImageFlowDataset')

    def __init__(
        self,
        ann_file: str | None = None,
        data_root: str | None = None,
        sources: Sequence[Mapping] | None = None,
        data_prefix: str | Mapping = '',
        strip_prefix: str = '',
        flow_format: str | None = None,
        flow_bound: float | None = None,
        backend_args: dict | None = None,
        pipeline: Sequence[dict | Callable] = (),
        seed: int = 0,
        max_bad_share: float = 0.01,
        allow_outside: bool = False,
        metainfo: Mapping | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
    ) -> None:
        if (ann_file is None) == (sources is None):
            raise AnnotationError('ImageFlowDataset takes either ann_file or sources; expected exactly one')
        if not 0 <= max_bad_share <= 1:
            raise AnnotationError(f'max_bad_share is {max_bad_share}; expected a share in [0, 1]')
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise AnnotationError(f'seed is {seed!r}; expected a whole number, 0 or more')
        common = dict(
            data_root=data_root,
            data_prefix=data_prefix,
            strip_prefix=strip_prefix,
            flow_format=flow_format,
            flow_bound=flow_bound,
            backend_args=backend_args,
        )
        parts = [dict(ann_file=ann_file)] if sources is None else [dict(part) for part in sources]
        try:
            self.sources = [FlowSource(**{**common, **part}) for part in parts]
        except TypeError as error:  # an argument that FlowSource does not have, or no ann_file
            raise AnnotationError(f'a source is not of the right form: {error}') from None
        self.seed = int(seed)
        self.max_bad_share = max_bad_share
        self.allow_outside = allow_outside
        super().__init__(
            ann_file='',
            metainfo=metainfo,
            data_root='',
            data_prefix={},
            indices=indices,
            serialize_data=serialize_data,
            pipeline=[_build_transform(step) for step in pipeline],
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )

    def full_init(self) -> None:
        """Read the annotations, once."""
        if self._fully_initialized:
            return
        super().full_init()
        self._reset_ledger()

    def load_data_list(self) -> list[bytes]:
        """Read all sources into records (`FlowSource.load`); dicts would take five times the memory.

        Of metainfo, the argument's leads, then the first source's.

        Raises:
            AnnotationError: an annotation is of the wrong form, or all are empty.
        """
        records = []
        for number, source in enumerate(self.sources):
            records += source.load(number, self.seed, self.allow_outside)
            for key, value in source.metainfo.items():
                self._metainfo.setdefault(key, value)
        if not records:
            names = ', '.join(source.ann_file for source in self.sources)
            raise AnnotationError(f'annotation {names} holds no samples; expected at least one')
        return records

    def get_data_info(self, idx: int) -> dict:
        """Return what the pipeline of sample ``idx`` starts from; see the class for its keys."""
        idx = idx % len(self)
        if self.serialize_data:
            start = self.data_address[idx - 1] if idx else 0
            record = self.data_bytes[start : self.data_address[idx]].tobytes()
        else:
            record = self.data_list[idx]
        info = self.sources[source_of(record)].complete(record, self.allow_outside)
        info['sample_idx'] = idx
        return info

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Cut to some samples, in place; as in mmengine's BaseDataset."""
        super().get_subset_(indices)
        self._reset_ledger()

    def get_subset(self, indices: int | Sequence[int]) -> 'ImageFlowDataset':
        """Return a data set of some of the samples; as in mmengine's BaseDataset."""
        subset = super().get_subset(indices)
        subset._reset_ledger()
        return subset

    def __getitem__(self, idx: int | tuple[int, int]) -> Any:
        """Load a sample, or another one in its place if it is bad.

        Args:
            idx: index, or (index, draw); an index alone is draw 0.

        Raises:
            IndexError: the index is out of range.
            TooManyBadSamplesError: more samples were bad than ``max_bad_share`` allows.
            OutsideRootError: a file lies outside its data root.
        """
        if not self._fully_initialized:
            self.full_init()
        if get_worker_info() is not None and cv2.getNumThreads() != 1:
            # The workers are the parallelism. Not 1: that rebuilds OpenCV's pool, which in a process forked
            # from one that had used it waits for threads that are not there, for ever.
            cv2.setNumThreads(0)
        index, draw = (int(part) for part in idx) if isinstance(idx, (tuple, list)) else (int(idx), 0)
        if not -len(self) <= index < len(self):
            raise IndexError(f'sample {index} of a data set of {len(self)}')
        first = index = index % len(self)
        for attempt in range(self.max_refetch + 1):
            try:
                with sample_seed(self.seed, draw, index):
                    sample = self.prepare_data(index)
                if sample is None:
                    raise BadSampleError('the pipeline returned None')
            except BadSampleError as error:
                self._note_bad(index, error)
                # Not the next one: neighbours come from the same video, which may be bad as a whole.
                words = np.random.SeedSequence((self.seed, draw, first, attempt)).generate_state(1)
                index = int(words[0]) % len(self)
                continue
            self.ledger.mark_good(index)
            return sample
        raise TooManyBadSamplesError(f'{self.max_refetch + 1} samples in a row were bad; {self._list_bad()}')

    def _note_bad(self, index: int, error: BadSampleError) -> None:
        if not self.ledger.mark_bad(index):
            return
        _warn(f'Sample {index} is replaced by another: {error}')
        if self.ledger.too_many():
            bad, seen = self.ledger.num_bad, self.ledger.num_seen
            raise TooManyBadSamplesError(
                f'{bad} of the {seen} samples read so far are bad, more than max_bad_share = '
                f'{self.max_bad_share} allows; the last one: {error}; {self._list_bad()}'
            ) from None

    def _list_bad(self) -> str:
        bad = self.ledger.bad_indices
        lines = []
        for index in bad[:LISTED_FILES]:
            info = self.get_data_info(index)
            flow = info['flow_path']
            lines.append(' '.join([info['img_path'], *([flow] if isinstance(flow, str) else flow)]))
        if len(bad) > LISTED_FILES:
            lines.append(f'... and {len(bad) - LISTED_FILES} more, each named in the log')
        return 'their files:\n' + '\n'.join(lines)

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        # The records are bytes already; BaseDataset would pickle each into an array of its own.
        address = np.cumsum([len(record) for record in self.data_list], dtype=np.int64)
        data = np.frombuffer(b''.join(self.data_list), dtype=np.uint8)
        self.data_list.clear()
        return data, address

    def _reset_ledger(self) -> None:
        self.ledger = SampleLedger(len(self), self.max_bad_share)

    def _copy_without_annotation(self, memo: dict | None = None) -> 'ImageFlowDataset':
        # BaseDataset's default memo is one dict shared by all calls, which keeps every copy alive.
        return super()._copy_without_annotation({} if memo is None else memo)


def _warn(message: str) -> None:
    """Log; ranks above 0, which log errors alone, tell on stderr."""
    # The launchers set it, and data workers have it too, however they were started.
    rank = int(os.environ.get('RANK', 0))
    if rank > 0:
        print(f'rank {rank}: {message}', file=sys.stderr, flush=True)
    else:
        print_log(message, 'current', logging.WARNING)


def _build_transform(step: dict | Callable) -> Callable:
    # mmengine looks transforms up in the scope of the running config, which downstream is mmseg's or
    # mmpose's.
    return TRANSFORMS.build({'_scope_': 'cmp_mm', **step}) if isinstance(step, Mapping) else step
