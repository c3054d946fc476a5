"""Dask arrays of references. Dask is imported on first use."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from numbers import Integral
from typing import Any

import numpy as np

from dj_npy._concurrency.threads import all_in_threads
from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._format.npyfile import AnyArray, empty
from dj_npy._lazy.source import Source, check_many
from dj_npy._selection.index import select
from dj_npy._selection.parts import contiguous_shape
from dj_npy._settings import nbytes_of, settings

Chunks = tuple[tuple[int, ...], ...]


def to_dask(refs: Iterable[Any], *, axis: int | None = None, chunks: Any = "auto") -> Any:
    """
    Return many stored arrays as one Dask array. No I/O.

    Each task reads its own ranges when it runs. A slice reads only what it needs.

    Parameters
    ----------
    refs : iterable of NpyRef
        In the order of the result. All of one dtype.
    axis : int, optional
        Axis along which they are concatenated; all other axes must have equal lengths.
        Default: they are stacked along a new first axis, and must have the same shape.
    chunks
        ``"auto"``: whole arrays, several together if they are small, or parts of one along the
        axis that varies slowest in its file, up to Dask's ``array.chunk-size`` (128 MiB). A size
        such as ``"64 MiB"``: the same, up to that size. Otherwise any `chunks` that Dask accepts
        for the shape of the result.

    Returns
    -------
    dask.array.Array
        Named by its sources, so the same rows have the same name in every process.

    Raises
    ------
    ArrayInvalidError
        If there are no references, an item is none (NULL is fetched as None), or shapes or dtypes
        do not match.
    StoreError
        If Dask is not installed.

    Examples
    --------
    >>> waveforms = dj_npy.to_dask(Recording.to_arrays("waveform"))
    >>> waveforms.shape
    (1, 1000, 32)
    >>> dj_npy.to_dask(Recording.to_arrays("waveform"), axis=0).shape
    (1000, 32)
    """
    joined = JoinedSources(_validated(refs), axis)
    return _from_array(joined, joined.chunks(chunks), inline=False)


def array_of(ref: Source, chunks: Any) -> Any:
    """Return one stored array as a Dask array; see :meth:`NpyRef.to_dask`."""
    part = SingleSource(ref)
    return _from_array(part, part.chunks(chunks), inline=True)


class SingleSource:
    """
    One reference for Dask to slice; reads each selection and keeps nothing.

    Parameters
    ----------
    ref : NpyRef
        The reference.
    """

    def __init__(self, ref: Source) -> None:
        self._ref = ref
        self.shape, self.dtype, self.ndim = ref.shape, ref.dtype, ref.ndim

    def __getitem__(self, index: Any) -> AnyArray:
        return self._ref.read(index)

    def __dask_tokenize__(self) -> Any:
        return self._ref.__dask_tokenize__()

    def chunks(self, chunks: Any) -> Chunks:
        """Return the lengths of the chunks along each axis."""
        if not isinstance(chunks, str):
            return _normalized(chunks, self)
        order, limit = _slowest_first([self._ref]), _chunk_limit(chunks)
        lengths = contiguous_shape(self.shape, self.dtype.itemsize, order, limit)
        return _normalized(lengths, self)


class JoinedSources:
    """
    Many references along one axis, for Dask to slice.

    Parameters
    ----------
    refs : sequence of NpyRef
        In order along the axis.
    axis : int or None
        See :func:`to_dask`.
    """

    def __init__(self, refs: Sequence[Source], axis: int | None) -> None:
        first = refs[0]
        self._refs, self.dtype = refs, first.dtype
        self._stacked = axis is None
        if axis is None:
            self._axis, lengths = 0, [1] * len(refs)
            others = first.shape
        else:
            if not isinstance(axis, Integral) or not -first.ndim <= axis < first.ndim:
                raise ArrayInvalidError(
                    f"axis must be None or one of the {first.ndim} axes of the arrays, not {axis!r}"
                )
            self._axis = int(axis) % first.ndim
            others = _without(first.shape, self._axis)
            lengths = [ref.shape[self._axis] if ref.ndim == first.ndim else 0 for ref in refs]
        for number, ref in enumerate(refs):
            shape = ref.shape if axis is None or not ref.ndim else _without(ref.shape, self._axis)
            fits = ref.ndim == first.ndim and shape == others
            if not fits or ref.dtype != first.dtype:
                raise _mismatch_error(number, ref, first, axis)
        self._bounds = [0, *accumulate(lengths)]
        self.shape = (*others[: self._axis], self._bounds[-1], *others[self._axis :])
        self.ndim = len(self.shape)

    def __dask_tokenize__(self) -> Any:
        return "dj_npy.to_dask", self._axis, [ref.__dask_tokenize__() for ref in self._refs]

    def chunks(self, chunks: Any) -> Chunks:
        """Return the lengths of the chunks along each axis."""
        if not isinstance(chunks, str):
            return _normalized(chunks, self)
        limit, axis = _chunk_limit(chunks), self._axis
        order = _slowest_first(self._refs)
        widths = [stop - start for start, stop in pairwise(self._bounds)]
        widest = max(widths)
        shape = (*self.shape[:axis], widest, *self.shape[axis + 1 :])
        if self._stacked:
            order = [0, *(n + 1 for n in order)]
        lengths = contiguous_shape(shape, self.dtype.itemsize, order, limit)
        if lengths[axis] < widest:
            width = lengths[axis]
            along = [min(width, n - at) for n in widths for at in range(0, n, width)]
        else:  # whole arrays, as many together as fit
            others = np.prod(_without(lengths, axis), dtype=object) * self.dtype.itemsize
            along = _merged_lengths(widths, limit // max(1, others))
        return _normalized((*lengths[:axis], tuple(along), *lengths[axis + 1 :]), self)

    def __getitem__(self, index: Any) -> AnyArray:
        index = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(n, Integral) or _forwards(n) for n in index):
            whole: AnyArray = self[(slice(None),) * self.ndim][index]  # Dask never does this
            return whole
        axis, refs, bounds = self._axis, self._refs, self._bounds
        index = (*index, *(slice(None),) * (self.ndim - len(index)))
        before, along, after = index[:axis], index[axis], index[axis + 1 :]

        def local_index(local: Any) -> Any:
            return (*before, *after) if self._stacked else (*before, local, *after)

        steps = range(self.shape[axis])[along]
        if not isinstance(steps, range):
            owner = bisect_right(bounds, steps) - 1
            return refs[owner].read(local_index(steps - bounds[owner]))
        shape = select(local_index(slice(0, 0)), refs[0].shape, self.dtype).shape
        place = sum(not isinstance(n, Integral) for n in before)
        rest = shape[place:] if self._stacked else shape[place + 1 :]
        order = "F" if _slowest_first(refs)[:1] != [0] and not self._stacked else "C"
        out: AnyArray = empty((*shape[:place], len(steps), *rest), self.dtype, order)
        everything = (slice(None),) * place

        def read(owner: int) -> bool:
            start, stop = bounds[owner], bounds[owner + 1]
            first, end = bisect_left(steps, start), bisect_left(steps, stop)
            if first < end:
                local = slice(steps[first] - start, steps[end - 1] - start + 1, steps.step)
                target: Any = first if self._stacked else slice(first, end)
                refs[owner].read(local_index(local), out=out[(*everything, target, ...)])
            return True

        if len(steps):
            owners = range(bisect_right(bounds, steps[0]) - 1, bisect_left(bounds, steps[-1] + 1))
            all_in_threads(read, owners, min(settings.max_workers, refs[owners[0]]._readers()))
        return out


def _forwards(index: Any) -> bool:
    return isinstance(index, slice) and (index.step is None or index.step > 0)


def _validated(refs: Iterable[Any]) -> list[Source]:
    check_many("dj_npy.to_dask", refs, "ref.to_dask()", rows=False)
    found = list(refs)
    for number, ref in enumerate(found):
        if ref is None:
            raise ArrayInvalidError(
                f"refs[{number}] is None, as the row has no array: leave such rows out, for "
                f"instance by a restriction `& 'waveform IS NOT NULL'`"
            )
        if not isinstance(ref, Source):
            raise ArrayInvalidError(
                f"refs[{number}] is no NpyRef, but {type(ref).__name__}: pass the references, "
                f"for instance query.to_arrays('waveform')"
            )
    if not found:
        raise ArrayInvalidError("there are no references, so nobody knows the shape of the result")
    return found


def _mismatch_error(number: int, ref: Source, first: Source, axis: int | None) -> ArrayInvalidError:
    if ref.dtype != first.dtype:
        return ArrayInvalidError(
            f"refs[{number}] has dtype {ref.dtype} (path {ref.path!r}), refs[0] has {first.dtype} "
            f"(path {first.path!r}): put ref.to_dask().astype(...) together with dask.array"
        )
    how = (
        "arrays that are stacked must have the same shape; to put them one after the other, say "
        "along which `axis`"
        if axis is None
        else f"arrays that are put one after the other along axis {axis} must agree in all others"
    )
    return ArrayInvalidError(
        f"refs[{number}] has shape {ref.shape} (path {ref.path!r}), refs[0] has {first.shape} "
        f"(path {first.path!r}): {how}"
    )


def _without(values: Sequence[Any], axis: int) -> tuple[Any, ...]:
    return (*values[:axis], *values[axis + 1 :])


def _slowest_first(refs: Sequence[Source]) -> list[int]:
    """Return the axes in file order, outermost first."""
    axes = list(range(refs[0].ndim))
    return axes[::-1] if all(ref._in_fortran_order() for ref in refs) else axes


def _merged_lengths(widths: Sequence[int], max_length: int) -> list[int]:
    """Merge neighbours into lengths of at most `max_length`, or a single one."""
    packed: list[int] = []
    for width in widths:
        if packed and packed[-1] + width <= max_length:
            packed[-1] += width
        else:
            packed.append(width)
    return packed


def _chunk_limit(size: str) -> int:
    if size == "auto":
        _import_dask()
        from dask import config

        size = config.get("array.chunk-size")
    return nbytes_of(size, "chunks", "'auto', a size such as '64 MiB', or what Dask takes")


def _normalized(chunks: Any, source: SingleSource | JoinedSources) -> Chunks:
    try:
        normal: Chunks = _import_dask().core.normalize_chunks(
            chunks, source.shape, dtype=source.dtype
        )
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ArrayInvalidError(
            f"chunks={chunks!r:.200} do not fit an array of shape {source.shape} and dtype "
            f"{source.dtype}: {error}"
        ) from None
    return normal


def _from_array(source: SingleSource | JoinedSources, chunks: Chunks, *, inline: bool) -> Any:
    from dask.base import tokenize

    return _import_dask().from_array(
        source,
        chunks=chunks,
        name=f"npy-{tokenize(source, chunks)}",
        inline_array=inline,
        meta=empty((0,) * source.ndim, source.dtype),
    )


def _import_dask() -> Any:
    """Import and return `dask.array`."""
    try:
        import dask.array
    except ImportError as error:
        raise StoreError(
            f"Dask arrays need the package {error.name!r}: pip install 'dj-npy[dask]'"
        ) from error
    return dask.array
