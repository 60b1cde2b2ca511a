"""Whether a proxy answers on this machine, asked on its own ``/health``."""

from __future__ import annotations

import ipaddress
from typing import Any

import httpx
from rich.text import Text

from kimi_core.cli.configuration import Configuration
from kimi_core.cli.output import Report

PATIENCE = 1.0  # seconds; a listener on this machine answers in milliseconds or not at all
_SAYS = {
    "running": ("a proxy is running at {url}", "green"),
    "foreign": (
        "{url} is taken by something else: another program, or mitmproxy without the addon",
        "yellow",
    ),
    "none": ("no proxy is running at {url}; start one with `kimi-mitm start` or `make run`", "dim"),
    "remote": ("the proxy listens at {url}, not on a loopback address; it was not asked", "dim"),
}


def probe(configuration: Configuration) -> Report:
    """Ask the proxy of *configuration* whether it is there; only ever on a loopback address."""
    url = configuration.proxy_url
    state, health = ask(url) if is_loopback(configuration.host) else ("remote", None)
    version = None if health is None else str(health.get("version"))
    sentence, style = _SAYS[state]
    view = Text.assemble(("Proxy  ", "bold"), (sentence.format(url=url), style))
    return Report({"url": url, "state": state, "version": version}, view)


def is_loopback(host: str) -> bool:
    """Tell whether *host*, a name or an address, is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ask(url: str) -> tuple[str, dict[str, Any] | None]:
    """Return the state of what listens at *url* (a key of `_SAYS`), and what it tells of itself where it is ours."""
    try:
        # the environment is not read: HTTPS_PROXY in a client's shell points back at this proxy
        with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
            answer = client.get(f"{url}/health")
        data = answer.json()
    except httpx.ConnectError:
        return "none", None
    except (httpx.HTTPError, ValueError):
        return "foreign", None
    ours = answer.status_code == httpx.codes.OK and isinstance(data, dict) and "providers" in data
    return ("running", data) if ours else ("foreign", None)
