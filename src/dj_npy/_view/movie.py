"""Movies and stacks: frames, the value of a box over time, and projections."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dj_npy._format.npyfile import AnyArray
from dj_npy._view.answers import (
    Answer,
    Refused,
    as_json,
    axis_of,
    binary,
    finite,
    integer,
    kind_of_projection,
    little_endian,
    span,
)
from dj_npy._view.arrays import MOST, Index, Shown
from dj_npy._view.jobs import Job, Jobs, walk
from dj_npy._view.overview import plain
from dj_npy._view.trace import drawn_as

_FRAMES = 16 << 20
"""Most bytes of several frames in one answer."""
_LOOKED_AT = 1 << 18
"""Values of which percentiles are taken."""


class _Stack(NamedTuple):
    """A stack of images in an array: its axis, those of an image, and a place on the others."""

    shown: Shown
    axis: int
    image: tuple[int, int]
    others: dict[int, int]

    def part(self, frames: slice, rows: slice = slice(None), columns: slice = slice(None)) -> Index:
        """Return the index of a part of some frames."""
        given: dict[int, Any] = {**self.others, self.axis: frames}
        given |= dict(zip(self.image, (rows, columns), strict=True))
        return tuple(given[n] for n in range(self.shown.ref.ndim))

    def frames(self, data: AnyArray) -> AnyArray:
        """Return what such an index selects, or an array of it, with axes (frame, row, column)."""
        kept = sorted([self.axis, *self.image])
        return data.transpose([kept.index(n) for n in (self.axis, *self.image)])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        rows, columns = (self.shown.ref.shape[n] for n in self.image)
        return rows, columns


def frame(shown: Shown, params: Mapping[str, str]) -> Answer:
    """Return one image."""
    stack = _stack(shown, params)
    number, length = integer(params, "index", 0), shown.ref.shape[stack.axis]
    if number >= length:
        raise Refused(400, f"there is no frame {number}: axis {stack.axis} has {length}")
    data = shown.read(stack.part(slice(number, number + 1)), f"frame {number}")
    return image(stack.frames(data)[0], {"index": number})


def frames(shown: Shown, params: Mapping[str, str]) -> Answer:
    """Return several images, as many as fit in an answer."""
    stack = _stack(shown, params)
    each = max(1, math.prod(stack.shape) * shown.ref.itemsize)
    length = shown.ref.shape[stack.axis]
    some = span(f"{params.get('start', '')}:{params.get('stop', '')}", length, "start:stop")
    stop = min(some.stop, some.start + max(1, _FRAMES // each))
    data = shown.read(stack.part(slice(some.start, stop)), f"frames {some.start} to {stop}")
    return image(stack.frames(data), {"start": some.start, "stop": stop})


def image(data: AnyArray, header: dict[str, Any]) -> Answer:
    """Return images, and between what their values lie."""
    data = plain(data)
    if data.dtype.kind in "iu" and data.dtype.itemsize == 8:
        data, header["rounded"] = data.astype("f8"), True
    if data.dtype == np.float16:
        data = data.astype("f4")
    step = max(1, math.ceil(data.size / _LOOKED_AT))
    values = data.ravel()[::step] if data.size else np.zeros(1)
    known = values[np.isfinite(values)] if data.dtype.kind == "f" else values
    p1, p99 = np.percentile(known, [1, 99]) if known.size else (math.nan, math.nan)
    # Of all values, as a single bright pixel counts here.
    ends = (
        (np.fmin.reduce(data, axis=None), np.fmax.reduce(data, axis=None)) if data.size else (0, 0)
    )
    header |= {"shape": [*data.shape], "dtype": data.dtype.newbyteorder("<").str}
    header |= {"lowest": finite(ends[0]), "highest": finite(ends[1])}
    header |= {"p1": finite(p1), "p99": finite(p99)}
    return binary(header, little_endian(data))


def series(shown: Shown, params: Mapping[str, str]) -> Answer:
    """Return the mean of a pixel or box in each frame, or every so many if that is too much."""
    stack, dtype = _stack(shown, params), drawn_as(shown)
    texts = params.get("box", "").split(",")
    if len(texts) != 2:
        raise Refused(
            400, f"box is of the form 0:10,5:6 (rows, columns), not {params.get('box')!r}"
        )
    box = [span(*each, "box") for each in zip(texts, stack.shape, strict=True)]
    if any(each.start == each.stop for each in box):
        raise Refused(400, f"the box {params['box']} is empty, or outside of {stack.shape}")
    length, step = shown.ref.shape[stack.axis], 1
    while (nbytes := shown.planned(stack.part(slice(0, length, step), *box))) > MOST:
        if step >= length:
            break
        step *= 2
    data = plain(shown.read(stack.part(slice(0, length, step), *box), "this box"))
    means = stack.frames(data).mean(axis=(1, 2), dtype="f8").astype(dtype)
    header = {"shape": [len(means)], "step": step, "dtype": dtype.str, "bytes": nbytes}
    return binary(header, means)


def projection(shown: Shown, params: Mapping[str, str], jobs: Jobs) -> Answer:
    """Return the mean, maximum or deviation over all frames, or how much of it is done."""
    stack, dtype, kind = _stack(shown, params), drawn_as(shown), kind_of_projection(params)
    if math.prod(stack.shape) * 8 > MOST:
        raise Refused(413, f"the frames of {shown.title} are too large to be projected")
    if not shown.ref.shape[stack.axis]:
        raise Refused(400, f"{shown.title} has no frames")
    identity = shown.version or (shown.title,)
    key = "projection", kind, stack.axis, tuple(stack.others.items()), stack.image, identity
    job = jobs.ask(key) or jobs.start(key, lambda job: _project(stack, kind, job))
    if job.error is not None:
        jobs.forget(key)  # the next request tries again
        raise job.error
    if job.state != "complete":
        return as_json({"done": job.done}, 202)
    return image(job.result.astype(dtype), {"kind": kind})


def _project(stack: _Stack, kind: str, job: Job) -> AnyArray:
    shape = stack.shown.ref.shape
    ranges = [range(length) for length in shape]
    for axis, place in stack.others.items():
        ranges[axis] = range(place, place + 1)
    count: AnyArray = np.zeros(stack.shape, np.int64)
    found: AnyArray = np.full(stack.shape, np.nan if kind == "max" else 0.0)
    square: AnyArray = np.zeros(stack.shape)
    for box, data in walk(stack.shown, ranges, job):
        data = stack.frames(plain(data).squeeze(tuple(stack.others)))
        region = tuple(box[axis] for axis in stack.image)
        if kind == "max":
            np.fmax(found[region], np.fmax.reduce(data), out=found[region])
            continue
        # Merged as by Chan et al. (1979): sums of squares would cancel.
        before, here = count[region], len(data)
        mean = data.mean(axis=0, dtype="f8")
        delta, after = mean - found[region], before + here
        found[region] += delta * here / after
        if kind == "std":
            square[region] += np.square(data - mean).sum(axis=0) + delta**2 * before * here / after
        count[region] = after
    return np.sqrt(square / count) if kind == "std" else found


def _stack(shown: Shown, params: Mapping[str, str]) -> _Stack:
    """Return the stack that is meant: of the axes left open, the image has the longest two."""
    shape = shown.ref.shape
    drawn_as(shown)  # refuses what are no numbers
    axis = axis_of(params, max(1, len(shape)))
    others: dict[int, int] = {}
    for each in filter(None, params.get("other", "").split(",")):
        name, _, place = each.partition(":")
        number = axis_of({"axis": name}, len(shape))
        others[number] = integer({"other": place}, "other")
        if others[number] >= shape[number] or number == axis:
            raise Refused(400, f"other={each} is no place on another axis of {shape}")
    left = [n for n in range(len(shape)) if n != axis and n not in others]
    if len(left) < 2:
        raise Refused(400, f"{shown.title} has no images along axis {axis}: its shape is {shape}")
    rows, columns = sorted(sorted(left, key=lambda n: (-shape[n], -n))[:2])
    others |= {n: 0 for n in left if n not in (rows, columns)}
    return _Stack(shown, axis, (rows, columns), others)
