"""`usage`: what arrays take, from the rows alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
from dj_npy._cli.main import main
from tests.conftest import MakeTable
from tests.support.references import forget_stores

DEFINITION = """
subject : varchar(16)
session : int32
---
waveform : <npy@>
movie = null : <npy@archive>
"""
SMALL, LARGE = np.arange(10.0), np.zeros((100, 50), np.int16)
OF_SMALL, OF_LARGE = 128 + 80, 128 + 10_000


@pytest.fixture
def sessions(table: MakeTable) -> Any:
    """Three sessions of two subjects, one of which has a movie."""
    made = table(DEFINITION, "Session")
    made.insert(
        [
            {"subject": "M1", "session": 1, "waveform": SMALL, "movie": LARGE},
            {"subject": "M1", "session": 2, "waveform": SMALL, "movie": None},
            {"subject": "M2", "session": 1, "waveform": SMALL, "movie": None},
        ]
    )
    return made


def test_it_counts_by_table_attribute_and_store(
    sessions: Any, schema: Any, opened: list[str]
) -> None:
    found = dj_npy.usage(schema, progress=True)
    name = schema.database
    assert found.used == [
        (name, "session", "movie", "archive", None, 1, OF_LARGE),
        (name, "session", "waveform", "main", None, 3, 3 * OF_SMALL),
    ]
    assert (found.arrays, found.nbytes) == (4, OF_LARGE + 3 * OF_SMALL)
    assert found.stores == {"archive": OF_LARGE, "main": 3 * OF_SMALL}
    assert found.schemas == {name: found.nbytes}
    assert found.ok
    assert opened == []
    assert json.loads(found.to_json())["used"][0]["store"] == "archive"
    assert f"{name}.session.movie in 'archive': 9.89 KiB" in str(found)


def test_sizes_are_those_of_the_files(sessions: Any, store: Path) -> None:
    sizes = [path.stat().st_size for path in store.rglob("*.npy")]
    assert dj_npy.usage(sessions).stores["main"] == sum(sizes)


def test_it_divides_by_an_attribute_of_the_key(sessions: Any, recording: Any, schema: Any) -> None:
    recording.insert1({"recording_id": 1, "waveform": SMALL})
    found = dj_npy.usage(schema, by="subject")
    assert {(each.table, each.attribute, each.by, each.arrays) for each in found.used} == {
        ("session", "waveform", "M1", 2),
        ("session", "movie", "M1", 1),
        ("session", "waveform", "M2", 1),
        ("recording", "waveform", None, 1),
    }
    assert ", subject=M2: " in str(found)


def test_it_counts_restricted_rows(sessions: Any) -> None:
    assert dj_npy.usage(sessions & {"subject": "M1"}).arrays == 3
    assert dj_npy.usage(sessions()).arrays == 4


def test_an_attribute_of_no_key_is_refused(sessions: Any, schema: Any) -> None:
    with pytest.raises(dj_npy.ArrayInvalidError, match="'mouse'; there are: session, subject"):
        dj_npy.usage(schema, by="mouse")


def test_no_store_is_needed(sessions: Any, schema: Any, database: Any) -> None:
    database.config.stores = {"default": "main"}
    forget_stores()
    assert dj_npy.usage(schema).arrays == 4


def test_a_row_that_tells_no_size_is_counted(sessions: Any, schema: Any) -> None:
    quote = sessions.connection.adapter.quote_identifier
    sessions.connection.query(
        f"""UPDATE {sessions.full_table_name} SET {quote("movie")} = '{{"path": "a.npy"}}' """
        f"""WHERE {quote("movie")} IS NOT NULL"""
    )
    found = dj_npy.usage(schema)
    assert (found.arrays, found.invalid, found.ok) == (3, 1, False)
    assert "1 rows tell no size" in str(found)


def test_what_collect_would_free_stands_beside(sessions: Any, schema: Any) -> None:
    (sessions & {"subject": "M1", "session": 2}).delete(prompt=False)
    found = dj_npy.usage(schema, collectable=True)
    assert found.collectable is not None
    assert found.collectable.young == 1  # a day has to pass
    assert "collect would free 0 bytes of 0 files" in str(found)
    assert json.loads(found.to_json())["collectable"] == {"arrays": 0, "nbytes": 0, "counts": {}}
    with pytest.raises(dj_npy.ArrayInvalidError, match="known of schemas"):
        dj_npy.usage(sessions, collectable=True)


def test_the_command(
    sessions: Any, schema: Any, capsys: pytest.CaptureFixture[str], configured: None
) -> None:
    assert main(["usage"]) == 0
    assert f"{schema.database}.session.waveform in 'main'" in capsys.readouterr().out
    assert main(["usage", schema.database, "--by", "subject", "--json", "--collectable"]) == 0
    assert json.loads(capsys.readouterr().out)["by"] == "subject"
    assert main(["usage", "no_schema"]) == 1
