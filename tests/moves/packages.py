"""A schema of ten tables with values of all types, to be exported."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import datajoint as dj
import numpy as np

RIG = UUID("12345678-1234-5678-1234-567812345678")
START = datetime(2020, 1, 1, 1, 2, 3, 45)
SUBJECTS = ('é\n"q",', "b", "A", "c\\N")
NOTES = ("\\N", "", "a\r\nb\rc", "it's; 100%")
WEIGHTS = (1 / 3, np.float32(1e-40), 3.4e38, 0.0)
NUMBERS = (0.1, 1e300, 5e-324, 2.0**53)
ARRAYS = (
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.zeros((0, 3), ">i2"),
    np.array(3.5),
    np.zeros(4, [("a", "<f4"), ("b", ">i8", (2,))]),
    np.array(["é", "b"]),
)
PARAMETERS = {"x": [1, 2.5, None, "é\n", 1e22, 10**17], "bb": True, "a": {}}


def declare(schema: Any) -> dict[str, Any]:
    """Declare the tables in a schema."""

    @schema
    class Rig(dj.Lookup):
        definition = """
        rig : uuid
        day : date
        ---
        price : decimal(10,2)
        """

    @schema
    class Subject(dj.Manual):
        definition = """
        # Subjects, it's 100%%
        subject : varchar(30)  # the name's
        ---
        born = null : date
        sex = "F" : enum('M','F','U')
        weight = 1.5 : float32
        alive = 1 : bool
        note = "it's" : varchar(200)
        index (born)
        """

    @schema
    class Session(dj.Manual):
        definition = """
        -> Subject
        session : int16
        start : datetime(6)
        ---
        -> [nullable] Rig
        -> [nullable] Subject.proj(friend="subject")
        raw = null : <npy@>
        params = null : <blob>
        about = null : json
        code = null : bytes
        """

        class Trial(dj.Part):
            definition = """
            -> master
            trial : int32
            ---
            v : float64
            w = null : <npy@>
            """

        class Event(dj.Part):
            definition = """
            -> master
            event : int8
            """

    @schema
    class Analysis(dj.Computed):
        definition = """
        -> Session
        ---
        -> Session.Trial
        mean : <npy@archive>
        """

        def make(self, key: Any) -> None:
            raise NotImplementedError

    @schema
    class Setting(dj.Manual):
        definition = """
        ---
        x : int64
        """

    @schema
    class Comparison(dj.Manual):
        definition = """
        -> Subject.proj(one="subject")
        -> Subject.proj(other="subject")
        ---
        unique index (one)
        """

    @schema
    class Empty(dj.Manual):
        definition = """
        n : int64
        """

    @schema
    class Summary(dj.Imported):
        definition = """
        -> Analysis
        ---
        when_ = CURRENT_TIMESTAMP : datetime
        """

        def make(self, key: Any) -> None:
            raise NotImplementedError

    return {k: v for k, v in locals().items() if k != "schema"}


def fill(tables: dict[str, Any]) -> None:
    """Insert a few rows."""
    rig = tables["Rig"]()
    is_mysql = rig.connection.adapter.backend == "mysql"
    rig.connection.query(  # DataJoint cannot insert a UUID into PostgreSQL 18
        f"INSERT INTO {rig.full_table_name} VALUES (%s, '2020-02-29', 12345678.90)",
        (RIG.bytes if is_mysql else str(RIG),),
    )
    tables["Subject"].insert(
        {
            "subject": name,
            "born": date(2001, 2, 3) if name == "b" else None,
            "sex": sex,
            "weight": weight,
            "alive": name != "b",
            "note": note,
        }
        for name, sex, weight, note in zip(SUBJECTS, "MFUU", WEIGHTS, NOTES, strict=True)
    )
    nothing = {"rig": None, "day": None, "friend": None}
    for n, array in enumerate(ARRAYS):
        key = {"subject": SUBJECTS[n % 4], "session": n, "start": START}
        tables["Session"].insert1(
            {
                **key,
                **(nothing if n else {"rig": str(RIG), "day": date(2020, 2, 29), "friend": "b"}),
                "raw": array,
                "params": {"a": np.arange(3)},
                "about": PARAMETERS if n else None,
                "code": bytes(range(256)) if n else b"",
            }
        )
        tables["Session"].Trial.insert(
            {**key, "trial": k, "v": v, "w": np.arange(k) if k else None}
            for k, v in enumerate(NUMBERS)
        )
        tables["Session"].Event.insert1({**key, "event": -128})
    first = {"subject": SUBJECTS[0], "session": 0, "start": START}
    row = {**first, "trial": 1, "mean": np.ones(3)}
    tables["Analysis"].insert1(row, allow_direct_insert=True)
    tables["Summary"].insert1(first, allow_direct_insert=True)
    tables["Setting"].insert1({"x": 2**63 - 1})
    tables["Comparison"].insert1({"one": "A", "other": "b"})


def contents(folder: Path, schema: str) -> dict[str, bytes]:
    """Return the files of a package, but for times and names of schema and database."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            read = path.read_bytes().replace(schema.encode(), b"SCHEMA")
            name = path.relative_to(folder).as_posix().replace(schema, "SCHEMA")
            if name == "datapackage.json":
                package = json.loads(read)
                del package["created"], package["dj_npy"]["database"]
                for each in package["resources"]:  # of files with the schema's name in them
                    del each["hash"], each["bytes"]
                read = json.dumps(package, indent=1).encode()
            found[name] = read
    return found
