"""`NpyRef`: NumPy is the oracle, and metadata cost nothing."""

import copy
import io
import operator
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from datajoint.errors import DataJointError

import dj_npy
from dj_npy import ArrayCorruptError, ArrayInvalidError, ArrayMissingError, NpyRef, StoreError
from dj_npy._format import npyfile
from tests.support.arrays import same

Stored = Callable[..., NpyRef]
A = np.arange(12.0).reshape(4, 3) - 5
B = np.arange(12).reshape(4, 3) + 1


def test_metadata_pickling_and_attributes_do_no_io(stored: Stored, opened: list[str]) -> None:
    ref = stored(np.asfortranarray(A))
    assert ref.shape == (4, 3)
    assert ref.dtype == np.float64
    assert (ref.ndim, ref.size, ref.itemsize, ref.nbytes, len(ref)) == (2, 12, 8, 96, 4)
    assert ref.path == "lab/recording/recording_id=1/waveform.npy"
    assert ref.store == "main"
    assert ref.is_loaded is False
    assert repr(ref) == str(ref) == f"{ref}" == "NpyRef(shape=(4, 3), dtype=float64, not loaded)"
    hash(ref)
    iter(ref)
    copy.copy(ref)
    pickle.loads(pickle.dumps(ref))
    for name in [*dir(np.ndarray), *dir(ref), "__array_interface__", "_repr_html_", "no_such"]:
        hasattr(ref, name)
    assert np.shape(ref) == (4, 3)
    assert np.ndim(ref) == 2
    assert np.size(ref) == 12
    assert (ref.T.shape, ref.flat.shape, ref.imag.dtype) == ((3, 4), (12,), np.dtype("f8"))
    assert (ref.T.nbytes, ref.T.itemsize) == (96, 8)
    assert opened == []
    assert not ref.is_loaded


def test_it_is_a_reference_of_datajoint(stored: Stored) -> None:
    assert isinstance(stored(A), dj.NpyRef)


def test_load_reads_once_and_keeps(stored: Stored, opened: list[str]) -> None:
    ref = stored(A)
    array = ref.load()
    assert same(array, A)
    assert ref.load() is array
    assert np.asarray(ref) is array
    assert len(opened) == 1
    assert ref.is_loaded
    assert repr(ref) == "NpyRef(shape=(4, 3), dtype=float64, loaded)"
    ref.unload()
    assert not ref.is_loaded
    assert ref.load() is not array


def test_the_memory_order_is_the_file_s(stored: Stored) -> None:
    assert stored(np.asfortranarray(A)).load().flags.f_contiguous
    assert stored(A, 2).load().flags.c_contiguous


BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    divmod,
    operator.eq,
    operator.ne,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
]
INTEGER = [operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift]
UNARY = [operator.neg, operator.pos, abs]


@pytest.mark.parametrize("function", BINARY + INTEGER)
def test_an_operator_does_what_it_does_to_the_array(
    stored: Stored, function: Callable[..., Any]
) -> None:
    one, other = B, (B % 3 + 1)
    left, right = stored(one, 1), stored(other, 2)
    for found, expected in [
        (function(left, other), function(one, other)),
        (function(one, right), function(one, other)),
        (function(left, right), function(one, other)),
        (function(left, 2), function(one, 2)),
        (function(2, right), function(2, other)),
    ]:
        np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("function", UNARY)
def test_a_unary_operator_does_what_it_does_to_the_array(
    stored: Stored, function: Callable[..., Any]
) -> None:
    assert same(function(stored(A)), function(A))


def test_inversion_and_matrix_products(stored: Stored) -> None:
    ref, weights = stored(B), np.arange(3)
    assert same(~ref, ~B)
    assert same(ref @ weights, B @ weights)
    assert same(weights @ ref.T, weights @ B.T)
    assert same(np.dot(ref, weights), np.dot(B, weights))
    assert same(ref.T @ ref, B.T @ B)


@pytest.mark.parametrize("array", [np.array([True, False]), np.array([1 + 2j, 3]), B / 3])
@pytest.mark.parametrize("power", [2, 0.5, -1.0, np.array(2)])
def test_a_power_is_the_operator_s_not_the_ufunc_s(stored: Stored, array: Any, power: Any) -> None:
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(stored(array) ** power, array**power, strict=True)
    np.testing.assert_array_equal(2.0 ** stored(array, 2), 2.0**array, strict=True)


def test_a_number_formats_as_one(stored: Stored, opened: list[str]) -> None:
    assert f"{stored(np.array(1.25)):.1f}" == "1.2"
    opened.clear()
    with pytest.raises(TypeError):
        f"{stored(A, 2):.1f}"
    assert opened == []


def test_a_matrix_transpose_needs_two_axes(stored: Stored) -> None:
    with pytest.raises(ValueError, match="undefined"):
        stored(np.arange(3)).mT  # noqa: B018
    assert stored(np.zeros((2, 3, 4)), 2).mT.shape == (2, 4, 3)


def test_ufuncs_with_all_their_arguments(stored: Stored) -> None:
    ref, where = stored(B), stored(B > 4, 2)
    out = np.zeros_like(B)
    assert np.add(ref, 1, out=out) is out
    assert same(out, B + 1)
    np.add(ref, 1, out=out, where=where)
    assert same(np.add.reduce(ref, axis=0), B.sum(axis=0))
    assert same(np.multiply.outer(ref, [1, 2]), np.multiply.outer(B, [1, 2]))
    assert same(np.add.accumulate(ref), np.add.accumulate(B))
    assert same(np.concatenate([ref, B]), np.concatenate([B, B]))
    assert same(np.stack([ref, ref]), np.stack([B, B]))
    assert same(np.where(ref > 3, ref, 0), np.where(B > 3, B, 0))


def test_changing_in_place_is_refused_and_changes_nothing(stored: Stored) -> None:
    ref = stored(A)
    with pytest.raises(TypeError, match="in place"):
        ref += 1
    with pytest.raises(TypeError, match="in place"):
        np.add(A, 1, out=ref)
    with pytest.raises(TypeError, match="in place"):
        np.add.at(ref, [0], 1)
    with pytest.raises(TypeError):
        ref[0] = 1
    with pytest.raises(TypeError):
        ref.byteswap(inplace=True)  # type: ignore[call-arg]
    for name in ("sort", "fill", "put", "resize", "partition", "setflags"):
        assert not hasattr(ref, name)
    assert same(ref.load(), A)


METHODS: dict[str, tuple[Any, ...]] = {
    "all": (),
    "any": (),
    "argmax": (),
    "argmin": (),
    "argpartition": (1,),
    "argsort": (),
    "astype": ("f4",),
    "byteswap": (),
    "clip": (0, 3),
    "compress": ([True, False, True], 0),
    "conj": (),
    "conjugate": (),
    "copy": (),
    "cumprod": (),
    "cumsum": (),
    "diagonal": (),
    "dot": (np.arange(3),),
    "dumps": (),
    "flatten": (),
    "getfield": ("i4",),
    "item": (3,),
    "max": (),
    "mean": (),
    "min": (),
    "nonzero": (),
    "prod": (),
    "ravel": (),
    "repeat": (2,),
    "reshape": (3, 4),
    "round": (),
    "squeeze": (),
    "std": (),
    "sum": (),
    "swapaxes": (0, 1),
    "take": ([0, 5],),
    "tobytes": (),
    "tolist": (),
    "trace": (),
    "transpose": (),
    "var": (),
    "view": ("i8",),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_what_it_does_to_the_array(stored: Stored, name: str) -> None:
    found = getattr(stored(A), name)(*METHODS[name])
    expected = getattr(A, name)(*METHODS[name])
    assert type(found) is type(expected)
    np.testing.assert_array_equal(found, expected)


def test_methods_that_need_other_data(stored: Stored, tmp_path: Path) -> None:
    assert stored(np.array([0, 1, 1])).choose([[1, 2, 3], [4, 5, 6]]).tolist() == [1, 5, 6]
    assert stored(np.arange(5.0), 2).searchsorted(2.5) == 3
    stored(A, 3).tofile(tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == A.tobytes()
    assert stored(A, 4).mean(axis=0, keepdims=True).shape == (1, 3)
    named = stored(np.array([1 + 2j]), 5)
    assert (named.real[0], named.imag[0]) == (1, 2)
    assert same(np.array(named.conj().imag), np.array([-2.0]))


def test_every_method_of_an_array_that_changes_nothing_is_here() -> None:
    changes = {"fill", "partition", "put", "resize", "setfield", "setflags", "sort"}
    memory = {"base", "ctypes", "data", "flags", "strides", "device", "to_device"}
    names = {name for name in dir(np.ndarray) if not name.startswith("_")}
    removed_in_numpy_2 = {"itemset", "newbyteorder", "ptp", "tostring"}
    assert names - set(dir(NpyRef)) <= changes | memory | removed_in_numpy_2


@pytest.mark.parametrize("attribute", ["T", "mT", "real", "imag", "flat"])
def test_a_view_is_as_much_an_array_as_its_source(stored: Stored, attribute: str) -> None:
    ref = stored(A)
    expected = np.array(A.T if attribute == "mT" else getattr(A, attribute))
    view = getattr(ref, attribute)
    assert repr(view).endswith("(NpyRef(shape=(4, 3), dtype=float64, not loaded))")
    assert not ref.is_loaded
    assert (view.shape, view.dtype) == (expected.shape, expected.dtype)
    assert same(np.array(view), expected)
    assert same(view + 1, expected + 1)
    assert same(view[1:], expected[1:])


INDEXES: list[Any] = [
    0,
    -1,
    slice(1, 3),
    slice(None, None, -2),
    ...,
    None,
    (0, 1),
    (slice(None), 1),
    (..., 0),
    ([0, 2], [1, 1]),
    np.array([True, False, True, False]),
    A > 0,
    [],
    (),
]


@pytest.mark.parametrize("index", INDEXES, ids=repr)
def test_an_index_gives_what_numpy_gives(stored: Stored, index: Any) -> None:
    np.testing.assert_array_equal(stored(A)[index], A[index], strict=True)


@pytest.mark.parametrize("index", [4, (0, 3), (0, 0, 0), "x", 1.5, [True, False], [7]], ids=repr)
def test_a_bad_index_raises_what_numpy_raises(stored: Stored, index: Any) -> None:
    with pytest.raises(Exception) as expected:  # noqa: PT011
        A[index]
    with pytest.raises(expected.type):
        stored(A)[index]


def test_an_index_may_itself_be_a_reference(stored: Stored) -> None:
    assert same(A[stored(np.array([2, 0]))], A[[2, 0]])
    assert same(stored(A, 2)[stored(A > 0, 3)], A[A > 0])


def test_structured_fields(stored: Stored) -> None:
    array = np.array([(1, 2.5), (3, 4.5)], [("n", "i4"), ("x", "f8")])
    assert same(stored(array)["x"], array["x"])


def test_iteration_containment_and_length(stored: Stored) -> None:
    ref = stored(A)
    assert [row.tolist() for row in ref] == A.tolist()
    assert 3.0 in ref
    assert 99 not in ref
    scalar = stored(np.array(1.5), 2)
    for function in (len, iter):
        with pytest.raises(TypeError):
            function(scalar)
    assert not scalar.is_loaded


def test_one_element_converts_to_a_number(stored: Stored) -> None:
    one = stored(np.array(3))
    assert (float(one), int(one), complex(one), bool(one)) == (3.0, 3, 3 + 0j, True)
    assert [10, 11, 12, 13][one] == 13
    assert range(5)[one] == 3


def test_more_than_one_element_does_not_and_is_not_loaded(stored: Stored) -> None:
    many = stored(B)
    for kind in (float, int, complex, bool, operator.index):
        with pytest.raises((TypeError, ValueError)):
            kind(many)
    assert not many.is_loaded


def test_the_array_protocol(stored: Stored) -> None:
    ref = stored(A)
    array = ref.load()
    assert ref.__array__() is array
    assert same(np.asarray(ref, "f4"), A.astype("f4"))
    assert np.array(ref) is not array
    assert not np.shares_memory(np.array(ref), array)
    assert ref.__array__(copy=False) is array
    assert ref.__array__(np.dtype("f8"), copy=False) is array
    with pytest.raises(ValueError, match="without a copy"):
        ref.__array__("f4", copy=False)
    copied = ref.__array__("f4", copy=True)
    assert copied.dtype == "f4"


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.repeat(np.arange(2), x),
        lambda x: np.take(np.arange(9), x),
        lambda x: np.arange(9).take(x),
        lambda x: np.random.default_rng(1).binomial(x, 0.5),
    ],
)
def test_numbers_are_truncated_only_where_an_array_s_are(
    stored: Stored, function: Callable[..., Any]
) -> None:
    ref = stored(np.array([1.5, 2.5]))
    with pytest.raises(TypeError, match="Cannot cast"):
        function(ref)
    assert np.asarray(ref, int).tolist() == np.array(ref, int).tolist() == [1, 2]
    assert np.asarray(ref, complex).dtype == complex


@pytest.mark.parametrize("array", [np.array(["a", "b"]), np.array(["2026-11-27"], "M8[D]")])
def test_what_cannot_be_compared_is_unequal(stored: Stored, array: Any) -> None:
    ref = stored(array)
    assert same(ref == 1, array == 1)
    assert same(ref != 1, array != 1)
    assert same(ref == 1, array == 1)


def test_arrow_takes_a_reference_at_once(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pip install pyarrow")
    ref = stored(np.arange(1000.0))
    monkeypatch.setattr(NpyRef, "__getitem__", None)
    assert pyarrow.array(ref).to_pylist() == list(range(1000))
    assert pyarrow.array(ref, pyarrow.float32()).type == pyarrow.float32()
    assert pyarrow.table({"x": ref}).num_rows == 1000


def test_references_compare_elementwise_and_hash_by_identity(stored: Stored) -> None:
    one, other = stored(A), stored(A, 2)
    assert (one == other).all()
    assert len({one, other, one}) == 2
    assert (one == None).tolist() == (A == None).tolist()  # noqa: E711


@pytest.mark.usefixtures("nothing_configured")
def test_a_pickle_holds_no_data_and_reads_from_the_same_store(stored: Stored) -> None:
    ref = stored(np.zeros((1000, 100)))
    ref.load()
    data = pickle.dumps(ref)
    assert len(data) < 2000
    other = pickle.loads(data)
    assert isinstance(other, NpyRef)
    assert not other.is_loaded
    assert same(other.load(), ref.load())
    assert same(pickle.loads(pickle.dumps(other)).load(), ref.load())


def test_a_pickle_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "access_key": "AKIASECRET",
        "secret_key": "s3cr3t",
        "token": "t0ken",
        "account_key": "acc0unt",
        "connection_string": "AccountKey=c0nn",
        "plugin_password": "pl4gin",
    }
    spec = {"protocol": "s3", "bucket": "b", "location": "", "endpoint": "https://u:pw@host"}
    monkeypatch.setitem(dj.config.stores, "cloud", {**spec, **secrets})
    ref = dj_npy.NpyCodec().decode(
        {"path": "a.npy", "store": "cloud", "dtype": "float64", "shape": [1]},
        context={"config": dj.config},
    )
    data = pickle.dumps(ref)
    for secret in [*secrets.values(), "u:pw"]:
        assert secret.encode() not in data
    # The receiver's own configuration has them.
    restored = pickle.loads(data)
    assert restored._config.stores["cloud"] == {**spec, **secrets}


def test_a_pickle_knows_a_folder_that_was_given_relatively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relative").mkdir()
    np.save(tmp_path / "relative" / "a.npy", A)
    spec = {"protocol": "file", "location": "relative"}
    monkeypatch.setitem(dj.config.stores, "here", spec)
    row = {"path": "a.npy", "store": "here", "dtype": "float64", "shape": [4, 3]}
    data = pickle.dumps(dj_npy.NpyCodec().decode(row, context={"config": dj.config}))
    monkeypatch.chdir("/")
    monkeypatch.delitem(dj.config.stores, "here")
    assert same(pickle.loads(data).load(), A)


@pytest.mark.slow
def test_a_pickle_is_read_where_datajoint_has_no_configuration(stored: Stored) -> None:
    code = "import pickle, sys, dj_npy; print(pickle.load(sys.stdin.buffer).load().sum())"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=pickle.dumps(stored(A)),
        capture_output=True,
        env={**os.environ, "DJ_THREAD_SAFE": "true"},
        check=False,
    )
    assert float(result.stdout) == A.sum(), result.stderr


def test_memory_maps(stored: Stored, store: Path) -> None:
    ref = stored(A)
    mapped = ref.load(mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert Path(str(mapped.filename)) == store / ref.path
    assert not ref.is_loaded
    assert same(np.array(mapped), A)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0, 0] = 1
    private = ref.load(mmap_mode="c")
    private[0, 0] = 99
    assert same(np.load(store / ref.path), A)
    ref.load()
    shared = ref.load(mmap_mode="r+")
    assert not ref.is_loaded  # the change is to be seen
    shared[0, 0] = 99
    shared.flush()  # type: ignore[attr-defined]
    assert np.load(store / ref.path)[0, 0] == 99
    assert ref.verify() == "changed since insert"


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.array(1.5), np.asfortranarray(A)])
def test_a_map_of_any_shape_and_order(stored: Stored, array: Any) -> None:
    mapped = stored(array).load(mmap_mode="r")
    assert same(np.array(mapped), array)
    assert mapped.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize("mode", ["w+", "w", "", "rw", 1])
def test_another_map_mode_is_refused_and_harms_nothing(stored: Stored, mode: Any) -> None:
    ref = stored(A)
    with pytest.raises(ArrayInvalidError, match="mmap_mode"):
        ref.load(mmap_mode=mode)
    assert same(ref.load(), A)


def test_read_into_the_caller_s_memory(stored: Stored, opened: list[str]) -> None:
    for ref, array in ((stored(A), A), (stored(np.asfortranarray(A), 2), A)):
        for order in "CF":
            out: Any = np.zeros((4, 3)) if order == "C" else np.asfortranarray(np.zeros((4, 3)))
            assert ref.read(out=out) is out
            assert same(out, array)
        part = np.zeros(3)
        assert ref.read(2, out=part) is part
        assert same(part, array[2])
        assert same(ref.read((slice(None), 1)), array[:, 1])
        assert ref.read().flags.owndata
        assert ref.read(slice(1, 3)).flags.owndata
        assert not ref.is_loaded
        ref.load()
        assert not np.shares_memory(ref.read(), ref.load())
        assert same(ref.read(slice(1, 3)), array[1:3])


@pytest.mark.parametrize(
    "out", [np.ones((3, 4)), np.ones((4, 3), "f4"), np.ones((4, 3), ">f8"), np.ones(12)]
)
def test_memory_that_does_not_fit_is_refused_unchanged(stored: Stored, out: Any) -> None:
    with pytest.raises(ArrayInvalidError, match="out must be"):
        stored(A).read(out=out)
    assert (out == 1).all()


@pytest.mark.parametrize("out", [[1], bytearray(96), None.__class__])
def test_memory_that_is_no_array_is_refused(stored: Stored, out: Any) -> None:
    with pytest.raises(ArrayInvalidError, match=r"out must be a numpy\.ndarray"):
        stored(A).read(out=out)


def test_memory_that_is_read_only_is_refused(stored: Stored) -> None:
    out = np.ones((4, 3))
    out.flags.writeable = False
    with pytest.raises(ArrayInvalidError, match="read-only"):
        stored(A).read(out=out)


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


HOSTILE = npyfile.header_bytes(np.dtype("f8"), (10**10,), False)
DAMAGED = {
    "cut short": (saved(A)[:-1], "expected 224 bytes, found 223"),
    "cut within the header": (saved(A)[:50], "bad .npy header"),
    "empty": (b"", "not a .npy file"),
    "longer": (saved(A) + b"\0", "expected 224 bytes, found 225"),
    "another shape": (
        saved(A.T.copy()),
        r"expected shape \(4, 3\), dtype float64, found shape \(3, 4\)",
    ),
    "another dtype": (saved(A.astype("i8")), "expected .*float64, found .*int64"),
    "another byte order": (saved(A.astype(">f8")), "expected .*float64, found .*>f8"),
    "another file": (b"PK\3\4" + bytes(220), "not a .npy file"),
    "hostile": (HOSTILE, "expected 80000000128 bytes, found 128"),
    "a pickle": (
        npyfile.MAGIC
        + b"\1\0"
        + (118).to_bytes(2, "little")
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (4, 3)}".ljust(117)
        + b"\n"
        + bytes(96),
        "Python objects",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize(
    "use", [NpyRef.load, NpyRef.verify, lambda ref: ref.load(mmap_mode="r"), NpyRef.read]
)
def test_a_damaged_file_is_told_from_an_array(
    stored: Stored, store: Path, damage: str, use: Callable[[NpyRef], Any]
) -> None:
    ref = stored(A)
    contents, message = DAMAGED[damage]
    (store / ref.path).write_bytes(contents)
    with pytest.raises(ArrayCorruptError, match=message) as caught:
        use(ref)
    assert "store 'main'" in str(caught.value)
    assert ref.path in str(caught.value)
    assert not ref.is_loaded


def test_the_same_array_in_the_other_order_is_read(stored: Stored, store: Path) -> None:
    ref = stored(A)
    (store / ref.path).write_bytes(saved(np.asfortranarray(A)))
    assert same(ref.load(), A)
    with pytest.raises(ArrayCorruptError, match="other bytes than were inserted"):
        ref.verify()


@pytest.mark.parametrize("use", [NpyRef.load, NpyRef.verify, lambda ref: ref.load("r")])
def test_a_missing_file_says_so(stored: Stored, store: Path, use: Callable[[NpyRef], Any]) -> None:
    ref = stored(A)
    (store / ref.path).unlink()
    with pytest.raises(ArrayMissingError, match=r"'lab/.*' in store 'main'.*no such file"):
        use(ref)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x.npy", "a/../../x.npy", "a//b.npy", "", ".", "a/./b", "a\0b", "a\ud800b"],
)
def test_a_path_that_leaves_the_store_is_refused(stored: Stored, path: Any) -> None:
    ref = stored(A)
    ref._raw["path"] = path
    for use in (NpyRef.load, NpyRef.verify, lambda ref: ref.load(mmap_mode="r"), NpyRef.read):
        with pytest.raises(StoreError, match="refused the path"):
            use(ref)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", None),
        ("path", 7),
        ("store", ["main"]),
        ("store", {"a": 1}),
        ("shape", None),
        ("shape", {"4": 3}),
        ("shape", [1] * 65),
        ("shape", [10**30, 0]),
        ("shape", [0, 2**62, 2**62]),
        ("shape", [1.0]),
        ("dtype", "(2,)f8"),
        ("shape", [-1]),
        ("shape", ["4"]),
        ("dtype", None),
        ("dtype", "no such"),
        ("dtype", "object"),
        ("dtype", "[('a', 'O')]"),
        ("dtype", ["a"]),
        ("dtype", 5),
    ],
)
def test_a_row_that_describes_no_array_is_told(stored: Stored, name: str, value: Any) -> None:
    ref = stored(A)
    ref._raw[name] = value
    for use in (lambda: getattr(ref, name), ref.load, ref.verify, ref.read):
        with pytest.raises(ArrayCorruptError, match=f"no valid {name}"):
            use()
    repr(ref)


@pytest.mark.parametrize("row", [None, [], 5, "text", {}, [{"path": "a.npy"}]])
def test_a_row_that_is_no_description_at_all_is_told(row: Any) -> None:
    ref = dj_npy.NpyCodec().decode(row, context={"config": dj.config})
    assert repr(ref) == f"NpyRef(invalid row {row!r})"
    for use in (lambda: ref.path, lambda: ref.shape, lambda: ref.dtype, ref.load, ref.verify):
        with pytest.raises(ArrayCorruptError, match="no valid"):
            use()


@pytest.mark.parametrize(
    ("name", "value"),
    [("offset", -1), ("offset", "x"), ("offset", 2**70), ("fortran_order", "yes")],
)
def test_additions_that_make_no_sense_are_passed_over(
    stored: Stored, name: str, value: Any
) -> None:
    ref = stored(A)
    ref._raw[name] = value
    assert same(ref.load(), A)


def test_a_checksum_that_makes_no_sense_does_not_verify(stored: Stored) -> None:
    ref = stored(A)
    ref._raw["checksum"] = 5
    with pytest.raises(ArrayCorruptError, match="expected 5"):
        ref.verify()


@pytest.mark.parametrize("store", ["default", "nowhere"])
def test_a_store_that_is_not_configured_is_told(store: str, stores: Any, database: Any) -> None:
    row = {"path": "a.npy", "store": store, "dtype": "float64", "shape": [1]}
    ref = dj_npy.NpyCodec().decode(row, context={"config": database.config})
    with pytest.raises(DataJointError, match=f"'{store}'"):
        ref.load()


def test_a_row_that_promises_more_than_memory_is_told_from_the_file(stored: Stored) -> None:
    ref = stored(A)
    for shape in ([10**10, 10**3], [2**59]):
        ref._raw["shape"] = shape
        ref._raw["offset"] = len(npyfile.header_bytes(A.dtype, tuple(shape), False))
        with pytest.raises(ArrayCorruptError, match="another array than the row says"):
            ref.load()
