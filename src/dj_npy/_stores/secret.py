"""Secrets: all settings of a store that are not known to be public, and their parts."""

import json
import logging
import os
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from html.entities import html5
from typing import Any
from urllib.parse import unquote, unquote_plus

from dj_npy._errors import NpyError

_PUBLIC = {
    "protocol",
    "location",
    "endpoint",
    "secure",
    "bucket",
    "container",
    "project",
    "account_name",
    "schema_prefix",
    "partition_pattern",
    "token_length",
    "subfolding",
    "hash_prefix",
    "filepath_prefix",
    "stage",
    "region",
}
_SHORTEST = 4
"""Shortest secret in characters: a shorter one would match in any text."""
_SHORTEST_WITHIN = 6
"""The same for the search in other settings, where short names are common."""
_LOGIN = re.compile(r"(?<=://)(.*)@", re.DOTALL)
"""Up to the last ``@``: a password may be wrongly quoted."""
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_OF_A_CONNECTION = re.compile(r"(?i)(?:AccountKey|SharedAccessSignature)=([^;]+)")
_NAMES = (
    r"sig|AccountKey|SharedAccess(?:Signature|Key)|(?:X-(?:Amz|Goog)-)?(?:Signature|Credential)"
    r"|(?:X-Amz-)?Security-Token|(?:access_|refresh_|id_|session_|sas_)?token|AWSAccessKeyId"
    r"|(?:client_)?secret(?:_?(?:access_?)?key)?|access_?key|private_?key|api_?key"
    r"|password|passwd|pwd"
)
_FORMS = (
    # A parameter of a query or a connection string, or a JSON field; not a folder.
    re.compile(
        rf"""((?:(?<![\w/-])|(?<=%26)|(?<=u0026))(?:{_NAMES})(?:=|%3D|\\u003d|"\s*:\s*"))"""
        r"""([^&;,\s<>"'\\]+)""",
        re.IGNORECASE,
    ),
    # An Authorization header.
    re.compile(
        r"""(\b(?:Bearer|Basic|SharedKey\w*)(?:\s|%20)+)([^\s,;<>"'\\]{8,})""", re.IGNORECASE
    ),
    re.compile(r"((?<=//))([^/\s:@]+:[^/\s@]+)(?=@)"),
    re.compile(r"()\b(eyJ[\w-]{8,}(?:\.[\w-]*)*)"),  # a JSON web token
    re.compile(r"()\b(ya29\.[\w.-]+|(?:AKIA|ASIA)[A-Z0-9]{16}\b)"),  # Google's, Amazon's
)
"""Patterns of secrets, whosever they are: the part that stays, and the secret."""


def public(settings: dict[str, Any]) -> dict[str, Any]:
    """
    Return the settings that a pickle may contain, in a hashable form.

    A setting with a public name is left out if its value contains a login, a query or another
    setting's secret, or is of a type that does not belong in a configuration.
    """
    found = {name: plain(value) for name, value in settings.items() if name in _PUBLIC}
    others = _texts([value for name, value in settings.items() if name not in _PUBLIC])
    secrets = [text for text in others if len(text) >= _SHORTEST_WITHIN]
    folders = {"stage", "partition_pattern"}
    if str(settings.get("protocol")).lower() == "file":
        folders.add("location")

    def travels(name: str, value: Any) -> bool:
        if value is None:
            return settings[name] is None
        text = str(value)
        return name == "protocol" or not (
            any(secret in spelled for secret in secrets for spelled in (text, unquote(text)))
            or _has_secret(text, name == "endpoint", name in folders)
        )

    return {name: value for name, value in sorted(found.items()) if travels(name, value)}


def _has_secret(text: str, is_address: bool, is_folder: bool) -> bool:
    """Whether a text has a login, a query or a token; a folder's name may have ``:@?`` too."""
    if (is_address or "://" in text) and re.search("[@?#]", text):
        return True
    if is_folder and not text.startswith(("//", "\\\\")):
        return False
    return bool(re.search(r"(?s):.*@|\?.*=", text)) or any(form.search(text) for form in _FORMS)


def plain(value: Any) -> Any:
    """Return a text, a number or a tuple of these; None for anything else."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, (list, tuple)):
        items = tuple(map(plain, value))
        return None if None in items else items
    return value if isinstance(value, (str, int, float)) else None


class Redactor:
    """
    Removes the secrets of a store from its messages.

    Parameters
    ----------
    settings : dict
        Settings of the store.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._secrets = _secrets(settings)
        self._spellings: list[re.Pattern[str]] | None = None
        self.ask: Callable[[], Iterable[str | None]] = tuple
        """Returns credentials handed out elsewhere; called before each message."""

    def add(self, *secrets: str | None) -> None:
        """Add credentials that were found or renewed."""
        new = set(filter(None, secrets))
        if not new <= self._secrets:
            self._secrets = self._secrets | new
            self._spellings = None

    def redact(self, text: str) -> str:
        """Return `text` without secrets. Call this before the text is shortened."""
        with suppress(Exception):  # the message matters more
            self.add(*self.ask())
        patterns = self._spellings
        if patterns is None:
            patterns = self._spellings = spellings(self._secrets)
        for pattern in patterns:
            text = pattern.sub("***", text)
        return without_tokens(text)


def without_tokens(text: str) -> str:
    """Return a text without anything that has the form of a secret."""
    for form in _FORMS:
        text = form.sub(r"\1***", text)
    return text


class _TokenFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Remove secrets from a log record of another package."""
        record.msg, record.args = without_tokens(record.getMessage()), ()
        if record.exc_info:
            said = logging.Formatter().formatException(record.exc_info)
            record.exc_text, record.exc_info = without_tokens(said), None
        return True


TOKEN_FILTER = _TokenFilter()


def _secrets(settings: dict[str, Any]) -> set[str]:
    public_settings = public(settings)
    found = set(_texts([value for name, value in settings.items() if name not in public_settings]))
    for text in list(found):
        found.update(_OF_A_CONNECTION.findall(text))
        for form in _FORMS:
            found.update(secret for _, secret in form.findall(text))
        for login in _LOGIN.findall(text if "://" in text else f"://{text}"):
            found.update([login, login.partition(":")[2], login.rpartition(":")[2]])
        for query in _QUERY.findall(text):
            found.update([query[1:], *re.findall(r"=([^&#]+)", query)])
    # The protocol and similar values may be nested in a secret setting.
    return found - {str(value) for value in public_settings.values()}


def spellings(secrets: Iterable[str]) -> list[re.Pattern[str]]:
    """Return patterns of secrets as spelled in URLs, headers, JSON and HTML; longest first."""
    found: set[str] = set()
    for text in secrets:
        for spelled in (text, unquote(text), unquote_plus(text)):
            if len(spelled) >= _SHORTEST:
                data = spelled.encode(errors="replace")
                found.update([spelled, b64encode(data).decode(), urlsafe_b64encode(data).decode()])
    longest_first = sorted(found, key=len, reverse=True)
    return [re.compile("".join(map(_spelled, text))) for text in longest_first]


@cache
def _spelled(char: str) -> str:
    """Return a pattern for a character: itself, or escaped for a URL, JSON or HTML."""
    if char.isascii() and char.isalnum():
        return char
    code = ord(char)
    quoted = "".join(f"%(?:25)?{byte:02x}" for byte in char.encode(errors="replace"))
    entities = [re.escape(f"&{name}") for name, chars in html5.items() if chars == char]
    coded = [quoted, rf"\\u{code:04x}", rf"\\x{code:02x}", f"&#0*{code};", f"&#x0*{code:x};"]
    plainly = [rf"\\?{re.escape(char)}", re.escape(json.dumps(char)[1:-1]), *entities]
    if char == " ":
        plainly.append(r"\+")
    return f"(?:{'|'.join(plainly)}|(?i:{'|'.join(coded)}))"


def without_secrets(address: str) -> str:
    """Return a URL without its password, query and fragment."""
    if "://" not in address:
        return re.sub(r"(?s)\?.*=.*", "", re.sub(r"(?s):.*@", "@", address))
    named = _LOGIN.sub(lambda login: login[1].partition(":")[0] + "@", address)
    return _QUERY.sub("", named)


@contextmanager
def without_context() -> Iterator[None]:
    """
    Cut the context from an error of ours.

    The original error may contain a request with its secrets, and would be pickled along with the
    traceback.
    """
    try:
        yield
    except NpyError as error:
        if error.__cause__ is None:
            error.__context__ = None
        raise


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple, set)):
        return [text for each in value for text in _texts(each)]
    return [str(value)] if value else []
