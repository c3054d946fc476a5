"""Values of attributes, as each database driver returns them, as coordinates of xarray."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from dj_npy._errors import ArrayInvalidError
from dj_npy._format.npyfile import AnyArray

_TEXT = ("char", "varchar", "enum", "text", "uuid")


def coordinate(values: Sequence[Any], attribute: Any) -> AnyArray:
    """
    Convert the values of an attribute.

    Parameters
    ----------
    values : sequence
        One for each row; None for NULL.
    attribute : datajoint.heading.Attribute
        Attribute of the heading: drivers return the same type in different ways.

    Returns
    -------
    ndarray
        Dates and times as datetime64 (UTC, if they have a time zone), times of day and durations
        as timedelta64, both in nanoseconds, or in microseconds if one is too far from 1970.
        Numbers as numbers, decimals as float64. Text, UUIDs (as str) and bytes as objects. NULL
        is NaT, NaN (among integers and booleans, which become float64, too), or None.

    Raises
    ------
    ArrayInvalidError
        If there is another kind of value.
    """
    sql_type = str(attribute.original_type or attribute.type).lower()
    plain = [_plain(value) for value in values]
    kinds = {type(value) for value in plain if value is not None}
    if kinds & {date, datetime} or sql_type.startswith(("date", "timestamp")):
        # A zero date of MySQL is fetched as text.
        return _in_ns([v if isinstance(v, date) else None for v in plain], "datetime64")
    if timedelta in kinds or sql_type.startswith("time"):
        return _in_ns(plain, "timedelta64")
    if kinds <= {bool, int, float} and not (sql_type.startswith(_TEXT) and not kinds):
        if None in plain:
            return np.array(plain, float)
        return np.array(plain, bool if sql_type == "bool" else None)  # MySQL's are integers
    if kinds - {str, bytes}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ArrayInvalidError(f"attribute {attribute.name!r} cannot be a coordinate: {names}")
    if sql_type.startswith("char"):  # which PostgreSQL pads with blanks
        plain = [value and value.rstrip(" ") for value in plain]
    return np.array(plain, object)  # not of one length, which zarr 3 warns of


def _in_ns(values: Sequence[Any], dtype: str) -> AnyArray:
    # xarray's `interp` mistakes other units, and it reads a file in nanoseconds.
    exact = np.array(values, f"{dtype}[us]")
    try:
        converted = exact.astype(f"{dtype}[ns]")
    except OverflowError:
        return exact
    # Before NumPy 2.5, what does not fit wraps around.
    fits = np.array_equal(converted.astype(exact.dtype), exact, equal_nan=True)
    return converted if fits else exact


def _plain(value: Any) -> Any:
    match value:
        case datetime(tzinfo=tz) if tz is not None:
            return value.astimezone(UTC).replace(tzinfo=None)
        case time():
            at = timedelta(
                hours=value.hour,
                minutes=value.minute,
                seconds=value.second,
                microseconds=value.microsecond,
            )
            return at - (value.utcoffset() or timedelta())
        case Decimal():
            return float(value)
        case UUID():
            return str(value)
        case memoryview():
            return bytes(value)
    return value
