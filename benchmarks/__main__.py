"""Run every measurement: ``python -m benchmarks``."""

from benchmarks import local
from benchmarks._measure import machine

print(f"{machine()}\n")
local.main()
