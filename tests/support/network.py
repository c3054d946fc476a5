"""The tests' own network, in which there is one authority for certificates, and it is nobody."""

import os
from pathlib import Path

INTERNET = dict(os.environ)
"""The environment for programs that use the internet."""

# Each client of a store and each connection to MySQL reads all authorities: 25 ms for a machine's.
for variable in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR"):
    os.environ.pop(variable, None)
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("nobody.pem"))
