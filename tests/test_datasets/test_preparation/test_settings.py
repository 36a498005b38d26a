from dataclasses import replace

import pytest

from cmp_mm.datasets.preparation.errors import PrepareError
from cmp_mm.datasets.preparation.settings import MergeSettings, PairSettings


def test_equal_settings_have_equal_digests_and_others_do_not():
    assert PairSettings().digest() == PairSettings.from_dict(PairSettings().to_dict()).digest()
    options = dict(bound=20, fmt='jpg')
    one = PairSettings(fps=10, flow_bound=20, min_motion=0, estimator_options=options)
    other = PairSettings(
        fps=10.0, flow_bound=20.0, min_motion=0.0, estimator_options=dict(options, bound=20.0)
    )
    assert one == other and one.digest() == other.digest()
    assert one.digest() != replace(one, estimator_options=dict(options, bound=20.5)).digest()
    assert PairSettings().digest() != PairSettings(short_side=240).digest()
    assert PairSettings().digest() != PairSettings(estimator_options={'preset': 'fast'}).digest()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'short_side': 15}, 'short side is 15; expected at least 16'),
        ({'stride': 0}, 'stride is 0'),
        ({'fps': 0.0}, 'fps is 0.0'),
        ({'fps': float('nan')}, 'fps is nan'),
        ({'fps': 5.0, 'stride': 2}, 'one of them'),
        ({'flow_format': 'png'}, "flow format is 'png'; expected flo, kitti, npz, jpg"),
        ({'flow_bound': float('inf')}, 'flow bound is inf'),
        ({'cut_threshold': -0.1}, 'cut threshold is -0.1'),
        ({'min_motion': float('nan')}, 'min motion is nan'),
        ({'quality': 0}, 'JPEG quality is 0'),
        ({'shortside': 3}, "unknown setting 'shortside'"),
    ],
)
def test_wrong_pair_settings_are_named(options, message):
    with pytest.raises(PrepareError, match=message):
        PairSettings.from_dict(options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'val_share': 1.5}, 'validation share is 1.5'),
        ({'group_by': '('}, r"group by '\(' is not a regular expression"),
    ],
)
def test_wrong_merge_settings_are_named(options, message):
    with pytest.raises(PrepareError, match=message):
        MergeSettings(**options)


def test_a_later_version_knows_the_records_of_an_earlier_one():
    """Another name for the same settings would have every folder prepared anew."""
    assert PairSettings().digest() == 'bd019cdfc2084946'
