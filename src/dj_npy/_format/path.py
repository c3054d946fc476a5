"""Map schema, table, key and attribute to the path of an array. Pure: no I/O."""

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import date, time, timedelta
from typing import Any
from urllib.parse import quote

import numpy as np

from dj_npy._format.aliases import folded

EXTENSION = ".npy"
_CHECK_LENGTH = 3
"""Characters of a token that are a checksum of the rest."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,16}")
MAX_COMPONENT = 120
"""Longest component in bytes: leaves room for a token below the 255 that file systems allow."""
MAX_KEY = 640
"""Longest run of key folders in bytes: leaves room for the rest below the 1024 of an S3 key."""

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: with any extension too.
_WINDOWS_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", re.IGNORECASE)


def array_path(
    schema: str,
    table: str,
    key: Mapping[str, Any],
    attribute: str,
    *,
    prefix: str = "",
    partition: str = "",
) -> str:
    """
    Return the path of an attribute of one entity, relative to its store.

    Parameters
    ----------
    schema, table, attribute : str
        Names as in the database.
    key : Mapping
        Primary key of the entity, in primary-key order.
    prefix : str
        The store's ``schema_prefix``; put first.
    partition : str
        The store's ``partition_pattern``, such as ``"{subject}/{date}"``: these attributes
        of the key come before the schema. Names that the key lacks are skipped.

    Examples
    --------
    >>> array_path("lab_ephys", "recording", {"recording_id": 1}, "waveform")
    'lab_ephys/recording/recording_id=1/waveform.npy'
    >>> array_path("lab", "scan", {"subject": "a/b", "scan": 2}, "movie", partition="{subject}")
    'subject=a%2Fb/lab/scan/scan=2/movie.npy'
    """
    in_front = [name for name in re.findall(r"{(\w+)}", partition) if name in key]
    behind = [name for name in key if name not in in_front]
    folders = [
        *filter(None, prefix.split("/")),
        *_key_folders(key, in_front),
        name_in_path(schema),
        name_in_path(table),
        *_key_folders(key, behind),
        name_in_path(attribute) + EXTENSION,
    ]
    return "/".join(folders)


def name_in_path(name: str) -> str:
    """Return the form in a path of the name of a schema, table or attribute."""
    return _component(_quoted(name))


def with_token(path: str, length: int = 8) -> str:
    """
    Return another name beside `path`, for use if that one is taken.

    The token has `length` characters, 8 to 16, of ``A-Z a-z 0-9 _ -``: all but the last three
    are random, 30 bits or more, and the last three are a hash of everything before them. So a
    file that somebody else put there, ``waveform_filtered.npy``, is not mistaken for ours.
    """
    random = secrets.token_urlsafe(16)[: max(8, min(16, length)) - _CHECK_LENGTH]
    stem = f"{path.removesuffix(EXTENSION)}_{random}"
    return f"{stem}{_check_characters(stem)}{EXTENSION}"


def is_with_token(path: str, plain: str) -> bool:
    """
    Whether `path` was made by ``with_token(plain)``.

    One in 130,000 other names of this form is mistaken for one.
    """
    stem = path.removesuffix(EXTENSION)
    token = stem.removeprefix(f"{plain.removesuffix(EXTENSION)}_")
    if stem == path or token == stem or not _TOKEN.fullmatch(token):
        return False
    # Until 2026-11-25 the hash was of the folder as spelled.
    return stem[-_CHECK_LENGTH:] in (
        _check_characters(stem[:-_CHECK_LENGTH]),
        _hash_characters(stem[:-_CHECK_LENGTH]),
    )


def _check_characters(stem: str) -> str:
    """Hash a case-folded folder: a case-insensitive disk lists it as its creator spelled it."""
    folder, slash, name = stem.rpartition("/")
    return _hash_characters(f"{folded(folder)}{slash}{name}")


def _hash_characters(text: str) -> str:
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest).decode()[:_CHECK_LENGTH]


def _key_folders(key: Mapping[str, Any], names: list[str]) -> list[str]:
    folders = [_component(f"{_quoted(name)}={_text(key[name])}") for name in names]
    if len("/".join(folders)) > MAX_KEY:
        # A comma is percent-encoded everywhere else, so no other key can make this name.
        return [_truncated(",".join(f"{_quoted(name)}={_text(key[name])}" for name in names))]
    return folders


def _text(value: Any) -> str:
    """Text of a key value; different values of one type give different texts."""
    if isinstance(value, np.datetime64):  # from a DataFrame or a numpy record
        unit = "D" if np.datetime_data(value.dtype)[0] == "D" else "us"
        value = value.astype(f"datetime64[{unit}]").item()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, timedelta):
        # MySQL returns a `time` column as timedelta; write it like a time.
        seconds, sign = abs(value), "-" if value < timedelta(0) else ""
        minutes, second = divmod(seconds.days * 86400 + seconds.seconds, 60)
        hour, minute = divmod(minutes, 60)
        fraction = f".{seconds.microseconds:06}" if seconds.microseconds else ""
        return f"{sign}{hour:02}-{minute:02}-{second:02}{fraction}"
    if isinstance(value, (date, time)):  # a datetime is a date
        return _quoted(value.isoformat().replace(":", "-"))
    if isinstance(value, float):
        value += 0.0  # -0.0 is the same key as 0.0
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """Percent-encode all but ``A-Z a-z 0-9 _ . -``; unlike Python, also ``~``."""
    return quote(text, safe="", errors="surrogatepass").replace("~", "%7E")


def _component(text: str) -> str:
    """Make percent-encoded text a component that every file system accepts."""
    if text.startswith(".") or _WINDOWS_DEVICE.match(text):  # also "." and ".."
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if text.endswith("."):  # Windows drops a dot at the end
        text = text[:-1] + "%2E"
    return _truncated(text) if len(text) > MAX_COMPONENT else text


def _truncated(text: str) -> str:
    """
    Return the beginning of `text` and 128 bits of its hash.

    No untruncated text has this form: a value's own ``=`` is percent-encoded, so there is one
    ``=`` more than any other component has.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"{text[: MAX_COMPONENT - 33]}={digest}"
