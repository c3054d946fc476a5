"""The connection is cut after the server has done the INSERT and before it could say so."""

import contextlib
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import datajoint as dj
import pytest
from datajoint.errors import DataJointError

from tests.conftest import connected_instance
from tests.datajoint.test_codec import WAVEFORM
from tests.support.servers import free_port


class CuttingProxy:
    """
    Passes TCP on to a port of this machine.

    Once `cut_next_insert` is set, the next INSERT goes through, its answer does not, and the
    connection is closed.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.cut_next_insert = False
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            cut = threading.Event()
            self._start(self._to_server, client, server, cut)
            self._start(self._to_client, server, client, cut)

    def _to_server(self, source: socket.socket, sink: socket.socket, cut: threading.Event) -> None:
        while data := received(source):
            if self.cut_next_insert and b"INSERT INTO" in data:
                self.cut_next_insert = False
                cut.set()
            with suppress(OSError):  # that end has hung up, which the other one will be told
                sink.sendall(data)
        hang_up(sink)

    def _to_client(self, source: socket.socket, sink: socket.socket, cut: threading.Event) -> None:
        while data := received(source):
            if cut.is_set():
                break
            with suppress(OSError):  # that end has hung up, which the other one will be told
                sink.sendall(data)
        hang_up(sink)
        hang_up(source)

    def close(self) -> None:
        for each in self._sockets:
            hang_up(each)
        for thread in self._threads:
            thread.join(60)
        for each in self._sockets:
            each.close()


def hang_up(connection: socket.socket) -> None:
    """Wake a thread that is reading, here and on the other side; `close` would not."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def received(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


@pytest.fixture(params=["mariadb", "mysql"])
def proxy(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[CuttingProxy]:
    database = request.getfixturevalue(request.param)
    # DataJoint does not pass `use_tls=False` on, and the proxy would not see the statements.
    monkeypatch.setattr("pymysql.connections.SSL_ENABLED", False)
    proxy = CuttingProxy(database.connection.conn_info["port"])
    yield proxy
    proxy.close()


def test_no_row_loses_its_file_when_the_answer_is_lost(proxy: CuttingProxy, store: Path) -> None:
    database = connected_instance(proxy.port)
    main = {"protocol": "file", "location": str(store)}
    database.config.stores = {"default": "main", "main": main}
    schema = database.Schema(f"test_{uuid.uuid4().hex[:12]}")

    @schema
    class Recording(dj.Manual):
        definition = "recording_id : int32\n---\nwaveform : <npy@>"

    Recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    proxy.cut_next_insert = True
    # DataJoint connects again and sends it again: the row is there already.
    with pytest.raises(DataJointError):
        Recording.insert1({"recording_id": 2, "waveform": WAVEFORM + 1})
    rows = Recording.to_dicts()
    assert [row["recording_id"] for row in rows] == [1, 2]
    for row in rows:
        row["waveform"].verify()
    schema.drop(prompt=False)
    database.connection.close()
