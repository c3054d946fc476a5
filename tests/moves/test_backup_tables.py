"""`backup` and `restore` of tables of all kinds: all comes back, or it is told what does not."""

import json
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy._moves import backups as backups_
from dj_npy._moves import incoming
from dj_npy._moves.declaring import undeclarable
from dj_npy._moves.definitions import Attribute, Definition, ForeignKey
from tests.conftest import MakeTable
from tests.moves.test_backup import definitions, folder_of, lose

ON_MYSQL = pytest.mark.parametrize("database", ["mysql", "mariadb"], indirect=True)


@pytest.fixture
def new(database: Any, stores: Any) -> Iterator[Callable[..., Any]]:
    """Opens schemas, of which nothing is left after the test."""
    made = []

    def make(name: str = "") -> Any:
        schema = database.Schema(name or f"test_{uuid.uuid4().hex[:12]}")
        made.append(schema.database)
        return schema

    yield make
    for name in reversed(made):
        lose(database, name)


def manual(schema: Any, definition: str, name: str = "Scan", base: type = dj.Manual) -> Any:
    return schema(type(name, (base,), {"definition": definition}))


def raw(schema: Any, columns: str, rows: str) -> str:
    """Create a table without DataJoint; return its name in SQL."""
    name: str = schema.connection.adapter.make_full_table_name(schema.database, "raw")
    schema.connection.query(f"CREATE TABLE {name} ({columns})")
    schema.connection.query(f"INSERT INTO {name} VALUES {rows}")
    return name


def brought_back(database: Any, *schemas: Any) -> tuple[Any, Any]:
    """Back up, lose and restore; return both reports."""
    backed_up = dj_npy.backup(*schemas)
    for schema in reversed(schemas):
        lose(database, schema.database)
    return backed_up, dj_npy.restore(connection=database.connection)


DEFAULTS = (
    '"" : varchar(5)',
    '"007" : varchar(5)',
    '"now()" : varchar(9)',
    '"CURRENT_TIMESTAMP" : varchar(30)',
    '"a\\\\b" : varchar(9)',
    '"50%%" : varchar(9)',
    "'say \"hi\"' : varchar(20)",
    "CURRENT_TIMESTAMP : datetime",
)


@pytest.mark.parametrize("default", DEFAULTS)
def test_defaults(database: Any, new: Any, default: str) -> None:
    schema = new()
    scan = manual(schema, f"n : int32\n---\nx = {default}")
    scan.insert1({"n": 1})
    rows = scan.to_dicts()
    brought_back(database, schema)
    assert scan.to_dicts() == rows
    scan.insert1({"n": 2})
    if "datetime" not in default:
        assert (scan & "n = 2").fetch1("x") == rows[0]["x"]


def test_tables_whose_classes_have_one_name(database: Any, new: Any) -> None:
    """In schemas that differ by a sign that no identifier has, and in one schema."""
    mark = uuid.uuid4().hex[:6]
    first, second, third = new(f"x{mark}-1"), new(f"x{mark}_1"), new()
    parents = [
        manual(first, "a : int32"),
        manual(second, "b : varchar(4)"),
        manual(second, "c : int32", base=dj.Lookup),
    ]
    third.context = dict(zip("ABC", parents, strict=True))
    child = manual(third, "-> A\n---\n-> B\n-> C", "Child")
    row = {"a": 1, "b": "x", "c": 3}
    for parent, name in zip(parents, row, strict=True):
        parent.insert1({name: row[name]})
    child.insert1(row)
    before = definitions(database, third.database)
    brought_back(database, first, second, third)
    assert child.fetch1() == row
    assert definitions(database, third.database) == before


def attribute(name: str = "x", **more: Any) -> Attribute:
    return Attribute(name, more.pop("type", "int32"), "int32", **more)


BAD = (
    Definition("s", "t", (attribute("-> __import__('os')"),)),
    Definition("s", "t", (attribute("X"),)),
    Definition("s", "t", (attribute(default="1\n-> __import__('os')"),)),
    Definition("s", "t", (attribute(type="varchar(9)); DROP TABLE x; --)"),)),
    Definition("s", "t", (attribute(type="enum('a\\')"),)),
    Definition("s", "t", (attribute(native="int) , y int"),)),
    Definition("s", "t", (attribute(),), (ForeignKey("s", "p", {"x": 'x")+exit()+("'}),)),
)


@pytest.mark.parametrize("given", BAD)
def test_what_datajoint_would_evaluate_is_refused(given: Definition) -> None:
    assert list(undeclarable(given))


@pytest.mark.parametrize(
    "declared",
    ["int32", "enum('a','it''s (b)')", 'enum("a", "b")', "<npy@>", "<npy@my-store>", "decimal(9,2)"]
    + ["int(10) unsigned auto_increment", "timestamp(3)", "timestamp without time zone", "year"],
)
def test_types_that_may_be_declared(declared: str) -> None:
    assert not list(undeclarable(Definition("s", "t", (attribute(type=declared),))))


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    """Change a list as someone who knows how it is made."""
    contents = json.loads(path.read_text())
    contents.pop("sha256", None)
    change(contents)
    path.write_text(json.dumps({**contents, "sha256": backups_._digest(contents)}))


def of(contents: Any, number: int) -> Any:
    return contents["tables"][number]


CHANGES: dict[str, Callable[[Any, Path], object]] = {
    "code": lambda c, path: of(c, 1)["foreignKeys"][0].update(
        attributes={"n": f'x")+open({str(path)!r}, "w")+("'}
    ),
    "code in a table": lambda c, path: of(c, 1)["foreignKeys"][0].update(
        table=f"open({str(path)!r},'w')"
    ),
    "code in a default": lambda c, path: of(c, 0)["attributes"][1].update(
        default=f"a\n-> open({str(path)!r}, 'w')"
    ),
    "SQL": lambda c, _: of(c, 0)["attributes"][1].update(type="varchar(9)); DROP TABLE x; --)"),
    "SQL in a name": lambda c, _: of(c, 0).update(schema='x"; DROP SCHEMA "public'),
    "children first": lambda c, _: c["tables"].reverse(),
    "without a parent": lambda c, _: c["tables"].pop(0),
    "a table twice": lambda c, _: c["tables"].append(of(c, 0)),
    "no key": lambda c, _: of(c, 0)["attributes"][0].update(in_key=False),
}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("change", CHANGES)
def test_a_list_that_was_made_to_harm(
    database: Any, new: Any, store: Path, tmp_path: Path, change: str
) -> None:
    schema = new()
    scan = manual(schema, "n : int32\n---\nx : varchar(9)")
    schema.context = {"Scan": scan}
    manual(schema, "-> Scan", "Child")
    scan.insert1({"n": 1, "x": "a"})
    name = dj_npy.backup(schema).name
    lose(database, schema.database)
    harm = tmp_path / "harm"
    rewrite(folder_of(store) / f"{name}.json", lambda c: CHANGES[change](c, harm))
    with pytest.raises(dj_npy.NpyError):
        dj_npy.restore(connection=database.connection)
    assert not harm.exists()
    assert schema.database not in dj.list_schemas(database.connection)


def test_a_table_without_a_key_is_told(database: Any, new: Any) -> None:
    schema = new()
    manual(schema, "n : int32").insert1({"n": 1})
    raw(schema, "a int", "(1), (1)")
    backed_up, restored = brought_back(database, schema)
    assert backed_up.left_out == [f"{schema.database}.raw, as it has no primary key"]
    assert restored.tables == {f"{schema.database}.scan": 1}
    assert restored.left_out == backed_up.left_out


def test_a_table_that_cannot_be_declared_is_told_and_wanted(database: Any, new: Any) -> None:
    schema = new()
    quoted = database.connection.adapter.quote_identifier("Ab C")
    columns = f"n int PRIMARY KEY, {quoted} int"
    table = raw(schema, columns, "(1, 2)")
    backed_up = dj_npy.backup(schema)
    [told] = backed_up.left_out
    assert "so that restore wants it to be there: an attribute is called 'Ab C'" in told
    lose(database, schema.database)
    with pytest.raises(dj_npy.ArrayInvalidError, match="cannot be declared by DataJoint"):
        dj_npy.restore(connection=database.connection)
    assert schema.database not in dj.list_schemas(database.connection)
    new(schema.database)
    database.connection.query(f"CREATE TABLE {table} ({columns})")
    assert dj_npy.restore(connection=database.connection).rows == 1
    assert list(database.connection.query(f"SELECT * FROM {table}")) == [(1, 2)]


def test_a_table_that_refers_to_itself(database: Any, new: Any) -> None:
    schema = new()
    name = database.connection.adapter.make_full_table_name(schema.database, "raw")
    columns = f"n int PRIMARY KEY, p int, FOREIGN KEY (p) REFERENCES {name} (n)"
    raw(schema, columns, "(1, NULL), (2, 1)")
    backed_up, restored = brought_back(database, schema)
    assert "refers to itself" in backed_up.left_out[0]
    assert restored.rows == 2


def test_hidden_columns_are_told(database: Any, new: Any) -> None:
    """As of a `migrate` that has not ended."""
    schema = new()
    scan = manual(schema, "n : int32\n---\nx : int32")
    scan.insert1({"n": 1, "x": 2})
    database.connection.query(f"ALTER TABLE {scan.full_table_name} ADD COLUMN _x_new int")
    backed_up, restored = brought_back(database, schema)
    assert backed_up.left_out == [f"{schema.database}.scan._x_new, which is hidden"]
    assert restored.rows == 1


def test_views_are_left_out(database: Any, new: Any) -> None:
    schema = new()
    scan = manual(schema, "n : int32")
    scan.insert1({"n": 1})
    name = partial(database.connection.adapter.make_full_table_name, schema.database)
    kinds = ["VIEW"]
    if database.connection.adapter.backend == "postgresql":
        kinds.append("MATERIALIZED VIEW")
    for kind in kinds:
        view = name(kind.replace(" ", "_").lower())
        database.connection.query(f"CREATE {kind} {view} AS SELECT * FROM {scan.full_table_name}")
    assert dj_npy.backup(schema).tables == {f"{schema.database}.scan": 1}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_unique_indexes_of_some_rows_or_of_expressions(database: Any, new: Any) -> None:
    schema = new()
    scan = manual(schema, "n : int32\n---\nx : varchar(9)\ny : int32\nindex (y)")
    for index in ("(x) WHERE n > 5", "(lower(x), y)"):
        database.connection.query(f"CREATE UNIQUE INDEX ON {scan.full_table_name} {index}")
    scan.insert({"n": n, "x": "ab"[n % 2], "y": n // 2} for n in range(4))
    _, restored = brought_back(database, schema)
    assert restored.rows == 4


@ON_MYSQL
def test_dates_that_are_none_and_a_number_that_is_zero(database: Any, new: Any) -> None:
    schema = new()
    query = database.connection.query
    [(mode,)] = query("SELECT @@sql_mode")
    query("SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO'")
    table = raw(
        schema,
        "n int PRIMARY KEY AUTO_INCREMENT, d date, t datetime",
        "(0, '0000-00-00', '0000-00-00 00:00:00'), (5, '2020-00-00', '2020-01-00 01:02:03')",
    )
    query(f"SET sql_mode = '{mode}'")
    rows = list(query(f"SELECT * FROM {table} ORDER BY n"))
    brought_back(database, schema)
    assert list(query(f"SELECT * FROM {table} ORDER BY n")) == rows
    assert dj_npy.restore(connection=database.connection).already == 2


@ON_MYSQL
def test_a_table_of_an_older_datajoint(database: Any, new: Any) -> None:
    """With blobs in a store, to which DataJoint 0.14 refers by a table of its own."""
    schema = new()
    query, name = database.connection.query, schema.database
    external = f"`{name}`.`~external_main`"
    query(
        f"CREATE TABLE {external} (hash binary(16) NOT NULL COMMENT ':uuid:', PRIMARY KEY (hash))"
    )
    query(f"INSERT INTO {external} VALUES (unhex('00112233445566778899aabbccddeeff'))")
    table = raw(
        schema,
        "n int NOT NULL COMMENT 'id', w longblob COMMENT 'array', "
        "u binary(16) COMMENT ':uuid:', ex binary(16) COMMENT ':blob@main:', "
        "at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, e enum('a','b') NOT NULL DEFAULT 'a', "
        f"PRIMARY KEY (n), FOREIGN KEY (ex) REFERENCES {external} (hash)",
        f"(1, x'00ff', unhex(repeat('ab', 16)), (SELECT hash FROM {external}), now(), 'b')",
    )
    rows = list(query(f"SELECT * FROM {table}"))
    backed_up, _ = brought_back(database, schema)
    assert f"what {name}.raw.ex refers to by its blob@main" in backed_up.left_out
    assert list(query(f"SELECT * FROM {table}")) == rows


def test_a_codec_that_is_not_known_where_the_backup_is_made(
    database: Any, new: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Graph(dj.Codec):
        name = "graph"

        def get_dtype(self, is_store: bool = False) -> str:
            return "<blob>"

        def encode(self, value: Any, **_: Any) -> Any:
            return value

        def decode(self, value: Any, **_: Any) -> Any:
            return value

    known = dj.codecs._codec_registry
    schema = new()
    scan = manual(schema, "n : int32\n---\nw : <graph>")
    scan.insert1({"n": 1, "w": np.arange(300.0)})
    with monkeypatch.context() as patched:
        patched.delitem(known, "graph")
        dj_npy.backup(schema)
        [(definition, _)] = backups_.Backups(database.config, None).read()[1].tables
        assert definition["w"].storage == "bytes"  # and not the text by which PostgreSQL shows them
        lose(database, schema.database)
        with pytest.raises(dj_npy.ArrayInvalidError, match="graph"):
            dj_npy.restore(connection=database.connection)
        assert schema.database not in dj.list_schemas(database.connection)
    dj_npy.restore(connection=database.connection)
    assert np.array_equal(scan.fetch1("w"), np.arange(300.0))
    del known["graph"]


@ON_MYSQL
def test_texts_compare_as_they_did(database: Any, new: Any) -> None:
    name = f"test_{uuid.uuid4().hex[:12]}"
    database.connection.query(f"CREATE DATABASE `{name}` COLLATE utf8mb4_bin")
    schema = new(name)
    scan = manual(schema, "k : varchar(9)")
    scan.insert({"k": k} for k in ("a", "A", "á"))
    assert brought_back(database, schema)[1].rows == 3
    assert set(scan.to_arrays("k")) == {"a", "A", "á"}


@pytest.mark.parametrize("to", ["mysql", "mariadb"])
def test_texts_that_postgresql_tells_apart(
    postgresql: Any, to: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    other = request.getfixturevalue(to)
    (tmp_path / "main").mkdir()
    stores = {"default": "main", "main": {"protocol": "file", "location": str(tmp_path / "main")}}
    before = postgresql.config.stores, other.config.stores
    postgresql.config.stores = other.config.stores = stores
    schema = postgresql.Schema(f"test_{uuid.uuid4().hex[:12]}")
    try:
        manual(schema, "k : varchar(9)").insert({"k": k} for k in ("a", "A", "á", "a ", " a"))
        dj_npy.backup(schema)
        assert dj_npy.restore(connection=other.connection).rows == 5
    finally:
        lose(postgresql, schema.database)
        lose(other, schema.database)
        postgresql.config.stores, other.config.stores = before


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_list_that_is_damaged_stops_no_backup(database: Any, new: Any, store: Path) -> None:
    schema = new()
    scan = manual(schema, "n : int32")
    scan.insert1({"n": 1})
    names = [dj_npy.backup(schema).name for _ in range(2)]
    damaged = folder_of(store) / f"{names[-1]}.json"
    damaged.write_text(damaged.read_text().replace('"int32"', '"int16"', 1))
    with pytest.raises(dj_npy.ArrayCorruptError, match="it is not as it was written"):
        dj_npy.restore(connection=database.connection)
    assert dj_npy.backup(schema).rows == 1
    with pytest.raises(
        dj_npy.ArrayCorruptError, match=f"was written, but not all earlier.*remove .*{damaged.name}"
    ):
        dj_npy.backup(schema, keep=1)
    assert len(dj_npy.backups(connection=database.connection)) == 4
    lose(database, schema.database)
    assert dj_npy.restore(connection=database.connection).rows == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_another_process_removes_backups_meanwhile(
    database: Any, new: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = new()
    manual(schema, "n : int32").insert1({"n": 1})
    first = dj_npy.backup(schema).name
    real = backups_.Backups.read

    def read(self: Any, name: str | None = None) -> Any:
        (folder_of(store) / f"{first}.json").unlink(missing_ok=True)
        return real(self, name)

    monkeypatch.setattr(backups_.Backups, "read", read)
    backups = backups_.Backups(database.config, None)
    second = dj_npy.backup(schema).name
    (folder_of(store) / f"{first}.json").write_bytes(b"{}")
    assert backups.prune(3) == 0
    assert backups.names() == [second]


def test_one_statement_is_not_longer_than_it_need_be(
    table: MakeTable, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers limit its size: a long row is not to be together with others."""
    monkeypatch.setattr(incoming, "_TEXT_AT_ONCE", 10_000)
    scan = table("n : int32\n---\nx : varchar(9000)", "Scan")
    lengths = [10] * 200 + [9000] + [10] * 200
    scan.insert({"n": n, "x": "x" * length} for n, length in enumerate(lengths))
    dj_npy.backup(schema)
    scan.delete_quick()
    sizes = []

    def insert(table: Any, rows: list[Any], **options: Any) -> None:
        sizes.append(sum(len(row["x"]) for row in rows))
        dj_npy.insert(table, rows, **options)

    monkeypatch.setattr(incoming, "insert", insert)
    assert dj_npy.restore(connection=schema.connection).rows == 401
    assert max(sizes) <= 10_000


def test_all_schemas_are_those_that_the_account_may_use(
    reader: Callable[..., Any], postgresql: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "main").mkdir()
    before = postgresql.config.stores
    stores = {"default": "main", "main": {"protocol": "file", "location": str(tmp_path / "main")}}
    postgresql.config.stores = stores
    mine, other = (postgresql.Schema(f"test_{uuid.uuid4().hex[:12]}") for _ in range(2))
    try:
        for schema in (mine, other):
            manual(schema, "n : int32").insert1({"n": 1})
        connection = reader(
            f'GRANT USAGE ON SCHEMA "{mine.database}" TO ROLE',
            f'GRANT SELECT ON ALL TABLES IN SCHEMA "{mine.database}" TO ROLE',
        )
        connection._config = postgresql.config
        monkeypatch.setattr(dj, "conn", lambda: connection)
        assert dj_npy.backup().schemas == [mine.database]
    finally:
        lose(postgresql, mine.database)
        lose(postgresql, other.database)
        postgresql.config.stores = before
