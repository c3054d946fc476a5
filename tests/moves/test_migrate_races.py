"""`migrate` while others work with the table, and processes that are killed in the middle of it."""

import os
import random
import re
import resource
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from datajoint.errors import DataJointError
from pymysql.err import OperationalError

import dj_npy
import dj_npy._moves.migrate
import dj_npy._moves.twin
from dj_npy import StoreError
from dj_npy._datajoint.catalog import another_session
from dj_npy._stores.local.store import LocalStore
from tests.conftest import MakeTable
from tests.moves.test_migrate import again, check, columns, fill
from tests.support import processes
from tests.support.processes import Lab, context

KILLS = int(os.environ.get("DJ_NPY_TEST_KILLS", "12"))
"""How often, in all; the long form is 300."""
ROWS = 24
A = [np.arange(12.0).reshape(3, 4) + n for n in range(6)]


@pytest.fixture
def blobs(table: MakeTable) -> Any:
    return fill(table("recording_id : int32\n---\nwaveform : <blob>"), A)


@pytest.fixture
def query(blobs: Any) -> Iterator[Callable[..., Any]]:
    """Sends SQL in another session."""
    with another_session(blobs.connection) as own:
        yield own.query


@pytest.fixture
def query_of() -> Iterator[Callable[[Any], Callable[..., Any]]]:
    """Sends SQL in another session, of a table's database."""
    with ExitStack() as stack:
        yield lambda table: stack.enter_context(another_session(table.connection)).query


def meddle(monkeypatch: pytest.MonkeyPatch, action: Callable[[Any], None]) -> None:
    """Do something once, when a value has been converted, and before its row gets it."""
    settle = dj_npy._moves.migrate._Migration._settle
    done: list[Any] = []

    def meddling(self: Any, twin: Any, key: Any, *others: Any) -> bool:
        if not done:
            done.append(key)
            twin.session.commit()  # or the other session waits for it
            action(key[0])
        return settle(self, twin, key, *others)

    monkeypatch.setattr(dj_npy._moves.migrate._Migration, "_settle", meddling)


def test_a_row_that_is_changed_meanwhile(
    blobs: Any, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    changed: list[Any] = list(A)

    def change(number: int) -> None:
        changed[number] = np.ones(3)
        instance_of(blobs).update1({"recording_id": number, "waveform": changed[number]})

    meddle(monkeypatch, change)
    done = dj_npy.migrate(blobs, "waveform", step="switch")
    assert (done.changed, done.ok, done.state) == (1, True, "switched")
    check(again(blobs), changed)
    assert dj_npy.verify(again(blobs), checksums=True).counts == {"as inserted": len(A)}


def instance_of(table: Any, **account: str) -> Any:
    """The same table over a connection of its own."""
    info = table.connection.conn_info
    server = {"host": info["host"], "user": info["user"], "port": info["port"]}
    server |= {"password": info["passwd"], "backend": table.connection.adapter.backend}
    instance = dj.Instance(**{**server, **account}, use_tls=False)
    instance.connection.conn_info["ssl"] = False
    instance.config.stores = table.connection._config.stores
    instance.config.safemode = False
    return instance.FreeTable(table.full_table_name)


@pytest.mark.parametrize("again_with", [np.ones(3), None])
def test_a_row_that_is_deleted_meanwhile_and_perhaps_inserted_again(
    blobs: Any, monkeypatch: pytest.MonkeyPatch, again_with: Any
) -> None:
    changed = dict(enumerate(A))

    def change(number: int) -> None:
        other = instance_of(blobs)
        (other & {"recording_id": number}).delete_quick()
        del changed[number]
        if again_with is not None:
            changed[number] = again_with
            other.insert1({"recording_id": number, "waveform": again_with})

    meddle(monkeypatch, change)
    done = dj_npy.migrate(blobs, "waveform", step="switch")
    assert (done.changed, done.ok, done.state) == (1, True, "switched")
    found = {row["recording_id"]: row["waveform"].load() for row in again(blobs)}
    assert found.keys() == changed.keys()
    for number, array in changed.items():
        np.testing.assert_array_equal(found[number], array)


def test_changes_after_the_copy_are_in_the_switch(blobs: Any) -> None:
    assert dj_npy.migrate(blobs, "waveform", step="copy").to_do == 0
    blobs.update1({"recording_id": 0, "waveform": np.ones(3)})
    blobs.insert1({"recording_id": len(A), "waveform": np.zeros(2)})
    (blobs & "recording_id = 1").delete_quick()
    blobs.insert1({"recording_id": 1, "waveform": np.zeros(5)})
    survey = dj_npy.migrate(blobs, "waveform")
    assert (survey.to_do, survey.state) == (3, "copying")
    assert dj_npy.migrate(blobs, "waveform", step="switch").rows == 3
    check(again(blobs), [np.ones(3), np.zeros(5), *A[2:], np.zeros(2)])


def test_a_transaction_that_stays_open(
    blobs: Any, query: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dj_npy._moves.twin, "_LOCK_WAIT_S", 1)
    for module in (dj_npy._moves.migrate, dj_npy._moves.twin):
        monkeypatch.setattr(module, "TRIES", 2)
    dj_npy.migrate(blobs, "waveform", step="copy")
    query("START TRANSACTION")
    query(f"SELECT recording_id FROM {blobs.full_table_name}").fetchall()
    with pytest.raises(StoreError, match="leave a transaction open"):
        dj_npy.migrate(blobs, "waveform", step="switch")
    check(again(blobs), A)
    assert dj_npy.migrate(blobs, "waveform").state == "copying"
    blobs.insert1({"recording_id": len(A), "waveform": A[0]})  # nobody has to wait
    query("ROLLBACK")
    assert dj_npy.migrate(blobs, "waveform", step="switch").ok
    check(again(blobs), [*A, A[0]])


def at_the_lock(monkeypatch: pytest.MonkeyPatch, action: Callable[[Any], None]) -> None:
    """Do something each time when the table is about to be locked for a switch."""
    lock = dj_npy._moves.twin.Twin.lock

    def locking(self: Any) -> None:
        self.session.commit()
        action(self)
        lock(self)

    monkeypatch.setattr(dj_npy._moves.twin.Twin, "lock", locking)


def test_an_undo_that_cannot_convert_the_last_row_keeps_the_old_column(
    blobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dj_npy.migrate(blobs, "waveform", step="switch").ok
    late = again(blobs)
    at_the_lock(
        monkeypatch, lambda _: late.insert1({"recording_id": 9, "waveform": np.ones(2, np.float16)})
    )
    undone = dj_npy.migrate(late, "waveform", step="undo")
    assert [each.key for each in undone.findings] == [{"recording_id": 9}]
    assert undone.state == "switched"
    assert "_waveform_old" in columns(blobs)
    monkeypatch.undo()
    (late & "recording_id = 9").delete_quick()
    assert dj_npy.migrate(again(blobs), "waveform", step="undo").state == "not begun"
    assert columns(blobs) == ["recording_id", "waveform"]
    check(again(blobs), A)


def test_a_switch_that_cannot_convert_the_last_row(
    blobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = instance_of(blobs)
    at_the_lock(monkeypatch, lambda _: other.insert1({"recording_id": 9, "waveform": "text"}))
    done = dj_npy.migrate(blobs, "waveform", step="switch")
    assert [each.key for each in done.findings] == [{"recording_id": 9}]
    assert (done.state, done.to_do) == ("copying", 1)
    (other & "recording_id = 9").delete_quick()
    check(again(blobs), A)


def test_nobody_gets_in_between_the_last_row_and_the_switch(
    blobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, switch, outcome = instance_of(blobs), dj_npy._moves.twin.Twin.switch, []

    def insert() -> None:
        try:
            other.insert1({"recording_id": 9, "waveform": A[0]})
            outcome.append("inserted")
        except Exception as error:  # the column is no blob any more
            outcome.append(str(error))

    thread = threading.Thread(target=insert)

    def switching(self: Any) -> None:
        thread.start()
        thread.join(1)
        assert thread.is_alive(), outcome
        switch(self)

    _ = other.heading.attributes
    monkeypatch.setattr(dj_npy._moves.twin.Twin, "switch", switching)
    assert dj_npy.migrate(blobs, "waveform", step="switch").ok
    thread.join(30)
    assert outcome
    assert outcome != ["inserted"]
    check(again(blobs), A)


def test_a_file_that_does_not_come_back_as_it_was_written(
    blobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = LocalStore._create

    def damaging(self: Any, paths: Any, pieces: Any, nbytes: int) -> str:
        path = create(self, paths, pieces, nbytes)
        if path.endswith(".npy"):
            with open(os.path.join(self.location, path), "r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"x")
        return path

    monkeypatch.setattr(LocalStore, "_create", damaging)
    with pytest.raises(StoreError, match="does not come back"):
        dj_npy.migrate(blobs, "waveform", step="switch")
    monkeypatch.undo()
    check(again(blobs), A)
    assert dj_npy.migrate(blobs, "waveform", step="switch").rows == len(A)
    check(again(blobs), A)


def test_a_blob_that_the_database_changes(
    table: MakeTable, query_of: Callable[[Any], Callable[..., Any]]
) -> None:
    recording = table("recording_id : int32\n---\nwaveform : <npy@>")
    assert dj_npy.migrate(recording, "waveform", to="blob", step="copy").ok
    recording = recording()
    query, name = query_of(recording), recording.full_table_name
    if recording.connection.adapter.backend == "postgresql":
        query(
            f'CREATE FUNCTION "{recording.database}".harm() RETURNS trigger AS $$ BEGIN '
            f"NEW._waveform_new = 'x'; RETURN NEW; END $$ LANGUAGE plpgsql"
        )
        query(
            f"CREATE TRIGGER harm BEFORE UPDATE ON {name} "
            f'FOR EACH ROW EXECUTE FUNCTION "{recording.database}".harm()'
        )
        drop = f"DROP TRIGGER harm ON {name}"
    else:
        trigger = f"`{recording.database}`.harm"
        query(
            f"CREATE TRIGGER {trigger} BEFORE UPDATE ON {name} "
            f"FOR EACH ROW SET NEW._waveform_new = 'x'"
        )
        drop = f"DROP TRIGGER {trigger}"
    fill(type(recording), A)
    with pytest.raises(StoreError, match="does not give back"):
        dj_npy.migrate(recording, "waveform", to="blob", step="switch")
    check(again(recording), A)
    query(drop)
    assert dj_npy.migrate(recording, "waveform", to="blob", step="switch").ok
    check(again(recording), A)


def test_two_at_a_time(blobs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def another(_: int) -> None:
        with pytest.raises(StoreError, match="another migration") as error:
            dj_npy.migrate(instance_of(blobs), "waveform", step="copy")
        refused.append(error)

    meddle(monkeypatch, another)
    assert dj_npy.migrate(blobs, "waveform", step="copy").ok
    assert len(refused) == 1


def test_a_store_that_is_full(blobs: Any, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    create = LocalStore._create
    written: list[Any] = []

    def full(self: Any, *arguments: Any) -> str:
        if len(written) == 4:  # the marker and three arrays
            raise StoreError("no space left on device")
        written.append(arguments)
        return create(self, *arguments)

    monkeypatch.setattr(LocalStore, "_create", full)
    with pytest.raises(StoreError, match=r"no space left .* nothing was switched"):
        dj_npy.migrate(blobs, "waveform", step="switch")
    check(again(blobs), A)
    monkeypatch.undo()
    done = dj_npy.migrate(blobs, "waveform", step="switch")
    assert (done.ok, done.rows) == (True, len(A) - 3)
    check(again(blobs), A)


def test_an_account_without_alter(database: Any, stores: Any) -> None:
    # Everybody may alter what is in a schema `test_...` of MariaDB.
    schema = database.Schema(f"lab_{uuid.uuid4().hex[:12]}")
    definition = "recording_id : int32\n---\nwaveform : <blob>"
    blobs = fill(schema(type("Recording", (dj.Manual,), {"definition": definition})), A)
    name, password = f"few{uuid.uuid4().hex[:8]}", "secret"
    connection, backend = blobs.connection, blobs.connection.adapter.backend
    if backend == "postgresql":
        connection.query(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        connection.query(f'GRANT USAGE ON SCHEMA "{blobs.database}" TO {name}')
        connection.query(f'GRANT ALL ON ALL TABLES IN SCHEMA "{blobs.database}" TO {name}')
        drop = [f"DROP OWNED BY {name}", f"DROP ROLE {name}"]
    else:
        connection.query(f"CREATE USER {name}@localhost IDENTIFIED BY '{password}'")
        connection.query(f"GRANT SELECT, INSERT ON `{blobs.database}`.* TO {name}@localhost")
        drop = [f"DROP USER {name}@localhost"]
    theirs = instance_of(blobs, user=name, password=password)
    try:
        assert dj_npy.migrate(theirs, "waveform").ok
        with pytest.raises(Exception, match=r"(?i)denied|owner"):
            dj_npy.migrate(theirs, "waveform", step="switch")
        assert columns(blobs) == ["recording_id", "waveform"]
        check(again(blobs), A)
    finally:
        theirs.connection.close()
        for statement in drop:
            connection.query(statement)
        schema.drop(prompt=False)


# Processes that are killed


def array(n: int) -> Any:
    return np.arange((0, 10, 10_000, 100_000)[n % 4]) + float(n)


def work(lab: Lab, table: str, ready: Any) -> None:
    """Migrate to and fro until this process is killed."""
    recording = lab.connected().FreeTable(table)
    ready.send("ready")
    to: Any
    step: Any
    while True:
        for to in random.sample(["npy", "blob"], 2):
            for step in random.choice([["copy", "switch", "finish"], ["switch", "undo"], ["undo"]]):
                try:
                    done = dj_npy.migrate(recording, "waveform", to=to, step=step)
                    assert not done.counts, done
                except dj_npy.ArrayInvalidError:
                    pass  # not the next step
                except (DataJointError, OperationalError, StoreError) as error:
                    # The lock of a process that was killed may not be free yet. Of two that wait
                    # for each other's rows, one is told so.
                    if not re.search("another migration|others use|(?i:deadlock)", str(error)):
                        raise
                    time.sleep(0.1)


def insert(number: int, value: Any, table: Any) -> None:
    table.insert1({"recording_id": number, "waveform": value})


def delete(number: int, table: Any) -> None:
    (table & {"recording_id": number}).delete_quick()


@contextmanager
def using(lab: Lab, table: str, expected: dict[int, Any]) -> Iterator[list[int]]:
    """Read, insert, change and delete rows all the time."""
    ended, done, failures = threading.Event(), [], []

    def attempt(do: Callable[[Any], None]) -> None:
        """Do something with the table as it is; once more if that has changed meanwhile."""
        for _ in range(200):
            table_now = instance.FreeTable(table)
            kind = table_now.heading["waveform"].type
            try:
                return do(table_now)
            except Exception:
                if instance.FreeTable(table).heading["waveform"].type == kind:
                    raise
        raise AssertionError("the table changes all the time")

    def write(number: int, value: Any) -> None:
        """Change a row, and once more if the column has changed: its old JSON may be in a blob."""
        while True:
            kind = instance.FreeTable(table).heading["waveform"].type
            attempt(lambda t: t.update1({"recording_id": number, "waveform": value}))
            if instance.FreeTable(table).heading["waveform"].type == kind:
                break

    def run() -> None:
        number = ROWS
        try:
            while not ended.is_set():
                number += 1
                value = np.arange(number % 50) + 0.5
                attempt(partial(insert, number, value))
                write(number, value)
                expected[number] = value
                n = random.choice(list(expected))
                value = np.arange(20) * random.random()
                write(n, value)
                expected[n] = value
                if number % 3 == 0:
                    n = random.choice(list(expected))
                    attempt(partial(delete, n))
                    del expected[n]
                n = random.choice(list(expected))

                def read(t: Any, n: int = n) -> None:
                    found = (t & {"recording_id": n}).fetch1("waveform")
                    np.testing.assert_array_equal(np.asarray(found), expected[n])

                attempt(read)
                done.append(n)
        except BaseException as error:
            failures.append(error)
        finally:
            instance.connection.close()

    instance = lab.connected()
    user = threading.Thread(target=run)
    user.start()
    try:
        yield done
    finally:
        ended.set()
        user.join()
    assert not failures, failures


@pytest.fixture(params=["postgresql", "mariadb", "mysql"])
def place(request: Any, tmp_path: Path) -> Iterator[tuple[Lab, Any]]:
    """What other processes are told, and a table."""
    database = request.getfixturevalue(request.param)
    before = database.config.stores
    folder = tmp_path / "main"
    folder.mkdir()
    lab = processes.lab(database, {"protocol": "file", "location": str(folder)}, tmp_path / "cache")
    schema = database.Schema(f"test_{uuid.uuid4().hex[:12]}")
    definition = "recording_id : int32\n---\nwaveform : <blob>"
    recording = schema(type("Recording", (dj.Manual,), {"definition": definition}))
    yield lab, recording()
    schema.drop(prompt=False)
    database.config.stores = before


@pytest.mark.slow
def test_after_kills_no_value_is_lost_and_it_goes_on(
    place: tuple[Lab, Any], record_property: Any
) -> None:
    lab, recording = place
    expected = {n: array(n) for n in range(ROWS)}
    recording.insert([{"recording_id": n, "waveform": a} for n, a in expected.items()])
    sessions = processes.sessions(recording.connection)
    with using(lab, recording.full_table_name, expected) as done:
        for _ in range(KILLS // 3):
            ready, of_process = context.Pipe(duplex=False)
            process = context.Process(
                target=work, args=(lab, recording.full_table_name, of_process), daemon=True
            )
            process.start()
            of_process.close()
            assert ready.poll(60)
            time.sleep(random.uniform(0, 3))
            assert process.is_alive(), "it ended by itself"
            process.kill()
            process.join()
            ready.close()
    processes.wait_for_sessions(recording.connection, sessions)
    state = dj_npy.migrate(again(recording), "waveform").state
    if state != "not begun":
        assert dj_npy.migrate(again(recording), "waveform", step="undo").state == "not begun"
    assert dj_npy.migrate(again(recording), "waveform", step="switch").ok
    assert dj_npy.migrate(again(recording), "waveform", step="finish").ok
    found = {row["recording_id"]: row["waveform"] for row in again(recording)}
    assert found.keys() == expected.keys()
    for number, value in expected.items():
        np.testing.assert_array_equal(found[number].load(), value)
    assert dj_npy.verify(again(recording), checksums=True).counts == {"as inserted": len(found)}
    figures = f"{KILLS // 3} kills, {len(done)} rounds of a user, {state} at the end"
    record_property("figures", figures)
    print(figures)


def peak_of(lab: Lab, table: str, to: Any, answer: Any) -> None:
    """Tell by how many bytes the memory of this process grew at most."""
    recording = lab.connected().FreeTable(table)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert dj_npy.migrate(recording, "waveform", to=to, step="switch").ok
    assert dj_npy.migrate(recording, "waveform", to=to, step="finish").ok
    answer.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows(
    place: tuple[Lab, Any], record_property: Any
) -> None:
    lab, recording = place
    large = np.zeros(250_000)
    large[::50] = np.arange(5000)
    recording.insert({"recording_id": n, "waveform": large + n} for n in range(400))
    for to in ("npy", "blob"):
        answer, of_process = context.Pipe(duplex=False)
        process = context.Process(
            target=peak_of, args=(lab, recording.full_table_name, to, of_process)
        )
        process.start()
        assert answer.poll(300)
        grown = answer.recv()
        process.join()
        record_property(to, grown)
        print(f"to {to}: {grown >> 20} MiB of {400 * large.nbytes >> 20}")
        assert grown < 320 << 20
