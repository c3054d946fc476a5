"""
The value that a database returns for a given value of a key. Pure: no I/O.

A path is named by the key as it will be fetched, so that it can be predicted from a fetched key.
What a database refuses stays as given, and so does what only the database itself can tell.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np

_EXACT = Context(prec=500, rounding=ROUND_HALF_UP)
_MOMENT = re.compile(
    r"(\d{4})([-/.]?)(\d{1,2})\2(\d{1,2})"
    r"(?:[T\s]*(\d{1,2})(?:(:?)(\d{1,2})(?:\6(\d{1,2})(?:\.(\d*))?)?)?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII | re.IGNORECASE,
)
_TIME = re.compile(r"(-?)(\d+):(\d{1,2})(?::(\d{1,2})(?:\.(\d*))?)?", re.ASCII)
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class KeyType(NamedTuple):
    """The type of an attribute of a key, in one of the databases."""

    kind: str
    """Such as ``"varchar"``."""
    arguments: str
    """What follows in parentheses, or ``""``."""
    server: str
    """``"postgresql"``, ``"mariadb"`` or ``"mysql"``."""
    zone: str
    """Time zone of a session with PostgreSQL."""

    @classmethod
    def of(cls, declared: str, server: str, zone: str = "") -> "KeyType":
        """
        Return a type, given its declaration or what the database says of its column.

        Examples
        --------
        >>> KeyType.of("decimal(5,2) unsigned", "mysql").stored(True)
        Decimal('1.00')
        >>> KeyType.of("date", "postgresql").stored("20240107")
        datetime.date(2024, 1, 7)
        """
        found = re.match(r"(\w*)\s*(?:\((.*)\))?", declared, re.DOTALL)
        kind, arguments = found.groups("") if found else ("", "")
        return cls(kind.lower(), arguments, server, zone)

    def stored(self, value: Any) -> Any:
        """Return the value that is fetched if `value` is inserted; itself if that is not known."""
        convert = _CONVERTERS.get(self.kind)
        try:
            return value if convert is None else convert(self, value)
        except (TypeError, ValueError, ArithmeticError, LookupError):
            return value

    @property
    def may_ignore_case(self) -> bool:
        """Whether two texts, such as ``"m1"`` and ``"M1"``, may be equal in the database."""
        return self.kind in ("char", "varchar") and not self._in_postgresql

    @property
    def _in_postgresql(self) -> bool:
        return self.server == "postgresql"


def _number(value: Any) -> Decimal:
    number = Decimal(str(int(value) if isinstance(value, bool | np.bool_) else value))
    if abs(number.adjusted()) > 400:  # beyond any column; exact, it could be gigabytes
        raise ValueError(value)
    return number


def _integer(_: KeyType, value: Any) -> int:
    return value if type(value) is int else int(_number(value).to_integral_value(ROUND_HALF_UP))


def _boolean(key: KeyType, value: Any) -> bool | int:
    if not key._in_postgresql:
        return _integer(key, value)
    if not isinstance(value, str):
        return bool(value)
    # PostgreSQL takes the beginning of a word, if it is that of one only.
    text = value.strip().lower()
    (found,) = {word in _TRUE for word in (*_TRUE, *_FALSE) if word.startswith(text)}
    return found


def _single(key: KeyType, value: Any) -> float:
    with np.errstate(over="ignore"):
        number = np.float32(float(_number(value)))
    if key._in_postgresql:
        return float(str(number))
    if "," in key.arguments:
        return float(f"{float(number):.{int(key.arguments.split(',')[1])}f}")
    return float(f"{float(number):.6g}")  # the digits that MySQL and MariaDB show


def _double(key: KeyType, value: Any) -> float:
    if key._in_postgresql and isinstance(value, np.floating):
        return float(value)  # not by its digits, as DataJoint sends it to the others
    return float(_number(value))


def _decimal(key: KeyType, value: Any) -> Decimal:
    number = _number(value)
    if key._in_postgresql and not key.arguments:
        return Decimal(format(number, "f"))
    _, _, scale = key.arguments.partition(",")
    rounded = number.quantize(Decimal(1).scaleb(-int(scale or 0)), context=_EXACT)
    return rounded or rounded.copy_abs()


def _moment(key: KeyType, value: Any) -> tuple[datetime, int]:
    """Return a point in time in whole seconds, and the nanoseconds beyond them."""
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            if key._in_postgresql:
                value = value.astimezone(ZoneInfo(key.zone))
            elif type(value) is not datetime:
                raise ValueError  # a Timestamp goes as text, which the server converts
        fraction = value.microsecond * 1000 + getattr(value, "nanosecond", 0)
        return datetime(*value.timetuple()[:6]), fraction
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day), 0
    text = str(value).strip()
    if len(text) in (6, 12) and text.isdecimal():
        text = f"{'20' if text < '70' else '19'}{text}"
    found = _MOMENT.fullmatch(text)
    if found is None or (found[10] and not key._in_postgresql):
        raise ValueError  # or converted by the server; PostgreSQL ignores the zone of a text
    parts = (int(found[n] or 0) for n in (1, 3, 4, 5, 7, 8))
    return datetime(*parts), _nanoseconds(found[9])  # type: ignore[arg-type]


def _nanoseconds(digits: str | None) -> int:
    return int((digits or "")[:9].ljust(9, "0"))


def _step(key: KeyType) -> int:
    """Return the resolution in nanoseconds."""
    digits = int(key.arguments or (6 if key._in_postgresql else 0))
    return int(10 ** (9 - digits))


def _date(key: KeyType, value: Any) -> date:
    moment, fraction = _moment(key, value)
    if key.server == "mysql" and fraction >= 500_000_000:
        moment += timedelta(seconds=1)
    return moment.date()


def _datetime(key: KeyType, value: Any) -> datetime:
    moment, fraction = _moment(key, value)
    step = _step(key)
    half = 0 if key.server == "mariadb" else step // 2  # MariaDB truncates
    if key._in_postgresql and moment.year < 2000:
        half -= 1  # it rounds away from 2000
    return moment + timedelta(microseconds=(fraction + half) // step * step // 1000)


def _time(key: KeyType, value: Any) -> timedelta:
    if isinstance(value, time):
        value = timedelta(
            hours=value.hour,
            minutes=value.minute,
            seconds=value.second,
            microseconds=value.microsecond,
        )
    if isinstance(value, timedelta):
        sign = -1 if value < timedelta(0) else 1
        fraction = abs(value) // timedelta(microseconds=1) * 1000
    else:
        text = str(value).strip()
        if text.isdecimal():
            text = text if key._in_postgresql else text.zfill(6)
            text = f"{text[:-4]}:{text[-4:-2]}:{text[-2:]}"
        found = _TIME.fullmatch(text)
        if found is None:
            raise ValueError
        sign = -1 if found[1] else 1
        hours, minutes, seconds = (int(found[n] or 0) for n in (2, 3, 4))
        fraction = (hours * 3600 + minutes * 60 + seconds) * 10**9 + _nanoseconds(found[5])
    step = _step(key)
    half = 0 if key.server == "mariadb" else step // 2
    result = sign * timedelta(microseconds=(fraction + half) // step * step // 1000)
    return result % timedelta(days=1) if key._in_postgresql else result


def _year(_: KeyType, value: Any) -> int:
    year = int(value)
    if not 0 <= year <= 99 or (year == 0 and not isinstance(value, str)):
        return year
    return year + (2000 if year < 70 else 1900)


def _text(key: KeyType, value: Any) -> str:
    text = _as_text(key, value)
    length = int(key.arguments)
    if not text[length:].strip(" "):  # only blanks beyond the length are dropped
        text = text[:length]
    if key.kind == "char":
        return text.ljust(length) if key._in_postgresql else text.rstrip(" ")
    return text


def _as_text(key: KeyType, value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower() if key._in_postgresql else str(int(value))
    if isinstance(value, float | np.floating):
        text = repr(float(value))
        if "e" in text:
            raise ValueError  # each server has digits of its own
        return text if key._in_postgresql else text.removesuffix(".0")
    if isinstance(value, bytes):
        return rf"\x{value.hex()}" if key._in_postgresql else value.decode()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, str | int | np.integer | date | time):  # a datetime is a date
        return str(value)
    raise TypeError


def _enum(key: KeyType, value: Any) -> str:
    if key._in_postgresql:
        return str(value)
    members: list[str] = [
        each.replace("''", "'") for each in re.findall(r"'((?:[^']|'')*)'", key.arguments)
    ]
    if isinstance(value, int):
        return members[value - 1] if value else str(value)
    text = str(value).rstrip(" ")
    if text in members:
        return text
    for member in members:
        if member.casefold() == text.casefold():
            return member
    return members[int(text) - 1] if text.isdecimal() and int(text) else text


def _uuid(_: KeyType, value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))


_CONVERTERS: dict[str, Callable[[KeyType, Any], Any]] = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "integer", "bigint"), _integer),
    **dict.fromkeys(("int8", "int16", "int32", "int64"), _integer),
    **dict.fromkeys(("bool", "boolean"), _boolean),
    **dict.fromkeys(("float", "float32", "real"), _single),
    **dict.fromkeys(("double", "float64"), _double),
    **dict.fromkeys(("decimal", "numeric", "dec", "fixed"), _decimal),
    **dict.fromkeys(("datetime", "timestamp"), _datetime),
    **dict.fromkeys(("char", "varchar"), _text),
    "date": _date,
    "time": _time,
    "year": _year,
    "enum": _enum,
    "uuid": _uuid,
}
