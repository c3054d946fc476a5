"""Run every measurement, or one: ``python -m benchmarks [local] [remote] [parts] [many]``."""

import sys

from benchmarks import local, many, parts, remote
from benchmarks._measure import machine

print(f"{machine()}\n")
chosen = sys.argv[1:] or ["local", "remote", "parts", "many"]
for name, module in (("local", local), ("remote", remote), ("parts", parts), ("many", many)):
    if name in chosen:
        module.main()
