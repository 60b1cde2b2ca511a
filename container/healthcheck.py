"""Exit with 0 where the proxy of this container answers on its /health, with 1 otherwise.

It knows the port from the command line of the container's first process, so that ``-p 9090`` needs no second mention.
A ``listen_port`` in mitmproxy's config.yaml it does not see: in a container the port belongs on the command line.
"""

from __future__ import annotations

import http.client
import re
import sys
from collections.abc import Sequence
from pathlib import Path

FIRST_PROCESS = Path("/proc/1/cmdline")
DEFAULT_PORT = 8080  # mitmproxy's own
PATIENCE = 3.0  # seconds, below the five that the Containerfile gives
# every way to write it: -p 9090, -p9090, --listen-port 9090, --listen-port=9090, --set listen_port=9090
_PORT = re.compile(r"\0(?:-p[\0=]?|--listen-port[\0=]|--set[\0=]listen_port=)(\d{1,5})(?=\0)")


def port_of(words: Sequence[str]) -> int:
    """Return the port that a command line of mitmdump names, the last one if there are several."""
    found = _PORT.findall("\0".join(["", *words, ""]))
    return int(found[-1]) if found else DEFAULT_PORT


def healthy(port: int) -> bool:
    """Tell whether a proxy answers at *port* of this machine; variables such as HTTP_PROXY are not looked at."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    command_line = FIRST_PROCESS.read_bytes().decode(errors="replace").split("\0")
    sys.exit(0 if healthy(port_of(command_line)) else 1)
