"""The tests' own network, in which there is one authority for certificates, and it is nobody."""

import json
import os
from pathlib import Path

_SAVED = "DJ_NPY_TEST_AUTHORITIES"
_NAMES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR")

# Each client of a store and each connection to MySQL reads all authorities: 25 ms for a machine's.
_machines = {name: os.environ.pop(name) for name in _NAMES if name in os.environ}
_machines = json.loads(
    os.environ.setdefault(_SAVED, json.dumps(_machines))
)  # pytest's workers, too
INTERNET = {**os.environ, **_machines}
"""The environment for programs that use the internet."""
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("nobody.pem"))
