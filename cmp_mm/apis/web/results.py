"""The files of one visitor, deleted with the session."""

import tempfile
from pathlib import Path

from cmp_mm.flow import write_whole


class ResultFolder:
    """A temporary folder, made when the first file is wanted and deleted with this object."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory | None = None

    def path(self, name: str) -> Path:
        """Where a file of that name belongs."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix='cmp_mm-results-')
        return Path(self._folder.name, name)

    def write(self, files: dict[str, bytes]) -> list[str]:
        """Write files, given by name, all or none; returns their paths."""
        paths = [self.path(name) for name in files]
        write_whole(list(zip(paths, files.values(), strict=True)))
        return [str(path) for path in paths]
