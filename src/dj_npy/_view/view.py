"""`dj_npy.view`: starts the server in this process, and shows its page."""

import atexit
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import datajoint as dj

from dj_npy._array.ref import NpyRef
from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._text import kind_of

_HOST = "127.0.0.1"
_STARTS_WITHIN_S = 10
_CONNECTIONS = 200
"""Most connections at a time; of their requests, a few are worked on, and others wait."""
_HEIGHT = 700
"""Pixels of the page in a notebook."""


def view(what: Any = None, *, port: int | None = None, browser: bool | None = None) -> str:
    """
    Show tables and arrays in a page of the browser, or in the cell of a notebook.

    The page comes from this process, and ends with it. It can be reached from this machine only,
    by those who have the address. It never writes to the database or to a store. Needs the extra
    ``view``: ``pip install 'dj-npy[view]'``.

    Parameters
    ----------
    what : table or NpyRef, optional
        What to show first: a table, perhaps restricted, as a class or an object, or an array.
        Default: the schemas of the database.
    port : int, optional
        On which to listen. Default: that of this process if it listens already, or any free one.
    browser : bool, optional
        Whether to open the browser. Default: outside a notebook.

    Returns
    -------
    str
        The address. It has a token, as a password that changes each time: whoever has it on this
        machine sees your data.

    Raises
    ------
    StoreError
        If the extra is not installed, or the port is taken.
    ArrayInvalidError
        If `what` is something else, such as a join, or `port` is no port.

    Examples
    --------
    >>> dj_npy.view(Recording & "recording_id < 3")  # doctest: +SKIP
    'http://127.0.0.1:41641/?token=...#/lab.recording?where=...'
    """
    connection, start = _begun(what)
    server = running(connection, port=port)
    if isinstance(what, NpyRef):
        start = f"/given/{server.give(what)}"
    address = f"{server.address}#{start}"
    in_notebook = _in_notebook()
    if in_notebook:
        server.app.in_notebook = True
        from IPython.display import IFrame, display

        display(IFrame(address, "100%", _HEIGHT))  # type: ignore[no-untyped-call]
    if browser or (browser is None and not in_notebook):
        open_browser(address)
    return address


class Running:
    """
    A server in a thread of this process.

    Parameters
    ----------
    connection : datajoint.Connection
        The user's; the server makes its own.
    port : int
        On which to listen; 0 is any free one.
    schemas : sequence of str
        Schemas to list; none are all.
    """

    def __init__(self, connection: Any, port: int, schemas: Sequence[str]) -> None:
        try:
            import uvicorn
        except ImportError as error:
            raise StoreError(
                f"the page needs the package {error.name!r}: pip install 'dj-npy[view]'"
            ) from error
        from dj_npy._view.database import Database
        from dj_npy._view.protocol import Protocol
        from dj_npy._view.server import App

        self.connection, self.schemas, self.process = connection, tuple(schemas), os.getpid()
        listener = _listener(port)
        self.port: int = listener.getsockname()[1]
        token = secrets.token_urlsafe(24)
        self.address = f"http://{_HOST}:{self.port}/?{urlencode({'token': token})}"
        prelude = _embedded(connection)
        self.app = App(
            Database(connection),
            token,
            self.port,
            schemas=self.schemas,
            prelude=prelude,
            version=metadata.version("dj-npy"),
        )
        config = uvicorn.Config(
            self.app,
            loop="asyncio",
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS + 1,  # at which it refuses
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="dj-npy view", daemon=True
        )
        self._thread.start()
        until = time.monotonic() + _STARTS_WITHIN_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise StoreError(
                    f"the server of the page did not start at port {self.port} within "
                    f"{_STARTS_WITHIN_S} s: try again, or another port"
                )
            time.sleep(0.005)
        atexit.register(self.stop)

    @property
    def is_running(self) -> bool:
        """Whether it answers; not in a forked child, which has no thread of its."""
        return self._thread.is_alive() and self.process == os.getpid()

    def give(self, ref: NpyRef) -> int:
        """Show an array that is in no table; return its number."""
        given = self.app.arrays.given
        if all(each is not ref for each in given):
            given.append(ref)
        return next(n for n, each in enumerate(given) if each is ref)

    def stop(self) -> None:
        """End it, and all of its work."""
        atexit.unregister(self.stop)
        if self.is_running:
            self._server.should_exit = True
            self._thread.join(_STARTS_WITHIN_S)
            self.app.close()


_running: list[Running] = []
_starting = threading.Lock()


def running(connection: Any, *, port: int | None = None, schemas: Sequence[str] = ()) -> Running:
    """Return the server of this process for a connection; start it if it does not run."""
    if port is not None and (not isinstance(port, int) or not 0 <= port < 1 << 16):
        raise ArrayInvalidError(f"port is a number from 0 to 65535, not {kind_of(port)}")
    with _starting:
        _running[:] = [each for each in _running if each.is_running]
        for each in _running:
            is_its = each.connection is connection and each.schemas == tuple(schemas)
            if is_its and port in (None, 0, each.port):
                return each
        _running.append(Running(connection, port or 0, schemas))
        return _running[-1]


def open_browser(address: str) -> None:
    """
    Open the browser by a file that only this user can read, which leads to the address.

    As an argument of the browser's, all users of the machine would see the token.
    """
    descriptor, name = tempfile.mkstemp(prefix="dj-npy-view-", suffix=".html")
    with os.fdopen(descriptor, "w") as file:
        file.write(
            f'<!doctype html><meta http-equiv="refresh" content="0;url={escape(address)}">'
            f'<a href="{escape(address)}">dj-npy view</a>'
        )
    atexit.register(_remove, name)
    with suppress(Exception):  # the address is printed, too
        webbrowser.open(Path(name).as_uri())


def _remove(name: str) -> None:
    with suppress(OSError):
        os.unlink(name)


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere, others could listen at the same port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise StoreError(
            f"cannot listen on port {port} ({error.strerror}): choose another, or leave it out, "
            f"which finds a free one"
        ) from error
    return listener


def _begun(what: Any) -> tuple[Any, str]:
    """Return the connection, and what the page shows first."""
    if isinstance(what, type) and issubclass(what, dj.Table):
        what = what()
    if isinstance(what, dj.Table):
        _, table = what.connection.adapter.split_full_table_name(what.full_table_name)
        if what._top is None and not what.heading.new_attributes and len(what.support) == 1:
            where = ")AND(".join(str(each) for each in what.restriction).replace("%%", "%")
            query = f"?{urlencode({'where': f'({where})'}, quote_via=quote)}" if where else ""
            return what.connection, f"/{quote(f'{what.database}.{table}')}{query}"
    elif what is None or isinstance(what, NpyRef):
        return dj.conn(), "/"
    raise ArrayInvalidError(
        f"dj_npy.view takes a table, perhaps restricted, or an array, not {kind_of(what)}"
    )


def _embedded(connection: Any) -> tuple[str, ...]:
    """Return Python that starts the embedded database again, if the connection is to one."""
    host = str(connection.conn_info["host"])
    for spec in connection._config.stores.values():
        if os.path.isabs(host) and isinstance(spec, dict) and spec.get("protocol") == "file":
            folder = Path(str(spec.get("location"))).parent
            with suppress(OSError, IndexError):
                # Its fifth line names the folder of the server's socket.
                pid_file = folder / "postgres" / "postmaster.pid"
                if pid_file.read_text().splitlines()[4] == host:
                    return (f"dj_npy.embedded.start({str(folder)!r})",)
    return ()


def _in_notebook() -> bool:
    """Whether output goes to a notebook; a terminal of IPython shows no page."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")
