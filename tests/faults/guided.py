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

# What is loaded in here is instrumented if it is named, so nothing may have loaded it before. What parses is
# named, not all that is loaded with it: instrumenting takes long.
MODULES = (
    *(
        'cmp_mm.flow.formats',
        'cmp_mm.datasets.annotations',
        'cmp_mm.datasets.sources',
        'cmp_mm.datasets.files',
    ),
    *('cmp_mm.datasets.image_header', 'cmp_mm.datasets.transforms.loading', 'cmp_mm.models.official'),
    *('cmp_mm.engine.checkpoint_loading', 'cmp_mm.engine.checkpoint_files', 'cmp_mm.engine.stand_ins'),
    *('cmp_mm.downstream.backbone_init', 'cmp_mm.apis.arrows', 'cmp_mm.apis.images', 'cmp_mm.apis.clicks'),
    *('cmp_mm.apis.command_line', 'cmp_mm.apis.web.gate', 'cmp_mm.apis.web.session'),
    *('zipfile', 'json.decoder', 'numpy.lib.format', 'torch._weights_only_unpickler'),
    *('PIL.Image', 'PIL.PngImagePlugin', 'PIL.TiffImagePlugin', 'PIL.GifImagePlugin', 'PIL.JpegImagePlugin'),
)


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
