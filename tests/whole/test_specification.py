"""What the specification of the codec states, statement by statement, on every database."""

import json
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from datajoint.errors import DataJointError

import dj_npy
from tests.conftest import MakeTable, is_mariadb
from tests.support.arrays import same
from tests.support.servers import FolderRaw

WAVEFORM = np.random.default_rng(0).standard_normal((1000, 32))


@pytest.fixture
def recordings(table: MakeTable) -> Any:
    recording = table("recording_id : int\n---\nwaveform : <npy@>")
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    return recording


@pytest.fixture
def ref(recordings: Any) -> Any:
    return (recordings & "recording_id=1").fetch1("waveform")


class TestOverview:
    def test_store_only(self, table: MakeTable) -> None:
        with pytest.raises(DataJointError, match="requires @"):
            table("recording_id : int32\n---\nwaveform : <npy>")

    def test_schema_addressed(self, recordings: Any, ref: Any) -> None:
        assert ref.path == f"{recordings.database}/recording/recording_id=1/waveform.npy"

    def test_portable(self, ref: Any, store: Path) -> None:
        assert same(np.load(store / ref.path, allow_pickle=False), WAVEFORM)

    def test_chain_to_json(self) -> None:
        assert dj.get_codec("npy").get_dtype(is_store=True) == "json"


class TestQuickStart:
    def test_metadata_then_data(self, ref: Any) -> None:
        assert ref.shape == (1000, 32)
        assert ref.dtype == np.float64
        assert not ref.is_loaded
        assert same(np.mean(ref, axis=0), WAVEFORM.mean(axis=0))
        assert same(ref.load(), WAVEFORM)


class TestMetadata:
    def test_each_property(self, recordings: Any, ref: Any, opened: list[str]) -> None:
        found = (ref.shape, ref.dtype, ref.ndim, ref.size, ref.nbytes, ref.store, ref.is_loaded)
        assert found == ((1000, 32), np.dtype("float64"), 2, 32000, 256000, "main", False)
        assert isinstance(ref.path, str)
        assert opened == []


class TestLoading:
    def test_explicit_is_cached(self, ref: Any, opened: list[str]) -> None:
        assert ref.load() is ref.load()
        assert len(opened) == 1

    def test_implicit(self, ref: Any) -> None:
        weights = np.arange(32.0)
        assert same(ref + 1, WAVEFORM + 1)
        assert np.mean(ref) == WAVEFORM.mean()
        assert same(np.dot(ref, weights), np.dot(WAVEFORM, weights))
        assert same(np.asarray(ref), WAVEFORM)

    def test_indexing(self, ref: Any) -> None:
        assert same(np.array(ref[0]), WAVEFORM[0])
        assert same(np.array(ref[100:200]), WAVEFORM[100:200])


class TestMemoryMapping:
    def test_random_access(self, ref: Any) -> None:
        array = ref.load(mmap_mode="r")
        assert same(np.array(array[100:200, :]), WAVEFORM[100:200])
        assert same(np.array(array[::100]), WAVEFORM[::100])

    def test_the_local_file_itself_is_mapped(self, ref: Any, store: Path) -> None:
        assert Path(ref.load(mmap_mode="r").filename) == store / ref.path

    def test_read_only(self, ref: Any) -> None:
        with pytest.raises(ValueError, match="read-only"):
            ref.load(mmap_mode="r")[0, 0] = 1

    def test_read_write_persists(self, ref: Any, store: Path) -> None:
        ref.load(mmap_mode="r+")[0, 0] = 42
        assert np.load(store / ref.path)[0, 0] == 42

    def test_copy_on_write_does_not(self, ref: Any, store: Path) -> None:
        array = ref.load(mmap_mode="c")
        array[0, 0] = 42
        array.flush()
        assert same(np.load(store / ref.path), WAVEFORM)


class TestBulkFetch:
    def test_nothing_is_downloaded_until_asked_for(
        self, recordings: Any, opened: list[str]
    ) -> None:
        recordings.insert(
            {"recording_id": n, "waveform": np.zeros((n * 600, 2))} for n in range(2, 5)
        )
        opened.clear()
        recs = recordings.fetch()
        shapes = [rec["waveform"].shape for rec in recs]
        assert sorted(shapes) == [(1000, 32), (1200, 2), (1800, 2), (2400, 2)]
        large = [rec["waveform"] for rec in recs if rec["waveform"].shape[0] > 1000]
        assert opened == []
        assert [len(ref.load()) for ref in large] == [len(ref) for ref in large]
        assert len(opened) == 3


class TestRepr:
    def test_before_and_after(self, ref: Any) -> None:
        assert repr(ref) == "NpyRef(shape=(1000, 32), dtype=float64, not loaded)"
        ref.load()
        assert repr(ref) == "NpyRef(shape=(1000, 32), dtype=float64, loaded)"


class TestTableDefinition:
    def test_default_and_specific_store(self, table: MakeTable, tmp_path: Path) -> None:
        recording = table(
            """
            recording_id : int
            ---
            waveform : <npy@>           # default store
            spectrogram : <npy@archive>  # specific store
            """
        )
        recording.insert1({"recording_id": 1, "waveform": WAVEFORM, "spectrogram": WAVEFORM[:5]})
        row = recording.fetch1()
        assert (row["waveform"].store, row["spectrogram"].store) == ("main", "archive")
        assert (tmp_path / "archive" / row["spectrogram"].path).is_file()


class TestStorage:
    def test_file_format(self, ref: Any, store: Path) -> None:
        with (store / ref.path).open("rb") as file:
            assert np.lib.format.read_magic(file) in [(1, 0), (2, 0)]

    def test_a_long_header_is_version_2(self, table: MakeTable, store: Path) -> None:
        recording = table("recording_id : int32\n---\nwaveform : <npy@>", "Wide")
        wide = np.zeros(1, [(f"field_{n:05}", "<i4") for n in range(4000)])
        recording.insert1({"recording_id": 1, "waveform": wide})
        ref = recording.fetch1("waveform")
        with (store / ref.path).open("rb") as file:
            assert np.lib.format.read_magic(file) == (2, 0)
        assert same(ref.load(), wide)

    def test_metadata_in_the_column(self, recordings: Any, ref: Any) -> None:
        value = recordings.proj("waveform").cursor(as_dict=True).fetchone()["waveform"]
        metadata = json.loads(value) if isinstance(value, str) else value
        four = {name: metadata[name] for name in ("path", "store", "dtype", "shape")}
        assert four == {
            "path": ref.path,
            "store": "main",
            "dtype": "float64",
            "shape": [1000, 32],
        }


class TestValidation:
    def test_an_array_is_valid(self, recordings: Any) -> None:
        recordings.insert1({"recording_id": 2, "waveform": np.array([1, 2, 3])})

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([1, 2, 3], "<npy> requires numpy.ndarray, got list"),
            (np.array([{}, []], object), "<npy> does not support object dtype arrays"),
        ],
    )
    def test_the_messages(self, recordings: Any, value: Any, message: str) -> None:
        with pytest.raises(DataJointError) as caught:
            recordings.insert1({"recording_id": 2, "waveform": value})
        address, _, told = str(caught.value).partition(": <npy>")
        assert f"<npy>{told}" == message
        assert address.startswith(f"{recordings.database}.{recordings.table_name}, attribute wave")


class TestComparison:
    """Lazy, mapped, addressed by: what the four codecs do, seen from outside."""

    @pytest.fixture
    def side_by_side(self, table: MakeTable, database: Any, tmp_path: Path) -> Any:
        file = tmp_path / "file.bin"
        file.write_bytes(WAVEFORM.tobytes())
        codecs = {"npy": WAVEFORM, "object": str(file), "blob": WAVEFORM, "hash": b"raw"}
        if is_mariadb(database):
            del codecs["blob"]  # which DataJoint cannot insert into MariaDB
        definition = "id : int32\n---\n" + "\n".join(f"a_{name} : <{name}@>" for name in codecs)
        compared = table(definition, "Compared")
        compared.insert1({"id": 1, **{f"a_{name}": value for name, value in codecs.items()}})
        return compared

    def test_lazy(self, side_by_side: Any) -> None:
        row = side_by_side.fetch1()
        assert isinstance(row["a_npy"], dj_npy.NpyRef)
        assert isinstance(row["a_object"], dj.ObjectRef)
        if "a_blob" in row:
            assert same(row["a_blob"], WAVEFORM)
        assert row["a_hash"] == b"raw"

    def test_memory_map(self, side_by_side: Any) -> None:
        row = side_by_side.fetch1()
        assert isinstance(row["a_npy"].load(mmap_mode="r"), np.memmap)
        for name in row.keys() - {"id", "a_npy"}:
            assert not hasattr(row[name], "load")

    def test_addressing(self, side_by_side: Any, store: Path) -> None:
        paths = list(FolderRaw(store).keys())
        by_schema = [path for path in paths if "id=1" in path]
        assert sum("a_npy" in path for path in by_schema) == 1
        assert sum("a_object" in path for path in by_schema) == 1
        assert all("_hash" in path for path in paths if path not in by_schema)
        assert len(paths) == len(side_by_side.heading.names) - 1


class TestLimitations:
    def test_one_array_in_a_file_and_no_compression(self, ref: Any, store: Path) -> None:
        assert (store / ref.path).stat().st_size == 128 + WAVEFORM.nbytes

    def test_several_arrays_are_refused(self, recordings: Any) -> None:
        for several in ([WAVEFORM, WAVEFORM], {"a": WAVEFORM}, (WAVEFORM,)):
            with pytest.raises(DataJointError, match="requires"):
                recordings.insert1({"recording_id": 2, "waveform": several})
        assert len(recordings()) == 1
