"""Which schemas and tables there are, and how many rows they have."""

import re
import time
from collections.abc import Sequence
from typing import Any

from dj_npy._datajoint.catalog import class_name
from dj_npy._view.answers import Refused
from dj_npy._view.database import Database, select

NAME = re.compile(r"""[^.`"'\\;%\x00-\x1f]+""")
"""DataJoint puts names into SQL as they are."""
SYSTEM = {
    "postgresql": {"information_schema"},  # and those that begin with pg_, as no others can
    "mysql": {"information_schema", "mysql", "performance_schema", "sys"},
}
_UNOPENED = re.compile(r"[A-Z\s]")
"""In a name in PostgreSQL, this is beyond DataJoint, which asks for such a table without quotes."""
_FEW_ROWS, _BATCH = 10_000, 100
"""Up to how many rows tables are counted, and how many tables in one query."""
_COUNTING_S, _BATCH_S = 5, 1
"""Seconds for which all tables are counted, and those of one query."""

# Estimates, which no lock on a table delays: PostgreSQL's rows are -1 until it is analyzed.
_TABLES = {
    "postgresql": """
        SELECT n.nspname, c.relname,
               CASE WHEN c.reltuples < 0 THEN pg_stat_get_live_tuples(c.oid)
                    ELSE c.reltuples END::bigint,
               nullif(c.relpages, 0)::bigint * current_setting('block_size')::bigint
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
          AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
        ORDER BY n.nspname, c.relname""",
    "mysql": """
        SELECT table_schema, table_name, table_rows, data_length + index_length
        FROM information_schema.tables
        WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
        ORDER BY table_schema, table_name""",
}
_ARRAYS = {
    "postgresql": """
        SELECT n.nspname, c.relname, a.attname, d.description
        FROM pg_catalog.pg_description d
        JOIN pg_catalog.pg_class c ON c.oid = d.objoid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid
        WHERE d.classoid = 'pg_catalog.pg_class'::regclass AND d.objsubid > 0
          AND d.description LIKE ':<npy%' AND NOT a.attisdropped
        ORDER BY c.oid, a.attnum""",
    "mysql": """
        SELECT table_schema, table_name, column_name, column_comment
        FROM information_schema.columns WHERE column_comment LIKE ':<npy%'
        ORDER BY table_schema, table_name, ordinal_position""",
}
_OURS = re.compile(r":<npy(@[^>]*)?>:")


class Listing:
    """
    The tables of a database, as far as the account sees them.

    Parameters
    ----------
    database : Database
        Where it is.
    schemas : sequence of str
        The schemas to list; none are all.
    """

    def __init__(self, database: Database, schemas: Sequence[str]) -> None:
        self._database, self._schemas = database, {*schemas}

    def schemas(self) -> dict[str, Any]:
        """Return all schemas with their tables, by two queries, and the tables left out."""
        with self._database.session() as session:
            tables = self._tables(session)
            columns = select(session, _ARRAYS[self._database.backend])
        arrays: dict[tuple[str, str], list[str]] = {}
        for schema, table, attribute, comment in columns:
            if _OURS.match(comment) and not attribute.startswith("_"):  # DataJoint hides those
                arrays.setdefault((schema, table), []).append(attribute)
        found: dict[str, list[dict[str, Any]]] = {}
        unlisted: list[str] = []
        for schema, table, rows, nbytes in tables:
            if self.is_beyond_datajoint(schema, table):
                unlisted.append(f"{schema}.{table}")
                continue
            found.setdefault(schema, []).append(
                {
                    "name": f"{schema}.{table}",
                    "class": class_name(table),
                    "tier": tier(table),
                    "arrays": arrays.get((schema, table), []),
                    "rows": rows,
                    "bytes": nbytes,
                    "estimated": True,
                }
            )
        schemas = [{"name": name, "tables": each} for name, each in found.items()]
        return {"schemas": schemas, "unlisted": unlisted}

    def counts(self) -> dict[str, Any]:
        """
        Return how many rows tables have, as far as they are counted within some seconds.

        Of a table with more than `most` rows, it is ``most + 1``. Estimates are 0 for tables that
        were filled a moment ago.
        """
        with self._database.session() as session:
            tables = [(f"{s}.{t}", s, t, rows) for s, t, rows, _ in self._tables(session)]
        few = [
            each
            for each in tables
            if (each[3] or 0) <= 10 * _FEW_ROWS
            and NAME.fullmatch(each[1])
            and NAME.fullmatch(each[2])
        ]
        few.sort(key=lambda each: each[3] or 0)  # first those of which nothing is known
        batches = [few[n : n + _BATCH] for n in range(0, len(few), _BATCH)][::-1]
        found: dict[str, int] = {}
        until = time.monotonic() + _COUNTING_S
        while batches and time.monotonic() < until:
            batch = batches.pop()
            try:
                counts = self._counted(batch)
            except Refused as refused:
                if refused.status == 502:
                    raise
                if len(batch) > 1:  # one of them is locked, or not to be read
                    half = len(batch) // 2
                    batches[:0] = [batch[half:], batch[:half]]
                continue
            found.update({batch[n][0]: count for n, count in counts})
        return {"rows": found, "most": _FEW_ROWS}

    def _counted(self, tables: Sequence[tuple[str, str, str, Any]]) -> list[tuple[int, int]]:
        full_name = self._database.adapter.make_full_table_name
        queries = [
            f"SELECT {n}, count(*) FROM "
            f"(SELECT 1 FROM {full_name(schema, table)} LIMIT {_FEW_ROWS + 1}) AS few"
            for n, (_, schema, table, _) in enumerate(tables)
        ]
        with self._database.session(_BATCH_S) as session:
            return select(session, " UNION ALL ".join(queries))

    def _tables(self, session: Any) -> list[tuple[str, str, int | None, int | None]]:
        """Return schema, name, estimated rows and bytes of all tables that may be listed."""
        system = SYSTEM[self._database.backend]
        return [
            (
                schema,
                table,
                None if rows is None else int(rows),
                None if nbytes is None else int(nbytes),
            )
            for schema, table, rows, nbytes in select(session, _TABLES[self._database.backend])
            if (not self._schemas or schema in self._schemas)
            and schema not in system
            and not table.startswith("~")
        ]

    def estimate(self, name: str) -> int | None:
        """Return about how many rows a table has, if the server says so."""
        with self._database.session() as session:
            return {f"{s}.{t}": rows for s, t, rows, _ in self._tables(session)}.get(name)

    def is_beyond_datajoint(self, *names: str) -> bool:
        """Return whether DataJoint cannot open a table of such a schema or name."""
        in_postgresql = self._database.backend == "postgresql"
        return in_postgresql and any(map(_UNOPENED.search, names))


def tier(table: str) -> str:
    """Return the tier of a table by its name."""
    bare = table.lstrip("#_")
    if "__" in bare:
        return "part"
    prefix = table[: len(table) - len(bare)]
    return {"#": "lookup", "_": "imported", "__": "computed"}.get(prefix, "manual")
