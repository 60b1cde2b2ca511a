"""Who may spend the user's subscription, and where its credentials may go.

A proxy that adds credentials is a confused deputy by nature (design: Guard). Three questions are asked, each where its
answer is known: may this peer connect (when it does), may this request be served (when its head is there), and is this
connection really the provider's (when it is open, before a byte is sent on it).
"""

from __future__ import annotations

import base64
import functools
import hmac
import ipaddress
from collections.abc import Iterable
from typing import ClassVar

from mitmproxy import connection, ctx, http

from kimi_core.errors import Refused
from kimi_core.exchange import Attempt, RequestHead
from kimi_core.headers import Headers

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
KEY_HEADER = "x-kimi-mitm-key"


class ForeignHost(Refused):
    """The request names a host that this proxy's own port does not have."""

    code = "foreign_host"
    status = 421


class FromBrowser(Refused):
    """A web page sent this request."""

    code = "from_browser"
    hint = "Web pages may not spend your subscription; use a program."


class PageFromElsewhere(FromBrowser):
    """Another site's page wants to read or frame the status page."""

    hint = "Open the status page itself, in a window of its own."


class NotEncrypted(Refused):
    """The credentials would leave without verified encryption."""

    code = "not_encrypted"


class Logged(Refused):
    """The credentials would be written into a log."""

    code = "wire_logged"
    hint = "Start mitmproxy without proxy_debug."


class KeyMissing(Refused):
    """The client key is missing or wrong."""

    code = "client_key"
    status = 401
    type: ClassVar[str] = "authentication_error"
    hint = "Set the client's API key to the value of the option kimi_client_key."


class ReverseMode(Refused):
    """A reverse proxy without the client's own Host header cannot tell a web page from a program."""

    code = "reverse_mode"
    hint = "Start mitmproxy with --set keep_host_header=true, or use http://127.0.0.1:PORT/kimi/v1 instead."


def is_loopback(address: str) -> bool:
    """Tell whether an IP address (or ``localhost``) is this machine's own."""
    return address == "localhost" or _in(address, ())


def peer_allowed(address: str, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    """Tell whether a client at this IP address may use the proxy: this machine always, others by *networks*."""
    return _in(address, networks)


def _in(address: str, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    if _is_own(address):
        return True
    ip = _ip(address)
    return ip is not None and any(ip in network for network in networks)


@functools.lru_cache(maxsize=256)  # the same few are asked about in each request
def _is_own(address: str) -> bool:
    ip = _ip(address)
    return ip is not None and ip.is_loopback


@functools.lru_cache(maxsize=256)
def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def own_port(flow: http.HTTPFlow) -> bool:
    """Tell whether a request is addressed to the port it arrived on: to this proxy itself, whatever name it used."""
    sockname = flow.client_conn.sockname
    in_tunnel = flow.client_conn.proxy_mode.type_name == "reverse"
    return bool(sockname) and not in_tunnel and flow.request.scheme == "http" and flow.request.port == sockname[1]


def check_local(head: RequestHead, own_address: str | None = None) -> None:
    """Refuse a request on the proxy's own port that does not call it by a loopback name.

    A page of another origin that has its name resolve to 127.0.0.1 (DNS rebinding) sends its own name. Where other
    machines may use the proxy, *own_address* is the IP address that this connection came in on: nobody can bend that.
    Raises ForeignHost.
    """
    if head.host.lower() not in LOOPBACK_NAMES | {own_address}:
        raise ForeignHost(f"This is a proxy on this machine; it does not answer as {head.host!r}.")


def check_client(flow: http.HTTPFlow, headers: Headers, key: str) -> None:
    """Refuse what must not spend the subscription: web pages, unknown peers, clients without the key.

    Raises FromBrowser, ReverseMode, KeyMissing.
    """
    if "origin" in headers or (headers.get("sec-fetch-site") or "none") != "none":
        raise FromBrowser("This request was sent by a web page.")
    if flow.client_conn.proxy_mode.type_name == "reverse":
        _check_reverse(flow, headers)
    if key and not _shows(key, _given_keys(headers)):
        raise KeyMissing("This proxy asks for a client key, and the request carries another one or none.")


def check_page(head: RequestHead, key: str) -> None:
    """Refuse the status page to what is not for its reader: other sites' scripts and frames, other machines.

    To follow a link to it from anywhere is harmless: what is opened in a window of its own is read by its user alone
    (Fetch Metadata, W3C). Where there is a client key it has to be shown, also as the password of a browser's own
    dialog (RFC 7617): others may have accounts on this machine. Raises PageFromElsewhere, KeyMissing.
    """
    headers = head.headers
    opened = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    at_home = (headers.get("sec-fetch-site") or "none") in {"none", "same-origin"}
    if "origin" in headers or not (at_home or opened):
        raise PageFromElsewhere("Another site asked for the status page.")
    if is_loopback(head.peer) and not key:
        return
    given = [*_given_keys(headers), *_passwords(headers)]
    if not key or not _shows(key, given):
        raise KeyMissing("The status page asks for the client key; in a browser's dialog it is the password.")


def _shows(key: str, given: Iterable[str]) -> bool:
    """Tell whether *key* is among *given*, in a time that does not tell how much of it was right.

    Bytes of a header that are no UTF-8 stand for lone surrogates there (PEP 383).
    """
    wanted = key.encode("utf-8", "surrogatepass")
    return any(hmac.compare_digest(each.encode("utf-8", "surrogatepass"), wanted) for each in given)


def _passwords(headers: Headers) -> list[str]:
    """Return the passwords of Basic authentication."""
    found = []
    for value in headers.get_all("authorization"):
        scheme, _, coded = value.partition(" ")
        if scheme.lower() == "basic":
            try:
                found.append(base64.b64decode(coded, validate=True).decode().partition(":")[2])
            except ValueError:
                continue
    return found


def _check_reverse(flow: http.HTTPFlow, headers: Headers) -> None:
    if not ctx.options.keep_host_header:
        raise ReverseMode("In reverse mode a web page could reach the subscription under a name of its own.")
    name = (headers.get("host") or "").rpartition(":")[0] or headers.get("host") or ""
    if name.strip("[]").lower() not in LOOPBACK_NAMES | {flow.request.host}:
        raise ForeignHost(f"This is a proxy on this machine; it does not answer as {name!r}.")


def _given_keys(headers: Headers) -> list[str]:
    parted = [(value, *value.partition(" ")) for value in headers.get_all("authorization")]
    bearer = [rest if scheme.lower() == "bearer" else value for value, scheme, _, rest in parted]
    return [*bearer, *headers.get_all("x-api-key"), *headers.get_all(KEY_HEADER)]


def check_encryption(head: RequestHead, scheme: str, *, own_leg: bool) -> None:
    """Refuse a request to a service on *scheme* https that would not stay encrypted and verified all the way.

    *own_leg*: the client speaks to this proxy itself (local endpoint, reverse mode); that leg never leaves the machine.
    Raises NotEncrypted.
    """
    if scheme != "https":
        return
    if head.scheme != "https" and not own_leg:
        raise NotEncrypted("Plain http to the service would send your login unencrypted; use https.")
    if ctx.options.ssl_insecure:
        raise NotEncrypted("mitmproxy runs with ssl_insecure: your login is not sent to a server nobody has verified.")


def check_log() -> None:
    """Refuse while mitmproxy logs what goes over the wire, sealed credentials and all. Raises Logged."""
    if ctx.options.proxy_debug:
        raise Logged("mitmproxy runs with proxy_debug, which would write your login into its log.")


def why_not(server: connection.Server, attempt: Attempt) -> str | None:
    """Judge an open connection: a sentence where *attempt*'s credentials must not go there, None where they may.

    Judged by where the connection really goes: other addons may have changed the request since it was routed.
    """
    if server.address is None or (server.address[0].lower(), server.address[1]) != (attempt.host, attempt.port):
        return "the connection does not lead to the service"
    if attempt.scheme == "http":
        return None if is_loopback(attempt.host) else "the connection is not encrypted"
    if not server.tls_established or not server.certificate_list:
        return "the connection is not encrypted"
    if ctx.options.ssl_insecure:
        return "the server's certificate is not verified"
    if server.sni not in {attempt.host, None}:
        return "the server was asked for under another name"
    return None


def loopback_modes(modes: list[str], listen_host: str, listen_port: int | None) -> list[str] | None:
    """Return the proxy modes with their listeners on 127.0.0.1, or None where nothing has to change.

    mitmproxy listens on all interfaces unless told otherwise. A host that the user chose, for all modes or in one of
    them, stays. Modes without a listening socket of their own stay as well.
    """
    from mitmproxy.proxy import mode_specs  # noqa: PLC0415 - pulls in the platform's redirectors; only wanted here

    if listen_host:
        return None
    moved = []
    for mode in modes:
        spec = mode_specs.ProxyMode.parse(mode)
        if spec.type_name not in {"regular", "upstream", "reverse", "socks5"} or spec.custom_listen_host:
            moved.append(mode)
            continue
        port = spec.listen_port(listen_port)
        plain = mode.rpartition("@")[0] if spec.custom_listen_port else mode
        moved.append(f"{plain}@127.0.0.1:{port}")
    return moved if moved != modes else None
