"""What obstore raises: which is which, and what to say of it."""

import re

from obstore import exceptions

from dj_npy._stores.environment import UNKNOWN_CERTIFICATE
from dj_npy._stores.reasons import CHECK_THE_KEYS, STALLS, code_of, is_under_way, reason_of
from dj_npy._stores.secret import Hidden

# Not every error that obstore documents as its own is one: NotFoundError arrives as
# FileNotFoundError.
MISSING = (exceptions.NotFoundError, FileNotFoundError)
DENIED = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError)
TAKEN = (exceptions.AlreadyExistsError, FileExistsError)
CONDITION_FAILED = (exceptions.PreconditionError, exceptions.NotModifiedError)
NOT_SUPPORTED = (exceptions.NotSupportedError, NotImplementedError)
UNCLEAR = (exceptions.GenericError, exceptions.JoinError, OSError)
"""After these, a request may have been carried out or not."""
FAILURES = (exceptions.BaseError, OSError, ValueError, NotImplementedError)

_LATER = (408, 409, 425, 429)
"""What is about this moment, of the answers that are about the request."""
_ADVICE = (
    (DENIED, CHECK_THE_KEYS),
    (TAKEN, "there is such an object already"),
    (CONDITION_FAILED, "the object has changed meanwhile"),
    (exceptions.InvalidPathError, "the service cannot have an object of this name"),
    (NOT_SUPPORTED, "the service does not support this request"),
    (exceptions.UnknownConfigurationKeyError, "obstore does not know one of the store's settings"),
    (exceptions.JoinError, "obstore's thread was stopped"),
)
# The wording of obstore's most general error, and what to say; no decision depends on it.
_HINTS = (
    (r"redirect|AuthorizationHeaderMalformed|IllegalLocation|30[17] ",
     "the bucket seems to be in another region: set AWS_REGION, or the endpoint of that region"),
    (r"UnknownIssuer|CaUsedAsEndEntity", UNKNOWN_CERTIFICATE),
    (r"InvalidCertificate", "the server's certificate is not valid, or not for this host"),
    (r"Connection refused", "is the server running, and are `endpoint` and `secure` right?"),
    (r"dns error|failed to lookup", "no such host: is `endpoint` right?"),
    (r"TimedOut|timed out|kind: Timeout|has not answered|Read timeout", STALLS),
    (r"kind: Connect\b|InvalidContentType",
     "no secure connection: are `endpoint` and `secure` right?"),
)  # fmt: skip


def is_never(error: Exception) -> bool:
    """Whether a server has said that it does not take such a request, and never will."""
    status = _status(str(error))
    is_ours = status // 100 == 4 and status not in (400, *_LATER)
    return is_ours or status in (501, 505, 507) or code_of(str(error)) == "NotImplemented"


def is_bad(error: Exception) -> bool:
    """Whether a server did not like the form of a request: a header, for one."""
    text = str(error)
    if code_of(text) in ("RequestTimeout", "Throttling"):
        return False
    return _status(text) in (400, 405, 501) or code_of(text) == "NotImplemented"


def is_conflict(error: Exception) -> bool:
    """Whether a request met another that is under way; a name that is taken is none."""
    return is_under_way(code_of(str(error)))


def is_unmeasured(error: Exception) -> bool:
    """Whether obstore misses a size in an answer, or cannot read it; all else is as well then."""
    return bool(re.search("(?i)content.?(length|range)", str(error).split("\n")[0]))


def _status(text: str) -> int:
    """The status of an answer; 0 if there was none."""
    said = re.search(r"status code: (\d+)", text)
    return int(said[1]) if said else 0


def told(error: Exception, hidden: Hidden, verb: str = "") -> str:
    """Return what a message says of an error: a reason, and what to do, without secrets."""
    text = hidden.redacted(str(error))
    reason = reason_of(code_of(text), _code(text), verb, _status(text))
    if reason is None:
        reason = next((advice for kind, advice in _ADVICE if isinstance(error, kind)), None)
    if reason is None:
        found = next((hint for words, hint in _HINTS if re.search(words, text)), None)
        return f"{found} ({in_short(text)})" if found else in_short(text)
    return f"{reason} ({_code(text)})" if _code(text) else reason


def _code(text: str) -> str:
    """What an XML answer of a server says in words, if `text` has one."""
    words = [re.search(f"<{tag}>([^<]+)</{tag}>", text) for tag in ("Code", "Message")]
    return ": ".join(found[1].strip() for found in words if found)[:200]


def in_short(text: str) -> str:
    """One line of obstore's many, without addresses, which may hold a signature."""
    status = re.search(r"status code: (\d+ [A-Za-z -]+)", text)
    told = re.search(r'message: "([^"]+)"', text)
    if status:
        return ", ".join(filter(None, [status[1].strip(), _code(text)]))
    if told:
        return told[1]
    line = text.split("\n")[0].rsplit(" - ", 1)[-1].removeprefix("Generic ")
    return re.sub(r"\w+://\S+", "...", line)[:200]
