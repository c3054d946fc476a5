"""Other languages read the files, value by value: GNU Octave, R, and JavaScript with npyjs."""

import itertools
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from tests.conftest import run

READERS = Path(__file__).parents[1] / "support" / "readers"
NATIVE = ["|b1", "|i1", "|u1"] + [
    f"<{kind}" for kind in ["i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]
]
BIG_ENDIAN = [dtype.replace("<", ">") for dtype in NATIVE if "<" in dtype]
LAYOUTS = {
    "0-d": ((), "C"),
    "1-d": ((24,), "C"),
    "a column": ((24, 1), "C"),
    "C": ((4, 6), "C"),
    "Fortran": ((4, 6), "F"),
    "3-d": ((2, 3, 4), "C"),
    "3-d Fortran": ((2, 3, 4), "F"),
    "empty": ((0,), "C"),
    "empty 3-d": ((3, 0, 2), "C"),
    "empty Fortran": ((3, 0, 2), "F"),
}
NOT_NUMBERS = {
    "structured": np.zeros(3, [("x", "<f8"), ("y", "<i4")]),
    "dates": np.array(["2026-11-24"], "M8[us]"),
    "bytes": np.array([b"abc"]),
}
NOT_NUMBERS_IN_NPYJS = {
    "structured": "Malformed .npy header",
    "dates": "Unsupported dtype: <M8[us]",
    "bytes": "Unsupported dtype: |S3",
}
OCTAVE_CLASSES = {
    "b1": "logical",
    **{f"i{size}": f"int{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"uint{8 * size}" for size in (1, 2, 4, 8)},
    "f2": "double",
    "f4": "single",
    "f8": "double",
    "c8": "single",
    "c16": "double",
}
R_TYPES = {"b": "logical", "c": "complex"}
JAVASCRIPT_CLASSES = {
    "b1": "Array",
    **{f"i{size}": f"Int{8 * size}Array" for size in (1, 2, 4)},
    **{f"u{size}": f"Uint{8 * size}Array" for size in (1, 2, 4)},
    "i8": "BigInt64Array",
    "u8": "BigUint64Array",
    "f2": "Float32Array",
    "f4": "Float32Array",
    "f8": "Float64Array",
    "c8": "Float32Array",
    "c16": "Float64Array",
}


class Shown(NamedTuple):
    """What a language makes of a file."""

    shape: tuple[int, ...]
    type: str
    values: list[str]


def values(dtype: np.dtype[Any]) -> Any:
    """24 values of a dtype, none twice, the ends of its range among them."""
    random = np.random.default_rng(7)
    if dtype.kind == "b":
        return random.integers(0, 2, 24).astype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        special = [info.min, info.max, 0, 1, 2**53 + 1, -(2**53) - 1, 2**63 + 1025, info.max - 1]
        distinct = {number for number in special if info.min <= number <= info.max}
        while len(distinct) < 24:
            distinct.add(int(random.integers(info.min, info.max, dtype=dtype.type)))
        return np.array(sorted(distinct), dtype)
    real: Any = np.dtype(f"f{dtype.itemsize // (2 if dtype.kind == 'c' else 1)}")
    limits: Any = np.finfo(real)
    ends = [np.nan, np.inf, -np.inf, -0.0, 0.0, np.pi, limits.max, -limits.tiny]
    ends += [limits.smallest_subnormal, -limits.smallest_subnormal * 3, 1 + limits.eps]
    numbers = np.append(np.array(ends, real), random.standard_normal(13).astype(real))
    if dtype.kind == "f":
        return numbers.astype(dtype)
    pairs = np.stack([numbers, np.roll(numbers, 5)], axis=-1)
    return pairs.view(f"c{dtype.itemsize}")[:, 0].astype(dtype)


def array(dtype: str, layout: str) -> Any:
    shape, order = LAYOUTS[layout]
    every = values(np.dtype(dtype))
    if shape == ():
        return every[7:8].reshape(())
    return np.asarray(every[: np.prod(shape)].reshape(shape), order=order)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def files(postgresql: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The file of each array, inserted into a table; its name is `dtype layout`."""
    names = [f"{d} {name}" for d, name in itertools.product(NATIVE + BIG_ENDIAN, LAYOUTS)]
    arrays = {name: array(*name.split(" ", 1)) for name in names} | NOT_NUMBERS
    folder, before = tmp_path_factory.mktemp("store"), postgresql.config.stores
    main = {"protocol": "file", "location": str(folder)}
    postgresql.config.stores = {"default": "main", "main": main}
    schema = postgresql.Schema(f"test_{uuid.uuid4().hex[:12]}")
    definition = "name : varchar(40)\n---\nwaveform : <npy@>"
    table = schema(type("Recording", (dj.Manual,), {"definition": definition}))
    dj_npy.insert(table, [{"name": name, "waveform": a} for name, a in arrays.items()])
    found = {row["name"]: folder / row["waveform"].path for row in table.to_dicts()}
    cut = found["<f8 3-d"].read_bytes()[:-1]
    (folder / "cut.npy").write_bytes(cut)
    (folder / "text.npy").write_bytes(b"1 2 3\n")
    yield found | {"cut": folder / "cut.npy", "text": folder / "text.npy"}
    schema.drop(prompt=False)
    postgresql.config.stores = before


def octave() -> list[str]:
    command = shutil.which("octave-cli")
    if command is None:
        pytest.skip("Octave is not installed: apt-get install --no-install-recommends octave")
    return [command, "--norc", "--no-history", "--quiet", "show.m"]


def r() -> list[str]:
    command = shutil.which("Rscript")
    if command is None:
        pytest.skip("R is not installed: apt-get install --no-install-recommends r-base-core")
    return [command, "--vanilla", "show.R"]


def javascript() -> list[str]:
    command = shutil.which("node")
    if (
        command is None
        or subprocess.run(
            [command, "-e", "require('npyjs')"],
            env=node_environment(),
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("npyjs is not installed: npm install -g npyjs")
    return [command, "show.cjs"]


def node_environment() -> dict[str, str]:
    """Packages are looked for beside the commands that npm has put on the PATH."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    local = [folder.parent for folder in folders if folder.parts[-2:] == ("node_modules", ".bin")]
    shared = [folder.parent / "lib" / "node_modules" for folder in folders]
    paths = [os.environ.get("NODE_PATH", ""), *map(str, [*local, *shared])]
    return {**os.environ, "NODE_PATH": os.pathsep.join(filter(None, paths))}


LANGUAGES = {"octave": octave, "r": r, "javascript": javascript}


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def shown(language: str, files: dict[str, Path]) -> dict[str, Shown | str]:
    """What one run of the language shows of each file, or the error it gives."""
    command = [*LANGUAGES[language](), *map(str, files.values())]
    environment = node_environment() if language == "javascript" else None
    lines = run(command, cwd=READERS, env=environment).stdout.splitlines()
    return {name: parsed(line) for name, line in zip(files, lines, strict=True)}


def parsed(line: str) -> Shown | str:
    first, *rest = line.split("|", 2)
    if first == "error":
        return "|".join(rest)
    kind, text = rest
    return Shown(tuple(map(int, first.split())), kind, text.split())


def type_in(language: str, dtype: np.dtype[Any]) -> str:
    name = f"{dtype.kind}{dtype.itemsize}"
    if language == "r":
        return R_TYPES.get(dtype.kind, "double")
    return {"octave": OCTAVE_CLASSES, "javascript": JAVASCRIPT_CLASSES}[language][name]


def shape_in(language: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Octave's arrays have two dimensions at least, R's of none are vectors without any."""
    return shape + (1,) * (2 - len(shape)) if language == "octave" else shape


def assert_equal(language: str, texts: list[str], expected: Any) -> None:
    """In every bit; of integers in R, what is left when they become doubles."""
    flat = expected.astype(expected.dtype.newbyteorder("=")).ravel(order="C")
    if flat.dtype.kind == "b":
        assert [bool(int(text)) for text in texts] == flat.tolist()
    elif flat.dtype.kind in "iu" and language == "r":
        assert [float(text) for text in texts] == flat.astype(float).tolist()
    elif flat.dtype.kind in "iu":
        assert [int(text) for text in texts] == flat.tolist()
    else:
        parts = flat.view(f"f{flat.dtype.itemsize // 2}") if flat.dtype.kind == "c" else flat
        found = np.array([float(text) for text in texts])
        np.testing.assert_array_equal(found, parts.astype(float))
        numbers = ~np.isnan(found)
        np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(parts[numbers]))


@pytest.mark.parametrize("dtype", NATIVE)
def test_every_value_of_a_dtype_is_read(
    dtype: str, language: str, shown: dict[str, Shown | str]
) -> None:
    assert_all_layouts_are_read(dtype, language, shown)


@pytest.mark.parametrize("dtype", BIG_ENDIAN)
def test_every_value_of_a_big_endian_dtype_is_read_or_the_dtype_refused(
    dtype: str, language: str, shown: dict[str, Shown | str]
) -> None:
    if language == "javascript":  # npyjs knows none of them, and says so
        assert {shown[f"{dtype} {layout}"] for layout in LAYOUTS} == {f"Unsupported dtype: {dtype}"}
    else:
        assert_all_layouts_are_read(dtype, language, shown)


def assert_all_layouts_are_read(dtype: str, language: str, shown: dict[str, Shown | str]) -> None:
    for layout in LAYOUTS:
        expected, found = array(dtype, layout), shown[f"{dtype} {layout}"]
        assert isinstance(found, Shown), f"{layout}: {found}"
        assert found.shape == shape_in(language, expected.shape), layout
        assert found.type == type_in(language, expected.dtype), layout
        assert_equal(language, found.values, expected)


def test_integers_beyond_2_to_the_53_are_exact_but_in_r(
    language: str, shown: dict[str, Shown | str]
) -> None:
    found = shown["<i8 1-d"]
    assert isinstance(found, Shown)
    assert (str(2**53 + 1) in found.values) == (language != "r")
    assert str(2**53 + 1) in map(str, array("<i8", "1-d"))


@pytest.mark.parametrize("name", NOT_NUMBERS)
def test_what_is_not_numbers_is_an_error(
    name: str, language: str, shown: dict[str, Shown | str], files: dict[str, Path]
) -> None:
    if language == "javascript":
        assert shown[name] == NOT_NUMBERS_IN_NPYJS[name]
    else:
        assert shown[name] == f"not an array of numbers: {files[name]}"


def test_a_file_cut_short_is_an_error(
    language: str, shown: dict[str, Shown | str], files: dict[str, Path]
) -> None:
    if language == "javascript":
        assert "multiple of 8" in str(shown["cut"])
    else:
        assert shown["cut"] == f"cut short: {files['cut']}"


def test_a_file_of_another_kind_is_an_error(
    language: str, shown: dict[str, Shown | str], files: dict[str, Path]
) -> None:
    assert str(shown["text"]).lower().startswith("not a")
