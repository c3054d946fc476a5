"""A small SVG picture of an array: lines or a heat map of a sample of its values."""

import base64
import struct
import zlib
from typing import Any

import numpy as np

from dj_npy._format.npyfile import AnyArray

_WIDTH, _HEIGHT = 1000, 400
_FULL_PX, _HEIGHT_PX = 260, 104
_MAX_IMAGE_ASPECT = 3
"""Largest aspect ratio at which an array is drawn with its proportions."""
_MAX_LINES = 4
"""Most rows or columns drawn as lines; each must have `_MIN_LINE_LENGTH` values."""
_MIN_LINE_LENGTH = 8
_POINTS = 240
_BINS = 160
"""Points, or bins of minimum and maximum, of all lines together: some 3 kB."""
_SAMPLES = 32
"""Values sampled for each bin."""
_ROWS, _COLUMNS = 48, 72
_COLOURS = ("var(--dj-npy-accent,#3b82c4)", "#c9762a", "#3d9970", "#b05cc6")
"""Colours of lines, visible on black and on white."""
_MAX_TEXT = 60
_NUMBERS = "biufcmM"

# 63 colours from dark (low) to light (high); index 0 is transparent, for NaN.
_STOPS = np.array([(38, 30, 92), (32, 99, 141), (36, 155, 132), (140, 201, 84), (250, 228, 92)])
_LEVELS = 63
_SCALE = np.linspace(0, len(_STOPS) - 1, _LEVELS)
_PALETTE = np.stack(
    [np.interp(_SCALE, np.arange(len(_STOPS)), _STOPS[:, channel]) for channel in range(3)], axis=1
).astype(np.uint8)


def picture(array: AnyArray) -> tuple[str, str]:
    """
    Return an SVG of an array and a caption; each may be ``""``.

    Samples a few thousand values, however many there are.
    """
    array = np.asarray(array)
    notes: list[str] = []
    if array.size <= 1:
        return "", _text(array) if array.size else "no elements"
    if array.dtype.names is not None:
        fields = array.dtype.names
        name = next((name for name in fields if array.dtype[name].base.kind in _NUMBERS), None)
        if name is None:
            return "", ""
        array = array[name]
        notes.append(f"field {name!r}")
    if array.size <= 1 or array.dtype.kind not in _NUMBERS:
        return "", ""
    array = _middle_plane(array, notes)
    with np.errstate(all="ignore"):
        if array.ndim == 1:
            return _lines(array[:, np.newaxis], notes)
        if min(array.shape) <= _MAX_LINES and max(array.shape) >= _MIN_LINE_LENGTH:
            return _lines(array if array.shape[0] > array.shape[1] else array.T, notes)
        return _heat_map(array, notes)


def _text(element: AnyArray) -> str:
    """Return the text of a single element."""
    try:
        text = str(element.reshape(-1)[0])[:_MAX_TEXT]
        return text.encode(errors="backslashreplace").decode()
    except (SystemError, ValueError):
        return "?"  # invalid code points; a datetime without unit


def _middle_plane(array: AnyArray, notes: list[str]) -> AnyArray:
    """Return one plane of an array: the middle image of a movie, one channel of a colour image."""
    index: list[Any] = [0 if length == 1 else slice(None) for length in array.shape]
    axes = [axis for axis, length in enumerate(array.shape) if length > 1]
    if len(axes) > 2 and array.shape[axes[-1]] <= _MAX_LINES:
        index[axes.pop()] = 0
    for axis in axes[:-2]:
        index[axis] = array.shape[axis] // 2
    if array.ndim > 2:
        notes.insert(0, f"[{', '.join(':' if i == slice(None) else str(i) for i in index)}]")
    plane: AnyArray = array[tuple(index)]
    return plane


def _lines(array: AnyArray, notes: list[str]) -> tuple[str, str]:
    """Draw each column as a line of its values, or as a band from minimum to maximum."""
    length, count = array.shape
    points, bins = _POINTS // count, _BINS // count
    chosen = _spread(length, length if length <= points else bins * _SAMPLES)
    sample = array[chosen]
    values, caption = _scaled(sample, sample.size < array.size, notes)
    if values is None:
        return "", caption
    heights = np.rint((1 - values) * _HEIGHT)
    if length <= points:
        x = np.rint(np.linspace(0, _WIDTH, length))
        paths = [_path(x, column) for column in heights.T]
        fill = "none"
    else:
        starts = np.arange(bins) * len(chosen) // bins
        x = np.rint(np.linspace(0, _WIDTH, bins))
        paths = [
            _band(x, np.fmin.reduceat(column, starts), np.fmax.reduceat(column, starts))
            for column in heights.T
        ]
        fill = "currentColor"
    drawn = "".join(
        f'<path d="{path}" style="color:{colour}" stroke="currentColor" '
        f'fill="{fill}" stroke-width="1.3" stroke-linejoin="round" stroke-linecap="round" '
        f'vector-effect="non-scaling-stroke"/>'
        for path, colour in zip(paths, _COLOURS, strict=False)
    )
    return _svg(drawn, f"-20 -20 {_WIDTH + 40} {_HEIGHT + 40}", _FULL_PX), caption


def _heat_map(array: AnyArray, notes: list[str]) -> tuple[str, str]:
    rows, columns = (
        _spread(length, max_count)
        for length, max_count in zip(array.shape, (_ROWS, _COLUMNS), strict=True)
    )
    sample = array[np.ix_(rows, columns)]
    values, caption = _scaled(sample, sample.size < array.size, notes)
    if values is None:
        return "", caption
    levels = np.where(np.isnan(values), 0, 1 + np.rint(np.nan_to_num(values) * (_LEVELS - 1)))
    image = base64.b64encode(_png(levels.astype(np.uint8))).decode()
    drawn = (
        f'<image href="data:image/png;base64,{image}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated"/>'
    )
    # Keep the proportions, unless it is long and narrow.
    proportion = array.shape[1] / array.shape[0]
    is_image = 1 / _MAX_IMAGE_ASPECT <= proportion <= _MAX_IMAGE_ASPECT
    width = min(_FULL_PX, round(_HEIGHT_PX * proportion)) if is_image else _FULL_PX
    return _svg(drawn, f"0 0 {_WIDTH} {_HEIGHT}", width), caption


def _svg(drawn: str, box: str, width_px: int) -> str:
    # Size given twice: JupyterLab's CSS overrides the height, and some pages drop styles.
    return (
        f'<svg viewBox="{box}" width="{width_px}" height="{_HEIGHT_PX}" '
        f'style="width:{width_px}px;height:{_HEIGHT_PX}px" '
        f'preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
    )


def _spread(length: int, max_count: int) -> AnyArray:
    """Return up to `max_count` equidistant positions within `length`."""
    count = min(length, max_count)
    return (2 * np.arange(count) + 1) * length // (2 * count)


def _scaled(sample: AnyArray, is_sample: bool, notes: list[str]) -> tuple[AnyArray | None, str]:
    """Return values scaled to 0 to 1, NaN where not finite, and a caption."""
    numbers = _as_floats(sample)
    if sample.dtype.kind == "c":
        notes = [*notes, "absolute values"]
    if is_sample:
        notes = [*notes, f"of {sample.size:,} values looked at"]
    finite = np.isfinite(numbers)
    left_out = sample.size - np.count_nonzero(finite)
    if left_out == sample.size:
        return None, ", ".join(["no finite value", *notes])
    if left_out:
        notes = [*notes, f"{left_out:,} not finite"]
    numbers[~finite] = np.nan
    labelled = numbers if sample.dtype.kind == "c" else sample
    lowest, highest = labelled.flat[np.nanargmin(numbers)], labelled.flat[np.nanargmax(numbers)]
    caption = ", ".join([f"{_number(lowest)} to {_number(highest)}", *notes])
    low, high = np.nanmin(numbers) / 2, np.nanmax(numbers) / 2  # halved: a finite range
    if not high - low > 0:
        return np.where(finite, 0.5, np.nan), caption
    return np.clip((numbers / 2 - low) / (high - low), 0, 1), caption


def _as_floats(sample: AnyArray) -> AnyArray:
    kind = sample.dtype.kind
    if kind == "c":
        return np.abs(sample).astype(np.float64)
    if kind in "mM":
        ticks = sample.astype(sample.dtype.newbyteorder("=")).view(np.int64).astype(np.float64)
        return np.where(np.isnat(sample), np.nan, ticks)
    return sample.astype(np.float64)


def _number(value: Any) -> str:
    if isinstance(value, np.inexact):
        return f"{float(value):.4g}"
    return _text(np.asarray(value))


def _path(x: AnyArray, y: AnyArray) -> str:
    """Return an SVG path through the points, with gaps at NaN."""
    steps, pen_down = [], False
    for left, height in zip(x, y, strict=True):
        if np.isnan(height):
            pen_down = False
            continue
        steps.append(f"{'L' if pen_down else 'M'}{left:.0f} {height:.0f}")
        if not pen_down:
            steps.append("h6h-6")  # makes a point between two gaps visible
        pen_down = True
    return "".join(steps)


def _band(x: AnyArray, low: AnyArray, high: AnyArray) -> str:
    """Return an SVG path of the bands from minimum to maximum, one per stretch without gap."""
    present = np.flatnonzero(~np.isnan(low))
    stretches = np.split(present, np.flatnonzero(np.diff(present) > 1) + 1)
    return "".join(
        "M"
        + "L".join(
            f"{x[i]:.0f} {y[i]:.0f}"
            for y, along in ((low, each), (high, each[::-1]))
            for i in along
        )
        + "Z"
        for each in stretches
    )


def _png(levels: AnyArray) -> bytes:
    """Encode an image with the palette as PNG (ISO/IEC 15948)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = levels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", b"\0\0\0" + _PALETTE.tobytes())
        + chunk(b"tRNS", b"\0")
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )
