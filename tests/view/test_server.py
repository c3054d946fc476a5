"""Nobody but the user is let in, and no request costs more than a bound."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dj_npy import NpyRef
from dj_npy._view import protocol, view
from dj_npy._view import server as server_module
from dj_npy._view.answers import Answer, Refused, as_json
from tests.support.faults import Fault, Proxy
from tests.view.conftest import Page, until

SECRET = "a-very-secret-word"


def test_the_token_is_needed_for_all_data_and_for_no_file(given: Page) -> None:
    for wrong in (None, "", "token", "token x", f"Token {given.token}", given.token, "token ü"):
        reply = given.ask("/api/schemas", Authorization=wrong)
        assert reply.status == 401
        assert "token" in reply.json["error"]
        assert given.token not in reply.body.decode()
    assert given.ask(f"/api/schemas?token={given.token}", Authorization=None).status == 401
    assert given.ask("/api/schemas").status == 200
    assert given.ask("/", Authorization=None).status == 200


def test_it_answers_on_the_loopback_interface_only(given: Page) -> None:
    others = {"127.0.0.2"}
    with suppress(OSError):
        others.add(socket.gethostbyname(socket.gethostname()))
    for address in others - {"127.0.0.1"}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, given.port), 2).close()


@pytest.mark.parametrize("path", ["/", "/api/schemas", "/assets/index.js"])
def test_other_names_of_the_host_are_refused(given: Page, path: str) -> None:
    """As those of a page whose name was made to lead here (DNS rebinding)."""
    for host in (
        "evil.example",
        "evil.example:{}",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost.:{}",
        "",
    ):
        assert given.ask(path, Host=host.format(given.port)).status == 400
    for host in ("127.0.0.1:{}", "localhost:{}", "LOCALHOST:{}", "[::1]:{}"):
        assert given.ask(path, Host=host.format(given.port)).status != 400


def test_pages_of_other_sites_are_refused(given: Page) -> None:
    for origin in ("https://evil.example", "null", f"https://127.0.0.1:{given.port}"):
        reply = given.ask("/api/schemas", Origin=origin)
        assert reply.status == 400
        assert not [name for name in reply.headers if name.startswith("access-control")]
    assert given.ask("/api/schemas", Origin=f"http://127.0.0.1:{given.port}").status == 200
    reply = given.ask("/api/schemas", method="OPTIONS", Origin="https://evil.example")
    assert reply.status == 400
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_every_answer_has_the_headers_that_keep_others_out(given: Page) -> None:
    for reply in (
        given.ask("/"),
        given.ask("/nothing"),
        given.ask("/api/schemas"),
        given.ask("/api/nothing"),
        given.ask("/api/schemas", Authorization=None),
        given.ask("/", Host="evil.example"),
    ):
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self' 'unsafe-eval'; ")
        assert policy.endswith("frame-ancestors 'none'")
        assert "http:" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert not reply.headers.keys() & {"server", "set-cookie"}
    assert given.ask("/api/schemas").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../../../etc/passwd",
        "/assets/../../server.py",
        "/assets/..%2f..%2fserver.py",
        "/%2e%2e/server.py",
        "//etc/passwd",
        "/etc/passwd",
        "/C:/Windows/win.ini",
        "/assets/%00",
        "/assets/",
        "/..\\server.py",
    ],
)
def test_no_path_leads_out_of_the_page(given: Page, path: str) -> None:
    assert given.ask(path).status == 404
    assert given.ask(f"/api{path}").status == 404


def test_files_of_the_page_are_sent_once(
    given: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<p>page")
    (tmp_path / "assets" / "index.js").write_text("1")
    (tmp_path / "secret.py").write_text("1")
    monkeypatch.setattr(server_module, "_STATIC", tmp_path)
    given.server.app._files = dict(server_module._page())
    first = given.ask("/", Authorization=None)
    assert (first.status, first.body) == (200, b"<p>page")
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    again = given.ask("/", **{"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    script = given.ask("/assets/index.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert given.ask("/secret.py").status == 404


def test_methods_that_are_not_there_are_refused(given: Page) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert given.ask("/api/schemas", method=method).status == 404
        assert given.ask("/", method=method).status == 404


def test_an_error_of_its_own_tells_no_details(
    given: Page, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Any) -> Any:
        raise KeyError(SECRET)

    given.server.app._routes["GET", "schemas"] = fail
    error = given.refused(500, "schemas")
    assert SECRET not in error
    assert "KeyError" in error
    assert SECRET in caplog.text  # in the terminal, for whoever looks for the reason


def test_no_error_has_a_credential(given: Page, postgresql: Any) -> None:
    """Whatever a database or a store says."""
    before = postgresql.config.stores
    database = given.server.app.database
    database.password = SECRET + "1"
    postgresql.config.stores = {
        "main": {"protocol": "s3", "secret_key": f"{SECRET}/2", "access_key": f"{SECRET}3"}
    }
    try:
        for secret in (f"{SECRET}1", f"{SECRET}/2", f"{SECRET}%2F2", f"{SECRET}3", given.token):

            def fail(_: Any, secret: str = secret) -> Any:
                raise Refused(502, f"no answer from http://host/?key={secret}.")

            given.server.app._routes["GET", "schemas"] = fail
            assert secret not in given.refused(502, "schemas")
    finally:
        postgresql.config.stores = before


def test_a_hundred_requests_at_a_time_are_worked_on_a_few_at_a_time(given: Page) -> None:
    now, most, lock = [0], [0], threading.Lock()

    def work(_: Any) -> Any:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return as_json(1)

    given.server.app._routes["GET", "schemas"] = work
    replies: list[int] = []
    threads = [
        threading.Thread(target=lambda: replies.append(given.get("schemas").status))
        for _ in range(100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [200] * 100
    assert most[0] == server_module.WORKERS


def begin(page: Page, path: str, **params: Any) -> http.client.HTTPConnection:
    """Ask, and do not wait for the answer."""
    query = "&".join(f"{key}={value}" for key, value in params.items())
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
    headers = {"Authorization": f"token {page.token}"}
    connection.request("GET", f"{path}?{query}", headers=headers)
    return connection


def test_a_client_that_has_gone_is_not_worked_for(given: Page) -> None:
    begun, release = [], threading.Event()

    def work(_: Any) -> Any:
        begun.append(1)
        release.wait(30)
        return as_json(1)

    given.server.app._routes["GET", "schemas"] = work
    asked = [begin(given, "/api/schemas") for _ in range(server_module.WORKERS + 5)]
    until(lambda: len(begun) == server_module.WORKERS)
    for connection in asked:
        connection.close()
    time.sleep(0.2)
    release.set()
    assert given.get("schemas").status == 200
    assert len(begun) == server_module.WORKERS + 1


def test_reading_stops_when_the_client_has_gone(
    given: Page, distant: Callable[[Any], NpyRef], proxy: Proxy
) -> None:
    number = given.give(distant(np.zeros((24, 1 << 20), "u1")))
    proxy.harm = lambda request: Fault(stall=0.3)
    asked = begin(given, "/api/slice", given=number, selection="0:24,0:1000")
    until(lambda: proxy.asked("GET"))
    asked.close()
    time.sleep(1.5)
    seen = len(proxy.asked("GET"))
    assert seen < 24
    time.sleep(1)
    assert len(proxy.asked("GET")) == seen


@pytest.mark.parametrize("path", ["/api/code", "/large.js"])
def test_a_client_that_does_not_read_holds_nobody_up(
    given: Page, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Nor does one without the token."""
    monkeypatch.setattr(protocol, "_READ_S", 0.5)
    large = b"x" * (64 << 20)
    given.server.app._routes["GET", "code"] = lambda _: Answer((large,))
    given.server.app._files["large.js"] = large, ""
    asked = [begin(given, path) for _ in range(2 * server_module.WORKERS)]
    until(lambda: len(connections(given)) == len(asked))
    until(lambda: not connections(given))
    assert given.get("schemas").status == 200
    for connection in asked:
        connection.close()


def test_a_client_that_reads_slowly_gets_all(given: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_READ_S", 0.5)
    given.server.app._files["large.js"] = b"x" * (64 << 20), ""
    asked = begin(given, "/large.js")
    reply, nbytes = asked.getresponse(), 0
    while data := reply.read(1 << 20):
        nbytes += len(data)
        time.sleep(0.02)  # as often as not, the server waits
    assert nbytes == 64 << 20
    asked.close()


@pytest.fixture
def few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server starts."""
    monkeypatch.setattr(view, "_CONNECTIONS", 3)


def test_connections_have_a_bound(few_connections: None, given: Page) -> None:
    clients = [connected(given) for _ in range(3)]
    until(lambda: len(connections(given)) == 3)
    one_more = connected(given)
    assert closed(clients[0])  # it was waited for longest
    assert len(connections(given)) == 3
    for client in (one_more, clients[2]):
        client.sendall(ASKED % given.port + b"\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    for client in (*clients, one_more):
        client.close()


def closed(client: socket.socket) -> bool:
    with suppress(ConnectionError):
        return client.recv(1) == b""
    return True


def test_connections_that_are_opened_again_and_again_lock_nobody_out(
    few_connections: None, given: Page
) -> None:
    """By somebody else on this machine: silent ones, and some that read nothing."""
    given.server.app._files["large.js"] = bytes(64 << 20), '"large"'
    large = b"GET /large.js HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"
    others: list[socket.socket] = []

    def come(sent: bytes) -> None:
        others.append(connected(given))
        others[-1].sendall(sent)

    for _ in range(4):
        for sent in (b"", ASKED % given.port, large % given.port):
            come(sent)
        assert given.ask("/").status == 200
    for client in others:
        client.close()


def test_a_request_that_is_worked_on_keeps_its_place(few_connections: None, given: Page) -> None:
    release = threading.Event()
    given.server.app._routes["GET", "schemas"] = lambda _: as_json(release.wait(30))
    asked = begin(given, "/api/schemas")
    until(lambda: len(given.server._server.server_state.tasks) == 1)
    clients = [connected(given) for _ in range(6)]
    assert all(closed(client) for client in clients[:4])
    release.set()
    assert asked.getresponse().read() == b"true"
    asked.close()
    for client in clients:
        client.close()


def connected(page: Page) -> socket.socket:
    return socket.create_connection(("127.0.0.1", page.port), 10)


def connections(page: Page) -> Any:
    """Those that the server has."""
    return page.server._server.server_state.connections


ASKED = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"


@pytest.mark.parametrize("begun", [b"", ASKED, ASKED + b"\r\n"])
def test_a_client_that_asks_nothing_locks_nobody_out(
    few_connections: None, given: Page, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another account, say: silent, or drip by drip, in the first request or the second."""
    monkeypatch.setattr(protocol, "_ASK_S", 1)
    clients = [connected(given) for _ in range(3)]
    for client in clients:
        client.sendall(begun.replace(b"%d", b"%d" % given.port))

    def drips(client: socket.socket) -> bool:
        """Whether the server still listens to it."""
        with suppress(ConnectionError):
            client.sendall(b"a" if begun else b"")
            client.settimeout(0.01)
            with suppress(TimeoutError):
                return client.recv(1 << 20) != b""
            return True
        return False

    until(lambda: not any(drips(client) for client in clients))
    assert given.ask("/").status == 200
    for client in clients:
        client.close()


def test_a_request_may_take_longer_than_asking(
    given: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_ASK_S", 0.2)
    release = threading.Event()
    given.server.app._routes["GET", "schemas"] = lambda _: as_json(release.wait(30))
    asked = begin(given, "/api/schemas")
    time.sleep(0.6)
    release.set()
    assert asked.getresponse().read() == b"true"
    asked.close()


def test_nonsense_is_answered_with_an_error(given: Page) -> None:
    for sent in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", given.port), 10) as client:
            client.sendall(sent)
            assert re.match(rb"HTTP/1.1 4\d\d", client.recv(100))
    with socket.create_connection(("127.0.0.1", given.port), 10) as client:
        client.sendall(b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\n\r\n")
        assert re.match(rb"HTTP/1.1 4\d\d|$", client.recv(100))
    assert json.loads(given.get("schemas").body)
