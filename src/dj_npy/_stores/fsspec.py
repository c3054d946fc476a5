"""Files on any fsspec file system: plugins, forked processes, credentials obstore cannot use."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from fsspec import AbstractFileSystem

from dj_npy._concurrency.threads import each_in_time, in_time
from dj_npy._errors import NpyError
from dj_npy._stores import remote
from dj_npy._stores.base import MARKER
from dj_npy._stores.botocore import S3Requests
from dj_npy._stores.environment import UNKNOWN_CERTIFICATE
from dj_npy._stores.listed import UNTIMED, Listed, Stat
from dj_npy._stores.reasons import (
    CHECK_THE_KEYS,
    STALLS,
    is_expired,
    is_under_way,
    no_bucket,
    reason_of,
)
from dj_npy._stores.remote import Answer, RemoteStore, part_size, pauses
from dj_npy._stores.secret import Redactor

_VERSION = ("ETag", "etag", "e_tag", "generation", "version_id", "mtime", "LastModified", "created")
_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")

_CUT_SHORT = {
    "ClientPayloadError",
    "IncompleteRead",
    "IncompleteReadError",
    "ResponseStreamingError",
    "AioReadTimeoutError",
}
"""Errors in the middle of an answer, which botocore does not retry."""
_MAX_CUTS = 3


class GenericStore(RemoteStore):
    """
    A store on an fsspec file system.

    Parameters
    ----------
    name, identity, redactor
        As for `RemoteStore`.
    filesystem : AbstractFileSystem
        The file system.
    full_path : callable
        Turns a path in the store into one of the file system.
    service : bool
        Whether this is S3, GCS or Azure: there ``pipe_file(mode="create")`` is one conditional
        request, and folders need not be made. On an unknown file system it may be a check and a
        write, with a race between them.
    s3 : S3Requests, optional
        Sends requests in place of the file system. Its removals are not repeated: a removal that is
        repeated after it was carried out would remove the next object of that name.
    """

    def __init__(
        self,
        name: str,
        filesystem: AbstractFileSystem,
        full_path: Callable[[str], str],
        identity: str,
        *,
        service: bool = False,
        s3: S3Requests | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        super().__init__(name, identity, redactor)
        self._filesystem, self._full_path = filesystem, full_path
        self._service, self._s3 = service, s3
        self._remove_file = filesystem.rm_file if s3 is None else s3.remove
        self._get_info = filesystem.info if s3 is None else s3.info
        if not service:
            self._exclusive = False

    # Writing

    def _can_reserve(self, wanted: str) -> bool:  # noqa: ARG002
        # After an interrupt, the request goes on in fsspec's own thread.
        return False

    def _put_new(self, path: str, contents: Sequence[memoryview]) -> bool:
        full, data = self._full_path(path), b"".join(contents)
        put = partial(_in_time, self._filesystem.pipe_file, full, data, mode="create")
        with self._translated(path, "write", but=FileExistsError), suppress(FileExistsError):
            try:
                _retry(put, lambda error: is_under_way(_code_of(error)), pauses())
            except OSError as error:
                # s3fs recognizes this answer only by Amazon's wording.
                if _code_of(error) == "PreconditionFailed":
                    return False
                raise
            return True
        return False

    def _put(self, path: str, contents: Sequence[memoryview]) -> None:
        full = self._full_path(path)
        with self._translated(path, "write"):
            self._make_folder(full)
            _in_time(self._filesystem.pipe_file, full, b"".join(contents))

    def _upload(self, path: str, pieces: Iterable[memoryview], nbytes: int) -> None:
        full = self._full_path(path)
        file: Any = None
        try:
            with self._translated(path, "write"):
                self._make_folder(full)
                file = _in_time(self._filesystem.open, full, "wb", block_size=part_size(nbytes))
            for piece in pieces:
                with self._translated(path, "write"):
                    _in_time(file.write, piece)
            with self._translated(path, "write"):
                _in_time(file.close)
        except BaseException:
            # Closing would create an object from what was written. So discard the file if it can
            # be, and mark it as closed; remove any other.
            with suppress(Exception):
                _in_time(file.discard)
                file.closed = True
            with suppress(Exception):
                _in_time(file.close)
            with suppress(NpyError):
                self._remove(path)
            raise

    def _make_folder(self, full: str) -> None:
        if self._service:  # there, it would create a bucket
            return
        with suppress(OSError, NotImplementedError):  # opening the file raises the error
            _in_time(self._filesystem.makedirs, full.rpartition("/")[0], exist_ok=True)

    def _copy(self, source: str, path: str) -> None:
        with self._translated(source, "copy"):
            _in_time(self._filesystem.cp_file, self._full_path(source), self._full_path(path))

    def _remove(self, path: str) -> None:
        with (
            self._translated(path, "remove", but=FileNotFoundError),
            suppress(FileNotFoundError),
        ):
            self._remove_file(self._full_path(path))

    # Reading

    def _get(self, path: str, start: int, stop: int) -> Answer:
        before = self._stat(path)
        size, version = before
        stop = min(stop, size)
        if start >= stop:
            return Answer(b"", size, version)
        with self._translated(path, "read"):
            cat = partial(_in_time, self._filesystem.cat_file, self._full_path(path))
            data = _retry(partial(cat, start=start, end=stop), _is_cut, islice(pauses(), _MAX_CUTS))
        if len(data) == size > stop - start:  # the server ignored the range
            data = data[start:stop]
        if len(data) != stop - start:
            raise self._cut_short(path, stop - start, len(data))
        # The answer does not name its version, so the version must be the same before and after.
        self._check_version(path, Answer(data, *self._stat(path)), before)
        return Answer(data, size, version)

    def _stat(self, path: str) -> Stat:
        asked = time.monotonic()
        stat = _stat_of(self._info(path))
        self.pace.answered(time.monotonic() - asked)
        return stat

    def _info(self, path: str) -> dict[str, Any]:
        full = self._full_path(path)
        with self._translated(path, "read"):
            self._filesystem.invalidate_cache(full.rpartition("/")[0])
            info = _in_time(self._get_info, full)
        if info.get("type") == "directory":
            raise self._missing(path)
        return dict(info)

    def _files(self, folder: str) -> Iterator[Listed]:
        root = self._full_path("x").removesuffix("x")
        top = f"{root}{folder}".rstrip("/")
        if self._s3 is not None:
            with self._translated(folder, "list"):
                for full, info in self._s3.find(f"{root}{folder}/" if folder else root):
                    yield _listed_as(full.removeprefix(root), info)
            return
        with (
            self._translated(folder, "list", but=FileNotFoundError),
            suppress(FileNotFoundError),
        ):
            self._filesystem.invalidate_cache()
            prefix = str(self._filesystem._strip_protocol(root)).rstrip("/") + "/"
            for full, info in self._find_below(top):
                path = full.removeprefix(prefix)
                if path.startswith(f"{folder}/" if folder else ""):
                    yield _listed_as(path, info)

    def _find_below(self, top: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._service:  # its pages are internal to the file system
            yield from self._filesystem.find(top, detail=True).items()
            return
        folders = self._filesystem.walk(top, detail=True, on_error=_raise_unless_missing)
        for _, _, files in each_in_time(folders, remote.REQUEST_S):
            yield from ((info["name"], info) for info in files.values())

    def _listed(self, path: str) -> Listed:
        return _listed_as(path, self._info(path))

    # Errors

    def translate_error(self, error: Exception, path: str, verb: str) -> NpyError:
        what = f"could not {verb} {self.where(path)} ({self.identity})"
        answer = _error_in(error)
        text = self._redactor.redact(str(error))
        code = str(answer.get("Code") or text.partition(":")[0])
        is_denied = _is_denied(error) or is_expired(code)
        if isinstance(error, FileNotFoundError):
            # A plugin's folders are created with the first file, so they may not exist yet.
            is_new = path == MARKER and not self._service
            has_code = self._s3 is not None  # that a bucket is missing
            is_there = not no_bucket(code) and (has_code or self._bucket_exists(path))
            if verb in ("read", "copy") and (is_new or is_there):
                return self._missing(path)
            reason = "no such bucket, container or folder"
        elif advice := reason_of(code, f"{answer.get('Message')} {text}", verb, _status_of(error)):
            words = self._redactor.redact(
                ": ".join(filter(None, map(answer.get, ("Code", "Message"))))
            )[:200]
            reason = f"{advice} ({words})" if words else advice
        elif is_denied:
            reason = CHECK_THE_KEYS
        else:
            reason = f"{type(error).__name__}: {' '.join(text.split())[:200]}"
            if "CERTIFICATE_VERIFY_FAILED" in text:
                reason = f"{UNKNOWN_CERTIFICATE} ({reason})"
            elif isinstance(error, TimeoutError) or "timeout on endpoint" in text:
                reason = f"{STALLS} ({reason})"
        return self._store_error(f"{what}: {reason}{self._proxy_hint(error)}", is_denied)

    def _bucket_exists(self, path: str) -> bool:
        """Whether the bucket exists, if the file system has buckets."""
        bucket = self._full_path(path).lstrip("/").split("/")[0]
        try:
            return bool(_in_time(self._filesystem.exists, bucket))
        except PermissionError:
            return True
        except Exception:
            return False


def _in_time(method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """
    Call a method that sends one request, with a time limit.

    Not for removals: an interrupted one must not go on and remove the next object of that name.
    """
    return in_time(partial(method, *args, **options), remote.REQUEST_S)


def _retry(
    call: Callable[[], Any], is_later: Callable[[Exception], bool], waits: Iterator[float]
) -> Any:
    """Return the result of a call, retrying errors for which `is_later` holds."""
    while True:
        try:
            return call()
        except Exception as error:
            pause = next(waits, None) if is_later(error) else None
            if pause is None:
                raise
        time.sleep(pause)


def _is_cut(error: Exception) -> bool:
    return type(error).__name__ in _CUT_SHORT


def _response_of(error: Exception) -> dict[str, Any]:
    """Return botocore's parsed response of an error, or an empty dict."""
    responses = (getattr(each, "response", None) for each in (error, error.__cause__))
    return next((each for each in responses if isinstance(each, dict)), {})


def _error_in(error: Exception) -> dict[str, Any]:
    """Return code and message of a server's answer, if botocore parsed it."""
    found = _response_of(error).get("Error")
    return found if isinstance(found, dict) else {}


def _code_of(error: Exception) -> str:
    return str(_error_in(error).get("Code"))


def _status_of(error: Exception) -> int:
    """Return the HTTP status of a server's answer; 0 if unknown."""
    if response := _response_of(error):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    codes = (getattr(error, name, None) for name in ("status_code", "status", "code"))
    return next((each for each in codes if isinstance(each, int)), 0)


def _is_denied(error: Exception) -> bool:
    """Whether credentials were refused; each file system reports that differently."""
    is_forbidden = type(error) is OSError and str(error).startswith("Forbidden: ")  # gcsfs
    return isinstance(error, PermissionError) or is_forbidden or _status_of(error) in (401, 403)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _stat_of(info: dict[str, Any]) -> Stat:
    return Stat(info["size"], str(next((info[key] for key in _VERSION if info.get(key)), "")))


def _listed_as(path: str, info: dict[str, Any]) -> Listed:
    size, version = _stat_of(info)
    if not isinstance(size, int):  # it cannot be told from another version
        return Listed(path, 0, UNTIMED, version)
    return Listed(path, size, _modified(info), version)


def _modified(info: dict[str, Any]) -> datetime:
    found = next((info[key] for key in _MODIFIED if info.get(key)), None)
    try:
        if isinstance(found, (int, float)):
            found = datetime.fromtimestamp(found, UTC) if found > 0 else None
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        if not isinstance(found, datetime):  # an unknown time counts as new: never removed for age
            return UNTIMED
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return UNTIMED
