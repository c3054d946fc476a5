"""The file of an array in its store: read, read in part, map and verify it."""

import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial, wraps
from io import FileIO
from itertools import chain
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import xxhash

from dj_npy._array.cache import read_only_buffer
from dj_npy._array.openfiles import KeptOpen, can_keep_open
from dj_npy._array.workingcopy import working_map
from dj_npy._errors import ArrayCorruptError, ArrayMissingError, NpyError, StoreError
from dj_npy._format import npyfile
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._format.npyfile import CHECKSUM, AnyArray, Header, ReadBeginning
from dj_npy._memory import usable_memory
from dj_npy._selection.index import Selection
from dj_npy._selection.parts import Part
from dj_npy._selection.plan import MakeView, Plan
from dj_npy._settings import settings
from dj_npy._stores import Replace, Store, identity
from dj_npy._text import in_units

P = ParamSpec("P")
T = TypeVar("T")
MapMode = Literal["r", "r+", "c"]
Verified = Literal["as inserted", "changed since insert", "no checksum"]
_SLAB_NBYTES = 16 << 20
_MAX_SLAB_SHARE = 512 << 10
"""Bytes of a slab, and of the largest array in one."""
_ALIGNMENT = 64
"""Alignment of an array in a slab, in bytes."""


class Slab:
    """
    Memory shared by many small arrays, freed with the last of them.

    Page faults for new memory take twice as long as reading a small file into it; a slab uses huge
    pages on Linux. A large array gets its own memory, by mmap and not `malloc`, whose arenas keep
    the memory that each of many threads has freed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = memoryview(bytearray())

    def take(self, nbytes: int) -> memoryview:
        """Return `nbytes` of uninitialized memory, at most `_SLAB_NBYTES`, from the slab."""
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            return memoryview(np.empty(nbytes, np.uint8))  # type: ignore[arg-type]
        aligned_nbytes = _aligned(nbytes)
        with self._lock:
            if len(self._free) < aligned_nbytes:
                self._free = _map_anonymous(_SLAB_NBYTES)
            memory, self._free = self._free[:nbytes], self._free[aligned_nbytes:]
        return memory

    def allocate(self, nbytes: int) -> memoryview:
        """Return `nbytes` of uninitialized memory that is freed with its array."""
        return _map_anonymous(nbytes) if hasattr(mmap, "MADV_HUGEPAGE") else self.take(nbytes)


def _map_anonymous(nbytes: int) -> memoryview:
    try:
        memory = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise MemoryError(f"no memory for an array of {nbytes} bytes") from None
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def read_together(store: Store, rows: Sequence[ArrayMetadata], slab: Slab) -> list[AnyArray | None]:
    """
    Read small files of one local store into a slab, as read-only arrays.

    Returns None for a file that needs :meth:`ArrayFile.read`.
    """
    expected = [_expected_file(row) for row in rows]
    memory = slab.take(sum(_aligned(each[1].nbytes) for each in expected if each is not None))
    shared = read_only_buffer(memory)
    files, positions = [], []
    position = 0
    for each in filter(None, expected):
        path, header, prefix = each
        data = memory[position : position + header.nbytes]
        files.append((path, (bytearray(len(prefix)), data), header.file_size))
        positions.append(position)
        position += _aligned(header.nbytes)
    read = iter(zip(files, positions, store.read_files(files), strict=True))

    def array(row: ArrayMetadata, each: tuple[str, Header, bytes]) -> AnyArray | None:
        (_, (found, _), _), position, whole = next(read)
        header = _found_header(row, each[1:], found) if whole else None
        if header is None:
            return None
        return np.ndarray(header.shape, header.dtype, shared, position, None, header.order)

    return [each and array(row, each) for row, each in zip(rows, expected, strict=True)]


def _found_header(
    row: ArrayMetadata, likely: tuple[Header, bytes], found: bytes | bytearray
) -> Header | None:
    """Return the likely header if `found` are its bytes; also in the order that no row told."""
    header, prefix = likely
    if found == prefix:
        return header
    if row.expected_header() is None and found == npyfile.header_bytes(
        header.dtype, header.shape, True
    ):
        return replace(header, fortran_order=True)
    return None


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _new_array(header: Header, slab: Slab | None) -> tuple[AnyArray, memoryview]:
    """Return a new array and its memory."""
    if slab is None:
        array = npyfile.empty(header.shape, header.dtype, header.order)
        return array, npyfile.bytes_view(array)
    is_large = header.nbytes > _MAX_SLAB_SHARE
    data = slab.allocate(header.nbytes) if is_large else slab.take(header.nbytes)
    return np.ndarray(header.shape, header.dtype, data, 0, None, header.order), data


def _expected_file(row: ArrayMetadata) -> tuple[str, Header, bytes] | None:
    try:
        path, expected = row.path, row.likely_header()
    except NpyError:
        return None
    return expected and (path, *expected)


def _explain_misplaced(method: Callable[P, T]) -> Callable[P, T]:
    """Decorate a method to raise `StoreError` if the cause of its error is the wrong store."""

    @wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (ArrayMissingError, ArrayCorruptError) as error:
            file: Any = args[0]
            reason = identity.wrong_store_reason(file.store, file.row)
            if reason is None:
                raise
            raise StoreError(f"could not read {file.store.where(file.path)}: {reason}") from error

    return wrapper


class ArrayFile:
    """
    The ``.npy`` file that a row describes.

    Its methods raise :class:`ArrayMissingError`, :class:`ArrayCorruptError` or
    :class:`StoreError` if it is missing, does not match the row, or cannot be read.

    Parameters
    ----------
    store : Store
        Store of the file.
    row : ArrayMetadata
        Description of the array.
    known_header : tuple of Header and bytes, optional
        Its header, parsed and as bytes, if it has been read before.
    """

    def __init__(
        self, store: Store, row: ArrayMetadata, known_header: tuple[Header, bytes] | None = None
    ) -> None:
        self.store, self.row, self.path = store, row, row.path
        self.known_header = known_header

    @_explain_misplaced
    def header(self) -> Header:
        """Read the header and check it against the row."""
        return self._check_header(self._read_beginning)[0]

    @_explain_misplaced
    def read(self, slab: Slab | None = None) -> AnyArray:
        """
        Read it into a new array, in one pass if the file is as expected.

        A small array may use memory of a slab.
        """
        likely = self.known_header or self.row.likely_header()
        if likely is not None:
            header, prefix = likely
            array, data = self._allocate_array(header, slab)
            found = bytearray(prefix)
            if self._read_whole(found, data):
                actual = _found_header(self.row, likely, found)
                if actual == header:
                    return array
                if actual is not None:
                    return np.ndarray(actual.shape, actual.dtype, data, 0, None, actual.order)
        header = self.header()  # raises if something is wrong
        array, data = self._allocate_array(header, slab)
        if self.store.read_into(self.path, header.offset, (data,)) != header.file_size:
            raise self._changed_while_read()
        return array

    @_explain_misplaced
    def read_part(
        self,
        selection: Selection,
        out: AnyArray | None,
        max_nbytes: float,
        view: MakeView | None = None,
    ) -> AnyArray | None:
        """
        Read a selection, of a view if one is given, into `out`, which fits, or into a new array.

        Returns None, with nothing read, if that would read more than `max_nbytes` bytes.
        """
        if not selection.nbytes:
            return npyfile.empty(selection.shape, selection.dtype) if out is None else out
        for _ in range(2):
            likely = self.known_header or self.row.likely_header()
            header, prefix = likely or self._check_header(self._read_beginning)
            plan = Plan(selection, header, self.store.limits, view)
            if plan.read_nbytes > max_nbytes:
                return None
            array = out
            if array is None:
                make = partial(npyfile.empty, selection.shape, selection.dtype, plan.order)
                array = self._allocate(make, selection.nbytes)
            if self._fill(array, plan, header, prefix):
                self.known_header = header, prefix
                return array
            # Not the expected file: raise the reason, or try again if it is another valid one.
            self.known_header = self._check_header(self._read_beginning)
        raise self._changed_while_read()

    def keep_open(self) -> KeptOpen | None:
        """Keep it open to slice rows, after a part was read; None where that saves nothing."""
        assert self.known_header is not None
        header, prefix = self.known_header
        if not self.store.is_local or not can_keep_open(header):
            return None
        with suppress(OSError), self.store.open_to_map(self.path) as file:
            kept = KeptOpen(os.fspath(file.name), header)
            return kept if kept.matches(header, prefix) else None
        return None

    @_explain_misplaced
    def map(self, mode: MapMode) -> AnyArray:
        """Memory-map it."""
        store, write_back = self.store, None
        if mode == "r+":
            file, write_back = store.open_to_change(self.path)
        else:
            file = store.open_to_map(self.path)
        try:
            with file:
                return self._map_file(file, mode, write_back)
        except BaseException:
            if write_back is not None:  # an unchanged copy
                with suppress(OSError):
                    os.unlink(file.name)
            raise

    @_explain_misplaced
    def verify(self) -> Verified:
        """Read all of it and check it against the row, by its checksum if the row has one."""
        store, where = self.store, self.store.where(self.path)
        self.header()
        expected = self.row.checksum
        if expected is None:
            return "no checksum"
        hasher = xxhash.xxh3_128()
        for piece in store.pieces(self.path):
            hasher.update(piece)
        found = CHECKSUM + hasher.hexdigest()
        if found == expected:
            return "as inserted"
        changed_to = store.changed(self.path)
        if changed_to in ("", found):
            return "changed since insert"
        change_note = "" if changed_to is None else f", or since it was last changed {changed_to}"
        raise ArrayCorruptError(
            f"{where} has other bytes than were inserted: expected {expected}{change_note}, found "
            f"{found}. Unless it was changed on purpose, restore it from a copy"
        )

    def _map_file(self, file: FileIO, mode: MapMode, write_back: Replace | None) -> AnyArray:
        try:
            size = os.fstat(file.fileno()).st_size
            # Read from the open file: another may have its name by now.
            header, _ = self._check_header(lambda length: (_read_from_start(file, length), size))
            if write_back is not None:
                return working_map(file, header, write_back, self.store.where(self.path))
            return np.memmap(file, header.dtype, mode, header.offset, header.shape, header.order)
        except NpyError:
            raise
        except OSError as error:  # no address space left, or the disk fails
            raise self.store.translate_error(error, self.path, "map") from error

    def _read_whole(self, prefix: bytearray, data: memoryview) -> bool:
        """Fill both; return whether the file is exactly as long."""
        nbytes = len(prefix) + len(data)
        by_one_read = nbytes <= self.store.single_read_max
        if by_one_read and self.store.read_files([(self.path, (prefix, data), nbytes)])[0]:
            return True
        return self.store.read_into(self.path, 0, (memoryview(prefix), data)) == nbytes

    def _fill(self, array: AnyArray, plan: Plan, header: Header, prefix: bytes) -> bool:
        """Fill `array`; return False if its size or header show that it is another file."""
        found = bytearray(prefix)
        parts = plan.parts(array)
        is_certain = self.known_header is not None or self.row.expected_header() is not None
        if self.store.is_local:
            parts = chain([Part(0, len(found), (memoryview(found),))], parts)
        elif not is_certain:
            parts = _after_header(found, parts, self.store.limits.gap)
        stat = self.store.read_parts(self.path, parts)
        return stat is not None and stat.nbytes == header.file_size and found == prefix

    def _allocate_array(self, header: Header, slab: Slab | None) -> tuple[AnyArray, memoryview]:
        return self._allocate(lambda: _new_array(header, slab), header.nbytes)

    def _allocate(self, make: Callable[[], T], nbytes: int) -> T:
        try:
            # What cannot fit would be granted nevertheless, and fill the swap space. To ask for
            # the limits takes ten times as long as to read a small array.
            if nbytes <= max(settings.memory, settings.load_below) or nbytes <= usable_memory():
                return make()
        except (MemoryError, ValueError):  # ValueError: more than an address can count
            pass
        self.header()  # raises if the row is wrong, not memory too small
        raise MemoryError(
            f"{in_units(nbytes)} of {self.store.where(self.path)} do not fit into the memory of "
            f"this process ({in_units(usable_memory())}): go through it by ref.blocks() or "
            f"ref.to_dask(), map it by ref.load('r'), or read a part by ref[...]"
        )

    def _read_beginning(self, length: int) -> tuple[bytes, int]:
        data, stat = self.store.read_beginning(self.path, length)
        return data, stat.nbytes

    def _check_header(self, read_beginning: ReadBeginning) -> tuple[Header, bytes]:
        """Return the header and its bytes; raise if it does not match the row."""
        where, expected = self.store.where(self.path), self.row.expected_header()
        header, prefix = npyfile.read_header(read_beginning, where, expected)
        if not self.row.matches(header):
            wanted = Header(self.row.dtype, self.row.shape, False, 0)
            raise ArrayCorruptError(
                f"{where} is another array than the row says: expected {wanted}, found {header}. "
                f"Restore the file from a copy"
            )
        return header, prefix

    def _changed_while_read(self) -> ArrayCorruptError:
        return ArrayCorruptError(f"{self.store.where(self.path)} changed while it was read")


def _after_header(found: bytearray, parts: Iterator[Part], gap: int) -> Iterator[Part]:
    """Yield the parts after one that fills `found`, merged with the first if that is close."""
    first = next(parts)
    if first.runs or first.start - len(found) > gap:
        yield Part(0, len(found), (memoryview(found),))
        yield first
    else:

        def take(data: memoryview) -> None:
            found[:] = data[: len(found)]
            first.put(data[first.start :])

        yield Part(0, first.start + first.nbytes, (), take)
    yield from parts


def _read_from_start(file: FileIO, length: int) -> bytes:
    file.seek(0)
    return file.read(length) or b""
