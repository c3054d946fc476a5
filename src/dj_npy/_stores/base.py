"""The interface of all stores, with the checks that they share."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from io import FileIO
from typing import Any

from dj_npy._concurrency.threads import cancellable, raise_if_stopped
from dj_npy._errors import ArrayInvalidError, ArrayMissingError, NpyError, StoreError
from dj_npy._selection.parts import Limits, Part
from dj_npy._stores.listed import UNTIMED, Listed, Stat
from dj_npy._stores.pace import Pace
from dj_npy._stores.pieces import RecordedPieces, counted, targets

Buffer = memoryview | bytearray
Replace = Callable[[Sequence[memoryview], str], None]
"""Replaces a file by contents with that checksum; raises if another writer has changed it."""

_UNSAFE = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\0\ud800-\udfff]")
_UNSAFE_ON_WINDOWS = re.compile(r"\\|:")
_LONGEST_PATH = 4096
"""Characters: the limit of Linux; that of object stores is a quarter of it."""
MARKER = ".dj-npy-store"
"""A file at a store's root that identifies the store."""
PROBE = ".dj-npy-probe"
"""An empty object that stays at a store's root, to probe whether it can be created twice."""
CLOCK = ".dj-npy-clock"
"""A folder at a store's root for a temporary object; it stays where removal is not allowed."""


class Store(ABC):
    """
    Files at paths, created once and never overwritten.

    A path is relative to the store, its components joined by ``/``. An absolute path, or one that
    leaves the store, is refused before any I/O. Offsets and sizes are in bytes.

    Every method raises :class:`StoreError` if the store cannot be used (no permission, no space, no
    such folder); methods that take an existing path raise :class:`ArrayMissingError` if there is no
    file.

    Parameters
    ----------
    name : str
        Name of the store in the DataJoint configuration.
    """

    is_local = False
    """Whether reading a little more, or again, costs next to nothing."""
    is_far = False
    """Whether waiting for answers, more than anything else, is what calls cost."""
    read_ahead = 0
    """Bytes that one reader should have under way, beyond one read."""
    lists_many = False
    """Whether a request for a listing shows many files."""
    lists_in_order = False
    """Whether a listing can begin at any path as well."""
    workers = 16
    """How many threads should read files of this store."""
    together = 1
    """How many small files :meth:`read_files` is best asked for at once."""
    single_read_max = 0
    """File size in bytes up to which :meth:`read_files` is the fastest way to read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: Any = None
        """What is known of this store's identity: see `identity`."""
        self.last_read: Any = None
        self.pace = Pace()
        """How long its answers take."""

    @property
    def writers(self) -> int:
        """How many threads should write files of this store."""
        return self.workers

    def create(self, paths: Iterable[str], pieces: Iterable[memoryview], nbytes: int) -> str:
        """
        Create a file at the first of `paths` that does not exist, and return that path.

        When this returns, the file is durable and other processes see all of it. When it raises,
        nothing is left.

        Parameters
        ----------
        paths : iterable of str
            Names in one folder, in the order to try: first the wanted name, then endless random
            ones, which are unique. A store that cannot create exclusively starts with the second.
        pieces : iterable of memoryview
            The file's bytes. A piece does not change while it is referenced.
        nbytes : int
            Size of the file; any other raises :class:`ArrayInvalidError`.
        """
        safe = (self.check_path(path) for path in paths)
        recorded = RecordedPieces(counted(cancellable(pieces), nbytes))
        try:
            return self._create(safe, iter(recorded), nbytes)
        except BaseException:
            if recorded.failure is None:
                raise
        try:
            raise recorded.failure  # and not the store's error that followed from it
        finally:
            recorded.failure = None  # break the reference cycle through its traceback

    def create_copy(self, paths: Iterable[str], source: str, nbytes: int) -> str | None:
        """
        Create a copy of `source`, a file of this store, within the store.

        Otherwise as :meth:`create`. Returns None if the store cannot.
        """
        return self._create_copy(map(self.check_path, paths), self.check_path(source), nbytes)

    def read_parts(self, path: str, parts: Iterable[Part]) -> Stat | None:
        """
        Read parts of a file, and return its size and version.

        Returns None, and the data are invalid, if the file ends within a part or changed between
        two parts.

        Parameters
        ----------
        path : str
            The file.
        parts : iterable of Part
            At least one, in file order, without overlap; consumed lazily, a few at a time.
        """
        return self._read_parts(self.check_path(path), cancellable(parts))

    def read_into(self, path: str, start: int, buffers: Sequence[memoryview]) -> int | None:
        """
        Fill `buffers`, one after the other, starting at `start`, and return the file's size.

        Returns None, and the data are invalid, if the file ends before.
        """
        if start < 0:
            raise ArrayInvalidError(f"cannot read {self.where(path)} from byte {start} on")
        nbytes = sum(map(len, buffers))
        if not nbytes:
            size = self.stat(path).nbytes
            return size if start <= size else None
        part = self._part_of(path, nbytes)
        stat = self.read_parts(
            path,
            (
                Part(start + first, min(part, nbytes - first), tuple(targets(buffers, first, part)))
                for first in range(0, nbytes, part)
            ),
        )
        return None if stat is None else stat.nbytes

    def read_files(self, files: Iterable[tuple[str, Sequence[Buffer], int]]) -> list[bool]:
        """
        Fill buffers from the beginning of each file.

        Parameters
        ----------
        files : iterable of tuple
            Path, buffers, and their total size.

        Returns
        -------
        list of bool
            Whether the file was read and is exactly as long as its buffers. Where it is False, the
            other methods raise the reason.
        """
        raise_if_stopped()
        return self._read_files(
            (self.check_path(path), some, nbytes) for path, some, nbytes in files
        )

    def read_beginning(self, path: str, length: int) -> tuple[bytes, Stat]:
        """Return the first `length` bytes (at least 1), or all there are, with size and version."""
        raise_if_stopped()
        return self._read_beginning(self.check_path(path), length)

    def pieces(self, path: str) -> Iterable[memoryview]:
        """Return the file's bytes in pieces; a piece does not change while it is referenced."""
        return cancellable(self._pieces(self.check_path(path)))

    def remove(self, path: str) -> None:
        """Remove a file, if it exists."""
        self._remove(self.check_path(path))

    def stat(self, path: str) -> Stat:
        """Return size and version of a file."""
        return self._stat(self.check_path(path))

    def files(self, folder: str = "") -> Iterator[Listed]:
        """
        Yield every file in `folder` and below, in no order; ``""`` is the whole store.

        A missing folder is empty. The store's own files are left out.
        """
        found = self._files(self.check_path(folder) if folder else "")
        own = {MARKER, PROBE}
        return (
            each
            for each in found
            if each.path.rpartition("/")[2] not in own and not each.path.startswith(f"{CLOCK}/")
        )

    def listed_sizes(self, paths: Sequence[str]) -> dict[str, int]:
        """
        Return the sizes of some files in bytes, if the store :attr:`lists_in_order`.

        Parameters
        ----------
        paths : sequence of str
            Sorted. A file that the result lacks may exist all the same.
        """
        safe = []
        for path in paths:
            with suppress(StoreError):
                safe.append(self.check_path(path))
        return self._listed_sizes(safe) if safe else {}

    def now(self) -> datetime:
        """Return the time of the store's clock, with a time zone. This writes to the store."""
        now = self._now()
        if now == UNTIMED:
            raise StoreError(
                f"the clock of store {self.name!r} makes no sense: a file that was just written "
                f"there is of before 1970 or after 9999, or of no time at all. Set it first"
            )
        return now

    def listed(self, path: str) -> Listed:
        """Return a file as a listing would show it."""
        return self._listed(self.check_path(path))

    def remove_listed(self, listed: Listed) -> bool:
        """
        Remove a file if it is still as it was listed, and return whether it was.

        If the store still lists it so, but reports it otherwise by itself, that is an error: it
        could never be removed.
        """
        path = self.check_path(listed.path)
        try:
            found = self._listed(path)
        except ArrayMissingError:
            return False
        if not found.is_still(listed):
            if any(
                (each.path, each.nbytes, each.modified) == (path, listed.nbytes, listed.modified)
                for each in self._files(path.rpartition("/")[0])
            ):
                raise StoreError(
                    f"could not remove {self.where(path)}: the store lists it as "
                    f"{listed.described()}, and tells when asked for it that it is "
                    f"{found.described()}. Remove it by hand"
                )
            return False
        self._remove(path)
        return True

    def uploads(self, folder: str = "") -> Iterator[Listed]:
        """Yield the unfinished uploads into `folder` and below."""
        return self._uploads(self.check_path(folder) if folder else "")

    def abort(self, upload: Listed) -> None:
        """Abort an unfinished upload."""
        self._abort(upload)

    def prune(self, folder: str, is_removable: Callable[[str], bool]) -> None:
        """Remove empty folders below `folder` for which `is_removable` holds, if there are any."""
        self._prune(self.check_path(folder) if folder else "", is_removable)

    def place(self) -> object:
        """Return a value that changes if another folder takes the place of the store's."""
        return None

    def is_empty(self) -> bool:
        """Whether the store is an empty folder."""
        return False

    def mark(self, contents: bytes, *, replace: bool = False) -> bool:
        """
        Create the store's `MARKER` unless it exists, or replace it.

        Returns whether it certainly has these contents now.
        """
        return self._mark(contents, replace)

    def open_to_map(self, path: str) -> FileIO:
        """Open a local file with the same bytes, for a memory map."""
        return self._open_to_map(self.check_path(path))

    def open_to_change(self, path: str) -> tuple[FileIO, Replace | None]:
        """
        Open a local file with the same bytes, for a writable memory map.

        Returns the file, and a function that writes its new contents to the store; None if the file
        is the store's own.
        """
        return self._open_to_change(self.check_path(path))

    def changed(self, path: str) -> str | None:
        """
        Return the checksum of a file after its last change through such a map.

        ``""`` if only a possible change is known, None if not even that.
        """
        return self._changed(self.check_path(path))

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """The read sizes that suit the store best."""

    def where(self, path: str) -> str:
        """Return how an error names a file: path and store."""
        return f"the array at {path!r} in store {self.name!r}"

    def check_path(self, path: str) -> str:
        """Return `path`, or raise if it could leave the store."""
        if (
            not isinstance(path, str)
            or len(path) > _LONGEST_PATH
            or _UNSAFE.search(path)
            or (os.name == "nt" and _UNSAFE_ON_WINDOWS.search(path))
        ):
            raise StoreError(
                f"refused the path {path!r:.300} in store {self.name!r}: a path is relative, of "
                f"{_LONGEST_PATH} characters at most, without empty, '.' or '..' components. If "
                f"a row holds it, the row was not written by this codec"
            )
        return path

    @abstractmethod
    def translate_error(self, error: Exception, path: str, verb: str) -> NpyError:
        """Return the error to raise for a backend's error. Translates all of them."""

    @abstractmethod
    def _create(self, paths: Iterator[str], pieces: Iterator[memoryview], nbytes: int) -> str: ...

    def _create_copy(self, paths: Iterator[str], source: str, nbytes: int) -> str | None:  # noqa: ARG002
        return None

    @abstractmethod
    def _read_parts(self, path: str, parts: Iterable[Part]) -> Stat | None: ...

    def _read_files(self, files: Iterable[tuple[str, Sequence[Buffer], int]]) -> list[bool]:
        def read(path: str, buffers: Sequence[Buffer], nbytes: int) -> bool:
            with suppress(NpyError):
                return self.read_into(path, 0, [memoryview(each) for each in buffers]) == nbytes
            return False

        return [read(*file) for file in files]

    @abstractmethod
    def _part_of(self, path: str, nbytes: int) -> int:
        """Return the best part size to read so many consecutive bytes."""

    @abstractmethod
    def _read_beginning(self, path: str, length: int) -> tuple[bytes, Stat]: ...

    @abstractmethod
    def _pieces(self, path: str) -> Iterable[memoryview]: ...

    @abstractmethod
    def _remove(self, path: str) -> None: ...

    @abstractmethod
    def _stat(self, path: str) -> Stat: ...

    @abstractmethod
    def _files(self, folder: str) -> Iterator[Listed]: ...

    def _listed_sizes(self, paths: Sequence[str]) -> dict[str, int]:
        raise NotImplementedError(paths)

    @abstractmethod
    def _listed(self, path: str) -> Listed: ...

    @abstractmethod
    def _now(self) -> datetime: ...

    def _uploads(self, folder: str) -> Iterator[Listed]:  # noqa: ARG002
        return iter(())

    def _abort(self, upload: Listed) -> None:
        raise NotImplementedError(upload)

    def _prune(self, folder: str, is_removable: Callable[[str], bool]) -> None:  # noqa: B027
        pass

    @abstractmethod
    def _mark(self, contents: bytes, replace: bool) -> bool: ...

    @abstractmethod
    def _open_to_map(self, path: str) -> FileIO: ...

    @abstractmethod
    def _open_to_change(self, path: str) -> tuple[FileIO, Replace | None]: ...

    def _changed(self, path: str) -> str | None:  # noqa: ARG002
        return None
