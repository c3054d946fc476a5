"""`import_package`: the same rows and arrays in another database, or nothing at all."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy._cli.main import main
from tests.conftest import MakeTable
from tests.moves import packages


@pytest.fixture
def source(postgresql: Any, tmp_path: Path, store: Path) -> Iterator[Any]:
    """Ten tables in PostgreSQL."""
    (tmp_path / "archive").mkdir()
    before = postgresql.config.stores
    postgresql.config.stores = _stores(tmp_path)
    schema = postgresql.Schema(f"test_{uuid.uuid4().hex[:12]}")
    packages.fill(packages.declare(schema))
    yield schema
    schema.drop(prompt=False)
    postgresql.config.stores = before


def _stores(tmp_path: Path) -> dict[str, Any]:
    return {
        "default": "main",
        "main": {"protocol": "file", "location": str(tmp_path / "store")},
        "archive": {"protocol": "file", "location": str(tmp_path / "archive")},
    }


@pytest.fixture(params=["mysql", "mariadb", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A database, and the name of a schema that is not there."""
    database = request.getfixturevalue(request.param)
    before = database.config.stores
    database.config.stores = _stores(tmp_path)
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield database, name
    if name in dj.list_schemas(database.connection):
        database.Schema(name).drop(prompt=False)
    database.config.stores = before


def test_a_package_of_ten_tables_is_the_same_after_another_database(
    source: Any, target: tuple[Any, str], tmp_path: Path
) -> None:
    database, name = target
    first = dj_npy.export(source, tmp_path / "first")
    assert first.ok
    assert (len(first.tables), first.rows) == (10, 1 + 4 + 5 + 20 + 5 + 1 + 1 + 1 + 1)
    imported = dj_npy.import_package(
        tmp_path / "first", schemas=name, connection=database.connection, progress=True
    )
    assert (imported.ok, imported.rows, imported.arrays) == (True, first.rows, first.arrays)
    again = dj_npy.export(database.Schema(name), tmp_path / "second")
    assert again.ok
    before = packages.contents(tmp_path / "first", source.database)
    after = packages.contents(tmp_path / "second", name)
    assert before.keys() == after.keys()
    for path, expected in before.items():
        assert after[path] == expected, path
    assert dj_npy.verify(database.Schema(name), checksums=True).ok


def test_rows_that_are_there_are_skipped_if_equal_and_refused_if_not(
    source: Any, target: tuple[Any, str], tmp_path: Path
) -> None:
    database, name = target
    connection = database.connection
    dj_npy.export(source, tmp_path / "package")
    rows = dj_npy.import_package(tmp_path / "package", schemas=name, connection=connection).rows
    again = dj_npy.import_package(tmp_path / "package", schemas=name, connection=connection)
    assert (again.rows, again.already, again.declared) == (0, rows, [])
    trial = dj.FreeTable(
        connection, connection.adapter.make_full_table_name(name, "session__trial")
    )
    key = {"subject": "b", "session": 1, "start": packages.START, "trial": 2}
    (trial & key).delete_quick()
    again = dj_npy.import_package(tmp_path / "package", schemas=name, connection=connection)
    assert (again.rows, again.arrays, again.already) == (1, 1, rows - 1)
    trial.update1({**key, "w": np.arange(3)})
    before = trial.proj("v").to_dicts()
    with pytest.raises(dj_npy.ArrayInvalidError, match=r"rows that differ.*'trial': '2'"):
        dj_npy.import_package(tmp_path / "package", schemas=name, connection=connection)
    assert trial.proj("v").to_dicts() == before


@pytest.fixture
def package(recording: Any, tmp_path: Path) -> Path:
    """Three rows, exported, and removed."""
    recording.insert([{"recording_id": n, "waveform": np.arange(4.0) + n} for n in range(3)])
    folder = tmp_path / "package"
    assert dj_npy.export(recording, folder).ok
    recording.delete(prompt=False)
    return folder


def _edit(package: Path, old: str, new: str) -> None:
    path = package / "datapackage.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _link(package: Path) -> None:
    path = next(package.rglob("waveform.npy"))
    path.rename(package.parent / "elsewhere.npy")
    path.symlink_to(package.parent / "elsewhere.npy")


def _link_folder(package: Path) -> None:
    (package / "arrays").rename(package.parent / "arrays")
    (package / "arrays").symlink_to(package.parent / "arrays")


def _append(path: Path, more: bytes) -> None:
    path.write_bytes(path.read_bytes() + more)


def _flip(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)


TAMPERED: dict[str, Callable[[Path], Any]] = {
    "a row": lambda p: _append(next(p.glob("tables/*.csv")), b"9,x\r\n"),
    "an array": lambda p: _flip(next(p.rglob("waveform.npy"))),
    "a missing array": lambda p: next(p.rglob("waveform.npy")).unlink(),
    "a missing table": lambda p: next(p.glob("tables/*.csv")).unlink(),
    "the list of arrays": lambda p: _append(p / "arrays.csv", b"a,1,b,c,\r\n"),
    "a path that climbs": lambda p: _edit(p, '"tables/', '"../tables/'),
    "an absolute path": lambda p: _edit(p, '"tables/', '"/etc/'),
    "a backslash": lambda p: _edit(p, '"tables/', '"tables\\\\'),
    "a drive": lambda p: _edit(p, '"tables/', '"C:tables/'),
    "a hash": lambda p: _edit(p, '"hash": "sha256:', '"hash": "sha256:0'),
    "a link": _link,
    "a link to a folder": _link_folder,
    "no json": lambda p: (p / "datapackage.json").write_text("{"),
    "another json": lambda p: (p / "datapackage.json").write_text("[]"),
    "no package": lambda p: (p / "datapackage.json").unlink(),
    "a later version": lambda p: _edit(p, '"version": 1', '"version": 2'),
    "an unknown type": lambda p: _edit(p, '"storage": "int32"', '"storage": "int33"'),
    "another type": lambda p: _edit(p, '"type": "int32",\n', '"type": "int64",\n'),
    "a definition with a line break": lambda p: _edit(
        p, '"type": "int32",\n', '"type": "i\\nx",\n'
    ),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_package_is_refused_before_anything_is_changed(
    how: str, package: Path, recording: Any, schema: Any, store: Path
) -> None:
    before = sorted(store.rglob("*"))
    TAMPERED[how](package)
    with pytest.raises(dj_npy.NpyError) as refused:
        dj_npy.import_package(package, schemas=schema.database, connection=schema.connection)
    assert len(str(refused.value)) > 40
    assert len(recording()) == 0
    assert sorted(store.rglob("*")) == before


def test_arrays_in_a_list_that_climb_are_refused(
    package: Path, recording: Any, schema: Any
) -> None:
    import hashlib

    listed = package / "arrays.csv"
    outside = package.parent / "outside.npy"
    outside.write_bytes(next(package.rglob("waveform.npy")).read_bytes())
    old = hashlib.sha256(listed.read_bytes()).hexdigest()
    size = listed.stat().st_size
    listed.write_bytes(
        listed.read_bytes().replace(
            f"arrays/{schema.database}/recording/recording_id=0/waveform.npy".encode(),
            b"arrays/../../outside.npy",
        )
    )
    _edit(package, old, hashlib.sha256(listed.read_bytes()).hexdigest())
    _edit(package, f'"bytes": {size}', f'"bytes": {listed.stat().st_size}')
    with pytest.raises(dj_npy.ArrayInvalidError, match="leads out of the package"):
        dj_npy.import_package(package, connection=schema.connection)
    assert len(recording()) == 0


def test_a_table_that_does_not_fit_is_refused(package: Path, table: MakeTable, schema: Any) -> None:
    schema.connection.query(
        f"DROP TABLE {schema.connection.adapter.make_full_table_name(schema.database, 'recording')}"
    )
    other = table("recording_id : int32\n---\nwaveform : <npy@>\nmore : int32", "Recording")
    with pytest.raises(
        dj_npy.ArrayInvalidError, match="an attribute more, which the rows have not"
    ):
        dj_npy.import_package(package, connection=schema.connection)
    assert len(other()) == 0


def test_without_space_for_arrays_no_row_is_left_without_its_file(
    package: Path, recording: Any, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dj_npy._stores.local.store import LocalStore

    create = LocalStore._create

    def full(self: Any, paths: Any, pieces: Any, nbytes: int) -> str:
        if self.name == "main":
            raise self.translate_error(OSError(28, "No space left on device"), "x", "write")
        return create(self, paths, pieces, nbytes)

    monkeypatch.setattr(LocalStore, "_create", full)
    with pytest.raises(dj_npy.StoreError, match="disk is full"):
        dj_npy.import_package(package, connection=schema.connection)
    assert len(recording()) == 0
    monkeypatch.undo()
    assert dj_npy.import_package(package, connection=schema.connection).rows == 3


def test_values_that_the_database_cannot_hold_are_refused_first(
    postgresql: Any, mysql: Any, tmp_path: Path, store: Path
) -> None:
    schema = postgresql.Schema(f"test_{uuid.uuid4().hex[:12]}")
    try:

        @schema
        class Number(dj.Manual):
            definition = "n : int32\n---\nx : float64"

        connection = postgresql.connection
        connection.query(
            f"INSERT INTO {Number.full_table_name} VALUES (1, 'NaN'), (2, '-Infinity'), (3, '-0')"
        )
        dj_npy.export(schema, tmp_path / "package")
        name = f"{schema.database}_2"
        with pytest.raises(dj_npy.ArrayCorruptError, match=r"x of {'n': '1'} is 'NaN': MySQL"):
            dj_npy.import_package(tmp_path / "package", schemas=name, connection=mysql.connection)
        assert name not in dj.list_schemas(mysql.connection)
        dj_npy.import_package(tmp_path / "package", schemas=name, connection=connection)
        copied = postgresql.Schema(name)
        dj_npy.export(copied, tmp_path / "second")
        tables = [
            (tmp_path / f / "tables" / f"{n}.number.csv").read_bytes()
            for f, n in (("package", schema.database), ("second", name))
        ]
        assert tables[0] == tables[1]
        assert b"1,NaN\r\n2,-INF\r\n3,-0.0\r\n" in tables[0]
        copied.drop(prompt=False)
    finally:
        schema.drop(prompt=False)


def test_the_command(
    package: Path, recording: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(dj, "conn", lambda *_, **__: recording.connection)
    assert main(["import", str(package), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert len(recording()) == 0
    assert main(["import", str(package), "--arrays", "archive"]) == 0
    assert "3 rows and 3 arrays" in capsys.readouterr().out
    assert len(recording()) == 3
    assert main(["import", str(package / "none")]) == 1
    assert "is no package" in capsys.readouterr().err
    assert main(["import", str(package), "--into", "a=b", "--into", "c"]) == 2


def test_a_damaged_array_of_the_export_becomes_null_and_is_told(
    table: MakeTable, schema: Any, tmp_path: Path
) -> None:
    recording = table("recording_id : int32\n---\nwaveform = null : <npy@>")
    recording.insert([{"recording_id": n, "waveform": np.arange(4.0)} for n in range(2)])
    path = recording().to_arrays("waveform", order_by="recording_id")[0].path
    (tmp_path / "store" / path).unlink()
    exported = dj_npy.export(recording, tmp_path / "package")
    assert (exported.ok, exported.arrays, dict(exported.counts)) == (False, 1, {"missing": 1})
    [finding] = exported.findings
    assert finding.key == {"recording_id": "0"}
    name = f"{schema.database}_2"
    imported = dj_npy.import_package(
        tmp_path / "package", schemas=name, connection=schema.connection
    )
    assert (imported.ok, imported.missing, imported.rows, imported.arrays) == (False, 1, 2, 1)
    dj.Schema(name, connection=schema.connection).drop(prompt=False)
