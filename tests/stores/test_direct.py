"""Reads straight into an array's memory: right bytes, or none and obstore is asked."""

from typing import Any
from urllib.parse import urlsplit

import pytest

from dj_npy import StoreError
from dj_npy._stores import remote
from dj_npy._stores.obstore.direct import Direct
from dj_npy._stores.obstore.store import CloudStore
from dj_npy._stores.pace import Pace
from dj_npy._stores.pieces import targets
from tests.support.conformance import large
from tests.support.faults import Fault, Proxy, Request
from tests.support.references import store_of
from tests.support.servers import S3Raw, s3_settings

NBYTES = (40 << 20) + 5


@pytest.fixture
def opened(proxy: Proxy, location: str, impatient: None) -> CloudStore:
    store = store_of(s3_settings(proxy.endpoint, location=location))
    assert isinstance(store, CloudStore)
    return store


@pytest.fixture
def contents(moto: str, location: str) -> bytes:
    contents: bytes = large(NBYTES).tobytes()
    S3Raw(moto, location).put("file", contents)
    return contents


def direct(request: Request) -> bool:
    return "X-Amz-Signature" in request.query


def whole(store: CloudStore, nbytes: int = NBYTES) -> bytes:
    buffers = [bytearray(100), bytearray(nbytes - 100)]
    assert store.read_into("file", 0, [memoryview(buffer) for buffer in buffers]) == NBYTES
    return b"".join(buffers)


def test_a_large_object_comes_directly(opened: CloudStore, proxy: Proxy, contents: bytes) -> None:
    opened.read_beginning("file", 1)
    proxy.requests.clear()
    assert whole(opened) == contents
    assert len(proxy.requests) == 6  # five of 8 MiB, and 5 bytes
    assert sum(map(direct, proxy.requests)) == 5
    assert whole(opened) == contents  # over connections that are open already


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=503),
        Fault(status=403),
        Fault(status=404),
        Fault(reset=True),
        Fault(lose=True),
        Fault(cut=1_000_000),
        Fault(cut=0),
        Fault(stall=3),
        Fault(whole=True),
        Fault(other="bytes=7-8388613"),
    ],
    ids=str,
)
def test_whatever_is_wrong_obstore_is_asked(
    opened: CloudStore, proxy: Proxy, contents: bytes, fault: Fault
) -> None:
    proxy.harm = lambda request: fault if direct(request) else Fault()
    assert whole(opened) == contents
    proxy.harm = lambda request: Fault()
    assert whole(opened) == contents


def test_a_connection_that_was_closed_meanwhile(
    opened: CloudStore, proxy: Proxy, contents: bytes
) -> None:
    assert whole(opened) == contents
    assert opened._direct
    for connection in opened._direct._idle:
        assert connection.sock
        connection.sock.shutdown(2)
    proxy.requests.clear()
    assert whole(opened) == contents
    assert sum(map(direct, proxy.requests)) == 5


def test_a_server_that_does_not_take_the_signature_is_not_asked_again(
    opened: CloudStore, proxy: Proxy, contents: bytes
) -> None:
    proxy.harm = lambda request: Fault(status=403) if direct(request) else Fault()
    assert whole(opened) == contents
    proxy.requests.clear()
    assert whole(opened) == contents
    assert not any(map(direct, proxy.requests))


def test_an_object_replaced_meanwhile(opened: CloudStore, proxy: Proxy, contents: bytes) -> None:
    opened.read_beginning("file", 1)
    # As if it had been replaced between two parts: in truth either may be asked for first.
    another = Fault(headers={"etag": '"another"'})
    proxy.harm = lambda request: (
        another if (request.range or "").startswith("bytes=8388608-") else Fault()
    )
    assert opened.read_into("file", 0, [memoryview(bytearray(NBYTES))]) is None


def test_an_object_that_is_shorter(opened: CloudStore, contents: bytes) -> None:
    assert opened.read_into("file", 1, [memoryview(bytearray(NBYTES))]) is None


def test_a_signature_that_cannot_be_made(opened: CloudStore, contents: bytes) -> None:
    assert opened._direct

    def refuse(path: str) -> Any:
        raise StoreError(f"no signature for {path}")

    opened.read_beginning("file", 1)
    opened._direct._sign = refuse
    with pytest.raises(StoreError, match="no signature"):
        whole(opened)


@pytest.mark.parametrize("setting", ["store", "environment"])
def test_not_past_a_proxy_server(
    moto: str, location: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {}
    if setting == "store":
        more = {"proxy_server": "http://127.0.0.1:9"}
    else:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    store = store_of(s3_settings(moto, location=location, **more))
    assert isinstance(store, CloudStore)
    assert store._direct is None


def test_targets_of_a_part() -> None:
    buffers = [memoryview(bytearray(n)) for n in (3, 0, 4, 5)]
    for offset in range(12):
        for length in range(12 - offset):
            found = list(targets(buffers, offset, length))
            assert sum(map(len, found)) == length
            assert all(map(len, found))
    wide = [len(part) for part in targets(buffers, 1, 8)]
    assert wide == [2, 4, 2]


def test_over_tls_a_stranger_is_not_believed() -> None:
    """The certificate is checked; obstore then tells what is wrong with it."""
    asked = Direct(lambda path: urlsplit(f"https://127.0.0.1:9/{path}?x"), Pace())
    assert asked.fill("a", 0, [memoryview(bytearray(1))]) is None
    context = asked._secure
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode == 2


def test_a_server_that_trickles_is_left_to_obstore(
    opened: CloudStore, contents: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REQUEST_S", 0)
    assert opened._direct
    assert opened._direct.fill("file", 0, [memoryview(bytearray(NBYTES))]) is None
    assert whole(opened) == contents


def test_after_silence_no_other_connection_is_tried(
    opened: CloudStore, proxy: Proxy, contents: bytes
) -> None:
    assert whole(opened) == contents
    assert opened._direct
    assert len(opened._direct._idle) > 1
    proxy.harm = lambda request: Fault(stall=3)
    proxy.requests.clear()
    assert opened._direct.fill("file", 0, [memoryview(bytearray(100))]) is None
    assert len(proxy.requests) == 1
