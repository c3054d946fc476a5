"""Error codes of servers, and what to tell the user."""

import re

_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"}
CHECK_THE_KEYS = "access denied. Check the store's keys, or the credentials that stand in for them"
ELSEWHERE = (
    "the server sends whoever asks to another one, and credentials are not taken along: is that "
    "the right endpoint, or the bucket in another region (AWS_REGION)?"
)
_RIGHTS = "access denied: these credentials may not do this. Check what they are allowed"
_NO_LONGER = "ExpiredToken|TokenRefreshRequired|InvalidToken"
_EXPIRED = "the credentials have expired: renew them"
_KMS = "the key that encrypts the bucket cannot be used: these credentials need rights on it (KMS)"
_KEYS = (
    "InvalidAccessKeyId|SignatureDoesNotMatch|AuthFailure|AuthenticationFailed|InvalidSecurity|"
    "InvalidClientTokenId|UnrecognizedClient|MissingAuthenticationToken|AuthenticationRequired|"
    "NoAuthenticationInformation|InvalidAuthenticationInfo|^Forbidden$|^Unauthorized$"
)
_UNDER_WAY = "ConditionalRequestConflict|OperationAborted"
_BUSY = "SlowDown|ServiceUnavailable|TooManyRequests|Throttl|ServerBusy"
_FULL = "the store is full, or a quota is used up"
_TOO_LARGE = "the server takes nothing of this size"
_OVERLOADED = "the server is overloaded; try again later"
STALLS = "time-out: the server or the network stalls"
_FAILED = "the server has failed; try again later"
# Patterns of error codes, and what to say; the first match counts.
_CODES = (
    ("InvalidObjectState|BlobArchived", "the object is in an archive (Glacier): have it restored"),
    ("RequestTimeTooSkewed|RequestExpired", "the clock of this machine is wrong: set it"),
    (_NO_LONGER, _EXPIRED),
    ("KMS", _KMS),
    (r"^30[1278]$|Redirect|Moved Permanently|status 'Found'", ELSEWHERE),
    (_KEYS, CHECK_THE_KEYS),
    ("InvalidRequest.*ObjectLock|Content-MD5", "the bucket wants a checksum with what it keeps"),
    (_UNDER_WAY, "another change is under way there; try again later"),
    ("Quota|InsufficientStorage|StorageFull", _FULL),
    ("EntityTooLarge", _TOO_LARGE),
    (_BUSY, _OVERLOADED),
)
_STATUS = {
    413: _TOO_LARGE,
    429: _OVERLOADED,
    500: _FAILED,
    502: _FAILED,
    503: _OVERLOADED,
    504: _FAILED,
    507: _FULL,
}
# Reasons in the message of an "AccessDenied" answer.
_DENIALS = (
    ("(?i)kms|encrypt",
     "access denied: the bucket wants encryption (KMS), by a key that these credentials may use"),
    ("(?i)explicit deny|polic", "access denied by a policy. Ask who looks after the bucket"),
)  # fmt: skip


def is_expired(code: str) -> bool:
    """Whether an error code means that the credentials have expired."""
    return bool(re.search(_NO_LONGER, code))


def no_bucket(code: str) -> bool:
    """Whether an error code means that the bucket, not the object, is missing."""
    return code in _NO_BUCKET


def is_overload(code: str) -> bool:
    """Whether an error code means that there are too many requests."""
    return bool(re.search(_BUSY, code))


def is_under_way(code: str) -> bool:
    """Whether an error code means that another request must end first."""
    return bool(re.fullmatch(_UNDER_WAY, code))


def reason_of(code: str, message: str, verb: str = "", status: int = 0) -> str | None:
    """Return what to tell the user for a code and message; None if nothing better is known."""
    for codes, reason in _CODES:
        if re.search(codes, code):
            return reason
    if code not in ("AccessDenied", "AllAccessDisabled", "AuthorizationPermissionMismatch"):
        if status == 401:
            return CHECK_THE_KEYS
        # A code of its own is about something else than the keys.
        is_named = status == 403 and code not in ("", "403")
        return f"the server refuses this: {code}" if is_named else _STATUS.get(status)
    found = next((reason for words, reason in _DENIALS if re.search(words, message)), _RIGHTS)
    if verb in ("read", "copy", "map"):
        found += "; or there is no such object, which credentials that may not list are not told"
    return found


def code_of(text: str) -> str:
    """Return the error code in a server's XML answer, or an empty text."""
    found = re.search("<Code>([^<]+)</Code>", text)
    return found[1].strip() if found else ""
