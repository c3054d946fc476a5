"""Stores behind a network when the network does harm, and how often it is asked."""

import hashlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from obstore import exceptions

from benchmarks._measure import peak_memory
from dj_npy import ArrayCorruptError, ArrayMissingError, NpyRef, StoreError
from dj_npy._concurrency import threads
from dj_npy._stores import Store, opening, remote
from dj_npy._stores.base import PROBE
from dj_npy._stores.obstore import clients, failures
from tests.support import warm
from tests.support.conformance import IN_PARTS, PLAIN, beginning, create, large, names, read
from tests.support.faults import Fault, Proxy, Request, proxy_of
from tests.support.references import store_of
from tests.support.servers import ACCESS_KEY, SECRET_KEY, S3Raw, s3_settings

pytestmark = pytest.mark.usefixtures("parts_from_16_mib")

SMALL, LARGE = 100_000, (20 << 20) + 1


@pytest.fixture
def opened(proxy: Proxy, location: str, impatient: None) -> Store:
    return store_of(s3_settings(proxy.endpoint, location=location))


HARM = {
    "500": Fault(status=500, code="InternalError"),
    "503 SlowDown": Fault(status=503),
    "429": Fault(status=429),
    "reset": Fault(reset=True),
    "answer lost": Fault(lose=True),
    "cut": Fault(cut=1000),
    "stalled": Fault(stall=3),
}


@pytest.mark.parametrize("nbytes", [SMALL, LARGE])
@pytest.mark.parametrize("harm", HARM)
def test_a_read_survives_a_fault(
    opened: Store, proxy: Proxy, raw: S3Raw, harm: str, nbytes: int
) -> None:
    contents = large(nbytes).tobytes()
    raw.put("file", contents)
    proxy.times(1, HARM[harm], "GET", "file")
    assert read(opened, "file", 0, nbytes) == (nbytes, [contents])
    proxy.times(1, HARM[harm], "GET", "file")
    assert b"".join(opened.pieces("file")) == contents


@pytest.fixture
def impatient_with_silence(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is to time out: a machine that pauses meanwhile changes nothing about that."""
    monkeypatch.setattr(clients, "MAX_RETRIES", 1)
    monkeypatch.setattr(remote, "SILENCE_S", 0.2)


@pytest.mark.parametrize("harm", HARM)
def test_a_read_that_never_succeeds_ends_with_an_error(
    impatient_with_silence: None, proxy: Proxy, location: str, raw: S3Raw, harm: str
) -> None:
    opened = store_of(s3_settings(proxy.endpoint, location=location))
    raw.put("file", large(SMALL).tobytes())
    proxy.harm = lambda request: HARM[harm]
    started = time.monotonic()
    with pytest.raises(StoreError, match="could not read the array at 'file' in store 'main'"):
        read(opened, "file", 0, SMALL)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("nbytes", [0, SMALL, IN_PARTS])
@pytest.mark.parametrize("harm", ["500", "503 SlowDown", "reset", "answer lost"])
def test_a_write_survives_a_fault(
    opened: Store, proxy: Proxy, raw: S3Raw, harm: str, nbytes: int
) -> None:
    contents = large(nbytes).tobytes()
    create(opened, b"", "first/a.npy")  # the probe is done
    for method in ("PUT", "POST"):
        proxy.times(1, HARM[harm], method, "a.npy")
        path = create(opened, contents, f"{method}/a.npy")
        # Even one whose answer was lost is known by its writer.
        assert path == f"{method}/a.npy"
        assert hashlib.sha256(raw.get(path)).digest() == hashlib.sha256(contents).digest()
    assert raw.keys() == {PROBE, "first/a.npy", "PUT/a.npy", "POST/a.npy"}
    # Of an upload whose beginning was not answered nobody knows the number.
    begun = len([request for request in proxy.asked("POST") if "uploads" in request.query])
    assert len(raw.uploads()) == (1 if (harm, begun) == ("answer lost", 3) else 0)


@pytest.mark.parametrize("nbytes", [SMALL, IN_PARTS])
def test_a_writer_knows_its_own_object_when_told_that_it_failed(
    opened: Store, proxy: Proxy, raw: S3Raw, nbytes: int
) -> None:
    """The server carries the request out and says 500; tried again, the name is taken."""
    create(opened, b"", "first/a.npy")
    contents = large(nbytes).tobytes()
    proxy.times(1, Fault(late=500), "PUT", "a.npy")
    path = create(opened, contents)
    assert path == PLAIN
    assert hashlib.sha256(raw.get(path)).digest() == hashlib.sha256(contents).digest()
    assert raw.keys() == {PROBE, "first/a.npy", PLAIN}


def test_an_upload_whose_end_is_never_answered(opened: Store, proxy: Proxy, raw: S3Raw) -> None:
    create(opened, b"", "first/a.npy")

    def harm(request: Request) -> Fault:
        ends = request.method == "POST" and "uploadId" in request.query
        return Fault(lose=True) if ends else Fault()

    proxy.harm = harm
    contents = large(IN_PARTS).tobytes()
    assert create(opened, contents) == PLAIN
    assert hashlib.sha256(raw.get(PLAIN)).digest() == hashlib.sha256(contents).digest()
    assert raw.keys() == {PROBE, "first/a.npy", PLAIN}


@pytest.mark.parametrize("nbytes", [SMALL, IN_PARTS])
@pytest.mark.parametrize(
    "fits",
    [
        lambda request: request.method == "PUT" and request.length > 0,
        lambda request: "partNumber=3" in request.query,
        lambda request: request.method == "POST" and "uploads" in request.query,
        lambda request: request.method == "POST" and "uploadId" in request.query,
    ],
    ids=["every body", "the third part", "the beginning", "the end"],
)
@pytest.mark.parametrize("harm", ["500", "reset"])
def test_a_write_that_never_succeeds_leaves_nothing(
    opened: Store,
    proxy: Proxy,
    raw: S3Raw,
    harm: str,
    fits: Callable[[Request], bool],
    nbytes: int,
) -> None:
    create(opened, b"", "first/a.npy")
    proxy.harm = lambda request: HARM[harm] if fits(request) else Fault()
    contents = large(nbytes).tobytes()
    if nbytes == SMALL and not fits(Request("PUT", "/a.npy", "", None, nbytes, "*")):
        assert raw.get(create(opened, contents)) == contents  # it has no parts
    else:
        with pytest.raises(StoreError, match="could not write the array at"):
            create(opened, contents)
        assert raw.keys() == {PROBE, "first/a.npy"}
    assert raw.uploads() == []


def test_an_upload_is_given_more_time_than_a_silent_server(
    opened: Store, proxy: Proxy, raw: S3Raw
) -> None:
    contents = large(4 << 20).tobytes()
    create(opened, b"", "first/a.npy")
    proxy.times(1, Fault(slow=3), "PUT", "a.npy")
    assert raw.get(create(opened, contents)) == contents
    assert len(proxy.asked("PUT", "a.npy")) == 2


@pytest.mark.parametrize("nbytes", [SMALL, LARGE])
def test_a_server_that_answers_a_range_with_everything(
    opened: Store, proxy: Proxy, raw: S3Raw, nbytes: int
) -> None:
    contents = large(nbytes).tobytes()
    raw.put("file", contents)
    proxy.harm = lambda request: Fault(whole=True)
    assert beginning(opened, "file", 128) == (contents[:128], nbytes)
    assert read(opened, "file", 128, nbytes - 128) == (nbytes, [contents[128:]])
    assert read(opened, "file", 128, nbytes)[0] is None
    assert b"".join(opened.pieces("file")) == contents
    proxy.requests.clear()
    assert read(opened, "file", 128, nbytes - 128) == (nbytes, [contents[128:]])
    assert [request.range for request in proxy.requests] == [None]  # it has learnt


def test_a_server_that_does_not_know_the_condition(opened: Store, proxy: Proxy, raw: S3Raw) -> None:
    def harm(request: Request) -> Fault:
        refused = request.method == "PUT" and request.condition
        return Fault(status=501, code="NotImplemented") if refused else Fault()

    proxy.harm = harm
    path = create(opened, b"contents")
    assert path != PLAIN
    assert raw.get(path) == b"contents"
    assert raw.keys() == {path, PROBE}


def test_an_object_replaced_while_it_is_read(opened: Store, proxy: Proxy, raw: S3Raw) -> None:
    old, new = bytes(LARGE), b"\1" * LARGE

    def harm(request: Request) -> Fault:
        if request.range and not request.range.startswith("bytes=0-") and not replaced.is_set():
            replaced.set()
            time.sleep(0.5)  # the beginning is read before that
            raw.put("file", new)
        return Fault()

    for _ in range(10):
        raw.put("file", old)
        read(opened, "file", 0, 1)
        replaced = threading.Event()
        proxy.harm = harm
        nbytes, pieces = read(opened, "file", 0, LARGE)
        if nbytes is None:
            return
        # On a slow machine the whole may have been read before that, or after.
        assert b"".join(pieces) in (old, new)
    pytest.fail("it was never replaced in the middle")


def reference(proxy: Proxy, location: str, stored: Any, array: Any) -> NpyRef:
    ref: NpyRef = stored(array, store=s3_settings(proxy.endpoint, location=location))
    proxy.requests.clear()
    return ref


def asked(proxy: Proxy) -> list[tuple[str, str | None]]:
    return sorted((request.method, request.range) for request in proxy.requests)


@pytest.mark.usefixtures("impatient")
class TestRequests:
    def test_small_array_is_one_each_way(self, proxy: Proxy, location: str, stored: Any) -> None:
        reference(proxy, location, stored, np.zeros(10))  # with it, the probe
        ref = stored(np.ones(10), 2, store=s3_settings(proxy.endpoint, location=location))
        assert asked(proxy) == [("PUT", None)]
        proxy.requests.clear()
        assert np.array_equal(ref.load(), np.ones(10))
        assert asked(proxy) == [("GET", "bytes=0-207")]

    def test_large_array_is_its_ranges(self, proxy: Proxy, location: str, stored: Any) -> None:
        array = np.arange(3 << 20, dtype=np.float64)
        ref = reference(proxy, location, stored, array)
        ref.path  # noqa: B018
        assert asked(proxy) == []
        assert np.array_equal(ref.load(), array)
        part, size = 8 << 20, array.nbytes + 128
        ranges = [(start, min(start + part, size) - 1) for start in range(0, size, part)]
        found = [request for request in asked(proxy) if request != ("GET", "bytes=0-0")]
        assert found == sorted(("GET", f"bytes={first}-{last}") for first, last in ranges)

    def test_copy_within_a_store_reads_no_data(
        self, proxy: Proxy, location: str, stored: Any
    ) -> None:
        array = np.arange(3 << 20, dtype=np.float64)
        ref = reference(proxy, location, stored, array)
        copy = stored(ref, 2, store=s3_settings(proxy.endpoint, location=location))
        assert [method for method, _ in asked(proxy)] == ["GET", "PUT", "PUT"]
        assert np.array_equal(copy.load(), array)
        copy.verify()
        assert copy._raw["checksum"] == ref._raw["checksum"]

    def test_copy_to_another_store_streams(
        self, proxy: Proxy, location: str, stored: Any, rclone: str
    ) -> None:
        array = np.arange(10 << 20, dtype=np.float64)
        ref = reference(proxy, location, stored, array)
        copy = stored(ref, 2, store=s3_settings(rclone, location=location))
        copy.verify()
        assert np.array_equal(copy.load(), array)
        back = stored(copy, 3, store=s3_settings(proxy.endpoint, location=location))
        assert np.array_equal(back.load(), array)

    def test_object_replaced_by_another_shape(
        self, proxy: Proxy, location: str, stored: Any, raw: S3Raw
    ) -> None:
        ref = reference(proxy, location, stored, np.zeros(10))
        for other in (np.zeros(11), np.zeros(9), np.zeros((2, 5)), np.zeros(10, "f4")):
            raw.put(ref.path, npy(other))
            for load in (ref.load, ref.verify, lambda: ref.load(mmap_mode="r")):
                with pytest.raises(ArrayCorruptError, match="another array than the row says"):
                    load()
        raw.put(ref.path, b"")
        with pytest.raises(ArrayCorruptError):
            ref.load()

    def test_object_that_is_gone(
        self, proxy: Proxy, location: str, stored: Any, raw: S3Raw
    ) -> None:
        ref = reference(proxy, location, stored, np.zeros(10))
        ref._raw["path"] = "lab/gone.npy"
        with pytest.raises(ArrayMissingError, match=r"at 'lab/gone.npy' in store 'main'"):
            ref.load()


def npy(array: Any) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# Errors


def refusal(settings: dict[str, Any], use: Callable[[Store], Any]) -> str:
    with pytest.raises(StoreError) as caught:
        use(store_of(settings))
    message = str(caught.value)
    assert "\n" not in message
    assert "Debug source" not in message
    assert SECRET_KEY not in message
    assert ACCESS_KEY not in message
    assert len(message) < 600
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def look(store: Store) -> Any:
    return store.read_beginning("lab/a.npy", 10)


def make(store: Store) -> Any:
    return create(store, b"contents")


@pytest.mark.usefixtures("impatient")
class TestErrors:
    @pytest.mark.parametrize("use", [look, make])
    def test_no_such_bucket(self, moto: str, use: Callable[[Store], Any]) -> None:
        message = refusal(s3_settings(moto, bucket="no-such-bucket"), use)
        assert "there is no such bucket or container" in message
        assert "no-such-bucket" in message

    @pytest.mark.parametrize("use", [look, make])
    def test_wrong_credentials(self, rclone: str, use: Callable[[Store], Any]) -> None:
        message = refusal(s3_settings(rclone, secret_key="wrong" * 8), use)
        assert "access denied" in message
        assert "SignatureDoesNotMatch" in message
        assert "wrong" * 8 not in message

    def test_half_of_the_credentials(self, rclone: str) -> None:
        settings = s3_settings(rclone)
        del settings["secret_key"]
        with pytest.raises(StoreError, match="only one of `access_key` and `secret_key`"):
            store_of(settings)

    @pytest.mark.slow
    @pytest.mark.parametrize("use", [look, make])
    def test_connection_refused(self, use: Callable[[Store], Any]) -> None:
        message = refusal(s3_settings("http://127.0.0.1:9"), use)
        assert "is the server running" in message
        assert "Connection refused" in message

    def test_no_such_host(self) -> None:
        message = refusal(s3_settings("http://nowhere.invalid"), look)
        assert "is `endpoint` right?" in message

    def test_https_where_there_is_none(self, moto: str) -> None:
        message = refusal(s3_settings(moto.replace("http:", "https:")), look)
        assert "`secure` right?" in message

    def test_silence(
        self, impatient_with_silence: None, proxy: Proxy, raw: S3Raw, location: str
    ) -> None:
        raw.put("lab/a.npy", b"contents")
        proxy.harm = lambda request: Fault(stall=5)
        message = refusal(s3_settings(proxy.endpoint, location=location), look)
        assert "time-out" in message

    @pytest.mark.parametrize("status", [301, 400])
    def test_wrong_region(self, proxy: Proxy, status: int) -> None:
        code = "PermanentRedirect" if status == 301 else "AuthorizationHeaderMalformed"
        proxy.harm = lambda request: Fault(status=status, code=code)
        for use in (look, make):
            message = refusal(s3_settings(proxy.endpoint), use)
            assert "another region: set AWS_REGION" in message

    def test_too_many_requests(self, proxy: Proxy) -> None:
        proxy.harm = lambda request: Fault(status=503)
        message = refusal(s3_settings(proxy.endpoint), look)
        assert "overloaded" in message
        assert "SlowDown" in message

    def test_a_failed_precondition(self, opened: Store, moto: str) -> None:
        error = exceptions.PreconditionError("the wall of text\n\nDebug source: ...")
        message = str(opened.translate_error(error, "lab/a.npy", "write"))
        assert message.endswith("the object has changed meanwhile")
        assert moto.split(":")[0] not in message

    def test_every_error_of_obstore_is_translated(self, opened: Store) -> None:
        kinds = [
            kind
            for kind in vars(exceptions).values()
            if isinstance(kind, type) and issubclass(kind, Exception)
        ]
        assert len(kinds) >= 12
        own_words = {advice for _, advice in failures._ADVICE}
        for kind in kinds:
            error = kind("Generic S3 error: it went wrong\n\nDebug source:\nGeneric {...}")
            translated = opened.translate_error(error, "lab/a.npy", "write")
            message = str(translated)
            assert isinstance(translated, StoreError)
            assert "could not write the array at 'lab/a.npy' in store 'main'" in message
            assert "\n" not in message
            known = any(words in message for words in own_words)
            general = kind in (exceptions.BaseError, exceptions.GenericError)
            assert known or general or "Try again" in message, kind

    @pytest.mark.parametrize("through", ["obstore", "fsspec"])
    def test_a_secret_at_the_end_of_a_long_message(
        self, moto: str, through: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(opening, "_forked", through == "fsspec")
        store = store_of(s3_settings(moto))
        for before in range(150, 210):
            text = f"{'x' * before}{SECRET_KEY}"
            for kind in (exceptions.GenericError, ValueError):
                message = str(store.translate_error(kind(text), "lab/a.npy", "write"))
                assert SECRET_KEY[:8] not in message

    def test_a_request_that_came_too_slowly_is_no_bad_one(self) -> None:
        text = "status code: 400 Bad Request: <Code>{}</Code>"
        assert failures.is_bad_request(ValueError(text.format("InvalidArgument")))
        assert not failures.is_bad_request(ValueError(text.format("RequestTimeout")))

    def test_what_a_message_leaves_out(self) -> None:
        text = "Generic S3 error: error at http://user:pass@host/x?sig=abc - broken\n\nDebug source"
        assert failures.first_line(text) == "broken"
        text = "Generic S3 error: no http://user:pass@host/x?sig=abc there\n"
        assert failures.first_line(text) == "S3 error: no ... there"


@pytest.mark.usefixtures("impatient")
class TestErrorsThroughFsspec:
    @pytest.fixture(autouse=True)
    def as_if_forked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "_forked", True)

    @pytest.mark.parametrize("use", [look, make])
    def test_no_such_bucket(self, moto: str, use: Callable[[Store], Any]) -> None:
        message = refusal(s3_settings(moto, bucket="no-such-bucket"), use)
        assert "no such bucket, container or folder" in message

    @pytest.mark.parametrize("use", [look, make])
    def test_wrong_credentials(self, rclone: str, use: Callable[[Store], Any]) -> None:
        message = refusal(s3_settings(rclone, secret_key="wrong" * 8), use)
        assert "access denied" in message
        assert "wrong" * 8 not in message

    @pytest.mark.slow
    def test_connection_refused(self) -> None:
        message = refusal(s3_settings("http://127.0.0.1:9"), look)
        assert "Could not connect to the endpoint" in message

    @pytest.mark.parametrize("harm", ["500", "503 SlowDown", "reset"])
    def test_fault(self, proxy: Proxy, raw: S3Raw, location: str, harm: str) -> None:
        contents = large(SMALL).tobytes()
        raw.put("file", contents)
        store = store_of(s3_settings(proxy.endpoint, location=location))
        proxy.times(1, HARM[harm], "GET", "file")
        assert read(store, "file", 0, SMALL) == (SMALL, [contents])

    def test_a_server_that_answers_a_range_with_everything(
        self, proxy: Proxy, raw: S3Raw, location: str
    ) -> None:
        contents = large(SMALL).tobytes()
        raw.put("file", contents)
        store = store_of(s3_settings(proxy.endpoint, location=location))
        proxy.harm = lambda request: Fault(whole=True)
        assert read(store, "file", 7, 1000) == (SMALL, [contents[7:1007]])
        assert beginning(store, "file", 10) == (contents[:10], SMALL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")
@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_memory_beside_the_array(
    server: str, request: pytest.FixtureRequest, location: str, stored: Any
) -> None:
    settings = s3_settings(request.getfixturevalue(server), location=location)
    array = np.random.default_rng(0).standard_normal((5 << 17, 32))  # 160 MiB
    kept = stored(np.zeros(3 << 20), 1, store=settings)
    kept.load()
    with peak_memory() as inserting:
        ref = stored(array, 2, store=settings)
    assert inserting[0] <= 96 << 20
    with peak_memory() as loading:
        loaded = ref.load()
    assert loading[0] - loaded.nbytes <= 96 << 20
    assert np.array_equal(loaded, array)


def test_no_more_than_a_few_parts_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    held, most = [0], [0]
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])
        time.sleep(0.001)
        return item

    results = []
    for result in threads.side_by_side(work, iter(range(100)), 4):
        results.append(result)
        with lock:
            held[0] -= 1
    assert results == list(range(100))
    assert most[0] <= 5


def test_after_an_error_nothing_new_is_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise ValueError(item)
        return item

    with pytest.raises(ValueError, match="3"):
        list(threads.side_by_side(work, range(100), 2))
    assert len(begun) < 10
    begun.clear()
    parts: Any = threads.side_by_side(work, range(100), 2)
    next(parts)
    parts.close()
    assert len(begun) <= 4


def test_parts_are_so_large_that_s3_takes_them_all() -> None:
    for nbytes in (1, 64 << 20, 80_000 << 20, 5 << 40):
        size = remote.part_size(nbytes)
        assert size >= remote.PART
        assert size * remote.MAX_PARTS >= nbytes


PIECE = memoryview(b"piece")


def endless(made: list[int]) -> Iterator[memoryview]:
    while True:
        made.append(1)
        yield PIECE


def test_an_upload_that_fails_stops_the_maker_of_its_pieces() -> None:
    undone: list[int] = []
    made: list[int] = []

    def consume(pieces: Iterator[memoryview]) -> None:
        next(pieces)
        time.sleep(0.5)  # meanwhile, the maker waits for room
        raise KeyError("the server")

    with pytest.raises(KeyError, match="the server"):
        threads.pipe_to_thread(endless(made), consume, lambda: undone.append(1))
    assert len(made) < 100
    assert undone == [1]


def test_a_failure_is_told_before_it_is_undone() -> None:
    def consume(pieces: Iterator[memoryview]) -> None:
        raise KeyError("the server")

    undone = threading.Event()
    with pytest.raises(KeyError, match="the server"):
        threads.pipe_to_thread(iter([PIECE]), consume, undone.set)
    assert undone.is_set()


@pytest.mark.parametrize("when", ["making", "waiting"])
def test_nothing_is_undone_while_it_is_written(when: str) -> None:
    """However often Ctrl-C is pressed, and also after the last piece."""
    events: list[str] = []
    taken = threading.Event()

    def consume(pieces: Iterator[memoryview]) -> None:
        try:
            for _ in pieces:
                taken.set()
        finally:
            time.sleep(0.5)
            events.append("written")

    me = threading.main_thread().ident
    assert me

    def interrupt() -> None:
        taken.wait()
        for _ in range(4):
            time.sleep(0.05)
            signal.pthread_kill(me, signal.SIGINT)

    inside = True

    def interrupted(*_: Any) -> None:
        if inside:
            raise KeyboardInterrupt

    made: list[int] = []
    pieces = endless(made) if when == "making" else iter([PIECE])
    interrupter = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, interrupted)
    try:
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            threads.pipe_to_thread(pieces, consume, lambda: events.append("undone"))
        inside = False
        interrupter.join()
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 10
    while len(events) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert events == ["written", "undone"]


@pytest.mark.parametrize("fault", [Fault(late=503), Fault(lose=True)], ids=["503", "lost"])
@pytest.mark.parametrize("through", ["obstore", "fsspec"])
def test_a_removal_is_asked_for_once(
    proxy: Proxy,
    raw: S3Raw,
    location: str,
    through: str,
    fault: Fault,
    impatient: None,
    monkeypatch: Any,
) -> None:
    """Carried out but answered with 503, a second one would take the next writer's object."""
    monkeypatch.setattr(opening, "_forked", through == "fsspec")
    store = store_of(s3_settings(proxy.endpoint, location=location))
    raw.put(PLAIN, b"ours")
    raw.put("another", b"")
    store.remove("another")  # over a connection that stays open
    asked = []

    def harm(request: Request) -> Fault:
        if request.method == "DELETE" or "delete" in request.query:
            asked.append(request)
            return fault
        if asked and PLAIN not in set(raw.keys()):
            raw.put(PLAIN, b"the next writer's")
        return Fault()

    proxy.harm = harm
    with pytest.raises(StoreError, match="could not remove"):
        store.remove(PLAIN)
    raw.put(PLAIN, b"the next writer's")
    time.sleep(0.5)
    assert len(asked) == 1
    assert raw.get(PLAIN) == b"the next writer's"


def test_an_object_replaced_between_two_requests_of_fsspec(
    proxy: Proxy, raw: S3Raw, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_forked", True)
    store = store_of(s3_settings(proxy.endpoint, location=location))
    for use in (
        lambda: read(store, "file", 0, LARGE),
        lambda: b"".join(store.pieces("file")),
        lambda: store.open_to_map("file"),
    ):
        raw.put("file", bytes(LARGE))
        replaced = threading.Event()

        def harm(request: Request, replaced: threading.Event = replaced) -> Fault:
            if (
                request.method == "GET"
                and request.range not in (None, "bytes=0-0")
                and not replaced.is_set()
            ):
                replaced.set()
                raw.put("file", b"\1" * LARGE)
            return Fault()

        proxy.harm = harm
        with pytest.raises(ArrayCorruptError, match="changed while it was read"):
            use()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("nbytes", [SMALL, IN_PARTS])
def test_a_failed_write_leaves_nothing_where_conditions_are_ignored(
    rclone: str, location: str, nbytes: int
) -> None:
    with proxy_of(rclone) as proxy:
        store = store_of(s3_settings(proxy.endpoint, location=location))
        create(store, b"", "first/a.npy")
        before = S3Raw(rclone, location).keys()

        def harm(request: Request) -> Fault:
            ends = request.method == "POST" and "uploadId" in request.query
            return Fault(lose=True) if ends or request.method == "PUT" else Fault()

        if nbytes == SMALL:
            proxy.harm = harm
            with pytest.raises(StoreError, match="could not write") as caught:
                create(store, large(nbytes).tobytes())
            assert "no such bucket" not in str(caught.value)
        else:
            part = "partNumber=3"
            proxy.harm = lambda request: Fault(status=500) if part in request.query else Fault()
            with pytest.raises(StoreError, match="could not write"):
                create(store, large(nbytes).tobytes())
        proxy.harm = lambda request: Fault()
        assert S3Raw(rclone, location).keys() == before


def test_a_probe_that_meets_a_mood_of_the_server_is_asked_again(
    opened: Store, proxy: Proxy, raw: S3Raw
) -> None:
    proxy.harm = lambda request: Fault(status=503)
    with pytest.raises(StoreError, match="overloaded"):
        create(opened, b"contents")
    proxy.harm = lambda request: Fault()
    assert create(opened, b"contents") == PLAIN


def test_a_stream_that_is_cut_is_read_again(opened: Store, proxy: Proxy, raw: S3Raw) -> None:
    contents = large(LARGE).tobytes()
    raw.put("file", contents)
    proxy.harm = lambda request: Fault(whole=True)
    opened.read_beginning("file", 1)
    cuts = [9 << 20, 1000, None]

    def harm(request: Request) -> Fault:
        return Fault(whole=True, cut=cuts.pop(0) if cuts else None)

    proxy.harm = harm
    assert read(opened, "file", 0, LARGE) == (LARGE, [contents])
    cuts[:] = [10 << 20]
    assert b"".join(opened.pieces("file")) == contents


def test_an_error_of_the_maker_of_pieces_is_the_makers(opened: Store, raw: S3Raw) -> None:
    def pieces() -> Iterator[memoryview]:
        yield memoryview(bytes(1 << 20))
        raise OSError("the microscope is switched off")

    for nbytes in (2 << 20, IN_PARTS):
        with pytest.raises(OSError, match="the microscope") as caught:
            opened.create(names(), pieces(), nbytes)
        assert not isinstance(caught.value, StoreError)
    assert raw.keys() == {PROBE}
    assert raw.uploads() == []


def test_a_create_that_finds_only_taken_names(opened: Store, raw: S3Raw) -> None:
    paths = names()
    first = next(paths)
    raw.put(first, b"taken")
    assert opened.create([first, *[next(paths)]], [memoryview(b"1")], 1) != first


AT_EXIT = """
import atexit, json, sys
from tests.support.references import store_of
store = store_of(json.loads(sys.argv[1]))
def read():
    buffer = bytearray(40 << 20)
    assert store.read_into("large", 0, [memoryview(buffer)]) == 40 << 20
    print(buffer[-1])
atexit.register(read)
"""


def test_a_large_object_is_read_while_the_interpreter_shuts_down(
    moto: str, location: str, raw: S3Raw
) -> None:
    raw.put("large", b"\1" * (40 << 20))
    settings = json.dumps(s3_settings(moto, location=location))
    assert warm.output("-c", AT_EXIT, settings) == "1"
