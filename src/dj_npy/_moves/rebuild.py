"""Bring rows back from the paths and headers of arrays, where there is no backup."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import datajoint as dj

from dj_npy._concurrency.pipeline import IN_FLIGHT, Pipeline, Task, WorkItem
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import another_session, snapshot
from dj_npy._datajoint.codec import describe
from dj_npy._datajoint.insertmany import insert
from dj_npy._errors import ArrayCorruptError, NpyError, StoreError
from dj_npy._format.path import name_in_path
from dj_npy._moves.declaring import plain_table
from dj_npy._moves.definitions import Definition, Structure
from dj_npy._moves.findings import Findings
from dj_npy._moves.incoming import decoded, take_all_values
from dj_npy._moves.packedarrays import hashes, stored_header
from dj_npy._moves.pathkeys import FoundFile, FoundFiles, files_of, key_of_folder
from dj_npy._moves.present import PresentRows
from dj_npy._moves.selection import make_neutral
from dj_npy._settings import settings
from dj_npy._stores import Store, identity, open_store, schema_addressing
from dj_npy._stores.remote import BUFFERED
from dj_npy._text import in_units
from dj_npy._upkeep.verify import Finding

_ROWS_AT_ONCE = 500


@dataclass
class TableFound:
    """What a store has of a table."""

    table: str
    """Schema and table, as folders spell them where it is not there."""
    files: int = 0
    """Number of its files."""
    already: int = 0
    """Number of rows that are there; their files are left alone."""
    rows: int = 0
    """Number of rows that were inserted, or would be."""
    arrays: dict[str, str] = field(default_factory=dict)
    """dtype and shape of one array of each attribute."""
    wants: str = ""
    """Why none of its rows can be inserted, if so."""


@dataclass
class Rebuilt(Findings):
    """
    The result of `rebuild`.

    ``str(rebuilt)`` is text, ``rebuilt.to_json()`` JSON.
    """

    store: str
    """Name of the store."""
    inserted: bool
    """Whether rows were inserted."""
    tables: list[TableFound] = field(default_factory=list)
    """What the store has of each table; of those that are there, parents first."""
    rows: int = 0
    """Number of rows that were inserted, or would be."""
    nbytes: int = 0
    """Size of their files in bytes."""

    @property
    def ok(self) -> bool:
        """Whether all files are of rows that are there."""
        return not self.counts and not any(each.wants for each in self.tables)

    def to_json(self) -> str:
        """Return the whole report as JSON."""
        own = {
            **vars(self),
            "tables": [asdict(each) for each in self.tables],
            "findings": [finding._asdict() for finding in self.findings],
        }
        return json.dumps({"ok": self.ok, **own}, indent=2)

    def __str__(self) -> str:
        what = "inserted" if self.inserted else "can be inserted"
        lines = [f"{self.rows:,} rows {what}, with {in_units(self.nbytes)} of arrays"]
        for each in self.tables:
            lines.append(
                f"{each.table}: {each.files:,} files, {each.already:,} rows there, "
                f"{each.rows:,} {what}"
            )
            lines += [f"  {name}: {example}" for name, example in each.arrays.items()]
            if each.wants:
                lines.append(f"  {each.wants}")
        return "\n".join([*lines, *self.finding_lines()])


def rebuild(
    store: str | None = None,
    *,
    insert_rows: bool = False,
    connection: Any = None,
    progress: bool = False,
) -> Rebuilt:
    """
    Find out from the paths and headers in a store which rows there were, and insert them.

    For a database that was lost without a backup: declare its tables first, by importing the
    pipeline's classes. Rows come back in tables that want no more than a key and arrays, all other
    attributes being nullable or having a default; so do the rows of parents to which they refer,
    if these want no more either. Of all other tables, this tells what the store has.

    Rows that are there are left alone, and so are their files. Where a row has several files for an
    attribute, as after an update, none is chosen.

    Parameters
    ----------
    store : str, optional
        Name of a store in DataJoint's configuration. Default: the default one.
    insert_rows : bool
        Insert the rows. This reads all of their files, for their checksums. By default, this only
        tells what would be inserted.
    connection : datajoint.Connection, optional
        Default: ``dj.conn()``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Rebuilt
        ``rebuilt.ok``, ``rebuilt.rows``, ``rebuilt.tables``, ``rebuilt.findings``,
        ``rebuilt.to_json()``.

    Raises
    ------
    StoreError
        If the store cannot be listed, or within a transaction.
    datajoint.DataJointError
        If the database refuses a query. What was inserted until then stays so.

    Examples
    --------
    >>> rebuilt = dj_npy.rebuild("main", connection=schema.connection)
    >>> rebuilt.rows, rebuilt.inserted
    (0, False)
    """
    connection = dj.conn() if connection is None else connection
    if connection.in_transaction:
        raise StoreError(
            "within a transaction, its rows cannot be seen by another session: rebuild before it, "
            "or after"
        )
    source = open_store(connection._config, store)
    report = Rebuilt(source.name, insert_rows)
    with ExitStack() as stack:
        bar = stack.enter_context(Progress("rebuild", (0, 0) if progress else None))
        addressing = schema_addressing(connection._config, source)
        listed = ((each.path, each.nbytes) for each in source.files())
        files = stack.enter_context(FoundFiles(listed, addressing))
        found = files.tables()
        present = stack.enter_context(PresentRows())
        with snapshot(connection) as now:
            make_neutral(now)
            names = {
                (name_in_path(each.schema), name_in_path(each.table)): (each.schema, each.table)
                for each in now.columns(now.schemas())
            }
            there = [names[schema, table] for schema, table, _ in found if (schema, table) in names]
            definitions = Structure(now).with_parents(there)
            for number, each in enumerate(definitions):
                keys = replace(each, attributes=tuple(a for a in each.attributes if a.in_key))
                present.add(number, keys, keys, now)
        counts = {names[each[:2]]: each[2] for each in found if each[:2] in names}
        own = stack.enter_context(another_session(connection))
        take_all_values(own)
        rebuilding = _Rebuilding(own, source, definitions, present, report)
        for definition in definitions:
            of_table = TableFound(".".join(definition.name), counts.get(definition.name, 0))
            report.tables.append(of_table)
            if of_table.files:
                folders = files.rows(*map(name_in_path, definition.name))
                rows = rebuilding.rows(definition, of_table, folders, addressing)
                rebuilding.insert(definition, of_table, rows, bar.add)
        for schema, table, count in found:
            if (schema, table) not in names:
                wants = "there is no such table with arrays: declare it first"
                report.tables.append(TableFound(f"{schema}.{table}", count, wants=wants))
    report.rows = sum(each.rows for each in report.tables)
    return report


class _Rebuilding:
    """Makes rows of folders, and inserts them."""

    def __init__(
        self,
        connection: Any,
        store: Store,
        definitions: Sequence[Definition],
        present: PresentRows,
        report: Rebuilt,
    ) -> None:
        self._connection, self._store, self._report = connection, store, report
        self._numbers = {each.name: number for number, each in enumerate(definitions)}
        self._definitions = {each.name: each for each in definitions}
        self._present = present
        self._ids = identity.read(store) or ()
        self._tables: dict[tuple[str, str], tuple[Definition, Any]] = {}

    def rows(
        self,
        given: Definition,
        of_table: TableFound,
        folders: Iterator[tuple[str, list[FoundFile]]],
        addressing: Any,
    ) -> Iterator[tuple[dict[str, str], dict[str, FoundFile]]]:
        """Yield the key of each row that can be inserted, and the file of each array."""
        arrays = [each for each in given.attributes if each.is_array]
        number = self._numbers[given.name]
        wanted = _wants(given)
        for folder, files in folders:
            key = key_of_folder(given, folder, addressing)
            if key is None:
                self._tell(given, "key unknown", {}, "", files, "its folder does not tell the key")
                continue
            if self._present.has(number, list(key.values())):
                of_table.already += 1
                continue
            if wanted:
                of_table.wants = f"wants {', '.join(wanted)}, which no path tells"
            chosen: dict[str, FoundFile] = {}
            problem = None
            for each in arrays:
                some = files_of(files, name_in_path(each.name))
                if len(some) > 1:
                    message = f"{len(some)} files, of which the row may have had any"
                    problem = ("several files", each.name, some, message)
                elif some:
                    chosen[each.name] = some[0]
                    self._note_example(of_table, each.name, some[0])
                elif not each.nullable:
                    problem = ("missing", each.name, files, "it has no file, and cannot be NULL")
            if problem is not None:
                what, attribute, some, message = problem
                self._tell(given, what, key, attribute, some, message)
            elif chosen and not wanted:
                yield key, chosen

    def insert(
        self,
        given: Definition,
        of_table: TableFound,
        rows: Iterator[tuple[dict[str, str], dict[str, FoundFile]]],
        advance: Callable[[int], None],
    ) -> None:
        """Insert rows whose parents are there, or can be inserted; or only count them."""
        work_items = self._work_items(rows)
        workers = settings.max_workers
        with closing(Pipeline(work_items, workers, IN_FLIGHT, adapt=True)) as pipeline:
            done = self._described(given, pipeline, advance)
            while some := list(islice(done, _ROWS_AT_ONCE)):
                self._insert(given, [{**key, **texts} for key, texts in some])
                of_table.rows += len(some)

    def _work_items(
        self, rows: Iterator[tuple[dict[str, str], dict[str, FoundFile]]]
    ) -> Iterator[WorkItem]:
        for key, files in rows:
            nbytes = sum(each.nbytes for each in files.values())
            tasks = []
            if self._report.inserted:
                tasks = [Task(partial(self._describe, each)) for each in files.values()]
            yield WorkItem(
                (key, files),
                tasks,
                min(nbytes, BUFFERED),
                workers=lambda: self._store.workers,
            )

    def _described(
        self, given: Definition, items: Iterator[WorkItem], advance: Callable[[int], None]
    ) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
        for item in items:
            key, files = item.item
            texts = dict.fromkeys(files, "")
            failed = False
            for (name, file), task in zip(files.items(), item.tasks, strict=False):
                try:
                    texts[name] = task.result()
                except NpyError as error:
                    is_damaged = isinstance(error, ArrayCorruptError)
                    what = "no array" if is_damaged else "unreadable"
                    self._tell(given, what, key, name, [file], str(error))
                    failed = True
            if failed or not self._has_parents(given, key, files):
                continue
            nbytes = sum(each.nbytes for each in files.values())
            self._report.nbytes += nbytes
            advance(nbytes)
            yield key, texts

    def _describe(self, file: FoundFile) -> str:
        """Return the JSON of a row that refers to a file."""
        nbytes, _, checksum = hashes(self._store.pieces(file.path))
        header = stored_header(self._store, file.path, nbytes)
        store_id = self._ids[0] if self._ids else None
        return json.dumps(describe(self._store, file.path, header, checksum, store_id))

    def _has_parents(
        self, given: Definition, row: Mapping[str, str], files: Mapping[str, FoundFile]
    ) -> bool:
        """Insert the rows to which one refers, if they can be; otherwise tell why not."""
        for each in given.foreign_keys:
            if not each.attributes.keys() <= row.keys():  # nullable
                continue
            parent = self._definitions[each.schema, each.table]
            key = {theirs: row[ours] for ours, theirs in each.attributes.items()}
            key = {name: key[name] for name in parent.key}
            number = self._numbers[parent.name]
            if self._present.has(number, list(key.values())):
                continue
            wanted = _wants(parent, arrays=True)
            if wanted or not self._has_parents(parent, key, {}):
                name, what = ".".join(parent.name), ", ".join(wanted)
                message = f"it refers to a row of {name} that is not there"
                if wanted:
                    message += f", and which wants {what}"
                self._tell(given, "no parent", row, each.table, list(files.values()), message)
                return False
            self._insert(parent, [key])
            self._count(parent)
            self._present.note(number, list(key.values()))
        return True

    def _count(self, given: Definition) -> None:
        for each in self._report.tables:
            if each.table == ".".join(given.name):
                each.rows += 1

    def _insert(self, given: Definition, rows: Sequence[Mapping[str, str]]) -> None:
        if not self._report.inserted:
            return
        if given.name not in self._tables:
            columns = tuple(each for each in given.attributes if each.in_key or each.is_array)
            there = Definition(*given.name, columns)
            table = plain_table(self._connection, there, arrays=False)
            self._tables[given.name] = there, table
        there, table = self._tables[given.name]
        names, backend = [each.name for each in there.attributes], self._connection.adapter.backend
        cells = [[row.get(name) for name in names] for row in rows]
        insert(table, [decoded(there, each, backend) for each in cells], allow_direct_insert=True)

    def _note_example(self, of_table: TableFound, attribute: str, file: FoundFile) -> None:
        if attribute in of_table.arrays:
            return
        try:
            header = stored_header(self._store, file.path, file.nbytes)
        except NpyError as error:
            of_table.arrays[attribute] = str(error)
        else:
            of_table.arrays[attribute] = f"{header.dtype} {header.shape}"

    def _tell(
        self,
        given: Definition,
        what: str,
        key: Mapping[str, str],
        attribute: str,
        files: Sequence[FoundFile],
        message: str,
    ) -> None:
        table, path = ".".join(given.name), files[0].path if files else None
        self._report.note(
            Finding(what, table, dict(key), attribute, self._store.name, path, message)
        )


def _wants(given: Definition, arrays: bool = False) -> list[str]:
    """Return the attributes, or also arrays, that a key does not tell and that must be there."""
    return [
        each.name for each in given.attributes if (arrays or not each.is_array) and not each.in_key
        and not each.nullable and each.default is None and not each.name.startswith("_")
    ]  # fmt: skip
