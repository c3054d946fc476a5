"""
Hosts on this machine, each with a name, a network and an address of its own.

As a program, ``python -m tests.support.hosts FOLDER ADDRESS``, it is the store on one of them: it
prints its URL and then, when its input ends, who has read what of it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from tests.support.faults import proxy_of
from tests.support.servers import missing, seaweedfs

PREFIX = "dj-npy-"


class Host(NamedTuple):
    """A network namespace and its address; what runs there sees the other hosts, and no more."""

    name: str
    namespace: str
    address: str

    @contextmanager
    def runs(self, command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
        """A program that ends with this, and with the process that has started it."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        mortal = ["setpriv", "--pdeathsig", "TERM"]
        within = ["ip", "netns", "exec", self.namespace, *named, *mortal]
        process = subprocess.Popen(
            [*within, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """
    Hosts on one switch.

    The switch is in a namespace too, so that the machine's own network is left as it is.
    """
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "setpriv", "hostname"))):
        missing("netns", "needs root, and apt-get install iproute2")
    _remove_those_of_the_dead()
    switch = f"{PREFIX}{os.getpid()}-switch"
    with ExitStack() as stack:
        _add(switch, stack)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        found = []
        for number, name in enumerate(names, 1):
            host = Host(name, f"{PREFIX}{os.getpid()}-{name}", f"10.99.0.{number}")
            _add(host.namespace, stack)
            port = f"port{number}"
            there = ["peer", "name", "eth0", "netns", host.namespace]
            _ip("-n", switch, "link", "add", port, "type", "veth", *there)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.namespace, "link", "set", "eth0", "up")
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            found.append(host)
        yield found


def _add(namespace: str, stack: ExitStack) -> None:
    try:
        _ip("netns", "add", namespace)
    except OSError as error:  # root of a container that may not do this
        missing("netns", f"no network namespace can be made: {error}")
    stack.callback(_ip, "netns", "delete", namespace)


def _remove_those_of_the_dead() -> None:
    """Remove the namespaces of a test run that was killed."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        process = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and not Path("/proc", process).exists():
            with suppress(OSError):  # another run does the same
                _ip("netns", "delete", name)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def main(folder: str, address: str) -> None:
    with seaweedfs(Path(folder), address) as url, proxy_of(url, address) as proxy:
        print(proxy.endpoint, flush=True)
        sys.stdin.read()
        read = defaultdict(set)
        for request in proxy.asked("GET", "waveform.npy"):
            read[request.client].add(unquote(request.path).split("/")[-2])
        print(json.dumps({client: sorted(paths) for client, paths in read.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
