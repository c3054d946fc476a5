"""`relocate`: rows are told where their files are, if they are there."""

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
from dj_npy._cli.main import main
from dj_npy._moves import relocate as module
from tests.conftest import MakeTable
from tests.moves.test_move import ROWS, array, check
from tests.support.references import forget_stores
from tests.support.servers import S3Raw, files, s3_settings


@pytest.fixture
def rows(recording: Any, table: MakeTable, stores: Any) -> Any:
    """Rows in the store `main`, and one of another table in the store `archive`."""
    recording.insert([{"recording_id": n, "waveform": array(n)} for n in range(ROWS)])
    other = table("id : int32\n---\nmovie = null : <npy@archive>", "Other")
    other.insert([{"id": 1, "movie": array(1)}, {"id": 2, "movie": None}])
    return recording()


@pytest.fixture
def disk(rows: Any, store: Path, tmp_path: Path, database: Any) -> Path:
    """A folder to which the store `main` was moved; it is the store `disk`."""
    folder = tmp_path / "disk"
    shutil.move(store, folder)
    database.config.stores["disk"] = {"protocol": "file", "location": str(folder)}
    return folder


def stores_of(table: Any) -> set[str]:
    return {ref.store for ref in table.to_arrays("waveform")}


@pytest.mark.parametrize("checksums", [False, True])
def test_rows_are_told(rows: Any, schema: Any, disk: Path, checksums: bool) -> None:
    before = files(disk)
    moved = dj_npy.relocate(schema, old="main", new="disk", checksums=checksums, progress=True)
    assert (moved.rows, moved.files, moved.nbytes, moved.ok) == (ROWS, ROWS, ROWS * 928, True)
    check(rows, "disk")
    assert files(disk) == before
    again = dj_npy.relocate(schema, old="main", new="disk")
    assert (again.rows, again.ok) == (0, True)


def test_the_old_store_need_not_be_configured(rows: Any, schema: Any, disk: Path) -> None:
    stores = schema.connection._config.stores
    del stores["main"]
    stores["default"] = "disk"
    forget_stores()
    assert dj_npy.relocate(schema, old="main", new="disk").rows == ROWS
    check(rows, "disk")


@pytest.mark.parametrize("damage", ["missing", "cut short", "other bytes"])
def test_nothing_is_changed_if_a_file_is_not_as_it_should_be(
    rows: Any, schema: Any, disk: Path, damage: str
) -> None:
    path = disk / (rows & "recording_id=3").fetch1("waveform").path
    contents = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(contents[:-1] + (b"\1" if damage == "other bytes" else b""))
    moved = dj_npy.relocate(schema, old="main", new="disk", checksums=True)
    assert (moved.rows, moved.counts, moved.ok) == (0, {damage: 1}, False)
    assert moved.findings[0].key == {"recording_id": 3}
    assert stores_of(rows) == {"main"}
    moved = dj_npy.relocate(schema, old="main", new="disk", checksums=True, found_only=True)
    assert (moved.rows, moved.counts, moved.ok) == (ROWS - 1, {damage: 1}, False)
    assert (rows & "recording_id=3").fetch1("waveform").store == "main"
    assert stores_of(rows - "recording_id=3") == {"disk"}


def test_a_copy_without_the_marker_gets_one_and_rows_its_id(
    rows: Any, schema: Any, disk: Path
) -> None:
    (disk / ".dj-npy-store").unlink()
    dj_npy.relocate(schema, old="main", new="disk")
    check(rows, "disk")
    [new_id] = json.loads((disk / ".dj-npy-store").read_text())["store_id"]
    (disk / (rows & "recording_id=3").fetch1("waveform").path).unlink()
    with pytest.raises(dj_npy.ArrayMissingError):  # and not: this is another store
        (rows & "recording_id=3").fetch1("waveform").load()
    assert len(new_id) == 32


def test_nothing_is_written_where_files_are_missing(
    rows: Any, schema: Any, tmp_path: Path, database: Any
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    database.config.stores["disk"] = {"protocol": "file", "location": str(empty)}
    moved = dj_npy.relocate(schema, old="main", new="disk")
    assert moved.counts.total() == ROWS
    assert list(empty.iterdir()) == []
    check(rows, "main")


def test_into_a_store_that_is_not_the_one_that_rows_mean_it_is_refused(
    rows: Any, schema: Any, disk: Path
) -> None:
    dj_npy.relocate(schema, old="main", new="disk")
    (disk / ".dj-npy-store").write_text(json.dumps({"store_id": [uuid.uuid4().hex]}))
    for path in (disk.parent / "archive").rglob("*.npy"):
        target = disk / path.relative_to(disk.parent / "archive")
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    forget_stores()
    with pytest.raises(dj_npy.StoreError, match="was written to store"):
        dj_npy.relocate(schema, old="archive", new="disk")


def test_a_row_that_is_changed_meanwhile_is_left_alone(
    rows: Any, schema: Any, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = module._tell
    schema.connection._config.stores["main"] = schema.connection._config.stores["archive"]
    forget_stores()

    def update_first(*given: Any) -> None:
        (rows & "recording_id=2").delete(prompt=False)
        tell(*given)

    monkeypatch.setattr(module, "_tell", update_first)
    moved = dj_npy.relocate(schema, old="main", new="disk")
    assert (moved.rows, moved.changed) == (ROWS - 1, 1)
    assert len(rows) == ROWS - 1


def test_a_bucket(
    rows: Any, schema: Any, store: Path, moto: str, location: str, database: Any
) -> None:
    raw = S3Raw(moto, location)
    for path in files(store):
        raw.put(path, (store / path).read_bytes())
    database.config.stores["cloud"] = s3_settings(moto, location=location)
    moved = dj_npy.relocate(schema, old="main", new="cloud", checksums=True)
    assert (moved.rows, moved.ok) == (ROWS, True)
    check(rows, "cloud")


def test_wrong_arguments_are_refused(rows: Any, schema: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: dj_npy.relocate(old="main", new="disk"),
        lambda: dj_npy.relocate(schema, old="main", new="main"),
        lambda: dj_npy.relocate(schema, old="main", new=None),  # type: ignore[arg-type]
        lambda: dj_npy.relocate(rows, old="main", new="disk"),
    ]
    for call in calls:
        with pytest.raises(dj_npy.ArrayInvalidError, match=r"dj_npy\.relocate\(schema"):
            call()
    with pytest.raises(dj_npy.StoreError, match="no store is called 'nowhere'"):
        dj_npy.relocate(schema, old="main", new="nowhere")
    with schema.connection.transaction, pytest.raises(dj_npy.StoreError, match="transaction"):
        dj_npy.relocate(schema, old="main", new="archive")


def test_the_command(
    rows: Any, schema: Any, disk: Path, configured: None, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["relocate", schema.database, "--from", "main", "--to", "disk", "--checksums"]
    missing = disk / (rows & "recording_id=3").fetch1("waveform").path
    contents = missing.read_bytes()
    missing.unlink()
    assert main([*call, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["counts"] == {"missing": 1}
    missing.write_bytes(contents)
    assert main([*call, "--found-only", "--progress"]) == 0
    assert "6 rows now refer to store 'disk'" in capsys.readouterr().out
    np.testing.assert_array_equal((rows & "recording_id=3").fetch1("waveform").load(), array(3))
