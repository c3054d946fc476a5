"""Whatever is refused has changed nothing: configuration, settings, rows, files, caches, memory."""

import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy._cli.main import main
from tests.support.cases import case

WAVEFORM = np.arange(600.0).reshape(200, 3)
one_database = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


class Lab:
    """A table of three rows, one of which has lost its file, and what can be told of all."""

    def __init__(self, recording: Any, schema: Any, folders: list[Path]) -> None:
        self.recording, self.schema, self.folders = recording, schema, folders
        recording.insert([{"recording_id": n, "waveform": WAVEFORM + n} for n in range(3)])
        store = folders[0]
        self.lost = (recording & {"recording_id": 2}).fetch1("waveform")
        self.gone = (recording & {"recording_id": 2}).fetch1("waveform")
        self.gone.load()
        (store / self.lost.path).unlink()
        orphan = store / self.lost.path.replace("recording_id=2", "recording_id=9")
        orphan.parent.mkdir()
        orphan.write_bytes((store / self.ref.path).read_bytes())
        self.loaded = self.ref
        self.loaded.load()
        self.out = np.full((10, 3), -1.0)
        self.array = np.arange(3.0)

    @property
    def ref(self) -> Any:
        return (self.recording & {"recording_id": 0}).fetch1("waveform")

    def state(self) -> dict[str, Any]:
        """Return what a refusal may not change."""
        proxy = self.recording.proj("waveform")
        query = self.recording.connection.query
        return {
            "configuration": dj.config.model_dump(),
            "connection": id(dj.conn()),
            "in transaction": dj.conn().in_transaction,
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "settings": dj_npy.settings.model_dump(),
            "files": {str(path): _look(path) for at in self.folders for path in _all(at)},
            "rows": query(f"SELECT * FROM {proxy.full_table_name} ORDER BY 1").fetchall(),
            "tables": sorted(self.schema.list_tables()),
            "memory": [ref.is_loaded for ref in (self.loaded, self.lost, self.gone)],
            "out": self.out.tolist(),
            "array": (self.array.tolist(), self.array.flags.writeable),
        }


def _all(folder: Path) -> list[Path]:
    """Return the files. An empty folder is nobody's data, and `collect` prunes it."""
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".dj-npy")
    )


def _look(path: Path) -> tuple[Any, ...]:
    found = path.stat()
    return path.read_bytes(), found.st_mtime_ns, found.st_ino, found.st_mode


@pytest.fixture
def lab(recording: Any, schema: Any, store: Path, tmp_path: Path) -> Lab:
    return Lab(recording, schema, [store, tmp_path / "archive", tmp_path / "cache"])


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {
        name: (before[name], after[name]) for name in before if before[name] != after[name]
    }
    if "files" in changed:
        was, now = changed["files"]
        changed["files"] = [path for path in was | now if was.get(path) != now.get(path)]
    return changed


def row_101(insert: Callable[[Any, Any], None], bad: Any, lab: Lab) -> None:
    insert(lab.recording, rows_until(bad, 100, 300))


def rows_until(bad: Any, at: int, count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        yield bad if n == at else {"recording_id": 10 + n, "waveform": WAVEFORM}


def failing(at: int) -> Iterator[dict[str, Any]]:
    yield from rows_until(None, -1, at)
    raise OSError("the camera is gone")


def assign(name: str, value: Any) -> Callable[[Lab], Any]:
    return lambda lab: setattr(dj_npy.settings, name, value)


def command(*arguments: str) -> Callable[[Lab], Any]:
    """Run a command, which is to end with an error's code."""

    def run(lab: Lab) -> None:
        names = {"SCHEMA": lab.schema.database, "FOLDER": str(lab.folders[0])}
        code = main([re.sub("SCHEMA|FOLDER", lambda m: names[m[0]], each) for each in arguments])
        if code:
            raise SystemExit(code)

    return run


WITH_LIST: dict[str, Any] = {"recording_id": 7, "waveform": [1, 2]}
UNKNOWN = {"recording_id": 7, "waveform": WAVEFORM, "tone": 440}
NO_KEY = {"waveform": WAVEFORM}
DUPLICATE = {"recording_id": 0, "waveform": WAVEFORM}
NO_NUMBER = {"recording_id": "seven", "waveform": WAVEFORM}

REFUSED: dict[str, Callable[[Lab], Any]] = {
    # settings
    "settings.memory": assign("memory", "nonsense"),
    "settings.max_workers": assign("max_workers", 0),
    "settings.load_share": assign("load_share", -1),
    "settings.range_bytes": assign("range_bytes", 0),
    "settings.cache_dir": assign("cache_dir", 3),
    "settings.unknown": assign("memry", "1 GiB"),
    # a reference
    "load: mode": lambda lab: lab.loaded.load("w+"),
    "load: missing": lambda lab: lab.lost.load(),
    "load r+: missing": lambda lab: lab.lost.load("r+"),
    "load r+: missing, loaded before": lambda lab: lab.gone.load("r+"),
    "load r: missing": lambda lab: lab.lost.load("r"),
    "read: wrong shape": lambda lab: lab.ref.read(np.s_[:9], out=lab.out),
    "read: wrong dtype": lambda lab: lab.ref.read(np.s_[:10], out=lab.out.view("i8")),
    "read: wrong shape, loaded": lambda lab: lab.loaded.read(np.s_[:9], out=lab.out),
    "read: beyond the end": lambda lab: lab.ref.read(np.s_[200], out=lab.out),
    "read: beyond the end, loaded": lambda lab: lab.loaded.read(np.s_[200], out=lab.out),
    "read: missing": lambda lab: lab.lost.read(np.s_[:10], out=lab.out),
    "read: no array": lambda lab: lab.ref.read(np.s_[:10], out=lab.out.tolist()),
    "read: masked": lambda lab: lab.ref.read(np.s_[:10], out=np.ma.masked_array(lab.out)),
    "index": lambda lab: lab.ref[200],
    "blocks": lambda lab: lab.ref.blocks("-1 MB"),
    "verify": lambda lab: lab.lost.verify(),
    "unload with an argument": lambda lab: lab.loaded.unload(True),
    "assignment": lambda lab: lab.loaded.__setitem__(0, 1),
    "in place": lambda lab: lab.loaded.load().__isub__(1),
    "ufunc into a reference": lambda lab: np.add(lab.loaded, 1, out=lab.loaded),
    "ref.to_dask": lambda lab: lab.ref.to_dask(chunks="no size"),
    "ref.to_xarray": lambda lab: lab.ref.to_xarray(dims=["one"]),
    # many
    "load many: no reference": lambda lab: dj_npy.load([lab.ref, 3]),
    "load many: workers": lambda lab: dj_npy.load([lab.ref], max_workers=0),
    "load many: attribute": lambda lab: dj_npy.load(lab.recording.to_dicts(), "recording_id"),
    "load many: out": lambda lab: dj_npy.load([lab.ref], out=lab.out),  # type: ignore[call-arg]
    "load many: missing": lambda lab: dj_npy.load([lab.lost]),
    "stream: size": lambda lab: dj_npy.stream([lab.ref], max_bytes="much"),
    "stream: workers": lambda lab: dj_npy.stream([lab.ref], max_workers=-1),
    "stream: missing": lambda lab: list(dj_npy.stream([lab.ref, lab.lost])),
    "to_dask": lambda lab: dj_npy.to_dask([lab.ref, 3]),
    "to_xarray": lambda lab: dj_npy.to_xarray(lab.recording, "no_attribute"),
    # inserts
    "insert1: list": lambda lab: lab.recording.insert1(WITH_LIST),
    "insert1: unknown attribute": lambda lab: lab.recording.insert1(UNKNOWN),
    "insert1: no key": lambda lab: lab.recording.insert1(NO_KEY),
    "insert1: duplicate": lambda lab: lab.recording.insert1(DUPLICATE),
    "insert1: no number": lambda lab: lab.recording.insert1(NO_NUMBER),
    "insert1: blocks of another shape": lambda lab: lab.recording.insert1(
        {"recording_id": 7, "waveform": dj_npy.Blocks((400, 3), "f8", iter([WAVEFORM]))}
    ),
    "update1: no number": lambda lab: lab.recording.update1(NO_NUMBER),
    "update1: unknown attribute": lambda lab: lab.recording.update1({**UNKNOWN, "recording_id": 0}),
    "update1: no row": lambda lab: lab.recording.update1(
        {"recording_id": 77, "waveform": WAVEFORM}
    ),
    "insert: unknown option": lambda lab: dj_npy.insert(
        lab.recording, rows_until(None, -1, 10), replac=True
    ),
    "insert: workers": lambda lab: dj_npy.insert(
        lab.recording, rows_until(None, -1, 10), max_workers=0
    ),
    "insert: chunk size": lambda lab: dj_npy.insert(
        lab.recording, rows_until(None, -1, 10), chunk_size="ten"
    ),
    "insert: no table": lambda lab: dj_npy.insert("recording", rows_until(None, -1, 10)),
    "insert: no rows": lambda lab: dj_npy.insert(lab.recording, 3),
    "insert: generator": lambda lab: dj_npy.insert(lab.recording, failing(20)),
    **{
        f"{how}: row 101 of 300, {name}": partial(row_101, call, bad)
        for how, call in (("insert", dj_npy.insert), ("table.insert", lambda t, r: t.insert(r)))
        for name, bad in {
            "list": WITH_LIST,
            # An attribute that is unknown is refused by DataJoint in the first row only.
            "no key": NO_KEY,
            "duplicate": DUPLICATE,
            "no number": NO_NUMBER,
            "no row": 3,
        }.items()
    },
    # upkeep
    "verify: nothing": lambda lab: dj_npy.verify(),
    "verify: no schema": lambda lab: dj_npy.verify(3),
    "verify: unknown schema": lambda lab: dj_npy.verify("there_is_none"),
    "use_config: no configuration": lambda lab: dj_npy.use_config("datajoint.json"),  # type: ignore[arg-type]
    "adopt: no schema": lambda lab: dj_npy.adopt(3),
    "adopt: unknown schema": lambda lab: dj_npy.adopt("there_is_none"),
    "adopt: unknown store": lambda lab: dj_npy.adopt(lab.schema, "nowhere"),
    "collect: nothing": lambda lab: dj_npy.collect(dry_run=False, older_than=timedelta(0)),
    "collect: no schema": lambda lab: dj_npy.collect(3, dry_run=False, older_than=timedelta(0)),
    "collect: age": lambda lab: dj_npy.collect(
        lab.schema, dry_run=False, older_than=timedelta(days=-1)
    ),
    "collect: no age": lambda lab: dj_npy.collect(lab.schema, dry_run=False, older_than=0),  # type: ignore[arg-type]
    "collect: unknown store": lambda lab: dj_npy.collect(
        lab.schema, store="nowhere", dry_run=False, older_than=timedelta(0)
    ),
    "collect: one schema that is none": lambda lab: dj_npy.collect(
        lab.schema, 3, dry_run=False, older_than=timedelta(0)
    ),
    "usage: no schema": lambda lab: dj_npy.usage(3),
    "move: no table": lambda lab: dj_npy.move(lab.ref, "waveform", "main"),
    "move: no array": lambda lab: dj_npy.move(lab.recording, "recording_id", "main"),
    "move: no store": lambda lab: dj_npy.move(lab.recording, "waveform", "there_is_none"),
    "migrate: no table": lambda lab: dj_npy.migrate(lab.ref, "waveform", step="switch"),
    "migrate: a key": lambda lab: dj_npy.migrate(lab.recording, "recording_id", step="switch"),
    "export: no table": lambda lab: dj_npy.export(lab.ref, "nowhere"),
    "import_package: no package": lambda lab: dj_npy.import_package(
        "nowhere", connection=lab.recording.connection
    ),
    "backup: no store": lambda lab: dj_npy.backup(lab.schema, store="there_is_none"),
    "backups: no store": lambda lab: dj_npy.backups("there_is_none"),
    "backup: keep": lambda lab: dj_npy.backup(lab.schema, keep=0),
    "restore: no backup": lambda lab: dj_npy.restore(connection=lab.recording.connection),
    "rebuild: no store": lambda lab: dj_npy.rebuild(
        "there_is_none", connection=lab.recording.connection
    ),
    "relocate: no store": lambda lab: dj_npy.relocate(lab.schema, old="main", new="there_is_none"),
    # the page
    "view: no table": lambda lab: dj_npy.view(3, browser=False),
    "view: a join": lambda lab: dj_npy.view(
        lab.recording * lab.recording.proj(n="recording_id"), browser=False
    ),
    "view: port": lambda lab: dj_npy.view(lab.recording, port=-1, browser=False),
    # commands
    "dj-npy collect: age": command("collect", "SCHEMA", "--older-than", "young", "--delete"),
    "dj-npy collect: no schema": command("collect"),
    "dj-npy verify: unknown schema": command("verify", "there_is_none"),
    "dj-npy view: port": command("view", "--port", "many"),
    "dj-npy info: no file": command("info", "FOLDER/none.npy"),
    "dj-npy info: no table": command("info", "SCHEMA.none", "id=1"),
    "dj-npy quickstart: connected elsewhere": command("quickstart", "FOLDER/own"),
    "dj-npy quickstart: a file": command("quickstart", "FOLDER/file"),
    "dj-npy quickstart: two folders": command("quickstart", "FOLDER/a", "FOLDER/b"),
    "embedded.start: connected elsewhere": lambda lab: dj_npy.embedded.start(lab.folders[0]),
    "embedded.start: a name": lambda lab: dj_npy.embedded.start(lab.folders[0] / "$HOME"),
}


@one_database
def test_a_refusal_changes_nothing(lab: Lab) -> None:
    (lab.folders[0] / "file").write_text("somebody's")
    before = lab.state()
    for what, refused in REFUSED.items():
        with case(what):
            with pytest.raises((Exception, SystemExit)) as told:
                refused(lab)
            assert changes(before, lab.state()) == {}
            assert str(told.value)


def test_every_public_function_is_among_them() -> None:
    functions = {
        name
        for name in dj_npy.__all__
        if callable(getattr(dj_npy, name)) and not isinstance(getattr(dj_npy, name), type)
    }
    named = " ".join(REFUSED)
    assert {name for name in functions if name not in named} == set()


@one_database
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_refusal_within_a_transaction_keeps_what_was_inserted_in_it(lab: Lab, where: str) -> None:
    lab.recording.connection.start_transaction()
    try:
        if where == "before":
            lab.recording.insert1({"recording_id": 5, "waveform": WAVEFORM})
        before = lab.state()
        with pytest.raises(dj.DataJointError):
            dj_npy.insert(lab.recording, rows_until(WITH_LIST, 5, 10))
        assert changes(before, lab.state()) == {}
        if where == "after":
            lab.recording.insert1({"recording_id": 5, "waveform": WAVEFORM})
    finally:
        lab.recording.connection.commit_transaction()
    kept = (lab.recording & {"recording_id": 5}).fetch1("waveform")
    assert kept.verify() == "as inserted"
