"""`verify` in S3: what listings of the store settle, and what they must not."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import obstore
import pytest
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from dj_npy._stores.obstore import store as cloudstore
from dj_npy._upkeep import verify as verify_module
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
    assert report.counts == {"size as described": 40}
    assert (report.headers, report.checksums, report.nbytes) == (False, False, 40 * 96)
    assert "checked for size by listings of the store\n" in str(report)
    assert json.loads(report.to_json())["headers"] is False
    assert examined == []
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
    assert report.counts["size as described"] == 36
    assert len(examined) == 4
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
    assert report.counts == {"size as described": 10}
    assert examined == []
    assert len(offsets) <= 11


def test_rows_far_apart_are_looked_at_one_by_one(far: Any, examined: list[Any], pages: Any) -> None:
    insert(far)
    offsets = pages(2)
    report = dj_npy.verify(far & "id % 4 = 0")
    assert report.counts == {"size as described": 3, "as described": 7}
    assert len(offsets) == 3
    assert len(examined) == 7


def test_whatever_the_server_s_order(
    table: Any, database: Any, seaweedfs: str, examined: list[Any], pages: Any
) -> None:
    far = far_table(table, database, seaweedfs, "varchar(8)")
    dj_npy.insert(far, [{"id": key, "x": WAVEFORM} for key in KEYS])
    for length in (1, 3, 1000):
        pages(length)
        examined.clear()
        report = dj_npy.verify(far)
        assert report.ok
        assert report.counts["size as described"] + len(examined) == len(KEYS)
    # SeaweedFS lists `id=/` before `id=%C3%B6/`, where this page began.
    assert [path.partition("/far/")[2] for path in examined] == ["id=/x.npy"]


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
    assert dj_npy.verify(far).counts == {"size as described": 4}
    assert examined == []


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
    assert report.counts["size as described"] == 2
    assert "by listings of the store, the others for shape and dtype too" in str(report)
