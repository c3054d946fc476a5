"""
moto's S3 server, in which of two conditional writes of one key one succeeds, as in S3.

moto looks whether a key is there and then writes it, and another request may come between: of 1,500
times that twelve bare boto3 clients wrote one key with ``If-None-Match: *``, two of them succeeded
once. Here one request at a time changes objects.
"""

import threading
from collections.abc import Callable
from functools import cache, lru_cache, wraps
from typing import Any

from moto import backends
from moto.s3.models import FakeKey
from moto.s3.responses import S3Response
from moto.server import main

_one_changes = threading.RLock()


def alone(method: Callable[..., Any]) -> Callable[..., Any]:
    """Of such calls, one at a time."""

    @wraps(method)
    def call(*arguments: Any, **more: Any) -> Any:
        with _one_changes:
            return method(*arguments, **more)

    return call


for name in ("put_object", "copy_object", "delete_object", "_key_response_post"):
    setattr(S3Response, name, alone(getattr(S3Response, name)))

# Each request would look at two hundred folders, and each range be cut from another copy of it all.
_modules = backends.list_of_moto_modules
backends.list_of_moto_modules = cache(lambda: [*_modules()])
_value = vars(FakeKey)["value"]
FakeKey.value = _value.getter(lru_cache(1)(_value.fget))  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
