"""Write the tables of the config READMEs from their metafiles, and list every metafile in model-index.yml.

python tools/analysis_tools/update_model_zoo.py          # write
python tools/analysis_tools/update_model_zoo.py --check  # exit 1 if something would change
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
TABLE = re.compile(r'(<!-- table -->\n).*?(<!-- /table -->)', re.DOTALL)


def table_row(model: dict[str, Any], folder: Path, root: Path) -> str:
    """One config: name, architecture, data, results or 'not run', weights."""
    metadata = model.get('Metadata', {})
    results = [
        ', '.join(f'{metric} {value}' for metric, value in (result.get('Metrics') or {}).items())
        for result in model.get('Results') or []
    ]
    config = Path(model['Config'])
    link = (root / config).relative_to(folder).as_posix()
    weights = f'[weights]({model["Weights"]})' if model.get('Weights') else ''
    cells = (
        f'[{model["Name"]}]({link})',
        ', '.join(metadata.get('Architecture', [])),
        metadata.get('Training Data', ''),
        '; '.join(text for text in results if text) or 'not run',
        weights,
    )
    return '| ' + ' | '.join(cells) + ' |'


def render(metafile: Path, root: Path) -> str:
    """The README beside a metafile, with its table rewritten.

    Raises:
        ValueError: the README has no place for a table.
    """
    models = yaml.safe_load(metafile.read_text(encoding='utf-8'))['Models']
    readme = metafile.with_name('README.md')
    lines = ['| config | network | data | result | |', '| --- | --- | --- | --- | --- |']
    lines += [table_row(model, metafile.parent, root) for model in models]
    text = readme.read_text(encoding='utf-8')
    if not TABLE.search(text):
        raise ValueError(f'{readme}: expected the lines <!-- table --> and <!-- /table -->, found none')
    return TABLE.sub(lambda match: match[1] + '\n'.join(lines) + '\n' + match[2], text)


def render_all(root: Path = ROOT) -> dict[Path, str]:
    """Every file this script writes, with its text."""
    metafiles = sorted((root / 'configs').rglob('metafile.yml'))
    files = {metafile.with_name('README.md'): render(metafile, root) for metafile in metafiles}
    imports = ''.join(f'  - {metafile.relative_to(root).as_posix()}\n' for metafile in metafiles)
    files[root / 'model-index.yml'] = 'Import:\n' + imports
    return files


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--check', action='store_true', help='write nothing, exit 1 if something would change'
    )
    args = parser.parse_args()
    stale = [path for path, text in render_all().items() if path.read_text(encoding='utf-8') != text]
    for path in stale:
        print(f'{path.relative_to(ROOT)}: {"is out of date" if args.check else "written"}')
        if not args.check:
            path.write_text(render_all()[path], encoding='utf-8')
    return int(args.check and bool(stale))


if __name__ == '__main__':
    sys.exit(main())
