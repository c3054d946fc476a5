"""What a database returns for a key: measured on PostgreSQL 18, MariaDB 11 and MySQL 9."""

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dj_npy._format.keys import KeyType
from dj_npy._format.path import array_path

SERVERS = ("postgresql", "mariadb", "mysql")
DAY = date(2024, 1, 7)
NOON = datetime(2024, 1, 7, 12)
ENUM = "enum('left','Right','it''s','1')"
Z = timezone(timedelta(hours=2))


def stored(declared: str, value: Any, server: str) -> Any:
    return KeyType.of(declared, server, "Europe/Berlin").stored(value)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    ("declared", "value", "fetched"),
    [
        ("int32", True, 1),
        ("int32", np.bool_(False), 0),
        ("int32", 8.0, 8),
        ("bigint unsigned", "8", 8),
        ("int32", " +008 ", 8),
        ("smallint", np.int16(-3), -3),
        ("int32", 2**80 + 1, 2**80 + 1),
        ("int32", "eight", "eight"),
        ("int32", "1e999999999", "1e999999999"),
        ("float64", 8, 8.0),
        ("double precision", "0.1", 0.1),
        ("float32", 0.1, 0.1),
        ("real", np.float32(0.1), 0.1),
        ("decimal(6,2)", 1, Decimal("1.00")),
        ("decimal(6,2)", Decimal("1E+2"), Decimal("100.00")),
        ("decimal(6,2)", 1.005, Decimal("1.01")),
        ("decimal(6,2) unsigned", "-0.001", Decimal("0.00")),
        ("decimal(6)", 2.5, Decimal(3)),
        ("decimal(40,20)", "1e-20", Decimal("0.00000000000000000001")),
        ("date", "20240107", DAY),
        ("date", " 2024-1-7 ", DAY),
        ("date", "2024/01/07", DAY),
        ("date", "240107", DAY),
        ("date", "2024-01-07T10:00", DAY),
        ("date", datetime(2024, 1, 7, 10), DAY),
        ("date", pd.Timestamp("2024-01-07 10:00"), DAY),
        ("date", np.datetime64("2024-01-07"), DAY),
        ("date", np.datetime64("2024-01-07T10:00:00", "ns"), DAY),
        ("date", np.str_("2024-01-07"), DAY),
        ("date", "2024-02-30", "2024-02-30"),
        ("date", "soon", "soon"),
        ("date", pd.NaT, pd.NaT),
        ("datetime", DAY, datetime(2024, 1, 7)),
        ("datetime", "20240107T120000", NOON),
        ("datetime", "2024-1-7 12:0", NOON),
        ("datetime", pd.Timestamp(NOON), NOON),
        ("timestamp", np.datetime64("2024-01-07T12", "h"), NOON),
        ("datetime(3)", "2024-01-07 12:00:00.5", NOON.replace(microsecond=500_000)),
        ("time", "3:04:05", timedelta(hours=3, minutes=4, seconds=5)),
        ("time", "030405", timedelta(hours=3, minutes=4, seconds=5)),
        ("time without time zone", time(3, 4), timedelta(hours=3, minutes=4)),
        ("time", "late", "late"),
        ("varchar(5)", "ab  ", "ab  "),
        ("varchar(5)", "ab" + 9 * " ", "ab   "),
        ("varchar(5)", "abcdefgh", "abcdefgh"),
        ("varchar(12)", 5, "5"),
        ("varchar(12)", np.str_("ab"), "ab"),
        ("varchar(12)", DAY, "2024-01-07"),
        ("varchar(30)", NOON, "2024-01-07 12:00:00"),
        ("varchar(12)", Decimal("1E+2"), "100"),
        ("varchar(12)", 1.5, "1.5"),
        ("varchar(12)", 1e20, 1e20),
        (ENUM, "left", "left"),
        (ENUM, "1", "1"),
        ("uuid", "{0000000000000000000000000000ABCD}", UUID(int=0xABCD)),
        ("uuid", UUID(int=5), UUID(int=5)),
        ("uuid", "none", "none"),
        ("geometry", "as it is", "as it is"),
        ("", 3, 3),
    ],
)
def test_all_databases_return(declared: str, value: Any, fetched: Any, server: str) -> None:
    found = stored(declared, value, server)
    assert type(found) is type(fetched)
    assert found is fetched or found == fetched
    assert repr(found) == repr(fetched)


@pytest.mark.parametrize(
    ("declared", "value", "postgresql", "mariadb", "mysql"),
    [
        ("int32", 8.5, ..., 9, 9),
        ("int32", -8.5, ..., -9, -9),
        ("bool", True, True, 1, 1),
        ("bool", "t", True, "t", "t"),
        ("bool", "off", False, "off", "off"),
        ("bool", " TRu ", True, " TRu ", " TRu "),
        ("bool", "n", False, "n", "n"),
        ("bool", "o", "o", "o", "o"),
        ("bool", "perhaps", "perhaps", "perhaps", "perhaps"),
        ("float32", 1 / 3, 0.33333334, 0.333333, 0.333333),
        ("float32", 123456.7, 123456.7, 123457.0, 123457.0),
        ("float(7,3)", 1.23456, ..., 1.235, 1.235),
        ("float64", np.float32(0.1), 0.10000000149011612, 0.1, 0.1),
        ("numeric", "5.50", Decimal("5.50"), Decimal(6), Decimal(6)),
        ("date", datetime(2024, 1, 7, 23, 59, 59, 999_999), DAY, DAY, date(2024, 1, 8)),
        ("date", 20240107, ..., DAY, DAY),
        ("datetime", "20240107120000", ..., NOON, NOON),
        (
            "datetime",
            NOON.replace(microsecond=500_000),
            NOON.replace(microsecond=500_000),
            NOON,
            NOON.replace(second=1),
        ),
        (
            "datetime(3)",
            datetime(1999, 1, 7, 3, 4, 5, 2500),
            datetime(1999, 1, 7, 3, 4, 5, 2000),
            datetime(1999, 1, 7, 3, 4, 5, 2000),
            datetime(1999, 1, 7, 3, 4, 5, 3000),
        ),
        (
            "datetime(3)",
            datetime(2024, 1, 7, 3, 4, 5, 2500),
            datetime(2024, 1, 7, 3, 4, 5, 3000),
            datetime(2024, 1, 7, 3, 4, 5, 2000),
            datetime(2024, 1, 7, 3, 4, 5, 3000),
        ),
        # PostgreSQL is told the zone of a datetime, and converts it; others are not.
        ("datetime", NOON.replace(tzinfo=Z), NOON.replace(hour=11), NOON, NOON),
        ("datetime", "2024-01-07T12:00:00Z", NOON, "2024-01-07T12:00:00Z", "2024-01-07T12:00:00Z"),
        ("time", timedelta(hours=30), timedelta(hours=6), timedelta(hours=30), timedelta(hours=30)),
        ("time", "-3:00", timedelta(hours=21), timedelta(hours=-3), timedelta(hours=-3)),
        ("time", 30405, ..., timedelta(seconds=11045), timedelta(seconds=11045)),
        (
            "time",
            time(3, 4, 5, 600_000),
            timedelta(seconds=11045.6),
            timedelta(seconds=11045),
            timedelta(seconds=11046),
        ),
        ("year(4)", "24", ..., 2024, 2024),
        ("year", 70, ..., 1970, 1970),
        ("year", 0, ..., 0, 0),
        ("char(5)", "ab ", "ab   ", "ab", "ab"),
        ("char(5)", "ab         ", "ab   ", "ab", "ab"),
        ("varchar(9)", True, "true", "1", "1"),
        ("varchar(9)", 1.0, "1.0", "1", "1"),
        ("varchar(9)", b"ab", r"\x6162", "ab", "ab"),
        (ENUM, "RIGHT ", ..., "Right", "Right"),
        (ENUM, "IT'S", ..., "it's", "it's"),
        (ENUM, 2, ..., "Right", "Right"),
        (ENUM, "2", ..., "Right", "Right"),
        (ENUM, np.int64(1), ..., "1", "1"),
        (ENUM, "up", "up", "up", "up"),
    ],
)
def test_each_database_returns(
    declared: str, value: Any, postgresql: Any, mariadb: Any, mysql: Any
) -> None:
    for server, fetched in zip(SERVERS, (postgresql, mariadb, mysql), strict=True):
        if fetched is not ...:  # which it refuses
            found = stored(declared, value, server)
            assert (server, found) == (server, fetched)
            assert repr(found) == repr(fetched)


VALUES = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(max_size=20),
    st.from_regex(r"\A\d{4}-\d\d?-\d\d?([ T]\d\d?(:\d\d){0,2}(\.\d{1,9})?)?\Z"),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.just(Z)),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.binary(max_size=9),
    st.none(),
)
DECLARED = (
    *("int32", "bool", "float32", "float64", "decimal(6,2)", "numeric", "date", "datetime"),
    *("datetime(3)", "time", "char(5)", "varchar(12)", ENUM, "uuid", "year"),
)


@given(VALUES, st.sampled_from(DECLARED), st.sampled_from(SERVERS))
@settings(max_examples=1500, deadline=None)
def test_what_was_fetched_is_as_stored(value: Any, declared: str, server: str) -> None:
    once = stored(declared, value, server)
    again = stored(declared, once, server)
    if once == once:  # not a NaN
        assert array_path("s", "t", {"k": once}, "a") == array_path("s", "t", {"k": again}, "a")


def test_zero_has_one_path() -> None:
    assert array_path("s", "t", {"k": -0.0}, "a") == array_path("s", "t", {"k": 0.0}, "a")
