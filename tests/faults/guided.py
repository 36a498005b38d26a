"""Lets atheris, a fuzzer guided by coverage, feed one reader: ``python -m tests.faults.guided GROUP PLACE``.

Started by ``tests.faults.fuzz --engine atheris``; what follows are libFuzzer's options. It stops at the first
fault, with an exit code that is not 0.
"""

import os
import random
import sys
import tempfile
from pathlib import Path

import atheris

# What is loaded in here is instrumented if it is named, so nothing may have loaded it before.
MODULES = ('cmp_mm', 'zipfile', 'json.decoder', 'PIL', 'torch._weights_only_unpickler', 'numpy.lib.format')


def main() -> None:
    """Feed the reader until the options say that it is enough."""
    group, place, options = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    with atheris.instrument_imports(include=list(MODULES)):
        from .fuzz import ENVIRONMENT, make_readers

        os.environ.update(ENVIRONMENT)
        folder = Path(tempfile.mkdtemp(prefix='cmp_mm-faults-'))
        reader = make_readers(group, folder)[place]
    corpus = folder / 'corpus'
    corpus.mkdir()
    for number, content in enumerate(reader.corpus):
        (corpus / str(number)).write_bytes(content)

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        # libFuzzer's own changes, and those that know what a checksum is.
        if seed % 2:
            return atheris.Mutate(data, max_size)
        try:
            return reader.change(data, random.Random(seed), reader.corpus)[:max_size]
        except Exception:  # bytes that are no zip file any more, say
            return atheris.Mutate(data, max_size)

    def read(data: bytes) -> None:
        reader.read(data)

    atheris.Setup(
        [sys.argv[0], *options, f'-artifact_prefix={folder}/', str(corpus)], read, custom_mutator=change
    )
    atheris.Fuzz()


if __name__ == '__main__':
    main()
