"""What a run logged, read back from the ``scalars.json`` files that mmengine writes."""

import json
from pathlib import Path


def scalar_files(run: Path) -> list[Path]:
    """The scalars files of a run, oldest first.

    Args:
        run: work directory, or one such file.

    Raises:
        FileNotFoundError: there is none.
    """
    if run.is_file():
        return [run]
    # mmengine names a start's folder by its time; scalars.json lies in vis_data below it.
    found = sorted(run.glob('*/vis_data/scalars.json')) or sorted(run.glob('**/scalars.json'))
    if not found:
        raise FileNotFoundError(f'{run}: no scalars.json in it; expected a work directory of train.py')
    return found


def read_scalars(run: Path) -> list[dict]:
    """The rows a run logged, in order of time, from the files of all its starts.

    A later start replaces what an earlier one logged from its first step on: a killed run is logged past its
    last checkpoint, and those iterations are run again. Training and validation rows are replaced apart, as
    loops by epoch count the ones in iterations and the others in epochs. The last line of a killed run may be
    torn; it is left out.

    Args:
        run: work directory, or one ``scalars.json``.

    Returns:
        dicts with an int ``step`` and whatever was logged with it.

    Raises:
        FileNotFoundError: there is no such file.
    """
    rows: list[dict] = []
    for file in scalar_files(run):
        fresh = []
        for line in file.read_text(encoding='utf-8').splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get('step'), int):
                fresh.append(row)
        first: dict[bool, int] = {}
        for row in fresh:
            kind = _is_training(row)
            first[kind] = min(row['step'], first.get(kind, row['step']))
        if True in first and not any('epoch' in row for row in fresh):
            # Both count iterations: what was validated at one that is run again is out of date too. Not the
            # other way round: a resumed run may begin with the validation of its last iteration.
            first[False] = min(first[True], first.get(False, first[True]))
        rows = [row for row in rows if row['step'] < first.get(_is_training(row), row['step'] + 1)] + fresh
    return rows


def read_curve(run: Path, key: str) -> list[tuple[int, float]]:
    """(step, value) of every row of a run that has ``key``, in order of the steps.

    Raises:
        FileNotFoundError: see :func:`read_scalars`.
    """
    return sorted({row['step']: float(row[key]) for row in read_scalars(run) if key in row}.items())


def _is_training(row: dict) -> bool:
    return 'loss' in row or 'lr' in row
