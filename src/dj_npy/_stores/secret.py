"""What is secret: all settings of a store that are not known to be public, and what is in them."""

import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, quote_plus

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
"""Characters of a secret: what is shorter would be found in any text."""
_LOGIN = re.compile(r"(?<=://)(.*)@", re.DOTALL)
"""Up to the last ``@``: a password need not be quoted as it should be."""
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_OF_A_CONNECTION = re.compile(r"(?i)(?:AccountKey|SharedAccessSignature)=([^;]+)")


def public(settings: dict[str, Any]) -> dict[str, Any]:
    """
    Return the settings that may travel, in a form that can be hashed.

    A setting whose name is public stays none the less where its value has a login, a query or
    another setting's secret in it, or is of a kind that has no place in a configuration.
    """
    found = {name: plain(value) for name, value in settings.items() if name in _PUBLIC}
    others = _texts([value for name, value in settings.items() if name not in _PUBLIC])
    secrets = [text for text in others if len(text) > 2 * _SHORTEST]
    return {
        name: value
        for name, value in sorted(found.items())
        if value is not None and not _has_secret(name, str(value), secrets)
    }


def _has_secret(name: str, text: str, secrets: Iterable[str]) -> bool:
    if name == "endpoint" and re.search("[@?#]", text):  # https://user:password@host
        return True
    address = "://" in text
    return (address and bool(_LOGIN.search(text) or _QUERY.search(text))) or any(
        secret in text for secret in secrets
    )


def plain(value: Any) -> Any:
    """Return a text, a number or a tuple of such; None for all else."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, (list, tuple)):
        items = tuple(map(plain, value))
        return None if None in items else items
    return value if isinstance(value, (str, int, float)) else None


class Hidden:
    """
    What no message of a store may have.

    Parameters
    ----------
    settings : dict
        Of the store.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._secrets = _secrets(settings)
        self._words = disguised(self._secrets)
        self.ask: Callable[[], Iterable[str | None]] = tuple
        """Returns what was handed out elsewhere; asked when something is to be told."""

    def learn(self, *secrets: str | None) -> None:
        """Add what has been handed out: credentials that were found, or renewed."""
        new = set(filter(None, secrets))
        if not new <= self._secrets:
            self._secrets = self._secrets | new
            self._words = disguised(self._secrets)

    def redacted(self, text: str) -> str:
        """Return what a message may say of `text`; to be called before anything is cut from it."""
        with suppress(Exception):  # what is to be told is more than that
            self.learn(*self.ask())
        for word in self._words:
            text = text.replace(word, "***")
        return text


def _secrets(settings: dict[str, Any]) -> set[str]:
    shown = public(settings)
    found = set(_texts([value for name, value in settings.items() if name not in shown]))
    for text in list(found):
        found.update(_OF_A_CONNECTION.findall(text))
        for login in _LOGIN.findall(text if "://" in text else f"://{text}"):
            found.update([login, login.partition(":")[2]])
        for query in _QUERY.findall(text):
            found.update([query[1:], *re.findall(r"=([^&#]+)", query)])
    # The protocol and the like may be nested in what is secret as a whole.
    return found - {str(value) for value in shown.values()}


def disguised(secrets: Iterable[str]) -> list[str]:
    """Return secrets and how they look in addresses and in headers, the longest first."""
    found: set[str] = set()
    for text in secrets:
        if len(text) >= _SHORTEST:
            basic = b64encode(text.encode(errors="replace")).decode()
            found.update([text, quote(text), quote(text, ""), quote_plus(text), basic])
    return sorted(found, key=len, reverse=True)


def shown(address: str) -> str:
    """Return an address without the password, the query and the fragment it may have."""
    named = _LOGIN.sub(lambda login: login[1].partition(":")[0] + "@", address)
    return _QUERY.sub("", named) if "://" in named else named


@contextmanager
def cut() -> Iterator[None]:
    """
    Have an error of ours stand alone.

    What it came of may hold a request, with its secrets, and travels along when an error is
    pickled with its traceback.
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
