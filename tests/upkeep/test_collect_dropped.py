"""Files of schemas, tables and columns that are gone: told apart, and removed only if asked for."""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import dj_npy
import dj_npy._upkeep.collect
from dj_npy._format.path import array_path, with_token
from dj_npy._upkeep.dropped import Dropped
from tests.support.servers import S3Raw, files, s3_settings
from tests.upkeep.test_collect import folders, paths

WAVEFORM = np.arange(12.0).reshape(3, 4)
NOW = timedelta(0)


@pytest.fixture
def old(table: Callable[..., Any]) -> Any:
    """A table that will be dropped, with two columns and three rows."""
    old = table("subject : varchar(8)\nn : int32\n---\na : <npy@>\nb : <npy@archive>", "Old")
    old.insert([{"subject": "x/y", "n": n, "a": WAVEFORM, "b": WAVEFORM} for n in range(3)])
    old.insert([{"subject": "x/y", "n": 0, "a": WAVEFORM, "b": WAVEFORM}], skip_duplicates=True)
    return old


def test_a_table_that_was_dropped(
    rows: Any, old: Any, schema: Any, store: Path, tmp_path: Path
) -> None:
    old.drop(prompt=False)
    before = files(store), files(tmp_path / "archive")
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False)
    assert (found.removed, found.unknown, found.counts) == (0, 0, {})
    assert (found.dropped, found.dropped_nbytes) == (4, 4 * (128 + 96))
    assert found.owners == {f"{schema.database}.old.a": 4}
    assert "4 orphans of what is gone, of 896 bytes" in str(found)
    assert f"4 of {schema.database}.old.a, which is gone" in str(found)
    assert json.loads(found.to_json())["owners"] == found.owners
    assert (files(store), files(tmp_path / "archive")) == before
    found = dj_npy.collect(schema, older_than=NOW, dropped=True)  # in all stores
    assert (found.removed, found.dropped, found.counts) == (0, 8, {"dropped": 8})
    assert {orphan.store for orphan in found.orphans} == {"main", "archive"}
    with pytest.raises(dj_npy.StoreError, match="all 4 arrays in store 'archive'"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False, dropped=True)
    assert (files(store), files(tmp_path / "archive")) == before
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False, dropped=True, at_most=8)
    assert (found.removed, found.ok) == (8, True)
    assert files(store) == paths(rows)
    assert files(tmp_path / "archive") == set()
    assert not [name for name in folders(store) if "n=" in name]


def test_a_column_that_was_dropped(
    rows: Any, old: Any, schema: Any, store: Path, database: Any
) -> None:
    quote = old.connection.adapter.quote_identifier
    old.connection.query(f"ALTER TABLE {old.full_table_name} DROP COLUMN {quote('a')}")
    found = dj_npy.collect(schema, older_than=NOW)
    assert found.owners == {f"{schema.database}.old.a": 4}
    before = files(store)
    (store / schema.database / "old" / "subject=x%2Fy" / "n=1" / "notes.txt").write_bytes(b"x")
    found = dj_npy.collect(
        schema, store="main", older_than=NOW, dry_run=False, dropped=True, at_most=4
    )
    assert found.removed == 4
    assert before - files(store) == {path for path in before if "/old/" in path}


def test_a_schema_that_was_dropped(rows: Any, database: Any, store: Path) -> None:
    other = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    zoo = other(type("Zoo", (dj.Manual,), {"definition": rows.definition}))
    zoo.insert([{"recording_id": n, "waveform": WAVEFORM} for n in range(3)])
    name = other.database
    other.drop(prompt=False)
    given_name = SimpleNamespace(database=name, connection=database.connection)
    found = dj_npy.collect(given_name, older_than=NOW)
    assert (found.dropped, found.owners) == (3, {f"{name}.zoo.waveform": 3})
    assert dj_npy.collect(given_name, older_than=NOW, dry_run=False).removed == 0
    with pytest.raises(dj_npy.StoreError, match="at_most=3"):
        dj_npy.collect(given_name, older_than=NOW, dry_run=False, dropped=True)
    found = dj_npy.collect(given_name, older_than=NOW, dry_run=False, dropped=True, at_most=3)
    assert found.removed == 3
    assert files(store) == paths(rows)
    with pytest.raises(dj_npy.ArrayInvalidError, match="no schema"):
        dj_npy.collect(
            SimpleNamespace(database="no_such_schema", connection=database.connection),
            dropped=True,
        )


def test_a_schema_of_other_case_is_not_gone(rows: Any, schema: Any, store: Path) -> None:
    """A disk that is blind to case would show its files, and no row of that name."""
    name = schema.database.upper()
    (store / name).symlink_to(store / schema.database)
    other = SimpleNamespace(database=name, connection=rows.connection)
    with pytest.raises(dj_npy.ArrayInvalidError, match="no schema"):
        dj_npy.collect(other, older_than=NOW, dry_run=False, dropped=True, at_most=99)
    assert paths(rows) <= files(store)


def test_what_a_row_refers_to_stays_whatever_is_gone(
    rows: Any, old: Any, table: Callable[..., Any], schema: Any, store: Path
) -> None:
    """A table was renamed, or its rows copied, before it was dropped."""
    kept = table(old.definition, "Renamed")
    kept.insert(old & "n > 0")
    old.drop(prompt=False)
    found = dj_npy.collect(schema, store="main", older_than=NOW, dry_run=False, dropped=True)
    assert (found.removed, found.live) == (2, 8)
    assert dj_npy.verify(kept, checksums=True).counts == {"as inserted": 4}


def test_what_is_young_is_spared(rows: Any, old: Any, schema: Any, store: Path) -> None:
    old.drop(prompt=False)
    found = dj_npy.collect(schema, dry_run=False, dropped=True)
    assert (found.removed, found.dropped) == (0, 0)
    assert found.young >= 4
    assert len(files(store)) == 10


def test_an_account_that_is_blind_takes_no_schema_for_gone(
    rows: Any, old: Any, schema: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.drop(prompt=False)
    blind = dj_npy._datajoint.grants.Sight(
        ["rows of other schemas"], schemas=False, transactions=True
    )
    monkeypatch.setattr(dj_npy._upkeep.collect, "sight", lambda select, backend: blind)
    with pytest.raises(dj_npy.StoreError, match="cannot tell which are gone"):
        dj_npy.collect(schema, older_than=NOW, dry_run=False, dropped=True, blind=True, at_most=99)
    assert len(files(store)) == 10


def test_on_the_command_line(
    rows: Any, old: Any, schema: Any, store: Path, dj_npy_command: Callable[..., Any]
) -> None:
    old.drop(prompt=False)
    given_ = (schema.database, "--older-than", "0", "--delete")
    result = dj_npy_command("collect", *given_)
    assert (result.returncode, result.stderr) == (0, "")
    assert "4 orphans of what is gone" in result.stdout
    assert len(files(store)) == 10
    result = dj_npy_command("collect", *given_, "--dropped", "--at-most", "8")
    assert (result.returncode, result.stderr) == (0, "")
    assert files(store) == paths(rows)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_on_s3(table: Callable[..., Any], schema: Any, database: Any, moto: str) -> None:
    location = f"dropped/{uuid.uuid4().hex}"
    settings = s3_settings(moto, location=location, partition_pattern="{id}", schema_prefix="raw")
    database.config.stores["cloud"] = settings
    near, far = (table("id : int32\n---\nx : <npy@cloud>", name) for name in ("Near", "Far"))
    for each in (near, far):
        each.insert([{"id": n, "x": WAVEFORM} for n in range(3)])
    gone = {row["x"].path for row in far.to_dicts()}
    raw = S3Raw(moto, location)
    [one, *_] = sorted(gone)
    raw.put(one.replace("/x.npy", "/mine.npy"), b"somebody's")
    far.drop(prompt=False)
    before = raw.keys()
    assert dj_npy.collect(schema, older_than=NOW, dry_run=False).dropped == 4
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False, dropped=True, store="cloud")
    assert "/mine.npy" in "".join(found.odd)
    assert before - raw.keys() == gone


# --- which paths they are ------------------------------------------------------------------------

THERE = [("lab", "there", name) for name in ("n", "subject", "x")]


@given(
    st.text(), st.integers(), st.sampled_from(["", "a/b"]), st.booleans(),
    st.sampled_from(["", "{subject}", "{n}/{subject}"]),
)  # fmt: skip
@example("00:" + "\x80" * 8 + "\U00010000" * 5, 0, "", False, "")  # cut within %F0
def test_what_addressing_made_is_known(
    subject: str, n: int, prefix: str, token: bool, partition: str
) -> None:
    dropped = Dropped(["lab"], THERE, prefix)
    for table, attribute, gone in [
        ("old", "x", True), ("#old", "x", True), ("__there", "x", True), ("there", "y", True),
        ("there", "x", False), ("there", "n", False),
    ]:  # fmt: skip
        path = array_path("lab", table, {"subject": subject, "n": n}, attribute, prefix=prefix,
                          partition=partition)  # fmt: skip
        folder = path.rpartition("/")[0]
        owner = dropped.former_owner(with_token(path) if token else path)
        assert (owner is not None) is gone
        assert owner is None or owner.endswith(f".{attribute}")
        assert dropped.is_key_folder(folder) == ("=" in folder.rpartition("/")[2])
        temporary = dropped.former_owner(f"{folder}/.0123456789abcdef.dj-npy-tmp")
        assert (temporary is not None) is (table != "there")


PLAIN = "lab/old/n=1/x.npy"


@pytest.mark.parametrize(
    "path",
    [
        PLAIN.replace(".npy", ".npz"),
        PLAIN.replace("x.npy", "notes.txt"),
        PLAIN.replace("x.npy", "My Array.npy"),
        PLAIN.replace("x.npy", "X.npy"),
        PLAIN.replace("x.npy", "x_x7Kd93Lq.npy"),
        PLAIN.replace("x.npy", ".npy"),
        PLAIN.replace("x.npy", ".hidden.dj-npy-tmp"),
        PLAIN.replace("n=1", "n=a b"),
        PLAIN.replace("n=1", "N=1"),
        PLAIN.replace("n=1", "n=ü"),
        PLAIN.replace("n=1/", "n=1/deep/"),
        PLAIN.replace("n=1/", ""),
        PLAIN.replace("lab/", "other/"),
        PLAIN.replace("lab/", "raw/lab/"),
        "lab/there/n=1/x.npy",
        "lab/there/n=1/x_lowercase.npy",  # DataJoint's own, perhaps
        "lab/there/N=1/y.npy",
        "lab/there/other=1/y.npy",
        "lab/THERE/n=1/x.npy",
        "lab/there/n=1/.0123456789abcdef.dj-npy-tmp",
        "lab/x.npy",
        "x.npy",
        "",
    ],
)
def test_what_is_there_or_was_never_ours_is_not(path: str) -> None:
    dropped = Dropped(["lab"], THERE, "")
    assert dropped.former_owner(PLAIN) == "lab.old.x"
    assert dropped.former_owner(path) is None


def test_a_folder_that_a_row_refers_to_keeps_what_is_in_it(
    rows: Any, table: Callable[..., Any], schema: Any, store: Path
) -> None:
    config = rows.connection._config
    config.stores["main"].update(filepath_prefix=None, schema_prefix="")
    raw = table("n : int32\n---\nwhere : <filepath@main>", "Raw")
    lab = schema.database
    for name in ("kept", "gone"):
        folder = store / lab / name / "subject=1"
        (folder / "n=1").mkdir(parents=True)
        for path in (folder / "trace.npy", folder / "n=1" / "trace_two.npy"):
            np.save(path, WAVEFORM)
    raw.insert1({"n": 1, "where": f"{lab}/kept/subject=1"})
    found = dj_npy.collect(schema, older_than=NOW, dry_run=False, dropped=True)
    assert found.counts == {"dropped": 2}, str(found)
    assert {path for path in files(store) if "trace" in path} == {
        f"{lab}/kept/subject=1/trace.npy",
        f"{lab}/kept/subject=1/n=1/trace_two.npy",
    }
    # A store that begins in the folder above, and one that begins in the middle
    query = rows.connection.query
    for path in (f"raid/data/{lab}/kept", "kept/subject=1/"):
        text = json.dumps({"path": path, "is_dir": True})
        column = rows.connection.adapter.quote_identifier("where")
        query(f"UPDATE {raw.full_table_name} SET {column} = %s", args=(text,))
        found = dj_npy.collect(schema, older_than=NOW, dry_run=False, dropped=True)
        assert found.removed == 0


def test_an_object_that_is_a_folder_of_a_table_that_was_renamed(
    rows: Any, table: Callable[..., Any], schema: Any, store: Path, tmp_path: Path
) -> None:
    held = table("n : int32\n---\nthing : <object@>", "Held")
    source = tmp_path / "source" / "n=3"
    source.mkdir(parents=True)
    np.save(source / "thing.npy", WAVEFORM)
    held.insert1({"n": 1, "thing": str(tmp_path / "source")})
    adapter = rows.connection.adapter
    other = adapter.quote_identifier("other")
    if adapter.backend == "mysql":
        other = f"`{schema.database}`.{other}"
    rows.connection.query(f"ALTER TABLE {held.full_table_name} RENAME TO {other}")
    before = files(store)
    assert any("held" in path for path in before)
    dj_npy.collect(schema, older_than=NOW, dry_run=False, dropped=True)
    assert files(store) == before
