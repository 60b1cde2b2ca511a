"""Flows as mitmproxy makes them of what clients send."""

import json

from mitmproxy.proxy import mode_specs
from mitmproxy.test import tflow, tutils

from kimi_core.headers import Headers


def flow(path="/coding/v1/chat/completions", host="api.kimi.com", port=443, scheme="https", headers=(), method="POST"):
    """Return a flow whose request goes to *host*; *headers* may be bytes."""
    made = tflow.tflow(req=tutils.treq(method=method.encode(), path=path.encode(), headers=Headers()))
    made.request.scheme = scheme
    made.request.data.host = host
    made.request.data.port = port
    made.request.headers.clear()
    for name, value in headers:
        made.request.headers.add(name, value)
    made.client_conn.sockname = ("127.0.0.1", 8080)
    made.client_conn.peername = ("127.0.0.1", 50000)
    made.client_conn.proxy_mode = mode_specs.ProxyMode.parse("regular")
    made.response = made.error = None
    return made


def local(path="/kimi/v1/chat/completions", host="127.0.0.1", headers=(), method="POST", port=8080):
    """Return a flow to the proxy's own port."""
    return flow(path, host, port, "http", headers, method)


def error(made):
    """Return the error object that a flow was answered with."""
    return json.loads(made.response.content)["error"]
