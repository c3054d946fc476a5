"""`verify` in S3: what listings of the store settle, and what they must not."""

import json
import resource
import threading
import uuid
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import datajoint as dj
import numpy as np
import obstore
import pytest
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from dj_npy import StoreError, settings
from dj_npy._concurrency.threads import CancelToken, Stopped, current_token
from dj_npy._stores import open_store
from dj_npy._stores.obstore import store as cloudstore
from dj_npy._upkeep import verify as verify_module
from dj_npy._upkeep.checklist import Checklist
from tests.support.conformance import create
from tests.support.servers import BUCKET, SECRET_KEY, s3_client, s3_settings

WAVEFORM = np.arange(12.0).reshape(3, 4)
KEYS = ["a", "a-b", "a.b", "a b", "a/b", "a%", "ö", "Z", "a=", "b", "a_b", "", "~"]
"""Their folders stand in another order on a server that sorts folder by folder."""


@pytest.fixture
def far(table: Any, database: Any, moto: str) -> Any:
    """A table in a store of its own."""
    return far_table(table, database, moto)


def far_table(table: Any, database: Any, url: str, key: str = "int32", **settings: Any) -> Any:
    location = f"listed/{uuid.uuid4().hex}"
    database.config.stores["cloud"] = s3_settings(url, location=location, **settings)
    return table(f"id : {key}\n---\nx : <npy@cloud>", "Far")


@pytest.fixture
def in_azure(table: Any, database: Any, azurite: str) -> Any:
    """A table in a store whose listings cannot begin at a path."""
    database.config.stores["cloud"] = {
        "protocol": "azure",
        "container": BUCKET,
        "location": f"listed/{uuid.uuid4().hex}",
        "connection_string": azurite,
    }
    return table("id : int32\n---\nx : <npy@cloud>", "Far")


def insert(far: Any, count: int = 40) -> None:
    dj_npy.insert(far, [{"id": n, "x": WAVEFORM + n} for n in range(count)])


def key_of(far: Any, database: Any, n: int) -> str:
    path = (far & {"id": n}).fetch1("x").path
    return f"{database.config.stores['cloud']['location']}/{path}"


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The paths of files that are looked at one by one."""
    paths: list[Any] = []
    original = verify_module.examine

    def examine(row: Any, *args: Any) -> Any:
        paths.append(row.json["path"])
        return original(row, *args)

    monkeypatch.setattr(verify_module, "examine", examine)
    return paths


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Any]]:
    """Makes pages of listings shorter; returns the offsets of those that are asked for."""
    offsets: list[Any] = []
    original = obstore.list

    def list_(*args: Any, **options: Any) -> Any:
        offsets.append(options.get("offset"))
        return original(*args, **options)

    def of(length: int) -> list[Any]:
        monkeypatch.setattr(cloudstore, "_PAGE", length)
        monkeypatch.setattr(obstore, "list", list_)
        return offsets

    return of


def test_a_listing_tells_the_sizes(far: Any, examined: list[Any], pages: Any) -> None:
    insert(far)
    offsets = pages(1000)
    report = dj_npy.verify(far)
    assert report.ok
    assert report.counts == {"size as described": 39, "as described": 1}
    assert (report.headers, report.checksums, report.nbytes) == (False, False, 40 * 96)
    assert "checked for size by listings, the others for shape and dtype too" in str(report)
    assert json.loads(report.to_json())["headers"] is False
    assert len(examined) == 1  # as a listing does not tell whether it can be read
    assert len(offsets) == 1


def test_headers_and_checksums_are_read_if_asked_for(
    far: Any, examined: list[Any], pages: Any
) -> None:
    insert(far, 3)
    offsets = pages(1000)
    assert dj_npy.verify(far, headers=True).counts == {"as described": 3}
    assert dj_npy.verify(far, checksums=True).counts == {"as inserted": 3}
    assert len(examined) == 6
    assert offsets == []


def test_what_a_listing_does_not_confirm_is_looked_at(
    far: Any, database: Any, moto: str, examined: list[Any]
) -> None:
    insert(far)
    client = s3_client(moto)
    file = client.get_object(Bucket=BUCKET, Key=key_of(far, database, 0))["Body"].read()
    client.delete_object(Bucket=BUCKET, Key=key_of(far, database, 1))
    changed = {2: b"", 3: file[:-1], 4: file + b"1", 5: b"x" * len(file)}
    for n, contents in changed.items():
        client.put_object(Bucket=BUCKET, Key=key_of(far, database, n), Body=contents)
    report = dj_npy.verify(far)
    found = {finding.key["id"]: finding.what for finding in report.findings}
    assert found == {1: "missing", 2: "cut short", 3: "cut short", 4: "other array"}
    assert report.counts["size as described"] == 35
    assert len(examined) == 5
    thorough = dj_npy.verify(far, headers=True)
    found = {finding.key["id"]: finding.what for finding in thorough.findings}
    assert found == {1: "missing", 2: "cut short", 3: "cut short", 4: "other array"} | {
        5: "other array"
    }


@pytest.mark.parametrize("length", [1, 2, 7])
def test_pages_are_skipped_over_what_is_not_asked_for(
    far: Any, examined: list[Any], pages: Any, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloudstore, "_WORTH_A_PAGE", 0)
    insert(far)
    offsets = pages(length)
    report = dj_npy.verify(far & "id % 4 = 0")
    assert report.counts == {"size as described": 9, "as described": 1}
    assert len(offsets) <= 11


def test_rows_far_apart_are_looked_at_one_by_one(far: Any, examined: list[Any], pages: Any) -> None:
    insert(far)
    offsets = pages(2)
    report = dj_npy.verify(far & "id % 4 = 0")
    assert report.counts == {"as described": 10}
    assert len(offsets) == 1
    assert len(examined) == 10


def test_where_a_listing_cannot_begin_at_a_path_a_table_s_folder_is_listed(
    in_azure: Any, database: Any, examined: list[Any], pages: Any
) -> None:
    insert(in_azure, 40)
    store = open_store(database.config, "cloud")
    gone, short = ((in_azure & {"id": n}).fetch1("x").path for n in (7, 8))
    store.remove(gone)
    store.remove(short)
    assert create(store, b"short", short) == short
    (in_azure & "id > 35").delete(prompt=False)
    offsets = pages(1000)
    assert dj_npy.verify(in_azure).counts == {
        "size as described": 33, "as described": 1, "missing": 1, "cut short": 1
    }  # fmt: skip
    assert len(examined) == 3
    assert len(offsets) == 1


def test_a_path_that_is_none_ends_no_listing(in_azure: Any, examined: list[Any]) -> None:
    insert(in_azure, 20)
    column = in_azure.connection.adapter.quote_identifier("x")
    for n, path in enumerate(["/x.npy", "/a/x.npy", "x.npy"]):
        row = f'{{"path": "{path}", "store": "cloud", "dtype": "<f8", "shape": [1]}}'
        in_azure.connection.query(
            f"UPDATE {in_azure.full_table_name} SET {column} = %s WHERE id = %s", (row, n)
        )
    report = dj_npy.verify(in_azure)
    assert report.counts == {
        "size as described": 16, "as described": 1, "unreadable": 2, "missing": 1
    }  # fmt: skip


def test_a_listing_that_shows_few_of_the_rows_is_given_up(
    in_azure: Any, examined: list[Any]
) -> None:
    insert(in_azure, 40)
    assert dj_npy.verify(in_azure & "id in (0, 1)").counts == {
        "size as described": 1, "as described": 1
    }  # fmt: skip
    last = in_azure & "id in (8, 9)"  # behind those of two digits
    assert dj_npy.verify(last).counts == {"as described": 2}


def test_a_folder_that_cannot_be_listed(
    in_azure: Any, examined: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(in_azure, 5)

    def files(*_: Any) -> Any:
        raise StoreError("refused")

    monkeypatch.setattr(cloudstore.CloudStore, "_files", files)
    assert dj_npy.verify(in_azure).counts == {"as described": 5}


def test_whatever_the_server_s_order(
    table: Any,
    database: Any,
    seaweedfs: str,
    examined: list[Any],
    pages: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = far_table(table, database, seaweedfs, "varchar(8)")
    dj_npy.insert(far, [{"id": key, "x": WAVEFORM} for key in KEYS])
    monkeypatch.setattr(cloudstore, "_WORTH_A_PAGE", 0)
    for length in (1, 3, 1000):
        pages(length)
        examined.clear()
        report = dj_npy.verify(far)
        assert report.ok
        assert report.counts["size as described"] + len(examined) == len(KEYS)
    # The page began at `id=%7E/`, and SeaweedFS lists `id=/` before that.
    looked_at = {path.partition("/far/")[2] for path in examined}
    assert looked_at == {"id=%7E/x.npy", "id=/x.npy"}


def test_an_account_that_may_not_list(
    table: Any, database: Any, seaweedfs: str, examined: list[Any]
) -> None:
    far = far_table(table, database, seaweedfs)
    insert(far, 5)
    settings = {"access_key": "get-only", "secret_key": SECRET_KEY}
    database.config.stores["cloud"] = database.config.stores["cloud"] | settings
    assert dj_npy.verify(far).counts == {"as described": 5}
    assert len(examined) == 5


def test_rows_that_share_a_file_and_rows_of_the_built_in_codec(
    far: Any, database: Any, examined: list[Any]
) -> None:
    insert(far, 2)
    column = database.connection.adapter.quote_identifier("x")
    far.connection.query(
        f"INSERT INTO {far.full_table_name} (id, {column}) "
        f"SELECT 7, {column} FROM {far.full_table_name} WHERE id = 1"
    )
    context = {"schema": "lab", "table": "old", "field": "x", "config": database.config}
    row = BuiltinNpyCodec().encode(WAVEFORM, key={"id": 8}, context=context, store_name="cloud")
    far.connection.query(
        f"INSERT INTO {far.full_table_name} (id, {column}) VALUES (8, %s)", (json.dumps(row),)
    )
    assert dj_npy.verify(far).counts == {"size as described": 3, "as described": 1}


def test_a_row_that_makes_no_sense_hides_no_other(far: Any, database: Any) -> None:
    insert(far, 6)
    column = database.connection.adapter.quote_identifier("x")
    climbs = '{"path": "../x.npy", "store": "cloud", "dtype": "<f8", "shape": [1]}'
    nowhere = '{"path": "x.npy", "store": "nowhere", "dtype": "<f8", "shape": [1]}'
    for n, text in enumerate(['{"path": "a.npy"}', "3", climbs, nowhere]):
        far.connection.query(
            f"UPDATE {far.full_table_name} SET {column} = %s WHERE id = %s", (text, n)
        )
    report = dj_npy.verify(far)
    found = {finding.key["id"]: finding.what for finding in report.findings}
    assert found == {0: "invalid row", 1: "invalid row", 2: "unreadable", 3: "unreadable"}
    assert report.counts["as described"] + report.counts["size as described"] == 2


def test_no_row_stops_it(far: Any, database: Any) -> None:
    insert(far, 3)
    column = database.connection.adapter.quote_identifier("x")
    texts = [
        f'{{"path": "a/b.npy", "store": "cloud", "dtype": "<f8", "shape": [{2**62}]}}',
        '{"path": "a/b.npy", "store": "cloud", "dtype": "<f8", "shape": [4611686018427387888]}',
    ]
    for n, text in enumerate(texts):
        far.connection.query(
            f"UPDATE {far.full_table_name} SET {column} = %s WHERE id = %s", (text, n)
        )
    assert dj_npy.verify(far).counts["missing"] == 2


def test_a_text_that_no_database_takes_as_json() -> None:
    with Checklist() as rows:
        rows.add_config(dj.config)
        assert rows.add("t", {}, "x", '{"path": "\\ud800", "dtype": "<f8", "shape": [2]}') == 16
        assert [row.row.path for row in rows] == ["\ud800"]
        assert list(rows.settle()) == []


def test_many_arguments_are_listed_together(far: Any, pages: Any) -> None:
    insert(far, 20)
    offsets = pages(1000)
    report = dj_npy.verify(*[far & {"id": n} for n in range(20)])
    assert report.counts == {"size as described": 19, "as described": 1}
    assert len(offsets) == 1


def test_a_store_that_refuses_listings_is_not_asked_for_each_slice(
    far: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(far)
    monkeypatch.setattr("dj_npy._upkeep.checklist._AT_ONCE", 2)
    monkeypatch.setattr(settings, "max_workers", 1)
    refused = []

    def listed_sizes(*_: Any) -> Any:
        refused.append(threading.get_ident())
        raise StoreError("refused")

    monkeypatch.setattr(cloudstore.CloudStore, "listed_sizes", listed_sizes)
    assert dj_npy.verify(far).counts == {"as described": 40}
    assert 3 <= len(refused) <= 5
    assert len(set(refused)) == 1  # as many threads as the setting allows


def test_one_that_is_told_to_end_asks_for_no_more_pages(
    far: Any, pages: Any, monkeypatch: pytest.MonkeyPatch, database: Any
) -> None:
    monkeypatch.setattr(cloudstore, "_WORTH_A_PAGE", 0)
    insert(far, 5)
    offsets, token = pages(1), CancelToken()
    store = open_store(database.config, "cloud")
    paths = sorted(row["x"].path for row in far.to_dicts())

    def listed() -> Any:
        current_token.set(token)
        return store.listed_sizes(paths)

    assert len(copy_context().run(listed)) == 5
    assert len(offsets) == 5
    token.stopped = True
    with pytest.raises(Stopped):
        copy_context().run(listed)
    assert len(offsets) == 5


def test_a_full_disk_for_temporary_files_is_told() -> None:
    """That is a limit of the size of files here; SQLite begins to write after some megabytes."""
    row = '{"path": "a/b.npy", "store": "main", "dtype": "<f8", "shape": [1]}'
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def add_many() -> None:
        with Checklist() as rows:
            rows.add_config(dj.config)
            for n in range(100_000):
                rows.add("schema.table", {"id": n}, "x", row)

    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, before[1]))
    try:
        with pytest.raises(OSError, match=r"could not write a temporary file.*TMPDIR"):
            add_many()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
