"""What is written can be read: every dtype comes back equal, or is refused before anything is."""

import json
from bisect import bisect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import ml_dtypes
import numpy as np
import pytest
from dask.delayed import delayed
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

import dj_npy
from dj_npy import ArrayCorruptError, ArrayInvalidError, Blocks, NpyRef
from dj_npy._datajoint.insertion import _copy_row
from dj_npy._format import npyfile
from dj_npy._format.accepted import check_dtype
from tests.support.arrays import SIMPLE, same_data

Stored = Callable[..., NpyRef]
WHOLE: dict[str, Any] = {"max_header_size": npyfile.MAX_HEADER}
"""NumPy reads headers of 10,000 bytes, unless told."""


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype(object),
        np.dtype([("a", "i4"), ("b", object)]),
        np.dtype([("a", [("b", object, (2,))])]),
    ],
)
def test_objects_are_refused(dtype: np.dtype[Any]) -> None:
    with pytest.raises(ArrayInvalidError, match=r"^<npy> does not support object dtype arrays$"):
        check_dtype(dtype)


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype(ml_dtypes.bfloat16),
        np.dtype([("a", ml_dtypes.float8_e4m3)]),
        np.dtype({"names": ["b", "a"], "formats": ["i4", "i4"], "offsets": [4, 0]}),
        np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}),
    ],
)
def test_a_dtype_that_the_format_would_change_is_refused(dtype: np.dtype[Any]) -> None:
    with pytest.raises(ArrayInvalidError, match="cannot store dtype"):
        check_dtype(dtype)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 1 has no StringDType")
def test_a_string_dtype_is_refused_by_name() -> None:
    with pytest.raises(ArrayInvalidError, match="cannot store dtype StringDType"):
        check_dtype(np.dtypes.StringDType())


NAMES = st.text(max_size=3) | st.sampled_from(
    ["a", "größe", "漢字", "it's", '"', "\\", "\n", " ", "", "[", "\0", "a\0b", "\ud800", "\u2028"]
)
ELEMENTARY = SIMPLE | st.sampled_from(
    [
        *(np.dtype(name) for name in ("S0", "U0", "V0", "V3", "S65535", "U3", "O")),
        *(np.dtype(name) for name in ("m8[25s]", ">M8[7D]", "m8", ">m8", ">M8", "M8[as]")),
        *(np.dtype(name) for name in ("?", "e", "g", ">g", "G", "l", "q", "p")),
        np.dtype([]),
        np.dtype(ml_dtypes.bfloat16),
        np.dtype("f8", metadata={"unit": "mV"}),
        np.dtype("S3", metadata={}),
        h5py.string_dtype("utf-8", 10),
        h5py.string_dtype(),
        h5py.enum_dtype({"off": 0, "on": 1}),
    ]
)


@st.composite
def _of_fields(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> Any:
    """Fields with or without titles, in any place, packed, aligned or one over the other."""
    count = draw(st.integers(0, 3))
    names = draw(st.lists(NAMES, min_size=count, max_size=count, unique=True))
    formats = draw(st.lists(inner, min_size=count, max_size=count))
    spec: dict[str, Any] = {"names": names, "formats": formats}
    if draw(st.booleans()):
        offsets = st.lists(st.integers(0, 40), min_size=count, max_size=count)
        spec["offsets"] = draw(offsets | offsets.map(sorted))
    if draw(st.booleans()):
        titles = st.none() | NAMES | st.sampled_from([1, (1, 2), 2.5, b"t"])
        spec["titles"] = draw(st.lists(titles, min_size=count, max_size=count))
    if draw(st.booleans()):
        spec["itemsize"] = draw(st.integers(0, 200))
    more: Any = draw(st.sampled_from([{}, {}, {}, {"align": True}, {"metadata": {"more": 1}}]))
    return _made(spec, **more)


def _made(*args: Any, **more: Any) -> Any:
    try:
        return np.dtype(*args, **more)
    except (ValueError, TypeError, OverflowError, MemoryError):
        return None  # as there is no such dtype


def _with(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = inner.filter(lambda dtype: dtype is not None)
    shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    return (
        _of_fields(some)
        | st.tuples(some, shapes).map(_made)
        | some.map(lambda dtype: dtype.newbyteorder("S") if dtype.isbuiltin != 2 else dtype)
        | some.map(lambda dtype: _made((np.record, dtype)))
    )


WILD = st.recursive(ELEMENTARY, _with, max_leaves=6).filter(
    lambda dtype: dtype is not None and dtype.itemsize < 1 << 20
)
"""Every dtype that NumPy makes."""


def nested(levels: int, innermost: Any = "<i4") -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(innermost)
    for _ in range(levels):
        dtype = np.dtype([("a", dtype)])
    return dtype


def identical(one: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Equal, and so is what they are made of, looked at one by one, and not by NumPy."""
    if (one.str, one.itemsize, one.names, one.shape) != (
        *(other.str, other.itemsize, other.names, other.shape),
    ):
        return False
    if one.subdtype is not None:
        assert other.subdtype is not None
        return identical(one.subdtype[0], other.subdtype[0])
    if one.names is None:
        return one == other and one.metadata == other.metadata
    assert one.fields is not None
    assert other.fields is not None
    return all(
        one.fields[name][1:] == other.fields[name][1:] and identical(one[name], other[name])
        for name in one.names
    )


def comes_back(array: Any, ref: NpyRef, folder: Path) -> None:
    path = folder / ref.path
    for returned in (
        *(ref.load(), fetched(ref)[...], fetched(ref).load(mmap_mode="r"), fetched(ref).read()),
        *(np.load(path, **WHOLE), np.load(path, mmap_mode="r", **WHOLE)),
    ):
        assert identical(returned.dtype, array.dtype)
        assert returned.shape == array.shape
        assert same_data(np.asarray(returned), array)
    assert identical(ref.dtype, array.dtype)
    assert ref.verify() == "as inserted"
    described = ref._raw["dtype"]
    if array.dtype.names is None:  # as DataJoint's own codec reads it
        assert np.dtype(described) == array.dtype
    assert npyfile.depth(described) <= 30


def fetched(ref: NpyRef) -> NpyRef:
    return NpyRef(json.loads(json.dumps(ref._raw)), ref._config)


@given(WILD, st.lists(st.integers(0, 2), max_size=3).map(tuple), st.integers(0, 255))
@example(np.dtype([("c", ("<f8", (5,)), (2,))]), (3,), 1)
@example(np.dtype([("c", ([("x", "<f8"), ("y", "i1")], (5,)), (2,))]), (3,), 1)
@example(np.dtype([("c", (("<f8", (5,)), (1, 2)), (2,))]), (), 1)
@example(np.dtype([("a", "i4"), ("b", [("x", "i2")], (2,))]), (2,), 1)
@example(np.dtype(">M8"), (2,), 1)
@example(np.dtype((np.void, "O")), (), 1)
@example(np.dtype([("a", (np.record, "O"), (2,))]), (2,), 1)
@example(nested(14), (2,), 1)
@example(nested(15), (2,), 1)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_dtype_comes_back_equal_or_is_refused(
    stored: Stored, store: Path, dtype: np.dtype[Any], shape: tuple[int, ...], byte: int
) -> None:
    array = np.ndarray(shape, dtype)
    if array.nbytes and not array.dtype.hasobject:
        array = np.ndarray(array.shape, array.dtype, bytearray([byte % 2] * array.nbytes))
    before = set(store.rglob("*"))
    try:
        ref = stored(array)
    except ArrayInvalidError:
        event("refused")
        assert set(store.rglob("*")) == before
        with pytest.raises(ArrayInvalidError):
            dj_npy.NpyCodec().validate(array)
        return
    event("stored")
    assert not dtype.hasobject
    comes_back(array, ref, store)


def many(count: int) -> np.dtype[Any]:
    return np.dtype([(f"field_{n:05}", "<i4") for n in range(count)])


SHARED: np.dtype[Any] = np.dtype("i1")
"""Ten fields, and each of those ten: 100,000 in all, of one byte, and no more than ten made."""
for _ in range(5):
    SHARED = np.dtype({"names": list("abcdefghij"), "formats": [SHARED] * 10, "offsets": [0] * 10})


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        (many(12_000), "so many fields"),
        (many(20_000), "so many fields"),
        (SHARED, "so many fields"),
        (np.dtype([("n" * 300_000, "<i4")]), "so many fields"),
        (nested(16), "nested so deep"),
        (nested(100), "nested so deep"),
        (nested(250), "nested so deep"),
        (nested(3000), "nested so deep"),
        (nested(14, np.dtype((np.dtype((np.dtype(("<f8", (5,))), (2,))), (3,)))), "nested so deep"),
        (np.dtype([("a\0b", "i4")]), "NUL"),
        (np.dtype([("x", [(("t\0", "a"), "i4")], (2,))]), "NUL"),
        (np.dtype([("\ud800", "i4")]), "half a character"),
        (np.dtype({"names": ["a"], "formats": ["i4"], "titles": [(1, 2)]}), "cannot store dtype"),
        (np.dtype({"names": ["a"], "formats": ["i4"], "titles": [b"t"]}), "cannot store dtype"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_could_not_be_read_is_refused_however_it_comes(
    stored: Stored, store: Path, dtype: np.dtype[Any], reason: str
) -> None:
    array = np.ndarray(3, dtype)
    inserts: list[Callable[[], Any]] = [
        lambda: stored(array),
        lambda: stored(Blocks((3,), dtype, [array])),
    ]
    for insert in inserts:
        with pytest.raises(ArrayInvalidError, match=reason) as caught:
            insert()
        assert len(str(caught.value)) < 1200
    assert list(store.rglob("*.npy")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(), (2,), (1,) * npyfile.MAX_AXES, (10**7, 0), (0, 10**14, *(1,) * 30)]
)
def test_the_longest_header_is_read_whatever_the_shape(
    stored: Stored, store: Path, shape: tuple[int, ...]
) -> None:
    count = bisect(range(20_000), False, key=lambda n: refused(many(n))) - 1
    assert count > 5_000
    array = np.zeros(shape, many(count))
    comes_back(array, stored(array), store)


def refused(dtype: np.dtype[Any]) -> bool:
    try:
        check_dtype(dtype)
    except ArrayInvalidError:
        return True
    return False


@pytest.mark.parametrize("order", ["C", "F"])
def test_more_axes_and_elements_than_numpy_loads_are_refused(stored: Stored, order: Any) -> None:
    comes_back_from = np.zeros((1, 2) * (npyfile.MAX_AXES // 2 - 14) + (1,) * 28, order=order)
    assert stored(comes_back_from).load().shape == comes_back_from.shape
    with pytest.raises(ArrayInvalidError, match="takes no more"):
        stored(np.ndarray((2**62, 4), "V0", order=order))


UNIT = np.dtype("<f8", metadata={"unit": "mV"})


@pytest.mark.parametrize(
    "dtype",
    [
        UNIT,
        h5py.string_dtype("utf-8", 10),
        h5py.enum_dtype({"off": 0, "on": 1}),
        h5py.opaque_dtype(np.dtype("M8[s]")),
        np.dtype("<f8", metadata={}),
        np.dtype([("a", UNIT)]),
        np.dtype([("a", "i1"), ("b", [(("t", "c"), UNIT, (2,))])]),
        np.dtype([("a", "i1")], metadata={"unit": "mV"}),
        np.dtype([("a", "i1"), ("b", UNIT)], align=True),
    ],
    ids=str,
)
def test_metadata_of_a_dtype_are_refused_each_time_and_there_is_a_way(
    stored: Stored, store: Path, dtype: np.dtype[Any]
) -> None:
    array = np.zeros(3, dtype)
    for _ in range(2):  # NumPy warns once, and an equal dtype without metadata comes between
        for insert in (
            lambda: Blocks((3,), dtype, []),
            lambda: stored(da.from_array(array)),  # type: ignore[no-untyped-call]
            lambda: stored(array),
        ):
            with pytest.raises(ArrayInvalidError, match=r"cannot store the metadata") as caught:
                insert()
        remedy = str(caught.value).rpartition("can be stored: ")[2]
        plain = eval(remedy, {"array": array})
        comes_back(plain, stored(plain), store)
        assert plain.dtype == array.dtype


def test_objects_with_metadata_are_refused_as_objects() -> None:
    for dtype in (h5py.string_dtype(), [("a", h5py.string_dtype())], [("a", [("b", "O")], (2,))]):
        with pytest.raises(ArrayInvalidError, match="does not support object dtype"):
            check_dtype(np.dtype(dtype))


@pytest.mark.parametrize("computed", [{"a": 1}, np.zeros((), UNIT), np.zeros(5), np.float32(1)])
def test_a_dask_array_without_axes_that_is_not_what_it_said_is_refused(
    stored: Stored, store: Path, computed: Any
) -> None:
    array = da.from_delayed(delayed(lambda: computed)(), (), "f8")  # type: ignore[no-untyped-call]
    with pytest.raises(ArrayInvalidError):
        stored(array)
    assert list(store.rglob("*.npy")) == []


# Files that others wrote


@pytest.mark.parametrize("dtype", [many(15_000), nested(60), nested(120)], ids=len)
def test_a_file_that_would_not_be_written_is_not_copied_either(
    stored: Stored, store: Path, dtype: np.dtype[Any]
) -> None:
    ref = foreign(stored, store, dtype)
    with pytest.raises((ArrayInvalidError, ArrayCorruptError)):
        stored(ref, 2)
    assert len(list(store.rglob("*.npy"))) == 1


@pytest.mark.parametrize("dtype", [many(15_000), nested(120), nested(200)], ids=len)
def test_what_one_reader_refuses_none_reads(
    stored: Stored, store: Path, dtype: np.dtype[Any]
) -> None:
    ref = foreign(stored, store, dtype)
    for read in (
        lambda each: each.load(),
        lambda each: each[1:],
        lambda each: each.read(),
        lambda each: each.load(mmap_mode="r"),
        lambda each: each.verify(),
        lambda each: stored(each, 2),
        lambda each: dj_npy.load([each]),
    ):
        with pytest.raises(ArrayCorruptError):
            read(fetched(ref))


def foreign(stored: Stored, store: Path, dtype: np.dtype[Any]) -> NpyRef:
    """A row and a file of a dtype that are as any other's, but would be refused."""
    ref = stored(np.zeros(3))
    head = npyfile.header_bytes(dtype, (3,), False)
    (store / ref.path).write_bytes(head + bytes(3 * dtype.itemsize))
    ref._raw.update(dtype=npyfile.dtype_to_json(dtype), offset=len(head), checksum=None)
    return fetched(ref)


# Copies that are made on the way


@pytest.mark.parametrize("dtype", ["S0", "U0", "V0"])
def test_elements_without_bytes_are_copied_as_they_are(dtype: str) -> None:
    row = _copy_row({"array": np.ndarray((3, 2), dtype)})
    assert row["array"].dtype == np.dtype(dtype)


def test_generic_times_are_read_in_the_byte_order_of_the_file(stored: Stored) -> None:
    array = np.arange(6).astype(">i8").view(">m8").reshape(2, 3)
    ref = stored(array)
    for found in (ref.load(), fetched(ref)[1:], fetched(ref).read(np.s_[:, 1:]), *fetched(ref)):
        assert found.dtype == array.dtype
    assert ref.load().tobytes() == array.tobytes()
    joined = dj_npy.to_dask([ref, ref]).compute()  # of which NumPy compares the wrong bytes
    assert joined.view(">i8").tolist() == [array.view(">i8").tolist()] * 2


# In a database


@pytest.mark.parametrize(
    "dtype",
    [
        nested(15),
        nested(14, np.dtype(("<f8", (5,)))),
        np.dtype([(("a \\u0000 title", 'it\'s "größe"\n'), "S0"), ("漢字", ">M8[25s]", (2, 1))]),
        np.dtype([("c", ([("x", "<f8"), ("y", "<i8")], (5,)), (2,))]),
    ],
    ids=lambda dtype: "-".join(dtype.names),
)
def test_databases_hold_the_rows_of_what_is_accepted(
    recording: Any, store: Path, dtype: np.dtype[Any]
) -> None:
    array = np.zeros(3, dtype)
    recording.insert1({"recording_id": 1, "waveform": array})
    comes_back(array, recording.fetch1("waveform"), store)
    report = dj_npy.verify(recording, checksums=True)
    assert report.ok
    recording.insert1({"recording_id": 2, "waveform": recording.fetch1("waveform")})
