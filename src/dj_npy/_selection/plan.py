"""
Plan which bytes of a file a selection needs, and scatter them into an array. Pure: no I/O.

The axes of a selection and its points, ordered by their stride in the file, are nested *levels*.
A level knows its extent, and whether it has a gap that is worth another request; from that follow
the *segments* in which it is read. Neighbouring segments are merged into *parts*, one read each.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dj_npy._format.npyfile import AnyArray, Header, bytes_view, stand_in
from dj_npy._selection.index import Offsets, Selection
from dj_npy._selection.parts import Limits, Part

Where = tuple[Any, ...]
MakeView = Callable[[AnyArray], AnyArray]
"""Returns a view of the memory of an array, and reads nothing of it."""

_EVERYTHING = slice(None)
_WINDOW = 4096


class Segment(NamedTuple):
    """A byte range of a file, and the elements of the result in it."""

    start: int
    nbytes: int
    where: Where
    """Index of these elements in the result, with axes in file order."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Strides of these elements in the bytes; 1 along the axis of the points."""
    points: tuple[int, Offsets] | None = None
    """Number of that axis, and positions of the points on it."""
    runs: Sequence[tuple[int, int]] = ()
    """Start and length of each run, if there are several."""

    def source(self, data: memoryview, offset: int, dtype: np.dtype[Any]) -> AnyArray:
        """Return these elements, from `data` at `offset`."""
        found: AnyArray = np.ndarray(self.shape, dtype, data, offset, self.strides)
        if self.points is None:
            return found
        axis, offsets = self.points
        index: Any = (*(_EVERYTHING,) * axis, offsets)
        picked: AnyArray = found[index]
        return picked


class Plan:
    """
    How to read a selection of an array from its file.

    Parameters
    ----------
    selection : Selection
        With at least one element.
    header : Header
        Header of the file.
    limits : Limits
        Limits of the store.
    view : callable, optional
        What is selected from: a view of the array in the file, such as its transpose.
    """

    def __init__(
        self, selection: Selection, header: Header, limits: Limits, view: MakeView | None = None
    ) -> None:
        self._limits = limits
        start, strides = header.offset + selection.field_offset, header.strides
        self.order = header.order
        """Memory order in which the result has the order of the file."""
        if view is not None:
            array = stand_in(header)
            viewed = view(array)
            start += viewed.ctypes.data - array.ctypes.data
            strides, self.order = viewed.strides, "F" if viewed.flags.fnc else "C"
        for number, taken in selection.ranges.items():
            start += min(taken[0] * strides[number], taken[-1] * strides[number])
        axes, points = _file_axes(selection, strides)
        taken_strides = [abs(strides[n]) for n in selection.points] or [0]
        outer = [axis for axis in axes if axis.stride_extent >= max(taken_strides)]
        inner = [axis for axis in axes if axis.stride_extent < min(taken_strides)]
        # Axes between two integer arrays in the file become part of the points.
        between = [axis for axis in axes if axis not in outer and axis not in inner]
        level: _Level = _Element(selection.dtype.itemsize)
        for axis in reversed(inner):
            level = _Axis(axis.length, axis.stride, level, limits)
        if points:
            offsets: Any = sum(strides[n] * at for n, at in selection.points.items())
            for axis in between:
                offsets = offsets[..., None] + axis.stride * np.arange(axis.length)
            first = int(offsets.min())
            level = _Points(offsets - first, level, limits)
            start += first
        for axis in reversed(outer):
            level = _Axis(axis.length, axis.stride, level, limits)
        self._start, self._level = start, level
        numbers = [axis.number for axis in outer], [axis.number for axis in between + inner]
        self._axes = (*numbers[0], *points, *numbers[1])
        backwards = {axis.number for axis in axes if axis.backwards}
        self._turns = tuple(slice(None, None, -1 if n in backwards else 1) for n in self._axes)

    @property
    def read_nbytes(self) -> int:
        """Bytes to read, without the gaps merged between segments of different levels."""
        return self._level.read_nbytes

    def parts(self, out: AnyArray) -> Iterator[Part]:
        """Yield the parts to read into `out`, the result, in file order."""
        turns: Any = (*self._turns, ...)
        target = out.transpose(self._axes)[turns]
        segments = self._level.segments(self._start, (), 0)
        for merged in _merge_segments(segments, self._limits):
            start = merged[0].start
            nbytes = merged[-1].start + merged[-1].nbytes - start
            runs = merged[0].runs
            region = _region(merged, target)
            if region is None:
                yield Part(start, nbytes, (), partial(_scatter, merged, target), runs)
            else:
                yield Part(start, nbytes, (bytes_view(region),))


def _merge_segments(segments: Iterable[Segment], limits: Limits) -> Iterator[list[Segment]]:
    """Merge neighbouring segments, at least one, into parts; a level merges only within itself."""
    part: list[Segment] = []
    for segment in segments:
        stop = segment.start + segment.nbytes
        if part and (
            segment.runs
            or part[-1].runs
            or segment.start - part[-1].start - part[-1].nbytes > limits.gap
            or stop - part[0].start > limits.part
        ):
            yield part
            part = []
        part.append(segment)
    yield part


def _region(segments: Sequence[Segment], target: AnyArray) -> AnyArray | None:
    """Return the view of `target` that has the same bytes as the file; None if there is none."""
    segment = segments[0]
    if len(segments) > 1 or segment.runs or not all(isinstance(n, slice) for n in segment.where):
        return None
    region = target[(*segment.where, ...)]
    same = region.nbytes == segment.nbytes and region.flags.c_contiguous
    return region if same else None


def _scatter(segments: Sequence[Segment], target: AnyArray, data: memoryview) -> None:
    for segment in segments:
        target[segment.where] = segment.source(
            data, segment.start - segments[0].start, target.dtype
        )


class _FileAxis(NamedTuple):
    """An axis of the result and its stride in the file."""

    number: int
    """Its number in the result."""
    length: int
    stride: int
    """Bytes from one step to the next, positive."""
    backwards: bool
    stride_extent: float
    """Stride of the array's axis in the file, by which axes are ordered: outermost first."""


def _file_axes(selection: Selection, strides: Sequence[int]) -> tuple[list[_FileAxis], list[int]]:
    """Return the axes of the result, outermost in the file first, and those of the points."""
    axes, points = [], []
    for number, (kind, n) in enumerate(selection.result):
        length = selection.shape[number]
        if kind == "points" and selection.points:
            points.append(number)
        elif length == 1:  # may be placed anywhere, as may those of 0-d masks
            axes.append(_FileAxis(number, 1, 0, False, math.inf))
        elif kind == "range":
            stride = selection.ranges[n].step * strides[n]
            axes.append(_FileAxis(number, length, abs(stride), stride < 0, abs(strides[n])))
        else:
            stride = math.prod(selection.shape[number + 1 :]) * selection.dtype.itemsize
            axes.append(_FileAxis(number, length, stride, False, stride))
    return sorted(axes, key=lambda axis: -axis.stride_extent), points


class _Level:
    """
    An axis of a selection, or its points, with all inner levels.

    `shape`, `strides` and `points` are those of a segment that covers all of it.
    """

    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    points: tuple[int, Offsets] | None = None
    contiguous: bool = True
    """Whether all its gaps are small enough to be read."""
    extent: int
    """Bytes from its start to its end."""
    read_nbytes: int
    """Bytes of its segments."""

    @property
    def everything(self) -> Where:
        """Index of the whole level in the result."""
        return ()

    def segments(self, start: int, where: Where, depth: int) -> Iterator[Segment]:
        """Yield its segments from byte `start`, inside `depth` outer levels."""
        raise NotImplementedError


class _Element(_Level):
    def __init__(self, itemsize: int) -> None:
        self.extent = self.read_nbytes = itemsize

    def segments(self, start: int, where: Where, depth: int) -> Iterator[Segment]:
        yield Segment(start, self.extent, where, (1,) * depth, (0,) * depth)


class _Axis(_Level):
    def __init__(self, length: int, stride: int, inner: _Level, limits: Limits) -> None:
        self.inner, self.length, self.stride, self.limits = inner, length, stride, limits
        self.extent = (length - 1) * stride + inner.extent
        self.contiguous = inner.contiguous and (length == 1 or stride - inner.extent <= limits.gap)
        self.read_nbytes = self.extent if self.contiguous else length * inner.read_nbytes
        self.shape, self.strides = (length, *inner.shape), (stride, *inner.strides)
        if inner.points is not None:
            self.points = inner.points[0] + 1, inner.points[1]
        self.at_once = 0
        """Steps per segment; 0 if one step does not fit in a segment."""
        if self.contiguous and inner.extent <= limits.part:
            self.at_once = (limits.part - inner.extent) // max(stride, 1) + 1

    @property
    def everything(self) -> Where:
        return (_EVERYTHING, *self.inner.everything)

    def segments(self, start: int, where: Where, depth: int) -> Iterator[Segment]:
        inner, at_once = self.inner, self.at_once
        # Where each step is its own run, one segment may combine several.
        apart = not at_once and inner.contiguous and inner.extent <= self.limits.part
        if apart:
            at_once = min(self.limits.runs, self.limits.part // inner.extent)
        for first in range(0, self.length, max(at_once, 1)):
            at = start + first * self.stride
            length = min(max(at_once, 1), self.length - first)
            steps = (*where, slice(first, first + length))
            if at_once < 2 and not self.at_once:
                yield from inner.segments(at, steps, depth + 1)
                continue
            yield Segment(
                at,
                length * inner.extent if apart else (length - 1) * self.stride + inner.extent,
                (*steps, *inner.everything),
                (*(1,) * depth, length, *inner.shape),
                (*(0,) * depth, inner.extent if apart else self.stride, *inner.strides),
                None if self.points is None else (depth + self.points[0], self.points[1]),
                [(at + n * self.stride, inner.extent) for n in range(length)] if apart else (),
            )


class _Points(_Level):
    """
    Offsets in any order, on any number of axes; they may repeat.

    Parameters
    ----------
    offsets : ndarray
        In bytes; the least is 0.
    """

    def __init__(self, offsets: Offsets, inner: _Level, limits: Limits) -> None:
        # There may be as many points as elements in the result, so keep few arrays.
        self.inner, self.limits = inner, limits
        self._shape, self._order, flat = offsets.shape, None, offsets.ravel()
        if (flat[1:] < flat[:-1]).any():
            self._order = np.argsort(flat, kind="stable")
            flat = flat[self._order]
        self.offsets, self.extent = flat, int(flat[-1]) + inner.extent
        self.fits = inner.contiguous and inner.extent <= limits.part
        # A run merges neighbours or, where one step does not fit in a part, is a single offset.
        breaks = np.flatnonzero(np.diff(flat) > (inner.extent + limits.gap if self.fits else 0))
        ends = np.append(breaks + 1, flat.size)
        self.contiguous = inner.contiguous and len(ends) == 1
        if self.fits:
            ends = _cut(flat, ends, limits.part - inner.extent)
        self.begins, self.ends = np.append(0, ends[:-1]), ends
        self.lengths = flat[ends - 1] - flat[self.begins] + inner.extent
        self.sums = np.cumsum(self.lengths)
        self.read_nbytes = int(self.sums[-1]) if self.fits else len(ends) * inner.read_nbytes
        self.shape, self.strides = (int(flat[-1]) + 1, *inner.shape), (1, *inner.strides)
        self.points = 0, flat

    @property
    def everything(self) -> Where:
        return (*self._numbers(0, self.offsets.size), *self.inner.everything)

    def segments(self, start: int, where: Where, depth: int) -> Iterator[Segment]:
        inner, first, window = self.inner, 0, range(0)
        while first < len(self.ends):
            if first not in window:  # convert a window of runs to Python integers, not all million
                window = range(first, min(first + _WINDOW, len(self.ends)))
                window_runs = slice(first, window.stop)
                begins, ends = self.begins[window_runs].tolist(), self.ends[window_runs].tolist()
                offsets, lengths = (
                    self.offsets[self.begins[window_runs]].tolist(),
                    self.lengths[window_runs].tolist(),
                )
            stop = min(self._end_of_part(first), window.stop)
            runs = slice(first - window.start, stop - window.start)
            offset, nbytes = offsets[runs.start], lengths[runs.start]
            points = slice(begins[runs.start], ends[runs.stop - 1])
            steps = (*where, *self._numbers(points.start, points.stop))
            places = self.offsets[points] - offset
            several: list[tuple[int, int]] = []
            if stop - first > 1:
                nbytes = sum(lengths[runs])
                places -= self._moves(first, stop)
                begin = map(start.__add__, offsets[runs])
                several = list(zip(begin, lengths[runs], strict=True))
            first = stop
            if not self.fits:
                yield from inner.segments(start + offset, steps, depth + 1)
                continue
            yield Segment(
                start + offset,
                nbytes,
                (*steps, *inner.everything),
                (*(1,) * depth, nbytes - inner.extent + 1, *inner.shape),
                (*(0,) * depth, *self.strides),
                (depth, places) if len(places) > 1 else None,
                several,
            )

    def _end_of_part(self, first: int) -> int:
        """Return the end of the runs that are read in one part, from `first` on."""
        stop = first + 1
        if self.fits and self.limits.runs > 1:
            room = self.sums[first] - self.lengths[first] + self.limits.part
            stop = min(int(self.sums.searchsorted(room, "right")), first + self.limits.runs)
        return stop

    def _numbers(self, first: int, stop: int) -> Where:
        """Return the index in the result of points given by their range in file order."""
        order = self._order
        numbers = np.arange(first, stop) if order is None else order[first:stop]
        axes = (numbers,) if len(self._shape) == 1 else np.unravel_index(numbers, self._shape)
        if stop - first > 1:
            return axes
        return tuple(slice(n := int(axis[0]), n + 1) for axis in axes)

    def _moves(self, first: int, stop: int) -> Offsets:
        """Return how far each point moves forward when these runs are joined without gaps."""
        runs = slice(first, stop)
        lengths = self.lengths[runs]
        gaps = self.offsets[self.begins[runs]] - self.offsets[self.begins[first]]
        gaps -= np.cumsum(lengths) - lengths
        return np.repeat(gaps, self.ends[runs] - self.begins[runs])


def _cut(offsets: Offsets, ends: Offsets, room: int) -> Offsets:
    """Split runs whose offsets are more than `room` apart."""
    cut = []
    first = 0
    for end in ends.tolist():
        while offsets[end - 1] - offsets[first] > room:
            first = int(offsets.searchsorted(offsets[first] + room, "right"))
            cut.append(first)
        first = end
    return np.sort(np.append(ends, np.array(cut, np.intp)))
