import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PureWindowsPath
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dj_npy._format.path import array_path, is_with_token, with_token

# What a key attribute may hold, one strategy a database type: a column has one type.
KEY_TYPES: list[st.SearchStrategy[Any]] = [
    st.integers(),
    st.text(max_size=400),
    st.text(alphabet="aA./\\%=,~ :", max_size=8),
    st.dates(),
    st.datetimes(),
    st.times(),
    st.timedeltas(timedelta(hours=-838), timedelta(hours=838)),
    st.decimals(allow_nan=False, allow_infinity=False).map(lambda x: x.normalize()),
    st.uuids(),
    st.binary(max_size=80),
    st.booleans(),
]


@st.composite
def pairs_of_keys(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    types = draw(st.lists(st.sampled_from(KEY_TYPES), min_size=1, max_size=6))
    return tuple(  # type: ignore[return-value]
        {f"k{n}": draw(strategy) for n, strategy in enumerate(types)} for _ in range(2)
    )


@given(pairs_of_keys(), st.sampled_from(["", "{k0}", "{k1}/{k0}", "{other}/{k2}"]))
@settings(max_examples=400, deadline=None)
def test_different_keys_have_different_paths(
    keys: tuple[dict[str, Any], dict[str, Any]], partition: str
) -> None:
    one, other = (array_path("lab", "scan", key, "movie", partition=partition) for key in keys)
    assert (one == other) == (keys[0] == keys[1])


@given(
    st.text(min_size=1, max_size=70),
    st.text(min_size=1, max_size=70),
    st.lists(st.sampled_from(KEY_TYPES).flatmap(lambda x: x), max_size=12),
    st.text(min_size=1, max_size=70),
)
@settings(max_examples=400, deadline=None)
def test_every_path_is_safe_on_every_system(
    schema: str, table: str, values: list[Any], attribute: str
) -> None:
    key = {f"attribute_{n}": value for n, value in enumerate(values)}
    for path in (
        plain := array_path(schema, table, key, attribute, partition="{attribute_1}"),
        with_token(plain),
    ):
        assert len(path) <= 1024
        assert re.fullmatch(r"[A-Za-z0-9_.%=,/-]+", path)
        assert path.endswith(".npy")
        for component in path.split("/"):
            assert 0 < len(component) <= 140
            assert component not in (".", "..")
            assert component[0] != "."
            assert component[-1] not in ". "
            assert not is_device(component)


def is_device(component: str) -> bool:
    return (
        re.fullmatch(
            r"con|prn|aux|nul|com[0-9]|lpt[0-9]",
            PureWindowsPath(component).name.split(".")[0].lower(),
        )
        is not None
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (np.int64(-7), "-7"),
        (True, "True"),
        ("mouse_1.a-b", "mouse_1.a-b"),
        ("../../etc", "..%2F..%2Fetc"),
        ("..", "%2E%2E"),
        ("a%2Fb", "a%252Fb"),
        ("CON", "CON"),
        ("", ""),
        ("café 🐭", "caf%C3%A9%20%F0%9F%90%AD"),
        (date(2024, 1, 2), "2024-01-02"),
        (datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03-04-05"),
        (datetime(2024, 1, 2, 3, 4, 5, 6), "2024-01-02T03-04-05.000006"),
        (np.datetime64("2024-01-02"), "2024-01-02"),
        (np.datetime64("2024-01-02T03:04:05", "ns"), "2024-01-02T03-04-05"),
        (time(3, 4, 5), "03-04-05"),
        (timedelta(hours=3, minutes=4, seconds=5), "03-04-05"),
        (timedelta(hours=-30, microseconds=-1), "-30-00-00.000001"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\x00\xff", "00ff"),
    ],
)
def test_a_key_value_is_written_as(value: Any, text: str) -> None:
    expected = text if text != "%2E%2E" else "..".replace("..", ".%2E")
    assert array_path("s", "t", {"k": value}, "a") == f"s/t/k={expected}/a.npy"


def test_a_device_name_of_windows_is_no_component() -> None:
    assert array_path("con", "aux", {}, "nul") == "%63on/%61ux/%6Eul.npy"


def test_prefix_and_partition_come_first() -> None:
    path = array_path(
        "lab",
        "scan",
        {"scan": 1, "subject": "m1", "date": date(2024, 1, 2)},
        "movie",
        prefix="/project/arrays/",
        partition="{subject}/{date}/{absent}",
    )
    assert path == "project/arrays/subject=m1/date=2024-01-02/lab/scan/scan=1/movie.npy"


def test_a_long_value_is_cut_and_carries_a_hash() -> None:
    one, other = (array_path("s", "t", {"k": "x" * 300 + end}, "a") for end in "ab")
    assert one != other
    assert re.fullmatch(r"s/t/k=x{85}=[0-9a-f]{32}/a\.npy", one)


def test_a_key_of_many_long_values_is_one_folder() -> None:
    keys = [{f"k{n}": "x" * 70 for n in range(10)} | {"k9": end} for end in "ab"]
    one, other = (array_path("s", "t", key, "a") for key in keys)
    assert one != other
    assert re.fullmatch(r"s/t/k0=x{70},k1=x{10}=[0-9a-f]{32}/a\.npy", one)


def test_a_token_has_48_random_bits() -> None:
    names = {with_token("s/t/k=1/a.npy") for _ in range(1000)}
    assert len(names) == 1000
    assert all(re.fullmatch(r"s/t/k=1/a_[A-Za-z0-9_-]{8}\.npy", name) for name in names)


@given(st.text(min_size=1), st.integers(0, 20))
def test_a_name_with_a_token_is_known_and_another_is_not(value: str, length: int) -> None:
    plain = array_path("lab", "recording", {"key": value}, "waveform")
    path = with_token(plain, length)
    assert is_with_token(path, plain)
    assert not is_with_token(plain, plain)
    assert not is_with_token(path, plain.replace("waveform", "other"))
    assert not is_with_token(path.replace("lab/", "lab2/"), plain)


@pytest.mark.parametrize("name", ["filtered", "x7Kd93Lq", "backup_1", "2024-01-01", "", "12345678"])
def test_what_somebody_else_calls_a_file_is_no_token(name: str) -> None:
    plain = array_path("lab", "recording", {"key": 1}, "waveform")
    assert not is_with_token(plain.replace(".npy", f"_{name}.npy"), plain)


def test_a_token_is_known_in_a_folder_that_another_key_has_spelled() -> None:
    made = with_token("lab/scan/subject=M/waveform.npy")
    listed = made.replace("subject=M", "subject=m")
    assert is_with_token(listed, "lab/scan/subject=m/waveform.npy")
    assert not is_with_token(listed.replace("subject=m", "subject=n"), made)


def test_a_token_of_before_is_known() -> None:
    plain = "lab/scan/subject=M/waveform.npy"
    assert is_with_token("lab/scan/subject=M/waveform_abcdeB3f.npy", plain)
    assert not is_with_token("lab/scan/subject=M/waveform_abcdeB3g.npy", plain)
