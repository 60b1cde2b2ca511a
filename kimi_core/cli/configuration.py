"""The command line's view of the user's mitmproxy configuration: the same options, read from the same file.

mitmproxy keeps its options in ``~/.mitmproxy/config.yaml``. The addon's own options (``kimi_…``, ``kiro_…``) stand
there next to those that say how mitmproxy reaches the world and where it listens; the commands follow both. Options
that mean nothing to them are left alone. What is given with ``--set name=value`` wins over the file, as in mitmproxy.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

import httpx
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from kimi_core.errors import ConfigError
from kimi_core.outbound import Outbound
from kimi_core.settings import Settings, parse

PREFIXES = ("kimi_", "kiro_", "openai_hosts")  # of the addon's own options
CONFIG_NAMES = ("config.yaml", "config.yml")  # mitmproxy reads both, the second wins
CA_NAME = "mitmproxy-ca-cert.pem"
DEFAULT_PORT = 8080  # mitmproxy's own
DEFAULT_WEB_PORT = 8081  # mitmweb's own
LOOPBACK = "127.0.0.1"

# mitmproxy's options that matter here, with what they have to be
_NEIGHBOURS: dict[str, type] = {
    "listen_host": str,
    "listen_port": int,
    "mode": list,
    "scripts": list,
    "ssl_verify_upstream_trusted_ca": str,
    "ssl_verify_upstream_trusted_confdir": str,
    "upstream_auth": str,
    "web_port": int,
}
_MODES_WITH_CLIENTS = ("regular", "upstream")  # where clients take the listener for an HTTP proxy
# mitmproxy.net.server_spec: scheme optional, a host or [IPv6], port optional, no path
_SERVER = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>[0-9]{1,5}))?/?", re.ASCII
)
LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Configuration:
    """What mitmproxy would run with: `settings` of the addon, `outbound` for calls of our own, where it listens.

    `listen_host`, `modes` and `scripts` are mitmproxy's options as they stand, empty where they do not; `overrides` is
    what was given with --set.
    """

    settings: Settings
    outbound: Outbound
    confdir: Path
    host: str = LOOPBACK
    port: int = DEFAULT_PORT
    web_port: int = DEFAULT_WEB_PORT
    listen_host: str = ""
    modes: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @property
    def proxy_url(self) -> str:
        """What clients put into HTTPS_PROXY, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def ca_certificate(self) -> Path:
        """The certificate that clients must trust; mitmproxy makes it at its first start."""
        return self.confdir / CA_NAME


def load(
    confdir: Path, overrides: Sequence[str] = (), *, foreign: bool = False, names: Sequence[str] = CONFIG_NAMES
) -> Configuration:
    """Return the configuration of the files *names* in *confdir* with ``name=value`` *overrides* on top.

    *foreign*: other options of mitmproxy's may be among them, for a command that starts it. Raises ConfigError: a file
    that does not parse, a ``kimi_…`` option that does not exist, a value that makes no sense, an override that is no
    option of these commands.
    """
    given = _overrides(overrides, foreign=foreign)
    if isinstance(other := given.pop("confdir", None), str):
        confdir = Path(other)
    confdir = confdir.expanduser()
    merged = stored(confdir, names) | given
    neighbours = {name: _neighbour(name, merged[name]) for name in _NEIGHBOURS if merged.get(name) is not None}
    settings = parse({name: value for name, value in merged.items() if str(name).startswith(PREFIXES)})
    host, port = _listener(neighbours)
    return Configuration(
        settings,
        _outbound(neighbours),
        confdir,
        host,
        port,
        web_port=neighbours.get("web_port") or DEFAULT_WEB_PORT,
        listen_host=neighbours.get("listen_host") or "",
        modes=tuple(neighbours.get("mode", ())),
        scripts=tuple(neighbours.get("scripts", ())),
        overrides=tuple(item for item in overrides if item.partition("=")[0] != "confdir"),
    )


def stored(confdir: Path, names: Sequence[str] = CONFIG_NAMES) -> dict[str, Any]:
    """Return every option that stands in the files *names* of *confdir*, mitmproxy's own included, as it stands.

    Raises ConfigError for a file that cannot be read or does not parse.
    """
    merged: dict[str, Any] = {}
    for name in names:
        merged |= _read(confdir / name)
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:  # the second of a date that is none
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path} is no valid YAML{where}.") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold options as `name: value`.")
    return data


def _overrides(items: Sequence[str], *, foreign: bool) -> dict[str, Any]:
    """Read ``name=value``; the value of a list option may be given several times, and no value means true."""
    out: dict[str, Any] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if name.startswith(PREFIXES) and name not in Settings.model_fields:
            raise ConfigError(f"There is no option {name}.")
        if not (name.startswith(PREFIXES) or name in _NEIGHBOURS or name == "confdir"):
            if foreign and name:
                continue
            raise ConfigError(f"Option {name} means nothing to this command.")
        if _is_list(name):
            out.setdefault(name, []).extend([value] if separator else [])
        else:
            out[name] = value if separator else "true"
    return out


def _is_list(name: str) -> bool:
    if name in _NEIGHBOURS:
        return _NEIGHBOURS[name] is list
    return name in Settings.model_fields and get_origin(Settings.model_fields[name].annotation) is list


def _neighbour(name: str, value: Any) -> Any:
    kind = _NEIGHBOURS[name]
    if kind is int:
        return _port(value)
    items = value if isinstance(value, list) else [""]
    if not isinstance(value, kind) or not all(isinstance(item, str) for item in items):
        wanted = "text" if kind is str else "a list of texts"
        raise ConfigError(f"mitmproxy's option {name} must be {wanted}.")
    return value


def _port(value: Any) -> int:
    """Return a port given as a number or, on a command line or in a mode, as text."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LAST_PORT:
        raise ConfigError("mitmproxy's listen_port, web_port, and what stands behind the @ of a mode, must be a port.")
    return value


def _split_mode(spec: str) -> tuple[str, str, str]:
    """Return kind, data and listen address of a mode: ``upstream:http://host:3128@127.0.0.1:8081``."""
    head, _, listen = spec.rpartition("@")
    if not head:
        head, listen = listen, ""
    kind, _, data = head.partition(":")
    return kind.lower(), data, listen


def _modes(options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    specs: list[str] = options.get("mode", [])
    return [_split_mode(spec) for spec in specs]


def _outbound(options: Mapping[str, Any]) -> Outbound:
    upstream = next((data for kind, data, _ in _modes(options) if kind == "upstream"), None)
    return Outbound(
        proxy=None if upstream is None else _server(upstream),
        proxy_auth=None if upstream is None else options.get("upstream_auth") or None,
        ca_file=_path(options.get("ssl_verify_upstream_trusted_ca")),
        ca_dir=_path(options.get("ssl_verify_upstream_trusted_confdir")),
    )


def _path(value: str | None) -> str | None:
    return str(Path(value).expanduser()) if value else None


def _server(data: str) -> str:
    # what was given is not repeated: people write a name and a password there, which mitmproxy does not take either
    problem = "mitmproxy's mode upstream:… names no proxy; it must be upstream:http://host:port."
    found = _SERVER.fullmatch(data)
    if not found or int(found["port"] or 0) > LAST_PORT:
        raise ConfigError(f"{problem} A name and a password belong in upstream_auth.")
    scheme = found["scheme"] or "http"
    url = f"{scheme}://{found['host']}:{found['port'] or {'http': 80, 'https': 443}[scheme]}"
    try:
        httpx.Proxy(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(problem) from error
    return url


def _listener(options: Mapping[str, Any]) -> tuple[str, int]:
    """Return where clients on this machine reach the proxy: the first listener that is one."""
    host, port = options.get("listen_host") or "", options.get("listen_port") or DEFAULT_PORT
    listen = next((listen for kind, _, listen in _modes(options) if kind in _MODES_WITH_CLIENTS), "")
    if listen:
        own_host, _, own_port = listen.rpartition(":")
        host, port = own_host or host, _port(own_port)
    return _reachable(host.strip("[]")), port


def _reachable(host: str) -> str:
    """Return *host*, or the loopback address where it means every address of the machine."""
    try:
        return LOOPBACK if ipaddress.ip_address(host).is_unspecified else host
    except ValueError:
        return host or LOOPBACK
