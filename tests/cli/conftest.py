import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kimi_core.cli.app import World
from kimi_core.cli.main import main
from tests.servers.aws import BUILDER_START, FakeAws
from tests.servers.kimi import FakeKimi
from tests.servers.kiro import FakeKiro, Login
from tests.servers.oauth import serve


class Time:
    """A clock that sleeping moves; `interrupt_at` is the sleep that Ctrl-C comes in."""

    def __init__(self):
        self.offset = 0.0
        self.sleeps = 0
        self.interrupt_at = 0

    def now(self):
        return time.time() + self.offset

    async def sleep(self, seconds):
        self.sleeps += 1
        if self.sleeps == self.interrupt_at:
            raise KeyboardInterrupt
        self.offset += seconds


@dataclass
class Cli:
    """The command line on a machine of its own, whose Kimi is `fake`."""

    folder: Path
    fake: FakeKimi
    url: str
    time: Time = field(default_factory=Time)
    browsed: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    platform: str = "linux"

    def __post_init__(self):
        self.environ = {
            "KIMI_MITM_DATA_DIR": str(self.data),
            "KIMI_CODE_OAUTH_HOST": self.url,
            "KIMI_CODE_BASE_URL": f"{self.url}/coding/v1",
        } | self.environ

    @property
    def data(self):
        return self.folder / "data"

    @property
    def login_file(self):
        return self.data / f"kimi-{self.url.removeprefix('http://').replace(':', '_')}.json"

    @property
    def world(self):
        return World(
            environ=self.environ,
            home=self.folder,
            clock=self.time.now,
            sleep=self.time.sleep,
            browse=self.browsed.append,
            platform=self.platform,
        )

    def __call__(self, *arguments: str) -> Result:
        """Run a command and check what holds for every one: no traceback, no secret in what it says."""
        confdir = [] if arguments[0].startswith("-") else ["--confdir", str(self.folder / "mitmproxy")]
        result = CliRunner().invoke(main, [*arguments, *confdir], obj=self.world)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        assert not [secret for secret in self.fake.secrets() if secret in result.output]
        return result

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)

    def stored(self) -> Any:
        return json.loads(self.login_file.read_text())

    def log_in(self, **changes: Any) -> None:
        """Put a login into the store without the device flow; *changes* go into the stored token."""
        answer = self.fake.oauth.login()
        self.data.mkdir(mode=0o700, exist_ok=True)
        token = answer | {"expires_at": self.time.now() + answer["expires_in"]} | changes
        self.login_file.write_text(json.dumps(token))

    def configure(self, text: str) -> None:
        (self.folder / "mitmproxy").mkdir(exist_ok=True)
        (self.folder / "mitmproxy" / "config.yaml").write_text(text)


@dataclass
class KiroCli(Cli):
    """The command line on a machine whose Kiro is `service`, with the login services `aws`."""

    aws: FakeAws = None
    service: FakeKiro = None
    logins: dict[str, Login] = field(default_factory=dict)
    input: str = ""

    @property
    def document(self):
        return self.data / "kiro-accounts.json"

    @property
    def accounts(self):
        return json.loads(self.document.read_text())["accounts"]

    def secrets(self):
        """Every token and client secret that there is."""
        tokens = [token for f in self.aws.families for token in (f.refresh, *f.used, *f.access) if token]
        return [*tokens, *(secret for secret, _ in self.aws.clients.values()), "ksk_fake"]

    def __call__(self, *arguments: str) -> Result:
        confdir = [] if "--help" in arguments else ["--confdir", str(self.folder / "mitmproxy")]
        result = CliRunner().invoke(main, [*arguments, *confdir], obj=self.world, input=self.input)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        assert not [secret for secret in self.secrets() if secret in result.output]
        return result

    def account(self, **fields: Any) -> dict[str, Any]:
        """Put an account with a login of its own into the document; return it as it is there."""
        answer = self.aws.login(fields.pop("service", "desktop"))
        number = len(self.aws.families)
        known = {
            "id": f"{number:08}-fake",
            "label": f"kiro-desktop-{number}",
            "auth_method": "desktop",
            "access_token": answer["accessToken"],
            "refresh_token": answer["refreshToken"],
            "expires_at": int((self.time.now() + answer["expiresIn"]) * 1000),
        } | fields
        stored = json.loads(self.document.read_text()) if self.document.exists() else {"accounts": []}
        stored["accounts"].append(known)
        stored.setdefault("active_account_id", known["id"])
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.document.write_text(json.dumps(stored))
        return known


@pytest.fixture(scope="session")
def served_kiro():
    """A fake Kiro and its login services, each on a loopback port, for all tests of the command line."""
    aws, service = FakeAws(), FakeKiro()
    with serve(aws) as login, serve(service) as api:
        yield aws, service, login.url, api.url


@pytest.fixture
def kiro(served_kiro, served_kimi, tmp_path):
    """The command line, with a Kiro that nobody has used."""
    aws, service, login_url, api_url = served_kiro
    aws.__init__(clock=time.time)
    service.reset()
    kimi, kimi_url = served_kimi
    made = KiroCli(tmp_path, kimi, kimi_url, aws=aws, service=service)
    service.valid = lambda token: aws.valid(token) or token.startswith("ksk_")
    service.login = lambda token: made.logins.get(aws.owner(token) or "", Login(user=aws.owner(token) or "d-key"))
    aws.start_urls = {BUILDER_START, "https://example.awsapps.com/start"}
    api = ("KIRO_RUNTIME_URL", "KIRO_MANAGEMENT_URL", "KIRO_Q_URL")
    made.environ |= dict.fromkeys(api, api_url)
    made.environ |= dict.fromkeys(("KIRO_OIDC_URL", "KIRO_AUTH_URL", "KIRO_PORTAL_URL"), login_url)
    return made


@pytest.fixture(scope="session")
def served_kimi():
    """One fake Kimi on a loopback port for all tests of the command line."""
    fake = FakeKimi()
    with serve(fake) as served:
        yield fake, served.url


@pytest.fixture
def cli(served_kimi, tmp_path):
    """The command line, with a Kimi that has forgotten everything but old logins."""
    fake, url = served_kimi
    fake.reset()
    for knob in (fake.oauth.polls, fake.oauth.failures, fake.oauth.device_failures):
        knob.clear()
    fake.oauth.device_answer = {}
    return Cli(tmp_path, fake, url)
