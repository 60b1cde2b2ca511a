"""The variables by which clients find a proxy and certificates, as a client started in this shell would get them.

Programs disagree on them. What is said here holds for curl, Python's HTTP libraries, Node.js and Bun: the lower-case
name is read first, NO_PROXY's entries are names whose sub-domains count as well, and ALL_PROXY is a fallback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, ok, problem, skipped, warning
from kimi_core.cli.checks.machine import Machine
from kimi_core.cli.environment import CA_FILES, VARIABLES, Value
from kimi_core.cli.probe import is_loopback
from kimi_core.kimi.constants import REGIONS
from kimi_core.kiro.constants import DEFAULT_REGION, Endpoints

NO_PROXY = "localhost,127.0.0.1,::1"
LOCAL = ("localhost", "127.0.0.1")  # ::1 is missed by few: listeners of local servers are found under one of these
PAIRS = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
REPLACING = tuple(one.name for one in VARIABLES if one.value is Value.BUNDLE)  # trusted in place of all else
_ADDRESS = re.compile(
    r"(?:(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://)?(?:[^@/\s]*@)?(?P<host>\[[^\]\s]+\]|[^\s:/@]+)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<rest>.*)",
    re.DOTALL,
)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxies:
    """The variables as clients read them, and what they should lead to. Values are not repr'd: they may hold names."""

    environ: Mapping[str, str]
    host: str
    port: int
    served: Sequence[str] = ()

    @property
    def url(self) -> str:
        """The proxy's address for the variables."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def value(self, name: str) -> str:
        """Return the value of *name* as most clients read it: the lower-case one first, "" for none."""
        return self.environ.get(name.lower()) or self.environ.get(name) or ""

    def ours(self, name: str) -> bool:
        """Tell whether *name* leads to this proxy."""
        found = _ADDRESS.fullmatch(self.value(name).strip())
        return bool(found) and self._leads_here(found)  # type: ignore[arg-type]  # bool(None) is False

    def _leads_here(self, found: re.Match[str]) -> bool:
        port = int(found["port"] or _PORTS.get((found["scheme"] or "http").lower(), 0))
        return port == self.port and self._same_host(found["host"])

    def _same_host(self, host: str) -> bool:
        host = host.strip("[]").lower()
        return host == self.host or (is_loopback(host) and is_loopback(self.host))


def gather(machine: Machine) -> Proxies:
    """Return the variables of this shell."""
    configuration = machine.configuration
    others = [home.host for home in REGIONS.values()]
    hosts = list(dict.fromkeys([machine.site.host, *others]))
    if configuration.settings.kiro_enabled:
        hosts.append(urlsplit(Endpoints().runtime(DEFAULT_REGION)).hostname or "")
    far = tuple(host for host in hosts if not is_loopback(host))  # a service on this machine needs no proxy
    return Proxies(machine.environ, configuration.host, configuration.port, far)


def masked(value: str) -> str:
    """Return an address without the name and the password in it."""
    return re.sub(r"^([a-z][a-z0-9+.-]*://)?.*@", r"\1…@", value.strip(), flags=re.DOTALL | re.IGNORECASE)


# --- HTTPS_PROXY ------------------------------------------------------------------------------------------------------


def judge_https_proxy(facts: Proxies) -> Finding:
    """Judge whether HTTPS_PROXY leads to the proxy, in a form that every client understands."""
    value = facts.value("HTTPS_PROXY")
    if not value:
        return skipped("HTTPS_PROXY is not set here: clients reach the proxy by its base URL, or by kimi-mitm run.")
    cure = f"export HTTPS_PROXY={facts.url}"
    found = _ADDRESS.fullmatch(value)
    shown = masked(value)
    if found is None or value != value.strip() or ("://" in value and not found["scheme"]):
        return problem(f"HTTPS_PROXY is no address of a proxy: {shown!r}.", cure)
    if found["rest"].strip("/"):
        return problem(f"HTTPS_PROXY has more than host and port: {shown!r}. It is not a base URL.", cure)
    if not facts.ours("HTTPS_PROXY"):
        return _elsewhere(facts, found, shown, cure)
    return _scheme((found["scheme"] or "").lower(), shown, cure)


def _elsewhere(facts: Proxies, found: re.Match[str], shown: str, cure: str) -> Finding:
    if is_loopback(found["host"].strip("[]").lower()):
        return problem(f"HTTPS_PROXY leads to {shown}; the proxy is at {facts.url}.", cure)
    return warning(
        f"HTTPS_PROXY leads to {shown}, which is not this proxy: only clients that have its base URL use it.",
        f"{cure}; the other proxy goes into mitmproxy's config.yaml as mode: [upstream:http://host:port]",
    )


def _scheme(scheme: str, shown: str, cure: str) -> Finding:
    if scheme == "http":
        return ok(f"HTTPS_PROXY leads to the proxy ({shown}).")
    if not scheme:
        return warning(f"HTTPS_PROXY has no http:// in front ({shown}); some clients do not take it.", cure)
    if scheme == "https":
        return problem(f"HTTPS_PROXY says https ({shown}), but the proxy itself is spoken to in plain http.", cure)
    return problem(f"HTTPS_PROXY names a proxy of another kind ({shown}).", cure)


# --- NO_PROXY ---------------------------------------------------------------------------------------------------------


def judge_no_proxy(facts: Proxies) -> Finding:
    """Judge what NO_PROXY takes away from the proxy, and what it should take away."""
    proxied = [name for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY") if facts.value(name)]
    if not proxied:
        return skipped("No variable names a proxy, so NO_PROXY has no effect.")
    entries = [entry.strip().lower() for entry in facts.value("NO_PROXY").split(",") if entry.strip()]
    excluded = [host for host in facts.served if any(excludes(entry, host) for entry in entries)]
    if excluded and facts.ours("HTTPS_PROXY"):
        return problem(
            f"NO_PROXY keeps {', '.join(excluded)} away from the proxy.", f"export NO_PROXY={_without(facts, entries)}"
        )
    missing = [name for name in LOCAL if not any(excludes(entry, name) for entry in entries)]
    if missing:
        return warning(
            f"NO_PROXY lacks {' and '.join(missing)}: what clients ask of servers on this machine goes to a proxy.",
            f"export NO_PROXY={','.join([*entries, *(name for name in NO_PROXY.split(',') if name not in entries)])}",
        )
    return ok("NO_PROXY has this machine, and none of the hosts that are served.")


def excludes(entry: str, host: str) -> bool:
    """Tell whether an entry of NO_PROXY takes *host* away: the name, one of its domains, or everything."""
    name = entry.partition(":")[0] if entry.count(":") == 1 else entry.strip("[]")
    name = name.removeprefix("*").lstrip(".")
    return entry == "*" or (bool(name) and (host == name or host.endswith(f".{name}")))


def _without(facts: Proxies, entries: Iterable[str]) -> str:
    rest = [entry for entry in entries if not any(excludes(entry, host) for host in facts.served)]
    return ",".join(dict.fromkeys([*rest, *NO_PROXY.split(",")]))


# --- ALL_PROXY, and names in both spellings ---------------------------------------------------------------------------


def judge_all_proxy(facts: Proxies) -> Finding:
    """Judge what ALL_PROXY does where HTTPS_PROXY says nothing, and beside it."""
    value = facts.value("ALL_PROXY")
    if not value:
        return skipped("ALL_PROXY is not set.")
    shown = masked(value)
    if facts.ours("ALL_PROXY"):
        if facts.value("HTTPS_PROXY"):
            return ok("ALL_PROXY leads to the proxy as well.")
        return warning(
            "ALL_PROXY leads to the proxy, but Node.js and Bun do not read it.", f"export HTTPS_PROXY={facts.url}"
        )
    if facts.ours("HTTPS_PROXY"):
        return warning(
            f"ALL_PROXY leads elsewhere ({shown}): some clients prefer it to HTTPS_PROXY.", "unset ALL_PROXY"
        )
    return warning(f"ALL_PROXY leads elsewhere ({shown}), past this proxy.", "unset ALL_PROXY all_proxy")


def judge_spelling(facts: Proxies) -> Finding:
    """Judge whether a variable says one thing in capitals and another in small letters."""
    both = [name for name in PAIRS if facts.environ.get(name) and facts.environ.get(name.lower())]
    torn = [name for name in both if facts.environ[name].strip() != facts.environ[name.lower()].strip()]
    if torn:
        names = " and ".join(f"{name} and {name.lower()}" for name in torn)
        return warning(f"{names} say different things; which one counts differs by client.", f"unset {torn[0].lower()}")
    return ok("No variable says one thing in capitals and another in small letters.")


# --- certificates -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Named:
    """A variable that names a file of certificates. `readable` False: there is no such file, or it cannot be read."""

    name: str
    path: Path
    readable: bool
    only_ours: bool = False


@dataclass(frozen=True, slots=True)
class Trusted:
    """What clients started here are told to trust, and `bundle` to be told in its place."""

    named: Sequence[Named]
    careless: bool
    ca: Path


def gather_certificates(machine: Machine) -> Trusted:
    """Look at each file that is named. Raises NothingToJudge where none is."""
    environ = machine.environ
    careless = environ.get("NODE_TLS_REJECT_UNAUTHORIZED") == "0"
    named = [
        _named(name, Path(environ[name]), machine.configuration.ca_certificate)
        for name in CA_FILES
        if environ.get(name)
    ]
    if not named and not careless:
        raise NothingToJudge("No variable names certificates here.")
    return Trusted(named, careless, machine.configuration.ca_certificate)


def _named(name: str, path: Path, ca: Path) -> Named:
    try:
        content = path.read_bytes()
    except OSError:
        return Named(name, path, readable=False)
    try:
        only_ours = content.strip() == ca.read_bytes().strip()
    except OSError:
        only_ours = False
    return Named(name, path, readable=True, only_ours=only_ours)


def judge_certificates(facts: Trusted) -> Finding:
    """Judge the files that variables name."""
    gone = [one for one in facts.named if not one.readable]
    if gone:
        told = "; ".join(f"{one.name} names {one.path}" for one in gone)
        return problem(
            f"{told}: there is no such file, or it cannot be read.",
            f"unset {gone[0].name}, or set what this prints: kimi-mitm config env",
        )
    if facts.careless:
        return warning(
            "NODE_TLS_REJECT_UNAUTHORIZED=0 makes Node.js trust every certificate, of anybody.",
            f"unset NODE_TLS_REJECT_UNAUTHORIZED; export NODE_EXTRA_CA_CERTS={facts.ca}",
        )
    narrow = [one.name for one in facts.named if one.only_ours and one.name in REPLACING]
    if narrow:
        return warning(
            f"{' and '.join(narrow)} has mitmproxy's CA alone, which replaces all others: other hosts are refused.",
            "kimi-mitm run -- CLIENT, or set what this prints: kimi-mitm config env",
        )
    return ok(f"{', '.join(one.name for one in facts.named)}: the files are there.")


CHECKS = (
    Check("env.https-proxy", "HTTPS_PROXY", gather, judge_https_proxy),
    Check("env.no-proxy", "NO_PROXY", gather, judge_no_proxy),
    Check("env.all-proxy", "ALL_PROXY", gather, judge_all_proxy),
    Check("env.spelling", "Variables in both spellings", gather, judge_spelling),
    Check("env.certificates", "Variables for certificates", gather_certificates, judge_certificates),
)


def uses_proxy(machine: Machine) -> bool:
    """Tell whether a client started here goes through this proxy."""
    try:
        return gather(machine).ours("HTTPS_PROXY")
    except NothingToJudge:
        return False
