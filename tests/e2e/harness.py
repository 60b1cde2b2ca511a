"""A real mitmdump or mitmweb process with the addon, between real clients and the fake service."""

import io
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import trustme
from mitmproxy.http import HTTPFlow
from mitmproxy.io import FlowReader

from kimi_core.kimi import identity
from kimi_core.kimi.constants import Site, site_for
from kimi_core.kimi.session import Session
from kimi_core.outbound import Outbound
from kimi_core.tokens import OAuthToken
from tests.servers.kimi import FakeKimi
from tests.servers.serve import ALPN, HTTP1, Background, Service
from tests.servers.upstream import UpstreamProxy

ROOT = Path(__file__).resolve().parents[2]
ADDON = ROOT / "addons" / "kimi.py"
HOSTS = ("api.kimi.com", "auth.kimi.com", "api.kimi.ai", "auth.kimi.ai")
FOREIGN = "other.example"
START_SECONDS = 30.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.05
CLIENT_SECONDS = 20.0
WEB_PASSWORD = "fake-web-password"
NEVER_LOGGED = ("Traceback", "has crashed", "never retrieved", "never awaited")
_SECRET = re.compile(rb"fake-[a-z-]+[0-9]+(?:-[0-9]+)?")  # what FakeOAuth hands out, found in one pass
_KEPT = ("PATH", "LANG", "TMPDIR", "SYSTEMROOT")


def wait_until[T](probe: Callable[[], T], what: str, seconds: float = START_SECONDS) -> T:
    """Call *probe* until it returns something true, and return that. Raises AssertionError after *seconds*."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(POLL_SECONDS)
    return found


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a program that has *home* to itself and knows nothing of this user."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("COVERAGE_")}
    own = {
        "HOME": str(home),
        "KIMI_SHARE_DIR": str(home / ".kimi"),
        "KIMI_MITM_DATA_DIR": str(home / "data"),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "XDG_STATE_HOME": str(home / ".local/state"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "PYTHONUNBUFFERED": "1",
    }
    return kept | own | dict(extra or {})


class _Context(ssl.SSLContext):
    """Offers `fixed` where it is set: httpx always offers HTTP/1.1 first, and the order decides."""

    fixed: list[str]

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        super().set_alpn_protocols(self.fixed or alpn_protocols)


class World:
    """The fakes of one test module: the service under the real names, an upstream proxy that leads there."""

    def __init__(
        self,
        background: Background,
        ca: trustme.CA,
        folder: Path,
        *,
        alpn: Sequence[str] = ALPN,
        auth: str | None = None,
    ) -> None:
        self.background = background
        self.kimi = FakeKimi()
        self.foreign = FakeKimi()
        self.ca_file = folder / "fake-ca.pem"
        ca.cert_pem.write_to_path(self.ca_file)
        self.service = Service(background, self.kimi, ca=ca, names=["localhost", "127.0.0.1", *HOSTS], alpn=alpn)
        self.elsewhere = Service(background, self.foreign, ca=ca, names=["localhost", FOREIGN])
        self.upstream = UpstreamProxy({}, auth=auth)

    def __enter__(self) -> Self:
        self.service.__enter__()
        self.elsewhere.__enter__()
        self.upstream.routes = {f"{host}:443": self.service.port for host in HOSTS}
        self.upstream.routes[f"{FOREIGN}:443"] = self.elsewhere.port
        self.background.call(self.upstream.open())
        return self

    def __exit__(self, *exc: object) -> None:
        self.background.call(self.upstream.close())
        self.elsewhere.__exit__(None, None, None)
        self.service.__exit__(None, None, None)

    def reset(self) -> None:
        self.kimi.reset()
        self.foreign.reset()
        self.upstream.connects.clear()

    @property
    def direct(self) -> dict[str, str]:
        """The environment that makes this world's address the site (kimi-cli's own overrides)."""
        base = f"https://localhost:{self.service.port}"
        return {"KIMI_CODE_BASE_URL": f"{base}/coding/v1", "KIMI_CODE_OAUTH_HOST": base}


def _whole(flow_file: Path) -> int:
    """Return where the last flow ends that is written whole: length, colon, so many bytes, type (a tnetstring)."""
    if not flow_file.exists():
        return 0
    end, size = 0, flow_file.stat().st_size
    with flow_file.open("rb") as file:
        while True:
            file.seek(end)
            digits, colon, _ = file.read(16).partition(b":")
            behind = end + len(digits) + int(digits or b"0") + 2
            if not colon or behind > size:
                return end
            end = behind


class Proxy:
    """One process. Start it with `with`; leaving asserts that its log is clean and holds no secret.

    *named* sends everything through the world's upstream proxy, so that the real host names are in use; otherwise
    the site is the fake's own address. `data` is where logins lie; two proxies may share one. *wait* False does not
    wait until it answers; *faults_expected* leaves its log unchecked.
    """

    def __init__(
        self,
        world: World,
        folder: Path,
        confdir: Path,
        *,
        named: bool = True,
        tool: str = "mitmdump",
        mode: Sequence[str] = (),
        options: Sequence[str] = (),
        scripts: Sequence[Path] = (ADDON,),
        environ: Mapping[str, str] | None = None,
        data: Path | None = None,
        listen_host: str | None = None,
        secrets: Sequence[str] = (),
        trusted: Path | None = None,
        wait: bool = True,
        faults_expected: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.world = world
        self.folder = folder
        self.named = named
        self.tool = tool
        self.port = free_port()
        self.web_port = free_port() if tool == "mitmweb" else 0
        self.flow_file = folder / "flows.mitm"
        self.log_file = folder / "log.txt"
        self.home = folder / "home"
        self.home.mkdir(exist_ok=True)
        self.more_secrets = set(secrets)
        self.trusted = trusted or world.ca_file
        self.wait = wait
        self.faults_expected = faults_expected
        self._mode, self._options, self._scripts, self._listen_host = mode, options, scripts, listen_host
        self.confdir = folder / "confdir"
        shutil.copytree(confdir, self.confdir, dirs_exist_ok=True)
        site = {} if named else world.direct
        data_dir = {"KIMI_MITM_DATA_DIR": str(data)} if data else {}
        self.environ = environment(self.home, site | data_dir | dict(environ or {}))
        self.data = Path(self.environ["KIMI_MITM_DATA_DIR"])
        self._process: subprocess.Popen[bytes] | None = None

    # its life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.stop()
        if kind is None and not self.faults_expected:
            self.assert_clean()

    def command(self) -> list[str]:
        words = [str(Path(sys.executable).with_name(self.tool)), "-p", str(self.port), "-w", str(self.flow_file)]
        words += ["--set", f"confdir={self.confdir}", "--set", "termlog_verbosity=debug"]
        words += ["--set", "flow_detail=2"] if self.tool == "mitmdump" else []  # headers show in the log
        words += ["--set", f"ssl_verify_upstream_trusted_ca={self.trusted}"]
        if self._listen_host:
            words += ["--listen-host", self._listen_host]
        modes = self._mode or ([f"upstream:http://127.0.0.1:{self.world.upstream.port}"] if self.named else [])
        for mode in modes:
            words += ["--mode", mode]
        if self.tool == "mitmweb":
            words += ["--no-web-open-browser", "--web-port", str(self.web_port)]
            words += ["--set", f"web_password={WEB_PASSWORD}"]
        for option in self._options:
            words += ["--set", option]
        for script in self._scripts:
            words += ["-s", str(script)]
        return words

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting for it."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.home, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self._process

    def start(self) -> None:
        self.launch()
        if not self.wait:
            return
        try:
            wait_until(self._ready, "the proxy's start")
        except BaseException:
            self.kill()
            raise

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the proxy ended at once:\n{self.log()}"
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/health", trust_env=False, timeout=5.0)
        except httpx.TransportError:
            return False
        # without the addon mitmproxy answers that it does not connect to itself; in reverse mode the server answers
        return answer.status_code in {200, 407} or not self._scripts or bool(self._mode)

    @property
    def pid(self) -> int:
        """The process's id while it runs."""
        assert self._process is not None
        return self._process.pid

    def running(self) -> bool:
        """Tell whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End the process as kill -9 does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> int:
        """End the process as a service manager does; return its status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the proxy did not stop within {STOP_SECONDS} s:\n{self.log()}") from None

    def assert_clean(self) -> None:
        """Assert that nothing it left behind holds a fault or a secret."""
        log = self.log()
        for word in NEVER_LOGGED:
            assert word not in log, log
        for path in (self.log_file, self.flow_file):
            found = self.secrets_in(path.read_bytes() if path.exists() else b"")
            assert not found, f"{path.name} holds {len(found)} secrets"

    def secrets_in(self, content: bytes) -> set[str]:
        """Return the secrets that *content* holds."""
        seen = {found.decode() for found in _SECRET.findall(content)}
        return (seen & self.secrets()) | {secret for secret in self.more_secrets if secret.encode() in content}

    def secrets(self) -> set[str]:
        """Return what the fake has handed out so far."""
        secrets = self.world.kimi.secrets()
        assert all(_SECRET.fullmatch(secret.encode()) for secret in secrets)
        return secrets

    # what it says

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def flow_bytes(self) -> int:
        """Return the size of the flow file: where the flows of what follows will begin."""
        return _whole(self.flow_file)

    def flows(self, since: int = 0) -> list[HTTPFlow]:
        """Return the flows that the file holds by now, from offset *since* on."""
        end = _whole(self.flow_file)
        if end <= since:
            return []
        with self.flow_file.open("rb") as file:
            file.seek(since)
            written = io.BytesIO(file.read(end - since))
        return [flow for flow in FlowReader(written).stream() if isinstance(flow, HTTPFlow)]

    # who uses it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def local(self) -> str:
        """The base URL for clients that take nothing else."""
        return f"{self.url}/kimi/v1"

    @property
    def base(self) -> str:
        """The base URL behind the proxy."""
        return "https://api.kimi.com/coding/v1" if self.named else self.world.direct["KIMI_CODE_BASE_URL"]

    @property
    def ca_file(self) -> Path:
        return self.confdir / "mitmproxy-ca-cert.pem"

    def trust(self, alpn: Sequence[str] = ()) -> ssl.SSLContext:
        """Return what a client trusts that was told of the proxy's CA; the fakes' own is added for tunnels.

        *alpn* is offered whatever the client library wants to offer.
        """
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca_file)
        context.load_verify_locations(self.world.ca_file)
        context.fixed = list(alpn)
        return context

    @contextmanager
    def client(self, *alpn: str, **more: Any) -> Iterator[httpx.Client]:
        """Yield a client that offers *alpn* (HTTP/1.1 alone where none is given), in this order."""
        offers = alpn or HTTP1
        with httpx.Client(
            base_url=self.base,
            proxy=self.url,
            verify=self.trust(offers),
            http2="h2" in offers,
            trust_env=False,
            timeout=CLIENT_SECONDS,
            **more,
        ) as client:
            yield client

    @contextmanager
    def local_client(self, **more: Any) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.local, trust_env=False, timeout=CLIENT_SECONDS, **more) as client:
            yield client

    # its login

    @property
    def site(self) -> Site:
        return site_for("cn", self.environ)

    def login(self) -> OAuthToken:
        """Store a new login of the fake's, as `kimi-mitm login` does."""
        token = OAuthToken.from_response(self.world.kimi.oauth.login(), time.time())
        self.session().save(token)
        return token

    def session(self) -> Session:
        who = identity.load("kimi-cli", self.environ, self.home)
        return Session(self.site, who, Outbound(), folder=self.data)

    # mitmweb's own API

    @contextmanager
    def web(self) -> Iterator[httpx.Client]:
        """Yield a client of mitmweb's page, authorised as its own scripts are."""
        headers = {"Authorization": f"Bearer {WEB_PASSWORD}", "X-XSRFToken": "fake"}
        with httpx.Client(
            base_url=f"http://127.0.0.1:{self.web_port}",
            headers=headers,
            cookies={"_mitmproxy_xsrf": "fake"},
            trust_env=False,
            timeout=CLIENT_SECONDS,
        ) as client:
            yield client

    def command_result(self, name: str, *arguments: str) -> Any:
        """Call a mitmproxy command as mitmweb's console does; return its value."""
        with self.web() as web:
            answer = web.post(f"/commands/{name}", json={"arguments": list(arguments)}).json()
        assert "error" not in answer, answer
        return answer["value"]


def listening(port: int) -> set[str]:
    """Return the local addresses on which *port* is listened at, as the kernel's tables spell them."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found
