"""What every store can do, and the checks that stand in front of all of them."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from dj_npy._errors import NpyError, StoreError

_CLIMBS = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\0\ud800-\udfff]")
_CLIMBS_ON_WINDOWS = re.compile(r"\\|:")


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

    def __init__(self, name: str) -> None:
        self.name = name

    def create(self, paths: Iterable[str], pieces: Iterable[memoryview]) -> str:
        """
        Create a file under the first of `paths` that is not taken, and return that path.

        When this returns, readers in other processes see the whole file and the store keeps
        it. When it raises, nothing is left.

        Parameters
        ----------
        paths : iterable of str
            Names in one folder, in the order they are tried; endless, or ending in a name
            that cannot be taken.
        pieces : iterable of memoryview
            The file's bytes, each piece used before the next is asked for.
        """
        return self._create((self.checked(path) for path in paths), pieces)

    def read_into(self, path: str, start: int, buffers: Sequence[memoryview]) -> int | None:
        """
        Fill `buffers`, one after the other, from `start` on, and return the file's size.

        Returns None, with nothing read that could be relied on, if the file ends before.
        """
        return self._read_into(self.checked(path), start, buffers)

    def read_beginning(self, path: str, length: int) -> tuple[bytes, int]:
        """Return the first `length` bytes, or all there are, and the file's size."""
        return self._read_beginning(self.checked(path), length)

    def pieces(self, path: str) -> Iterable[memoryview]:
        """Return the file's bytes in pieces, each valid until the next one is asked for."""
        return self._pieces(self.checked(path))

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is none the less removed."""
        self._remove(self.checked(path))

    def mappable(self, path: str) -> Path:
        """Return a file of this machine that holds the same bytes, for a memory map."""
        return self._mappable(self.checked(path))

    def where(self, path: str) -> str:
        """Return what an error calls a file: store and path."""
        return f"the array at {path!r} in store {self.name!r}"

    def checked(self, path: str) -> str:
        """Return `path`, or raise if it could leave the store."""
        if (
            not isinstance(path, str)
            or _CLIMBS.search(path)
            or (os.name == "nt" and _CLIMBS_ON_WINDOWS.search(path))
        ):
            raise StoreError(
                f"refused the path {path!r} in store {self.name!r}: a path is relative, "
                f"without empty, '.' or '..' components. If a row holds it, the row was "
                f"not written by this codec"
            )
        return path

    @abstractmethod
    def refused(self, error: OSError, path: str, verb: str) -> NpyError:
        """Return what to raise for a backend's error: the one place where it is translated."""

    @abstractmethod
    def _create(self, paths: Iterable[str], pieces: Iterable[memoryview]) -> str: ...

    @abstractmethod
    def _read_into(self, path: str, start: int, buffers: Sequence[memoryview]) -> int | None: ...

    @abstractmethod
    def _read_beginning(self, path: str, length: int) -> tuple[bytes, int]: ...

    @abstractmethod
    def _pieces(self, path: str) -> Iterable[memoryview]: ...

    @abstractmethod
    def _remove(self, path: str) -> None: ...

    @abstractmethod
    def _mappable(self, path: str) -> Path: ...
