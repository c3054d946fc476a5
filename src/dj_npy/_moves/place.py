"""Where a package is: a folder, or a folder in a store."""

import os
from collections.abc import Iterable, Iterator
from itertools import repeat
from stat import S_ISDIR, S_ISREG
from types import SimpleNamespace
from typing import Any

from dj_npy._errors import ArrayInvalidError, ArrayMissingError, StoreError
from dj_npy._stores import Listed, Store, StoreConfig, open_store
from dj_npy._stores.base import CLOCK, MARKER, PROBE
from dj_npy._text import kind_of, printable

_UNSAFE = frozenset("\\:\0")
"""Characters that lead elsewhere on some system."""


class Place:
    """
    The files of a package; each path is relative to the package.

    Parameters
    ----------
    folder : str or os.PathLike
        A folder of this machine, or one in a store.
    store : str, optional
        Name of that store.
    config : StoreConfig
        Where the store is configured.
    """

    def __init__(self, folder: Any, store: str | None, config: StoreConfig) -> None:
        if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
            raise ArrayInvalidError(f"a package is in a folder, not {kind_of(folder)}")
        self._prefix, self._folder = "", None
        path = os.fspath(folder)
        if store is None:
            self._folder = path = os.path.abspath(path)
            settings = {"protocol": "file", "location": path}
            config = SimpleNamespace(
                stores={"package": settings}, get_store_spec=lambda _=None: dict(settings)
            )
            store = "package"
        else:
            self._prefix = path.strip("/") + "/"
        self.config = config
        self.store: Store = open_store(config, store)
        self.is_missing = self._folder is not None and not os.path.isdir(self._folder)
        self.name = printable(f"{path!r}" if self._folder else f"{path!r} in store {store!r}")
        if self._prefix:
            self.store.check_path(self._prefix + "x")

    def make(self) -> None:
        """Create the folder, if it is one of this machine and not there."""
        if self._folder is not None:
            try:
                os.makedirs(self._folder, exist_ok=True)
            except OSError as error:
                raise StoreError(f"cannot create the folder {self.name}: {error}") from error

    @property
    def temporary_folder(self) -> str | None:
        """A folder on the same disk; None is the system's."""
        return self._folder

    def create(self, path: str, pieces: Iterable[memoryview], nbytes: int) -> None:
        """Create a file that is not there, whole and durable, or raise."""
        try:
            # Twice: a store that cannot create exclusively begins with the second.
            self.store.create(iter(tuple(repeat(self.inside(path), 2))), pieces, nbytes)
        except StopIteration:
            raise StoreError(
                f"{path!r} has come into the package {self.name} meanwhile. Does another export "
                f"write there?"
            ) from None

    def write(self, path: str, contents: bytes) -> None:
        """Create a small file."""
        self.create(path, [memoryview(contents)], len(contents))

    def pieces(self, path: str) -> Iterator[memoryview]:
        """Yield the bytes of a file."""
        yield from self.store.pieces(self.inside(path))

    def read(self, path: str) -> bytes | None:
        """Return the contents of a small file; None if it is not there."""
        try:
            return b"".join(self.pieces(path))
        except ArrayMissingError:
            return None

    def nbytes(self, path: str) -> int | None:
        """Return the size of a file; None if it is not there."""
        try:
            return self.store.stat(self.inside(path)).nbytes
        except ArrayMissingError:
            return None

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        self.store.remove(self.inside(path))

    def files(self) -> Iterator[str]:
        """Yield the paths of all files."""
        for each in self.listed():
            yield each.path

    def listed(self) -> Iterator[Listed]:
        """Yield all files as the store lists them, but with paths relative to the package."""
        own = (MARKER, PROBE, f"{CLOCK}/")
        for each in self.store.files(self._prefix.rstrip("/")):
            path = each.path.removeprefix(self._prefix)
            if not path.startswith(own):
                yield each._replace(path=path)

    def inside(self, path: str) -> str:
        """Return the path in the store."""
        return self._prefix + path

    def check(self, path: Any) -> str:
        """Return a path if it is that of a file within the package; otherwise raise."""
        if not isinstance(path, str) or not _UNSAFE.isdisjoint(path) or path != path.strip():
            raise _refused(self, path, "it is no relative path with slashes")
        try:
            self.store.check_path(path)
        except StoreError:
            raise _refused(self, path, "it is not relative, or leads out of the package") from None
        if self._folder is not None:
            parts = path.split("/")
            for end in range(1, len(parts) + 1):
                try:
                    mode = os.lstat(os.path.join(self._folder, *parts[:end])).st_mode
                except OSError as error:
                    why = f"there is no such file ({error.strerror})"
                    raise _refused(self, path, why) from None
                if not (S_ISREG(mode) if end == len(parts) else S_ISDIR(mode)):
                    raise _refused(self, path, "it is a link, or no regular file")
        return path


def _refused(place: Place, path: Any, why: str) -> ArrayInvalidError:
    return ArrayInvalidError(
        f"the package {place.name} names the file {str(path)!r:.300}, and {why}. "
        f"Nothing was changed"
    )
