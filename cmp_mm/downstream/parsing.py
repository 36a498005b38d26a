"""Human-parsing data sets for mmsegmentation: LIP (one person) and CIHP (several)."""

from typing import Any, ClassVar

from cmp_mm.registry import DATASETS

from .checks import check_import, check_root, require_images

check_import('mmseg')  # says more than the import below would

from mmseg.datasets import BaseSegDataset  # noqa: E402
from mmseg.datasets import LIPDataset as MMSegLIPDataset  # noqa: E402

# Arm, leg and shoe change sides in a mirrored picture. Same indices in LIP and CIHP; configs hand them to
# RandomFlip(swap_seg_labels=...).
FLIP_PAIRS = ((14, 15), (16, 17), (18, 19))

_COMMON_PALETTE = MMSegLIPDataset.METAINFO['palette']


class ParsingDataset(BaseSegDataset):
    """What LIP and CIHP share: jpg images, png label maps of the same name, left and right parts.

    ``metainfo['flip_pairs']`` holds the pairs of labels that change places in a mirrored image.

    Args:
        data_root: folder of the data set.
        **kwargs: see mmseg's ``BaseSegDataset``.

    Raises:
        FileNotFoundError: there is no such folder; the message says what belongs in it.
        AnnotationError: there is no jpg in it.
    """

    METAINFO: ClassVar[dict] = {}

    def __init__(self, data_root: str | None = None, **kwargs: Any) -> None:
        check_root(type(self).__name__, data_root, None, (kwargs.get('data_prefix') or {}).values())
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One entry per image."""
        found = super().load_data_list()
        require_images(type(self).__name__, found, self.data_prefix['img_path'], self.img_suffix)
        return found


@DATASETS.register_module()
class LIPDataset(ParsingDataset):
    """Look Into Person, single-person parsing, 20 labels (Gong et al., CVPR 2017).

    ``train_images/*.jpg`` with ``train_segmentations/*.png``, likewise for val.
    """

    METAINFO: ClassVar[dict] = dict(
        classes=MMSegLIPDataset.METAINFO['classes'], palette=_COMMON_PALETTE, flip_pairs=FLIP_PAIRS
    )


@DATASETS.register_module()
class CIHPDataset(ParsingDataset):
    """Crowd Instance-level Human Parsing, 20 labels (Gong et al., ECCV 2018).

    ``Training/Images/*.jpg`` with ``Training/Category_ids/*.png``, likewise ``Validation``. The labels are
    LIP's, except that 10 is bare skin of the torso and not jumpsuits.
    """

    METAINFO: ClassVar[dict] = dict(
        classes=tuple(
            'Torso-skin' if name == 'Jumpsuits' else name for name in MMSegLIPDataset.METAINFO['classes']
        ),
        palette=_COMMON_PALETTE,
        flip_pairs=FLIP_PAIRS,
    )
