"""What a user has clicked so far, with a way back: the state behind an interactive page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .annotation import PointAnnotator, PointMask
from .errors import InputError, check_choice

POINT_KINDS = ('positive', 'static')


class Clicks:
    """Items at places of an image, which can be added, removed and brought back.

    Args:
        size: (height, width) of the image.

    Attributes:
        items: list of tuples that begin with x, y in pixels: arrows (x, y, u, v) or points (x, y, kind).
    """

    def __init__(self, size: Sequence[int]) -> None:
        self.size = tuple(size)
        self.items: list[tuple] = []
        self._history: list[list[tuple]] = []

    def add(self, x: float, y: float, *more: Any) -> None:
        """Add an item.

        Raises:
            InputError: (x, y) is not finite or outside the image, or a number of ``more`` is not finite.
        """
        self._check(x, y)
        if not all(np.isfinite(value) for value in more if not isinstance(value, str)):
            raise InputError(f'the arrow at x {x:g}, y {y:g} is {more}; expected finite numbers')
        self._remember()
        self.items.append((x, y, *more))

    def remove_nearest(self, x: float, y: float) -> tuple | None:
        """Remove the item whose place is nearest to (x, y), and return it; None if there is none."""
        self._check(x, y)
        if not self.items:
            return None
        distances = [(item[0] - x) ** 2 + (item[1] - y) ** 2 for item in self.items]
        self._remember()
        return self.items.pop(int(np.argmin(distances)))

    def clear(self) -> None:
        """Remove all; can be undone."""
        if self.items:
            self._remember()
            self.items = []

    def undo(self) -> bool:
        """Take the last change back; False if there is none."""
        if not self._history:
            return False
        self.items = self._history.pop()
        return True

    def _remember(self) -> None:
        self._history.append(list(self.items))

    def _check(self, x: float, y: float) -> None:
        height, width = self.size
        if not (0 <= np.round(x) < width and 0 <= np.round(y) < height):
            raise InputError(
                f'the point is at x {x:g}, y {y:g}; expected finite numbers inside the image of '
                f'{width} x {height} pixels (width x height)'
            )


class AnnotationSession:
    """Objects of one image, marked one after the other by points.

    Args:
        annotator: makes masks; its image is the session's.

    Attributes:
        annotator: may be replaced by another one of the same image; points and objects stay.
        clicks: the points of the object in work, (x, y, kind) with kind 'positive' or 'static'.
        objects: (H, W) bool masks of the finished objects, in order.
    """

    def __init__(self, annotator: PointAnnotator) -> None:
        self.annotator = annotator
        self.clicks = Clicks(annotator.image.shape[:2])
        self.objects: list[np.ndarray] = []
        # As it was before each object was finished or removed; the history of `clicks` begins after the last.
        self._before: list[tuple[Clicks, list[np.ndarray]]] = []
        self._made: tuple[tuple, PointMask] | None = None

    def add(self, x: float, y: float, kind: str = 'positive') -> None:
        """Add a point to the object in work."""
        check_choice('kind', kind, POINT_KINDS)
        self.clicks.add(x, y, kind)

    def remove_nearest(self, x: float, y: float) -> tuple | None:
        """Remove the point nearest to (x, y) and return it; None if there is none."""
        return self.clicks.remove_nearest(x, y)

    def undo(self) -> bool:
        """Take the last change of points or objects back; False if there is none.

        An object that was finished is in work again, with its points; one that was removed is back.
        """
        if self.clicks.undo():
            return True
        if not self._before:
            return False
        self.clicks, self.objects = self._before.pop()
        return True

    def points(self, kind: str) -> np.ndarray:
        """(P, 2) x, y of the points of one kind."""
        check_choice('kind', kind, POINT_KINDS)
        places = [item[:2] for item in self.clicks.items if item[2] == kind]
        return np.array(places, np.float64).reshape(-1, 2)

    def mask(self) -> PointMask | None:
        """The mask of the object in work; None while it has no positive point."""
        if not len(self.points('positive')):
            return None
        key = self.annotator, *self.clicks.items
        if self._made is None or self._made[0] != key:
            self._made = key, self.annotator.mask(self.points('positive'), self.points('static'))
        return self._made[1]

    def finish(self) -> int:
        """Keep the object in work and begin the next; returns its number, from 1.

        Raises:
            InputError: it has no positive point.
        """
        made = self.mask()
        if made is None:
            raise InputError('the object has no positive points; expected at least one before it is finished')
        if len(self.objects) == 255:
            raise InputError('255 objects are finished already, as many as a label map holds')
        self._replace([], [*self.objects, made.mask])
        return len(self.objects)

    def drop_object(self) -> bool:
        """Remove the object finished last, which can be undone; False if there is none."""
        if not self.objects:
            return False
        self._replace(self.clicks.items, self.objects[:-1])
        return True

    def label_map(self) -> np.ndarray:
        """(H, W) uint8: 0 is background, k the k-th object; a later object covers an earlier one."""
        labels = np.zeros(self.clicks.size, np.uint8)
        for number, mask in enumerate(self.objects, 1):
            labels[mask] = number
        return labels

    def _replace(self, items: list[tuple], objects: list[np.ndarray]) -> None:
        self._before.append((self.clicks, self.objects))
        self.clicks, self.objects = Clicks(self.clicks.size), objects
        self.clicks.items = list(items)
