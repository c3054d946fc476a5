"""Objects in S3, GCS and Azure, through obstore: written once, though answers may be lost."""

import secrets
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import FileIO
from posixpath import commonpath
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import S3Store

from dj_npy._concurrency.threads import Gate, cancellable, in_advance, pipe_to_thread
from dj_npy._errors import NpyError, StoreError
from dj_npy._stores import filecache, remote
from dj_npy._stores.base import PROBE, Replace
from dj_npy._stores.botocore import MultipartUploads
from dj_npy._stores.listed import Listed, Stat
from dj_npy._stores.obstore.failures import (
    ALREADY_EXISTS,
    CONDITION_FAILED,
    DENIED,
    FAILURES,
    MISSING,
    UNCLEAR,
    describe_error,
    first_line,
    is_bad_request,
    is_conflict,
    is_permanent,
    is_slow_down,
)
from dj_npy._stores.obstore.reader import TELLING, Client, CloudReader
from dj_npy._stores.reasons import code_of, is_expired, no_bucket
from dj_npy._stores.remote import BUFFERED, part_size, pauses
from dj_npy._stores.secret import Redactor

Version = dict[str, str | None]


MARK = "djnpy"
"""Object metadata by which a writer recognizes its own object; a name that Azure allows too."""
CHANGED = "djnpychanged"
"""Object metadata of a replaced object: the checksum of its new contents."""
_PAGE = 1000
"""Objects per page of a listing; S3 returns no more."""
_WORTH_A_PAGE = 100
"""Files that a page must show at least; so many headers are read in the same time."""
_NO_ETAG = '"00000000000000000000000000000000"'


class CloudStore(CloudReader):
    """
    A store in an object storage service.

    Parameters
    ----------
    name : str
        Name of the store in the DataJoint configuration.
    reader, writer, remover : obstore store
        Clients of the store's location. `reader` has a read time-out, which would also count the
        upload of a large object as silence, so `writer` has none. `remover` does not retry: a
        removal that is repeated after it was carried out would remove the next object of that name.
        It also sends conditional requests, as obstore retries some refusals that are final.
    identity : str
        Unique description of the location: service, bucket, location.
    redactor : Redactor
        Removes the credentials from all messages.
    direct : bool
        Whether objects may be read from presigned URLs, without a proxy.
    proxy : str, optional
        URL of the proxy in the store's settings.
    asker : obstore store, optional
        A reader that does not retry, for many requests at a time: whoever sends them slows down.
    plain : writer and remover, optional
        Clients that send no checksums, for servers that do not support them.
    unfinished : MultipartUploads, optional
        Lists unfinished uploads, which obstore cannot; None if the service leaves none.
    """

    lists_many = True

    def __init__(
        self,
        name: str,
        reader: Client,
        writer: Client,
        remover: Client,
        identity: str,
        *,
        redactor: Redactor | None = None,
        direct: bool = False,
        proxy: str | None = None,
        asker: Client | None = None,
        plain: tuple[Client, Client] | None = None,
        unfinished: MultipartUploads | None = None,
    ) -> None:
        super().__init__(
            name, reader, identity, redactor=redactor, direct=direct, proxy=proxy, asker=asker
        )
        self._unfinished = unfinished
        self._writer, self._remover = writer, remover
        self._plain, self._checksums = plain, plain is not None
        self._replaces: bool | None = None  # not probed yet
        self._gate = Gate(lambda: self.pace.small_in_flight)
        # obstore would list the others from their beginning, and drop what comes before.
        self.lists_in_order = isinstance(reader, S3Store)

    # Writing

    def _put_new(self, path: str, contents: Sequence[memoryview]) -> bool:
        return self._put_if("create", ALREADY_EXISTS, path, contents) is not None

    def _put_if(
        self,
        condition: Any,
        refusals: tuple[type[Exception], ...],
        path: str,
        contents: Sequence[memoryview],
        mark: str = "",
        **attributes: str,
    ) -> Version | None:
        """
        Write an object if a condition holds and return its version; otherwise return None.

        After an answer that was lost, or a refusal, the object at `path` is looked at: one with
        the mark of this very write is its own.
        """
        mark = mark or secrets.token_hex(16)
        waits, tried = pauses(), False
        while True:
            try:
                with self._gate.entered(may_stop=not tried):
                    began = time.monotonic()
                    result = obstore.put(
                        self._remover,
                        path,
                        list(contents) or b"",
                        attributes={MARK: mark, **attributes},
                        mode=condition,
                        use_multipart=False,
                    )
                    took_s = time.monotonic() - began
            except FAILURES as error:
                tried = True
                if isinstance(error, refusals) and not is_conflict(error):
                    # The first try of this very request may have succeeded, and its answer been
                    # lost.
                    return self._version_if_marked(path, mark)
                if is_permanent(error) or not (isinstance(error, UNCLEAR) or is_conflict(error)):
                    self._raise_translated(error, path, "write")
                pause = None if is_bad_request(error) else next(waits, None)
                if is_slow_down(error):
                    self.pace.refused()
                if pause is None or not is_slow_down(error):  # it would be one request more
                    with suppress(NpyError):
                        if version := self._version_if_marked(path, mark, self._remover):
                            return version
                if pause is None:
                    self._raise_translated(error, path, "write")
                time.sleep(pause)
            else:
                self.pace.accepted()
                if sum(map(len, contents)) <= TELLING:
                    self.pace.wrote(took_s)
                return _version(result)

    def _version_if_marked(
        self, path: str, mark: str, client: Client | None = None
    ) -> Version | None:
        """Return the version of an object if it has our mark; None if not, or if not readable."""
        try:
            found = obstore.get(client or self._reader, path, options={"head": True})
        except (*MISSING, *DENIED):
            return None
        except FAILURES as error:
            self._raise_translated(error, path, "write")
        return _version(found.meta) if found.attributes.get(MARK) == mark else None

    def _put(self, path: str, contents: Sequence[memoryview]) -> None:
        def put() -> None:
            obstore.put(self._writer, path, list(contents) or b"", use_multipart=False)

        with self._translated(path, "write"):
            try:
                put()
            except exceptions.GenericError as error:
                if not self._goes_without_checksums(error):
                    raise
                put()

    def _goes_without_checksums(self, error: Exception) -> bool:
        """Stop sending checksums if a request with one was refused."""
        if self._plain is None or not is_bad_request(error):
            return False
        (self._writer, self._remover), self._plain = self._plain, None
        self._checksums = False
        return True

    def _upload(self, path: str, pieces: Iterable[memoryview], nbytes: int) -> None:
        part = part_size(nbytes)

        def put(received: Iterator[memoryview]) -> None:
            try:
                obstore.put(
                    self._writer,
                    path,
                    received,
                    use_multipart=True,
                    chunk_size=part,
                    max_concurrency=max(1, BUFFERED // part),
                )
            except FAILURES as error:
                with suppress(NpyError):  # perhaps only the last answer was lost
                    if self._stat(path).nbytes == nbytes:
                        return
                self._goes_without_checksums(error)
                self._raise_translated(error, path, "write")

        def remove() -> None:
            with suppress(NpyError):
                self._remove(path)

        pipe_to_thread(pieces, put, remove)

    def _copy(self, source: str, path: str) -> None:
        with self._translated(source, "copy"):
            obstore.copy(self._writer, source, path)

    def _remove(self, path: str) -> None:
        with suppress(*MISSING), self._translated(path, "remove", but=MISSING):
            obstore.delete(self._remover, path)

    # Listing

    def _files(self, folder: str) -> Iterator[Listed]:
        with self._translated(folder, "list"):
            for page in in_advance(obstore.list(self._reader, folder or None, chunk_size=_PAGE)):
                for meta in page:
                    yield _listed_as(meta)

    def _listed_sizes(self, paths: Sequence[str]) -> dict[str, int]:
        wanted, found = set(paths), dict[str, int]()
        folder = commonpath([paths[0], paths[-1], paths[0].rpartition("/")[0]])
        prefix = folder or None
        at = 0
        for pages, _ in enumerate(cancellable(paths)):
            # If the files lie far apart, each costs less by itself than a page of others.
            if at == len(paths) or len(found) < pages * _WORTH_A_PAGE:
                break
            before = paths[at][:-1]  # a listing begins after its offset
            with self._translated(folder, "list"):
                page = next(
                    iter(obstore.list(self._reader, prefix, offset=before, chunk_size=_PAGE)), []
                )
            found.update((each["path"], each["size"]) for each in page if each["path"] in wanted)
            if len(page) < _PAGE:
                break
            at = max(at + 1, bisect_right(paths, page[-1]["path"]))
        return found

    def _listed(self, path: str) -> Listed:
        with self._translated(path, "read"):
            return _listed_as(self._meta(path))

    def _meta(self, path: str) -> Any:
        if self._ranges is not False:
            with suppress(exceptions.GenericError):  # such as for an empty object
                return obstore.get(self._reader, path, options={"range": (0, 1)}).meta
        return obstore.get(self._reader, path).meta

    def _uploads(self, folder: str) -> Iterator[Listed]:
        if self._unfinished is not None:
            with self._translated(folder, "list the unfinished uploads of"):
                yield from self._unfinished.listed(folder)

    def _abort(self, upload: Listed) -> None:
        assert self._unfinished is not None
        with self._translated(upload.path, "abort an upload to"):
            self._unfinished.abort(upload)

    # Changing

    def _open_to_change(self, path: str) -> tuple[FileIO, Replace | None]:
        if not self._replaces_conditionally(path):
            return super()._open_to_change(path)
        with self._translated(path, "map"):
            meta = self._meta(path)
        stat, version = Stat(meta["size"], meta["e_tag"] or ""), _version(meta)
        if stat.nbytes > remote.MAX_PUT:
            raise StoreError(
                f"could not map {self.where(path)} with mmap_mode='r+': it could only be written "
                f"back by one request, which takes {remote.MAX_PUT >> 30} GiB at most. Map it "
                f"with 'c', and insert what has become of it"
            )
        with self._open_cached(path, stat) as copy:
            file = filecache.working_copy((self.identity, path), copy, self.where(path))

        unanswered: set[str] = set()  # marks of writes that may have succeeded before an interrupt

        def put(contents: Sequence[memoryview], checksum: str) -> Version | None:
            condition = {key: value for key, value in version.items() if value}
            unanswered.add(mark := secrets.token_hex(16))
            refusals = (*CONDITION_FAILED, *MISSING)
            return self._put_if(condition, refusals, path, contents, mark, **{CHANGED: checksum})

        def replace(contents: Sequence[memoryview], checksum: str) -> None:
            nonlocal version
            replaced = put(contents, checksum)
            if replaced is None:
                with suppress(FileNotFoundError), self._translated(path, "read", but=MISSING):
                    found = obstore.get(self._reader, path, options={"head": True})
                    if found.attributes.get(MARK) in unanswered:
                        version = _version(found.meta)
                        replaced = put(contents, checksum)
            if replaced is None:
                raise StoreError(
                    f"refused to write {self.where(path)} ({self.identity}): the object has been "
                    f"changed or removed since it was mapped. Nothing was overwritten"
                )
            version = replaced
            unanswered.clear()

        return file, replace

    def _replaces_conditionally(self, wanted: str) -> bool:
        """Whether the server honours ``If-Match``; some ignore it and overwrite."""
        # This probe also settles whether checksums are sent.
        self._creates_exclusively(wanted)
        with self._probe_lock:
            if self._replaces is None:
                self._probing_for = wanted
                refusals = (*CONDITION_FAILED, *MISSING)
                condition = {"e_tag": _NO_ETAG, "version": "1"}
                try:
                    self._replaces = self._put_if(condition, refusals, PROBE, []) is None
                except StoreError:
                    # Is the condition refused, or any request? In the latter case this raises.
                    self._put(PROBE, [])
                    self._replaces = False
            return self._replaces

    def _changed(self, path: str) -> str | None:
        with self._translated(path, "read"):
            found = obstore.get(self._reader, path, options={"head": True})
        return found.attributes.get(CHANGED)

    # Errors

    def translate_error(self, error: Exception, path: str, verb: str) -> NpyError:
        what = f"could not {verb} {self.where(path)} ({self.identity})"
        code = code_of(str(error))
        if no_bucket(code) or (isinstance(error, MISSING) and verb == "list"):
            return StoreError(
                f"{what}: there is no such bucket or container. Create it, or correct "
                f"the store's configuration"
            )
        if isinstance(error, MISSING):
            if verb in ("read", "copy", "map"):
                return self._missing(path)
            # The upload is missing, or else the bucket.
            message = first_line(self._redactor.redact(str(error)))
            return StoreError(f"{what}: {message}. Try again, or is there no such bucket?")
        reason = describe_error(error, self._redactor, verb)
        if isinstance(error, UNCLEAR):
            reason += self._proxy_hint(error)
        is_denied = isinstance(error, DENIED) or is_expired(code)
        return self._store_error(f"{what}: {reason}", is_denied)


def _listed_as(meta: Any) -> Listed:
    return Listed(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"] or "")


def _version(meta: Any) -> Version:
    return {"e_tag": meta["e_tag"], "version": meta["version"]}
