"""What is shared is read-only, what is one's own is writable, whatever is in memory."""

import array as array_module
import copy
import io
import json
import operator
import pickle
import random
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy import NpyRef, settings
from tests.support.arrays import same

Stored = Callable[..., NpyRef]
A = np.arange(12.0).reshape(4, 3) - 5
RECORDS = np.array([(1, (2.0, 3.0)), (4, (5.0, 6.0))], [("n", "i4"), ("x", "f8", (2,))])
in_place: Any = operator  # untyped: mypy knows that what is tried here cannot be
ARRAYS = {
    "C": A,
    "F": np.asfortranarray(A),
    "one axis": np.array([1, 2, 3, 200]),
    "bytes": np.arange(4, dtype="u1"),
    "no axes": np.array(3),
    "empty": np.zeros((0, 3)),
    "complex": np.array([1 + 2j, 3]),
    "records": RECORDS,
    "times": np.array(["2020-01-01", "2021-01-01"], "M8[D]"),
    "text": np.array(["a", "bc"]),
    "above 1 MiB": np.arange(200_000.0).reshape(-1, 10),
}
BEFORE: dict[str, Callable[[NpyRef], Any]] = {
    "not loaded": lambda ref: None,
    "loaded": lambda ref: ref.load(),
    "loaded with others": lambda ref: dj_npy.load([ref, ref]),
}


@pytest.fixture(params=[True, False], ids=["memory", "no memory"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(settings, "memory", 0)


SHARED: dict[str, Callable[[NpyRef], Any]] = {
    "load()": lambda ref: ref.load(),
    "asarray": np.asarray,
    "array(copy=False)": lambda ref: ref.__array__(copy=False),
    "dj_npy.load": lambda ref: dj_npy.load([ref])[0],
    "dj_npy.load of rows": lambda ref: dj_npy.load([{"a": ref, "b": ref}])[0]["b"],
    "asarray(ref.T)": lambda ref: np.asarray(ref.T),
    "asarray(ref.flat)": lambda ref: np.asarray(ref.flat),
    "asarray(ref.real)": lambda ref: np.asarray(ref.real),
    "view": lambda ref: ref.view(),
    "conj": lambda ref: ref.load().conj() if ref.dtype.kind in "fi" else ref.load(),
    "transpose": lambda ref: ref.transpose(),
    "astype(copy=False)": lambda ref: ref.astype(ref.dtype, copy=False),
    "load()[...]": lambda ref: ref.load()[...],
}
OWN: dict[str, Callable[[NpyRef], Any]] = {
    "array": np.array,
    "load().copy()": lambda ref: ref.load().copy(),
    "ref[...]": lambda ref: ref[...],
    "ref[:1]": lambda ref: ref[:1] if ref.ndim else ref[...],
    "ref[None]": lambda ref: ref[None],
    "ref.T[...]": lambda ref: ref.T[...],
    "ref.flat[:2]": lambda ref: ref.flat[:2],
    "first row": lambda ref: next(iter(ref)) if ref.ndim and len(ref) else ref[...],
    "first row of T": lambda ref: next(iter(ref.T)) if ref.ndim and len(ref.T) else ref[...],
    "read": lambda ref: ref.read(),
    "read a part": lambda ref: ref.read(np.s_[..., :1]) if ref.ndim else ref.read(()),
    "blocks": lambda ref: next(ref.blocks(), ref[...]) if ref.ndim else ref[...],
    "stream": lambda ref: next(dj_npy.stream([ref])),
    "Dask": lambda ref: ref.to_dask().compute(),
    "Dask of many": lambda ref: dj_npy.to_dask([ref, ref]).compute(),
    "xarray": lambda ref: ref.to_xarray().values,
    "private map": lambda ref: ref.load(mmap_mode="c"),
}


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("kind", ARRAYS)
def test_what_is_shared_is_read_only_and_stays_so(stored: Stored, kind: str, before: str) -> None:
    whole = ARRAYS[kind]
    fetched = stored(whole)
    for name, get in SHARED.items():
        ref = copy.copy(fetched)
        held = BEFORE[before](ref)
        shared = get(ref)
        assert not shared.flags.writeable, name
        # Of a copy, nobody else has the memory.
        if shared.size and np.shares_memory(shared, ref.load()):
            with pytest.raises(ValueError, match="WRITEABLE"):
                shared.flags.writeable = True
            with pytest.raises(ValueError, match="WRITEABLE"):
                shared[...].setflags(write=True)
        with pytest.raises(ValueError, match="read-only"):
            shared[...] = np.zeros((), whole.dtype)
        assert same(ref.load(), whole), name
        del held


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("kind", ARRAYS)
def test_what_is_one_s_own_is_writable_and_changes_nothing_else(
    stored: Stored, kind: str, before: str
) -> None:
    whole = ARRAYS[kind]
    fetched = stored(whole)
    for name, get in OWN.items():
        if (name == "private map" and not whole.size) or ("Dask" in name and kind == "records"):
            continue
        ref = copy.copy(fetched)
        held = BEFORE[before](ref)
        own = get(ref)
        if isinstance(own, np.void):
            own["n"] = 99
        elif isinstance(own, np.ndarray):
            assert own.flags.writeable, name
            own[...] = np.ones((), whole.dtype)
        assert same(ref.load(), whole), name
        assert ref.verify() == "as inserted"
        del held


@pytest.mark.usefixtures("memory")
def test_a_change_in_place_is_refused_at_once(stored: Stored) -> None:
    ref = stored(A)
    x = np.asarray(ref)
    with pytest.raises(ValueError, match="read-only"):
        x -= x.mean()
    for change in (
        lambda: np.add(x, 1, out=x),
        lambda: np.add.at(x, 0, 1),
        lambda: np.nan_to_num(ref, copy=False),
        lambda: ref.load().sort(),
        lambda: ref.load().byteswap(inplace=True),
        lambda: np.random.default_rng().shuffle(ref.load()),
        lambda: np.lib.stride_tricks.as_strided(ref.load()).fill(0),
        lambda: np.frombuffer(ref.load()).fill(0),
        lambda: in_place.setitem(memoryview(ref.load()), (0, 0), 1.0),  # type: ignore[arg-type]
        lambda: io.BytesIO(bytes(1000)).readinto(ref.load()),  # type: ignore[arg-type]
        lambda: ref.read(out=ref.load()),
    ):
        with pytest.raises((ValueError, TypeError)):
            change()
    assert same(ref.load(), A)


def test_a_record_of_a_loaded_array_is_read_only(stored: Stored) -> None:
    record = stored(RECORDS).load()[0]
    for change in (lambda: operator.setitem(record, "n", 7), lambda: record["x"].fill(7)):
        with pytest.raises(ValueError, match="read-only"):
            change()


@pytest.mark.parametrize(
    "reshape",
    [
        lambda x: setattr(x, "shape", (-1,)),
        lambda x: setattr(x, "dtype", "i8"),
        lambda x: setattr(x, "strides", (0, 0)),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_who_reshapes_the_array_itself_reshapes_it_for_nobody_else(
    stored: Stored, reshape: Callable[[Any], None]
) -> None:
    ref = stored(A)
    reshape(ref.load())  # nobody holds it
    assert same(ref.load(), A)
    held = ref.load()
    reshape(held)
    assert same(ref.load(), A)
    assert same(ref[...], A)
    assert same(ref + 0, A)
    assert ref.load() is ref.load()


def test_a_view_keeps_the_array_in_memory(stored: Stored, opened: list[str]) -> None:
    ref = stored(np.arange(5.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "memory", 0)
        view = ref.load()[1:]
        assert ref.is_loaded
        assert np.shares_memory(view, ref.load())
        assert len(opened) == 1


def test_a_reference_and_its_data_are_stored_alike(stored: Stored) -> None:
    ref = stored(np.asfortranarray(A))
    with suppress(ValueError):
        ref.load()[...] = 0
    with suppress(TypeError):
        ref += 1
    copies = [stored(value, 2 + n) for n, value in enumerate((ref, ref[:], ref.load()))]
    assert {each._raw["checksum"] for each in copies} == {ref._raw["checksum"]}


def test_a_pickle_or_a_copy_of_loaded_data_is_apart(stored: Stored) -> None:
    ref = stored(A)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(ref.load(), protocol))
        assert same(again, A)
        assert not np.shares_memory(again, ref.load())
    for own in (copy.copy(ref.load()), copy.deepcopy(ref.load())):
        own += 1
    assert same(ref.load(), A)


def test_a_graph_that_writes_in_place_changes_its_own_blocks(stored: Stored) -> None:
    def in_place(block: Any) -> Any:
        block -= block.mean()
        return block

    ref = stored(A)
    ref.load()
    found = ref.to_dask((2, 3)).map_blocks(in_place).compute()
    assert found.sum() == pytest.approx(0)
    assert same(ref.load(), A)
    same_again = dj_npy.to_dask([ref, ref]).map_blocks(in_place).compute()
    assert same_again.sum() == pytest.approx(0)
    assert same(ref.load(), A)


# Protocols: what an array answers, or an error

Protocol = Callable[[Any], Any]
PROTOCOLS: dict[str, Protocol] = {
    "bytes": bytes,
    "int.from_bytes": lambda x: int.from_bytes(x, "little"),
    "%b": lambda x: b"%b" % x,
    "list": list,
    "tuple": tuple,
    "reversed": lambda x: list(reversed(x)),
    "in": lambda x: 3 in x,
    "sum": sum,
    "max": max,
    "min": min,
    "sorted": sorted,
    "any": any,
    "enumerate": lambda x: list(enumerate(x)),
    "zip": lambda x: list(zip(x, x, strict=True)),
    "unpacking": lambda x: [*x],
    "join": "".join,
    "array.array": lambda x: array_module.array("q", x),
    "json": json.dumps,
    "int": int,
    "float": float,
    "complex": complex,
    "operator.index": operator.index,
    "bool": bool,
    "len": len,
    "format": lambda x: format(x, ".3f"),
    "divmod": lambda x: divmod(x, 2),
    "round": round,
    "abs": abs,
    "power": lambda x: pow(x, 2),
    "concatenated list": lambda x: [1] + x,
    "repeated list": lambda x: [2] * x,
    "random.choice": lambda x: random.Random(1).choice(x),
    "fromiter": lambda x: np.fromiter(x, float),
    "tolist": lambda x: x.tolist(),
    "tobytes": lambda x: x.tobytes(),
}


@pytest.mark.parametrize("view", [False, True], ids=["ref", "ref.T"])
@pytest.mark.parametrize("kind", [kind for kind in ARRAYS if kind != "above 1 MiB"])
def test_a_protocol_gives_the_array_s_answer(stored: Stored, kind: str, view: bool) -> None:
    whole = ARRAYS[kind]
    ref: Any = stored(whole)
    ref, whole = (ref.T, whole.T) if view else (ref, whole)
    for name, protocol in PROTOCOLS.items():
        try:
            expected = protocol(whole)
        except Exception as error:
            with pytest.raises((type(error), TypeError, ValueError)):  # noqa: PT012
                found = protocol(ref)
                pytest.fail(f"{name}: {found}")
            continue
        if kind == "no axes" and name in ("bytes", "int.from_bytes", "%b"):
            with pytest.raises(TypeError, match="tobytes"):
                protocol(ref)
            continue
        found = protocol(ref)
        assert type(found) is type(expected), name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy 1 tells of the truth of empty arrays
            np.testing.assert_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("kind", ["one axis", "C", "bytes"])
@pytest.mark.parametrize("protocol", [bytearray, memoryview, lambda x: b"".join([x])])
def test_a_buffer_is_refused(stored: Stored, kind: str, protocol: Protocol) -> None:
    ref = stored(ARRAYS[kind])
    for source in (ref, ref.T):
        with pytest.raises((TypeError, ValueError)):
            protocol(source)


CHANGES: dict[str, Protocol] = {
    "+=": lambda x: in_place.iadd(x, 1),
    "-=": lambda x: in_place.isub(x, x),
    "*=": lambda x: in_place.imul(x, 2),
    "/=": lambda x: in_place.itruediv(x, 2),
    "//=": lambda x: in_place.ifloordiv(x, 2),
    "**=": lambda x: in_place.ipow(x, 2),
    "@=": lambda x: in_place.imatmul(x, np.eye(3)),
    "ufunc out": lambda x: np.add(x, 1, out=x),
    "ufunc at": lambda x: np.add.at(x, 0, 1),
    "reduce out": lambda x: np.add.reduce(np.ones((2, 4, 3)), out=x),
    "clip out": lambda x: np.clip(x, 0, 1, out=x),
    "method out": lambda x: x.clip(0, 1, out=x),
    "take out": lambda x: np.take(A, [0, 1, 2, 3], axis=0, out=x),
    "dot out": lambda x: np.dot(A, np.eye(3), out=x),
    "copyto": lambda x: np.copyto(x, 0),
    "put": lambda x: np.put(x, [0], 0),
    "place": lambda x: np.place(x, x > 0, 0),
    "putmask": lambda x: np.putmask(x, np.asarray(x > 0), 0),
    "fill_diagonal": lambda x: np.fill_diagonal(x, 0),
    "put_along_axis": lambda x: np.put_along_axis(x, np.array([[0]]), 0, 0),
    "np.random.shuffle": lambda x: np.random.default_rng().shuffle(x),
    "random.shuffle": random.shuffle,
    "item": lambda x: in_place.setitem(x, 0, 1),
    "del": lambda x: in_place.delitem(x, 0),
    "sort": lambda x: x.sort(),
    "fill": lambda x: x.fill(0),
    "partition": lambda x: x.partition(1),
    "setflags": lambda x: x.setflags(write=True),
    "resize": lambda x: x.resize(2),
    "data": lambda x: in_place.setitem(x.data, 0, 1),
    "flat": lambda x: in_place.setitem(x.flat, 0, 1),
    "T": lambda x: in_place.setitem(x.T, 0, 1),
    "T +=": lambda x: in_place.iadd(x.T, 1),
    "view": lambda x: in_place.setitem(x.view(), 0, 1),
    "reshape": lambda x: in_place.setitem(x.reshape(-1), 0, 1),
    "squeeze": lambda x: in_place.setitem(x.squeeze(), 0, 1),
    "swapaxes": lambda x: in_place.setitem(x.swapaxes(0, 1), 0, 1),
    "conj": lambda x: in_place.iadd(x.conj(), 1),
    "shape": lambda x: setattr(x, "shape", (3, 4)),
    "dtype": lambda x: setattr(x, "dtype", "i8"),
    "real": lambda x: setattr(x, "real", 0),
    "own view": lambda x: setattr(x.load().view().flags, "writeable", True),
}


@pytest.mark.filterwarnings("ignore:you are shuffling:UserWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_an_array_is_refused(stored: Stored, name: str) -> None:
    ref: Any = stored(A)
    for _ in range(2):  # not loaded, then loaded
        with pytest.raises((TypeError, ValueError, AttributeError)):
            CHANGES[name](ref)
        assert same(ref.load(), A)


def test_it_holds_for_what_a_fetch_gives(table: Any) -> None:
    recording = table("n : int32\n---\nwaveform : <npy@>")
    recording.insert1({"n": 1, "waveform": np.array([1, 2, 3, 200])})
    ref = (recording & "n=1").fetch1("waveform")
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(ref)[0] = 9
    recording.insert([{"n": 2, "waveform": ref}, {"n": 3, "waveform": ref[:]}])
    recording.insert1({"n": 4, "waveform": ref.load()})
    found = recording.to_arrays("waveform")
    assert {bytes(each) for each in found} == {np.array([1, 2, 3, 200]).tobytes()}
    assert {each._raw["checksum"] for each in found} == {ref._raw["checksum"]}
    assert isinstance(ref, dj.NpyRef)
