"""What a fetch hands out: a reference to an array that is still in its store."""

import os
import weakref
from collections.abc import Callable
from io import FileIO
from typing import Any

import datajoint as dj
import numpy as np
import xxhash

from dj_npy import _fileformat as fileformat
from dj_npy._arraylike import ArrayLike
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError
from dj_npy._fileformat import AnyArray, Header
from dj_npy._residency import loaded_array, residency
from dj_npy._stores import Store, StoreConfig, describe, open_store

CHECKSUM = "xxh3_128:"
"""Begins a checksum in a row; 32 hex digits follow, as ``xxh128sum`` prints them."""
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

    __slots__ = ("__weakref__", "_config", "_loaded", "_row")

    _loaded: AnyArray | weakref.ref[AnyArray] | None

    def __init__(self, metadata: dict[str, Any], config: StoreConfig) -> None:
        self._row = metadata
        self._config = config
        self._loaded = None

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
        shape = self._said("shape")
        if not isinstance(shape, list) or not fileformat.is_shape(shape):
            raise self._bad_row("shape", shape)
        return tuple(shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        dtype = self._said("dtype")
        try:
            return fileformat.dtype_from_json(dtype)
        except (ValueError, TypeError, SyntaxError):
            raise self._bad_row("dtype", dtype) from None

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
        whole = selection is ... or selection == ()
        if array is None and whole and out is None:
            return self._read()
        if array is None and whole and out is not None and out.shape == self.shape:
            self._check_out(out, self.shape)
            store = self._open()
            header = self._header(store)
            if out.flags.f_contiguous if header.fortran_order else out.flags.c_contiguous:
                self._fill(store, header, out)
                return out
        part = np.asanyarray((self._map("r") if array is None else array)[selection])
        if out is None:
            return np.array(part)
        self._check_out(out, part.shape)
        np.copyto(out, part)
        return out

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

    def _map(self, mmap_mode: Any) -> AnyArray:
        store = self._open()
        with store.open_to_map(self.path, writable=mmap_mode == "r+") as file:
            size = os.fstat(file.fileno()).st_size
            # Read from the very file that is mapped: another may have its name by now.
            header = self._checked(lambda length: (_beginning(file, length), size), store)
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
        return self._checked(lambda length: store.read_beginning(self.path, length), store)

    def _checked(self, beginning: Callable[[int], tuple[bytes, int]], store: Store) -> Header:
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
        return header

    def _has_dtype(self, found: np.dtype[Any]) -> bool:
        expected = self.dtype
        # The built-in codec writes a structured dtype as text, which leaves out padding.
        by_text = expected.names is not None and isinstance(self._said("dtype"), str)
        return found == expected or (by_text and found.names == expected.names)

    def _check_out(self, out: AnyArray, shape: tuple[int, ...]) -> None:
        if out.shape != shape or out.dtype != self.dtype or not out.flags.writeable:
            raise ArrayInvalidError(
                f"out must be writable, of shape {shape} and dtype {self.dtype}; it is "
                f"{'writable' if out.flags.writeable else 'read-only'}, of shape {out.shape} "
                f"and dtype {out.dtype}"
            )

    def _bad_row(self, what: str, value: Any) -> ArrayCorruptError:
        return ArrayCorruptError(
            f"the row of the array at {self._said('path')!r:.200} in store "
            f"{self._said('store')!r:.200} has no valid {what}: found {value!r:.200}"
        )


def _beginning(file: FileIO, length: int) -> bytes:
    file.seek(0)
    return file.read(length) or b""
