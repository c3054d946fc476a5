"""The specification's Quick Start with the default store in S3, and rows that stay whole."""

import json
import pickle
import threading
import uuid
from pathlib import Path
from typing import Any

import datajoint as dj
import fsspec
import numpy as np
import pytest
from datajoint import storage_adapter
from datajoint.errors import DuplicateError
from datajoint.storage_adapter import StorageAdapter

import dj_npy
from dj_npy._stores import identity
from tests.conftest import MakeTable
from tests.support import warm
from tests.support.faults import proxy_of
from tests.support.servers import S3Raw, s3_settings

OTHER_PROCESS = """
import json, sys
import datajoint as dj
import numpy as np
import dj_npy

dj_npy.embedded.start(sys.argv[1])
dj.config.stores = json.loads(sys.argv[2])
recording = dj.FreeTable(dj.conn(), sys.argv[3])
ref = (recording & "recording_id=1").fetch1("waveform")
print(json.dumps([repr(ref), ref.path, float(np.mean(ref))]))
"""


@pytest.fixture
def on_s3(stores: dict[str, Any], moto: str, location: str, database: Any) -> dict[str, Any]:
    """The default store is in S3; `archive` stays a folder."""
    configured = {**stores, "default": "cloud", "cloud": s3_settings(moto, location=location)}
    database.config.stores = configured
    return configured


def test_quick_start(
    on_s3: dict[str, Any], recording: Any, moto: str, location: str, schema: Any
) -> None:
    data = np.random.default_rng(0).standard_normal((1000, 32))
    recording.insert1({"recording_id": 1, "waveform": data})
    ref = (recording & "recording_id=1").fetch1("waveform")
    assert isinstance(ref, dj.NpyRef)
    assert (ref.shape, ref.dtype, ref.is_loaded) == ((1000, 32), np.float64, False)
    assert ref.store == "cloud"
    assert ref.path == f"{schema.database}/recording/recording_id=1/waveform.npy"
    assert np.allclose(np.mean(ref, axis=0), data.mean(axis=0))
    assert np.array_equal(ref[10:20], data[10:20])
    assert np.array_equal(ref.load(mmap_mode="r")[5], data[5])
    # Any program reads the object.
    import io

    contents = S3Raw(moto, location).get(ref.path)
    assert np.array_equal(np.load(io.BytesIO(contents)), data)


def test_fetch_asks_the_store_for_nothing(
    on_s3: dict[str, Any], recording: Any, database: Any, moto: str, location: str
) -> None:
    recording.insert({"recording_id": n, "waveform": np.full((10, 3), n)} for n in range(20))
    with proxy_of(moto) as proxy:
        database.config.stores = {
            **on_s3,
            "cloud": s3_settings(proxy.endpoint, location=location),
        }
        refs = recording.to_arrays("waveform")
        rows = recording.to_dicts(order_by="recording_id")
        recording.to_pandas()
        assert repr(refs[0]).endswith("not loaded)")
        assert proxy.requests == []
        assert [int(row["waveform"].load()[0, 0]) for row in rows] == list(range(20))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_another_process_fetches_and_computes(
    on_s3: dict[str, Any], recording: Any, session_folder: Path
) -> None:
    data = np.random.default_rng(1).standard_normal((1000, 32))
    recording.insert1({"recording_id": 1, "waveform": data})
    name = recording.full_table_name
    arguments = [str(session_folder / "embedded"), json.dumps(on_s3), name]
    said = warm.output("-c", OTHER_PROCESS, *arguments)
    shown, path, mean = json.loads(said.splitlines()[-1])
    assert shown == "NpyRef(shape=(1000, 32), dtype=float64, not loaded)"
    assert path.endswith("/recording_id=1/waveform.npy")
    assert mean == pytest.approx(data.mean())


@pytest.mark.parametrize(
    ("database", "server"),
    [("postgresql", "moto"), ("mariadb", "rclone"), ("mysql", "moto")],
    indirect=["database"],
)
def test_duplicate_inserts_leave_every_row_whole(
    server: str,
    request: pytest.FixtureRequest,
    recording: Any,
    stores: dict[str, Any],
    database: Any,
    location: str,
) -> None:
    url = request.getfixturevalue(server)
    database.config.stores = {
        **stores,
        "default": "cloud",
        "cloud": s3_settings(url, location=location),
    }
    for n in range(20):
        recording.insert1({"recording_id": n, "waveform": np.full(1000, n)})
    for attempt in range(60):
        row = {"recording_id": attempt % 20, "waveform": np.full(1000, -1.0)}
        if attempt % 2:
            recording.insert1(row, skip_duplicates=True)
        else:
            with pytest.raises(DuplicateError):
                recording.insert1(row)
    rows = recording.to_dicts()
    assert len(rows) == 20
    for row in rows:
        row["waveform"].verify()
        assert np.array_equal(row["waveform"], np.full(1000, row["recording_id"]))


@pytest.mark.slow
@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_racing_inserts_leave_every_row_whole(
    server: str, request: pytest.FixtureRequest, location: str, session_folder: Path
) -> None:
    url = request.getfixturevalue(server)
    request.getfixturevalue("postgresql")
    config = dj.config.stores
    dj.config.stores = {"default": "cloud", "cloud": s3_settings(url, location=location)}
    schema = dj.Schema(f"test_{uuid.uuid4().hex[:12]}")
    definition = "recording_id : int32\n---\nwaveform : <npy@>"
    table: Any = schema(type("Recording", (dj.Manual,), {"definition": definition}))
    written: list[dict[str, Any]] = []
    codec = dj_npy.NpyCodec()
    context = {
        "schema": schema.database,
        "table": "recording",
        "field": "waveform",
        "config": dj.config,
    }
    try:
        # DataJoint's connection is of one thread: the files race, the rows come after.
        for race in range(20):
            together = threading.Barrier(4)
            rows: list[tuple[int, dict[str, Any]]] = []

            def write(
                me: int, race: int = race, together: Any = together, rows: Any = rows
            ) -> None:
                together.wait()
                key = {"recording_id": race}
                rows.append((me, codec.encode(np.full(500, me), key=key, context=context)))

            writers = [threading.Thread(target=write, args=(me,)) for me in range(4)]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
            assert len({row["path"] for _, row in rows}) == 4
            for me, row in rows:
                ref = codec.decode(row, context=context)
                ref.verify()
                assert np.array_equal(ref.load(), np.full(500, me))
            written.append(rows[0][1])
        table.insert(
            {"recording_id": n, "waveform": codec.decode(row, context=context)}
            for n, row in enumerate(written, 1000)
        )
        assert len(table()) == 20
        for ref in table.to_arrays("waveform"):
            ref.verify()
    finally:
        schema.drop(prompt=False)
        dj.config.stores = config


def test_a_refused_row_takes_its_objects_back(
    on_s3: dict[str, Any], table: MakeTable, moto: str, location: str
) -> None:
    recording = table("recording_id : int32\n---\nwaveform : <npy@>")
    rows = [{"recording_id": n, "waveform": np.zeros(10)} for n in range(5)]
    rows.append({"recording_id": 5, "waveform": [1, 2, 3]})
    with pytest.raises(dj_npy.ArrayInvalidError):
        recording.insert(rows)
    assert S3Raw(moto, location).keys() == {".dj-npy-probe"}
    assert len(recording()) == 0


def test_references_are_copied_between_stores(
    on_s3: dict[str, Any], table: MakeTable, recording: Any, moto: str, location: str
) -> None:
    archived = table("recording_id : int32\n---\nwaveform : <npy@archive>", name="Archived")
    data = np.asfortranarray(np.random.default_rng(2).random((300, 7)))
    recording.insert1({"recording_id": 1, "waveform": data})
    archived.insert1({"recording_id": 1, "waveform": recording.fetch1("waveform")})
    recording.insert1({"recording_id": 2, "waveform": archived.fetch1("waveform")})
    recording.insert1({"recording_id": 3, "waveform": recording.to_arrays("waveform")[0]})
    for ref in [*recording.to_arrays("waveform"), archived.fetch1("waveform")]:
        ref.verify()
        assert np.array_equal(ref, data)
        assert ref.load().flags.f_contiguous
    assert len(S3Raw(moto, location).keys() - {".dj-npy-probe"}) == 3


class MemoryAdapter(StorageAdapter):
    """A plugin as a package would bring it under the entry point ``datajoint.storage``."""

    protocol = "in-memory"
    required_keys = ("protocol", "location")
    allowed_keys = ("location", "secret")

    def create_filesystem(self, spec: dict[str, Any]) -> Any:
        assert spec["secret"] == "not for messages"
        return fsspec.filesystem("memory")


def test_a_plugin_of_datajoint(
    stores: dict[str, Any],
    recording: Any,
    database: Any,
    location: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage_adapter.get_storage_adapter("none")  # its own plugins are found first
    monkeypatch.setitem(storage_adapter._adapter_registry, "in-memory", MemoryAdapter())
    plugin = {
        "protocol": "in-memory",
        "location": f"/{location}",
        "secret": "not for messages",
    }
    database.config.stores = {**stores, "default": "plugin", "plugin": plugin}
    data = np.random.default_rng(3).random((500, 40))
    recording.insert1({"recording_id": 1, "waveform": data})
    ref = recording.fetch1("waveform")
    assert ref.path.rpartition("/")[2].startswith("waveform_")  # nobody vouches for the plugin
    assert np.array_equal(ref + 1, data + 1)
    assert np.array_equal(ref.load(mmap_mode="r"), data)
    ref.verify()
    assert b"not for messages" not in pickle.dumps(ref)
    fsspec.filesystem("memory").rm(f"/{location}/{ref.path}")
    ref.unload()
    with pytest.raises(dj_npy.ArrayMissingError) as caught:
        ref.load()
    assert "not for messages" not in str(caught.value)
    fsspec.filesystem("memory").rm(f"/{location}", recursive=True)
    monkeypatch.setattr(identity, "_LATELY_S", 0)  # as if that time had passed
    with pytest.raises(dj_npy.StoreError, match=r"no \.dj-npy-store in it") as refused:
        ref.load()
    assert "not for messages" not in str(refused.value)
