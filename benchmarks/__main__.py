"""Run every measurement, or one: ``python -m benchmarks [local] [remote] [parts]``."""

import sys

from benchmarks import local, parts, remote
from benchmarks._measure import machine

print(f"{machine()}\n")
chosen = sys.argv[1:] or ["local", "remote", "parts"]
for name, module in (("local", local), ("remote", remote), ("parts", parts)):
    if name in chosen:
        module.main()
