"""The killing scripts of tests/faults run, and notice what is wrong."""

import json

import pytest

from tests.faults import hostile_videos, kill_preparation, kill_training
from tests.faults.common import Campaign, finish


@pytest.mark.parametrize('script', [kill_preparation, kill_training])
def test_a_kill_or_two_are_survived(processes, script):
    report = script.run(1, 5.0, 3, shown=False, processes=processes)
    assert report['tried'] >= 1 and not report['not_survived'], report


def test_a_few_changed_videos_are_prepared_or_counted():
    report = hostile_videos.run(12, 5.0, 0)
    assert report['tried'] == 12 and not report['not_survived'], report


def test_a_half_file_under_a_final_name_is_noticed(tmp_path):
    (tmp_path / 'whole').write_text('all of it')
    (tmp_path / '.half.1-2.tmp').write_text('al')
    (tmp_path / 'v.part').write_text('al')
    whole = kill_preparation.contents(tmp_path)
    assert whole.keys() == {'whole'} and kill_preparation.check_kept(tmp_path, whole) is None
    (tmp_path / 'whole').write_text('all')
    assert kill_preparation.check_kept(tmp_path, whole) == 'whole is not what it should be'


def test_another_result_of_a_resumed_training_is_noticed(processes, tmp_path):
    training = kill_training.Training(tmp_path, processes)
    expected = {iteration: ['weights', 'states'] for iteration in range(1, kill_training.ITERATIONS + 1)}

    def traced(rows):
        (tmp_path / 'work.trace').write_text(''.join(json.dumps(row) + '\n' for row in rows))
        return kill_training.difference(training, tmp_path / 'work', {}, expected)

    rows = [[iteration, 'weights', 'states'] for iteration in expected]
    assert 'differ after iteration 3' in traced([*rows[:2], [3, 'weights', 'other'], *rows[3:]])
    assert traced([*rows[:2], *rows[3:]]) == 'iterations are missing'


def test_what_was_not_survived_is_told_by_table_file_and_exit_code(tmp_path, capsys):
    campaign = Campaign('a script', 3, 1.0, 0, shown=False)
    for number in campaign.trials():
        campaign.tried['a kind'] += 1
        if number == 1:
            campaign.fail('this one')
    report = campaign.report()
    assert finish(report, tmp_path / 'report.json', [('kind', 'tried'), ('a kind', 3)]) == 1
    assert 'NOT SURVIVED: this one' in capsys.readouterr().out
    assert json.loads((tmp_path / 'report.json').read_text())['kinds'] == {'a kind': 3}
    assert finish({'not_survived': []}, None, [('kind',)]) == 0
