"""Migrate columns of DataJoint's other types to ``<npy@>``, and back, in place."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Literal

import datajoint as dj

from dj_npy._concurrency.pipeline import Pipeline
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import is_npy, snapshot
from dj_npy._datajoint.storerows import TableWitness
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError, StoreError
from dj_npy._format.layout import Column
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._moves.batches import Keys, work_items_of
from dj_npy._moves.contents import Values
from dj_npy._moves.convert import Converted, Converter
from dj_npy._moves.migrated import Migrated
from dj_npy._moves.move import remove_old
from dj_npy._moves.rows import Rows, shown_key
from dj_npy._moves.survey import survey
from dj_npy._moves.twin import PAUSE_S, TRIES, Session, TableInUseError, Twin, session
from dj_npy._settings import settings
from dj_npy._stores import identity, open_store
from dj_npy._text import kind_of

Step = Literal["survey", "copy", "switch", "finish", "undo"]

_STEPS = ("survey", "copy", "switch", "finish", "undo")
_IN_FLIGHT = 96 << 20
"""Bytes of values, unpacked ones and files at the same time; a larger value goes alone."""
_COMMIT_S, _COMMIT_ROWS = 0.5, 64
"""How long and how many rows wait for the end of a transaction."""
_FEW = 32
"""Rows that may be copied while nobody else gets at the table."""


def migrate(
    table: Any,
    attribute: str | Sequence[str],
    store: str | None = None,
    *,
    to: Literal["npy", "blob"] = "npy",
    step: Step = "survey",
    scalars: bool = False,
    progress: bool = False,
) -> Migrated:
    """
    Turn a column of another type of DataJoint's into ``<npy@>``, in place, or back.

    Takes ``longblob``, ``<blob>``, ``<blob@>``, ``<attach>``, ``<attach@>`` and ``<filepath@>`` of
    ``.npy`` files, ``<npy@>``, and codecs that build on them; blobs of any version of DataJoint
    for Python. The table can be used all the while. Each step can be stopped, killed and called
    again:

    *survey*
        Looks at every value, and changes nothing.
    *copy*
        Adds a hidden column, and writes there what the attribute has, many values side by side. A
        file is read back, and its checksum compared. Values that somebody changes meanwhile are
        copied again.
    *switch*
        Copies what is still to be copied, and lets the two columns change names, while it keeps
        others out of the table for a moment. If a value cannot be converted, nothing is switched.
    *finish*
        Removes the old column. What it had cannot be had back after that.
    *undo*
        Until then: everything as before. What was inserted since the switch is converted back.

    Memory use does not grow with the number of rows. Other processes keep a table's heading in
    memory: start them anew after the switch.

    Parameters
    ----------
    table : datajoint.Table
        A table, or its class; not restricted.
    attribute : str or sequence of str
        Name of an attribute, or of several.
    store : str, optional
        Name of the store for ``<npy@>``; default: the default store.
    to : {"npy", "blob"}
        The new type, ``<npy@store>`` or ``<blob>``.
    step : {"survey", "copy", "switch", "finish", "undo"}
        What to do.
    scalars : bool
        Take Python's numbers for arrays without axes. Without this, they cannot be converted.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Migrated
        ``migrated.ok``, ``migrated.rows``, ``migrated.findings``, ``migrated.definition``,
        ``migrated.state``, ``migrated.to_json()``.

    Raises
    ------
    ArrayInvalidError
        For anything but a table with such attributes, or a step that is not the next.
    StoreError
        If the store refuses a file, within a transaction, or if others use the table for too long
        for a switch. What was copied until then is kept.
    datajoint.DataJointError
        If the database refuses a query, as for an account without ALTER.

    Examples
    --------
    >>> migrated = dj_npy.migrate(Recording, "waveform")
    >>> migrated.rows, migrated.ok
    (1, True)
    """
    table, names, spec = _checked(table, attribute, store, to, step)
    report = Migrated(f"{table.database}.{table.table_name}", names, step)
    connection = table.connection
    with ExitStack() as stack:
        own = stack.enter_context(session(connection))
        now = stack.enter_context(snapshot(connection))
        if step != "survey" and not now.try_lock("migrate"):
            raise StoreError("another migration is at work on this database")
        now.end()  # an open transaction would keep `collect` waiting
        migration = _Migration(own, table, names, spec, scalars, progress, report)
        migration.check(step)
        getattr(migration, step)()
        report.state = migration.twins()[0].state
    return report


def _checked(
    table: Any, attribute: str | Sequence[str], store: str | None, to: str, step: str
) -> tuple[Any, list[str], str]:
    """Return a table, its attributes, and the type that they are to have."""
    table = table() if isinstance(table, type) and issubclass(table, dj.Table) else table
    if not isinstance(table, dj.Table) or table.restriction:
        raise ArrayInvalidError(
            f"dj_npy.migrate takes a whole table, not {kind_of(table)}: "
            f"dj_npy.migrate(Recording, 'waveform')"
        )
    names = [attribute] if isinstance(attribute, str) else list(attribute)
    full = dj.FreeTable(table.connection, table.full_table_name)
    if not names or len({*names}) < len(names) or not {*names} <= {*full.heading.names}:
        raise ArrayInvalidError(
            f"expected different attributes of {table.table_name}, not {attribute!r:.200}; it has: "
            f"{', '.join(full.heading.names)}"
        )
    if {*names} & {*full.primary_key}:
        raise ArrayInvalidError("attributes of the primary key have no arrays")
    if to not in ("npy", "blob") or step not in _STEPS:
        raise ArrayInvalidError(
            f"to is 'npy' or 'blob', and step one of {', '.join(_STEPS)}; not {to!r}, {step!r}"
        )
    if not isinstance(store, str | None) or (to == "blob" and store is not None):
        raise ArrayInvalidError("store is the name of a store, for to='npy'")
    if table.connection.in_transaction:
        raise StoreError(
            "within a transaction, its rows cannot be migrated by another session: migrate before "
            "it, or after"
        )
    if to == "npy":
        open_store(table.connection._config, store)
    return full, names, f"<npy@{store or ''}>" if to == "npy" else "<blob>"


class _Migration:
    """The steps; see `migrate`."""

    def __init__(
        self,
        own: Session,
        table: Any,
        names: list[str],
        spec: str,
        scalars: bool,
        progress: bool,
        report: Migrated,
    ) -> None:
        self._own, self._table, self._names, self._spec = own, table, names, spec
        self._scalars, self._progress, self._report = scalars, progress, report
        self._counts: dict[str, Counter[str]] = {}
        """What is wrong with values of each attribute, as in the report."""

    def twins(self) -> list[Twin]:
        """Return the columns as they are now."""
        return [Twin(self._own, self._table, name) for name in self._names]

    def check(self, step: str) -> None:
        """Raise if a step is not the next one."""
        for twin in self.twins():
            Values(twin.attribute, self._table.connection).check_supported(twin.table_name)
            if step == "finish" and twin.state != "switched":
                raise ArrayInvalidError(
                    f"{twin.name} is not switched yet ({twin.state}): there is no old column"
                )
            if step == "undo" and twin.state == "not begun":
                raise ArrayInvalidError(f"there is no migration of {twin.name} to be undone")
            if step in ("copy", "switch"):
                self._check_next(twin, step)

    def _check_next(self, twin: Twin, step: str) -> None:
        now = str(twin.attribute.type)
        if twin.state == "not begun" and now == self._spec == "<blob>":
            raise ArrayInvalidError(f"{twin.name} of {twin.table_name} is {now} already")
        if twin.state == "copying" and (begun := str(twin.twin.type)) != self._spec:
            raise ArrayInvalidError(
                f"a migration of {twin.name} to {begun} was begun, not to {self._spec}: go on with "
                f"that, or undo it first"
            )
        if twin.state == "switched" and now != self._spec:
            raise ArrayInvalidError(
                f"{twin.name} is switched to {now}, not to {self._spec}: finish that migration "
                f"first, or undo it"
            )
        if twin.state == "switched" and step == "copy":
            raise ArrayInvalidError(
                f"{twin.name} is switched already: finish the migration, or undo it"
            )

    def survey(self) -> None:
        """Look at every value."""
        twins = self.twins()
        to_blob = self._spec == "<blob>"
        survey(self._table, twins, self._scalars, self._progress, self._report, to_blob=to_blob)
        self._report.to_do = self._count_to_do()
        self._define(self._spec)

    def copy(self) -> None:
        """Copy until nothing is left but what cannot be converted."""
        for twin in self.twins():
            if twin.state == "not begun":
                twin.begin(self._spec)
        for twin in self.twins():
            if twin.state == "copying":
                self._copy(twin)
        self._report.to_do = self._count_to_do()
        self._define(self._spec)

    def _count_to_do(self) -> int:
        count = sum(twin.count_to_do() for twin in self.twins() if twin.state == "copying")
        self._own.rollback()
        return count

    def switch(self) -> None:
        """Let the columns change names."""
        self.copy()
        twins = [twin for twin in self.twins() if twin.state == "copying"]
        if not self._report.counts and twins:
            self._exchange(twins)
            self._report.to_do = self._count_to_do()

    def finish(self) -> None:
        """Remove the old columns."""
        twins = self.twins()
        for twin in twins:
            name = twin.name
            missing = 0 if twin.nullable else twin.count_missing()
            if missing:
                raise ArrayInvalidError(
                    f"{missing} rows of {twin.table_name} were inserted without {name} since the "
                    f"switch, which may not be NULL: give them one, or delete them"
                )
        self._drop(twins)

    def undo(self) -> None:
        """Give the table its old columns back."""
        switched = [twin for twin in self.twins() if twin.state == "switched"]
        for twin in switched:
            self._copy(twin)
        if switched and not self._report.counts:
            self._exchange(switched)
        twins = self.twins()
        if all(twin.state != "switched" for twin in twins):  # else this would be `finish`
            self._drop([twin for twin in twins if twin.state == "copying"])

    def _define(self, spec: str) -> None:
        for name in self._names:
            each = self._table.heading[name]
            null = " = null" if each.nullable else ""
            comment = f"  # {each.comment}" if each.comment else ""
            self._report.definition.append(f"{name}{null} : {spec}{comment}")

    def _copy(self, twin: Twin) -> None:
        """Bring a twin up to date, as often as others change the table meanwhile."""
        converter = self._converter(twin)
        count = twin.count_to_do()
        self._own.rollback()
        with Progress("migrate", (count, 0) if self._progress else None) as bar:
            while self._copy_once(twin, converter, bar) and not self._is_nearly_done(twin):
                pass

    def _is_nearly_done(self, twin: Twin) -> bool:
        left = twin.count_to_do()
        self._own.rollback()
        return left <= sum(self._report.counts.values()) + _FEW

    def _converter(self, twin: Twin) -> Converter:
        converter = Converter(twin, self._table, self._scalars)
        if converter.store is not None:
            identity.id_for_write(converter.store, TableWitness(self._table))
        return converter

    def _copy_once(self, twin: Twin, converter: Converter, bar: Progress) -> int:
        """Copy the rows that are to do; return how many were."""
        report = self._report
        # Each of these is tried anew.
        report.counts -= self._counts.pop(twin.name, Counter())
        report.findings = [each for each in report.findings if each.attribute != twin.name]
        counts = self._counts[twin.name] = Counter()
        column = Column(self._table.database, self._table.table_name, twin.name, twin.key, None)
        with Keys() as keys:
            keys.add(twin.to_do())
            self._own.commit()
            work_items = work_items_of(twin, keys, converter)
            pipeline = Pipeline(work_items, settings.max_workers, _IN_FLIGHT, adapt=True)
            done = waiting = 0
            begun = time.monotonic()
            try:
                for item in pipeline:
                    key, version = item.item
                    converted: Converted = item.tasks[0].result()
                    if converted.what == "not tried":
                        continue
                    if converted.what:
                        message = converted.message
                        report.add(converted.what, shown_key(column, key), twin.name, message)
                        counts[converted.what] += 1
                    elif self._settle(twin, key, version, converted):
                        done, waiting = done + 1, waiting + 1
                        report.rows += converted.value is not None
                        report.nbytes += converted.nbytes
                    else:
                        report.changed += 1
                        converter.discard(converted)
                    bar.add(converted.nbytes)
                    if waiting >= _COMMIT_ROWS or time.monotonic() > begun + _COMMIT_S:
                        self._own.commit()
                        waiting, begun = 0, time.monotonic()
            finally:
                pipeline.close()
                self._own.commit()
        if converter.failure is not None:
            raise StoreError(
                f"{converter.failure}. {report.rows:,} values were copied, which is kept; nothing "
                f"was switched. Mend that, and call it again"
            ) from converter.failure
        return done

    def _settle(self, twin: Twin, key: tuple[Any, ...], version: Any, converted: Converted) -> bool:
        """Write what the twin gets into the row; return whether the row still is as it was read."""
        if not twin.write(key, version, converted.value):
            return False
        if converted.checksum is not None and not twin.has(key, converted.checksum):
            self._own.rollback()
            raise StoreError(
                f"{twin.table_name}, attribute {twin.name}, key {key}: the database does not give "
                f"back the blob as it was written, and nothing was switched. Does a trigger change "
                f"it? Drop that, and call it again"
            )
        return True

    def _exchange(self, twins: Sequence[Twin]) -> None:
        """Let attributes and twins change names at a moment when all are equal."""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_S)
                for twin in twins:
                    self._copy(twin)
                if self._report.counts:
                    return
            try:
                if self._exchanged(twins):
                    return
            except TableInUseError:
                if attempt == TRIES - 1:
                    raise
        raise StoreError(
            f"{twins[0].table_name} changes faster than it is copied: nothing was switched, and "
            f"what was copied is kept. Try again"
        )

    def _exchanged(self, twins: Sequence[Twin]) -> bool:
        """Switch with the table locked; False if there is too much to do for that."""
        converters = [self._converter(twin) for twin in twins]
        try:
            twins[0].lock()
            if sum(twin.count_to_do() for twin in twins) > 2 * _FEW:
                return False
            for twin, converter in zip(twins, converters, strict=True):
                self._copy_once(twin, converter, Progress("", None))
            if not self._report.counts:
                for twin in twins:
                    twin.switch()
                twins[0].keep()
        finally:
            twins[0].unlock()
        return True

    def _drop(self, twins: Iterable[Twin]) -> None:
        """Remove the twins, and files to which no row refers any more."""
        report, has_files = self._report, False
        with Rows() as rows:
            for twin in twins:
                if is_npy(twin.twin.codec, twin.twin.store):
                    for (text,) in twin.twins():
                        with suppress(ArrayCorruptError):  # a row of after the switch has none
                            row = ArrayMetadata.of(text)
                            rows.note_old_file(row.store, row.path)
                            has_files = True
                self._own.rollback()
            for twin in twins:
                twin.drop()
            if has_files:  # else the account need not see all that may refer to one
                remove_old(self._table.connection, rows, report)
