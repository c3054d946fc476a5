"""
Overviews of recordings, kept on disk.

The lowest and the highest value of each channel in bins of 2^k samples, and of floats how many are
NaN: a window of any length is drawn from them, and not one sample is missed.
"""

import math
from contextlib import suppress
from typing import Any

import numpy as np

from dj_npy._errors import StoreError
from dj_npy._format.npyfile import AnyArray, bytes_view
from dj_npy._stores import filecache
from dj_npy._view.answers import Refused
from dj_npy._view.arrays import Shown
from dj_npy._view.jobs import Job, Jobs, Key, walk

_LARGEST = 32 << 20
"""Most bytes of an overview."""
_FEW = 32
_FINEST = 64
"""Samples of its smallest bins."""


class Overviews:
    """
    Computes and finds overviews.

    Parameters
    ----------
    jobs : Jobs
        Where they are computed.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def state(self, shown: Shown, axis: int) -> dict[str, Any]:
        """Return how far the overview along an axis is."""
        return self._told(shown, axis, self._jobs.ask(_key(shown, axis)))

    def start(self, shown: Shown, axis: int) -> dict[str, Any]:
        """Begin to compute it, unless it is there."""
        job = None
        if _kept(shown, axis) is None:
            job = self._jobs.start(_key(shown, axis), lambda job: _compute(shown, axis, job))
        return self._told(shown, axis, job)

    def bins(
        self, shown: Shown, axis: int, window: slice, least: int
    ) -> tuple[int, int, AnyArray] | None:
        """
        Return the bins of a window, if there are at least so many and the overview is complete.

        They are the samples of a bin, the number of the first bin, and lowest and highest values,
        and of floats the number of NaN, each with bins as rows and channels as columns.
        """
        try:
            size = _layout(shown, axis)[0]
        except Refused:
            return None
        first, last = window.start // size, -(-window.stop // size)
        if last - first < least:
            return None
        job = self._jobs.ask(_key(shown, axis))
        found = _kept(shown, axis)
        if found is None and job is not None:
            found = job.result
        return None if found is None else (size, first, found[:, first:last])

    def _told(self, shown: Shown, axis: int, job: Job | None) -> dict[str, Any]:
        if job is not None and job.error is not None:
            raise job.error
        if job is not None and job.state == "running":
            return {"state": "running", "done": job.done, "error": None}
        is_there = (job is not None and job.result is not None) or _kept(shown, axis) is not None
        return {"state": "complete" if is_there else "absent", "done": int(is_there), "error": None}


def _key(shown: Shown, axis: int) -> Key:
    return "overview", axis, shown.version or (shown.title,)


def _layout(shown: Shown, axis: int) -> tuple[int, tuple[int, int, int], np.dtype[Any]]:
    """Return the samples of a bin, and the shape (2 or 3, bins, channels) and dtype."""
    ref = shown.ref
    sample = np.zeros((), ref.dtype)
    dtype = plain(sample).dtype
    if dtype == np.float16:
        dtype = np.dtype(np.float32)  # half of them cannot count the NaN of a bin
    length = ref.shape[axis]
    kinds, channels = 3 if dtype.kind == "f" else 2, ref.size // max(1, length)
    each = kinds * dtype.itemsize * channels
    size = _FINEST
    while -(-length // size) * each > _LARGEST:
        if size > length:
            raise Refused(413, f"{shown.title} has too many channels for an overview")
        size *= 2
    return size, (kinds, -(-length // size), channels), dtype


def _name(shown: Shown, axis: int) -> tuple[str, ...]:
    return ("dj-npy overview 2", *shown.version, str(axis))


def _kept(shown: Shown, axis: int) -> AnyArray | None:
    """Return the overview in the file cache."""
    _, shape, dtype = _layout(shown, axis)
    nbytes = dtype.itemsize * math.prod(shape)
    with suppress(StoreError):  # no folder for it
        file = filecache.find_copy(_name(shown, axis), nbytes) if shown.version and nbytes else None
        if file is not None:
            with file:
                return np.memmap(file, dtype, "r", 0, shape)
    return None


def _compute(shown: Shown, axis: int, job: Job) -> AnyArray | None:
    """Return an overview that could not be kept; read all of the array for it."""
    ref, (size, shape, dtype) = shown.ref, _layout(shown, axis)
    others = ref.shape[:axis] + ref.shape[axis + 1 :]
    found: AnyArray = np.zeros((*shape[:2], *others), dtype)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else None
    found[0] = np.nan if limits is None else limits.max
    found[1] = np.nan if limits is None else limits.min
    for box, data in walk(shown, [range(length) for length in ref.shape], job):
        data = np.moveaxis(plain(data), axis, 0)
        start, stop = box[axis].start // size, -(-box[axis].stop // size)
        place = (slice(start, stop), *box[:axis], *box[axis + 1 :])
        for ufunc, out in ((np.fmin, found[0]), (np.fmax, found[1])):
            ufunc(out[place], reduced(ufunc, data, box[axis].start, size), out=out[place])
        if has_nan(data):
            found[2][place] += nan_counts(data, box[axis].start, size)
    if not shown.version or not found.nbytes:
        return found.reshape(shape)
    try:
        contents = bytes_view(found)
        filecache.open_copy(
            _name(shown, axis), found.nbytes, lambda file: filecache.write_at(file, 0, contents), ""
        ).close()
    except StoreError:  # no folder for it, or a full disk
        return found.reshape(shape)
    return None


def has_nan(data: AnyArray) -> bool:
    """Return whether any value is NaN."""
    # Of minimum, unlike fmin, the result is NaN then: no array of as many booleans is made.
    has_values = data.dtype.kind == "f" and data.size > 0
    return has_values and bool(np.isnan(np.minimum.reduce(data, axis=None)))


def nan_counts(data: AnyArray, start: int, size: int) -> AnyArray:
    """Return how many values of each bin are NaN; the bins are those of `reduced`."""
    is_first = (np.arange(len(data)) + start) % size == 0
    is_first[:1] = True
    return np.add.reduceat(np.isnan(data), np.flatnonzero(is_first), axis=0, dtype=np.int64)


def reduced(ufunc: Any, data: AnyArray, start: int, size: int) -> AnyArray:
    """
    Reduce the first axis of an array to bins of `size` samples.

    Parameters
    ----------
    ufunc : numpy.ufunc
        Of which it does not matter if a value comes twice, as of `numpy.fmin`.
    data : ndarray
        Samples from number `start` on, of those of which bin 0 begins with number 0.
    start, size : int
        Samples.
    """
    head = min(-start % size, len(data))
    whole = (len(data) - head) // size
    middle = head + whole * size
    found = []
    if head:
        found.append(_folded(ufunc, data[None, :head]))
    if whole:
        found.append(_folded(ufunc, data[head:middle].reshape(whole, size, *data.shape[1:])))
    if middle < len(data):
        found.append(_folded(ufunc, data[None, middle:]))
    return np.concatenate(found) if found else data[:0]


def _folded(ufunc: Any, data: AnyArray) -> AnyArray:
    """Reduce the second axis."""
    # Of a few columns, NumPy makes a loop each: five times slower than halves over one another.
    is_slow = data.flags.c_contiguous and 1 < math.prod(data.shape[2:]) < _FEW
    while is_slow and data.shape[1] > 1:
        half = (data.shape[1] + 1) // 2
        data = ufunc(data[:, :half], data[:, -half:])
    return ufunc.reduce(data, axis=1)  # type: ignore[no-any-return]


def plain(data: AnyArray) -> AnyArray:
    """Return numbers as this machine has them; of complex ones the absolute value."""
    if data.dtype.kind == "c":
        data = np.abs(data)
    if data.dtype.kind == "b":
        return data.view(np.uint8)
    native = data.dtype.newbyteorder("=")
    return data.astype("f8" if native.itemsize > 8 else native, copy=False)
