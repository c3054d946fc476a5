"""Run every measurement, or one: ``python -m benchmarks [local] [remote]``."""

import sys

from benchmarks import local, remote
from benchmarks._measure import machine

print(f"{machine()}\n")
chosen = sys.argv[1:] or ["local", "remote"]
for name, module in (("local", local), ("remote", remote)):
    if name in chosen:
        module.main()
