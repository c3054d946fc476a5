"""
The tests trust no authority of this machine, only `nobody.pem`.

That is a self-signed certificate whose private key was thrown away, so nothing can be signed with
it: clients trust no server, and read one certificate instead of a machine's hundred and more.
"""

import json
import os
from pathlib import Path

_SAVED = "DJ_NPY_TEST_AUTHORITIES"
_NAMES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR")

# Each client of a store and each connection to MySQL reads all authorities: 25 ms for a machine's.
_own = {name: os.environ.pop(name) for name in _NAMES if name in os.environ}
# A worker of pytest inherits what its parent has saved.
_machines = json.loads(os.environ.setdefault(_SAVED, json.dumps(_own)))
INTERNET = {**os.environ, **_machines}
"""The environment for programs that use the internet."""
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("nobody.pem"))
