"""Whether a client started here trusts the proxy: a real TLS handshake, by the kind of program that the client is.

Each goes through the running proxy (CONNECT to the service's host) and ends as soon as the proxy's certificate is
accepted or refused. No request is ever sent: the proxy answers the handshake itself, and connects to nobody before it
has something to send.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from kimi_core.cli.checks import children
from kimi_core.cli.checks.check import Check, Finding, NothingToJudge, ok, problem, skipped, warning
from kimi_core.cli.checks.clients import Runtime
from kimi_core.cli.checks.machine import Machine
from kimi_core.cli.checks.proxy import running
from kimi_core.cli.checks.variables import uses_proxy

SECONDS = 20.0  # for a check: all kinds of clients shake hands at once, on a machine that may be slow
TRUSTED, REFUSED, BROKEN = "trusted", "refused", "broken"

# Prints "trusted", or "refused" and why, or "broken" and why. Arguments: proxy host and port, service host and port.
NODE_SCRIPT = """
const [proxyHost, proxyPort, host, port] = process.argv.slice(1);
const end = (word, why) => { console.log(word, why || ''); process.exit(0); };
const socket = require('net').connect(+proxyPort, proxyHost);
socket.setTimeout(5000, () => end('broken', 'no answer from the proxy'));
socket.on('error', (error) => end('broken', error.code));
socket.on('connect', () => socket.write(`CONNECT ${host}:${port} HTTP/1.1\\r\\nHost: ${host}:${port}\\r\\n\\r\\n`));
let head = '';
socket.on('data', function take(data) {
  head += data.toString('latin1');
  if (!head.includes('\\r\\n\\r\\n')) return;
  socket.removeListener('data', take);
  if (!/^HTTP\\/1\\.[01] 200/.test(head)) end('broken', head.split('\\r\\n')[0]);
  const tls = require('tls').connect({ socket, servername: host }, () => end('trusted'));
  tls.on('error', (error) => end('refused', error.code));
});
"""

# The same for Python; the fifth argument says whose rules: httpx's (as the SDKs have them) or those of requests.
PYTHON_SCRIPT = """
import os, socket, ssl, sys
proxy_host, proxy_port, host, port, rules = sys.argv[1:]
try:
    if rules == "requests":
        import certifi
        chosen = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or certifi.where()
        where = {"capath": chosen} if os.path.isdir(chosen) else {"cafile": chosen}
        context = ssl.create_default_context(**where)
    else:
        import httpx
        context = httpx.create_ssl_context()
except (OSError, ssl.SSLError) as error:
    print("refused", type(error).__name__)
    sys.exit()
try:
    with socket.create_connection((proxy_host, int(proxy_port)), timeout=5) as plain:
        plain.sendall(f"CONNECT {host}:{port} HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode())
        head = b""
        while b"\\r\\n\\r\\n" not in head and (data := plain.recv(1)):
            head += data
        if b" 200 " not in head.partition(b"\\r\\n")[0]:
            print("broken", head.partition(b"\\r\\n")[0].decode("latin-1"))
            sys.exit()
        with context.wrap_socket(plain, server_hostname=host):
            print("trusted")
except ssl.SSLCertVerificationError as error:
    print("refused", error.verify_message)
except OSError as error:
    print("broken", type(error).__name__)
"""

# curl checks this pin after the chain of certificates and before it sends anything: with a pin that no key has, it
# ends with 90 where it trusts the chain and with 60 where it does not, and never makes a request.
CURL_PIN = "sha256//" + "A" * 43 + "="
CURL_TRUSTS, CURL_REFUSES, CURL_NO_CA_FILE = 90, 60, 77
CURL_UNABLE = (2, 4)  # it knows no --pinnedpubkey, or its TLS library has none

VARIABLES: Mapping[Runtime, str] = {
    Runtime.node: "NODE_EXTRA_CA_CERTS",
    Runtime.python: "SSL_CERT_FILE",
    Runtime.requests: "REQUESTS_CA_BUNDLE",
    Runtime.curl: "CURL_CA_BUNDLE",
}
NAMES: Mapping[Runtime, str] = {
    Runtime.node: "Node.js and Bun clients",
    Runtime.python: "Python clients (httpx, OpenAI's and Anthropic's SDKs)",
    Runtime.requests: "Python clients with requests",
    Runtime.curl: "curl",
}


@dataclass(frozen=True, slots=True)
class Shake:
    """How a handshake ended: TRUSTED, REFUSED or BROKEN, and what the client says of it; None = not tried."""

    outcome: str | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Trust:
    """The handshakes of all kinds of clients, seen from one kind. `told`: its variable is set; `asked`: by --client."""

    runtime: Runtime
    shakes: Mapping[Runtime, Shake]
    told: bool = False
    asked: bool = False


def gather(machine: Machine, runtime: Runtime) -> Trust:
    """Return how *runtime* shakes hands with the proxy. Raises NothingToJudge where it has no reason to."""
    client = machine.client
    if client is not None and client.runtime not in {None, runtime}:
        raise NothingToJudge(f"{client.name} is no client of this kind.")
    found = running(machine)
    if client is None and not uses_proxy(machine):
        raise NothingToJudge("HTTPS_PROXY does not lead to the proxy here; with --client it is looked at all the same.")
    if machine.site.scheme != "https":
        raise NothingToJudge("The service's address in use is plain http.")
    assert found.state == "running"
    wanted = [runtime] if client is not None and client.runtime else list(Runtime)
    shakes = machine.once("handshakes", lambda: _shake_all(machine, wanted))
    told = bool(machine.environ.get(VARIABLES[runtime]))
    asked = client is not None and client.runtime is runtime
    return Trust(runtime, shakes, told, asked)


def _shake_all(machine: Machine, wanted: Sequence[Runtime]) -> Mapping[Runtime, Shake]:
    with ThreadPoolExecutor(len(wanted)) as pool:
        return dict(zip(wanted, pool.map(partial(_shake, machine), wanted), strict=True))


def _shake(machine: Machine, runtime: Runtime) -> Shake:
    place = [machine.configuration.host, str(machine.configuration.port), machine.site.host, str(machine.site.port)]
    environ = dict(machine.environ)
    match runtime:
        case Runtime.node:
            node = machine.which("node")
            if node is None:
                return Shake(None, "Node.js is not on PATH.")
            return _told(children.run([node, "-e", NODE_SCRIPT, *place], environ))
        case Runtime.curl:
            curl = machine.which("curl")
            return Shake(None, "curl is not on PATH.") if curl is None else _shake_curl(curl, machine, environ)
        case _:
            return _told(children.run([sys.executable, "-c", PYTHON_SCRIPT, *place, str(runtime)], environ))


def _told(done: children.Done) -> Shake:
    """Read what a script has printed."""
    word, _, why = done.out.strip().partition(" ")
    if word in {TRUSTED, REFUSED, BROKEN}:
        return Shake(word, why)
    return Shake(BROKEN, f"it ended with {done.code}" if done.code is not None else done.error)


def _shake_curl(curl: str, machine: Machine, environ: Mapping[str, str]) -> Shake:
    site = machine.site
    words = [curl, "-q", "--silent", "--max-time", "5", "--noproxy", "", "--proxy", machine.configuration.proxy_url]
    words += ["--pinnedpubkey", CURL_PIN, "--output", "-", f"https://{site.host}:{site.port}/"]
    done = children.run(words, environ)
    if done.code == CURL_TRUSTS:
        return Shake(TRUSTED)
    if done.code in {CURL_REFUSES, CURL_NO_CA_FILE}:
        return Shake(REFUSED, f"curl ends with {done.code}")
    if done.code in CURL_UNABLE:
        return Shake(None, "This curl cannot be tried without a request.")
    return Shake(BROKEN, f"curl ends with {done.code}" if done.code is not None else done.error)


def judge(facts: Trust) -> Finding:
    """Judge one kind of client. One that nobody said is used, and that has not been set up, is a warning alone."""
    shake, name = facts.shakes[facts.runtime], NAMES[facts.runtime]
    variable = VARIABLES[facts.runtime]
    if shake.outcome is None:
        return skipped(shake.why)
    if shake.outcome == TRUSTED:
        return ok(f"{name} started here trust the proxy." if name != "curl" else "curl trusts the proxy.")
    if shake.outcome == BROKEN:
        return warning(f"The handshake was not finished: {shake.why}.", "kimi-mitm logs shows what the proxy says")
    cure = "kimi-mitm run -- CLIENT, or set in this shell what this prints: kimi-mitm config env"
    anybody = any(other.outcome == TRUSTED for other in facts.shakes.values())
    if facts.asked or facts.told or not anybody:
        return problem(f"{name} started here do not trust the proxy ({shake.why}).", cure)
    return warning(f"{name} would not trust the proxy: {variable} is not set here.", cure)


CHECKS = tuple(
    Check(f"trust.{runtime}", f"Trust of {NAMES[runtime]}", partial(gather, runtime=runtime), judge, SECONDS)
    for runtime in Runtime
)
