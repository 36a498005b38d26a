"""What can go wrong with a preparation as a whole, and the exit code each kind has."""

import cv2

EXIT_DONE = 0
EXIT_SKIPPED = 1
EXIT_USAGE = 2
EXIT_OUTPUT = 3
EXIT_INCOMPLETE = 4
EXIT_INTERRUPTED = 130


class PrepareError(Exception):
    """The preparation cannot go on; the message is one line for its user.

    Attributes:
        exit_code: what the command line exits with.
    """

    exit_code = EXIT_USAGE


class OutputError(PrepareError):
    """The output folder cannot be written: full, read-only, vanished."""

    exit_code = EXIT_OUTPUT


class IncompleteError(PrepareError):
    """A merge was asked for, but videos are still to be prepared."""

    exit_code = EXIT_INCOMPLETE


def is_passing(error: BaseException) -> bool:
    """Whether an error is the machine's (disk, network, memory): another run may do better."""
    if isinstance(error, cv2.error):
        return getattr(error, 'code', None) == cv2.Error.StsNoMem
    return isinstance(error, (OSError, MemoryError))


class SourceError(Exception):
    """One video or frame folder cannot be used; the others can. The message says why.

    Attributes:
        passing: it was not the file's content but the reading of it that failed (permission, a disk or
            network fault, memory): another run may do better.
    """

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
