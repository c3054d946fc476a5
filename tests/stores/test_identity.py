"""A store is known by its marker: what is in its place by mistake is not taken for it."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
from dj_npy import StoreError
from dj_npy._cli.main import main
from dj_npy._datajoint import storerows
from dj_npy._stores import base, identity, open_store, opening
from dj_npy._stores.local.store import LocalStore
from tests.conftest import MakeTable
from tests.support import processes
from tests.support.cases import case
from tests.support.faults import Fault, Request, proxy_of
from tests.support.processes import Lab, context
from tests.support.references import forget_stores, store_of
from tests.support.servers import AzureRaw, S3Raw, s3_settings

MARKER, PROBE = base.MARKER, base.PROBE
A = np.arange(12.0)
B = -A


def row(number: int, array: Any = A) -> dict[str, Any]:
    return {"recording_id": number, "waveform": array}


def ids(folder: Path) -> list[str]:
    return list(json.loads((folder / MARKER).read_bytes())["store_id"])


def ids_of_rows(recording: Any) -> list[str | None]:
    rows = recording.to_dicts(order_by="recording_id")
    return [each["waveform"]._raw.get("store_id") for each in rows]


@pytest.fixture(params=["same process", "new process"])
def then(request: Any) -> Callable[[], None]:
    return forget_stores if request.param == "new process" else lambda: None


def unmount(store: Path) -> Path:
    away = store.with_name("away")
    store.rename(away)
    store.mkdir()
    return away


def mount(store: Path, away: Path) -> None:
    store.rmdir()  # which fails if anything was put there
    away.rename(store)


def as_of_old(recording: Any, store: Path | None) -> None:
    """Make rows, and the store, as they were before stores had ids."""
    quote = recording.connection.adapter.quote_identifier
    column = quote("waveform")
    without = (
        f"({column}::jsonb - 'store_id')::json"
        if recording.connection.adapter.backend == "postgresql"
        else f"JSON_REMOVE({column}, '$.store_id')"
    )
    recording.connection.query(f"UPDATE {recording.full_table_name} SET {column} = {without}")
    if store is not None:
        (store / MARKER).unlink()
    forget_stores()


WAYS: dict[str, Callable[[Any], object]] = {
    "insert1": lambda recording: recording.insert1(row(7, B)),
    "insert": lambda recording: recording.insert([row(7, B), row(8, B)]),
    "side by side": lambda recording: dj_npy.insert(recording, [row(7, B), row(8, B)]),
    "blocks": lambda recording: recording.insert1(row(7, dj_npy.Blocks(A.shape, A.dtype, [B]))),
    "update1": lambda recording: recording.update1(row(1, B)),
}


def test_an_empty_folder_in_its_place_is_not_written_to(
    recording: Any, store: Path, then: Callable[[], None]
) -> None:
    recording.insert([row(1), row(2)])
    for way, write in WAYS.items():
        with case(way):
            away = unmount(store)
            then()
            with pytest.raises(StoreError, match=r"refused to write to .*mounted") as refused:
                write(recording)
            assert str(store) in str(refused.value)
            assert ids(away)[0] in str(refused.value)
            assert list(store.iterdir()) == []
            assert len(recording()) == 2
            mount(store, away)
            write(recording)
            assert dj_npy.verify(recording, checksums=True).ok
            (recording & "recording_id > 2").delete_quick()


@pytest.mark.parametrize("formatted", [False, True])
def test_another_disk_at_the_same_mount_point_is_not_written_to(
    formatted: bool, recording: Any, store: Path, tmp_path: Path
) -> None:
    """Its root may have the device's number and the inode of the first one's."""
    recording.insert([row(1), row(2)])
    away = tmp_path / "away"
    away.mkdir()
    for way, write in WAYS.items():
        with case(way):
            for each in store.iterdir():
                each.rename(away / each.name)
            if not formatted:
                (store / MARKER).write_text(json.dumps({"store_id": ["ab" * 16]}))
            before = list(store.iterdir())
            with pytest.raises(StoreError, match=r"refused to write to .*mounted"):
                write(recording)
            assert list(store.iterdir()) == before
            assert len(recording()) == 2
            for each in away.iterdir():
                each.rename(store / each.name)
            recording.insert1(row(3))  # as it is again the store that it was
            (recording & "recording_id = 3").delete_quick()


def test_after_a_mount_no_row_reads_the_array_of_another(recording: Any, store: Path) -> None:
    recording.insert([row(1), row(2)])
    away = unmount(store)
    (recording & "recording_id = 1").delete(prompt=False)
    with pytest.raises(StoreError, match="mounted"):
        recording.insert1(row(1, B))
    mount(store, away)
    recording.insert1(row(1, B))
    assert np.array_equal((recording & "recording_id = 1").fetch1("waveform"), B)


def test_another_share_in_its_place_is_not_written_to(
    table: MakeTable, store: Path, stores: dict[str, Any], then: Callable[[], None]
) -> None:
    recording = table("recording_id : int32\n---\nwaveform : <npy@main>")
    other = table("recording_id : int32\n---\nwaveform : <npy@archive>", "Other")
    recording.insert1(row(1))
    other.insert1(row(1))
    archive = Path(stores["archive"]["location"])
    mine, yours = ids(store)[0], ids(archive)[0]
    assert mine != yours
    away = store.with_name("away")
    store.rename(away)
    archive.rename(store)
    then()
    with pytest.raises(StoreError) as refused:
        recording.insert1(row(2))
    assert mine in str(refused.value)
    assert yours in str(refused.value)
    assert "dj-npy adopt" in str(refused.value)
    # A table without rows learns it from another of its schema.
    third = table("recording_id : int32\n---\nwaveform : <npy@main>", "Third")
    with pytest.raises(StoreError, match=yours):
        third.insert1(row(1))
    assert not list(store.rglob("third"))


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_folder_that_goes_in_the_middle_of_an_insert_ends_it(
    side_by_side: bool, recording: Any, store: Path
) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for number in range(20):
            if number == 10:
                unmount(store)
            yield row(number)

    with pytest.raises(StoreError, match=r"mounted|No such file"):
        dj_npy.insert(recording, rows(), max_workers=2) if side_by_side else recording.insert(
            rows()
        )
    assert [path for path in store.rglob("*") if path.is_file()] == []
    assert len(recording()) == 0


def test_reads_say_that_it_is_not_the_store(
    recording: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.insert([row(1), row(2)])
    ref = (recording & "recording_id = 1").fetch1("waveform")
    away = unmount(store)
    for read in (ref.load, ref.verify, lambda: ref[2:3], lambda: ref.load(mmap_mode="r")):
        with pytest.raises(StoreError, match=r"no \.dj-npy-store in it.*mounted"):
            read()
    assert dj_npy.verify(recording).counts == {"unreadable": 2}
    # Another share, with another array at that path.
    shutil.copytree(away / recording.database, store / recording.database)
    (store / MARKER).write_text(json.dumps({"store_id": ["f" * 32]}))
    for path in store.rglob("*.npy"):
        np.save(path, np.arange(3))
    monkeypatch.setattr(identity, "_LATELY_S", 0)  # as if that time had passed
    with pytest.raises(StoreError, match="it is store ffff"):
        ref.load()
    assert dj_npy.verify(recording).counts == {"unreadable": 2}
    shutil.rmtree(store)
    away.rename(store)
    assert np.array_equal(ref, A)
    (store / ref.path).unlink()  # which is damage, as before
    ref.unload()
    with pytest.raises(dj_npy.ArrayMissingError):
        ref.load()
    assert dj_npy.verify(recording).counts == {"missing": 1, "as described": 1}


def test_of_rows_without_an_id_an_empty_folder_is_told(
    recording: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.insert1(row(1))
    as_of_old(recording, store)
    ref = recording.fetch1("waveform")
    unmount(store)
    with pytest.raises(StoreError, match=r"is empty.*mounted"):
        ref.load()
    (store / "something").touch()
    monkeypatch.setattr(identity, "_LATELY_S", 0)  # as if that time had passed
    with pytest.raises(dj_npy.ArrayMissingError):
        ref.load()


def test_a_read_that_finds_its_file_asks_no_marker(
    recording: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.insert([row(1), row(2)])
    monkeypatch.setattr(identity, "read", None)
    for ref in recording.to_arrays("waveform"):
        assert np.array_equal(ref[3:5], A[3:5])
        assert np.array_equal(ref.load(), A)
    assert dj_npy.verify(recording, checksums=True).ok


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("partition", ["", "{recording_id}"])
def test_collect_refuses_what_is_not_the_store(
    dry_run: bool, partition: str, recording: Any, store: Path, stores: dict[str, Any], schema: Any
) -> None:
    stores["main"]["partition_pattern"] = partition
    recording.insert([row(1), row(2)])
    (recording & "recording_id = 2").delete(prompt=False)
    away = unmount(store)
    shutil.copytree(away, store, dirs_exist_ok=True)  # a share that looks like it

    def collect() -> Any:
        return dj_npy.collect(schema, older_than=timedelta(0), dry_run=dry_run)

    for other in ('{"store_id": ["%s"]}' % ("f" * 32), None):
        (store / MARKER).unlink()
        if other:
            (store / MARKER).write_text(other)
        with pytest.raises(StoreError, match=r"refused to collect .*mounted.* Nothing was removed"):
            collect()
        assert len(list(store.rglob("*.npy"))) == 2
    as_of_old(recording, None)
    for path in store.rglob("recording_id=1/**/*.npy"):
        path.unlink()
    with pytest.raises(StoreError, match="none of the files is there"):
        collect()
    assert len(list(store.rglob("*.npy"))) == 1
    shutil.rmtree(store)
    away.rename(store)
    found = collect()
    assert (found.live, found.counts, found.unknown) == (1, {"array": 1}, 0)
    assert (store / MARKER).is_file()


def test_a_store_of_old_is_known_by_its_files(recording: Any, store: Path) -> None:
    recording.insert([row(1), row(2)])
    as_of_old(recording, store)
    (store / recording.fetch("waveform")[0].path).unlink()  # one may be damaged
    recording.insert1(row(3))
    assert ids_of_rows(recording) == [None, None, ids(store)[0]]
    away = unmount(store)
    forget_stores()
    with pytest.raises(StoreError, match="mounted"):
        recording.insert1(row(4))
    mount(store, away)
    recording.insert1(row(4))


def test_an_empty_folder_in_place_of_a_store_of_old(
    recording: Any, store: Path, table: MakeTable
) -> None:
    recording.insert([row(1), row(2)])
    as_of_old(recording, store)
    unmount(store)
    with pytest.raises(StoreError, match=r"none of the files is there of 2 rows.*mounted"):
        recording.insert1(row(3))
    other = table("recording_id : int32\n---\nwaveform : <npy@>", "Other")
    with pytest.raises(StoreError, match="mounted"):
        other.insert1(row(3))
    assert list(store.iterdir()) == []


def test_rows_of_the_built_in_codec_make_a_store_of_old(
    recording: Any, store: Path, schema: Any
) -> None:
    path = f"_schema/{schema.database}/recording/recording_id=1/waveform_abcdefgh.npy"
    (store / path).parent.mkdir(parents=True)
    np.save(store / path, A)
    builtin = {"path": path, "store": "main", "dtype": "float64", "shape": [12]}
    recording.connection.query(
        f"INSERT INTO {recording.full_table_name} VALUES (1, %s)", args=(json.dumps(builtin),)
    )
    recording.insert1(row(2))
    assert ids_of_rows(recording) == [None, ids(store)[0]]
    assert dj_npy.verify(recording).ok


def test_rows_of_other_stores_do_not_count(table: MakeTable, stores: dict[str, Any]) -> None:
    main = table("recording_id : int32\n---\nwaveform : <npy@main>")
    main.insert1(row(1))
    archive = table("recording_id : int32\n---\nwaveform : <npy@archive>", "Other")
    archive.insert1(row(1))
    assert ids_of_rows(archive) == ids(Path(stores["archive"]["location"]))


def test_two_names_of_one_folder_are_one_store_and_one_within_another_is_two(
    table: MakeTable, stores: dict[str, Any], store: Path, database: Any
) -> None:
    inner = store / "inner"
    inner.mkdir()
    stores["archive"]["location"] = str(store)
    stores["inner"] = {"protocol": "file", "location": str(inner)}
    database.config.stores = stores
    found = []
    for name in ("main", "archive", "inner"):
        recording = table(f"recording_id : int32\n---\nwaveform : <npy@{name}>", name.title())
        recording.insert1(row(1))
        found += ids_of_rows(recording)
    assert found == [ids(store)[0], ids(store)[0], ids(inner)[0]]
    assert found[0] != found[2]


def test_rows_without_arrays_do_not_touch_the_store(table: MakeTable, store: Path) -> None:
    recording = table("recording_id : int32\n---\nwaveform = null : <npy@>")
    store.rmdir()
    recording.insert1(row(1, None))
    dj_npy.insert(recording, [row(2, None)])
    recording.update1(row(2, None))
    assert len(recording()) == 2


def test_the_store_is_looked_at_once(
    recording: Any, table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Any] = []
    original = identity.read

    def read(store: Any) -> Any:
        reads.append(store)
        return original(store)

    monkeypatch.setattr(identity, "read", read)
    recording.insert1(row(1))
    first = len(reads)
    for number in range(2, 5):
        recording.insert1(row(number))
    dj_npy.insert(recording, map(row, range(5, 20)))
    recording.update1(row(2))
    assert len(reads) == first == 1
    other = table("recording_id : int32\n---\nwaveform : <npy@>", "Other")
    other.insert1(row(1))
    other.insert1(row(2))
    assert len(reads) == 2


def test_a_database_that_does_not_tell_is_no_refusal(
    recording: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for an account that may not select.
    monkeypatch.setattr(storerows, "_newest", lambda *_: "SELECT nonsense FROM nowhere")
    with recording.connection.transaction:
        recording.insert1(row(1))
        recording.insert1(row(2))
    assert ids_of_rows(recording) == [None, None]
    assert not (store / MARKER).exists()
    monkeypatch.undo()
    forget_stores()
    with recording.connection.transaction:
        recording.insert1(row(3))
    assert ids_of_rows(recording) == [None, None, ids(store)[0]]


def test_a_first_write_within_a_transaction_that_is_rolled_back(
    recording: Any, store: Path
) -> None:
    connection = recording.connection
    connection.start_transaction()
    recording.insert1(row(1))
    connection.cancel_transaction()
    recording.insert1(row(2))
    assert ids_of_rows(recording) == ids(store)
    forget_stores()
    recording.delete(prompt=False)
    recording.insert1(row(1))  # a marker and no rows: as after a kill between them
    assert ids_of_rows(recording) == ids(store)


def insert_first(lab: Lab, table: str, number: int, start: Any) -> None:
    recording = lab.connected().FreeTable(table)
    _ = recording.heading.attributes
    start.wait(60)
    recording.insert1(row(number))
    recording.insert1(row(number + 100))


def insert_first_of_all(count: int, lab: Lab, table: str) -> None:
    """Have so many processes insert at the same moment."""
    start = context.Barrier(count)
    writers = [
        context.Process(target=insert_first, args=(lab, table, number, start))
        for number in range(count)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0


@pytest.mark.parametrize(("database", "kind"), processes.places(False), indirect=["database"])
def test_of_several_first_writers_one_gives_the_id(
    kind: str, recording: Any, database: Any, request: Any, location: str, tmp_path: Path
) -> None:
    settings, _ = processes.a_store(kind, request, location)
    lab = processes.lab(database, settings, tmp_path / "cache")
    insert_first_of_all(3, lab, recording.full_table_name)
    marker = identity.read(open_store(database.config, "main"))
    assert marker
    assert ids_of_rows(recording) == list(marker) * 6


def test_a_first_writer_that_is_slow_keeps_others_waiting(
    rclone: str, recording: Any, database: Any, location: str, tmp_path: Path
) -> None:
    asked: list[Request] = []

    def harm(request: Request) -> Fault:
        if (request.method, request.name) != ("PUT", MARKER):
            return Fault()
        asked.append(request)
        return Fault(slow=1.5 if len(asked) == 1 else 0)

    with proxy_of(rclone) as proxy:
        proxy.harm = harm
        settings = s3_settings(proxy.endpoint, location=location)
        lab = processes.lab(database, settings, tmp_path / "cache")
        insert_first_of_all(2, lab, recording.full_table_name)
        marker = identity.read(open_store(database.config, "main"))
        assert marker
        assert ids_of_rows(recording) == list(marker) * 4
    assert len(asked) == 1


def test_another_writer_is_first_while_the_server_is_asked_what_it_does(
    rclone: str, location: str
) -> None:
    theirs = "0" * 32
    raw = S3Raw(rclone, location)

    def harm(request: Request) -> Fault:
        if (request.method, request.name) == ("PUT", PROBE):
            raw.put(MARKER, json.dumps({"store_id": [theirs]}).encode())
        return Fault()

    with proxy_of(rclone) as proxy:
        store = store_of(s3_settings(proxy.endpoint, location=location))
        assert identity.read(store) == ()
        proxy.harm = harm
        assert identity.assign_id(store) == (theirs,)
    assert json.loads(raw.get(MARKER)) == {"store_id": [theirs]}


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["store", "case_blind_disk"])
@pytest.mark.parametrize("reserved", [False, True])
def test_threads_that_write_first_get_one_id(
    disk: str, reserved: bool, request: pytest.FixtureRequest
) -> None:
    for number in range(1 if reserved else 4):
        folder = request.getfixturevalue(disk) / str(number)
        folder.mkdir()
        if reserved:  # by a process that was killed
            (folder / MARKER).touch()
        found: list[Any] = []

        def write() -> None:
            found.append(identity.assign_id(LocalStore("main", str(folder))))  # noqa: B023

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(found) == {tuple(ids(folder))}


def test_a_marker_that_was_only_reserved_is_written(
    recording: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wait in ("_RESERVED_S", "_SETTLED_S"):  # nobody else is at it
        monkeypatch.setattr(identity, wait, 0.1)
    (store / MARKER).touch()  # killed where there are no links
    recording.insert1(row(1))
    assert ids_of_rows(recording) == ids(store)


@pytest.mark.parametrize(
    "contents", ["[]", '{"store_id": []}', '{"store_id": ["x"]}', "\0", "[" * 9999]
)
def test_a_marker_that_says_nothing_is_told(contents: str, recording: Any, store: Path) -> None:
    (store / MARKER).write_text(contents)
    with pytest.raises(StoreError, match=r"\.dj-npy-store in store 'main' .* does not say"):
        recording.insert1(row(1))


@pytest.mark.parametrize(
    ("database", "kind"),
    [("postgresql", "moto"), ("mariadb", "rclone"), ("mysql", "azurite"), ("postgresql", "forked")],
    indirect=["database"],
)
def test_object_stores(
    kind: str,
    recording: Any,
    stores: dict[str, Any],
    location: str,
    request: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind == "azurite":
        connection = request.getfixturevalue(kind)
        stores["main"] = {
            "protocol": "azure",
            "container": "bucket",
            "connection_string": connection,
            "location": location,
        }
        raw: Any = AzureRaw(connection, location)
    else:
        url = request.getfixturevalue("moto" if kind == "forked" else kind)
        stores["main"] = s3_settings(url, location=location)
        raw = S3Raw(url, location)
    if kind == "forked":
        monkeypatch.setattr(opening, "_forked", True)
    recording.connection._config.stores = stores
    recording.insert1(row(1))
    marker = json.loads(raw.get(MARKER))["store_id"]
    assert ids_of_rows(recording) == marker
    forget_stores()
    recording.insert1(row(2))
    assert ids_of_rows(recording) == marker * 2
    # A location that is misspelt, or a bucket that was made anew.
    stores["main"] = {**stores["main"], "location": f"{location}-2"}
    recording.connection._config.stores = stores
    with pytest.raises(StoreError, match=r"no \.dj-npy-store"):
        recording.insert1(row(3))
    with pytest.raises(StoreError, match=marker[0]):
        (recording & "recording_id = 1").fetch1("waveform").load()
    assert replace(raw, location=f"{location}-2").keys() == set()


def test_credentials_that_may_not_read_the_marker_write_without_an_id(
    recording: Any, stores: dict[str, Any], moto: str, location: str
) -> None:
    with proxy_of(moto) as proxy:
        stores["main"] = s3_settings(proxy.endpoint, location=location)
        recording.connection._config.stores = stores
        recording.insert1(row(1))
        proxy.times(9, Fault(status=403, code="AccessDenied"), "GET", MARKER)
        forget_stores()
        recording.insert1(row(2))
        assert ids_of_rows(recording)[1] is None
        # Nor are reads concerned.
        assert np.array_equal((recording & "recording_id = 1").fetch1("waveform"), A)
        store = open_store(recording.connection._config, "main")
        ref = (recording & "recording_id = 1").fetch1("waveform")
        store.remove(ref.path)
        with pytest.raises(dj_npy.ArrayMissingError):
            ref.load()


def test_requests_for_an_identity(
    recording: Any, stores: dict[str, Any], moto: str, location: str
) -> None:
    with proxy_of(moto) as proxy:
        stores["main"] = s3_settings(proxy.endpoint, location=location)
        recording.connection._config.stores = stores
        recording.insert1(row(1))
        asked = [(each.method, each.name) for each in proxy.asked(name=MARKER)]
        assert asked == [("GET", MARKER), ("PUT", MARKER)]
        forget_stores()
        proxy.requests.clear()
        recording.insert1(row(2))
        recording.insert1(row(3))
        assert [each.method for each in proxy.asked(name=MARKER)] == ["GET"]


# On purpose


def test_a_store_that_was_moved_with_its_marker_is_known(
    recording: Any, store: Path, stores: dict[str, Any], database: Any, tmp_path: Path
) -> None:
    recording.insert1(row(1))
    moved = shutil.copytree(store, tmp_path / "moved")
    shutil.rmtree(store)
    stores["main"]["location"] = str(moved)
    database.config.stores = stores
    recording.insert1(row(2))
    assert ids_of_rows(recording) == ids(moved) * 2
    assert dj_npy.verify(recording).ok


def test_a_store_that_was_moved_without_its_marker_is_adopted(
    recording: Any, store: Path, schema: Any, then: Callable[[], None]
) -> None:
    recording.insert(map(row, range(10)))
    before = ids(store)
    away = unmount(store)
    with pytest.raises(StoreError, match=r"not adopted: of 10 rows .* 10 are not there"):
        dj_npy.adopt(schema, "main")
    assert list(store.iterdir()) == []
    shutil.copytree(away / schema.database, store / schema.database)
    then()
    with pytest.raises(StoreError, match="dj-npy adopt"):
        recording.insert1(row(10))
    assert dj_npy.adopt(recording) == before
    recording.insert1(row(10))
    assert ids_of_rows(recording) == before * 11
    assert dj_npy.adopt(schema, "main") == before  # once more: nothing changes


def test_two_stores_that_were_put_together_are_one(
    table: MakeTable, store: Path, stores: dict[str, Any], schema: Any
) -> None:
    recording = table("recording_id : int32\n---\nwaveform : <npy@main>")
    other = table("recording_id : int32\n---\nwaveform : <npy@archive>", "Other")
    recording.insert1(row(1))
    other.insert1(row(1))
    archive = Path(stores["archive"]["location"])
    kept, came = ids(store), ids(archive)
    (archive / MARKER).unlink()
    shutil.copytree(archive, store, dirs_exist_ok=True)
    stores["archive"]["location"] = str(store)
    recording.connection._config.stores = stores
    with pytest.raises(StoreError, match=came[0]):
        other.insert1(row(2))
    assert dj_npy.adopt(schema, "archive") == kept + came
    other.insert1(row(2))
    recording.insert1(row(2))
    assert ids_of_rows(other) == came + kept
    assert dj_npy.verify(schema).ok
    dj_npy.collect(schema)


def test_an_older_dump_and_an_older_copy_of_the_store(recording: Any, store: Path) -> None:
    recording.insert([row(1), row(2)])
    copy = shutil.copytree(store, store.with_name("copy"))
    recording.insert1(row(3))
    # The store is restored from the copy: it is the same one, and a file is missing.
    shutil.rmtree(store)
    copy.rename(store)
    recording.insert1(row(4))
    assert dj_npy.verify(recording).counts == {"as described": 3, "missing": 1}


def test_adopt_by_force_and_from_the_command_line(
    postgresql: Any, recording: Any, store: Path, schema: Any, capsys: Any, database: Any
) -> None:
    if database is not postgresql:
        pytest.skip("the command line speaks to the database that is configured")
    recording.insert([row(1), row(2)])
    before = ids(store)
    unmount(store)
    assert main(["adopt", schema.database, "main"]) == 1
    assert "not adopted" in capsys.readouterr().err
    assert main(["adopt", schema.database, "main", "--force"]) == 0
    assert before[0] in capsys.readouterr().out
    recording.insert1(row(3))
    assert ids_of_rows(recording) == before * 3


def test_what_is_no_schema_is_not_adopted() -> None:
    with pytest.raises(dj_npy.ArrayInvalidError, match="expected a schema"):
        dj_npy.adopt(np.zeros(3))


def test_a_copied_row_and_a_copied_array_carry_an_id(
    recording: Any, table: MakeTable, store: Path
) -> None:
    recording.insert1(row(1))
    other = table("recording_id : int32\n---\nwaveform : <npy@>", "Other")
    other.insert(recording)
    other.insert1(row(2, recording.fetch1("waveform")))
    assert ids_of_rows(other) == ids(store) * 2
