"""`NpyRef`, the lazy reference to a stored array that a fetch returns."""

import json
import math
import weakref
from collections.abc import Iterator
from typing import Any

import datajoint as dj
import numpy as np

from dj_npy._array.arraylike import materialized, owned
from dj_npy._array.cache import array_cache, loaded_array
from dj_npy._array.file import ArrayFile, MapMode, Slab, Verified
from dj_npy._array.html import reference_html
from dj_npy._array.openfiles import KeptOpen
from dj_npy._array.views import PartialArray
from dj_npy._concurrency.threads import side_by_side
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._format.npyfile import AnyArray, Header, stand_in
from dj_npy._lazy.arrays import LazyArrays
from dj_npy._selection.index import Selection, select
from dj_npy._selection.plan import MakeView
from dj_npy._settings import nbytes_of, settings
from dj_npy._stores import Store, StoreConfig, describe, open_store
from dj_npy._text import kind_of, short_repr

_MAX_AHEAD = 16
"""Most blocks that are read ahead."""
_MAP_MODES: tuple[MapMode, ...] = ("r", "r+", "c")


class NpyRef(PartialArray, LazyArrays, dj.NpyRef):
    """
    Lazy reference to an array in a ``.npy`` file.

    The metadata (`shape`, `dtype`, `path` ...) come from the row, without I/O. The data are
    loaded on first use and then kept: as long as somebody uses them, and beyond that in an LRU
    cache of up to ``dj_npy.settings.memory`` bytes.

    NumPy accepts a reference as an array: in operators, ufuncs and functions, and with
    indexing, iteration and the methods of `ndarray` that do not modify it. It compares
    elementwise, like an array, and is hashed by identity. Shared data (from `load`,
    ``np.asarray`` and methods that return a view) are read-only; the results of indexing,
    iterating, reading and copying are owned by the caller, whether or not the array is loaded.

    It pickles without data and without secrets: the process that unpickles it needs the store's
    credentials in its own configuration.

    References are fetched from a table; do not construct them.

    Examples
    --------
    With ``ref = (Recording & "recording_id=1").fetch1("waveform")``:

    >>> ref
    NpyRef(shape=(1000, 32), dtype=float64, not loaded)
    >>> ref.mean(axis=0).shape
    (32,)
    >>> ref
    NpyRef(shape=(1000, 32), dtype=float64, loaded)
    """

    __slots__ = (
        "__weakref__",
        "_config",
        "_header",
        "_kept_open",
        "_loaded",
        "_row",
        "_view_ref",
    )

    _loaded: AnyArray | weakref.ref[AnyArray] | None
    _view_ref: weakref.ref[AnyArray] | None

    def __init__(self, metadata: Any, config: StoreConfig) -> None:
        # JSON, or its text, which is parsed on first use: most never are.
        self._row: Any = metadata
        self._config = config
        self._loaded = self._view_ref = None
        # Kept after reading a part: first the header, then the open file.
        self._header: tuple[Header, bytes] | None = None
        self._kept_open: KeptOpen | None = None

    @property
    def _metadata(self) -> ArrayMetadata:
        row = self._row
        if not isinstance(row, ArrayMetadata):
            row = self._row = ArrayMetadata.of(row)
        return row

    @property
    def _raw(self) -> Any:
        return self._metadata.json

    @property
    def path(self) -> str:
        """Path of the file, relative to its store."""
        return self._metadata.path

    @property
    def store(self) -> str | None:
        """Name of the store; None for the default one, in rows of DataJoint's own codec."""
        return self._metadata.store

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self._metadata.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        return self._metadata.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._metadata.nbytes

    @property
    def is_loaded(self) -> bool:
        """Whether the data are in memory."""
        return loaded_array(self) is not None

    def load(self, mmap_mode: str | None = None) -> AnyArray:
        """
        Return the whole array.

        Parameters
        ----------
        mmap_mode : str, optional
            Default: read the data into memory once, and return the same read-only array until
            :meth:`unload`. For a writable array use ``np.array(ref)``, or :meth:`read`, which
            keeps nothing in memory. Otherwise memory-map the file, or a private copy of a remote
            one, which is read where and when it is accessed: ``'r'`` read-only, ``'c'`` with
            changes in memory only, ``'r+'`` with changes written to the file: at once in a local
            store; in a remote one on ``flush()``, and at the latest when the map is
            garbage-collected. If the file was changed there meanwhile, that raises `StoreError`
            (logged if it cannot be raised), and the copy is kept.

        Returns
        -------
        ndarray
            With the row's shape and dtype and the file's memory order, read-only; a
            `numpy.memmap` if mapped.

        Raises
        ------
        ArrayMissingError, ArrayCorruptError, StoreError
            If the file is missing, does not match the row, or cannot be read.
        ArrayInvalidError
            If `mmap_mode` is none of these.

        Examples
        --------
        >>> ref.load() is ref.load()
        True
        >>> ref.load().flags.writeable, np.array(ref).flags.writeable
        (False, True)
        >>> ref.load(mmap_mode="r")[100:200].shape
        (100, 32)
        """
        if mmap_mode is None:
            return array_cache.get(self, self._read)
        if not isinstance(mmap_mode, str) or mmap_mode not in _MAP_MODES:
            raise ArrayInvalidError(
                f"mmap_mode is None, 'r', 'r+' or 'c', not {kind_of(mmap_mode)}"
            )
        mapped = self._file().map(mmap_mode)
        if mmap_mode == "r+":
            self.unload()  # the loaded array will differ from the file
        return mapped

    def read(self, selection: Any = ..., *, out: AnyArray | None = None) -> AnyArray:
        """
        Read a part of the array, or all of it, into memory owned by the caller.

        Nothing is kept in memory, and in a loop with the same `out` nothing is allocated.

        Parameters
        ----------
        selection
            Any index that NumPy accepts; default everything.
        out : ndarray, optional
            Array for the data: writable, with the shape and dtype of the selection. If reading
            fails, it may be partly overwritten.

        Returns
        -------
        ndarray
            `out`, or a new array that owns its memory.

        Raises
        ------
        ArrayInvalidError
            If `out` does not fit; it is not modified.

        Examples
        --------
        >>> out = np.empty((10, 32))
        >>> ref.read(np.s_[100:110], out=out) is out
        True
        """
        if out is not None and (
            not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray)
        ):
            raise ArrayInvalidError(f"out must be a numpy.ndarray, not {type(out).__name__}")
        array = loaded_array(self)
        if array is not None:
            part = np.asanyarray(array[selection])
            if out is None:
                return owned(part)  # type: ignore[no-any-return]
            self._check_out(out, part.shape, part.dtype)
            np.copyto(out, part)
            return out
        selected = select(selection, self.shape, self.dtype)
        if out is not None:
            self._check_out(out, selected.shape, selected.dtype)
        elif selection is ... or (isinstance(selection, tuple) and not selection):
            return self._file().read()
        part = self._read_part(selected, None if out is None else out.view(np.ndarray), math.inf)
        assert part is not None
        return part if out is None else out

    def blocks(self, nbytes: int | str = "64 MiB") -> Iterator[AnyArray]:
        """
        Iterate over blocks along the first axis, reading the next while the current one is used.

        Parameters
        ----------
        nbytes : int or str
            Largest size of a block, with or without a unit; at least one row. Memory use is
            twice that, plus the blocks that the caller keeps. From a store at a distance, blocks
            of up to 96 MiB together are read ahead.

        Yields
        ------
        ndarray
            Consecutive rows, which own their memory.

        Raises
        ------
        ArrayInvalidError
            If `nbytes` is not a positive size.
        TypeError
            If the array is 0-d.

        Examples
        --------
        >>> [block.shape for block in ref.blocks("100 kB")]
        [(390, 32), (390, 32), (220, 32)]
        """
        max_nbytes = nbytes_of(nbytes, "nbytes", "a size such as 1000000 or '64 MiB'")
        rows = len(self)
        block_rows = max(1, max_nbytes // max(1, self.nbytes // max(1, rows)))
        slices = (slice(first, first + block_rows) for first in range(0, rows, block_rows))
        row_nbytes = self.nbytes // max(1, rows)
        return side_by_side(
            self._read_block,
            slices,
            _MAX_AHEAD,
            lambda: self._blocks_ahead(block_rows * row_nbytes),
        )

    def unload(self) -> None:
        """
        Drop the data from memory; the next use loads them again.

        Examples
        --------
        >>> _ = ref.load()
        >>> ref.unload()
        >>> ref.is_loaded
        False
        """
        array_cache.drop(self)
        if self._kept_open is not None:
            self._kept_open.close()
            self._kept_open = None

    def verify(self) -> Verified:
        """
        Read the whole file and check it against the row, by its checksum if the row has one.

        Returns
        -------
        str
            ``"as inserted"``; ``"changed since insert"`` if it was changed through
            ``mmap_mode="r+"``; ``"no checksum"`` if size, shape and dtype are right, but the
            row, of DataJoint's own codec, has no checksum.

        Raises
        ------
        ArrayMissingError, ArrayCorruptError, StoreError
            If the file is missing, has another size, shape, dtype or checksum than the row
            says, or cannot be read.

        Examples
        --------
        >>> ref.verify()
        'as inserted'
        """
        return self._file().verify()

    def __repr__(self) -> str:
        loaded = "loaded" if self.is_loaded else "not loaded"
        try:
            return f"NpyRef(shape={self.shape}, dtype={self.dtype}, {loaded})"
        except ArrayCorruptError:
            return f"NpyRef(invalid row {short_repr(self._raw):.80})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return reference_html(self._metadata, loaded_array(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return NpyRef, (self._raw, describe(self._config, self.store))

    def __copy__(self) -> "NpyRef":
        # Copying through a pickle would lose the secrets.
        return NpyRef(self._raw, self._config)

    def __deepcopy__(self, _: Any) -> "NpyRef":
        return self.__copy__()

    def __dask_tokenize__(self) -> Any:
        row = json.dumps(self._raw, sort_keys=True, default=repr)
        return "dj_npy.NpyRef", describe(self._config, self.store).identity, row

    def __getitem__(self, index: Any) -> Any:
        """Return the selection of `index` as a copy; read only what it needs."""
        if type(index) is slice and self._kept_open is not None and self._loaded is None:
            rows = self._kept_open.rows(index)
            if rows is not None:
                return rows
        array = loaded_array(self)
        return super().__getitem__(index) if array is None else owned(array[materialized(index)])

    def _read_selected(self, selected: Selection, view: MakeView | None = None) -> Any:
        is_small = self.nbytes <= settings.load_below
        if self.is_loaded or (is_small and selected.nbytes):
            return None
        kept = self.nbytes <= settings.memory
        max_nbytes = settings.load_share * self.nbytes if kept else math.inf
        part = self._read_part(selected, None, max_nbytes, view)
        return part[()] if part is not None and selected.is_scalar else part

    def _rows(self) -> Iterator[Any]:
        if self.nbytes <= settings.load_below:
            self.load()
        for block in self.blocks():
            yield from map(owned, block)

    def _read_block(self, rows: slice) -> AnyArray:
        if not self.is_loaded and self.nbytes <= settings.memory:
            selected = select(rows, self.shape, self.dtype)
            # In Fortran order, each block might need most of the file to be read.
            part = self._read_part(selected, None, 2 * selected.nbytes)
            if part is not None:
                return part
            self.load()
        return self.read(rows)

    def _blocks_ahead(self, nbytes: int) -> int:
        if self.is_loaded:
            return 1
        return max(1, open_store(self._config, self.store).read_ahead // max(1, nbytes))

    def _array(self) -> AnyArray:
        return self.load()

    def _read(self, slab: Slab | None = None) -> AnyArray:
        return self._file().read(slab)

    def _store_and_nbytes(self) -> tuple[Store | None, int]:
        """Return store and size of the data; errors are raised on loading, not here."""
        try:
            return open_store(self._config, self._metadata.store), self._metadata.nbytes
        except dj.DataJointError:
            return None, 0

    def _file(self) -> ArrayFile:
        _ = self.path  # an invalid row raises before its store is opened
        return ArrayFile(open_store(self._config, self.store), self._metadata, self._header)

    def _read_part(
        self,
        selection: Selection,
        out: AnyArray | None,
        max_nbytes: float,
        view: MakeView | None = None,
    ) -> AnyArray | None:
        """Read a selection; None if that would read more than `max_nbytes` bytes."""
        file = self._file()
        part = file.read_part(selection, out, max_nbytes, view)
        read_before, self._header = self._header is not None, file.known_header
        is_open = self._kept_open is not None and not self._kept_open.closed
        if read_before and not is_open and part is not None and selection.nbytes:
            self._kept_open = file.keep_open()
        return part

    def _check_out(self, out: AnyArray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if out.shape != shape or out.dtype != dtype or not out.flags.writeable:
            raise ArrayInvalidError(
                f"out must be writable, of shape {shape} and dtype {dtype}; it is "
                f"{'writable' if out.flags.writeable else 'read-only'}, of shape {out.shape} "
                f"and dtype {out.dtype}"
            )

    def _readers(self) -> int:
        return open_store(self._config, self.store).workers

    def _in_fortran_order(self) -> bool:
        header = self._header or self._metadata.expected_header()
        return header is not None and header[0].fortran_order

    def _stand_in(self) -> AnyArray:
        return stand_in(Header(self.dtype, self.shape, self._in_fortran_order(), 0))

    def _exceeds_memory(self) -> bool:
        return self.ndim > 0 and self.nbytes > settings.memory and not self.is_loaded


def file_of(ref: NpyRef) -> ArrayFile:
    """Return the file of a reference."""
    return ref._file()


def row_of(ref: NpyRef) -> Any:
    """Return the JSON in the row of a reference, as is."""
    return ref._raw
