"""Whether the proxy is there, is ours, is up to date, listens where it should, and sees the same login."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, ok, problem, skipped, warning
from kimi_core.cli.checks.login import USABLE, everybody
from kimi_core.cli.checks.machine import Machine
from kimi_core.cli.probe import configured, is_loopback
from kimi_core.proxy.local import installed_version

START = "kimi-mitm start"
RESTART = "kimi-mitm stop, then kimi-mitm start"
ANYWHERE = ("0.0.0.0", "::", "*")  # noqa: S104 - what a listener on all addresses is called
MITMPROXY = ("mitmdump", "mitmweb", "mitmproxy")


@dataclass(frozen=True, slots=True)
class Listener:
    """What listens on the proxy's port.

    `state` is "running" (ours), "foreign", "none" or "remote" (not on this machine, not asked); `health` is what it
    tells; `addresses` and `program` are those of the process that listens, as far as the system tells.
    """

    url: str
    state: str
    health: dict[str, Any] | None = None
    addresses: tuple[str, ...] = ()
    program: str = ""


def listener(machine: Machine) -> Listener:
    """Return what listens on the proxy's port; looked at once for all checks."""
    return machine.once("listener", lambda: _look(machine))


def running(machine: Machine) -> Listener:
    """Return the proxy. Raises NothingToJudge where none of ours is running."""
    found = listener(machine)
    if found.state != "running":
        raise NothingToJudge(f"No kimi-mitm proxy answers at {found.url}: see proxy.running.")
    return found


def _look(machine: Machine) -> Listener:
    proxy = configured(machine.configuration)
    holders = list(_holders(proxy.port))
    addresses = tuple(dict.fromkeys(address for address, _ in holders))
    program = next((name for _, name in holders if name), "")
    return Listener(proxy.url, proxy.state, proxy.health, addresses, program)


def _holders(port: int) -> Iterator[tuple[str, str]]:
    """Yield address and program of each listener on *port*; nothing where the system does not tell."""
    for connection, pid in _connections():
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            yield connection.laddr.ip, _program(pid)


def _connections() -> Iterator[tuple[Any, int | None]]:
    try:
        yield from [(each, each.pid) for each in psutil.net_connections("tcp")]
    except (psutil.Error, OSError):  # macOS tells only root of all; one's own processes can be asked one by one
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                yield from [(each, process.pid) for each in process.net_connections("tcp")]


def _program(pid: int | None) -> str:
    """Return a process in words; its command line is left alone, for people write passwords there."""
    if pid is None:
        return ""
    try:
        process = psutil.Process(pid)
        words = [Path(word).name for word in process.cmdline()[:2]]
        name = next((word for word in words if word in MITMPROXY), process.name())
    except (psutil.Error, OSError):
        return f"process {pid}"
    return f"{name} (process {pid})"


# --- running ----------------------------------------------------------------------------------------------------------


def judge_running(found: Listener) -> Finding:
    """Judge whether the proxy is there."""
    elsewhere = "If it runs on another port, say so: kimi-mitm doctor --set listen_port=PORT"
    match found.state:
        case "running":
            return ok(f"The proxy answers at {found.url}.")
        case "remote":
            return problem(
                f"The proxy is set to listen at {found.url}, which is not this machine's own address 127.0.0.1.",
                "Remove listen_host from mitmproxy's config.yaml, then start the proxy anew.",
            )
        case "none":
            return problem(f"No proxy is running at {found.url}.", f"{START}. {elsewhere}")
        case _:
            who = found.program or "another program"
            plain = who.startswith(MITMPROXY)
            what = f"{who}, which runs without kimi-mitm" if plain else who
            cure = f"End it, then: {START}" if plain else f"End it, or take another port: {START} --port 9090"
            return problem(f"{found.url} is taken by {what}.", cure)


# --- version ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Versions:
    """The version of the running proxy, and that of this program."""

    proxy: str
    own: str


def gather_versions(machine: Machine) -> Versions:
    """Return both versions."""
    health = running(machine).health or {}
    return Versions(str(health.get("version") or "0"), installed_version())


def judge_versions(versions: Versions) -> Finding:
    """Judge whether the running proxy is of the version that is installed."""
    if "0" in (versions.proxy, versions.own):
        return skipped("A checkout that is not installed has no version.")
    if versions.proxy == versions.own:
        return ok(f"The proxy's version is this program's: {versions.own}.")
    age = "older" if _numbers(versions.proxy) < _numbers(versions.own) else "newer"
    return warning(f"The proxy's version, {versions.proxy}, is {age} than this program's, {versions.own}.", RESTART)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


# --- where it listens -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reach:
    """On which addresses the port is listened on, and whether other machines are meant to use it."""

    url: str
    addresses: Sequence[str]
    shared: bool


def gather_reach(machine: Machine) -> Reach:
    """Return where the port is listened on. Raises NothingToJudge where nobody can tell."""
    found = listener(machine)
    if not found.addresses:
        raise NothingToJudge(f"Nothing of yours listens at {found.url}, as far as the system tells.")
    return Reach(found.url, found.addresses, bool(machine.configuration.settings.kimi_allow_clients))


def judge_reach(reach: Reach) -> Finding:
    """Judge whether the port is open to this machine alone."""
    exposed = [address for address in reach.addresses if not is_loopback(address)]
    if not exposed:
        return ok("The proxy listens on this machine's own address alone.")
    where = "all addresses of this machine" if set(exposed) & set(ANYWHERE) else ", ".join(exposed)
    if reach.shared:
        return ok(f"The proxy listens on {where}, for the networks in kimi_allow_clients.")
    return warning(
        f"The proxy's port is open on {where}. Other machines are turned away, but need not reach it at all.",
        "Start it without --listen-host, and remove listen_host from mitmproxy's config.yaml.",
    )


# --- the login that it sees -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """The state of the Kimi login as the running proxy sees it, and as it is stored here."""

    proxy: tuple[str, str]
    own: tuple[str, str]
    folder: str


def gather_seen(machine: Machine) -> Seen:
    """Return both views of the login."""
    providers = (running(machine).health or {}).get("providers")
    kimi = providers.get("kimi") if isinstance(providers, dict) else None
    if not isinstance(kimi, dict):
        raise NothingToJudge("The proxy tells nothing of the Kimi login.")
    status = everybody(machine).kimi[0].status
    return Seen((str(kimi.get("site")), str(kimi.get("login"))), (status.slot, status.state), str(status.path.parent))


def judge_seen(seen: Seen) -> Finding:
    """Judge whether the running proxy uses the login that is looked at here."""
    (site, state), (own_site, own_state) = seen.proxy, seen.own
    if site != own_site:
        return problem(f"The running proxy serves {site}, the configuration says {own_site}.", RESTART)
    if (state in USABLE) != (own_state in USABLE):
        have = (
            "sees no login that works, though one is stored" if own_state in USABLE else "uses another login than that"
        )
        return problem(
            f"The running proxy {have} in {seen.folder}.",
            f"Start it as the same user, with the same KIMI_MITM_DATA_DIR: {RESTART}",
        )
    return ok("The proxy sees the same login as this program.")


CHECKS = (
    Check("proxy.running", "Proxy", listener, judge_running),
    Check("proxy.version", "Version of the proxy", gather_versions, judge_versions),
    Check("proxy.loopback", "Where the proxy listens", gather_reach, judge_reach),
    Check("proxy.login", "Login that the proxy sees", gather_seen, judge_seen),
)
