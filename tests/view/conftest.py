"""The real server of the page, and a client that asks as the page does."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest

from dj_npy import NpyRef
from dj_npy._view import view
from tests.support.faults import Proxy

Show = Callable[[Any], dict[str, int]]


def until(condition: Callable[[], Any]) -> None:
    """Wait for something that comes about, on a machine that does much else."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.01)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    """With names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def header(self) -> dict[str, Any]:
        """The header of a binary answer."""
        length = int.from_bytes(self.body[:4], "little")
        found: dict[str, Any] = json.loads(self.body[4 : 4 + length])
        return found

    @property
    def data(self) -> bytes:
        start = 4 + int.from_bytes(self.body[:4], "little")
        assert start % 8 == 0
        return self.body[start:]

    def array(self, dtype: str | None = None, *shape: int) -> Any:
        header = self.header
        found = np.frombuffer(self.data, dtype or header["dtype"])
        return found.reshape(shape or header["shape"])


class Page:
    """A client of the server at an address; some ask for an object of this process, too."""

    server: view.Running

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        assert parts.hostname == "127.0.0.1"
        self.port = parts.port or 0
        [self.token] = parse_qs(parts.query)["token"]

    def ask(
        self, path: str, params: Any = None, method: str = "GET", **headers: str | None
    ) -> Reply:
        given = {"Authorization": f"token {self.token}", **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            query = f"?{urlencode(params)}" if params else ""
            connection.putrequest(method, path + query, skip_host="Host" in headers)
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders()
            reply = connection.getresponse()
            told = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, told, reply.read())
        finally:
            connection.close()

    def get(self, name: str, **params: Any) -> Reply:
        return self.ask(f"/api/{name}", params)

    def fine(self, name: str, **params: Any) -> Reply:
        reply = self.get(name, **params)
        assert reply.status == 200, reply.body
        return reply

    def refused(self, status: int, name: str, **params: Any) -> str:
        reply = self.get(name, **params)
        assert reply.status == status, reply.body[:500]
        assert reply.json.keys() == {"error"}
        error: str = reply.json["error"]
        assert error
        assert "Traceback" not in error
        return error

    def give(self, ref: NpyRef) -> int:
        return self.server.give(ref)


@contextmanager
def served(connection: Any, *schemas: str) -> Iterator[Page]:
    server = view.Running(connection, 0, schemas)
    try:
        page = Page(server.address)
        page.server = server
        yield page
    finally:
        server.stop()


@pytest.fixture
def page(database: Any, stores: Any) -> Iterator[Page]:
    """For each database in turn."""
    with served(database.connection) as page:
        yield page


@pytest.fixture
def given(postgresql: Any) -> Iterator[Page]:
    """For arrays that are given to it; its database is not asked."""
    with served(postgresql.connection) as page:
        yield page


@pytest.fixture
def shown(given: Page, stored: Callable[..., NpyRef]) -> Show:
    """Stores an array; the parameters that name it."""

    def make(array: Any) -> dict[str, int]:
        return {"given": given.give(stored(array, len(given.server.app.arrays.given)))}

    return make


@pytest.fixture
def distant(
    stored: Callable[..., NpyRef], s3: dict[str, Any], proxy: Proxy
) -> Callable[[Any], NpyRef]:
    """Stores an array behind `proxy`, which forgets what it was asked for that."""

    def make(array: Any) -> NpyRef:
        ref = stored(array, store=s3)
        proxy.requests.clear()
        return ref

    return make
