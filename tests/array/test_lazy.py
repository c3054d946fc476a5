"""What NumPy, Dask and xarray read of a reference where they need little of it, or nothing."""

import copy
import os
import pickle
from collections.abc import Callable
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dj_npy import NpyRef, settings
from dj_npy._array import views
from tests.support.arrays import arrays, same
from tests.support.indexes import as_numpy, indexes, outcome

da: Any = dask.array  # mostly without types
Stored = Callable[..., NpyRef]
A = np.arange(4 * 256 * 512.0).reshape(4, 256, 512) - 1000
ARRAYS = {"C": A, "F": np.asfortranarray(A), "complex": A + 1j * A[::-1]}
HEADER = 4096


class Read:
    """Bytes that were read of local files."""

    nbytes = 0


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    read, original = Read(), os.preadv

    def counting(*args: Any) -> int:
        count = original(*args)
        read.nbytes += count
        return count

    monkeypatch.setattr(os, "preadv", counting)
    return read


NOTHING: dict[str, Callable[[Any], Any]] = {
    "zeros_like": np.zeros_like,
    "ones_like": lambda x: np.ones_like(x, dtype="f4"),
    "empty_like": lambda x: np.empty_like(x).shape,
    "full_like": lambda x: np.full_like(x, 7),
    "shape": np.shape,
    "ndim": np.ndim,
    "size": np.size,
    "result_type": lambda x: np.result_type("f4", x),
    "can_cast": lambda x: np.can_cast(x, "f4"),
    "common_type": np.common_type,
    "broadcast_shapes": lambda x: np.broadcast_shapes(x.shape, (1, 512)),
    "may_share_memory": lambda x: np.may_share_memory(x, np.empty(3)),
    "shares_memory": lambda x: np.shares_memory(x, x[:0]),
    "iscomplexobj": np.iscomplexobj,
}
LITTLE: dict[str, Callable[[Any], Any]] = {
    "T": lambda x: x.T[3:5, 7],
    "mT": lambda x: np.swapaxes(x, -1, -2)[1, 5],
    "real": lambda x: x.real[1, 2],
    "imag": lambda x: x.imag[1, 2],
    "np.real": lambda x: np.real(x)[:, 2, 3],
    "flat": lambda x: x.flat[70_000],
    "flat slice": lambda x: np.asarray(x.flat[70_000:70_010]),
    "flat points": lambda x: x.flat[[5, -1, 5]],
    "take": lambda x: x.take([3, -1, 70_000]),
    "take along an axis": lambda x: np.take(x, [[2, 1]], axis=1)[0, 0, 0],
    "take clipped": lambda x: np.take(x, [-9, 9999], mode="clip"),
    "item": lambda x: (x.item(70_000), x.item(1, 2, 3), x.item((0, -1, 0))),
    "transpose": lambda x: np.transpose(x, (1, 0, 2))[5, 1],
    "moveaxis": lambda x: np.moveaxis(x, 0, -1)[3, 4],
    "rollaxis": lambda x: np.rollaxis(x, 2)[3, 1],
    "squeeze": lambda x: np.squeeze(np.expand_dims(x, 1))[1, 3],
    "flip": lambda x: np.flip(x)[0, 1],
    "rot90": lambda x: np.rot90(x, axes=(0, 1))[3, 1],
    "array_split": lambda x: np.array_split(x, 3, axis=1)[1][0, 0],
    "split": lambda x: np.split(x, [1], axis=-1)[0][1, 2],
    "vsplit": lambda x: np.vsplit(x, 2)[1][1, 1],
    "a view of a view": lambda x: np.moveaxis(np.array_split(x.T.real, 2)[1], 0, 1)[3, 5],
    "xarray": lambda x: xr.DataArray(x).isel(dim_0=1, dim_1=slice(2, 4)).values,
    "xarray at points": lambda x: xr.DataArray(x).isel(dim_0=1, dim_1=[2, 5]).values,
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("name", NOTHING)
def test_metadata_need_no_data(stored: Stored, opened: list[str], name: str, kind: str) -> None:
    array = ARRAYS[kind]
    ref = stored(array)
    opened.clear()
    found, expected = NOTHING[name](ref), NOTHING[name](array)
    assert opened == []
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert found.strides == expected.strides
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", ["C", "complex"])
@pytest.mark.parametrize("name", LITTLE)
def test_a_part_of_a_view_needs_that_part(stored: Stored, read: Read, name: str, kind: str) -> None:
    array = ARRAYS[kind]
    ref = stored(array)
    expected = LITTLE[name](array)
    read.nbytes = 0
    found = LITTLE[name](ref)
    assert np.asarray(found).dtype == np.asarray(expected).dtype
    assert np.array_equal(found, expected)
    assert not ref.is_loaded
    # Small gaps are read too: a column of one of the four matrices reads that matrix.
    assert read.nbytes <= array.nbytes // 4 + HEADER


def test_a_single_element_needs_no_more(stored: Stored, read: Read) -> None:
    gets: list[Callable[[Any], Any]] = [
        lambda x: x.flat[70_000],
        lambda x: x.item(70_000),
        lambda x: x.T[3, 4, 1],
        lambda x: np.take(x, 70_000),
        lambda x: np.moveaxis(x, 0, 1)[5, 1, 7],
        lambda x: np.array_split(x, 3)[2][0, 0, 0],
    ]
    for kind, array in ARRAYS.items():
        ref = stored(array)
        for get in gets:
            read.nbytes = 0
            assert get(ref) == get(array), kind
            assert 0 < read.nbytes < HEADER


def test_libraries_of_lazy_arrays_take_it_unloaded(stored: Stored, opened: list[str]) -> None:
    ref, other = stored(A), stored(A + 1, 2)
    opened.clear()
    chunked = da.from_array(ref, chunks=(1, 100, 512))
    lazily: list[tuple[Any, Any]] = [
        (chunked, A),
        (da.from_array(ref.T, chunks=(512, 256, 1)), A.T),
        (da.asarray(ref), A),
        (da.stack([ref, other]), np.stack([A, A + 1])),
        (da.concatenate([ref, other]), np.concatenate([A, A + 1])),
        (xr.DataArray(ref, dims=("a", "b", "c")), A),
        (xr.Variable(("a", "b", "c"), ref), A),
        (xr.Dataset({"x": (("a", "b", "c"), ref)}).x, A),
    ]
    for each, _ in lazily:
        assert repr(each)
        assert len(pickle.dumps(each)) < 20_000
    assert opened == []
    for each, expected in lazily:
        assert np.array_equal(np.asarray(each), expected)
    part = chunked[2, 5:7].compute(scheduler="sync")
    assert np.array_equal(part, A[2, 5:7])


def test_a_chunk_reads_its_own_bytes(stored: Stored, read: Read) -> None:
    ref = stored(A)
    chunked = da.from_array(ref, chunks=(1, 128, 512))
    read.nbytes = 0
    assert chunked[1, :3, :2].compute(scheduler="sync").tolist() == A[1, :3, :2].tolist()
    assert 0 < read.nbytes <= 600_000
    assert not ref.is_loaded


def test_a_copy_is_an_array_of_one_s_own(stored: Stored) -> None:
    own = stored(A).copy()
    assert same(own, A)
    assert own.flags.writeable

    def from_array(x: Any) -> Any:  # the name of a function of Dask's, to which it is hidden
        return x.copy()

    assert same(from_array(stored(A)), A)


def test_memory_of_loaded_data_may_be_shared(stored: Stored) -> None:
    ref = stored(A)
    loaded = ref.load()
    assert np.may_share_memory(ref, loaded)
    assert np.shares_memory(loaded, ref)


def test_many_views_ask_numpy_once(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, asked, original = stored(A), 0, NpyRef._stand_in

    def counting(self: NpyRef) -> Any:
        nonlocal asked
        asked += 1
        return original(self)

    monkeypatch.setattr(NpyRef, "_stand_in", counting)
    assert len(np.array_split(ref, 100, axis=-1)) == 100
    assert asked == 1


VIEWS: dict[str, Callable[[Any], Any]] = {
    "transpose": np.transpose,
    "flip": np.flip,
    "expand": lambda x: np.expand_dims(x, 0),
    "squeeze": np.squeeze,
    "real": lambda x: x.real,
    "imag": lambda x: x.imag,
    "swap": lambda x: np.swapaxes(x, 0, -1),
    "split": lambda x: np.array_split(x, 2)[1],
    "split last": lambda x: np.array_split(x, 3, axis=-1)[1],
    "rot90": lambda x: np.rot90(x, axes=(0, -1)),
    "roll": lambda x: np.rollaxis(x, -1),
    "diagonal": np.diagonal,
    "flat": lambda x: x.reshape(-1) if isinstance(x, np.ndarray) else x.flat,
}


@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    arrays(),
    st.lists(st.sampled_from(sorted(VIEWS)), max_size=4),
    st.integers(0, 10**12),
    st.data(),
)
def test_an_index_of_views_gives_what_numpy_gives(
    stored: Stored, array: Any, names: list[str], number: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "load_below", 0)
        patch.setattr(settings, "load_share", 1000)
        view, expected = stored(array, number), array
        for name in names:
            try:
                wanted = np.asarray(VIEWS[name](expected))
            except Exception as error:
                with pytest.raises(type(error)):
                    VIEWS[name](view)
                return
            view, expected = VIEWS[name](view), wanted
            if isinstance(view, np.generic):  # as NumPy flips an array of no axes
                assert same(np.asarray(view), wanted)
                return
        assert (view.shape, view.dtype) == (expected.shape, expected.dtype)
        if not expected.dtype.itemsize:
            return  # NumPy itself turns |S0 into |S1 now and then
        index = data.draw(indexes(expected.shape))
        found, wanted = outcome(index, view), outcome(index, expected)
        if isinstance(wanted, type):
            assert found is wanted
        else:
            assert as_numpy(found, wanted)
        assert same(np.array(view), np.array(expected))


def test_a_view_pickles_without_data(stored: Stored, nothing_configured: None) -> None:
    ref = stored(A)
    for name, view in VIEWS.items():
        pickled = pickle.dumps(view(ref))
        assert len(pickled) < 2000, name
        assert b"dj_npy._" not in pickled.replace(b"dj_npy._stores", b"")
        assert np.array_equal(np.asarray(pickle.loads(pickled)), view(A)), name


def test_another_library_s_array_decides(stored: Stored) -> None:
    ref, lazy = stored(A), da.ones(A.shape)
    for function in (np.concatenate, np.stack):
        for pair in ([ref, lazy], [lazy, ref]):
            found = function(pair)
            assert isinstance(found, da.Array)
            assert same(np.asarray(found), function([np.asarray(each) for each in pair]))
    assert same(np.asarray([1, 2], like=ref), np.asarray([1, 2]))


COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy]


def test_a_view_is_copied_without_data(stored: Stored, opened: list[str]) -> None:
    ref = stored(A)
    opened.clear()
    pairs = [(each(view(ref)), view(A)) for view in VIEWS.values() for each in COPIES]
    assert opened == []
    for found, expected in pairs:
        assert np.array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("kind", ARRAYS)
def test_many_consecutive_elements_need_no_others(
    stored: Stored, read: Read, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(views, "_MAX_POINTS", 100)
    monkeypatch.setattr(settings, "memory", 100)
    array = ARRAYS[kind]
    ref, flat = stored(array), array.reshape(-1)
    row = array.shape[-1]
    for wanted in (slice(3, 3 + 2 * row), slice(5 * row), slice(-3 * row - 1, None)):
        read.nbytes = 0
        found = ref.flat[wanted]
        assert same(found, flat[wanted])
        if array.flags.c_contiguous:
            assert read.nbytes <= found.nbytes + 3 * HEADER
    assert not ref.is_loaded
