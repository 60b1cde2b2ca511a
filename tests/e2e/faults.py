"""A script for mitmdump: leads the next connections to the service to a closed port, where the kernel refuses them.

The file named by KIMI_TEST_REFUSALS holds how many, and the port: ``2 40123``.
"""

import os
from pathlib import Path

from mitmproxy.proxy.server_hooks import ServerConnectionHookData

VARIABLE = "KIMI_TEST_REFUSALS"


def server_connect(data: ServerConnectionHookData) -> None:
    """Change the address while refusals are left."""
    path = Path(os.environ[VARIABLE])
    left, port = map(int, path.read_text().split())
    if left:
        path.write_text(f"{left - 1} {port}")
        data.server.address = ("127.0.0.1", port)
