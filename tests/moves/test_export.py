"""`export`: a package that others read, whatever happens on the way."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy._cli.main import main
from dj_npy._moves import export as exporting
from dj_npy._stores.local.store import LocalStore
from tests.conftest import MakeTable
from tests.moves import packages

READER = """
import sys, json, base64, hashlib
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("datajoint", "dj_npy"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import numpy as np, pandas as pd
folder = sys.argv[1]
package = json.load(open(f"{folder}/datapackage.json", encoding="utf-8"))
tables = {}
for each in package["resources"]:
    contents = open(f"{folder}/{each['path']}", "rb").read()
    assert "sha256:" + hashlib.sha256(contents).hexdigest() == each["hash"], each["name"]
    assert len(contents) == each["bytes"]
    frame = pd.read_csv(
        f"{folder}/{each['path']}",
        dtype=str,
        keep_default_na=False,
        na_values=each["schema"]["missingValues"],
        lineterminator=None,
    )
    assert len(frame) == each["rows"]
    tables[each["name"].rpartition(".")[2]] = frame
arrays = tables["arrays"]
for path, nbytes, sha256 in zip(arrays.path, arrays.bytes, arrays.sha256):
    contents = open(f"{folder}/{path}", "rb").read()
    assert (len(contents), hashlib.sha256(contents).hexdigest()) == (int(nbytes), sha256)
code = tables["session"].set_index("session").code
subject = tables["subject"].set_index("subject")
print(json.dumps({
    "notes": subject.note.to_dict(),
    "weights": {k: float(np.float32(v)) for k, v in subject.weight.items()},
    "born": subject.born.dropna().to_dict(),
    "alive": subject.alive.to_dict(),
    "numbers": [float(v) for v in tables["session__trial"].v[:4]],
    "code": base64.b64decode(code["1"]).hex(),
    "empty": code["0"],
    "about": json.loads(tables["session"].about.dropna().iloc[0]),
    "start": tables["session"].start[0],
    "rig": tables["rig"].iloc[0].tolist(),
    "setting": int(tables["setting"].x[0]),
    "arrays": {
        session: [array.dtype.str, array.tobytes("A").hex(), bool(array.flags.f_contiguous)]
        for session, path in zip(tables["session"].session, tables["session"].raw)
        for array in [np.load(f"{folder}/{path}")]
    },
}))
"""


@pytest.fixture
def tables(schema: Any, database: Any) -> dict[str, Any]:
    """Ten tables, filled."""
    found = packages.declare(schema)
    packages.fill(found)
    return found


def test_pandas_and_numpy_alone_read_every_value(tables: Any, schema: Any, tmp_path: Path) -> None:
    dj_npy.export(schema, tmp_path / "package")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER, str(tmp_path / "package")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["notes"] == dict(zip(packages.SUBJECTS, packages.NOTES, strict=True))
    weights = [float(np.float32(each)) for each in packages.WEIGHTS]
    assert found["weights"] == dict(zip(packages.SUBJECTS, weights, strict=True))
    assert found["born"] == {"b": "2001-02-03"}
    assert found["alive"] == {s: "false" if s == "b" else "true" for s in packages.SUBJECTS}
    assert found["numbers"] == list(packages.NUMBERS)
    assert (found["code"], found["empty"]) == (bytes(range(256)).hex(), "")
    assert found["about"] == packages.PARAMETERS
    assert found["start"] == "2020-01-01T01:02:03.000045"
    assert found["rig"] == [str(packages.RIG), "2020-02-29", "12345678.90"]
    assert found["setting"] == 2**63 - 1
    for session, array in enumerate(packages.ARRAYS):
        dtype, values, fortran = found["arrays"][str(session)]
        assert (dtype, values) == (array.dtype.str, array.tobytes("A").hex())
        assert fortran == array.flags.f_contiguous


def test_the_parents_that_rows_need_come_along_and_no_others(
    tables: Any, tmp_path: Path, schema: Any
) -> None:
    exported = dj_npy.export(tables["Summary"], tmp_path / "a")
    counts = {name.partition(".")[2]: rows for name, rows in exported.tables.items()}
    assert counts == {
        "#rig": 1,
        "subject": 2,  # itself, and its friend
        "session": 1,
        "session__trial": 1,
        "__analysis": 1,
        "_summary": 1,
    }
    exported = dj_npy.export(tables["Session"] & "session > 2", tmp_path / "b")
    counts = {name.partition(".")[2]: rows for name, rows in exported.tables.items()}
    assert counts == {
        "#rig": 0,
        "subject": 2,
        "session": 2,
        "session__trial": 8,
        "session__event": 2,
    }
    both = [tables["Subject"] & "sex = 'M'", tables["Comparison"]]
    exported = dj_npy.export(both, tmp_path / "c")
    counts = {name.partition(".")[2]: rows for name, rows in exported.tables.items()}
    assert counts == {"subject": 3, "comparison": 1}
    # `dj.Diagram.trace(Session())` fails in DataJoint 2.3.5: "Attribute `subject` already exists".
    of_diagram = dj_npy.export(dj.Diagram(tables["Analysis"]), tmp_path / "d")
    assert of_diagram.tables == dj_npy.export(tables["Analysis"], tmp_path / "e").tables


def test_rows_of_a_list_and_of_a_top(tables: Any, tmp_path: Path) -> None:
    trial = tables["Session"].Trial
    exported = dj_npy.export(trial & [{"trial": 0}, {"trial": 3}], tmp_path / "a")
    assert exported.tables[f"{trial.database}.session__trial"] == 10
    exported = dj_npy.export(trial & dj.Top(limit=3), tmp_path / "b")
    assert exported.tables[f"{trial.database}.session__trial"] == 3


def test_what_is_no_table_is_refused(tables: Any, tmp_path: Path) -> None:
    refused: tuple[Any, ...] = (
        tables["Session"] * tables["Subject"],
        tables["Session"].proj(),
        tables["Session"].proj(other="raw"),
        np.zeros(3),
        [],
        None,
    )
    for given in refused:
        with pytest.raises(dj_npy.ArrayInvalidError):
            dj_npy.export(given, tmp_path / "package")
    assert not (tmp_path / "package" / "datapackage.json").exists()


def test_a_folder_with_something_in_it_is_refused(recording: Any, tmp_path: Path) -> None:
    recording.insert1({"recording_id": 1, "waveform": np.zeros(3)})
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(dj_npy.ArrayInvalidError, match="is not empty"):
        dj_npy.export(recording, folder)
    assert [each.name for each in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    dj_npy.export(recording, folder)
    with pytest.raises(dj_npy.ArrayInvalidError, match="has a package already"):
        dj_npy.export(recording, folder)


def test_an_export_that_was_stopped_is_taken_up(
    recording: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.insert([{"recording_id": n, "waveform": np.arange(4.0) + n} for n in range(5)])
    folder = tmp_path / "package"

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "_end", stopped)
    with pytest.raises(KeyboardInterrupt):
        dj_npy.export(recording, folder)
    monkeypatch.undo()
    with pytest.raises(dj_npy.ArrayInvalidError, match="Its export was not finished"):
        dj_npy.import_package(folder, connection=recording.connection)
    npys = sorted(folder.rglob("*.npy"))
    assert len(npys) == 5
    times = [each.stat().st_mtime_ns for each in npys[1:]]
    npys[0].write_bytes(b"damaged")
    (recording & "recording_id = 4").delete(prompt=False)
    assert dj_npy.export(recording, folder).arrays == 4
    assert sorted(folder.rglob("*.npy")) == npys[:4]
    assert [each.stat().st_mtime_ns for each in npys[1:4]] == times[:3]
    np.testing.assert_array_equal(np.load(npys[0]), np.arange(4.0))
    assert not (folder / "export-unfinished.json").exists()


def test_a_full_disk_is_a_clear_error_and_the_rest_comes_later(
    recording: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.insert([{"recording_id": n, "waveform": np.arange(4.0)} for n in range(5)])
    create = LocalStore._create

    def full(self: Any, paths: Any, pieces: Any, nbytes: int) -> str:
        if self.name == "package" and nbytes == 160:
            raise self.translate_error(OSError(28, "No space left on device"), "x", "write")
        return create(self, paths, pieces, nbytes)

    monkeypatch.setattr(LocalStore, "_create", full)
    with pytest.raises(dj_npy.StoreError, match=r"disk is full.*call it again"):
        dj_npy.export(recording, tmp_path / "package")
    monkeypatch.undo()
    assert not (tmp_path / "package" / "datapackage.json").exists()
    assert dj_npy.export(recording, tmp_path / "package").arrays == 5


def test_a_really_full_disk(postgresql: Any, small_exfat: Path, tmp_path: Path) -> None:
    before = postgresql.config.stores
    (tmp_path / "store").mkdir(exist_ok=True)
    settings = {"protocol": "file", "location": str(tmp_path / "store")}
    postgresql.config.stores = {"default": "main", "main": settings}
    schema = postgresql.Schema("test_full_disk")
    try:

        @schema
        class Recording(dj.Manual):
            definition = "n : int32\n---\na : <npy@>"

        Recording.insert({"n": n, "a": np.zeros(1 << 20)} for n in range(4))
        with pytest.raises(dj_npy.StoreError, match="disk is full"):
            dj_npy.export(Recording, small_exfat / "package")
        assert not (small_exfat / "package" / "datapackage.json").exists()
    finally:
        schema.drop(prompt=False)
        postgresql.config.stores = before


def test_an_account_that_may_only_read_exports(
    postgresql: Any, schema: Any, tables: Any, tmp_path: Path, reader: Callable[..., Any]
) -> None:
    if schema.connection is not postgresql.connection:
        pytest.skip("roles of PostgreSQL's")
    name = f'"{schema.database}"'
    connection = reader(
        f"GRANT USAGE ON SCHEMA {name} TO ROLE",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO ROLE",
    )
    connection._config.stores = schema.connection._config.stores
    table = dj.FreeTable(connection, tables["Session"].full_table_name)
    dj_npy.export(table & "session > 2", tmp_path / "theirs")
    dj_npy.export(tables["Session"] & "session > 2", tmp_path / "mine")
    contents = [packages.contents(tmp_path / n, schema.database) for n in ("theirs", "mine")]
    assert contents[0] == contents[1]


def test_an_account_of_mysql_that_may_only_read_exports(
    few_grants: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    few_grants.config.stores["archive"] = few_grants.config.stores["main"]
    user = few_grants.connection.conn_info["user"]
    schema = few_grants.Schema(f"{user}_lab")
    packages.fill(packages.declare(schema))
    callspec = request.node.callspec.params["few_grants"]
    root = request.getfixturevalue(callspec).connection
    root.query(f"REVOKE ALL ON `{user}\\_%%`.* FROM {user}@localhost")
    root.query(f"GRANT SELECT ON `{user}\\_lab`.* TO {user}@localhost")
    few_grants.connection.connect()
    exported = dj_npy.export(schema, tmp_path / "package")
    assert (len(exported.tables), exported.rows) == (10, 39)


def test_files_of_other_codecs_are_left_out_and_told(
    table: MakeTable, tmp_path: Path, schema: Any
) -> None:
    made = table("n : int32\n---\nx = null : <blob@>\ny = null : <npy@>")
    made.insert1({"n": 1, "y": np.zeros(3)})
    exported = dj_npy.export(made, tmp_path / "package")
    assert exported.left_out == [f"the files of {schema.database}.recording.x, <blob@>"]
    assert exported.ok
    made.delete(prompt=False)
    imported = dj_npy.import_package(tmp_path / "package", connection=schema.connection)
    assert (imported.rows, imported.left_out) == (1, exported.left_out)


def test_parquet(tables: Any, schema: Any, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    dj_npy.export(schema, tmp_path / "package", parquet=True)
    found = parquet.read_table(next((tmp_path / "package").rglob("*.session.parquet"))).to_pylist()
    assert [row["session"] for row in found] == [2, 1, 3, 0, 4]
    assert found[0]["start"] == packages.START
    assert found[1]["code"] == bytes(range(256))
    dj_npy.import_package(tmp_path / "package", connection=schema.connection, dry_run=True)


def test_a_package_in_a_store(recording: Any, schema: Any, tmp_path: Path, stores: Any) -> None:
    recording.insert([{"recording_id": n, "waveform": np.arange(4.0) + n} for n in range(3)])
    exported = dj_npy.export(recording, "paper/one", store="archive")
    assert exported.arrays == 3
    assert (tmp_path / "archive/paper/one/datapackage.json").exists()
    recording.delete(prompt=False)
    imported = dj_npy.import_package("paper/one", store="archive", connection=schema.connection)
    assert imported.rows == 3
    for n, ref in enumerate(recording().to_arrays("waveform", order_by="recording_id")):
        np.testing.assert_array_equal(ref.load(), np.arange(4.0) + n)


@pytest.mark.parametrize("kind", ["moto", "rclone"])
def test_a_package_on_s3(
    kind: str, postgresql: Any, request: pytest.FixtureRequest, tmp_path: Path, store: Path
) -> None:
    from tests.support.servers import s3_settings

    url = request.getfixturevalue(kind)
    before = postgresql.config.stores
    postgresql.config.stores = {
        "default": "main",
        "main": {"protocol": "file", "location": str(store)},
        "far": s3_settings(url, location=f"packages/{tmp_path.name}"),
    }
    schema = postgresql.Schema(f"test_{kind}_package")
    try:

        @schema
        class Recording(dj.Manual):
            definition = "n : int32\n---\na : <npy@>"

        Recording.insert({"n": n, "a": np.arange(4.0) + n} for n in range(3))
        assert dj_npy.export(Recording, "paper", store="far").arrays == 3
        Recording.delete(prompt=False)
        assert dj_npy.import_package("paper", store="far").rows == 3
        assert dj_npy.verify(schema, checksums=True).ok
    finally:
        schema.drop(prompt=False)
        postgresql.config.stores = before


def test_the_command(
    recording: Any, schema: Any, tmp_path: Path, configured: None, capsys: Any
) -> None:
    recording.insert([{"recording_id": n, "waveform": np.arange(4.0)} for n in range(3)])
    table = f"{schema.database}.recording"
    assert main(["export", table, "--where", "recording_id < 2", "--to", str(tmp_path / "a")]) == 0
    assert "2 rows of 1 tables, 2 arrays" in capsys.readouterr().out
    (tmp_path / "store" / recording().to_arrays("waveform")[0].path).unlink()
    arguments = ["export", schema.database, "--to", str(tmp_path / "b"), "--progress", "--json"]
    assert main(arguments) == 1
    loaded = json.loads(capsys.readouterr().out)
    assert (loaded["rows"], loaded["arrays"], loaded["counts"]) == (3, 2, {"missing": 1})
    assert main(arguments) == 1
    assert "has a package already" in capsys.readouterr().err
    arguments = ["export", schema.database, "--where", "1", "--to", str(tmp_path / "c")]
    assert main(arguments) == 2
