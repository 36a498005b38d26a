"""What one visitor of the page has loaded, clicked and got; nothing here knows the page."""

import io
import zipfile
from collections.abc import Iterator

import cv2
import numpy as np
import torch

from cmp_mm.flow import add_legend, encode_flow, flow_to_rgb
from cmp_mm.visualization import draw_arrows
from cmp_mm.visualization.drawing import enlarge, zoom_for

from ..annotation import PointAnnotator
from ..arrows import to_working_size
from ..clicks import POINT_KINDS, AnnotationSession, Clicks
from ..command_line import png
from ..errors import InputError, check_choice, input_warnings
from ..guided_video import animate
from ..images import decode_image
from ..inferencer import CMPInferencer, EncodedImage, flow_to_array
from ..pictures import overlay_flow
from ..video_files import check_video_path, even_size, write_video
from .results import ResultFolder
from .zoomed import PENDING_COLOUR, STATIC_COLOUR, dots, draw_masks, on_zoomed

ARROW_MODES = ('draw arrow', 'hold still', 'remove nearest')
POINT_MODES = (*POINT_KINDS, 'remove nearest')
MASK_VIEWS = ('mask', 'score')


class PageSession:
    """One visitor's image and clicks.

    Args:
        lost: it stands for one that is gone, whose image the page may still show.

    Attributes:
        image: (H, W, 3) uint8 RGB; None before one is loaded.
        zoom: the pictures to click on are this many times larger, so that pixels of small images can be hit.
        arrows: rows (x, y, u, v) in pixels of the image, shared by flow and animation.
        start: (x, y) of an arrow whose end is not clicked yet.
        flow: (H, W, 2) float32 of the arrows as they were when it was made; None if they have changed.
        video: path of the animation, likewise.
        annotation: points and masks; None before the first point.
        mask_view: one of ``MASK_VIEWS``: the mask in work over the image, or the score it is cut from.
        lost: see Args; until an image is loaded.
    """

    def __init__(self, lost: bool = False) -> None:
        self.lost = lost
        self.image: np.ndarray | None = None
        self.zoom = 1
        self.arrows = Clicks((1, 1))
        self.start: tuple[int, int] | None = None
        self.flow: np.ndarray | None = None
        self.video: str | None = None
        self.annotation: AnnotationSession | None = None
        self.mask_view = MASK_VIEWS[0]
        self._file_size = (0, 0)
        self._encoded: EncodedImage | None = None
        self._options: dict = {}
        self._files = ResultFolder()

    def load(self, data: bytes, max_side: int, inferencer: CMPInferencer | None = None) -> str:
        """Take an image, and forget what belonged to the one before.

        Args:
            data: the bytes of an image file.
            max_side: larger images are shrunk until their long side has this many pixels.
            inferencer: the network that will see it; None where that is not known.

        Returns:
            A sentence on what was loaded.

        Raises:
            InputError: it is no whole image.
        """
        image = decode_image(data, 'the file')
        height, width = image.shape[:2]
        told = f'Image of {width} x {height} pixels.'
        file_size = height, width
        if max(height, width) > max_side:
            ratio = max_side / max(height, width)
            width, height = max(1, round(width * ratio)), max(1, round(height * ratio))
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            told += f' Shrunk to {width} x {height}: all results have that size.'
        self.image, self._file_size, self.zoom = image, file_size, zoom_for(height, width, 480)
        self.lost = False
        self.arrows, self.start = Clicks((height, width)), None
        self._forget_results()
        self.annotation, self._encoded = None, None
        side = None if inferencer is None else inferencer.better_side((height, width))
        if side is not None:
            told += (
                f' Trained on short sides of {side} px, the network may do better if the server is started'
            )
            told += f' with --working-size {side}.'
        return told

    def keep(self) -> str:
        """What to say when the image's file is taken back, which changes nothing."""
        self._image()
        return 'The image stays until another is chosen.'

    def to_pixel(self, place: tuple[float, float]) -> tuple[int, int]:
        """x, y in the image of a place on one of the pictures to click on.

        Raises:
            InputError: no image, or a place that is none: whoever talks to the server may send anything.
        """
        height, width = self._image().shape[:2]
        try:
            x, y = (int(value // self.zoom) for value in place)
        except (TypeError, ValueError, OverflowError):
            raise InputError('the click has no place; expected two finite numbers, x and y') from None
        # A browser that scales a picture may round a click at its rim to just outside.
        return min(max(x, 0), width - 1), min(max(y, 0), height - 1)

    # Arrows

    def click_arrow(self, place: tuple[float, float], mode: str) -> str:
        """Begin or end an arrow, hold a point still, or remove what is nearest; returns what was done."""
        check_choice('mode', mode, ARROW_MODES)
        x, y = self.to_pixel(place)
        if mode == 'draw arrow' and self.start is None:
            self.start = (x, y)
            return f'Arrow from {x},{y}: now click where it ends.'
        if mode == 'draw arrow':
            begin, self.start = self.start, None
            self.arrows.add(*begin, x - begin[0], y - begin[1])
            told = f'Arrow {begin[0]},{begin[1]} to {x},{y}.'
        else:
            self.start = None
            if mode == 'hold still':
                self.arrows.add(x, y, 0, 0)
                told = f'{x},{y} is held still.'
            else:
                told = 'Removed.' if self.arrows.remove_nearest(x, y) else 'There is nothing to remove.'
        self._forget_results()
        return told

    def undo_arrow(self) -> str:
        """Drop the arrow begun, else take the last change back."""
        self._image()
        if self.start is not None:
            self.start = None
            return 'The arrow begun is dropped.'
        if not self.arrows.undo():
            return 'There is nothing to undo.'
        self._forget_results()
        return 'Taken back.'

    def clear_arrows(self) -> str:
        """Remove all arrows, which can be undone, and the one begun."""
        self._image()
        begun, self.start = self.start, None
        if not self.arrows.items:
            return 'There is nothing to remove.' if begun is None else 'The arrow begun is dropped.'
        self.arrows.clear()
        self._forget_results()
        return 'All arrows are removed; undo brings them back.'

    def arrow_list(self) -> str:
        """The arrows as the command-line demos take them, one a line: in pixels of the file, unshrunk."""
        if not self.arrows.items:
            return ''
        rows = torch.tensor(self.arrows.items, dtype=torch.float64)
        rows = to_working_size(rows, self._image().shape[:2], self._file_size)
        return '\n'.join('--arrow ' + ','.join(f'{value:.6g}' for value in row) for row in rows.tolist())

    def arrow_picture(self) -> np.ndarray | None:
        """The image with its arrows, ``zoom`` times larger."""
        if self.image is None:
            return None
        picture = self._draw(enlarge(self.image, self.zoom))
        if self.start is not None:
            picture = dots(picture, [self.start], self.zoom, PENDING_COLOUR)
        return picture

    def propagate(self, inferencer: CMPInferencer, correction: str | None = None) -> str:
        """Make the flow of the arrows; returns a sentence on it.

        Args:
            inferencer: the network.
            correction: overrides the inferencer's.

        Raises:
            InputError: no image or no arrows, no such correction, or the arrows were changed meanwhile.
        """
        image, rows, clicked = self._image(), self._rows(), list(self.arrows.items)
        with input_warnings() as caught:
            encoded = self._encoded or inferencer.encode(image, color_order='rgb')
            flow = flow_to_array(inferencer.propagate(encoded, rows, correction=correction))[0]
        if self.image is image:
            self._encoded = encoded
        self._check_unchanged(image, clicked)
        self.flow = flow
        speed = np.hypot(flow[..., 0], flow[..., 1])
        told = f'Mean motion {speed.mean():.3g} px, fastest {speed.max():.3g} px.'
        return ' '.join([told, *caught])

    def flow_pictures(self, max_radius: float) -> tuple[np.ndarray, np.ndarray] | None:
        """The flow in colours, and over the image with the arrows; both with a legend."""
        if self.flow is None:
            return None
        if not 0 < max_radius < float('inf'):
            raise InputError(f'the radius is {max_radius}; expected pixels above 0')
        plain = enlarge(flow_to_rgb(self.flow, max_radius), self.zoom)
        over = self._draw(enlarge(overlay_flow(self._image(), self.flow, max_radius), self.zoom))
        return add_legend(plain, max_radius), add_legend(over, max_radius)

    def flow_files(self) -> tuple[str, str] | None:
        """Paths of the flow as .flo and .npz file."""
        if self.flow is None:
            return None
        files = {f'flow.{form}': encode_flow(self.flow, form) for form in ('flo', 'npz')}
        return tuple(self._files.write(files))

    def animate(
        self,
        inferencer: CMPInferencer,
        form: str,
        num_frames: int,
        fps: float,
        motion: str,
        fill: str,
        progress=lambda done, total: None,
        correction: str | None = None,
    ) -> tuple[str, str]:
        """Write a video of the image moving along its arrows.

        Args:
            inferencer: the network.
            form: 'gif' or 'mp4'.
            num_frames: see `cmp_mm.apis.animate`, with motion and fill.
            fps: frames per second.
            motion: see there.
            fill: see there.
            progress: called with the number of frames done and of all.
            correction: overrides the inferencer's.

        Returns:
            The file's path, and a sentence on it.

        Raises:
            InputError: no image, no arrows, an option that cannot be used, or image or arrows were changed
                meanwhile.
        """
        image, rows, clicked = self._image(), self._rows(), list(self.arrows.items)
        path = self._files.path(f'animation.{form}')
        check_video_path(path, fps)
        with input_warnings() as caught:
            options = dict(num_frames=num_frames, motion=motion, fill=fill, correction=correction)
            frames = animate(inferencer, image, rows, color_order='rgb', **options)
            count = write_video(_counted(frames, num_frames, progress), path, fps)
        self._check_unchanged(image, clicked)
        self.video = str(path)
        size = image.shape[:2]
        told = f'{count} frames of {size[1]} x {size[0]} pixels at {fps:g} per second.'
        if form == 'mp4' and even_size(size) != size:
            height, width = even_size(size)
            told += f' The file has {width} x {height}: sides of an mp4 are even.'
        return str(path), ' '.join([told, *caught])

    # Masks

    def prepare_masks(self, inferencer: CMPInferencer, **options) -> None:
        """Take the options of a `PointAnnotator`; the points and objects there are stay.

        Raises:
            InputError: no image, an option that cannot be used, or another image was loaded meanwhile.
        """
        if self.annotation is not None and self._options == options:
            return
        image = self._image()
        # Encoded once for flow and masks: an encoding is many times the image.
        encoded = self._encoded or inferencer.encode(image, color_order='rgb')
        annotator = PointAnnotator(inferencer, image, color_order='rgb', encoded=encoded, **options)
        if self.image is not image:
            raise InputError('another image was loaded meanwhile; its points are not clicked yet')
        self._encoded, self._options = encoded, options
        if self.annotation is None:
            self.annotation = AnnotationSession(annotator)
        else:
            self.annotation.annotator = annotator

    def view_masks(self, view: str) -> None:
        """Choose what pictures show of the mask in work."""
        check_choice('view', view, MASK_VIEWS)
        self.mask_view = view

    def click_point(self, place: tuple[float, float], mode: str) -> str:
        """Add a point or remove the nearest one; returns what was done."""
        check_choice('mode', mode, POINT_MODES)
        x, y = self.to_pixel(place)
        annotation = self._annotation()
        if mode == 'remove nearest':
            return 'Removed.' if annotation.remove_nearest(x, y) else 'There is nothing to remove.'
        annotation.add(x, y, mode)
        return f'{mode.capitalize()} point at {x},{y}.'

    def undo_point(self) -> str:
        """Take the last change of points or finished objects back."""
        return 'Taken back.' if self._annotation().undo() else 'There is nothing to undo.'

    def finish_object(self) -> str:
        """Keep the object in work and begin the next."""
        return f'Object {self._annotation().finish()} is finished; click on the next.'

    def drop_object(self) -> str:
        """Remove the object finished last."""
        dropped = self._annotation().drop_object()
        return 'The object finished last is removed.' if dropped else 'There is no finished object.'

    def make_mask(self) -> None:
        """Make the mask of the object in work, unless it is made already.

        Raises:
            InputError: the network refuses its points.
        """
        if self.annotation is not None:
            self.annotation.mask()

    def mask_summary(self, masked: bool = True) -> str:
        """One line on the points, the finished objects and, if ``masked``, the mask in work."""
        if self.annotation is None:
            return 'Nothing is marked.'
        counts = [len(self.annotation.points(kind)) for kind in POINT_KINDS]
        made = self.annotation.mask() if masked else None
        area = '' if made is None else f', mask of {int(made.mask.sum())} pixels ({made.mask.mean():.1%})'
        finished = len(self.annotation.objects)
        return f'Positive points: {counts[0]}, static: {counts[1]}{area}. Finished objects: {finished}.'

    def mask_picture(self, masked: bool = True) -> np.ndarray | None:
        """The image with objects, points and, if ``masked``, the mask in work; ``zoom`` times larger. By
        ``mask_view`` that mask's score, black for 0 and white for 1, takes the place of image and mask."""
        if self.image is None or self.annotation is None:
            return None if self.image is None else enlarge(self.image, self.zoom)
        made = self.annotation.mask() if masked else None
        ground, mask = self.image, None if made is None else made.mask
        if made is not None and self.mask_view == 'score':
            ground, mask = np.repeat(np.rint(made.score * 255).astype(np.uint8)[..., None], 3, axis=2), None
        picture = draw_masks(enlarge(ground, self.zoom), self.annotation.objects, mask, self.zoom)
        picture = dots(picture, self.annotation.points('positive'), self.zoom)
        return dots(picture, self.annotation.points('static'), self.zoom, STATIC_COLOUR)

    def export_masks(self) -> tuple[str, str, str]:
        """Write the finished objects as a label map and as binary masks.

        Returns:
            Path of the label map (png, grey: 0 background, k the k-th object), path of a zip with a png of
            0 and 255 for each, and a sentence.

        Raises:
            InputError: no object is finished.
        """
        self._image()
        objects = [] if self.annotation is None else self.annotation.objects
        if not objects:
            raise InputError('no object is finished; expected at least one to export')
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as archive:
            for number, mask in enumerate(objects, 1):
                archive.writestr(f'object_{number:03d}.png', png(mask.astype(np.uint8) * 255))
        labels, masks = self._files.write(
            {'labels.png': png(self.annotation.label_map()), 'masks.zip': packed.getvalue()}
        )
        told = f'Exported objects: {len(objects)}.'
        if self.annotation.clicks.items:
            told += ' The points of the object in work are not among them: finish it first.'
        return labels, masks, told

    # Parts

    def _image(self) -> np.ndarray:
        if self.lost:
            raise InputError(
                'there is no image yet, or no longer: the server was restarted, had too many visitors or '
                'waited too long for this page; choose the image again'
            )
        if self.image is None:
            raise InputError('there is no image yet; choose one first')
        return self.image

    def _annotation(self) -> AnnotationSession:
        self._image()
        if self.annotation is None:
            raise InputError('there are no points yet; click on the image first')
        return self.annotation

    def _check_unchanged(self, image: np.ndarray, clicked: list[tuple]) -> None:
        if self.image is not image:
            raise InputError('another image was loaded meanwhile; its arrows are not clicked yet')
        if self.arrows.items != clicked:
            raise InputError('the arrows were changed meanwhile; press the button again')

    def _forget_results(self) -> None:
        self.flow, self.video = None, None

    def _rows(self) -> np.ndarray:
        if not self.arrows.items:
            raise InputError('there are no arrows yet; click a start and an end on the image')
        return np.array(self.arrows.items, np.float32)

    def _draw(self, picture: np.ndarray) -> np.ndarray:
        """Arrows on a picture of ``zoom`` times the image's size."""
        rows = np.array(self.arrows.items, np.float64).reshape(-1, 4)
        moving = rows[:, 2:].any(axis=1)
        picture = dots(picture, rows[~moving, :2], self.zoom, STATIC_COLOUR)
        points = on_zoomed(rows[moving, :2], self.zoom)
        return draw_arrows(picture, points[:, ::-1], rows[moving, 2:] * self.zoom)


def _counted(frames: Iterator[np.ndarray], total: int, progress) -> Iterator[np.ndarray]:
    for done, frame in enumerate(frames, 1):
        progress(done, total)
        yield frame
