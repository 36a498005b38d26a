"""Turn videos into pairs of frames with optical flow: ``video2pairs.py SRC... --out DIR``; see ``--help``."""

import sys

from cmp_mm.datasets.preparation.cli import main

if __name__ == '__main__':
    sys.exit(main())
