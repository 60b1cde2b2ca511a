"""The internals of mitmproxy that are used here, as one table per use, and the check that they are there.

They did not change between mitmproxy 12.0 and 12.3, but nobody promises them. So each is looked at before it is used:
one that is gone or has another shape costs what needs it, the replay above all, never a crash in the middle of an
answer. Nothing is imported here until `missing` is called.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

_HTTP = "mitmproxy.proxy.layers.http"
_COMMANDS = "mitmproxy.proxy.commands"
STOCK = "stock_stream"
"""Attribute of our own stream class that names the class of mitmproxy's it stands for."""


@dataclass(frozen=True, slots=True)
class Internal:
    """One thing that must be there.

    ``is``: *path* exists in *module*. ``takes``: it is a function whose parameters begin with *names*, any further
    ones optional. ``has``: instances of the class at *path* have the attributes *names*. ``uses``: the function at
    *path* itself looks up *names* (module globals or attributes).
    """

    module: str
    path: str
    kind: Literal["is", "takes", "has", "uses"] = "is"
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = f"{self.module}.{self.path}"
        return f"{name} {self.kind} {', '.join(self.names)}" if self.names else name

    def there(self) -> bool:
        """Tell whether this mitmproxy has it in this shape."""
        try:
            found: Any = importlib.import_module(self.module)
            for part in self.path.split("."):
                found = getattr(found, part)
                found = getattr(found, STOCK, found)
            return _CHECKS[self.kind](found, self.names)
        except (ImportError, AttributeError, TypeError, ValueError):  # the last two: its signature cannot be read
            return False


def _takes(found: Any, names: tuple[str, ...]) -> bool:
    parameters = list(inspect.signature(found).parameters.values())
    rest = parameters[len(names) :]
    return tuple(parameter.name for parameter in parameters[: len(names)]) == names and all(
        parameter.default is not parameter.empty for parameter in rest
    )


def _has(found: Any, names: tuple[str, ...]) -> bool:
    have: set[str] = set()
    for parent in found.__mro__:
        have |= inspect.get_annotations(parent).keys()
        if code := getattr(parent.__init__, "__code__", None):
            have |= set(code.co_names)
    return have.issuperset(names)


def _uses(found: Any, names: tuple[str, ...]) -> bool:
    return set(inspect.unwrap(found).__code__.co_names).issuperset(names)


_CHECKS = {"is": lambda *_: True, "takes": _takes, "has": _has, "uses": _uses}


def _takes_rows(module: str, table: dict[str, str]) -> list[Internal]:
    return [Internal(module, path, "takes", ("self", *names.split())) for path, names in table.items()]


INTERNALS: tuple[Internal, ...] = (  # what a replay needs
    *(
        Internal(_HTTP, path)
        for path in (
            "HttpStream.state_done",
            "HttpStream.state_errored",
            "ErrorCode.CANCEL",
            "ErrorCode.GENERIC_SERVER_ERROR",
            "HttpRequestHeadersHook",
            "ResponseTrailers",
            "HttpLayer",
        )
    ),
    *_takes_rows(
        _HTTP,
        {
            "HttpStream.__init__": "context stream_id",
            "HttpStream._handle_event": "event",
            "HttpStream.passthrough": "event",
            "HttpStream.start_request_stream": "",
            "HttpStream.start_response_stream": "",
            "HttpStream.state_wait_for_response_headers": "event",
            "HttpStream.state_stream_response_body": "event",
            "HttpStream.state_consume_response_body": "event",
            "HttpStream.make_server_connection": "",
            "HttpStream.handle_protocol_error": "event",
            "HttpStream.check_body_size": "request",
            "HttpStream.check_invalid": "request",
            "HttpStream.check_killed": "emit_error_hook",
            "HttpStream.send_response": "already_streamed",
            "SendHttp.__init__": "event connection",
            "ReceiveHttp.__init__": "event",
            "DropStream.__init__": "stream_id",
            "HttpResponseHeadersHook.__init__": "flow",
            "RequestHeaders.__init__": "stream_id request end_stream",
            "RequestData.__init__": "stream_id data",
            "RequestTrailers.__init__": "stream_id trailers",
            "RequestEndOfMessage.__init__": "stream_id",
            "RequestProtocolError.__init__": "stream_id message code",
            "ResponseHeaders.__init__": "stream_id response end_stream",
            "ResponseData.__init__": "stream_id data",
            "ResponseEndOfMessage.__init__": "stream_id",
            "ResponseProtocolError.__init__": "stream_id message code",
        },
    ),
    *_takes_rows(_COMMANDS, {"RequestWakeup.__init__": "delay"}),
    Internal(_COMMANDS, "StartHook"),
    Internal("mitmproxy.hooks", "all_hooks"),
    Internal("mitmproxy.utils.human", "parse_size", "takes", ("s",)),
    Internal("mitmproxy.net.http.http1", "expected_http_body_size", "takes", ("request", "response")),
    Internal("mitmproxy.net.http.validate", "validate_headers", "takes", ("message",)),
    Internal("mitmproxy.proxy.events", "Wakeup", "has", ("command",)),
    Internal("mitmproxy.proxy.context", "Context", "has", ("client", "server", "options", "layers")),
    Internal(
        _HTTP,
        "HttpStream",
        "has",
        ("context", "flow", "stream_id", "client_state", "server_state", "request_body_buf", "response_body_buf"),
    ),
    Internal(_HTTP, "HttpLayer", "has", ("context", "streams", "connections")),
    Internal("mitmproxy.connection", "Server", "has", ("address", "error", "timestamp_end")),
    Internal(
        "mitmproxy.proxy.server", "ConnectionHandler.open_connection", "uses", ("timestamp_start", "timestamp_end")
    ),
    *_takes_rows(
        "mitmproxy.proxy.server",
        {"ConnectionHandler.handle_connection": "connection", "ConnectionHandler.server_event": "event"},
    ),
    Internal("mitmproxy.proxy.server", "ConnectionHandler.handle_connection", "uses", ("server_event", "transports")),
    Internal("mitmproxy.proxy.server", "ConnectionHandler", "has", ("transports",)),
    Internal("mitmproxy.proxy.events", "ConnectionClosed", "has", ("connection",)),
    Internal(f"{_HTTP}._http1", "make_body_reader", "uses", ("ChunkedReader",)),
    Internal(f"{_HTTP}._http1", "Http1Connection.read_body", "uses", ("body_reader", "buf", "ReceiveProtocolError")),
    *_takes_rows(
        f"{_HTTP}._http1",
        {
            "Http1Server.read_headers": "event",
            "Http1Server.wait": "event",
            "Http1Client.read_headers": "event",
            "Http1Connection.done": "event",
        },
    ),
    Internal(f"{_HTTP}._http1", "Http1Server.mark_done", "uses", ("wait",)),
    Internal(f"{_HTTP}._http1", "Http1Connection.mark_done", "uses", ("done", "read_headers", "buf")),
    Internal(f"{_HTTP}._http1", "Http1Connection.__init__", "uses", ("ReceiveBuffer", "buf")),
    Internal(f"{_HTTP}._http1", "Http1Connection", "has", ("stream_id", "state", "conn")),
    Internal(f"{_HTTP}._http1", "make_error_response", "takes", ("status_code", "message")),
    Internal(_HTTP, "HttpLayer._handle_event", "uses", ("Http1Server", "Http1Client")),
    Internal(_HTTP, "HttpClient._handle_event", "uses", ("Http1Client",)),
    # replacing the global replaces the class; the rest of the table is what the states and checks are known to do
    Internal(_HTTP, "HttpLayer.make_stream", "uses", ("HttpStream",)),
    Internal(_HTTP, "HttpLayer.event_to_child", "uses", ("command_sources", "RequestWakeup", "SendHttp", "DropStream")),
    Internal(_HTTP, "HttpLayer.get_connection", "uses", ("connections", "error", "server")),
    Internal(_HTTP, "HttpStream._handle_event", "uses", ("handle_protocol_error", "client_state", "server_state")),
    Internal(_HTTP, "HttpStream.check_killed", "uses", ("_paused_event_queue",)),
    Internal(_HTTP, "HttpStream.make_server_connection", "uses", ("handle_protocol_error", "GetHttpConnection")),
    Internal(_HTTP, "HttpStream.state_consume_request_body", "uses", ("request_body_buf", "check_body_size")),
    Internal(_HTTP, "HttpStream.start_response_stream", "uses", ("server_state", "state_stream_response_body")),
    Internal(_HTTP, "HttpStream.state_stream_response_body", "uses", ("send_response", "stream")),
)


TUNNELS: tuple[Internal, ...] = (
    Internal("mitmproxy.proxy.tunnel", "TunnelLayer", "has", ("conn", "tunnel_connection")),
    Internal(f"{_HTTP}._upstream_proxy", "HttpUpstreamProxy.start_handshake", "uses", ("HttpConnectUpstreamHook",)),
)
"""What `connecting` needs to know when a connection through an upstream proxy is there; without it none is given up."""

VIEWS: tuple[Internal, ...] = (Internal("mitmproxy.contentviews", "ContentviewRegistry", "has", ("_by_name",)),)
"""What `views` needs to take its views out again; without it they stay, until they are replaced by a reload."""

ROUNDS: tuple[Internal, ...] = (
    Internal("mitmproxy.addonmanager", "AddonManager.trigger_event", "uses", ("chain", "invoke_addon")),
    Internal("mitmproxy.addonmanager", "AddonManager._iter_hooks", "uses", ("traverse", "getattr", "name")),
    Internal("mitmproxy.addonmanager", "traverse", "uses", ("hasattr", "addons")),
)
"""What `rounds` needs to know who listens to an event; without it every addon is asked, which costs time alone."""


def missing(table: Iterable[Internal] = INTERNALS) -> list[str]:
    """Return what of *table* this mitmproxy has not got, in words; empty where all is well."""
    return [str(internal) for internal in table if not internal.there()]
