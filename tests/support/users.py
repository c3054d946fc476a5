"""Other users of this machine, as processes of their own; nobody is added to it."""

import json
import os
from pathlib import Path

import pytest

import dj_npy
from tests.support import warm

ALICE, BOB = 61201, 61202
LAB = 61300
"""A group of both, beside one that each has alone, of the user's own number."""

AS_USER = """
import json, os, stat, sys
from io import FileIO
from itertools import chain, repeat
import dj_npy
import dj_npy._stores.opening
from dj_npy import StoreError
from dj_npy._stores import filecache as _filecache
from dj_npy._format.path import with_token
from dj_npy._stores.local import rename
from dj_npy._stores.local.store import LocalStore
user, group, umask, arguments = json.loads(sys.argv[1])
os.setgroups([group])
os.setgid(user)
os.setuid(user)
os.umask(umask)

def create(store, contents, plain):
    names = chain([plain], map(with_token, repeat(plain)))
    return store.create(names, [memoryview(contents)], len(contents))

def told(use):
    try:
        print(use())
    except StoreError as error:
        print(error)

"""


def as_user(user: int, code: str, *arguments: object, umask: int = 0o022, group: int = LAB) -> str:
    """Run code as another user, who is in a group, and return what it prints."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    given = json.dumps([user, group, umask, [str(each) for each in arguments]])
    return warm.output("-c", AS_USER + code, given)


def cache_of_mine() -> Path:
    """Return this user's own folder in the cache."""
    return dj_npy.settings.cache_dir / f"user-{os.geteuid()}"
