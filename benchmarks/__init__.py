"""Measurements. ``python -m benchmarks`` prints them as tables; they are no tests."""
