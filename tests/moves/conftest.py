"""What the tests of moves share."""

from tests.upkeep.conftest import configured, reader

__all__ = ["configured", "reader"]
