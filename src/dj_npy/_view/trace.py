"""Recordings: the lowest and the highest value a pixel, of a few channels in a window of time."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dj_npy._format.npyfile import AnyArray
from dj_npy._settings import settings
from dj_npy._view.answers import Answer, Refused, axis_of, binary, integer, little_endian, span
from dj_npy._view.arrays import MOST, Shown
from dj_npy._view.overview import Overviews, has_nan, nan_counts, plain, reduced

_SAMPLED = 8 << 20
"""Bytes to read of a window that is not read whole."""
_REQUESTS = 2400
"""Most stretches of a file that are read for it: they take most of a second at 30 ms."""
_TURNS = 8
"""Most turns in which they are read, where those next to one another would be merged."""
_BINS = 200
"""Bins of an overview in a window from which it is drawn instead of samples."""
_MAX_WIDTH = 8192
_CHANNELS = "0:16"


def trace(shown: Shown, params: Mapping[str, str], overviews: Overviews) -> Answer:
    """
    Return lowest and highest values, `(2, channels, pixels)`, of a window.

    Pixel `p` stands for the samples from ``start + p * of`` on, `of` of them. It was read from the
    first `read` of these: from all where `exact`. NaN are left out; if there are any, `nan` of the
    `values` that were read, a third array follows: how many of each pixel are.
    """
    shape = shown.ref.shape
    if not shape:
        raise Refused(400, f"{shown.title} has no axis to go along")
    dtype = drawn_as(shown)
    axis = axis_of(params, len(shape))
    channels = math.prod(shape[:axis] + shape[axis + 1 :])
    window = span(f"{params.get('start', '')}:{params.get('stop', '')}", shape[axis], "start:stop")
    some = span(params.get("channels", _CHANNELS), channels, "channels")
    width = min(max(integer(params, "width", 1200), 1), _MAX_WIDTH)
    planes = 3 if shown.ref.dtype.kind in "fc" else 2
    if planes * (some.stop - some.start) * width * dtype.itemsize > MOST:
        raise Refused(413, "these are too many channels for so many pixels: choose fewer")
    found = _Window(shown, axis, window, some)
    count = window.stop - window.start
    exact = max(1, -(-count // width))
    first, stop, of, read, nbytes = window.start, window.stop, exact, exact, found.nbytes
    values = count
    missing: AnyArray | None = None
    if nbytes <= MOST:
        data = found.read(slice(window.start, window.stop))
        lowest, highest = (reduced(each, data, 0, of) for each in (np.fmin, np.fmax))
        missing = nan_counts(data, 0, of) if has_nan(data) else None
    elif bins := overviews.bins(shown, axis, window, _BINS):
        size, bin_, kept = bins
        first, stop = bin_ * size, min((bin_ + kept.shape[1]) * size, shape[axis])
        group = -(-kept.shape[1] // width)
        lowest = reduced(np.fmin, kept[0][:, some], 0, group)
        highest = reduced(np.fmax, kept[1][:, some], 0, group)
        if len(kept) > 2:
            counts = kept[2][:, some]
            missing = np.add.reduceat(counts, np.arange(0, len(counts), group), dtype="f8")
        of, read, nbytes, values = group * size, group * size, 0, stop - first
    else:
        of, read, turns = found.sampling(width)
        starts = np.arange(window.start, window.stop, of)
        points = starts[:, None] + np.arange(read)
        is_there = points < window.stop
        points = np.minimum(points, window.stop - 1)
        each_turn = [points[n::turns].ravel() for n in range(turns)]
        nbytes = sum(map(found.planned, each_turn))
        values = int(is_there.sum())
        lowest, highest, missing = np.zeros((3, len(starts), some.stop - some.start), dtype)
        for n, samples in enumerate(each_turn):
            data = found.read(samples)
            lowest[n::turns] = reduced(np.fmin, data, 0, read)
            highest[n::turns] = reduced(np.fmax, data, 0, read)
            if has_nan(data):
                is_nan = np.isnan(data).reshape(-1, read, data.shape[1])
                missing[n::turns] = (is_nan & is_there[n::turns, :, None]).sum(axis=1)
    nan = 0 if missing is None else int(missing.sum())
    header = {
        "start": first,
        "stop": stop,
        "width": len(lowest),
        "channels": [some.start, some.stop],
        "exact": read == of,
        "of": of,
        "read": read,
        "bytes": nbytes,
        "nan": nan,
        "values": values * (some.stop - some.start),
        "dtype": dtype.str,
    }
    sent = [lowest, highest, *([missing] if nan and missing is not None else [])]
    return binary(header, little_endian(np.stack([each.T.astype(dtype) for each in sent])))


def drawn_as(shown: Shown) -> np.dtype[Any]:
    """Return the floats in which values are drawn: they hold integers of up to 53 bits."""
    dtype = shown.ref.dtype
    if dtype.kind not in "biufc":
        raise Refused(400, f"{shown.title} has no numbers to draw, but {dtype}")
    itemsize = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    is_single = itemsize < 4 or (itemsize == 4 and dtype.kind in "fc")
    return np.dtype("<f4" if is_single else "<f8")


class _Window:
    """Samples of some channels from `window`, along an axis."""

    def __init__(self, shown: Shown, axis: int, window: slice, channels: slice) -> None:
        self._shown, self._axis, self._window, self._channels = shown, axis, window, channels
        self.nbytes = self.planned(window)

    def _index(self, samples: Any) -> tuple[Any, ...]:
        index: list[Any] = [slice(None)] * self._shown.ref.ndim
        if len(index) == 2:
            index[1 - self._axis] = self._channels
        index[self._axis] = samples
        return tuple(index)

    def planned(self, samples: Any) -> int:
        """Return how many bytes reading some samples takes."""
        return self._shown.planned(self._index(samples))

    def read(self, samples: Any) -> AnyArray:
        """Read some samples: as rows, channels as columns."""
        data = plain(self._shown.read(self._index(samples), "this window"))
        data = np.moveaxis(data, self._axis, 0)
        data = data.reshape(len(data), math.prod(data.shape[1:]))
        return data if self._shown.ref.ndim == 2 else data[:, self._channels]

    def sampling(self, width: int) -> tuple[int, int, int]:
        """
        Return of how many samples each pixel is, how many of these to read, and in how many turns.

        Stretches of a file with smaller gaps than `settings.merge_gap` would be read as one.
        """
        start, count = self._window.start, self._window.stop - self._window.start
        # What one more sample costs: of a few channels perhaps the whole row, as gaps are read.
        one, two = (self.planned(slice(start, start + n)) for n in (1, 2))
        row = max(1, two - one)
        stride = self._shown.header.strides[self._axis]
        samples = min(max(1, _SAMPLED // row), count)
        # Along the slowest axis of the file a stretch has all channels, along the innermost one.
        stretches = max(1, row // stride)
        apart = max(1, (count - samples) * stride // (settings.merge_gap + stride))
        pixels = max(1, min(width, samples, _TURNS * apart, _REQUESTS // stretches))
        of = -(-count // pixels)
        return of, max(1, min(of, samples // pixels)), -(-pixels // apart)
