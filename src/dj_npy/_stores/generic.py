"""Files on any fsspec file system: plugins, forked processes, rare credentials."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fsspec import AbstractFileSystem

from dj_npy._errors import NpyError
from dj_npy._stores import remote
from dj_npy._stores.base import MARKER, UNTIMED, Listed, Stat
from dj_npy._stores.environment import UNKNOWN_CERTIFICATE
from dj_npy._stores.reasons import is_expired, no_bucket, reason_of
from dj_npy._stores.remote import Answer, RemoteStore, part_size
from dj_npy._stores.secret import Hidden
from dj_npy._stores.threads import in_time

_VERSION = ("ETag", "etag", "e_tag", "generation", "version_id", "mtime", "LastModified", "created")
_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")


class GenericStore(RemoteStore):
    """
    A store on an fsspec file system.

    Parameters
    ----------
    name : str
        What the DataJoint configuration calls the store.
    filesystem : AbstractFileSystem
        Where the files are.
    full_path : callable
        From a path in the store to one of the file system.
    identity : str
        Where it is, in words that no other store has: service, bucket, location.
    service : bool
        Whether this is S3, GCS or Azure: ``pipe_file(mode="create")`` is one conditional
        request, and there are no folders to be made. Of an unknown file system the former
        may be a look and a write, between which another writer finds time.
    remove : callable, optional
        Removes a file by one request: a removal that was carried out and is asked for again
        would take the next object of that name. Default is the file system's own.
    look : callable, optional
        Tells what `info` of the file system does of a file. Default is that itself.
    hidden : Hidden
        The credentials: no message has them.
    """

    def __init__(
        self,
        name: str,
        filesystem: AbstractFileSystem,
        full_path: Callable[[str], str],
        identity: str,
        *,
        service: bool = False,
        remove: Callable[[str], None] | None = None,
        look: Callable[[str], dict[str, Any]] | None = None,
        hidden: Hidden | None = None,
    ) -> None:
        super().__init__(name, identity, hidden)
        self._filesystem, self._full_path = filesystem, full_path
        self._service = service
        self._remove_file = remove or filesystem.rm_file
        self._look = look or filesystem.info
        self._code_is_told = look is not None
        if not service:
            self._exclusive = False

    # Writing

    def _reserves(self, wanted: str) -> bool:  # noqa: ARG002
        # An interrupt leaves what it interrupts to fsspec's own thread, where it goes on.
        return False

    def _put_new(self, path: str, contents: Sequence[memoryview]) -> bool:
        pipe_file = self._filesystem.pipe_file
        with self._translated(path, "write", but=FileExistsError), suppress(FileExistsError):
            try:
                _asked(pipe_file, self._full_path(path), b"".join(contents), mode="create")
            except OSError as error:
                # s3fs knows this answer by the words of Amazon alone.
                if _answer_of(error).get("Code") == "PreconditionFailed":
                    return False
                raise
            return True
        return False

    def _put(self, path: str, contents: Sequence[memoryview]) -> None:
        full = self._full_path(path)
        with self._translated(path, "write"):
            self._make_folder(full)
            _asked(self._filesystem.pipe_file, full, b"".join(contents))

    def _upload(self, path: str, pieces: Iterable[memoryview], nbytes: int) -> None:
        full = self._full_path(path)
        file: Any = None
        try:
            with self._translated(path, "write"):
                self._make_folder(full)
                file = _asked(self._filesystem.open, full, "wb", block_size=part_size(nbytes))
            for piece in pieces:
                with self._translated(path, "write"):
                    _asked(file.write, piece)
            with self._translated(path, "write"):
                _asked(file.close)
        except BaseException:
            # Closing would make an object of what there is. A file that can be thrown away
            # is told so, and that it is closed; any other is removed.
            with suppress(Exception):
                file.discard()
                file.closed = True
            with suppress(Exception):
                file.close()
            with suppress(NpyError):
                self._remove(path)
            raise

    def _make_folder(self, full: str) -> None:
        if self._service:  # where it would make a bucket
            return
        with suppress(OSError, NotImplementedError):  # the file will tell what is wrong
            self._filesystem.makedirs(full.rpartition("/")[0], exist_ok=True)

    def _copy(self, source: str, path: str) -> None:
        with self._translated(source, "copy"):
            _asked(self._filesystem.cp_file, self._full_path(source), self._full_path(path))

    def _remove(self, path: str) -> None:
        with self._translated(path, "remove", but=FileNotFoundError), suppress(FileNotFoundError):
            self._remove_file(self._full_path(path))

    # Reading

    def _get(self, path: str, start: int, stop: int) -> Answer:
        before = self._stat(path)
        size, version = before
        stop = min(stop, size)
        if start >= stop:
            return Answer(b"", size, version)
        with self._translated(path, "read"):
            data = _asked(self._filesystem.cat_file, self._full_path(path), start=start, end=stop)
        if len(data) == size > stop - start:  # the server has ignored the range
            data = data[start:stop]
        if len(data) != stop - start:
            raise self._cut_short(path, stop - start, len(data))
        # The bytes do not say of which version they are; what was the same before and after is.
        self._check_version(path, Answer(data, *self._stat(path)), before)
        return Answer(data, size, version)

    def _stat(self, path: str) -> Stat:
        return _stat_of(self._info(path))

    def _info(self, path: str) -> dict[str, Any]:
        full = self._full_path(path)
        with self._translated(path, "read"):
            self._filesystem.invalidate_cache(full.rpartition("/")[0])
            info = _asked(self._look, full)
        if info.get("type") == "directory":
            raise self._missing(path)
        return dict(info)

    def _files(self, folder: str) -> Iterator[Listed]:
        root = self._full_path("x").removesuffix("x")
        top = f"{root}{folder}".rstrip("/")
        with self._translated(folder, "list", but=FileNotFoundError), suppress(FileNotFoundError):
            self._filesystem.invalidate_cache()
            prefix = str(self._filesystem._strip_protocol(root)).rstrip("/") + "/"
            for full, info in self._filesystem.find(top, detail=True).items():
                path = full.removeprefix(prefix)
                if path.startswith(f"{folder}/" if folder else ""):
                    yield _listed_as(path, info)

    def _listed(self, path: str) -> Listed:
        return _listed_as(path, self._info(path))

    # Errors

    def refused(self, error: Exception, path: str, verb: str) -> NpyError:
        what = f"could not {verb} {self.where(path)} ({self.identity})"
        said = _answer_of(error)
        text = self._hidden.redacted(str(error))
        code = str(said.get("Code") or text.partition(":")[0])
        is_denied = _is_denied(error)
        if isinstance(error, FileNotFoundError):
            # A plugin's folders are made with the first file, so there need be none yet.
            is_new = path == MARKER and not self._service
            there = not no_bucket(code) and (self._code_is_told or self._answers(path))
            if verb in ("read", "copy") and (is_new or there):
                return self._missing(path)
            reason = "no such bucket, container or folder"
        elif advice := reason_of(code, f"{said.get('Message')} {text}", verb):
            reason = advice
        elif is_denied:
            reason = "access denied. Check the store's keys and what they may do"
        else:
            reason = f"{type(error).__name__}: {' '.join(text.split())[:200]}"
            if "CERTIFICATE_VERIFY_FAILED" in text:
                reason = f"{UNKNOWN_CERTIFICATE} ({reason})"
        is_denied = is_denied or is_expired(code)
        return self._refusal(f"{what}: {reason}{self._and_the_proxy(error)}", is_denied)

    def _answers(self, path: str) -> bool:
        """Whether the bucket is there, if the file system has such."""
        bucket = self._full_path(path).lstrip("/").split("/")[0]
        try:
            return bool(self._filesystem.exists(bucket))
        except PermissionError:
            return True
        except Exception:
            return False


def _asked(method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """
    Call what sends one request, whose answer comes in time or is an error.

    Not a removal: one that is interrupted must not go on, and meet the next object of that name.
    """
    return in_time(partial(method, *args, **options), remote.REQUEST_S)


def _answer_of(error: Exception) -> dict[str, Any]:
    """What the server has said, if botocore has told it."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        said = response.get("Error") if isinstance(response, dict) else None
        if isinstance(said, dict):
            return said
    return {}


def _is_denied(error: Exception) -> bool:
    """Whether credentials were refused, which every file system tells in its own way."""
    told = [getattr(error, name, None) for name in ("code", "status", "status_code")]
    is_forbidden = type(error) is OSError and str(error).startswith("Forbidden: ")  # gcsfs
    return isinstance(error, PermissionError) or is_forbidden or 401 in told or 403 in told


def _stat_of(info: dict[str, Any]) -> Stat:
    return Stat(info["size"], str(next((info[key] for key in _VERSION if info.get(key)), "")))


def _listed_as(path: str, info: dict[str, Any]) -> Listed:
    size, version = _stat_of(info)
    if not isinstance(size, int):  # it cannot be told from another
        return Listed(path, 0, UNTIMED, version)
    return Listed(path, size, _modified(info), version)


def _modified(info: dict[str, Any]) -> datetime:
    found = next((info[key] for key in _MODIFIED if info.get(key)), None)
    try:
        if isinstance(found, (int, float)):
            found = datetime.fromtimestamp(found, UTC) if found > 0 else None
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        if not isinstance(found, datetime):  # unknown is young: nothing is removed for its age
            return UNTIMED
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return UNTIMED
