"""Classify and describe the errors that obstore raises."""

import re

from obstore import exceptions

from dj_npy._stores.environment import UNKNOWN_CERTIFICATE
from dj_npy._stores.reasons import (
    CHECK_THE_KEYS,
    STALLS,
    code_of,
    is_overload,
    is_under_way,
    reason_of,
)
from dj_npy._stores.secret import Redactor

# obstore does not raise all the errors it documents: NotFoundError arrives as FileNotFoundError.
MISSING = (exceptions.NotFoundError, FileNotFoundError)
DENIED = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError)
ALREADY_EXISTS = (exceptions.AlreadyExistsError, FileExistsError)
CONDITION_FAILED = (exceptions.PreconditionError, exceptions.NotModifiedError)
NOT_SUPPORTED = (exceptions.NotSupportedError, NotImplementedError)
UNCLEAR = (exceptions.GenericError, exceptions.JoinError, OSError)
"""After these, it is unknown whether the request was carried out."""
FAILURES = (exceptions.BaseError, OSError, ValueError, NotImplementedError)

_RETRYABLE = (408, 409, 425, 429)
"""4xx statuses that are worth a retry."""
_ADVICE = (
    (DENIED, CHECK_THE_KEYS),
    (ALREADY_EXISTS, "there is such an object already"),
    (CONDITION_FAILED, "the object has changed meanwhile"),
    (exceptions.InvalidPathError, "the service cannot have an object of this name"),
    (NOT_SUPPORTED, "the service does not support this request"),
    (exceptions.UnknownConfigurationKeyError, "obstore does not know one of the store's settings"),
    (exceptions.JoinError, "obstore's thread was stopped"),
)
# Parts of obstore's generic error message, and what to say; no decision depends on them.
_HINTS = (
    (r"redirect|AuthorizationHeaderMalformed|IllegalLocation|30[17] ",
     "the bucket seems to be in another region: set AWS_REGION, or the endpoint of that region"),
    (r"UnknownIssuer|CaUsedAsEndEntity", UNKNOWN_CERTIFICATE),
    (r"Too many open files", "raise its limit (ulimit -n), or lower DJ_NPY_MAX_WORKERS"),
    (r"InvalidCertificate", "the server's certificate is not valid, or not for this host"),
    (r"Connection refused", "is the server running, and are `endpoint` and `secure` right?"),
    (r"dns error|failed to lookup", "no such host: is `endpoint` right?"),
    (r"TimedOut|timed out|kind: Timeout|has not answered|Read timeout", STALLS),
    (r"kind: Connect\b|InvalidContentType",
     "no secure connection: are `endpoint` and `secure` right?"),
)  # fmt: skip


def is_permanent(error: Exception) -> bool:
    """Whether a server will never accept such a request."""
    status = _status(str(error))
    is_ours = status // 100 == 4 and status not in (400, *_RETRYABLE)
    return is_ours or status in (501, 505, 507) or code_of(str(error)) == "NotImplemented"


def is_bad_request(error: Exception) -> bool:
    """Whether a server rejected the form of a request, such as a header."""
    text = str(error)
    if code_of(text) in ("RequestTimeout", "Throttling"):
        return False
    return _status(text) in (400, 405, 501) or code_of(text) == "NotImplemented"


def is_slow_down(error: Exception) -> bool:
    """Whether the server refused a request because there are too many."""
    text = str(error)
    return _status(text) in (429, 503) or is_overload(code_of(text))


def is_conflict(error: Exception) -> bool:
    """Whether a request conflicts with one in progress; not if the name is taken."""
    return is_under_way(code_of(str(error)))


def is_missing_size(error: Exception) -> bool:
    """Whether only a size in the answer's headers was missing or unreadable for obstore."""
    return bool(re.search("(?i)content.?(length|range)", str(error).split("\n")[0]))


def _status(text: str) -> int:
    """Return the HTTP status; 0 if there was no answer."""
    found = re.search(r"status code: (\d+)", text)
    return int(found[1]) if found else 0


def describe_error(error: Exception, redactor: Redactor, verb: str = "") -> str:
    """Return the reason of an error and what to do about it, without secrets."""
    text = redactor.redact(str(error))
    reason = reason_of(code_of(text), _code_and_message(text), verb, _status(text))
    if reason is None:
        reason = next((advice for kind, advice in _ADVICE if isinstance(error, kind)), None)
    if reason is None:
        found = next((hint for words, hint in _HINTS if re.search(words, text)), None)
        return f"{found} ({first_line(text)})" if found else first_line(text)
    return f"{reason} ({_code_and_message(text)})" if _code_and_message(text) else reason


def _code_and_message(text: str) -> str:
    """Return code and message of a server's XML answer, or an empty text."""
    words = [re.search(f"<{tag}>([^<]+)</{tag}>", text) for tag in ("Code", "Message")]
    return ": ".join(found[1].strip() for found in words if found)[:200]


def first_line(text: str) -> str:
    """Return one line of obstore's message, without URLs, which may have a signature."""
    status = re.search(r"status code: (\d+ [A-Za-z -]+)", text)
    message = re.search(r'message: "([^"]+)"', text)
    if status:
        return ", ".join(filter(None, [status[1].strip(), _code_and_message(text)]))
    if message:
        return message[1]
    line = text.split("\n")[0].rsplit(" - ", 1)[-1].removeprefix("Generic ")
    return re.sub(r"\w+://\S+", "...", line)[:200]
