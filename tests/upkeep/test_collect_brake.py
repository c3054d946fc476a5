"""`collect` stops where more would go than a clean-up takes along, unless it is told how many."""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
from dj_npy._upkeep.collection import Collection
from tests.support.servers import S3Raw, files, s3_settings
from tests.upkeep.test_collect import paths

WAVEFORM = np.arange(12.0).reshape(3, 4)
NOW = timedelta(0)


def fill(table: Any, count: int) -> Any:
    dj_npy.insert(table, [{"recording_id": n, "waveform": WAVEFORM + n} for n in range(count)])
    return table


@pytest.mark.parametrize("count", [1, 3, 55])
def test_where_no_row_is_left_nothing_is_removed_unless_told(
    recording: Any, schema: Any, store: Path, count: int
) -> None:
    """Every row was deleted, or it is an empty database, or a wrong one."""
    fill(recording, count).delete(prompt=False)
    before = files(store)
    found = dj_npy.collect(schema, older_than=NOW)
    assert found.too_many
    assert f"would be refused: all {count} arrays in store 'main' have no row" in str(found)
    assert json.loads(found.to_json())["too_many"] == found.too_many
    with pytest.raises(dj_npy.StoreError, match=f"all {count} arrays .*at_most={count}") as error:
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert "Nothing was removed" in str(error.value)
    assert "older dump" in str(error.value)
    with pytest.raises(dj_npy.StoreError, match=f"{count} arrays .*at_most is {count - 1}"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=count - 1)
    assert files(store) == before
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=count)
    assert (found.removed, found.too_many) == (count, "")
    assert files(store) == set()
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 0


@pytest.mark.parametrize(
    ("live", "gone", "stops"),
    [(0, 0, False), (0, 1, True), (1, 20, False), (1, 21, True), (30, 30, False), (30, 31, True)],
)
def test_more_than_stay_and_than_a_few_are_too_many(live: int, gone: int, stops: bool) -> None:
    report = Collection(True, NOW, ["lab"])
    report.counts["array"] = gone
    report.weigh([("main", live, gone)], None)
    assert bool(report.too_many) is stops
    report.weigh([("main", live, gone), ("archive", 0, 1)], None)
    assert report.too_many.count("archive") == 1


def test_what_a_clean_up_takes_along_goes_unasked(recording: Any, schema: Any, store: Path) -> None:
    (fill(recording, 60) & "recording_id < 29").delete(prompt=False)
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 29
    (recording & "recording_id < 51").delete(prompt=False)
    before = files(store)
    with pytest.raises(dj_npy.StoreError, match="22 of 31 arrays in store 'main' have no row"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert files(store) == before
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=22).removed == 22
    assert files(store) == paths(recording)


def test_each_store_is_looked_at_for_itself(
    recording: Any, table: Callable[..., Any], schema: Any, store: Path, tmp_path: Path
) -> None:
    """Another disk may be mounted in the place of one of them."""
    fill(recording, 9)
    zoo = fill(table("recording_id : int32\n---\nwaveform : <npy@archive>", "Zoo"), 2)
    zoo.delete(prompt=False)
    with pytest.raises(dj_npy.StoreError, match="all 2 arrays in store 'archive'"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert len(files(tmp_path / "archive")) == 2
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=2).removed == 2


def test_what_was_never_an_array_goes_unasked(recording: Any, schema: Any, store: Path) -> None:
    folder = store / schema.database / "recording" / "recording_id=1"
    folder.mkdir(parents=True)
    (folder / f".{'0' * 16}.dj-npy-tmp").write_bytes(b"half")
    (folder / "waveform.npy").write_bytes(b"")
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).removed == 2


def test_arrays_newer_than_any_row_s_are_told(recording: Any, schema: Any) -> None:
    """So it is after an older dump was restored."""
    fill(recording, 30)
    rows = [{"recording_id": n, "waveform": WAVEFORM} for n in range(100, 110)]
    for row in rows:
        recording.insert1(row)
    assert dj_npy.collect(schema, older_than=NOW).newest == 0
    (recording & "recording_id >= 100").delete(prompt=False)
    found = dj_npy.collect(schema, older_than=NOW)
    assert found.newest == 10
    assert "newer than any file of a row: 10 arrays. Was an older dump" in str(found)


@pytest.mark.parametrize("at_most", [-1, 1.0, "1", True])
def test_what_is_no_number_is_refused(recording: Any, schema: Any, at_most: Any) -> None:
    with pytest.raises(dj_npy.ArrayInvalidError, match="at_most"):
        dj_npy.collect(schema, at_most=at_most)


def test_on_the_command_line(
    recording: Any, schema: Any, store: Path, dj_npy_command: Callable[..., Any]
) -> None:
    fill(recording, 3).delete(prompt=False)
    given = (schema.database, "--older-than", "0", "--delete")
    result = dj_npy_command("collect", *given)
    assert result.returncode == 1
    assert "--at-most 3" in result.stderr
    assert len(files(store)) == 3
    assert dj_npy_command("collect", *given, "--at-most", "two").returncode == 2
    assert dj_npy_command("collect", *given, "--at-most", "2").returncode == 1
    result = dj_npy_command("collect", *given, "--at-most", "3")
    assert (result.returncode, result.stderr) == (0, "")
    assert files(store) == set()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_on_s3(table: Callable[..., Any], schema: Any, database: Any, moto: str) -> None:
    location = f"brake/{uuid.uuid4().hex}"
    database.config.stores["cloud"] = s3_settings(moto, location=location)
    far = fill(table("recording_id : int32\n---\nwaveform : <npy@cloud>", "Far"), 4)
    expected = paths(far)
    far.delete(prompt=False)
    with pytest.raises(dj_npy.StoreError, match="all 4 arrays in store 'cloud'"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert S3Raw(moto, location).keys() >= expected
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False, at_most=4).removed == 4
