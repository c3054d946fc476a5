"""Reductions beyond the memory budget: as NumPy's, as exact, and in little memory."""

import json
import math
import os
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dj_npy import NpyRef, settings
from dj_npy._array import file as file_module
from dj_npy._array import reductions
from dj_npy._array.views import Flat
from tests.support import sparsefile, warm
from tests.support.sparsefile import COLUMNS, VALUE

Stored = Callable[..., NpyRef]
GIB = float(os.environ.get("DJ_NPY_TEST_SPARSE_GIB", "0.25"))
RNG = np.random.default_rng(20261127)
A = RNG.normal(1e6, 1, (9, 5, 3))
WITH_NAN = np.where(RNG.random(A.shape) < 0.2, np.nan, A)
WITH_NAN[3] = np.nan
ARRAYS = {
    "f8": A,
    "F": np.asfortranarray(A),
    "f4": (A - 1e6 + 5).astype("f4"),
    "f2": (A - 1e6 + 5).astype("f2"),
    ">f8": A.astype(">f8"),
    "c16": (A + 1j * A[::-1]) / 1e6,  # a product that is too large is inf or NaN by its order
    "i8": RNG.integers(-(2**62), 2**62, A.shape),
    "i1": RNG.integers(-128, 128, A.shape, "i1"),
    "u2": RNG.integers(0, 2**16, A.shape, "u2"),
    "bool": RNG.random(A.shape) < 0.5,
    "m8": RNG.integers(0, 9**9, A.shape).astype("m8[s]"),
    "M8": RNG.integers(0, 9**9, A.shape).astype("M8[s]"),
    "nan": WITH_NAN,
    "inf": np.where(RNG.random(A.shape) < 0.05, np.inf, A),
}
NAMES = [
    "sum",
    "prod",
    "mean",
    "std",
    "var",
    "min",
    "max",
    "ptp",
    "all",
    "any",
    "argmin",
    "argmax",
    "count_nonzero",
    "nansum",
    "nanprod",
    "nanmean",
    "nanstd",
    "nanvar",
    "nanmin",
    "nanmax",
]
AXES = [None, 0, -1, 1, (0, 2), (1,), 5, (0, 0)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory budget, nothing loaded whole, blocks of 1 KiB or 60 elements at most."""
    monkeypatch.setattr(settings, "memory", 0)
    monkeypatch.setattr(settings, "load_below", 0)
    monkeypatch.setattr(reductions, "_MAX_NBYTES", 1024)
    monkeypatch.setattr(reductions, "_MAX_ELEMENTS", 60)
    # What it finds out takes longer than such a block.
    monkeypatch.setattr(file_module, "usable_memory", lambda: 1 << 40)


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch, small_blocks: None) -> None:
    monkeypatch.setattr(NpyRef, "load", lambda self: pytest.fail("it was loaded"))


def outcome(function: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function()
        except Exception as error:
            return type(error)


def close(found: Any, expected: Any) -> bool:
    if isinstance(expected, type):
        return found is expected
    if type(found) is not type(expected) or np.shape(found) != np.shape(expected):
        return False
    found, expected = np.asarray(found), np.asarray(expected)
    if found.dtype != expected.dtype:
        return False
    if expected.dtype.kind not in "fc":
        return np.array_equal(found, expected, equal_nan=expected.dtype.kind in "mM")
    tolerance = {2: 0.1, 4: 1e-4}.get(expected.real.itemsize, 1e-7)
    return np.allclose(found, expected, tolerance, equal_nan=True)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_reduction_gives_what_numpy_gives(stored: Stored, name: str, kind: str) -> None:
    array, function = ARRAYS[kind], getattr(np, name)
    ref = stored(array)
    mask = np.random.default_rng(0).random(array.shape) < 0.7  # the same, whatever ran before
    mask[0, :, 0] = False
    calls: list[dict[str, Any]] = [{"axis": axis} for axis in AXES]
    calls += [{"keepdims": True}, {"axis": 1, "keepdims": True}, {"bogus": 1}]
    calls += [{"axis": 0, "dtype": "f8"}, {"ddof": 1}, {"initial": 2}, {"axis": 0, "initial": 3}]
    calls += [{"where": mask}, {"axis": 1, "where": mask}, {"axis": 0, "where": mask, "initial": 1}]
    calls += [{"axis": 0, "where": array == array[0]}, {"where": mask[0]}]
    with np.errstate(all="ignore"):
        for given in calls:
            found = outcome(lambda given=given: function(ref, **given))  # type: ignore[misc]
            expected = outcome(lambda given=given: function(array, **given))  # type: ignore[misc]
            if kind == "f2" and name in ("std", "var", "nanstd", "nanvar", "prod", "nanprod"):
                continue  # NumPy adds the squares in half precision
            assert close(found, expected), (given, found, expected)


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize("order", ["C", "F"])
def test_methods_ufuncs_and_views_go_by_blocks(stored: Stored, order: Any) -> None:
    array = np.asarray(A, order=order)
    ref = stored(array)
    gets: list[Callable[[Any], Any]] = [
        lambda x: x.sum(0),
        lambda x: x.mean(axis=(0, 1), dtype="f8"),
        lambda x: x.std(1, None, None, 1, True),
        lambda x: x.T.mean(axis=0),
        lambda x: np.moveaxis(x, 0, 1).max(axis=1),
        lambda x: x.real.var(),
        lambda x: x.imag.std(axis=1),
        lambda x: x.flat.min() if isinstance(x, NpyRef) else x.min(),
        lambda x: np.add.reduce(x),
        lambda x: np.maximum.reduce(x, axis=None, initial=2e6),
    ]
    if int(np.__version__.split(".")[0]) > 1:
        gets += [
            lambda x: np.std(x, axis=0, correction=1),
            lambda x: np.var(x, axis=0, mean=np.full((1, *A.shape[1:]), 1e6)),
        ]
    for get in gets:
        assert close(get(ref), get(array))
    out = np.empty(A.shape[1:])
    assert np.mean(ref, axis=0, out=out) is out
    assert close(out, array.mean(axis=0))
    with pytest.raises(ValueError, match="output"):
        ref.sum(axis=0, out=np.empty(3))


@pytest.mark.usefixtures("never_loaded")
def test_each_byte_is_read_once(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = os.preadv

    def counting(*args: Any) -> int:
        read.append(original(*args))
        return read[-1]

    monkeypatch.setattr(os, "preadv", counting)
    monkeypatch.setattr(reductions, "_MAX_NBYTES", 64 << 10)
    monkeypatch.setattr(reductions, "_MAX_ELEMENTS", 64 << 10)
    for order in ("C", "F"):
        large = np.asarray(np.tile(A, (20, 20, 1)), order=order)
        ref = stored(large, 2)
        for reduce in (np.std, np.argmax, np.ptp):
            read.clear()
            reduce(ref, axis=1)
            blocks = large.nbytes // (64 << 10) + 2
            assert large.nbytes <= sum(read) <= large.nbytes + 8000 * blocks


@pytest.mark.usefixtures("never_loaded")
def test_sums_are_no_less_exact_than_numpy_s(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reductions, "_MAX_ELEMENTS", 1024)
    for seed in range(20):
        values = np.random.default_rng(seed).lognormal(0, 8, 5_000)
        values *= np.random.default_rng(seed).choice([-1, 1], values.size)
        ref, exact = stored(values, seed), math.fsum(values)
        scale = math.fsum(np.abs(values))
        assert abs(ref.sum() - exact) <= max(abs(values.sum() - exact), 4e-16 * scale)
        shifted = values.astype("f4") % 7 + 1000
        other = stored(shifted, 100 + seed)
        true = float(np.var(shifted.astype("f8")))
        assert abs(other.var() - true) <= max(abs(shifted.var() - true), 1e-5 * true)
    # Added one block after the other, these would be wrong by twenty times as much.
    monkeypatch.setattr(reductions, "_MAX_ELEMENTS", 64)
    equal = np.full(1 << 15, 0.3, "f4")
    assert stored(equal, 201).sum() == pytest.approx(float(equal[0]) * equal.size, 2.5e-7)
    half = np.random.default_rng(0).normal(5, 1, 2000).astype("f2")
    ref = stored(half, 202)
    assert (ref.sum(), ref.mean()) == (half.sum(), half.mean())
    whole = ARRAYS["u2"]
    total = Fraction(int(whole.sum(dtype=object)), whole.size)
    assert stored(whole, 200).mean() == float(total)


@pytest.mark.usefixtures("never_loaded")
def test_empty_slices_and_too_few_values_warn_as_in_numpy(stored: Stored) -> None:
    ref = stored(WITH_NAN)
    for call in (
        lambda x: np.nanmean(x, axis=(1, 2)),
        lambda x: np.nanvar(x, axis=(1, 2)),
        lambda x: np.nanmax(x, axis=(1, 2)),
        lambda x: np.mean(x, where=False),
        lambda x: np.std(x, axis=0, ddof=40),
    ):
        for each in (WITH_NAN, ref):
            with pytest.warns(RuntimeWarning), np.errstate(all="ignore"):
                call(each)


@pytest.mark.usefixtures("small_blocks")
def test_not_a_numbers_are_left_out_where_it_is_not_by_blocks(stored: Stored) -> None:
    number = 0
    for dtype in ("f8", "c16", "clongdouble"):
        array = (WITH_NAN / 1e6).astype(dtype)
        for given in ("O", "f8", "i2"):
            for function in (np.nansum, np.nanprod):
                number += 1
                call: Any = partial(function, axis=0, dtype=given)
                ref = stored(array, number)
                with np.errstate(all="ignore"):
                    found, expected = outcome(partial(call, ref)), outcome(partial(call, array))
                assert repr(found) == repr(expected), (dtype, given)


@pytest.mark.usefixtures("never_loaded")
def test_arguments_are_refused_as_by_numpy(stored: Stored) -> None:
    ref, mask = stored(A), A > 1e6
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        *((name, (), {"where": mask}) for name in ("argmax", "argmin")),
        *((name, (), {"dtype": "i4"}) for name in ("min", "max", "all", "any", "argmin")),
        *((name, (), {"initial": False}) for name in ("all", "any", "mean", "std", "argmax")),
        *((name, (), {"ddof": 1}) for name in ("sum", "mean", "max", "argmin")),
        *((name, (), {"correction": 1}) for name in ("std", "var", "sum")),
        *((name, (), {"where": mask.astype(int)}) for name in ("sum", "mean", "std", "all")),
        *((name, (0,), {"axis": 1}) for name in ("sum", "mean", "std", "argmax")),
        ("min", (), {"where": mask}),
        ("std", (), {"ddof": "1"}),
        ("std", (), {"ddof": None}),
        ("mean", (), {"mean": 3}),
        ("argmax", (0, None, True), {}),
    ]
    for name, args, kwargs in calls:
        expected = outcome(partial(getattr(A, name), *args, **kwargs))
        found = outcome(partial(getattr(ref, name), *args, **kwargs))
        assert isinstance(found, type), (name, kwargs)
        assert issubclass(expected, found), (name, kwargs)
    functions: list[tuple[str, dict[str, Any]]] = [
        ("count_nonzero", {"out": np.empty((), int)}),
        ("ptp", {"where": mask}),
        ("nanmean", {"ddof": 1}),
        ("nanmin", {"dtype": "f4"}),
        ("nanstd", {"initial": 1}),
    ]
    for name, kwargs in functions:
        for each in (A, ref):
            assert outcome(partial(getattr(np, name), each, **kwargs)) is TypeError, name


@pytest.mark.usefixtures("small_blocks")
def test_one_ddof_for_each_mean_is_as_in_numpy(stored: Stored) -> None:
    ref, mask, ddof = stored(A), A > 1e6 - 2, np.arange(A.shape[-1])
    calls: list[dict[str, Any]] = [{}, {"where": mask}]
    for given in calls:
        found, expected = (
            outcome(partial(each.std, axis=0, ddof=ddof, **given)) for each in (ref, A)
        )
        assert close(found, expected)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", NAMES)
def test_flat_reduces_as_its_source_is_read(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, name: str, order: Any
) -> None:
    monkeypatch.setattr(Flat, "_read_selected", lambda *_: pytest.fail("it was read flat"))
    array = np.asarray(np.round(WITH_NAN if name.startswith("nan") else A), order=order)
    flat, function, mask = array.reshape(-1), getattr(np, name), A.reshape(-1) < 1e6
    ref = stored(array)
    axes: list[dict[str, Any]] = [{"axis": axis} for axis in (None, 0, -1, (0,), 1)]
    for given in [*axes, {"keepdims": True}, {"where": mask}, {"ddof": 1}]:
        with np.errstate(all="ignore"):
            found, expected = (
                outcome(partial(function, each, **given)) for each in (ref.flat, flat)
            )
        assert close(found, expected), given


def test_below_the_budget_it_is_loaded(stored: Stored) -> None:
    ref = stored(A)
    assert np.mean(ref) == A.mean()
    assert ref.is_loaded


def test_limits_are_not_looked_up_for_a_small_array(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "memory", 0)
    monkeypatch.setattr(file_module, "usable_memory", lambda: pytest.fail("they were"))
    assert close(stored(A).load(), A)


def test_what_cannot_fit_is_refused_at_once(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "usable_memory", lambda: 900)
    monkeypatch.setattr(settings, "memory", 100)
    monkeypatch.setattr(settings, "load_below", 0)
    monkeypatch.setattr(reductions, "_MAX_NBYTES", 256)
    ref = stored(A)
    for use in (
        lambda: ref + 1,
        lambda: np.median(ref),
        lambda: ref.load(),
        lambda: ref.read(),
        lambda: ref[:-1],
        lambda: np.asarray(ref.T),
    ):
        with pytest.raises(MemoryError, match=r"waveform\.npy.*ref\.blocks\(\).*to_dask.*load"):
            use()
    assert close(ref.mean(), A.mean())
    assert ref[0, 0, 0] == A[0, 0, 0]
    assert np.array_equal(ref.load("r"), A)


@pytest.mark.slow
def test_a_sparse_array_far_larger_than_memory(tmp_path: Path) -> None:
    limit_gib = 3  # address space: the threads of the libraries take two, unused
    said = warm.output(
        *(sparsefile.__file__, str(tmp_path), str(GIB), str(limit_gib)),
        env={**os.environ, "DJ_NPY_MEMORY": "1MiB"},
    )
    found = json.loads(said)
    rows = found["rows"]
    mean = VALUE / rows
    deviation = math.sqrt(((VALUE - mean) ** 2 + (rows - 1) * mean**2) / rows)
    np.testing.assert_allclose(found["mean"], [mean] * COLUMNS, 1e-14)
    np.testing.assert_allclose(found["std"], [deviation] * COLUMNS, 1e-12)
    assert found["max"] == VALUE
    assert found["grown"] < 200 << 20
