"""
Check that a store is the one its rows mean, and not, say, an empty mount point.

A file at its root, `MARKER`, has the ids of a store: one created at the first write, and those of
stores that were moved into it. Each row has the id of the store to which its file was written.
"""

import errno
import json
import random
import secrets
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from dj_npy._errors import ArrayCorruptError, ArrayMissingError, NpyError, StoreError
from dj_npy._format.metadata import STORE_ID, ArrayMetadata
from dj_npy._stores import Store
from dj_npy._stores.base import MARKER

Ids = tuple[str, ...]
"""Ids of a store; empty without a marker."""

_LONGEST = 64 << 10
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_SAMPLES = 20
"""Most files that are looked for if rows have no id."""
_LATELY_S = 2
"""Seconds for which readers that find no file reuse what a marker said."""
_RESERVED_S, _LOOK_S, _SETTLED_S = 1, 0.01, 1
"""Seconds that a marker may stay empty, between two looks, and for others to replace it."""


class Witness(Protocol):
    """What the rows of a write say about its store."""

    @property
    def thread(self) -> int:
        """The only thread in which it may be used."""
        ...

    @property
    def key(self) -> Hashable:
        """Identifies the table whose rows it knows."""
        ...

    @property
    def begun(self) -> dict[Store, Ids]:
        """The stores to which the insert has written, and their ids at that time."""
        ...

    def rows(self, store: Store) -> Iterator[list[ArrayMetadata] | None]:
        """
        Yield rows that refer to a store: some of the table, then of all of its schema.

        None stands for rows that the database does not show.
        """
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Keep others with the same database from giving a store its first id meanwhile."""
        ...


class Known(NamedTuple):
    """What this process knows of a store."""

    place: object
    """Value of `Store.place` when this was found."""
    ids: Ids
    agreed: set[Hashable]
    """Keys of the witnesses whose rows agree."""


def id_for_write(store: Store, witness: Witness | None) -> str | None:
    """
    Return the id for a row whose file is about to be written, or None.

    The store and the rows are read before the first write of a process for a table, and whenever
    another folder has taken the store's place.

    Raises
    ------
    StoreError
        If the rows mean another store. Nothing was written.
    """
    known, place = store.known, store.place()
    if known is None or known.place != place or (witness and witness.key not in known.agreed):
        known = store.known = _inspect(store, place, witness)
    if witness is not None:
        witness.begun.setdefault(store, known.ids)
    return known.ids[0] if known.ids else None


def _inspect(store: Store, place: object, witness: Witness | None) -> Known:
    store.last_read = None
    before, ids = store.known, read(store)
    if witness is not None and witness.thread != threading.get_ident():
        witness = None
    agreed: set[Hashable] = set()
    if before is not None and before.ids and ids is not None:
        if set(ids) & set(before.ids):
            agreed = before.agreed
        elif witness is None or witness.begun.get(store):
            # No row refers yet to what this insert has written so far.
            raise StoreError(
                f"refused to write to {_describe(store)}: {_describe_ids(ids)}; it was "
                f"{before.ids[0]} when this process wrote to it before. {_MOUNTED} "
                f"Nothing was written"
            )
    if witness is not None:
        if ids is not None:
            had_marker = bool(ids)
            ids = _agreed_ids(store, ids, witness)
            place = place if had_marker else store.place()  # the marker may be new
        agreed = {*agreed, witness.key}
    return Known(place, ids or (), agreed)


def _agreed_ids(store: Store, ids: Ids, witness: Witness) -> Ids:
    """Return the ids of a store that no row contradicts; a new store gets its first id."""
    found: dict[str, ArrayMetadata] = {}
    all_known = True
    for batch in witness.rows(store):
        all_known = batch is not None
        found |= {row.path: row for row in batch or ()}
        if any(row.store_id for row in found.values()):
            break
    rows = list(found.values())
    reason = contradiction(store, ids, rows)
    if reason is not None:
        again = read(store)
        if again is not None and again != ids:  # another process was first, and has inserted
            return _agreed_ids(store, again, witness)
        raise StoreError(f"refused to write to {reason}. Nothing was written")
    if ids or not (rows or all_known):
        return ids
    with witness.alone():
        return assign_id(store)


def contradiction(store: Store, ids: Ids | None, rows: Sequence[ArrayMetadata]) -> str | None:
    """
    Return why a store is not the one that some rows mean; None if it may be.

    Parameters
    ----------
    store : Store
        The store.
    ids : tuple of str or None
        Its ids; None if its marker must not be read.
    rows : sequence of ArrayMetadata
        Some rows that refer to it.
    """
    carried = [row.store_id for row in rows if row.store_id] if ids is not None else []
    for store_id in carried:
        if store_id not in (ids or ()):
            path = next(row.path for row in rows if row.store_id == store_id)
            return (
                f"{_describe(store)}: {_describe_ids(ids or ())}; the file of a row, {path!r}, was "
                f"written to store {store_id}. {_MOUNTED} {_ADOPT}"
            )
    if ids or not rows:
        return None
    sampled = rows[:: -(-len(rows) // _SAMPLES)]
    if any(is_there(store, row) for row in sampled):
        return None
    return (
        f"{_describe(store)}: {_describe_ids(())}, and none of the files is there of "
        f"{len(sampled)} rows that were looked for, such as {sampled[0].path!r}. "
        f"{_MOUNTED} {_ADOPT}"
    )


def wrong_store_reason(store: Store, row: ArrayMetadata) -> str | None:
    """Return why a missing file may be due to the wrong store; None if it is not."""
    store_id = row.store_id
    try:
        ids = _read_lately(store)
        if ids is None or (store_id is None and (ids or not store.is_empty())) or store_id in ids:
            return None
    except NpyError:  # this says nothing about the file
        return None
    if store_id is None:
        return f"{_describe(store)} is empty. {_MOUNTED}"
    return (
        f"{_describe(store)}: {_describe_ids(ids)}; the row was written to store {store_id}. "
        f"{_MOUNTED}"
    )


def is_there(store: Store, row: ArrayMetadata) -> bool:
    """Whether a row's file is in a store, with the size that the row expects."""
    try:
        expected_header = row.expected_header()
        found = store.stat(row.path)
    except (ArrayMissingError, ArrayCorruptError):
        return False
    except StoreError as error:
        if error.errno in _DENIED:  # this proves nothing
            return True
        raise
    return expected_header is None or found.nbytes == expected_header[0].file_size


def read(store: Store) -> Ids | None:
    """Return the ids in a store's marker; None if reading it is not allowed."""
    try:
        data, _ = store.read_beginning(MARKER, _LONGEST)
    except ArrayMissingError:
        return ()
    except StoreError as error:
        if error.errno in _DENIED:
            return None
        raise
    if not data:  # only reserved, on a disk without hard links
        return ()
    try:
        ids = json.loads(data)["store_id"]
        if ids and all(STORE_ID.fullmatch(each) for each in ids):
            return tuple(ids)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise StoreError(
        f"{MARKER} in {_describe(store)} does not say which store this is: found {data[:80]!r}. "
        f"Restore it from a copy, or remove it and run dj-npy adopt"
    )


def assign_id(store: Store) -> Ids:
    """Give a store without a marker its first id; of several writers, one wins."""
    ids = (secrets.token_hex(16),)
    try:
        if store.mark(_contents(ids)):
            return ids
        found = read(store)
        if not found and found is not None:  # the marker is still empty
            found = _read_settled(store, ids)
    except StoreError as error:
        if error.errno in _DENIED:  # at the root; in the array's folder it may be allowed
            return ()
        raise
    return found or ()


def _read_settled(store: Store, ids: Ids) -> Ids | None:
    """
    Return the final contents of a marker that is still empty.

    On a disk without hard links, another process is about to write it, or was killed.
    """
    until = time.monotonic() + random.uniform(1, 2) * _RESERVED_S
    while not (found := read(store)) and found is not None and time.monotonic() < until:
        time.sleep(_LOOK_S)
    if not found and found is not None:
        store.mark(_contents(ids), replace=True)
    time.sleep(_SETTLED_S)  # of several writers, the last one wins
    return read(store)


def replace(store: Store, ids: Ids) -> None:
    """Replace a store's ids."""
    store.mark(_contents(ids), replace=True)
    store.known = store.last_read = None


def _contents(ids: Ids) -> bytes:
    return json.dumps({"store_id": ids}).encode()


def _read_lately(store: Store) -> Ids | None:
    place, now = store.place(), time.monotonic()
    known: tuple[object, float, Ids | None] | None = store.last_read
    if known is None or known[0] != place or now - known[1] > _LATELY_S:
        known = store.last_read = place, now, read(store)
    return known[2]


_MOUNTED = "Is the file server mounted, and is this the right share, bucket or folder?"
_ADOPT = "If it is, and was moved or restored without that file: dj-npy adopt SCHEMA STORE"


def _describe(store: Store) -> str:
    where = getattr(store, "location", None) or getattr(store, "identity", "")
    return f"store {store.name!r} ({where})"


def _describe_ids(ids: Ids) -> str:
    return f"it is store {' and '.join(ids)}" if ids else f"there is no {MARKER} in it"
