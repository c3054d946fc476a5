"""`verify` and `collect` on an S3 that fails: nothing is taken for lost, and nothing is lost."""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

import dj_npy
import dj_npy._upkeep.collect
from dj_npy._stores import remote
from dj_npy._stores.obstore import clients
from tests.support.faults import Fault, Proxy, Request, proxy_of
from tests.support.servers import S3Raw, s3_settings

WAVEFORM = np.arange(12.0).reshape(3, 4)
NOW = timedelta(0)


@pytest.fixture
def proxy(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(clients, "MAX_RETRIES", 2)
    monkeypatch.setattr(remote, "RETRY_S", 3)
    with proxy_of(moto) as proxy:
        yield proxy


@pytest.fixture
def database(postgresql: Any) -> Any:
    return postgresql


@pytest.fixture
def raw(moto: str, proxy: Proxy, database: Any, stores: Any) -> S3Raw:
    location = f"upkeep/{uuid.uuid4().hex}"
    database.config.stores["cloud"] = s3_settings(proxy.endpoint, location=location)
    return S3Raw(moto, location)


@pytest.fixture
def far(raw: S3Raw, table: Callable[..., Any]) -> Any:
    """Nine rows, of which three are gone; their files are there."""
    far = table("id : int32\n---\nwaveform : <npy@cloud>", "Far")
    dj_npy.insert(far, [{"id": n, "waveform": WAVEFORM + n} for n in range(9)])
    (far & "id < 3").delete(prompt=False)
    return far


def live(far: Any) -> set[str]:
    return {row["waveform"].path for row in far.to_dicts()} | {".dj-npy-probe"}


def is_removal(request: Request) -> bool:
    return request.method == "DELETE" or (request.method == "POST" and "delete" in request.query)


def harm_removals(count: int, fault: Fault) -> Callable[[Request], Fault]:
    left = [None] * count
    return lambda request: fault if is_removal(request) and left and not left.pop() else Fault()


def is_listing(request: Request) -> bool:
    return request.method == "GET" and "list-type=2" in request.query


LISTINGS = {
    "403": Fault(status=403, code="AccessDenied"),
    "500": Fault(status=500, code="InternalError"),
    "reset": Fault(reset=True),
    "cut": Fault(cut=100),
}


@pytest.mark.parametrize("fault", LISTINGS)
def test_a_listing_that_fails_removes_nothing(
    far: Any, schema: Any, raw: S3Raw, proxy: Proxy, fault: str
) -> None:
    before = raw.keys()
    proxy.harm = lambda request: LISTINGS[fault] if is_listing(request) else Fault()
    with pytest.raises(dj_npy.StoreError, match="list"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert raw.keys() >= before  # the object that tells the time may still be there
    proxy.harm = lambda request: Fault()
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 3


def test_a_listing_of_many_pages_that_fails_in_the_middle_removes_nothing(
    far: Any, schema: Any, raw: S3Raw, proxy: Proxy
) -> None:
    entity = far.fetch("waveform")[0].path.rpartition("/")[0]
    for n in range(1100):  # a page has a thousand
        raw.put(f"{entity}/notes-{n}.txt", b"")
    before = raw.keys()

    def harm(request: Request) -> Fault:
        is_second = is_listing(request) and "continuation-token" in request.query
        return Fault(status=403, code="AccessDenied") if is_second else Fault()

    proxy.harm = harm
    with pytest.raises(dj_npy.StoreError, match="list"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert raw.keys() >= before


def test_a_removal_that_was_not_answered_is_told_and_the_next_collection_settles_it(
    far: Any, schema: Any, raw: S3Raw, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dj_npy._stores.remote.RemoteStore._now", lambda _: datetime.now(UTC))
    proxy.harm = harm_removals(1, Fault(lose=True))
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert found.removed == 2
    assert len(found.failures) == 1
    assert not found.ok
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).ok
    assert raw.keys() == live(far)


def test_a_removal_that_was_refused_is_made_up_for_by_the_next_collection(
    far: Any, schema: Any, raw: S3Raw, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dj_npy._stores.remote.RemoteStore._now", lambda _: datetime.now(UTC))
    proxy.harm = harm_removals(2, Fault(status=503))
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert (found.removed, len(found.failures)) == (1, 2)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 2
    assert raw.keys() == live(far)


def respelled(raw: S3Raw, spell: Callable[[str], str]) -> Callable[[Request], Fault]:
    """A HEAD answers with its tag spelled in another way than a listing."""

    def harm(request: Request) -> Fault:
        if request.method != "HEAD" or not request.path.endswith("/waveform.npy"):
            return Fault()
        key = unquote(request.path).partition(f"{raw.location}/")[2]
        return Fault(headers={"ETag": spell(hashlib.md5(raw.get(key)).hexdigest())})

    return harm


SPELLED: dict[str, Callable[[str], str]] = {
    "as it is": '"{0}"'.format,
    "without quotes": str,
    "weak": 'W/"{0}"'.format,
    "in capitals": lambda tag: f'"{tag.upper()}"',
}


@pytest.mark.parametrize("spelled", SPELLED)
def test_a_tag_may_be_spelled_in_two_ways(
    far: Any, schema: Any, raw: S3Raw, proxy: Proxy, spelled: str
) -> None:
    proxy.harm = respelled(raw, SPELLED[spelled])
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert (found.removed, found.changed, found.failures) == (3, 0, [])
    assert raw.keys() == live(far)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-0/7"},
        {"ETag": '"0123456789abcdef0123456789abcdef"'},
        {"ETag": None},
        {"Last-Modified": "Thu, 01 Jan 2099 00:00:00 GMT"},
    ],
    ids=str,
)
def test_what_stays_as_the_store_contradicts_itself_is_told(
    far: Any, schema: Any, raw: S3Raw, proxy: Proxy, headers: dict[str, str | None]
) -> None:
    before = raw.keys()
    proxy.harm = lambda request: (
        Fault(headers=headers)
        if request.range == "bytes=0-0" and request.path.endswith("/waveform.npy")
        else Fault()
    )
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert (found.removed, found.changed) == (0, 0)
    assert len(found.failures) == 3
    assert not found.ok
    assert "waveform.npy" in found.failures[0]
    assert raw.keys() == before
    proxy.harm = lambda request: Fault()
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 3


def test_an_object_that_was_replaced_meanwhile_stays_and_is_told(
    far: Any, schema: Any, raw: S3Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = dj_npy._upkeep.inventory.Inventory.remove
    [one, *_] = sorted(raw.keys() - live(far))

    def remove(self: Any, *args: Any) -> None:
        raw.put(one, b"another")
        original(self, *args)

    monkeypatch.setattr(dj_npy._upkeep.inventory.Inventory, "remove", remove)
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert (found.removed, found.changed, found.ok) == (2, 1, True)
    assert "1 had gone or were other files by then" in str(found)
    assert raw.get(one) == b"another"


@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("fault", ["403", "500", "reset"])
def test_what_cannot_be_read_is_not_told_as_missing_or_damaged(
    far: Any, proxy: Proxy, checksums: bool, fault: str
) -> None:
    proxy.harm = lambda request: LISTINGS[fault] if "/id%3D5/" in request.path else Fault()
    report = dj_npy.verify(far, headers=True, checksums=checksums)
    assert report.counts["unreadable"] == 1
    assert sum(report.counts.values()) == 6
    assert report.findings[0].key == {"id": 5}
    assert not report.ok


def test_an_account_that_may_list_and_not_read_is_noticed_without_headers(
    far: Any, proxy: Proxy
) -> None:
    proxy.harm = lambda request: (
        LISTINGS["403"] if request.path.endswith("/waveform.npy") else Fault()
    )
    report = dj_npy.verify(far)
    assert report.counts == {"size as described": 5, "unreadable": 1}
    assert not report.ok


def test_what_fails_for_a_moment_is_verified_all_the_same(far: Any, proxy: Proxy) -> None:
    proxy.times(3, Fault(status=500, code="InternalError"), "GET")
    assert dj_npy.verify(far, checksums=True).counts == {"as inserted": 6}
