"""Which proxies answer on this machine, asked on their own ``/health``."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
from rich.table import Table
from rich.text import Text

from kimi_core.cli.configuration import Configuration
from kimi_core.cli.output import Report
from kimi_core.cli.records import STARTED, proxies, state_dir
from kimi_core.errors import KimiMitmError

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
_HOW = {"start": ", started by kimi-mitm start", "run": ", started by kimi-mitm run, for its clients alone", None: ""}


@dataclass(frozen=True, slots=True)
class Proxy:
    """What is where a proxy is expected.

    `state` is a key of `_SAYS`, `health` what a proxy of ours tells of itself; `started_by` is "start" or "run" where
    one of these commands has started it.
    """

    host: str
    port: int
    url: str
    state: str
    health: dict[str, Any] | None = None
    started_by: str | None = None

    @property
    def data(self) -> dict[str, Any]:
        """Return what there is for scripts."""
        version = None if self.health is None else str(self.health.get("version"))
        return {"url": self.url, "state": self.state, "version": version, "started_by": self.started_by}


def configured(configuration: Configuration) -> Proxy:
    """Return what is where the configuration has the proxy; only ever asked on a loopback address."""
    url = configuration.proxy_url
    state, health = ask(url) if is_loopback(configuration.host) else ("remote", None)
    return Proxy(configuration.host, configuration.port, url, state, health)


def started(environ: Mapping[str, str]) -> list[Proxy]:
    """Return the proxies that `kimi-mitm start` and `run` have started and that answer, as `proxies` orders them."""
    found = []
    with suppress(KimiMitmError, OSError):  # a folder that cannot be looked into: the doctor's store.folder says why
        for files, running in proxies(state_dir(environ)):
            if running.port and is_loopback(running.host):
                state, health = ask(running.url)
                how = "start" if files.name == STARTED else "run"
                found.append(Proxy(running.host, running.port, running.url, state, health, how))
    return [proxy for proxy in found if proxy.state == "running"]


def probe(configuration: Configuration, environ: Mapping[str, str]) -> Report:
    """Tell which proxies there are: the one where the configuration has it, and others that were started here."""
    first, own = configured(configuration), started(environ)
    same = next((proxy for proxy in own if (proxy.port, first.state) == (first.port, "running")), None)
    every = [same or first, *(proxy for proxy in own if proxy is not same)]
    table = Table.grid(padding=(0, 2))
    for number, proxy in enumerate(every):
        sentence, style = _SAYS[proxy.state]
        text = sentence.format(url=proxy.url) + _HOW[proxy.started_by]
        table.add_row(Text("" if number else "Proxy", style="bold"), Text(text, style=style))
    return Report({**every[0].data, "others": [proxy.data for proxy in every[1:]]}, table)


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
