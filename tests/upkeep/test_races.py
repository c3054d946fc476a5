"""
Writers, readers, deleters, `verify` and `collect` side by side, in processes and threads.

No file of a row goes, no byte is wrong, and nothing is raised that is not promised. The contents
of an array follow from its row, so that whoever reads it can tell.
"""

import os
import random
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pymysql
import pytest
from datajoint.errors import DataJointError, DuplicateError

import dj_npy
from tests.support import processes
from tests.support.processes import Contents, Lab, context

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("DJ_NPY_TEST_RACES", "5"))
"""How long on each store; the long form is 60, and every database with every store."""
OLDER_THAN = timedelta(seconds=3)
MOST_S = 2.0
"""Longest that an insert may take, of what `older_than` allows for; rows that took longer go."""
DEFINITION = "subject : varchar(8)\nid : int64\n---\nversion : int32\nwaveform : <npy@>"
SIZES = (0, 7, 300, 5_000, 40_000)
THREADS = 2
PLACES = processes.places(SECONDS >= 60)


def array(number: int, version: int) -> Any:
    """Return what the row of that key and version holds."""
    return np.arange(SIZES[number % len(SIZES)]) * float(number + 1) + version


def row(number: int, version: int = 0) -> dict[str, Any]:
    """Return a whole row; the folders of half of them differ in case only."""
    return {
        "subject": "Mm"[number % 2],
        "id": number,
        "version": version,
        "waveform": array(number, version),
    }


def _same(loaded: Any, _: Any, whole: Any) -> bool:
    return np.array_equal(loaded, whole)


class Rollback(Exception):  # noqa: N818
    """Ends a transaction."""


class Worker:
    """
    One thread of one process: its own connection, what it did, and what was wrong.

    Parameters
    ----------
    lab : Lab
        Where.
    tables : list of str
        One that arrays are inserted into, and one of another schema that rows are copied to.
    """

    def __init__(self, lab: Lab, tables: list[str]) -> None:
        self._instance = lab.connected()
        self.recording, self.copied = (self._instance.FreeTable(table) for table in tables)
        self.schemas = [
            self._instance.Schema(t.database, create_schema=False)
            for t in (self.recording, self.copied)
        ]
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._random = random.Random()
        self._numbers = count(self._random.randrange(10**12) * 10**5)
        self._own = [next(self._numbers)]

    def run(self, role: str, until: float) -> None:
        """Work for some time."""
        steps: dict[str, list[Callable[[], None]]] = {
            "writer": [
                self.insert_one, self.insert_many, self.insert_slowly, self.insert_again,
                self.insert_and_skip, self.roll_back, self.commit, self.copy, self.update,
            ],
            "reader": [self.load, self.read_slices, self.stream, self.map],
            "deleter": [self.delete, self.delete, self.rest],
            "keeper": [self.verify, self.collect, self.rest],
        }  # fmt: skip
        while time.monotonic() < until:
            self._try(self._random.choice(steps[role]))
        if role == "keeper":
            self._try(self.collect)  # by now something is old enough

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
            self.done[step.__name__] += 1
        except DuplicateError:
            self._promised("DuplicateError", step.__name__ in ("insert_again", "copy"))
        except (DataJointError, pymysql.err.OperationalError) as error:
            # Two statements that wait for each other's rows: databases end one of them.
            self._promised("deadlock", "deadlock" in str(error).lower())
        except Exception:
            self._promised("", False)

    # Writers

    def insert_one(self) -> None:
        number = next(self._numbers)
        self._timed([number], lambda: self.recording.insert1(row(number)))

    def insert_many(self) -> None:
        numbers = [next(self._numbers) for _ in range(8)]
        self._timed(numbers, lambda: dj_npy.insert(self.recording, map(row, numbers)))

    def insert_slowly(self) -> None:
        numbers = [next(self._numbers) for _ in range(3)]

        def rows() -> Iterator[dict[str, Any]]:
            for number in numbers:
                yield row(number)
                time.sleep(0.2)  # the file is there, its row is not

        self._timed(numbers, lambda: self.recording.insert(rows()))

    def insert_again(self) -> None:
        number = self._random.choice(self._own)  # it may have been deleted, and comes again
        self._timed([number], lambda: self.recording.insert1(row(number)))

    def insert_and_skip(self) -> None:
        numbers = [*self._some_own(), next(self._numbers)]
        self._timed(
            numbers,
            lambda: dj_npy.insert(self.recording, map(row, numbers), skip_duplicates=True),
        )

    def roll_back(self) -> None:
        with suppress(Rollback), self._instance.connection.transaction:
            self.recording.insert1(row(next(self._numbers)))
            raise Rollback

    def commit(self) -> None:
        numbers = [next(self._numbers) for _ in range(2)]

        def insert() -> None:
            with self._instance.connection.transaction:
                for number in numbers:
                    self.recording.insert1(row(number))

        self._timed(numbers, insert)

    def copy(self) -> None:
        # In the database: rows of two schemas share a file.
        self.copied.insert(self._of(self.recording, self._some_own()), skip_duplicates=True)

    def update(self) -> None:
        found = self._of(self.recording, self._some_own()).proj("version").to_dicts()
        if not found:
            return
        new = row(found[0]["id"], found[0]["version"] + 1)
        try:
            self._timed([new["id"]], lambda: self.recording.update1(new))
        except DataJointError as error:
            self._promised("update of a row that is gone", "existing" in str(error))

    def _timed(self, numbers: list[int], insert: Callable[[], object]) -> None:
        begin = time.monotonic()
        insert()
        self._own = [*self._own[-200:], *numbers]
        if time.monotonic() - begin > MOST_S:
            self.done["took too long for older_than"] += 1
            for table in (self.recording, self.copied):
                self._of(table, numbers).delete_quick()

    # Readers

    def load(self) -> None:
        for found in self._some():
            self._check(found, lambda ref, whole: np.array_equal(ref.load(), whole))

    def read_slices(self) -> None:
        def same(ref: Any, whole: Any) -> bool:
            a, b = sorted(self._random.randint(0, len(whole)) for _ in range(2))
            return np.array_equal(ref[a:b:3], whole[a:b:3])

        for found in self._some():
            self._check(found, same)

    def map(self) -> None:
        for found in self._some():
            self._check(found, lambda ref, whole: np.array_equal(ref.load(mmap_mode="r"), whole))

    def stream(self) -> None:
        rows = list(self._some(20))
        arrays = dj_npy.stream([each["waveform"] for each in rows])
        try:
            for each, loaded in zip(rows, arrays, strict=True):
                self._check(each, partial(_same, loaded))
        except dj_npy.ArrayMissingError as error:
            gone = [each for each in rows if not self._is_there(each)]
            self._promised("ArrayMissingError", any(each["waveform"].path in str(error)
                                                    for each in gone))  # fmt: skip

    def _check(self, found: dict[str, Any], same: Callable[[Any, Any], bool]) -> None:
        """Compare an array with its row; what a row of the past says no longer holds."""
        whole = array(found["id"], found["version"])
        try:
            if same(found["waveform"], whole):
                self.done["arrays read"] += 1
                return
            what = "bytes of the file's next owner"
        except dj_npy.ArrayMissingError:
            what = "ArrayMissingError"
        except dj_npy.ArrayCorruptError as error:
            what = "changed while it was read"
            if what not in str(error):
                raise
        self._promised(what, not self._is_there(found), found)

    def _is_there(self, found: dict[str, Any]) -> bool:
        """Whether a row is still as it was, and not taken back as its insert took too long."""
        for wait_s in (0, 1):
            time.sleep(wait_s)
            if not any(
                each["waveform"].path == found["waveform"].path
                and each["version"] == found["version"]
                for table in (self.recording, self.copied)
                for each in self._of(table, [found["id"]]).to_dicts()
            ):
                return False
        return True

    # Deleters

    def delete(self) -> None:
        # More originals than copies, and no more than others insert.
        table = self._random.choice([self.recording] * 3 + [self.copied])
        numbers = list(table.to_arrays("id"))
        self._of(table, self._random.sample(numbers, len(numbers) // 20)).delete_quick()

    def rest(self) -> None:
        time.sleep(self._random.uniform(0.05, 0.2))

    # Keepers

    def verify(self) -> None:
        report = dj_npy.verify(*self.schemas, checksums=self._random.random() < 0.5)
        self.done["arrays verified"] += report.checked
        for finding in report.findings:
            if finding.what == "changed since insert":
                continue
            rows = [
                each
                for table in (self.recording, self.copied)
                for each in self._of(table, [finding.key["id"]]).to_dicts()
            ]
            there = any(each["waveform"].path == finding.path for each in rows)
            # Unless the row is of the file's next owner, and well.
            well = all(each["waveform"].verify() == "as inserted" for each in rows) if there else 0
            self._promised(f"verify: {finding.what}", bool(well) or not there, finding)

    def collect(self) -> None:
        try:
            found = dj_npy.collect(
                *self.schemas, older_than=OLDER_THAN, dry_run=False, at_most=10**6
            )
        except dj_npy.StoreError as error:
            said = [s for s in ("another collection", "a transaction") if s in str(error)]
            self._promised(f"collect: {''.join(said)}", bool(said))
            return
        self.done["files collected"] += found.removed
        if not found.ok:
            self.wrong.append(f"not collected: {found.failures[0]}")

    # All

    def _some(self, most: int = 5) -> Iterator[dict[str, Any]]:
        """Yield rows, some of which may be gone by then."""
        table = self._random.choice([self.recording, self.copied])
        numbers = list(table.to_arrays("id"))
        few = self._random.sample(numbers, min(most, len(numbers)))
        yield from self._of(table, few).to_dicts()

    def _some_own(self) -> list[int]:
        return self._random.sample(self._own, min(3, len(self._own)))

    def _of(self, table: Any, numbers: Iterable[int]) -> Any:
        return table & f"id IN ({','.join(map(str, [-1, *numbers]))})"

    def _promised(self, what: str, it_is: bool, about: Any = "") -> None:
        if it_is:
            self.done[what] += 1
        else:
            self.wrong.append(f"{what} {about}\n{traceback.format_exc()}")


def work(lab: Lab, tables: list[str], role: str, seconds: float, result: Any) -> None:
    """Be a process with several threads that have one thing to do."""
    workers = [Worker(lab, tables) for _ in range(THREADS)]
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=each.run, args=(role, until)) for each in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = sum((each.done for each in workers), Counter())
    result.send((dict(done), [wrong for each in workers for wrong in each.wrong]))


@pytest.fixture(params=PLACES, ids="-".join)
def place(request: Any, tmp_path: Path) -> Iterator[tuple[Lab, list[Any], list[Any], Contents]]:
    """What workers are told, two schemas and their tables, and a look into the store."""
    name, kind = request.param
    database = request.getfixturevalue(name)
    before = database.config.stores
    store, contents = processes.a_store(kind, request, f"races/{uuid.uuid4().hex}")
    lab = processes.lab(database, store, tmp_path / "cache")
    schemas = [database.Schema(f"test_{uuid.uuid4().hex[:12]}") for _ in range(2)]
    tables = [
        schema(type(name, (dj.Manual,), {"definition": DEFINITION}))()
        for schema, name in zip(schemas, ("Recording", "Copied"), strict=True)
    ]
    yield lab, schemas, tables, contents
    for schema in schemas:
        schema.drop(prompt=False)
    database.config.stores = before


def test_all_at_once_nothing_is_lost(
    place: tuple[Lab, list[Any], list[Any], Contents], record_property: Any
) -> None:
    lab, schemas, tables, contents = place
    names = [table.full_table_name for table in tables]
    dj_npy.insert(tables[0], [row(-n) for n in range(2, 40)])
    (tables[0] & "id > -9").delete_quick()
    sessions = processes.sessions(tables[0].connection)
    started = []
    for role in ("writer", "writer", "reader", "deleter", "keeper"):
        result, ours = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(lab, names, role, SECONDS, ours), daemon=True)
        process.start()
        ours.close()
        started.append((process, result))
    done: Counter[str] = Counter()
    wrong = []
    for process, result in started:
        assert result.poll(SECONDS + 120), "a process hangs"
        its_done, its_wrong = result.recv()
        done.update(its_done)
        wrong += its_wrong
        process.join()
    figures = ", ".join(f"{count} {what}" for what, count in sorted(done.items()))
    record_property("figures", figures)
    print(figures)
    assert not wrong, f"{len(wrong)} things went wrong, first:\n{wrong[0]}"
    for what in ("arrays read", "arrays verified", "delete", "files collected"):
        assert done[what], what

    processes.wait_for_sessions(tables[0].connection, sessions)
    # A slow machine may have left no copy without its original.
    dj_npy.insert(tables[0], [row(-1)])
    tables[1].insert(tables[0] & "id = -1")
    (tables[0] & "id = -1").delete_quick()
    n = sum(map(len, tables))
    assert dj_npy.verify(*schemas, checksums=True).counts == {"as inserted": n}
    found = dj_npy.collect(*schemas, older_than=timedelta(0), dry_run=False, at_most=10**6)
    assert found.ok
    originals, copies = ({each["waveform"].path for each in t.to_dicts()} for t in tables)
    print(
        f"{len(originals)} rows, {len(copies)} copies, {len(copies - originals)} without originals"
    )
    assert copies - originals
    assert contents.files() == contents.listed(originals | copies)
    assert not contents.remains()
    assert dj_npy.verify(*schemas, checksums=True).counts == {"as inserted": n}
