"""From a row's value to a file and a JSON, and back, through real databases."""

import contextlib
import json
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import datajoint as dj
import ml_dtypes
import numpy as np
import pytest
import xxhash
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec
from datajoint.errors import DataJointError, DuplicateError

import dj_npy
from benchmarks._measure import peak_memory
from dj_npy import ArrayCorruptError, ArrayInvalidError
from tests.conftest import MakeTable
from tests.support.arrays import same
from tests.support.servers import files

WAVEFORM = np.arange(12.0).reshape(4, 3)


def stored_json(table: Any) -> Any:
    """The metadata as the database has them, without any decoding by the codec."""
    import json

    [row] = table.proj("waveform").cursor(as_dict=True)
    value = row["waveform"]
    return json.loads(value) if isinstance(value, str) else value


def test_the_row_says_what_is_needed_to_read_the_file(recording: Any, store: Path) -> None:
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    metadata = stored_json(recording)
    path = f"{recording.database}/recording/recording_id=1/waveform.npy"
    assert metadata == {
        "path": path,
        "store": "main",
        "dtype": "float64",
        "shape": [4, 3],
        "offset": 128,
        "checksum": f"xxh3_128:{xxhash.xxh3_128_hexdigest((store / path).read_bytes())}",
        "store_id": json.loads((store / ".dj-npy-store").read_bytes())["store_id"][0],
    }


@pytest.mark.parametrize(
    "array",
    [
        WAVEFORM,
        np.asfortranarray(WAVEFORM),
        WAVEFORM[::2, ::-1],
        np.array(5, ">i2"),
        np.zeros((0, 3), "c8"),
        np.zeros((2, 0)),
        np.array(["a", "bcd"]),
        np.array(["2024-01-01", "NaT"], "datetime64[ns]"),
        np.array([(1, 2.5), (3, 4.5)], [("n", "<i4"), ("x", ">f8")]),
        np.zeros(2, np.dtype([("n", "i1"), ("x", "f8", (2, 2))], align=True)),
        np.zeros(2, [(("title", "name"), "i1")]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_comes_back_equal(recording: Any, store: Path, array: Any) -> None:
    recording.insert1({"recording_id": 1, "waveform": array})
    ref = recording.fetch1("waveform")
    assert (ref.shape, ref.dtype, ref.ndim) == (array.shape, array.dtype, array.ndim)
    assert (ref.size, ref.nbytes) == (array.size, array.nbytes)
    assert same(ref.load(), np.load(store / ref.path))
    assert same(ref.load(), np.array(array))
    memory = ref.load().base  # what is shared is a view, whose base nobody gets
    assert isinstance(memory, np.ndarray)
    assert memory.flags.owndata
    assert memory.nbytes == array.nbytes
    ref.verify()


@pytest.mark.parametrize("kind", [np.memmap, np.matrix, np.recarray])
def test_a_subclass_that_is_only_data_is_welcome(
    recording: Any, tmp_path: Path, kind: type
) -> None:
    array: Any
    if kind is np.memmap:
        array = np.memmap(tmp_path / "map", "f8", "w+", shape=(4, 3))
        array[:] = WAVEFORM
    elif kind is np.matrix:
        array = WAVEFORM.view(np.matrix)  # np.matrix() itself warns
    else:
        array = np.ones(2, [("a", "i8"), ("b", "f8")]).view(np.recarray)
    recording.insert1({"recording_id": 1, "waveform": array})
    assert same(recording.fetch1("waveform").load(), np.array(array))


class Metres(np.ndarray):
    unit: str


def metres() -> Any:
    array = WAVEFORM.view(Metres)
    array.unit = "m"
    return array


class OnlyAName(np.ndarray):
    pass


def test_a_subclass_without_anything_of_its_own_is_welcome(recording: Any) -> None:
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM.view(OnlyAName)})
    assert same(recording.fetch1("waveform").load(), WAVEFORM)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2, 3], "^{address}: <npy> requires numpy.ndarray, got list$"),
        (1.5, "^{address}: <npy> requires numpy.ndarray, got float$"),
        (np.float64(1.5), "^{address}: <npy> requires numpy.ndarray, got float64$"),
        (np.array([{}, []], object), "^{address}: <npy> does not support object dtype arrays$"),
        (
            np.zeros(2, [("a", "i4"), ("b", object)]),
            "^{address}: <npy> does not support object dtype arrays$",
        ),
        (np.ma.masked_array([1, 2], [False, True]), "masked arrays"),
        (metres(), "Metres carries more than its data"),
        (np.zeros(2, ml_dtypes.bfloat16), "cannot store dtype bfloat16"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(
    recording: Any, store: Path, value: Any, message: str
) -> None:
    address = rf"{recording.database}\.recording, attribute waveform, key {{'recording_id': 1}}"
    with pytest.raises(ArrayInvalidError, match=message.replace("{address}", address)) as caught:
        recording.insert1({"recording_id": 1, "waveform": value})
    assert isinstance(caught.value, DataJointError)
    assert len(recording()) == 0
    assert files(store) == set()
    result = recording.validate([{"recording_id": 1, "waveform": value}])
    assert "Codec validation failed: <npy>" in result.summary()


def test_encode_refuses_by_itself_what_validate_does(store: Path) -> None:
    stores = {"main": {"protocol": "file", "location": str(store)}}
    config = SimpleNamespace(stores=stores, get_store_spec=stores.get)
    context = {"schema": "lab", "table": "recording", "field": "waveform", "config": config}
    masked = np.ma.masked_array([1, 2], [False, True])
    with pytest.raises(ArrayInvalidError, match="masked"):
        dj_npy.NpyCodec().encode(masked, key={"id": 1}, context=context, store_name="main")
    assert files(store) == set()


def test_a_bad_row_leaves_no_file_of_the_rows_before_it(recording: Any, store: Path) -> None:
    rows = [{"recording_id": n, "waveform": WAVEFORM} for n in range(5)]
    with pytest.raises(ArrayInvalidError):
        recording.insert([*rows, {"recording_id": 5, "waveform": [1]}])
    assert len(recording()) == 0
    assert files(store) == set()


def test_null_stays_null(table: MakeTable) -> None:
    nullable = table("recording_id : int32\n---\nwaveform = null : <npy@>")
    nullable.insert1({"recording_id": 1, "waveform": None})
    nullable.insert1({"recording_id": 2})
    assert [row["waveform"] for row in nullable.to_dicts()] == [None, None]
    assert list(nullable.to_arrays("waveform")) == [None, None]


def test_without_a_store_the_declaration_is_refused(table: MakeTable) -> None:
    with pytest.raises(DataJointError, match="store only"):
        table("recording_id : int32\n---\nwaveform : <npy>")


def test_a_store_may_be_named(table: MakeTable, tmp_path: Path) -> None:
    archived = table("recording_id : int32\n---\nwaveform : <npy@archive>")
    archived.insert1({"recording_id": 1, "waveform": WAVEFORM})
    ref = archived.fetch1("waveform")
    assert ref.store == "archive"
    assert (tmp_path / "archive" / ref.path).is_file()


def test_the_default_store_may_change_later(
    recording: Any, stores: dict[str, Any], database: Any
) -> None:
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    database.config.stores = {**stores, "default": "archive"}
    recording.insert1({"recording_id": 2, "waveform": WAVEFORM})
    refs = recording.to_arrays("waveform")
    assert {ref.store for ref in refs} == {"main", "archive"}
    assert all(same(ref.load(), WAVEFORM) for ref in refs)


def test_the_path_mirrors_schema_table_and_key(schema: Any) -> None:
    @schema
    class Subject(dj.Manual):
        definition = "subject : varchar(20)"

    @schema
    class Scan(dj.Manual):
        definition = """
        -> Subject
        scan_date : date
        scan : int32
        ---
        movie : <npy@>
        """

        class Field(dj.Part):
            definition = """
            -> master
            field : int32
            ---
            mask : <npy@>
            """

    Subject.insert1({"subject": "m/1"})
    key = {"subject": "m/1", "scan_date": date(2024, 1, 2), "scan": 3}
    # Given in another order than the primary key's.
    Scan.insert1({"movie": WAVEFORM, **dict(reversed(key.items()))})
    Scan.Field.insert1({**key, "field": 4, "mask": WAVEFORM})
    scan = f"{schema.database}/scan/subject=m%2F1/scan_date=2024-01-02/scan=3/movie.npy"
    assert Scan.fetch1("movie").path == scan
    assert Scan.Field.fetch1("mask").path.startswith(
        f"{schema.database}/scan__field/subject=m%2F1/scan_date=2024-01-02/scan=3/field=4/mask.npy"
    )


@pytest.mark.parametrize(
    "name",
    [
        "../../etc",
        "a/b",
        "..",
        ".",
        "x" * 300,
        "CON",
        "🐭",
        "a\\b",
        "a:b",
        " ",
        "a.",
        "%2F",
        "'\"`",
    ],
)
def test_any_key_has_a_safe_path(table: MakeTable, store: Path, name: str) -> None:
    named = table("name : varchar(300)\n---\nwaveform : <npy@>")
    named.insert1({"name": name, "waveform": WAVEFORM})
    ref = named.fetch1("waveform")
    assert files(store) == {ref.path}
    assert ref.path.startswith(f"{named.database}/recording/name=")
    assert ref.path.count("/") == 3
    assert same(ref.load(), WAVEFORM)


def test_key_types_of_the_database(table: MakeTable) -> None:
    keyed = table(
        """
        day : date
        moment : datetime
        number : decimal(6,2)
        identity : varchar(36)
        ---
        waveform : <npy@>
        """
    )
    keyed.insert1(
        {
            "day": date(2024, 1, 2),
            "moment": datetime(2024, 1, 2, 3, 4, 5),
            "number": Decimal("1.50"),
            "identity": str(UUID(int=7)),
            "waveform": WAVEFORM,
        }
    )
    folders = keyed.fetch1("waveform").path.split("/")[2:-1]
    assert folders == [
        "day=2024-01-02",
        "moment=2024-01-02T03-04-05",
        "number=1.50",
        f"identity={UUID(int=7)}",
    ]


def test_prefix_and_partition_of_the_store(
    table: MakeTable, stores: dict[str, Any], database: Any, store: Path
) -> None:
    main = {**stores["main"], "schema_prefix": "arrays/npy", "partition_pattern": "{subject}"}
    database.config.stores = {**stores, "main": main}
    scan = table("scan : int32\nsubject : varchar(8)\n---\nmovie : <npy@>", "Scan")
    scan.insert1({"scan": 1, "subject": "m1", "movie": WAVEFORM})
    path = f"arrays/npy/subject=m1/{scan.database}/scan/scan=1/movie.npy"
    assert scan.fetch1("movie").path == path
    assert (store / path).is_file()


def test_a_duplicate_leaves_the_row_and_its_file_as_they_were(recording: Any, store: Path) -> None:
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    before = {name: (store / name).read_bytes() for name in files(store)}
    with pytest.raises(DuplicateError):
        recording.insert1({"recording_id": 1, "waveform": WAVEFORM + 1})
    after = {name: (store / name).read_bytes() for name in files(store)}
    assert before.items() <= after.items()
    assert same(recording.fetch1("waveform").load(), WAVEFORM)


def test_a_skipped_duplicate_leaves_the_row_as_it_was(recording: Any) -> None:
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM + 1}, skip_duplicates=True)
    assert same(recording.fetch1("waveform").load(), WAVEFORM)


def test_a_wrong_type_elsewhere_leaves_existing_rows_as_they_were(
    table: MakeTable, store: Path
) -> None:
    noted = table("recording_id : int32\n---\nwaveform : <npy@>\nnote : date")
    noted.insert1({"recording_id": 1, "waveform": WAVEFORM, "note": "2024-01-01"})
    before = {name: (store / name).read_bytes() for name in files(store)}
    for waveform_id in (1, 2):
        with pytest.raises(Exception, match=r"(?i)date"):
            noted.insert1({"recording_id": waveform_id, "waveform": WAVEFORM + 1, "note": "never"})
    after = {name: (store / name).read_bytes() for name in files(store)}
    assert before.items() <= after.items()
    assert len(noted()) == 1
    noted.fetch1("waveform").verify()


def test_a_rolled_back_transaction_leaves_existing_rows_as_they_were(
    recording: Any, database: Any
) -> None:
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    with contextlib.suppress(ZeroDivisionError), database.connection.transaction:
        (recording & "recording_id=1").delete_quick()
        recording.insert1({"recording_id": 1, "waveform": WAVEFORM + 1})
        recording.insert1({"recording_id": 2, "waveform": WAVEFORM + 2})
        1 / 0  # noqa: B018
    assert same(recording.fetch1("waveform").load(), WAVEFORM)
    # The file of recording 2 has gone with it, and its name is free.
    recording.insert1({"recording_id": 2, "waveform": WAVEFORM + 3})
    second = (recording & "recording_id=2").fetch1("waveform")
    assert same(second.load(), WAVEFORM + 3)
    assert second.path.split("/")[-1] == "waveform.npy"


def test_replace_and_delete_never_touch_a_file_in_use(recording: Any) -> None:
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    first = recording.fetch1("waveform")
    (recording & "recording_id=1").delete_quick()
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM + 1})
    assert same(recording.fetch1("waveform").load(), WAVEFORM + 1)
    assert same(first.load(), WAVEFORM)


def test_an_update_writes_a_new_file_beside_the_old(recording: Any) -> None:
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    before = recording.fetch1("waveform")
    recording.update1({"recording_id": 1, "waveform": WAVEFORM + 1})
    after = recording.fetch1("waveform")
    assert Path(after.path).parent == Path(before.path).parent
    assert same(after.load(), WAVEFORM + 1)
    assert same(before.load(), WAVEFORM)


def test_a_reference_is_copied_byte_for_byte(table: MakeTable, tmp_path: Path) -> None:
    source = table("recording_id : int32\n---\nwaveform : <npy@>")
    target = table("recording_id : int32\n---\nwaveform : <npy@archive>", "Copied")
    source.insert1({"recording_id": 1, "waveform": np.asfortranarray(WAVEFORM)})
    ref = source.fetch1("waveform")
    target.insert1({"recording_id": 1, "waveform": ref})
    copy = target.fetch1("waveform")
    assert not ref.is_loaded
    assert (copy.store, copy.dtype, copy.shape) == ("archive", ref.dtype, ref.shape)
    assert same(copy.load(), ref.load())
    assert copy.load().flags.f_contiguous
    copy.verify()


def test_a_reference_to_a_damaged_file_is_not_copied(recording: Any, store: Path) -> None:
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    ref = recording.fetch1("waveform")
    file = store / ref.path
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)
    with pytest.raises(ArrayCorruptError, match="was not copied"):
        recording.insert1({"recording_id": 2, "waveform": ref})
    assert files(store) == {ref.path}
    file.unlink()
    with pytest.raises(dj_npy.ArrayMissingError, match="could not read"):
        recording.insert1({"recording_id": 2, "waveform": ref})
    assert files(store) == set()


def test_insert_from_a_query_shares_the_file(schema: Any, recording: Any, table: MakeTable) -> None:
    other = table("recording_id : int32\n---\nwaveform : <npy@>", "Other")
    recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    other.insert(recording)
    assert other.fetch1("waveform").path == recording.fetch1("waveform").path
    assert same(other.fetch1("waveform").load(), WAVEFORM)


@contextlib.contextmanager
def built_in_codec() -> Any:
    """DataJoint's own codec in our place; in a process without `dj_npy` it is always so."""
    from datajoint import codecs

    ours = codecs._codec_registry["npy"]
    codecs._codec_registry["npy"] = BuiltinNpyCodec.__new__(BuiltinNpyCodec)
    try:
        yield
    finally:
        codecs._codec_registry["npy"] = ours


@pytest.mark.parametrize(
    "array",
    [WAVEFORM, np.asfortranarray(WAVEFORM), np.array(1.5), np.array(["é"]), np.zeros((0, 2))],
    ids=["C", "F", "0-d", "text", "empty"],
)
def test_rows_go_both_ways_between_the_built_in_codec_and_ours(
    table: MakeTable, array: Any
) -> None:
    recording = table("recording_id : int32\n---\nwaveform : <npy@main>")
    with built_in_codec():
        recording.insert1({"recording_id": 1, "waveform": array})
    recording.insert1({"recording_id": 2, "waveform": array})
    for ref in recording.to_arrays("waveform"):
        assert isinstance(ref, dj_npy.NpyRef)
        assert (ref.shape, ref.dtype) == (array.shape, array.dtype)
        assert same(ref.load(), array)
        assert same(np.array(ref.load(mmap_mode="r")), array)
        ref.verify()
    with built_in_codec():
        for row in recording.to_dicts():
            assert not isinstance(row["waveform"], dj_npy.NpyRef)
            assert row["waveform"].shape == array.shape
            assert same(row["waveform"].load(), array)


@pytest.mark.parametrize(
    "dtype",
    [
        [("n", "<i4"), ("x", ">f8")],
        np.dtype([("n", "i1"), ("x", "f8")], align=True),
        np.dtype([("n", np.dtype([("a", "i1"), ("b", "f8")], align=True), (2,))]),
    ],
)
def test_structured_rows_of_the_built_in_codec_are_read(table: MakeTable, dtype: Any) -> None:
    recording = table("recording_id : int32\n---\nwaveform : <npy@main>")
    array = np.zeros(3, dtype)
    with built_in_codec():
        recording.insert1({"recording_id": 1, "waveform": array})
    ref = recording.fetch1("waveform")
    assert ref.dtype.names == array.dtype.names
    assert ref.load().dtype == array.dtype
    assert (ref.load() == array).all()


def test_a_full_disk_refuses_the_insert_and_leaves_nothing(
    recording: Any, stores: dict[str, Any], database: Any, case_blind_disk: Path
) -> None:
    full = {"protocol": "file", "location": str(case_blind_disk)}
    database.config.stores = {**stores, "main": full}
    with pytest.raises(dj_npy.StoreError, match="disk is full"):
        recording.insert1({"recording_id": 1, "waveform": np.zeros(4 << 20)})
    assert files(case_blind_disk) == set()
    assert len(recording()) == 0


@pytest.mark.parametrize("kind", ["C", "F", "not contiguous"])
def test_no_more_memory_than_the_array_itself(
    stored: Callable[..., dj_npy.NpyRef], kind: str
) -> None:
    array = np.ones((4096, 4096))  # 128 MiB
    array = {"C": array, "F": np.asfortranarray(array), "not contiguous": array[::2, ::2]}[kind]
    with peak_memory() as inserting:
        ref = stored(array)
    with peak_memory() as loading:
        loaded = ref.load()
    assert inserting[0] <= 16 << 20
    assert loading[0] - loaded.nbytes <= 16 << 20


def test_a_store_that_is_not_there_refuses_and_is_not_made(
    recording: Any, stores: dict[str, Any], database: Any, tmp_path: Path
) -> None:
    location = tmp_path / "not" / "mounted"
    database.config.stores = {**stores, "main": {"protocol": "file", "location": str(location)}}
    with pytest.raises(dj_npy.StoreError, match="mounted"):
        recording.insert1({"recording_id": 1, "waveform": WAVEFORM})
    assert not location.exists()
    assert len(recording()) == 0


@pytest.mark.parametrize(("said", "length"), [(None, 8), (4, 8), (12, 12), (16, 16), (99, 16)])
def test_the_length_of_a_token_is_the_stores(
    stored: Callable[..., dj_npy.NpyRef], store: Path, said: int | None, length: int
) -> None:
    settings = {"protocol": "file", "location": str(store), "token_length": said}
    for _ in range(2):
        ref = stored(np.zeros(3), store=settings)
    token = ref.path.rpartition("/waveform_")[2].removesuffix(".npy")
    assert len(token) == length
