"""One picture to look at before training: some pairs' frame, flow and guidance points."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from cmp_mm.flow import FlowFormatError, color_wheel_legend, flow_to_rgb, read_flow
from cmp_mm.guidance import sample_points

from .annotation import records_of
from .store import Store

ROWS = 12
COLUMNS = 2  # pairs beside each other, three panels each
PANEL_WIDTH, PANEL_HEIGHT = 260, 195  # at most, each
CAPTION = 18
MARGIN = 6
HEADER = 84
# The paper's watershed and grid for AlexNet, on frames of about 400 pixels.
WATERSHED = {'type': 'watershed', 'kernel_size': 41}
GRID = {'type': 'grid', 'stride': 80}
WATERSHED_COLOUR = (230, 30, 30)
GRID_COLOUR = (30, 90, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_contact_sheet(store: Store, pairs: Mapping[str, int]) -> bytes | None:
    """Draw pairs of videos spread evenly over the set, read back from their files.

    All flow has one colour scale, so that fast and slow videos can be told apart.

    Args:
        store: the output folder.
        pairs: number of pairs of each video that has some.

    Returns:
        A PNG, or None where there is no pair to draw.
    """
    shown = []
    for video, row in _choose(store, pairs):
        loaded = _load(store, video, row[0])
        if loaded is not None:
            shown.append((video, row, *loaded))
    if not shown:
        return None
    # Rounded to a number that can be read off the legend.
    radius = float(
        min(max(1.0, np.ceil(np.percentile([row[4] for _, row, *_ in shown], 75))), store.settings.flow_bound)
    )
    tiles = [_draw_pair(video, row, frame, flow, radius) for video, row, frame, flow in shown]
    sheet = _stack(tiles, radius, store)
    done, png = cv2.imencode('.png', cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    return png.tobytes() if done else None


def _choose(store: Store, pairs: Mapping[str, int]) -> list[tuple[str, list]]:
    """Choose pairs: the middle ones of evenly spread videos, more of each where videos are few."""
    videos = list(pairs)
    wanted = ROWS * COLUMNS
    places = np.linspace(0, len(videos) - 1, min(wanted, len(videos))).round().astype(int)
    each = max(1, wanted // max(1, len(places)))
    chosen = []
    for record in records_of(store, [videos[place] for place in places]):
        last = len(record['pairs']) - 1
        numbers = sorted({round((2 * step + 1) * last / (2 * each)) for step in range(each)})
        chosen += [(record['video'], record['pairs'][number]) for number in numbers]
    return chosen[:wanted]


def _load(store: Store, video: str, index: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Read a pair's first frame (RGB) and flow (NaN where unknown) as a data set would."""
    paths = store.flow_paths(video, index)
    try:
        data = np.frombuffer(store.frame_path(video, index).read_bytes(), np.uint8)
        frame = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        flow, valid = read_flow(paths if len(paths) > 1 else paths[0], bound=store.settings.flow_bound)
    except (OSError, FlowFormatError):
        return None
    if frame is None or frame.shape[:2] != flow.shape[:2]:
        return None
    if valid is not None:
        flow[~valid] = np.nan
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), flow


def _draw_pair(video: str, row: list, frame: np.ndarray, flow: np.ndarray, radius: float) -> np.ndarray:
    height, width = frame.shape[:2]
    scale = min(PANEL_WIDTH / width, PANEL_HEIGHT / height)
    panel = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(frame, panel, interpolation=cv2.INTER_AREA)
    colours = cv2.resize(flow_to_rgb(flow, radius), panel, interpolation=cv2.INTER_AREA)
    guidance = cv2.addWeighted(small, 0.6, np.full_like(small, 255), 0.4, 0)
    counts = []
    for strategy, colour in ((GRID, GRID_COLOUR), (WATERSHED, WATERSHED_COLOUR)):
        points = sample_points(flow, [strategy], rng=np.random.default_rng(0))
        counts.append(len(points))
        for point in points:
            _draw_arrow(guidance, point, flow[tuple(point)], scale, colour)
    tile = np.full((panel[1] + CAPTION, 3 * PANEL_WIDTH, 3), 255, np.uint8)
    for column, picture in enumerate((small, colours, guidance)):
        left = column * PANEL_WIDTH
        tile[CAPTION:, left : left + panel[0]] = picture
    name = video if len(video) <= 40 else video[:37] + '...'
    text = f'{name}  frame {row[0]}  mean {row[3]:.1f} px, fastest {row[4]:.1f} px  points '
    text += f'{counts[1]} + {counts[0]}'
    _write(tile, text, (2, CAPTION - 5))
    return tile


def _draw_arrow(
    image: np.ndarray, point: Sequence[int], vector: np.ndarray, scale: float, colour: tuple[int, int, int]
) -> None:
    start = np.array([point[1], point[0]]) * scale
    # Twice its length in the panel, for most motion is a few pixels only.
    end = start + 2 * scale * vector
    start, end = (tuple(int(round(float(value))) for value in place) for place in (start, end))
    cv2.circle(image, start, 2, colour, -1, cv2.LINE_AA)
    cv2.arrowedLine(image, start, end, colour, 1, cv2.LINE_AA, tipLength=0.3)


def _stack(tiles: list[np.ndarray], radius: float, store: Store) -> np.ndarray:
    columns = min(COLUMNS, len(tiles))
    lines = []
    for first in range(0, len(tiles), columns):
        line = tiles[first : first + columns]
        height = max(tile.shape[0] for tile in line)
        line += [np.full_like(tiles[0], 255)] * (columns - len(line))
        lines.append(np.hstack([_pad(tile[:height], height) for tile in line]))
    body = np.vstack(lines)
    header = np.full((HEADER, body.shape[1], 3), 255, np.uint8)
    legend = color_wheel_legend(HEADER - 4, radius)
    header[2 : HEADER - 2, MARGIN : MARGIN + legend.shape[1]] = legend
    left = MARGIN * 2 + legend.shape[1]
    settings = store.settings
    _write(
        header,
        f'frame | flow by {settings.estimator}, saturated at {radius:g} px | guidance, arrows x 2',
        (left, 28),
    )
    _write(header, f'watershed, kernel {WATERSHED["kernel_size"]}', (left, 50), WATERSHED_COLOUR)
    _write(header, f'grid, stride {GRID["stride"]}', (left, 70), GRID_COLOUR)
    return np.vstack([header, body])


def _pad(tile: np.ndarray, height: int) -> np.ndarray:
    return cv2.copyMakeBorder(
        tile, 0, height - tile.shape[0] + MARGIN, 0, MARGIN, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )


def _write(
    image: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int] = (0, 0, 0)
) -> None:
    # The font has no other letters.
    text = text.encode('ascii', 'replace').decode()
    cv2.putText(image, text, place, FONT, 0.42, colour, 1, cv2.LINE_AA)
