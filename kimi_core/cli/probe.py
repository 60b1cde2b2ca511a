"""Which proxies answer on this machine, asked on their own ``/health``."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import httpx
from rich.table import Table
from rich.text import Text

from kimi_core.cli.configuration import Configuration
from kimi_core.cli.output import Report
from kimi_core.cli.records import SHARED, STARTED, known
from kimi_core.errors import KimiMitmError
from kimi_core.store import state_dir

ADDRESS = frozenset({"listen_host", "listen_port", "mode"})  # options that say where a proxy listens
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
_COMMANDS = {STARTED: "start", SHARED: "run"}
_HOW = {"start": ", started by kimi-mitm start", "run": ", started by kimi-mitm run, for its clients alone", None: ""}


@dataclass(frozen=True, slots=True)
class Proxy:
    """What is where a proxy is expected.

    `state` is a key of `_SAYS`, `health` what a proxy of ours tells of itself; `started_by` is "start" or "run" where
    one of these commands has started it; `confdir` is the folder of its CA as far as that is known.
    """

    host: str
    port: int
    url: str
    state: str
    health: dict[str, Any] | None = None
    started_by: str | None = None
    confdir: str = ""

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


def recorded(environ: Mapping[str, str]) -> list[Proxy]:
    """Return the proxies that have a record and that answer, as `known` orders them."""
    found = []
    with suppress(KimiMitmError, OSError):  # a folder that cannot be looked into: the doctor's store.folder says why
        for files, running in known(state_dir(environ)):
            if running.port and is_loopback(running.host):
                state, health = ask(running.url)
                how = _COMMANDS.get(files.name.partition("-")[0])
                found.append(Proxy(running.host, running.port, running.url, state, health, how, running.confdir))
    return [proxy for proxy in found if proxy.state == "running"]


def in_use(configuration: Configuration, environ: Mapping[str, str]) -> Configuration:
    """Return *configuration* with the address of the proxy that clients find.

    That is the one of the configuration; where none answers there, another one with the same CA that stays for longer
    than its own clients. What --set says of the address stands.
    """
    if any(item.partition("=")[0] in ADDRESS for item in configuration.overrides):
        return configuration
    here = str(configuration.confdir.absolute())
    others = [one for one in recorded(environ) if one.started_by != "run" and one.confdir == here]
    if not others or any(one.port == configuration.port for one in others):
        return configuration
    if not is_loopback(configuration.host) or ask(configuration.proxy_url)[0] == "running":
        return configuration
    return replace(configuration, host=others[0].host, port=others[0].port)


def probe(configuration: Configuration, environ: Mapping[str, str]) -> Report:
    """Tell which proxies there are: the one where the configuration has it, and others that were started here."""
    first, own = configured(configuration), recorded(environ)
    same = next((proxy for proxy in own if (proxy.port, first.state) == (first.port, "running")), None)
    every = [same or first, *(proxy for proxy in own if proxy is not same)]
    table = Table.grid(padding=(0, 2))
    shown = every[1:] if len(every) > 1 and first.state == "none" else every
    for number, proxy in enumerate(shown):
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
