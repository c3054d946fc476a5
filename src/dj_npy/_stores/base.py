"""What every store can do, and the checks that stand in front of all of them."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import FileIO
from typing import Any, NamedTuple

from dj_npy._concurrency.threads import cancellable
from dj_npy._errors import ArrayInvalidError, ArrayMissingError, NpyError, StoreError
from dj_npy._selection.parts import Limits, Part
from dj_npy._stores.pieces import Made, counted, targets

Buffer = memoryview | bytearray
Replace = Callable[[Sequence[memoryview], str], None]
"""Replaces a file by contents of that checksum, and raises if another has done so meanwhile."""

_ASTRAY = timedelta(seconds=2)
"""
Most by which two answers about the time of one file differ.

Some servers tell fractions of a second only in a listing, and rclone's times are some
milliseconds apart as well.
"""
UNTIMED = datetime.max.replace(tzinfo=UTC)
"""The time of a file whose own makes no sense: it is younger than any other."""
_HEX_TAG = re.compile(r"[0-9a-fA-F]{32}(?:-\d+)?")
_CLIMBS = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\0\ud800-\udfff]")
_CLIMBS_ON_WINDOWS = re.compile(r"\\|:")
_LONGEST_PATH = 4096
"""Characters: Linux takes no longer one, and object stores a quarter of it."""
MARKER = ".dj-npy-store"
"""A file at a store's root that says which store it is."""
PROBE = ".dj-npy-probe"
"""An empty object that stays at a store's root: whether it can be created twice tells a lot."""


CLOCK = ".dj-npy-clock"
"""A folder at a store's root, of an object that comes and goes; or stays, if it must."""


class Stat(NamedTuple):
    """What a store knows of a file without reading it."""

    nbytes: int
    version: str
    """Changes whenever the contents do; ``""`` where the store cannot tell."""


class Listed(NamedTuple):
    """A file in a listing, or an upload that has not ended."""

    path: str
    nbytes: int
    modified: datetime
    """With a time zone; by the store's clock, as :meth:`Store.now` is. It may be `UNTIMED`."""
    version: str
    """As in `Stat`; of an upload, its number."""
    leads_to: str = ""
    """
    The version of the file of this machine that would be lost with it, or to which a link leads.

    Empty, if the file has other names, hard links, which it keeps.
    """


class Store(ABC):
    """
    Files at paths, created once and never overwritten.

    A path is relative to the store, its components joined by ``/``; one that is absolute or
    climbs out of the store is refused before any I/O. Offsets and sizes are in bytes.

    Every method raises :class:`StoreError` where the store cannot be used (no permission, no
    space, no such folder), and those that take an existing path :class:`ArrayMissingError`
    where there is no file.

    Parameters
    ----------
    name : str
        What the DataJoint configuration calls the store.
    """

    is_local = False
    """Whether reading a little more, or once more, costs next to nothing."""
    single_read_max = 0
    """Bytes of a file up to which :meth:`read_files` is the quickest way to read it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: Any = None
        """What is known of which store this is: see `_identity`."""
        self.read_lately: Any = None

    def create(self, paths: Iterable[str], pieces: Iterable[memoryview], nbytes: int) -> str:
        """
        Create a file under the first of `paths` that is not taken, and return that path.

        When this returns, readers in other processes see the whole file and the store keeps
        it. When it raises, nothing is left.

        Parameters
        ----------
        paths : iterable of str
            Names in one folder, in the order they are tried: first the one that is wanted,
            then endless random ones, which nobody else has. A store that cannot create
            exclusively begins with the second.
        pieces : iterable of memoryview
            The file's bytes. A piece stays as it is for as long as it is referred to.
        nbytes : int
            How many they are; any other number raises :class:`ArrayInvalidError`.
        """
        checked = (self.checked(path) for path in paths)
        made = Made(counted(cancellable(pieces), nbytes))
        try:
            return self._create(checked, iter(made), nbytes)
        except BaseException:
            if made.failure is None:
                raise
        try:
            raise made.failure  # and not what the store makes of it
        finally:
            made.failure = None  # its traceback holds what holds it

    def copied(self, paths: Iterable[str], source: str, nbytes: int) -> str | None:
        """
        Create a copy of `source`, a file of this store, without its bytes coming here.

        Otherwise as :meth:`create`. Returns None where the store cannot.
        """
        return self._copied(map(self.checked, paths), self.checked(source), nbytes)

    def read_parts(self, path: str, parts: Iterable[Part]) -> Stat | None:
        """
        Read some parts of a file, and return its size and version.

        Returns None, with nothing read that could be relied on, if the file ends within a
        part, or was another for one part than for the next.

        Parameters
        ----------
        path : str
            The file.
        parts : iterable of Part
            At least one. In the file's order, without overlap; they are looked at as they
            are read, few at a time.
        """
        return self._read_parts(self.checked(path), cancellable(parts))

    def read_into(self, path: str, start: int, buffers: Sequence[memoryview]) -> int | None:
        """
        Fill `buffers`, one after the other, from `start` on, and return the file's size.

        Returns None, with nothing read that could be relied on, if the file ends before.
        """
        if start < 0:
            raise ArrayInvalidError(f"cannot read {self.where(path)} from byte {start} on")
        nbytes = sum(map(len, buffers))
        if not nbytes:
            size = self.stat(path).nbytes
            return size if start <= size else None
        part = self._part_of(nbytes)
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
        Fill buffers from each file's beginning on.

        Parameters
        ----------
        files : iterable of tuple
            Path, buffers, and their bytes in all.

        Returns
        -------
        list of bool
            Whether the file is as long as its buffers, and was read. What is the matter with
            one that is not, the other methods tell.
        """
        return self._read_files((self.checked(path), some, nbytes) for path, some, nbytes in files)

    def read_beginning(self, path: str, length: int) -> tuple[bytes, Stat]:
        """Return the first `length` bytes, at least one, or all there are, and size and version."""
        return self._read_beginning(self.checked(path), length)

    def pieces(self, path: str) -> Iterable[memoryview]:
        """Return the file's bytes in pieces; a piece stays as it is while it is referred to."""
        return cancellable(self._pieces(self.checked(path)))

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is none the less removed."""
        self._remove(self.checked(path))

    def stat(self, path: str) -> Stat:
        """Return size and version of a file."""
        return self._stat(self.checked(path))

    def files(self, folder: str = "") -> Iterator[Listed]:
        """
        Yield every file in `folder` and below, ``""`` being the whole store; in no order.

        A folder that is not there is empty. What a store has of its own is left out.
        """
        found = self._files(self.checked(folder) if folder else "")
        own = {MARKER, PROBE}
        return (
            each
            for each in found
            if each.path.rpartition("/")[2] not in own and not each.path.startswith(f"{CLOCK}/")
        )

    def now(self) -> datetime:
        """Return the time of the store's own clock, with a time zone. This writes to the store."""
        now = self._now()
        if now == UNTIMED:
            raise StoreError(
                f"the clock of store {self.name!r} makes no sense: a file that was just written "
                f"there is of before 1970 or after 9999, or of no time at all. Set it first"
            )
        return now

    def remove_listed(self, listed: Listed) -> bool:
        """
        Remove a file, if it is still the one that was listed, and return whether it was.

        Where the store lists it as before, and yet tells something else when it is asked for it,
        that is an error: it would never go.
        """
        path = self.checked(listed.path)
        try:
            found = self._listed(path)
        except ArrayMissingError:
            return False
        if not _are_one(found, listed):
            if any(
                (each.path, each.nbytes, each.modified) == (path, listed.nbytes, listed.modified)
                for each in self._files(path.rpartition("/")[0])
            ):
                raise StoreError(
                    f"could not remove {self.where(path)}: the store lists it as {_told(listed)}, "
                    f"and tells when asked for it that it is {_told(found)}. Remove it by hand"
                )
            return False
        self._remove(path)
        return True

    def uploads(self, folder: str = "") -> Iterator[Listed]:
        """Yield the uploads into `folder` and below that have begun and not ended."""
        return self._uploads(self.checked(folder) if folder else "")

    def abort(self, upload: Listed) -> None:
        """Throw away what has been uploaded of one."""
        self._abort(upload)

    def prune(self, folder: str, may_go: Callable[[str], bool]) -> None:
        """Remove the empty folders below `folder` of which `may_go`, where a store has such."""
        self._prune(self.checked(folder) if folder else "", may_go)

    def place(self) -> object:
        """Return what changes where another folder has come into the place of the store's."""
        return None

    def is_empty(self) -> bool:
        """Whether the store is a folder with nothing in it."""
        return False

    def mark(self, contents: bytes, *, replace: bool = False) -> bool:
        """
        Create the store's `MARKER` unless there is one, or replace it.

        Returns whether it certainly has these contents now.
        """
        return self._mark(contents, replace)

    def open_to_map(self, path: str) -> FileIO:
        """Open a file of this machine that holds the same bytes, for a memory map."""
        return self._open_to_map(self.checked(path))

    def open_to_change(self, path: str) -> tuple[FileIO, Replace | None]:
        """
        Open a file of this machine that holds the same bytes, for a map that is written to.

        Returns the file, and what brings its new contents into the store; None if it is the
        very file that the store has.
        """
        return self._open_to_change(self.checked(path))

    def changed(self, path: str) -> str | None:
        """
        Return the checksum of what a file was last changed to through such a map.

        It is ``""`` where only that it may have been changed is known, and None where not
        even that is.
        """
        return self._changed(self.checked(path))

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """In what portions the store is best read."""

    def where(self, path: str) -> str:
        """Return what an error calls a file: store and path."""
        return f"the array at {path!r} in store {self.name!r}"

    def checked(self, path: str) -> str:
        """Return `path`, or raise if it could leave the store."""
        if (
            not isinstance(path, str)
            or len(path) > _LONGEST_PATH
            or _CLIMBS.search(path)
            or (os.name == "nt" and _CLIMBS_ON_WINDOWS.search(path))
        ):
            raise StoreError(
                f"refused the path {path!r:.300} in store {self.name!r}: a path is relative, of "
                f"{_LONGEST_PATH} characters at most, without empty, '.' or '..' components. If "
                f"a row holds it, the row was not written by this codec"
            )
        return path

    @abstractmethod
    def refused(self, error: Exception, path: str, verb: str) -> NpyError:
        """Return what to raise for a backend's error: the one place where it is translated."""

    @abstractmethod
    def _create(self, paths: Iterator[str], pieces: Iterator[memoryview], nbytes: int) -> str: ...

    def _copied(self, paths: Iterator[str], source: str, nbytes: int) -> str | None:  # noqa: ARG002
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
    def _part_of(self, nbytes: int) -> int:
        """Return in parts of what size so many bytes in a row are best read."""

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

    @abstractmethod
    def _listed(self, path: str) -> Listed: ...

    @abstractmethod
    def _now(self) -> datetime: ...

    def _uploads(self, folder: str) -> Iterator[Listed]:  # noqa: ARG002
        return iter(())

    def _abort(self, upload: Listed) -> None:
        raise NotImplementedError(upload)

    def _prune(self, folder: str, may_go: Callable[[str], bool]) -> None:  # noqa: B027
        pass

    @abstractmethod
    def _mark(self, contents: bytes, replace: bool) -> bool: ...

    @abstractmethod
    def _open_to_map(self, path: str) -> FileIO: ...

    @abstractmethod
    def _open_to_change(self, path: str) -> tuple[FileIO, Replace | None]: ...

    def _changed(self, path: str) -> str | None:  # noqa: ARG002
        return None


def _are_one(one: Listed, other: Listed) -> bool:
    # Another of that name was made after the listing, and so is later by `older_than`.
    return (
        (one.nbytes, _tag(one.version)) == (other.nbytes, _tag(other.version))
        and abs(one.modified - other.modified) < _ASTRAY
    )  # fmt: skip


def _tag(version: str) -> str:
    """Return a version as it is, however it is quoted; some write hexadecimal digits large."""
    tag = version.strip().removeprefix("W/").strip('"')
    return tag.lower() if _HEX_TAG.fullmatch(tag) else tag


def _told(listed: Listed) -> str:
    return f"of {listed.nbytes} bytes, version {listed.version!r}, {listed.modified}"
