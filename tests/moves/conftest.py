"""What the tests of moves share."""

from typing import Any

import datajoint as dj
import pytest


@pytest.fixture
def configured(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database of the test is the one that is configured."""
    monkeypatch.setattr(dj, "conn", lambda: database.connection)
