"""Remove the files that no row refers to, and no others."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

from dj_npy._concurrency.threads import side_by_side
from dj_npy._datajoint.catalog import Snapshot, one_connection, snapshot
from dj_npy._datajoint.grants import Sight, sight
from dj_npy._datajoint.sessions import EVER_S, may_be_copying, open_for_s
from dj_npy._datajoint.storerows import check_stores
from dj_npy._errors import ArrayInvalidError, ArrayMissingError, StoreError
from dj_npy._format.layout import Column, Layout
from dj_npy._stores import Listed, Store, open_store, schema_addressing
from dj_npy._stores.local.links import local_stores, nested_roots
from dj_npy._stores.local.store import LocalStore
from dj_npy._text import kind_of
from dj_npy._upkeep.collection import Collection
from dj_npy._upkeep.dropped import Dropped
from dj_npy._upkeep.inventory import Inventory, Place

_WAIT_S = 2
"""Seconds to wait for short transactions that `older_than` does not cover."""
_WAIT_FOR_COPIES_S = 60
"""Seconds to wait for transactions that may have copied rows."""


def collect(
    *schemas: Any,
    store: str | None = None,
    older_than: timedelta = timedelta(days=1),
    dry_run: bool = True,
    at_most: int | None = None,
    blind: bool = False,
    dropped: bool = False,
) -> Collection:
    """
    Find, and optionally remove, the files of some schemas to which no row refers.

    Such files are left by deleted or replaced rows, rolled-back transactions and killed processes.
    The stores are listed first; then the references of all schemas of the database are read, as
    copied rows share a file. Only files named like an array of an ``<npy@>`` column are considered;
    all others are left alone. Memory use does not grow with their number.

    Run it with an account that sees all schemas that use the store, and never on a store that
    another database server also uses.

    Parameters
    ----------
    schemas : datajoint.Schema or str
        The schemas whose files are checked; at least one.
    store : str, optional
        Name of a store. Default: the stores that the schemas' ``<npy@>`` columns and rows name.
    older_than : timedelta
        Younger files are spared, as a file is written before its row. Use more than the duration of
        any insert and transaction; an open transaction that is older, and that this account can
        see, is an error.
    dry_run : bool
        Only report. Nothing is removed.
    at_most : int, optional
        Most arrays to remove; if there are more, none is removed. Default: as many as that store
        has with a row, or 20 if these are fewer; and none if no row has any, which is more likely a
        database that lacks rows than an unused store.
    blind : bool
        Remove even if the account cannot see everything that may refer to a file: see
        ``found.unseen``. On MySQL and MariaDB it needs ``SELECT`` and ``PROCESS`` on ``*.*``.
    dropped : bool
        Also remove the files of dropped schemas, tables and columns, which are otherwise only
        counted, and look for them in all stores. They are recognized by their paths alone: check
        ``found.owners`` first.

    Returns
    -------
    Collection
        ``found.counts``, ``found.nbytes``, ``found.orphans``, ``found.removed``,
        ``found.failures``, ``found.unseen``, ``found.to_json()``.

    Raises
    ------
    ArrayInvalidError
        For an invalid schema, age or number.
    StoreError
        If `at_most` would be exceeded, the account cannot see everything, a store cannot be listed
        or is not the one that the rows mean; if another collection is running, if a transaction is
        open for too long, or has changed something and does not end within a minute, or if this
        connection is in a transaction. Nothing was removed.
    datajoint.DataJointError
        If the database refuses a query. Nothing was removed.

    Examples
    --------
    >>> found = dj_npy.collect(schema)
    >>> found.live, found.nbytes, found.removed
    (1, 0, 0)
    """
    if not isinstance(older_than, timedelta) or older_than < timedelta(0):
        raise ArrayInvalidError(f"older_than is an age of 0 or more, not {kind_of(older_than)}")
    if at_most is not None and (type(at_most) is not int or at_most < 0):
        raise ArrayInvalidError(f"at_most is a number of arrays, 0 or more, not {kind_of(at_most)}")
    names, connection = one_connection(schemas, "collect")
    if connection.in_transaction:
        raise StoreError(
            "within a transaction, what it has inserted could be taken for orphans: collect "
            "before it, or after"
        )
    report = Collection(dry_run, older_than, names)
    with ExitStack() as stack:
        before = stack.enter_context(snapshot(connection))
        if not dry_run:
            _lock(before)
        attributes = before.attributes(names)
        # A case-insensitive disk would show the files of `lab` as those of `LAB`.
        visible = {schema.casefold() for schema, _, _ in attributes}
        gone = [name for name in names if name.casefold() not in visible]
        columns = before.columns([name for name in names if name not in gone])
        named = before.stores(columns) if store is None else set()
        caseless = before.caseless
        seen = sight(before.select, before.backend)
        before.end()  # keeps the lock
        report.unseen = seen.unseen
        if not (dry_run or blind):
            _check_sight(
                seen,
                "Collect",
                "; or, if nothing but what it sees uses these stores, with blind=True (--blind)",
            )
        if dropped and not dry_run and not seen.schemas:
            raise StoreError(
                f"an account that does not see all schemas cannot tell which are gone: "
                f"{'; '.join(seen.unseen)}. Nothing was removed. Collect with an account that "
                f"does, or without dropped=True (--dropped)"
            )
        all_stores = dropped or gone or not columns
        stores = _stores(columns, named, store, connection._config, bool(all_stores))
        report.stores = [each.name for each in stores]
        check_stores(connection, columns, stores)
        inventory = stack.enter_context(Inventory())
        local = local_stores(connection._config)
        common = (columns, names, attributes, connection._config, caseless)
        places = [_place(*common, each, nested_roots(each, local)) for each in stores]
        for number, place in enumerate(places):
            inventory.list(number, place, older_than, report)
        if missing := [name for name in gone if not inventory.has_files_of(name)]:
            raise ArrayInvalidError(
                f"no schema {', '.join(map(repr, missing))} with a table in it is visible to this "
                f"account, nor files of one in a store ({', '.join(report.stores)})"
            )
        if not dry_run:
            _spare_copied(connection, inventory, local)
        with _settled_snapshot(connection, None if dry_run else older_than) as after:
            inventory.spare(after.references(), local)
        inventory.count(report, stores, dropped)
        report.weigh(inventory.shares(stores), at_most)
        if dry_run:
            return report
        if report.too_many:
            raise StoreError(f"{report.too_many}. Nothing was removed")
        inventory.remove(report, stores)
        for place in places:
            place.prune(dropped)
    return report


def remove_unreferenced(connection: Any, files: Iterable[tuple[Store, str]]) -> Collection:
    """
    Remove files, of any age, unless a row of any schema refers to them as `collect` decides it.

    Rows must have referred to them, so that no row of an insert in progress is about to: only a
    copy of such a row can, and those are waited for.

    Raises
    ------
    StoreError
        As `collect` does. Nothing was removed.
    """
    report = Collection(False, timedelta(0), [])
    local = local_stores(connection._config)
    stores: list[Store] = []
    with ExitStack() as stack:
        before = stack.enter_context(snapshot(connection))
        _lock(before)
        before.end()  # keeps the lock
        inventory = stack.enter_context(Inventory())
        for store, listed in filter(None, side_by_side(_listed, files, Store.workers)):
            if store not in stores:
                stores.append(store)
            prefix = [*filter(None, schema_addressing(connection._config, store).prefix.split("/"))]
            core = "/".join(listed.path.split("/")[len(prefix) :])
            inventory.add(stores.index(store), core, listed)
        _spare_copied(connection, inventory, local)
        with snapshot(connection) as after:
            inventory.spare(after.references(), local)
        inventory.count(report, stores, dropped=False)
        inventory.remove(report, stores)
    return report


def check_sees_all(connection: Any) -> None:
    """Raise if an account does not see all that may refer to a file."""
    with snapshot(connection) as now:
        _check_sight(sight(now.select, now.backend), "Remove them", "; or leave them to collect")


def _check_sight(seen: Sight, do: str, otherwise: str) -> None:
    if not (seen.schemas and seen.transactions):
        raise StoreError(
            f"this account does not see all that may refer to a file: {'; '.join(seen.unseen)}. "
            f"Nothing was removed. {do} with an account that does (GRANT SELECT, PROCESS ON *.* "
            f"TO ...){otherwise}"
        )


def _lock(now: Snapshot) -> None:
    if not now.try_lock("collect"):
        raise StoreError("another collection is at work on this database. Nothing was removed")


def _listed(file: tuple[Store, str]) -> tuple[Store, Listed] | None:
    store, path = file
    try:
        return store, store.listed(path)
    except ArrayMissingError:
        return None


def _spare_copied(connection: Any, inventory: Inventory, local: Sequence[LocalStore]) -> None:
    """
    Spare what rows refer to now, and wait for transactions that may have copied others.

    ``INSERT ... SELECT`` copies a reference to a file of any age. If the copied row is deleted
    before that is committed, no snapshot shows either row. But whatever is copied after now is seen
    now, and whatever was copied before is seen after this function.
    """
    with snapshot(connection) as now:
        inventory.spare(now.references(), local)
        copying = may_be_copying(now)
    until = time.monotonic() + _WAIT_FOR_COPIES_S
    while copying:
        with snapshot(connection) as now:
            copying &= may_be_copying(now)
        if copying and time.monotonic() > until:
            raise StoreError(
                f"a transaction that has changed something is open for more than "
                f"{_WAIT_FOR_COPIES_S} s: rows that it has copied cannot be seen yet. Nothing "
                f"was removed. Try again when it has ended"
            )
        time.sleep(_WAIT_S / 10 if copying else 0)


@contextmanager
def _settled_snapshot(connection: Any, older_than: timedelta | None) -> Iterator[Snapshot]:
    """Open a snapshot when no transaction is older than the age of files."""
    if older_than is not None:
        _wait_for_old_transactions(connection, older_than)
    # Not earlier: transactions that had ended by then must be seen.
    with snapshot(connection) as now:
        yield now


def _wait_for_old_transactions(connection: Any, older_than: timedelta) -> None:
    until = time.monotonic() + _WAIT_S
    while True:
        with snapshot(connection) as now:
            age_s = open_for_s(now) or 0
        if age_s <= older_than.total_seconds():
            return
        if time.monotonic() > until:
            if age_s == EVER_S:
                raise StoreError(
                    "nobody can tell for how long a transaction has been open, and the rows that "
                    "it inserts cannot be seen yet: it was prepared (pg_prepared_xacts, XA "
                    "RECOVER), or the server's clock was set back. Nothing was removed. Commit it "
                    "or roll it back"
                )
            raise StoreError(
                f"a transaction is open for {age_s:.0f} s, longer than older_than "
                f"({older_than}): the rows that it inserts cannot be seen yet. Nothing was "
                f"removed. Wait until it ends, or choose a greater age"
            )
        time.sleep(_WAIT_S / 10)


def _place(
    columns: Sequence[Column],
    schemas: Sequence[str],
    attributes: Iterable[tuple[str, str, str]],
    config: Any,
    caseless: bool,
    store: Store,
    kept: set[str],
) -> Place:
    addressing = schema_addressing(config, store)
    layout = Layout(columns, addressing.prefix, caseless, kept)
    gone = Dropped(schemas, attributes, addressing.prefix)
    # The whole prefix if partition folders come first, or if the server ignores case.
    anywhere = addressing.partition or caseless
    folders = [addressing.prefix.strip("/")] if anywhere else gone.folders()
    return Place(store, layout, gone, folders)


def _stores(
    columns: Sequence[Column], named: set[str], name: str | None, config: Any, all_stores: bool
) -> list[Store]:
    names = [column.store for column in columns] if name is None else [name]
    if name is None:
        # Arrays may have been moved; and nothing tells the store of what was dropped.
        names += [
            each
            for each, spec in config.stores.items()
            if isinstance(spec, dict) and (all_stores or each in named)
        ]
    return list({store.name: store for store in (open_store(config, n) for n in names)}.values())
