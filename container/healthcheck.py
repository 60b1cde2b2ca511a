"""Exit with 0 where the proxy of this container answers on its /health, with 1 otherwise.

It knows the port from the command line of the container's first process, so that ``-p 9090`` needs no second mention.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Sequence
from pathlib import Path

FIRST_PROCESS = Path("/proc/1/cmdline")
DEFAULT_PORT = 8080  # mitmproxy's own
PATIENCE = 3.0  # seconds, below the five that the Containerfile gives
PORT_OPTIONS = ("-p", "--listen-port")


def port_of(words: Sequence[str]) -> int:
    """Return the port that a command line of mitmdump names, the last one if there are several."""
    port = DEFAULT_PORT
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in PORT_OPTIONS and (value or following).isdecimal():
            port = int(value or following)
    return port


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
