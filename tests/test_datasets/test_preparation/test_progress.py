import pytest

from cmp_mm.datasets.preparation.progress import Progress
from cmp_mm.datasets.preparation.sources import Source


@pytest.fixture
def bar():
    return Progress({'a': 100, 'b': 300, 'c': 0}, {'c'}, 'preparing', False)


def video(name):
    return Source(name, 'video', name, name, name)


def said(kind, kept, rejected, **more):
    return dict(kind=kind, kept=kept, rejected=rejected, **more)


def test_counts_are_those_of_the_last_message_of_each_video(bar, monkeypatch):
    lines = []
    monkeypatch.setattr(bar._bar, 'set_postfix_str', lambda text, refresh: lines.append(text))
    bar.hear(video('a'), said('progress', 3, 1, share=0.5))
    bar.hear(video('b'), said('progress', 2, 0, share=0.1))
    bar.hear(video('a'), said('progress', 5, 2, share=0.8))
    assert lines[-1] == '1/3 videos, 7 pairs, 2 left out'
    bar.hear(video('a'), said('done', 6, 2, status='ok', reason=None))
    assert lines[-1] == '2/3 videos, 8 pairs, 2 left out'
    # A video whose worker died is begun again, so its counts may fall.
    bar.hear(video('b'), dict(kind='died', attempts_left=1, reason='exit code 1'))
    bar.hear(video('b'), said('progress', 1, 0, share=0.05))
    assert lines[-1] == '2/3 videos, 7 pairs, 2 left out'


def test_a_problem_is_named(capsys):
    bar = Progress({'a': 100, 'b': 300}, set(), 'preparing', True)
    bar.hear(video('a'), said('done', 6, 2, status='damaged', reason='ends early'))
    bar.hear(video('b'), dict(kind='died', attempts_left=0, reason='exit code 1'))
    said_of_them = capsys.readouterr().err
    assert 'a: damaged: ends early\n' in said_of_them
    assert 'b: exit code 1; skipped\n' in said_of_them
