from pathlib import Path

import pytest

from cmp_mm.datasets.preparation.cli import main


def run(*arguments) -> int:
    return main([*map(str, arguments), '--short-side', '64', '--workers', '1'])


def test_all_is_well(tmp_path, videos, capsys):
    options = ['--group-by', 'j|w', '--reference-lists', '--estimator-options', 'preset=fast']
    assert run(videos / 'jump', videos / 'walk.mp4', '--out', tmp_path / 'out', *options) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith('10 pairs of 12 sampled frames of 2 videos')
    assert 'train 5 pairs of 1 groups, val 5 of 1' in printed.out
    assert '2/2 videos, 10 pairs, 0 left out' in printed.err
    assert (tmp_path / 'out' / 'val.txt').exists()
    # Again: nothing is left to do.
    assert run(videos / 'jump', videos / 'walk.mp4', '--out', tmp_path / 'out', *options) == 0
    assert capsys.readouterr().out == printed.out
    # Fewer sources: the others stay, and are left out.
    assert run(videos / 'jump', '--out', tmp_path / 'out', *options) == 0
    assert '1 videos in' in capsys.readouterr().out


def test_skipped_videos_show_in_the_exit_code(tmp_path, videos, capsys):
    (videos / 'broken.mp4').write_bytes(b'x' * 100)
    assert run(videos, '--out', tmp_path / 'out') == 1
    printed = capsys.readouterr()
    assert 'broken.mp4: skipped: cannot be read as a video' in printed.err
    assert printed.err.splitlines()[-1] == '1 videos were skipped and 0 are damaged'
    assert 'skipped: ' in printed.out


def test_no_pair_at_all_shows_in_the_exit_code(tmp_path, moving_frames, write_video, capsys):
    video = write_video(tmp_path / 'still.mp4', moving_frames(1) * 5)
    assert run(video, '--out', tmp_path / 'out') == 1
    assert 'error: no pair is left' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (['gone', '--out', 'out'], 2, 'SRC gone: no such file or folder'),
        (['--out', 'out'], 2, 'no SRC given'),
        (
            ['.', '--out', 'out', '--estimator-options', 'preset'],
            2,
            "'preset' has no value; expected KEY=VALUE",
        ),
        (['.', '--out', 'out', '--shard', '5'], 2, "shard '5' is no shard"),
        (['still.mp4', '--out', 'still.mp4'], 3, 'cannot write still.mp4: File exists'),
        (
            ['still.mp4', '--out', 'out', '--merge-only'],
            2,
            'out holds no settings.json; nothing was prepared there',
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, monkeypatch, capsys, arguments, code, message):
    (tmp_path / 'still.mp4').write_bytes(b'x')
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert error.startswith('error: ') and message in error and error.count('\n') == 1


def test_other_settings_on_a_folder_are_refused_unless_overwritten(tmp_path, videos, capsys):
    arguments = [videos / 'jump', '--out', tmp_path / 'out']
    assert run(*arguments) == 0
    assert run(*arguments, '--quality', 50) == 2
    assert 'prepared with other settings (quality 90, now 50)' in capsys.readouterr().err
    before = (tmp_path / 'out' / 'frames' / 'jump' / '000000.jpg').stat().st_size
    assert run(*arguments, '--quality', 50, '--overwrite') == 0
    assert (tmp_path / 'out' / 'frames' / 'jump' / '000000.jpg').stat().st_size < before


def test_a_merge_may_split_otherwise_and_needs_all_videos(tmp_path, videos, capsys):
    out = tmp_path / 'out'
    assert run(videos / 'jump', videos / 'walk.mp4', '--out', out) == 0
    assert 'val 5 of 1' in capsys.readouterr().out
    # Other pair settings do not count here: those of the folder do.
    assert main(['--out', str(out), '--merge-only', '--val-share', '0', '--reference-lists']) == 0
    assert 'train 10 pairs of 2 groups, val 0 of 0' in capsys.readouterr().out
    assert (out / 'train.txt').read_text().count('\n') == 10
    assert main([str(videos), '--out', str(out), '--merge-only']) == 4
    assert '1 of 3 videos' in capsys.readouterr().err


def test_a_rank_that_is_not_the_last_says_so(tmp_path, videos, capsys):
    assert run(videos, '--out', tmp_path / 'out', '--shard', '0/3') == 0
    assert 'rank 0 of 3 is done; 2 videos of the others are not ready yet' in capsys.readouterr().out


def test_a_folder_named_by_a_number_is_a_folder(tmp_path, videos, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('2024').mkdir()
    options = ['--estimator', 'precomputed', '--estimator-options', 'root=2024']
    assert run(videos, '--out', 'out', *options) == 1
    out, err = capsys.readouterr()
    assert "no usable flow for 5 pairs (no precomputed flow of frame 'jump/" in out
    assert err.splitlines()[-1] == 'error: no pair is left; see what was left out'
    assert run(videos, '--out', 'out2', *options, 'fmt=7') == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and 'flow format 7 is unknown' in error


def test_of_one_video_it_says_how_to_train(tmp_path, videos, capsys):
    assert run(videos / 'walk.mp4', '--out', tmp_path / 'out') == 0
    said = 'val.json is empty: train with --no-validate, or validate on what is learnt by'
    assert said in capsys.readouterr().out
    assert main(['--out', str(tmp_path / 'out'), '--merge-only', '--val-share', '1']) == 0
    assert 'train.json is empty: a smaller --val-share' in capsys.readouterr().out
