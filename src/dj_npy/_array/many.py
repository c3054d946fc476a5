"""Load or stream many arrays in parallel."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from dj_npy._array.arraylike import owned
from dj_npy._array.cache import array_cache, loaded_array
from dj_npy._array.file import Slab, read_together
from dj_npy._array.ref import NpyRef
from dj_npy._concurrency.pipeline import Pipeline, Task, WorkItem
from dj_npy._concurrency.progress import Progress
from dj_npy._errors import ArrayInvalidError, NpyError
from dj_npy._format.npyfile import AnyArray
from dj_npy._lazy.source import check_many
from dj_npy._settings import nbytes_of, thread_count
from dj_npy._stores import Store
from dj_npy._stores.remote import BUFFERED
from dj_npy._text import kind_of

_PROCESSORS = os.cpu_count() or 1
_MAX_GROUP_NBYTES = 4 << 20
"""Most bytes of small arrays in one work item."""


def load(
    refs: Iterable[Any], *attributes: str, max_workers: int | None = None, progress: bool = False
) -> list[Any]:
    """
    Load many arrays in parallel.

    Parameters
    ----------
    refs : iterable
        References of any stores, or rows with references in them: dicts, records, or a query or
        table, whose rows are fetched. A reference may be repeated, loaded already, or None.
    attributes : str
        The attributes of rows that are to be loaded. Default: all that are references.
    max_workers : int, optional
        Threads. Default: as many as the distance of the store asks for, and
        ``dj_npy.settings.max_workers`` at most.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list
        The result of :meth:`NpyRef.load` for each reference, read-only, in the order of `refs`;
        None for None; for a row, a dict with arrays instead of references.

    Raises
    ------
    ArrayMissingError, ArrayCorruptError, StoreError
        For the first array that cannot be loaded. Nothing more is started then.
    ArrayInvalidError
        If `refs` is a single reference, row or array, an item is no reference, None or row, or
        `max_workers` is no number of threads.

    Examples
    --------
    >>> arrays = dj_npy.load(Recording.to_arrays("waveform"))
    >>> rows = dj_npy.load(Recording.to_dicts())
    """
    _check_call("dj_npy.load", refs, "ref.load()", attributes)
    refs, workers = list(refs), thread_count(max_workers)
    work_items = _work_items(refs, attributes, keep=True)
    pipeline = Pipeline(work_items, workers, math.inf, patient=True, adapt=max_workers is None)
    found: list[Any] = []
    with Progress("load", _total(refs, attributes) if progress else None) as bar:
        try:
            for work_item in pipeline:
                found += _arrays(work_item, attributes, bar)
        finally:
            pipeline.close()
    return found


class Stream(Iterator[Any]):
    """
    The iterator that :func:`stream` returns.

    Parameters
    ----------
    pipeline : Pipeline
        Reads the arrays.
    attributes : sequence of str
        Attributes of rows to load.
    bar : Progress
        The progress bar.
    """

    def __init__(self, pipeline: Pipeline, attributes: Sequence[str], bar: Progress) -> None:
        self._pipeline, self._attributes, self._bar = pipeline, attributes, bar

    def __next__(self) -> Any:
        try:
            return _arrays(next(self._pipeline), self._attributes, self._bar)[0]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop reading ahead."""
        self._pipeline.close()
        self._bar.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stream(
    refs: Iterable[Any],
    *attributes: str,
    max_bytes: int | str = "1 GiB",
    max_workers: int | None = None,
    progress: bool = False,
) -> Stream:
    """
    Iterate over many arrays, reading the next ones while the caller uses the current one.

    The arrays are writable copies owned by the caller; none is kept in memory. The loop may be
    left early; to stop reading at once, call ``close()`` or use it as a context manager.

    Parameters
    ----------
    refs : iterable
        References, or rows with references in them, as for :func:`load`. It is iterated in the
        caller's thread.
    attributes : str
        The attributes of rows that are to be loaded. Default: all that are references.
    max_bytes : int or str
        Memory for arrays read ahead, including buffers, with or without a unit. A single array
        may be larger.
    max_workers : int, optional
        Threads. Default: as many as the distance of the store asks for, and
        ``dj_npy.settings.max_workers`` at most.
    progress : bool
        Show a progress bar.

    Returns
    -------
    iterator
        The arrays in order; None for None; for a row, a dict with arrays instead of references.

    Raises
    ------
    ArrayMissingError, ArrayCorruptError, StoreError
        In place of an array that cannot be loaded.
    ArrayInvalidError
        If `refs` is a single reference, row or array, an item is no reference, None or row, or
        `max_bytes` or `max_workers` is invalid.

    Examples
    --------
    >>> for row in dj_npy.stream(Recording.to_dicts(), "waveform"):
    ...     _ = row["recording_id"], row["waveform"].mean()
    """
    _check_call("dj_npy.stream", refs, "ref.blocks()", attributes)
    max_nbytes = nbytes_of(max_bytes, "max_bytes", "a size such as 1000000 or '1 GiB'")
    workers = thread_count(max_workers)
    # The total is known only if `refs` can be iterated twice.
    total = _total(refs, attributes) if progress and isinstance(refs, (list, tuple)) else (0, 0)
    work_items = _work_items(refs, attributes, keep=False)
    bar = Progress("read", total if progress else None)
    pipeline = Pipeline(work_items, workers, max_nbytes, adapt=max_workers is None)
    return Stream(pipeline, attributes, bar)


def _check_call(call: str, refs: Any, one: str, attributes: Sequence[Any]) -> None:
    """Reject what is not many references, and attributes that are no names."""
    check_many(call, refs, one, rows=True)
    for name in attributes:
        if not isinstance(name, str):
            raise ArrayInvalidError(
                f"after its references, {call} takes names of attributes, not {kind_of(name)}; "
                f"other arguments by name: {call}(refs, max_workers=8)"
            )


def _work_items(
    items: Iterable[Any], attributes: Sequence[str], *, keep: bool
) -> Iterator[WorkItem]:
    """Yield work items that load arrays into the cache, or without `keep` read one each."""
    slab, group = Slab(), _Group()
    for item in map(_row, items):
        refs = _refs(item, attributes)
        if not group.try_add(item, refs):
            yield group.work_item(slab, keep)
            group = _Group()
            group.try_add(item, refs)
        if group.is_full or not keep:
            yield group.work_item(slab, keep)
            group = _Group()
    if group.items:
        yield group.work_item(slab, keep)


class _Group:
    """Items that are read by one work item: those of one store, small ones together."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._refs: list[NpyRef] = []
        self._store: Store | None = None
        self._nbytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it accepts no more items."""
        return len(self.items) >= (1 if self._store is None else self._store.together)

    def try_add(self, item: Any, refs: Sequence[NpyRef]) -> bool:
        """Add an item if it fits; return whether it did."""
        nbytes, first, mixed = self._nbytes, self._store, False
        for number, ref in enumerate(refs, len(self._refs)):
            store, size = ref._store_and_nbytes()
            first = first if number else store
            mixed = mixed or store is not first
            nbytes += size
        if self.items and (mixed or nbytes > _MAX_GROUP_NBYTES):
            return False
        self.items.append(item)
        self._refs.extend(refs)
        self._nbytes, self._store = nbytes, None if mixed else first
        return True

    def work_item(self, slab: Slab, keep: bool) -> WorkItem:
        """Return the work item that reads the group."""
        store, several = self._store, len(self.items) > 1
        if store is not None and several:
            tasks = [Task(partial(_load_together, self._refs, store, slab))]
        else:
            read = _load_one if keep else _read_one
            tasks = [Task(partial(read, ref, slab)) for ref in self._refs]

        def workers() -> int:
            # A large array is itself read by several threads.
            is_small = self._nbytes <= _MAX_GROUP_NBYTES
            return store.workers if store is not None and is_small else Store.workers

        if store is not None and store.is_local and not store.is_far:
            threads, nbytes = 0 if several else _PROCESSORS, self._nbytes
            is_first = not store.pace.is_known  # it tells how the others are read
            return WorkItem(
                self.items, tasks, nbytes, threads=threads, workers=workers, barrier=is_first
            )
        in_flight = min(self._nbytes, BUFFERED * len(self._refs))
        return WorkItem(self.items, tasks, self._nbytes + in_flight, workers=workers)


def _row(item: Any) -> Any:
    """Return a record, as `to_arrays` makes them of whole rows, as a dict."""
    if isinstance(item, np.void) and item.dtype.names:
        return {name: item[name] for name in item.dtype.names}
    return item


def _refs(item: Any, attributes: Sequence[str]) -> Sequence[NpyRef]:
    """Return the references of an item to load."""
    if isinstance(item, NpyRef):
        return (item,)
    if item is None:
        return ()
    if not isinstance(item, Mapping):
        raise ArrayInvalidError(
            f"expected an NpyRef, None, or a row as a dict, not {kind_of(item)}"
        )
    for name in attributes:
        if name not in item:
            raise ArrayInvalidError(
                f"a row has no attribute {name!r}; it has {', '.join(map(str, item))}"
            )
        if not isinstance(item[name], NpyRef | None):
            raise ArrayInvalidError(
                f"the attribute {name!r} of a row is no NpyRef, but {kind_of(item[name])}"
            )
    values = [item[name] for name in attributes] if attributes else list(item.values())
    return [value for value in values if isinstance(value, NpyRef)]


def _arrays(work_item: WorkItem, attributes: Sequence[str], bar: Progress) -> list[Any]:
    """Return the items of a work item with arrays instead of references."""
    arrays = list(chain.from_iterable(task.result() for task in work_item.tasks))
    for array in arrays:
        bar.add(array.nbytes)
    if all(type(item) is NpyRef for item in work_item.item):
        return arrays
    following = iter(arrays)

    def filled(item: Any) -> Any:
        if not isinstance(item, Mapping):
            return item if item is None else next(following)
        names = attributes or item
        found = {name: next(following) for name in names if isinstance(item[name], NpyRef)}
        return {**item, **found}

    return [filled(item) for item in work_item.item]


def _total(items: Iterable[Any], attributes: Sequence[str]) -> tuple[int, int]:
    """Count the files and the bytes of their arrays."""
    files = nbytes = 0
    for item in map(_row, items):
        for ref in _refs(item, attributes):
            files += 1
            with suppress(NpyError):
                nbytes += ref.nbytes
    return files, nbytes


def _load_together(refs: Sequence[NpyRef], store: Store, slab: Slab) -> list[AnyArray]:
    """Load small arrays from one store together."""

    def read(some: Sequence[NpyRef]) -> Sequence[AnyArray | None]:
        return read_together(store, [ref._metadata for ref in some], slab)

    return [
        array_cache.get(ref, ref._read) if array is None else array
        for ref, array in zip(refs, array_cache.get_together(refs, read), strict=True)
    ]


def _load_one(ref: NpyRef, slab: Slab) -> list[AnyArray]:
    """Load one array."""
    return [array_cache.get(ref, partial(ref._read, slab))]


def _read_one(ref: NpyRef, slab: Slab) -> list[AnyArray]:
    """Read one array into memory owned by the caller, without caching."""
    array = loaded_array(ref)
    return [ref._read(slab) if array is None else owned(array[...])]
