"""What a fetch hands out: a reference to an array that is still in its store."""

import json
import math
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any

import datajoint as dj
import numpy as np
from pydantic import ByteSize, Field, TypeAdapter, ValidationError

from dj_npy._array.arraylike import ArrayLike, materialized, owned
from dj_npy._array.cache import array_cache, loaded_array
from dj_npy._array.file import ArrayFile, MapMode, Slab, Verified, read_together
from dj_npy._array.html import reference_html
from dj_npy._array.openfiles import KeptOpen
from dj_npy._concurrency.threads import side_by_side
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._format.npyfile import AnyArray, Header
from dj_npy._lazy.arrays import LazyArrays
from dj_npy._selection.index import Selection, select
from dj_npy._settings import settings
from dj_npy._stores import Store, StoreConfig, describe, open_store
from dj_npy._text import short_repr

_SIZE: TypeAdapter[ByteSize] = TypeAdapter(Annotated[ByteSize, Field(gt=0)])
_MAP_MODES: tuple[MapMode, ...] = ("r", "r+", "c")


class NpyRef(ArrayLike, LazyArrays, dj.NpyRef):
    """
    Lazy reference to an array in a ``.npy`` file.

    What describes the array (`shape`, `dtype`, `path` ...) comes from the row and costs no
    I/O. The data are loaded when they are first needed and then kept: while somebody uses
    them, and beyond that as one of the most recently used, up to ``dj_npy.settings.memory``.

    A reference can stand wherever NumPy takes an array: operators, ufuncs, functions, the
    methods of `ndarray` that change nothing, indexing, iteration. It compares elementwise,
    as an array does, and is hashed by identity. What it keeps and gives to all who ask (`load`,
    ``np.asarray``, methods that return a view) is read-only; what is indexed, iterated over,
    read or copied is the caller's own. That does not depend on what is in memory.

    It pickles without data and without secrets: the process that unpickles it needs the store's
    credentials in its own configuration.

    Fetched from a table; not to be constructed.

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
        "_parsed",
        "_raw",
        "_view_ref",
    )

    _loaded: AnyArray | weakref.ref[AnyArray] | None
    _view_ref: weakref.ref[AnyArray] | None

    def __init__(self, metadata: dict[str, Any], config: StoreConfig) -> None:
        self._raw = metadata
        self._parsed: ArrayMetadata | None = None  # made when it is first asked: most never are
        self._config = config
        self._loaded = self._view_ref = None
        # What is remembered once a part has been read: the header, and then the open file.
        self._header: tuple[Header, bytes] | None = None
        self._kept_open: KeptOpen | None = None

    @property
    def _metadata(self) -> ArrayMetadata:
        if self._parsed is None:
            self._parsed = ArrayMetadata(self._raw)
        return self._parsed

    @property
    def path(self) -> str:
        """Where the file lies, relative to its store."""
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
            Without it, the data are read into memory, once: the same read-only array is returned
            until :meth:`unload`. For one to change, take ``np.array(ref)``, or :meth:`read`,
            which keeps nothing. With it, the file is mapped, or a private copy of a remote one, and
            read where it is touched, when it is touched: ``'r'`` read-only, ``'c'`` with
            changes staying in memory, ``'r+'`` with changes going to the file: at once in a
            local store; in a remote one on ``flush()``, and at the latest when nobody has the
            map any more. If the file was changed there meanwhile, that raises `StoreError` or,
            where there is nobody to catch it, is logged, and the copy is kept.

        Returns
        -------
        ndarray
            Of the row's shape and dtype, in the file's memory order, read-only; a
            `numpy.memmap` if mapped.

        Raises
        ------
        ArrayMissingError, ArrayCorruptError, StoreError
            If the file is gone, is not what the row says, or cannot be read.
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
        if mmap_mode not in _MAP_MODES:
            raise ArrayInvalidError(f"mmap_mode is None, 'r', 'r+' or 'c', not {mmap_mode!r}")
        mapped = self._file().map(mmap_mode)
        if mmap_mode == "r+":
            self.unload()  # what is in memory will not be what is in the file
        return mapped

    def read(self, selection: Any = ..., *, out: AnyArray | None = None) -> AnyArray:
        """
        Read a part of the array, or all of it, into memory of the caller's own.

        Nothing is kept: in a loop with one `out`, nothing is allocated.

        Parameters
        ----------
        selection
            Any index that NumPy takes; default everything.
        out : ndarray, optional
            Where to put the data: writable, of the shape and dtype of what is selected. If
            reading fails, it holds a part of them.

        Returns
        -------
        ndarray
            `out`, or a new array that owns its memory.

        Raises
        ------
        ArrayInvalidError
            If `out` does not fit; it is unchanged.

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
        Walk along the first axis, in blocks, each of which is read while the one before is used.

        Parameters
        ----------
        nbytes : int or str
            Size of a block at most, with or without a unit; one row at least. Twice as much
            is in memory, and what the caller keeps.

        Yields
        ------
        ndarray
            Consecutive rows, which own their memory.

        Raises
        ------
        ArrayInvalidError
            If `nbytes` is no positive size.
        TypeError
            If the array has no axis.

        Examples
        --------
        >>> [block.shape for block in ref.blocks("100 kB")]
        [(390, 32), (390, 32), (220, 32)]
        """
        try:
            max_nbytes = _SIZE.validate_python(nbytes)
        except ValidationError:
            raise ArrayInvalidError(
                f"nbytes must be a size such as 1000000 or '64 MiB', not {nbytes!r}"
            ) from None
        rows = len(self)
        block_rows = max(1, max_nbytes // max(1, self.nbytes // max(1, rows)))
        slices = (slice(first, first + block_rows) for first in range(0, rows, block_rows))
        return side_by_side(self._read_block, slices, 1)

    def unload(self) -> None:
        """
        Let go of the data; they are loaded again when next needed.

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
        Read the whole file and check it against the row, to the byte where the row can tell.

        Returns
        -------
        str
            ``"as inserted"``; ``"changed since insert"`` if it was changed through
            ``mmap_mode="r+"``; ``"no checksum"`` if size, shape and dtype are right, and the
            row, of DataJoint's own codec, knows no more.

        Raises
        ------
        ArrayMissingError, ArrayCorruptError, StoreError
            If the file is gone, has another size, shape, dtype or checksum than the row
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
        # By way of a pickle, it would be left without the secrets.
        return NpyRef(self._raw, self._config)

    def __deepcopy__(self, _: Any) -> "NpyRef":
        return self.__copy__()

    def __dask_tokenize__(self) -> Any:
        row = json.dumps(self._raw, sort_keys=True, default=repr)
        return "dj_npy.NpyRef", describe(self._config, self.store).identity, row

    def __getitem__(self, index: Any) -> Any:
        """Return what `index` selects, in memory of its own; only what it needs is read."""
        if type(index) is slice and self._kept_open is not None and self._loaded is None:
            rows = self._kept_open.rows(index)
            if rows is not None:
                return rows
        index = materialized(index)
        array = loaded_array(self)
        if array is None:
            selected = select(index, self.shape, self.dtype)
            kept = self.nbytes <= settings.memory
            max_nbytes = settings.load_share * self.nbytes if kept else math.inf
            is_small = self.nbytes <= settings.load_below
            if not (is_small and selected.nbytes):
                part = self._read_part(selected, None, max_nbytes)
                if part is not None:
                    return part[()] if selected.is_scalar else part
            array = self.load()
        return owned(array[index])

    def _rows(self) -> Iterator[Any]:
        if self.nbytes <= settings.load_below:
            self.load()
        for block in self.blocks():
            yield from map(owned, block)

    def _read_block(self, rows: slice) -> AnyArray:
        if not self.is_loaded and self.nbytes <= settings.memory:
            selected = select(rows, self.shape, self.dtype)
            # In Fortran order, each block might be read with most of the file around it.
            part = self._read_part(selected, None, 2 * selected.nbytes)
            if part is not None:
                return part
            self.load()
        return self.read(rows)

    def _array(self) -> AnyArray:
        return self.load()

    def _read(self, slab: Slab | None = None) -> AnyArray:
        return self._file().read(slab)

    def _store_and_nbytes(self) -> tuple[Store | None, int]:
        """Store and size of the data; whatever is wrong is told when they are loaded."""
        try:
            return open_store(self._config, self._metadata.store), self._metadata.nbytes
        except dj.DataJointError:
            return None, 0

    def _file(self) -> ArrayFile:
        _ = self.path  # a row that is none is told before its store is looked for
        return ArrayFile(open_store(self._config, self.store), self._metadata, self._header)

    def _read_part(
        self, selection: Selection, out: AnyArray | None, max_nbytes: float
    ) -> AnyArray | None:
        """Read what is selected; None if that would be more than `max_nbytes` bytes."""
        file = self._file()
        part = file.read_part(selection, out, max_nbytes)
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

    def _in_fortran_order(self) -> bool:
        expected_header = self._metadata.expected_header()
        return expected_header is not None and expected_header[0].fortran_order


def file_of(ref: NpyRef) -> ArrayFile:
    """Return the file of a reference."""
    return ref._file()


def row_of(ref: NpyRef) -> Any:
    """Return what the row holds of a reference, as it is."""
    return ref._raw


def load_together(refs: Sequence[NpyRef], store: Store, slab: Slab) -> list[AnyArray]:
    """Load small arrays from one store of this machine in one go."""
    found = list(map(loaded_array, refs))
    rows = [ref._metadata for ref, array in zip(refs, found, strict=True) if array is None]
    read = iter(read_together(store, rows, slab))
    found = [next(read) if array is None else array for array in found]
    return [
        array_cache.get(ref, ref._read) if array is None else array_cache.put(ref, array)
        for ref, array in zip(refs, found, strict=True)
    ]


def load_each(refs: Sequence[NpyRef], slab: Slab) -> list[AnyArray]:
    """Load arrays one after the other, in a thread of many that do; otherwise the same."""
    return [array_cache.get(ref, partial(ref._read, slab)) for ref in refs]


def read_each(refs: Sequence[NpyRef], slab: Slab) -> list[AnyArray]:
    """Read arrays, one after the other, into memory of the caller's own; none is kept."""
    loaded = map(loaded_array, refs)
    return [
        ref._read(slab) if array is None else owned(array[...])
        for ref, array in zip(refs, loaded, strict=True)
    ]
