"""The variables that send one client through the proxy, and let it trust the proxy's certificate.

Clients differ in what they read, and none reads all of it: hence a table, with who reads each variable. Only the
variables of the child are set; nothing here touches the user's own.

Not set, on purpose:

- ``HTTP_PROXY``: no login is ever given to plain http, and a base URL on this machine must be reached without a detour.
  A value of the user's stays.
- ``ALL_PROXY``: ``HTTPS_PROXY`` wins over it wherever both are read; a value of the user's stays for other schemes.
- ``SSL_CERT_DIR``: is searched beside ``SSL_CERT_FILE``; what a user's folder holds is in the bundle as well, for
  clients that read the file alone.
- ``NODE_TLS_REJECT_UNAUTHORIZED`` and its like: verification stays on.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from kimi_core.blocks.place import KEY_VARIABLE

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYTHING = "*"  # in NO_PROXY: no host goes through a proxy


class Value(Enum):
    """What a variable is to hold."""

    PROXY = auto()  # the proxy's address
    EXCEPT = auto()  # hosts that are reached without it, with commas between
    BUNDLE = auto()  # a file that replaces the client's own CAs: it has to hold them all
    EXTRA = auto()  # a file of CAs beside the client's own
    ON = auto()  # "1"


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable: what it holds and who reads it. Not `always`: only replaced where the user has it."""

    name: str
    value: Value
    read_by: str
    always: bool = True


VARIABLES = (
    Variable("HTTPS_PROXY", Value.PROXY, "httpx, requests, undici, Bun, Deno, Go, reqwest"),
    Variable("https_proxy", Value.PROXY, "curl, git, wget; where both are read this one mostly wins"),
    Variable("NO_PROXY", Value.EXCEPT, "whoever reads HTTPS_PROXY"),
    Variable("no_proxy", Value.EXCEPT, "whoever reads https_proxy"),
    Variable("NODE_USE_ENV_PROXY", Value.ON, "Node.js from 22.21 and 24.0 on, whose fetch knows no proxy without it"),
    Variable("NODE_EXTRA_CA_CERTS", Value.EXTRA, "Node.js, Bun (opencode), Electron"),
    Variable("DENO_CERT", Value.EXTRA, "Deno"),
    Variable("SSL_CERT_FILE", Value.BUNDLE, "OpenSSL: Python's ssl, httpx, Ruby; Go; Rust's rustls"),
    Variable("REQUESTS_CA_BUNDLE", Value.BUNDLE, "requests, botocore, pip"),
    Variable("CURL_CA_BUNDLE", Value.BUNDLE, "curl"),
    Variable("GIT_SSL_CAINFO", Value.BUNDLE, "git"),
    Variable("AWS_CA_BUNDLE", Value.BUNDLE, "the AWS SDKs for Python and Go, which serve some of Kiro's hosts"),
    Variable("CODEX_CA_CERTIFICATE", Value.BUNDLE, "Codex, which takes it before SSL_CERT_FILE", always=False),
    Variable("NIX_SSL_CERT_FILE", Value.BUNDLE, "OpenSSL of Nix, which takes it before SSL_CERT_FILE", always=False),
)
CA_FILES = tuple(one.name for one in VARIABLES if one.value in (Value.BUNDLE, Value.EXTRA))
CA_FOLDERS = "SSL_CERT_DIR"  # may name several


def proxied(
    proxy_url: str,
    bundle: Path,
    ca: Path,
    environ: Mapping[str, str],
    *,
    served: Collection[str] = (),
    key: str = "",
) -> dict[str, str]:
    """Return *environ* as it is to be for a client that goes through *proxy_url*, the whole of it.

    *bundle* holds all CAs, the user's own included, and *ca* the proxy's alone (`certificates`). The user's NO_PROXY
    stays, but for entries that would keep one of the *served* hosts, or all hosts, from the proxy. *key* is the client
    key, where one is configured: a client has to send it as its API key, since the address of a proxy cannot carry
    what is checked behind it; it goes where the lines for clients look for it, KIMI_MITM_KEY.
    """
    values = {
        Value.PROXY: proxy_url,
        Value.EXCEPT: ",".join(_except(environ, served)),
        Value.BUNDLE: str(bundle),
        Value.ON: "1",
    }
    child = dict(environ)
    for variable in VARIABLES:
        if variable.value is Value.EXTRA:
            child[variable.name] = str(ca if environ.get(variable.name) in (None, "", str(ca)) else bundle)
        elif variable.always or environ.get(variable.name):
            child[variable.name] = values[variable.value]
    return child | ({KEY_VARIABLE: key} if key else {})


def own_cas(environ: Mapping[str, str]) -> list[Path]:
    """Return the files and folders of CAs that the user has named, in the order of the table, each once."""
    named = [*(environ.get(name, "") for name in CA_FILES), *environ.get(CA_FOLDERS, "").split(os.pathsep)]
    return [Path(path) for path in dict.fromkeys(named) if path]


def _except(environ: Mapping[str, str], served: Collection[str]) -> dict[str, None]:
    """Return the hosts that are to be reached without the proxy: the user's, in their order, and this machine."""
    given = (entry.strip() for name in ("NO_PROXY", "no_proxy") for entry in environ.get(name, "").split(","))
    kept = (entry for entry in given if entry and not _keeps_away(entry, served))
    return dict.fromkeys((*kept, *LOOPBACK))


def _keeps_away(entry: str, served: Collection[str]) -> bool:
    """Tell whether an entry of NO_PROXY (host, .domain, *.domain, host:port) covers one of the *served* hosts."""
    if entry == EVERYTHING:
        return True
    domain = entry.lower().removeprefix("*").removeprefix(".").partition(":")[0]
    return any(host == domain or host.endswith(f".{domain}") for host in served)
