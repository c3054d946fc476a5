"""What a fetch hands out: a reference to an array that is still in its store."""

import math
import os
import weakref
from collections.abc import Callable, Iterator
from io import FileIO
from itertools import chain
from typing import Any

import datajoint as dj
import numpy as np
import xxhash
from pydantic import ByteSize, TypeAdapter, ValidationError

from dj_npy import _fileformat as fileformat
from dj_npy._arraylike import ArrayLike, materialized
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError
from dj_npy._fileformat import AnyArray, Header
from dj_npy._keptopen import KeptOpen, suits
from dj_npy._residency import loaded_array, residency
from dj_npy._selection import Plan, Selection, select
from dj_npy._settings import settings
from dj_npy._stores import Part, Store, StoreConfig, describe, open_store
from dj_npy._stores.threads import side_by_side

CHECKSUM = "xxh3_128:"
"""Begins a checksum in a row; 32 hex digits follow, as ``xxh128sum`` prints them."""
_SIZE = TypeAdapter(ByteSize)
_MAP_MODES = ("r", "r+", "c")


class NpyRef(ArrayLike, dj.NpyRef):
    """
    Lazy reference to an array in a ``.npy`` file.

    What describes the array (`shape`, `dtype`, `path` ...) comes from the row and costs no
    I/O. The data are loaded when they are first needed and then kept: while somebody uses
    them, and beyond that as one of the most recently used, up to ``dj_npy.settings.memory``.

    A reference can stand wherever NumPy takes an array: operators, ufuncs, functions, the
    methods of `ndarray` that change nothing, indexing, iteration. It compares elementwise,
    as an array does, and is hashed by identity. It pickles without data and without secrets:
    the process that unpickles it needs the store's credentials in its own configuration.

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
        "_beginning",
        "_config",
        "_dtype",
        "_kept_open",
        "_loaded",
        "_row",
        "_shape",
    )

    _loaded: AnyArray | weakref.ref[AnyArray] | None
    _beginning: tuple[Header, bytes] | None
    """The header and its bytes, once it is known what they are."""

    def __init__(self, metadata: dict[str, Any], config: StoreConfig) -> None:
        self._row = metadata
        self._config = config
        self._loaded = None
        self._beginning = None
        self._kept_open: weakref.ref[KeptOpen] | None = None
        # Read from the row when they are first asked for.
        self._shape: tuple[int, ...] | None = None
        self._dtype: np.dtype[Any] | None = None

    @property
    def path(self) -> str:
        """Where the file lies, relative to its store."""
        path = self._said("path")
        if not isinstance(path, str):
            raise self._bad_row("path", path)
        return path

    @property
    def store(self) -> str | None:
        """Name of the store; None for the default one, in rows of DataJoint's own codec."""
        store = self._said("store")
        if not isinstance(store, str | None):
            raise self._bad_row("store", store)
        return store or None

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        if self._shape is None:
            shape = self._said("shape")
            if not isinstance(shape, list) or not fileformat.is_shape(shape):
                raise self._bad_row("shape", shape)
            self._shape = tuple(shape)
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        if self._dtype is None:
            dtype = self._said("dtype")
            try:
                self._dtype = fileformat.dtype_from_json(dtype)
            except (ValueError, TypeError, SyntaxError):
                raise self._bad_row("dtype", dtype) from None
        return self._dtype

    @property
    def is_loaded(self) -> bool:
        """Whether the data are in memory."""
        return loaded_array(self) is not None

    def load(self, mmap_mode: str | None = None) -> AnyArray:
        """
        Return the whole array.

        Parameters
        ----------
        mmap_mode : {None, 'r', 'r+', 'c'}
            None reads the data into memory, once: the same array is returned until
            :meth:`unload`. The others map the file and read what is touched, when it is
            touched: ``'r'`` read-only, ``'r+'`` with changes going to the file, ``'c'`` with
            changes staying in memory.

        Returns
        -------
        ndarray
            Of the row's shape and dtype, in the file's memory order; a `numpy.memmap` if
            mapped.

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
        >>> ref.load(mmap_mode="r")[100:200].shape
        (100, 32)
        """
        if mmap_mode is None:
            return residency.get(self, self._read)
        if mmap_mode not in _MAP_MODES:
            raise ArrayInvalidError(f"mmap_mode is None, 'r', 'r+' or 'c', not {mmap_mode!r}")
        if mmap_mode == "r+":
            self.unload()  # what is in memory will not be what is in the file
        return self._map(mmap_mode)

    def read(self, selection: Any = ..., *, out: AnyArray | None = None) -> AnyArray:
        """
        Read a part of the array, or all of it, into memory of the caller's own.

        Nothing is kept: in a loop with one `out`, nothing is allocated.

        Parameters
        ----------
        selection
            Any index that NumPy takes; default everything.
        out : ndarray, optional
            Where to put the data: writable, of the selection's shape and of the array's dtype.

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
        if out is not None and not isinstance(out, np.ndarray):
            raise ArrayInvalidError(f"out must be a numpy.ndarray, not {type(out).__name__}")
        array = loaded_array(self)
        if array is not None:
            part = np.asanyarray(array[selection])
            if out is None:
                return np.array(part)
            self._check_out(out, part.shape, part.dtype)
            np.copyto(out, part)
            return out
        selected = select(selection, self.shape, self.dtype)
        if out is not None:
            self._check_out(out, selected.shape, selected.dtype)
        elif selection is ... or (isinstance(selection, tuple) and not selection):
            return self._read()
        part = self._part(selected, out, math.inf)
        assert part is not None
        return part

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
        >>> sum(block.sum() for block in ref.blocks("100 kB")) == ref.load().sum()
        True
        """
        try:
            most = _SIZE.validate_python(nbytes)
        except ValidationError:
            raise ArrayInvalidError(
                f"nbytes must be a size such as 1000000 or '64 MiB', not {nbytes!r}"
            ) from None
        rows = len(self)
        at_once = max(1, most // max(1, self.nbytes // max(1, rows)))
        slices = (slice(first, first + at_once) for first in range(0, rows, at_once))
        return side_by_side(self.read, slices, 1)

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
        residency.drop(self)
        self._kept_open = None

    def verify(self) -> None:
        """
        Read the whole file and check it against the row, to the byte where the row can tell.

        Raises
        ------
        ArrayMissingError, ArrayCorruptError, StoreError
            If the file is gone, has another size, shape, dtype or checksum than the row
            says, or cannot be read.

        Examples
        --------
        >>> ref.verify()
        """
        store = self._open()
        self._header(store)
        expected = self._said("checksum")
        if expected is None:  # a row of DataJoint's own codec
            return
        hasher = xxhash.xxh3_128()
        for piece in store.pieces(self.path):
            hasher.update(piece)
        found = CHECKSUM + hasher.hexdigest()
        if found != expected:
            raise ArrayCorruptError(
                f"{store.where(self.path)} has changed since it was inserted: expected "
                f"{expected}, found {found}. If that was not through mmap_mode='r+', restore it "
                f"from a copy"
            )

    def __repr__(self) -> str:
        loaded = "loaded" if self.is_loaded else "not loaded"
        try:
            return f"NpyRef(shape={self.shape}, dtype={self.dtype}, {loaded})"
        except ArrayCorruptError:
            return f"NpyRef(invalid row {self._row!r:.80})"

    __str__ = __repr__

    def __reduce__(self) -> tuple[Any, ...]:
        return NpyRef, (self._row, describe(self._config, self.store))

    def __getitem__(self, index: Any) -> Any:
        """Return what `index` selects, in memory of its own; only what it needs is read."""
        if type(index) is slice and self._kept_open is not None and self._loaded is None:
            open_file = self._kept_open()
            rows = None if open_file is None else open_file.rows(index)
            if rows is not None:
                return rows
        index = materialized(index)
        array = loaded_array(self)
        if array is None:
            selected = select(index, self.shape, self.dtype)
            kept = self.nbytes <= settings.memory
            most = settings.load_share * self.nbytes if kept else math.inf
            small = self.nbytes <= settings.load_below
            if not (small and selected.nbytes):
                part = self._part(selected, None, most)
                if part is not None:
                    return part[()] if selected.is_scalar else part
            array = self.load()
        part = array[index]
        if isinstance(part, np.ndarray):
            return part if part.flags.owndata else np.array(part)
        return part.copy() if isinstance(part, np.void) else part

    def _rows(self) -> Iterator[Any]:
        if self.nbytes <= settings.load_below:
            self.load()
        for block in self.blocks():
            for row in block:
                yield row.copy() if isinstance(row, (np.ndarray, np.void)) else row

    def _array(self) -> AnyArray:
        return self.load()

    def _said(self, name: str) -> Any:
        """What the row says; it is JSON, which may be anything."""
        return self._row.get(name) if isinstance(self._row, dict) else None

    def _open(self) -> Store:
        _ = self.path  # a row that is none is told before its store is looked for
        return open_store(self._config, self.store)

    def _read(self) -> AnyArray:
        """Read the file into a new array: one pass, if the file is what the row says."""
        store = self._open()
        expected = self._expected_header()
        if expected is not None:
            array = self._allocate(store, expected)
            prefix = bytearray(expected.offset)
            size = store.read_into(self.path, 0, (memoryview(prefix), fileformat.bytes_view(array)))
            if size == expected.file_size and prefix == fileformat.header_bytes(*expected[:3]):
                return array
        header = self._header(store)  # says what is wrong, if anything is
        array = self._allocate(store, header)
        self._fill(store, header, array)
        return array

    def _allocate(self, store: Store, header: Header) -> AnyArray:
        try:
            return np.empty(header.shape, header.dtype, order=header.order)
        except (MemoryError, ValueError):  # ValueError: more than an address can count
            self._header(store)  # a row that promises too much is told from a machine too small
            raise

    def _fill(self, store: Store, header: Header, array: AnyArray) -> None:
        view = fileformat.bytes_view(array)
        if store.read_into(self.path, header.offset, (view,)) != header.file_size:
            raise ArrayCorruptError(f"{store.where(self.path)} changed while it was read")

    def _part(self, selected: Selection, out: AnyArray | None, most: float) -> AnyArray | None:
        """Read what is selected; None if more than `most` bytes are to be read for that."""
        if not selected.nbytes:
            return np.empty(selected.shape, selected.dtype) if out is None else out
        store = self._open()
        for _ in range(2):
            header, prefix, read = self._known(store, selected)
            plan = Plan(selected, header, store.limits)
            if plan.asked > most:
                return None
            array = out
            if array is None:
                array = np.empty(selected.shape, selected.dtype, header.order)
            if self._fill_part(store, plan, array, header, prefix, read):
                if store.near and suits(header):
                    self._keep_open(store, header, prefix)
                return array
            # The file is not the expected one: this says why, unless it is as good.
            self._beginning = self._checked(self._beginning_in(store), store)
        raise ArrayCorruptError(f"{store.where(self.path)} changed while it was read")

    def _keep_open(self, store: Store, header: Header, prefix: bytes) -> None:
        """From the second part on."""
        if self._beginning is None:
            self._beginning = header, prefix
        elif self._kept_open is None or self._kept_open() is None:
            file = store.open_to_map(self.path)
            if os.fstat(file.fileno()).st_size == header.file_size and (
                _beginning(file, len(prefix)) == prefix
            ):
                self._kept_open = weakref.ref(KeptOpen(file, header))
            else:
                file.close()

    def _fill_part(
        self,
        store: Store,
        plan: Plan,
        array: AnyArray,
        header: Header,
        prefix: bytes,
        read: memoryview,
    ) -> bool:
        """Fill `array` and return whether the file was the expected one, as far as that shows."""
        found = bytearray(prefix)
        parts = _unread(plan.parts(array), read)
        if store.near:
            parts = chain([Part(0, len(found), (memoryview(found),))], parts)
        first = next(parts, None)
        if first is None:
            return True
        stat = store.read_parts(self.path, chain([first], parts))
        return stat is not None and stat.nbytes == header.file_size and found == prefix

    def _known(self, store: Store, selected: Selection) -> tuple[Header, bytes, memoryview]:
        """Return the header, its bytes, and what had to be read of the file to know them."""
        if self._beginning is not None:
            return (*self._beginning, memoryview(b""))
        header = self._expected_header()
        if header is not None:
            return header, fileformat.header_bytes(*header[:3]), memoryview(b"")
        # A row of DataJoint's own codec. If the file is as such files are, then what is
        # selected may begin so near that it comes with the header.
        length = len(fileformat.header_bytes(self.dtype, self.shape, False))
        guess = Header(self.dtype, self.shape, False, length)
        start, stop = Plan(selected, guess, store.limits).first
        read = b""

        def beginning(length: int) -> tuple[bytes, int]:
            nonlocal read
            read, size = store.read_beginning(
                self.path, max(length, stop if start <= store.limits.gap else 0)
            )
            return read, size

        self._beginning = self._checked(beginning, store)
        return (*self._beginning, memoryview(read))

    def _map(self, mmap_mode: Any) -> AnyArray:
        store = self._open()
        with store.open_to_map(self.path, writable=mmap_mode == "r+") as file:
            size = os.fstat(file.fileno()).st_size
            # Read from the very file that is mapped: another may have its name by now.
            header, _ = self._checked(lambda length: (_beginning(file, length), size), store)
            try:
                return np.memmap(
                    file, header.dtype, mmap_mode, header.offset, header.shape, header.order
                )
            except OSError as error:  # no address space left
                raise store.refused(error, self.path, "map") from error

    def _expected_header(self) -> Header | None:
        """The header that the row promises; None if the row does not tell."""
        offset = self._said("offset")
        if offset is None:
            return None
        fortran_order = self._said("fortran_order") is True
        dtype, shape = self.dtype, self.shape
        if len(fileformat.header_bytes(dtype, shape, fortran_order)) != offset:
            return None
        return Header(dtype, shape, fortran_order, offset)

    def _header(self, store: Store) -> Header:
        """Read the file's header and check it against the row."""
        return self._checked(self._beginning_in(store), store)[0]

    def _beginning_in(self, store: Store) -> Callable[[int], tuple[bytes, int]]:
        return lambda length: store.read_beginning(self.path, length)

    def _checked(
        self, beginning: Callable[[int], tuple[bytes, int]], store: Store
    ) -> tuple[Header, bytes]:
        where = store.where(self.path)
        prefix, size = beginning(fileformat.FIRST_READ)
        length = fileformat.header_length(prefix, where)
        if length > len(prefix):
            prefix, size = beginning(length)
        header = fileformat.parse_header(prefix, size, where)
        if header.shape != self.shape or not self._has_dtype(header.dtype):
            raise ArrayCorruptError(
                f"{where} is another array than the row says: expected shape {self.shape}, "
                f"dtype {self.dtype}, found {header}. Restore the file from a copy"
            )
        return header, prefix[: header.offset]

    def _has_dtype(self, found: np.dtype[Any]) -> bool:
        expected = self.dtype
        # The built-in codec writes a structured dtype as text, which leaves out padding.
        by_text = expected.names is not None and isinstance(self._said("dtype"), str)
        return found == expected or (by_text and found.names == expected.names)

    def _check_out(self, out: AnyArray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if out.shape != shape or out.dtype != dtype or not out.flags.writeable:
            raise ArrayInvalidError(
                f"out must be writable, of shape {shape} and dtype {dtype}; it is "
                f"{'writable' if out.flags.writeable else 'read-only'}, of shape {out.shape} "
                f"and dtype {out.dtype}"
            )

    def _bad_row(self, what: str, value: Any) -> ArrayCorruptError:
        return ArrayCorruptError(
            f"the row of the array at {self._said('path')!r:.200} in store "
            f"{self._said('store')!r:.200} has no valid {what}: found {value!r:.200}"
        )


def _unread(parts: Iterator[Part], read: memoryview) -> Iterator[Part]:
    """Take from what has been read already, and yield the other parts."""
    for part in parts:
        stop = part.start + part.nbytes
        if stop <= len(read):
            part.put(read[part.start : stop])
        else:
            yield part


def _beginning(file: FileIO, length: int) -> bytes:
    file.seek(0)
    return file.read(length) or b""
