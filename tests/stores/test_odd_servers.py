"""Servers that are not quite S3: what they refuse, and what they leave out."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dj_npy import ArrayMissingError, StoreError
from dj_npy._cli.remotefile import beginning_of_url
from dj_npy._concurrency.threads import in_time
from dj_npy._stores import Store, amazon, botocore, open_store, opening, remote
from dj_npy._stores.base import PROBE
from dj_npy._stores.environment import ca_bundle, ca_certificates, tls
from dj_npy._stores.fsspec import GenericStore
from dj_npy._stores.listed import Listed
from dj_npy._stores.obstore.store import CloudStore
from tests.support.cases import case
from tests.support.conformance import IN_PARTS, PLAIN, beginning, create, large, read
from tests.support.faults import Fault, Proxy, Request, proxy_of
from tests.support.references import store_of
from tests.support.servers import ACCESS_KEY, SECRET_KEY, S3Raw, s3_client, s3_settings

pytestmark = pytest.mark.usefixtures("parts_from_16_mib")

BOTH = pytest.mark.parametrize("through", ["obstore", "fsspec"], indirect=True)


@pytest.fixture
def through(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(opening, "_forked", request.param == "fsspec")
    return str(request.param)


def open_through(proxy: Proxy, location: str, **more: Any) -> Store:
    return store_of(s3_settings(proxy.endpoint, location=location, **more))


# "Never"

NEVER = {
    "501": Fault(status=501, code="NotImplemented"),
    "405": Fault(status=405, code="MethodNotAllowed"),
    "400": Fault(status=400, code="NotImplemented"),
    "400 of another name": Fault(status=400, code="InvalidArgument"),
}


def to_conditions(fault: Fault) -> Callable[[Request], Fault]:
    return lambda request: fault if request.is_conditional else Fault()


@pytest.mark.parametrize("never", NEVER)
def test_a_never_is_final_and_remembered(
    proxy: Proxy, raw: S3Raw, location: str, never: str
) -> None:
    proxy.harm = to_conditions(NEVER[never])
    store = open_through(proxy, location)
    started = time.monotonic()
    path = create(store, b"contents")
    assert time.monotonic() - started < 30
    assert path != PLAIN
    assert raw.get(path) == b"contents"
    assert len(proxy.requests) <= 4
    proxy.requests.clear()
    create(store, b"contents")
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("never", NEVER)
def test_a_change_where_conditions_are_never_taken(
    proxy: Proxy, raw: S3Raw, location: str, never: str
) -> None:
    proxy.harm = to_conditions(NEVER[never])
    raw.put("lab/a.npy", b"contents")
    store = open_through(proxy, location)
    for most in (6, 0):
        proxy.requests.clear()
        started = time.monotonic()
        with pytest.raises(StoreError, match=r"could not map the array at 'lab/a.npy'.*replace"):
            store.open_to_change("lab/a.npy")
        assert time.monotonic() - started < 30
        assert len(proxy.requests) <= most


@BOTH
def test_an_error_names_what_was_asked_for(
    proxy: Proxy, location: str, through: str, impatient: None
) -> None:
    proxy.harm = lambda request: Fault(status=403, code="AccessDenied")
    store = open_through(proxy, location)
    uses: list[Callable[[], Any]] = [
        lambda: create(store, b"1", "lab/a.npy"),
        lambda: create(store, bytes(IN_PARTS), "lab/a.npy"),
        lambda: store.create_copy(iter(["lab/b.npy", "lab/c.npy"]), "lab/a.npy", 10),
        lambda: store.open_to_change("lab/a.npy"),
    ]
    for use in uses:
        with pytest.raises(StoreError, match=r"'lab/a(_[-\w]+)?\.npy'"):
            use()


@pytest.mark.parametrize("status", [429, 503])
def test_a_later_is_tried_again(
    proxy: Proxy, raw: S3Raw, location: str, status: int, impatient: None
) -> None:
    proxy.times(2, Fault(status=status), "PUT")
    path = create(open_through(proxy, location), b"contents")
    assert path == PLAIN
    assert raw.get(path) == b"contents"


# Answers without a length

UNMEASURED = {
    "no length": Fault(chunked=True),
    "no sizes": Fault(chunked=True, headers={"content-range": None}),
    "whole": Fault(chunked=True, whole=True),
    "unknown size": Fault(chunked=True, headers={"content-range": "bytes 0-0/*"}),
}


@BOTH
@pytest.mark.parametrize("nbytes", [0, 1, 100_000, (9 << 20) + 5])
@pytest.mark.parametrize("kind", UNMEASURED)
def test_an_answer_without_a_length(
    proxy: Proxy, raw: S3Raw, location: str, kind: str, nbytes: int, through: str
) -> None:
    contents = large(nbytes).tobytes()
    raw.put("file", contents)
    fault = UNMEASURED[kind]
    proxy.harm = lambda request: fault if request.method in ("GET", "HEAD") else Fault()
    store = open_through(proxy, location)
    assert store.stat("file").nbytes == nbytes
    assert read(store, "file", 0, nbytes) == (nbytes, [contents])
    assert b"".join(store.pieces("file")) == contents
    assert beginning(store, "file", 128) == (contents[:128], nbytes)
    if nbytes > 2:
        assert read(store, "file", 1, nbytes - 2) == (nbytes, [contents[1:-1]])
        assert read(store, "file", 1, nbytes)[0] is None
    with store.open_to_map("file") as copy:
        assert copy.read() == contents
    with pytest.raises(ArrayMissingError):
        read(store, "gone", 0, 10)


@BOTH
def test_an_array_whose_answer_has_no_length(
    proxy: Proxy, location: str, stored: Any, through: str
) -> None:
    array = np.random.default_rng(0).standard_normal((5 << 20,))
    ref = stored(array, store=s3_settings(proxy.endpoint, location=location))
    proxy.harm = lambda request: Fault(chunked=request.method in ("GET", "HEAD"))
    assert np.array_equal(ref.load(), array)
    assert np.array_equal(ref[1000:2000], array[1000:2000])
    assert np.array_equal(ref.load(mmap_mode="r"), array)
    ref.verify()


def test_an_answer_without_a_length_that_is_cut(
    proxy: Proxy, raw: S3Raw, location: str, impatient: None
) -> None:
    raw.put("file", large(100_000).tobytes())
    for whole in (False, True):
        proxy.harm = lambda request, whole=whole: Fault(chunked=True, cut=1000, whole=whole)  # type: ignore[misc]
        with pytest.raises(StoreError):
            read(open_through(proxy, location), "file", 0, 100_000)


# Answers that never come

ENDLESS = {"drips": Fault(drip=0.05), "continues": Fault(again=True)}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_head_without_end(
    proxy: Proxy, raw: S3Raw, location: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REQUEST_S", 2)
    raw.put("file", large(2 << 20).tobytes())
    store = open_through(proxy, location)
    assert isinstance(store, CloudStore)
    assert store._direct
    proxy.harm = lambda request: ENDLESS[kind]
    started = time.monotonic()
    assert store._direct.fill("file", 0, [memoryview(bytearray(2 << 20))]) is None
    assert time.monotonic() - started < 30
    started = time.monotonic()
    with pytest.raises(StoreError, match="could not read"):
        beginning_of_url(f"{proxy.endpoint}/bucket/{location}/file")[1](10)
    assert time.monotonic() - started < 30


ASKED: dict[str, Callable[[Store], object]] = {
    "stat": lambda store: store.stat("file"),
    "read": lambda store: store.read_into("file", 0, [memoryview(bytearray(1000))]),
    "create": lambda store: create(store, b"contents"),
    "list": lambda store: list(store.files()),
    "remove": lambda store: store.remove("file"),
    "time": lambda store: store.now(),
}


@BOTH
@pytest.mark.parametrize("kind", ENDLESS)
def test_a_request_whose_head_does_not_end(
    proxy: Proxy,
    raw: S3Raw,
    location: str,
    through: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of any kind, in a forked child as well; and nothing goes on after a removal."""
    for limit in ("REQUEST_S", "SILENCE_S", "RETRY_S"):
        monkeypatch.setattr(remote, limit, 1)
    raw.put("file", b"x" * 1000)
    store = open_through(proxy, location)
    create(store, b"contents")
    proxy.harm = lambda request: ENDLESS[kind]

    def ask(asked: str) -> None:
        with (
            case(asked),
            pytest.raises(StoreError, match="time-out: the server or the network stalls"),
        ):
            in_time(lambda: ASKED[asked](store), 30)

    threads, started = threading.active_count(), time.monotonic()
    ask("remove")
    assert threading.active_count() <= threads + 2  # the proxy has one for each connection
    with ThreadPoolExecutor(len(ASKED)) as pool:  # each waits, and so they do at once
        list(pool.map(ask, ASKED.keys() - {"remove"}))
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("kind", ENDLESS)
def test_unfinished_uploads_whose_list_does_not_end(
    proxy: Proxy, location: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REQUEST_S", 1)
    store = open_through(proxy, location)
    proxy.harm = lambda request: ENDLESS[kind]
    uses: list[Callable[[], object]] = [
        lambda: list(store.uploads()),
        lambda: store.abort(Listed("file", 0, datetime.now(UTC), "id")),
    ]
    for use in uses:
        with pytest.raises(StoreError, match="time-out: the server or the network stalls"):
            in_time(use, 8)


class Slow(MemoryFileSystem):
    """A plugin each of whose folders takes a while to list."""

    cachable = False
    takes = 0.0
    fails: Exception | None = None

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        time.sleep(self.takes)
        if self.fails:
            raise self.fails
        return super().ls(path, detail, **options)


def test_each_folder_of_a_plugin_is_listed_in_time(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "REQUEST_S", 0.5)
    filesystem = Slow()
    store = GenericStore("main", filesystem, f"/{location}/".__add__, "memory")
    paths = {create(store, b"1", f"{n}/a.npy") for n in range(4)}
    filesystem.takes = 0.2  # and so more than is waited for, in all
    assert {each.path for each in store.files()} == paths
    filesystem.takes = 1
    with pytest.raises(StoreError, match="could not list"):
        list(store.files())


def test_a_folder_of_a_plugin_that_cannot_be_listed_is_not_empty(location: str) -> None:
    filesystem = Slow()
    store = GenericStore("main", filesystem, f"/{location}/".__add__, "memory")
    assert list(store.files()) == []
    filesystem.fails = PermissionError("no")
    with pytest.raises(StoreError, match="could not list"):
        list(store.files())


def test_a_folder_of_a_plugin_in_place_of_a_file_is_no_file(location: str) -> None:
    filesystem = Slow()
    store = GenericStore("main", filesystem, f"/{location}/".__add__, "memory")
    filesystem.makedirs(f"/{location}/lab/a.npy")
    with pytest.raises(ArrayMissingError):
        store.stat("lab/a.npy")


@pytest.mark.parametrize("use", [ca_bundle, ca_certificates, tls])
def test_certificates_in_a_fifo(
    use: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "ca.pem")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(StoreError, match=r"AWS_CA_BUNDLE names '.*ca.pem'.*FIFO"):
        in_time(use, 5)


# Names that are never free, and conflicts


@BOTH
@pytest.mark.parametrize("status", [409, 412])
def test_a_server_that_calls_every_name_taken(
    proxy: Proxy, raw: S3Raw, location: str, through: str, status: int
) -> None:
    taken = Fault(status=status, code="PreconditionFailed")
    proxy.harm = to_conditions(taken)
    store = open_through(proxy, location)
    paths = [in_time(lambda: create(store, b"contents"), 8) for _ in range(2)]
    assert PLAIN not in paths
    assert {raw.get(path) for path in paths} == {b"contents"}
    asked = {each.name for each in proxy.asked("PUT") if each.is_conditional}
    assert len(asked) <= 1 + 4  # the probe, the plain name and three random ones
    proxy.requests.clear()
    create(store, b"contents")
    assert len(proxy.requests) == 1
    large_one = create(store, bytes(IN_PARTS))
    assert len(raw.get(large_one)) == IN_PARTS


@BOTH
def test_a_conflict_is_tried_again(proxy: Proxy, raw: S3Raw, location: str, through: str) -> None:
    store = open_through(proxy, location)
    create(store, b"others", "lab/b.npy")
    conflict = Fault(status=409, code="ConditionalRequestConflict")
    proxy.times(2, conflict, "PUT")
    assert create(store, b"contents") == PLAIN
    assert raw.get(PLAIN) == b"contents"
    proxy.times(2, conflict, "PUT")
    assert create(store, b"another") != PLAIN
    assert raw.get(PLAIN) == b"contents"


@BOTH
def test_a_conflict_without_end(
    proxy: Proxy, location: str, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RETRY_S", 1)
    proxy.harm = lambda request: Fault(status=409, code="OperationAborted")
    with pytest.raises(StoreError, match=r"under way.*try again later.*OperationAborted"):
        in_time(lambda: create(open_through(proxy, location), b"contents"), 8)


# "Later", and "never"

LATER = {
    429: ("TooManyRequests", "the server is overloaded; try again later"),
    500: ("InternalError", "the server has failed; try again later"),
    503: ("SlowDown", "the server is overloaded; try again later"),
}


@BOTH
@pytest.mark.parametrize("status", LATER)
def test_a_later_without_end(
    proxy: Proxy,
    location: str,
    through: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    impatient: None,
) -> None:
    """Tried in one layer, and told in the same words."""
    monkeypatch.setattr(botocore, "ATTEMPTS", 3)
    monkeypatch.setattr(remote, "RETRY_S", 1)
    code, words = LATER[status]
    store = open_through(proxy, location)
    create(store, b"contents")
    proxy.harm = lambda request: Fault(status=status, code=code)
    proxy.requests.clear()
    with pytest.raises(StoreError, match=words) as caught:
        create(store, b"contents")
    assert code in str(caught.value)
    assert through == "obstore" or len(proxy.requests) == 3
    for use in ASKED["read"], ASKED["list"]:
        proxy.requests.clear()
        with pytest.raises(StoreError, match=words):
            use(store)
        assert len(proxy.requests) <= 10


@BOTH
@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (411, "MissingContentLength", "MissingContentLength"),
        (413, "EntityTooLarge", "takes nothing of this size"),
        (507, "InsufficientStorage", "the store is full"),
    ],
)
def test_a_never_is_no_later(
    proxy: Proxy, location: str, through: str, status: int, code: str, words: str
) -> None:
    proxy.harm = lambda request: Fault(status=status, code=code)
    started = time.monotonic()
    with pytest.raises(StoreError, match=words):
        create(open_through(proxy, location), b"contents")
    assert time.monotonic() - started < 30
    assert len(proxy.requests) <= 12


def test_an_answer_that_is_cut_is_asked_for_again(
    proxy: Proxy, raw: S3Raw, location: str, as_if_forked: None
) -> None:
    raw.put("file", large(100_000).tobytes())
    store, cuts = open_through(proxy, location), [2]

    def harm(request: Request) -> Fault:
        if request.range == "bytes=0-0" or not cuts[0]:
            return Fault()
        cuts[0] -= 1
        return Fault(cut=1000)

    proxy.harm = harm
    assert read(store, "file", 0, 100_000) == (100_000, [large(100_000).tobytes()])
    assert cuts == [0]


# Checksums


def checked(request: Request) -> Fault:
    """As a bucket with Object Lock answers: a PUT must have a checksum."""
    sums = {"content-md5", "x-amz-checksum-sha256"} & request.headers.keys()
    if request.method != "PUT" or sums or "x-amz-copy-source" in request.headers:
        return Fault()
    return Fault(status=400, code="InvalidRequest")


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("server", ["moto", "rclone", "seaweedfs"])
@pytest.mark.parametrize("nbytes", [0, 1000, IN_PARTS])
def test_checksums_are_sent(
    server: str,
    location: str,
    nbytes: int,
    through: str,
    request: pytest.FixtureRequest,
) -> None:
    url = request.getfixturevalue(server)
    contents = large(nbytes).tobytes()
    with proxy_of(url) as proxy:
        proxy.harm = checked
        path = create(open_through(proxy, location), contents)
    assert S3Raw(url, location).get(path) == contents


@BOTH
def test_object_lock(moto: str, seaweedfs: str, location: str, through: str) -> None:
    # Of checksums moto knows here only the one that boto3 sends, and obstore's not.
    url = moto if through == "fsspec" else seaweedfs
    bucket = f"locked-{through}"
    client = s3_client(url)
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    retention = {"Mode": "GOVERNANCE", "Days": 1}
    rule = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}}
    client.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=rule)
    with proxy_of(url) as proxy:
        proxy.harm = checked
        store = open_through(proxy, location, bucket=bucket)
        assert create(store, b"contents") == PLAIN
        assert beginning(store, PLAIN, 10) == (b"contents", 8)


@pytest.mark.parametrize("status", [400, 501])
def test_a_server_that_knows_no_checksums(
    proxy: Proxy, raw: S3Raw, location: str, status: int
) -> None:
    """It is sent none, and is not taken for one that ignores conditions."""

    def harm(request: Request) -> Fault:
        known = "x-amz-checksum-sha256" not in request.headers
        return Fault() if known else Fault(status=status, code="NotImplemented")

    proxy.harm = harm
    store = open_through(proxy, location)
    assert create(store, b"contents") == PLAIN
    assert raw.get(PLAIN) == b"contents"
    proxy.requests.clear()
    create(store, bytes(IN_PARTS), "lab/b.npy")
    assert not any("x-amz-checksum-sha256" in request.headers for request in proxy.requests)


# Few rights


def settings_of(url: str, who: str, location: str) -> dict[str, Any]:
    return s3_settings(url, location=location, access_key=who)


@BOTH
@pytest.mark.parametrize("who", ["get-only", "no-list", "reader"])
def test_reading_needs_no_right_but_to_read(
    seaweedfs: str, location: str, who: str, through: str
) -> None:
    contents = large(20 << 20).tobytes()
    S3Raw(seaweedfs, location).put("file", contents)
    with proxy_of(seaweedfs) as proxy:
        store = store_of(settings_of(proxy.endpoint, who, location))
        assert read(store, "file", 0, len(contents)) == (len(contents), [contents])
        assert b"".join(store.pieces("file")) == contents
        assert store.stat("file").nbytes == len(contents)
        with store.open_to_map("file") as copy:
            assert copy.read(10) == contents[:10]
        for use in (
            lambda: read(store, "gone", 0, 10),
            lambda: store.stat("gone"),
            lambda: store.open_to_map("gone"),
        ):
            with pytest.raises(ArrayMissingError, match="there is no such object"):
                use()
        assert {request.method for request in proxy.requests} == {"GET"}
        assert not any("list-type" in request.query for request in proxy.requests)


@BOTH
@pytest.mark.parametrize("who", ["get-only", "reader", "nothing"])
def test_writing_without_the_right(
    seaweedfs: str, location: str, who: str, through: str, impatient: None
) -> None:
    store = store_of(settings_of(seaweedfs, who, location))
    with pytest.raises(StoreError, match=r"access denied.*not do this") as caught:
        create(store, b"contents")
    assert "keys" not in str(caught.value)
    assert PROBE not in str(caught.value)


@BOTH
def test_writing_with_that_right_alone(seaweedfs: str, location: str, through: str) -> None:
    store = store_of(settings_of(seaweedfs, "write-only", location))
    paths = [create(store, b"contents") for _ in range(2)]
    assert paths[0] != paths[1]
    assert {S3Raw(seaweedfs, location).get(path) for path in paths} == {b"contents"}
    with pytest.raises(StoreError, match=r"access denied.*may not list are not told"):
        read(store, PLAIN, 0, 8)


@BOTH
def test_listing_without_the_right(seaweedfs: str, location: str, through: str) -> None:
    store = store_of(settings_of(seaweedfs, "get-only", location))
    with pytest.raises(StoreError, match=r"could not list.*access denied"):
        list(store.files())


CODES = {
    "InvalidObjectState": "Glacier",
    "RequestTimeTooSkewed": "clock of this machine",
    "ExpiredToken": "expired",
    "KMS.DisabledException": "KMS",
    "AccessDenied: with an explicit deny in a policy": "policy",
    "AccessDenied: must use aws:kms": "encryption",
    "SignatureDoesNotMatch": "Check the store's keys",
    "QuotaExceeded": r"quota is used up.*QuotaExceeded",
    "AccountProblem": "AccountProblem",
    "UserSuspended": "UserSuspended",
    "InvalidPayer": "InvalidPayer",
    "RequestHeaderSectionTooLarge": "RequestHeaderSectionTooLarge",
    "SomethingNew: the moon is full": "SomethingNew: the moon is full",
}


@BOTH
@pytest.mark.parametrize("code", CODES)
def test_a_refusal_is_told_by_its_cause(
    proxy: Proxy, location: str, code: str, through: str, impatient: None
) -> None:
    store = open_through(proxy, location)
    fault = Fault(403, *code.partition(": ")[::2])
    proxy.harm = lambda request: fault
    for use in (lambda: read(store, "file", 0, 10), lambda: create(store, b"1")):
        with pytest.raises(StoreError, match=CODES[code]) as caught:
            use()
        assert ("keys" in str(caught.value)) == (code == "SignatureDoesNotMatch")


# The time, and credentials that change


@BOTH
@pytest.mark.parametrize("who", ["get-only", "reader", "no-list"])
def test_the_time_needs_no_right(seaweedfs: str, location: str, who: str, through: str) -> None:
    raw = S3Raw(seaweedfs, location)
    with proxy_of(seaweedfs) as proxy:
        store = store_of(settings_of(proxy.endpoint, who, location))
        before = datetime.now(UTC)
        assert before - timedelta(seconds=1) < store.now() <= datetime.now(UTC)
        assert not proxy.asked("PUT")
    assert raw.keys() == set()


@BOTH
@pytest.mark.parametrize("headers", [{"date": None}, {"age": "5"}, {"date": "nonsense"}])
def test_the_time_of_an_object_has_one_name(
    proxy: Proxy, raw: S3Raw, location: str, headers: dict[str, str | None], through: str
) -> None:
    def harm(request: Request) -> Fault:
        if request.method == "DELETE" or request.query == "delete":
            return Fault(status=403, code="AccessDenied")
        return Fault(headers=headers)

    proxy.harm = harm
    store = open_through(proxy, location)
    for _ in range(2):
        assert abs(store.now() - datetime.now(UTC)) < timedelta(seconds=5)
    assert raw.keys() == {".dj-npy-clock/now"}
    assert list(store.files()) == []


def test_an_error_about_the_time_names_no_object(proxy: Proxy, location: str) -> None:
    proxy.harm = lambda request: Fault(status=403, code="AccessDenied", headers={"date": None})
    with pytest.raises(StoreError, match="tells the time in store 'main'") as caught:
        open_through(proxy, location).now()
    assert ".dj-npy" not in str(caught.value)


@BOTH
def test_credentials_that_were_rotated(
    rclone: str, location: str, through: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    text = f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key="
    file.write_text(f"{text}of-last-year")
    settings = {**s3_settings(rclone, location=location), "access_key": None, "secret_key": None}
    stores = {"main": settings}
    config: Any = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
    S3Raw(rclone, location).put("file", b"contents")
    with pytest.raises(StoreError, match="Check the store's keys"):
        beginning(open_store(config, "main"), "file", 10)
    file.write_text(f"{text}{SECRET_KEY}")
    assert beginning(open_store(config, "main"), "file", 10) == (b"contents", 8)


def test_hosts_are_lower_case(moto: str, location: str) -> None:
    url = moto.replace("127.0.0.1", "LOCALHOST").replace("http", "HTTP", 1)
    settings = s3_settings(url.replace("HTTP", "http"), location=location)
    assert amazon.endpoint_of("main", settings) == moto.replace("127.0.0.1", "localhost")
