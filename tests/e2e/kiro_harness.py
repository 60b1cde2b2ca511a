"""Kiro in the world of the end-to-end tests: its service and its logins behind TLS, and a proxy that has accounts."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import trustme

from kimi_core.kiro.accounts import Account, Accounts, AuthMethod, Registry, new_id
from kimi_core.kiro.constants import BUILDER_START_URL
from tests.e2e.harness import Proxy, World, wait_until
from tests.servers.aws import FakeAws
from tests.servers.kiro import FakeKiro, Login
from tests.servers.serve import ALPN, Background, Service

RUNTIME = "runtime.us-east-1.kiro.dev"
API_HOSTS = tuple(
    f"{name}.{region}.{site}"
    for region in ("us-east-1", "eu-central-1")
    for name, site in (("runtime", "kiro.dev"), ("management", "kiro.dev"), ("q", "amazonaws.com"))
)
LOGIN_HOSTS = (
    "oidc.us-east-1.amazonaws.com",
    "oidc.eu-west-1.amazonaws.com",
    "prod.us-east-1.auth.desktop.kiro.dev",
    "app.kiro.dev",
)
SERVICES = {"desktop": "desktop", "builder": "oidc", "idc": "oidc"}  # how one logs in -> who renews it
KINDS = {"desktop": "social", "builder": "builder", "idc": "idc"}
PNG = (  # one transparent pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


class KiroWorld(World):
    """A world in which Kiro is served as well, under its real names and at an address of its own.

    `logins` says what the service knows of each user; a user who is not there has a social login. `keys` are the API
    keys that are good.
    """

    def __init__(
        self, background: Background, ca: trustme.CA, folder: Path, *, alpn: Sequence[str] = ALPN, **more: Any
    ) -> None:
        super().__init__(background, ca, folder, alpn=alpn, **more)
        self.aws = FakeAws()
        self.logins: dict[str, Login] = {}
        self.keys: dict[str, Login] = {}
        self.kiro = FakeKiro(self._valid, login=self._login)
        local = ("localhost", "127.0.0.1")
        self.kiro_service = Service(background, self.kiro, ca=ca, names=[*local, *API_HOSTS], alpn=alpn)
        self.aws_service = Service(background, self.aws, ca=ca, names=[*local, *LOGIN_HOSTS])

    def __enter__(self) -> Self:
        self.kiro_service.__enter__()
        self.aws_service.__enter__()
        super().__enter__()
        self.upstream.routes |= {f"{host}:443": self.kiro_service.port for host in API_HOSTS}
        self.upstream.routes |= {f"{host}:443": self.aws_service.port for host in LOGIN_HOSTS}
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self.aws_service.__exit__(None, None, None)
        self.kiro_service.__exit__(None, None, None)

    def reset(self) -> None:
        super().reset()
        self.kiro.reset()
        self.aws.delay = 0.0
        self.aws.failures.clear()

    @property
    def direct(self) -> dict[str, str]:
        """The environment that leads to this world's own addresses."""
        api, logins = (f"https://localhost:{service.port}" for service in (self.kiro_service, self.aws_service))
        places = {f"KIRO_{name}_URL": api for name in ("RUNTIME", "MANAGEMENT", "Q")}
        return super().direct | places | {f"KIRO_{name}_URL": logins for name in ("OIDC", "AUTH", "PORTAL")}

    def secrets(self) -> set[str]:
        """Return every credential of Kiro's that there has been."""
        found = {secret for secret, _ in self.aws.clients.values()} | set(self.keys)
        for family in self.aws.families:
            numbers = range(1, family.generation + 1)
            found |= {f"fake-{kind}-{family.number}-{n}" for kind in ("access", "refresh") for n in numbers}
        return found

    def _valid(self, token: str) -> bool:
        return token in self.keys or self.aws.valid(token)

    def _login(self, token: str) -> Login:
        return self.keys.get(token) or self.logins.get(self.aws.owner(token) or "") or Login()


class KiroProxy(Proxy):
    """A proxy with Kiro accounts. `shown` has tokens of clients' own, which the proxy has no part in."""

    world: KiroWorld

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.shown: set[str] = set()

    @property
    def local(self) -> str:
        return f"{self.url}/kiro/v1"

    @property
    def base(self) -> str:
        return f"https://{RUNTIME}/v1" if self.named else f"{self.world.direct['KIRO_RUNTIME_URL']}/v1"

    def secrets(self) -> set[str]:
        self.more_secrets |= set(self.world.keys)
        return super().secrets() | (self.world.secrets() - set(self.world.keys) - self.shown)

    # its accounts

    @property
    def registry(self) -> Registry:
        return Registry(self.data)

    def stored(self, account: Account | None = None) -> Any:
        """Return what is stored now: of one account, or the whole document."""
        found = self.registry.load()
        return found if account is None else found.get(account.id)

    def settled(self, account: Account, **fields: object) -> Account:
        """Wait until the stored *account* has these fields, and return it: notes are written a moment later."""

        def there() -> Account | None:
            found: Account = self.stored(account)
            return found if all(getattr(found, name) == value for name, value in fields.items()) else None

        return wait_until(there, f"{fields} in the document", 10)

    def alter(self, account: Account, **fields: object) -> None:
        """Change fields of a stored account."""

        def change(accounts: Accounts) -> None:
            found = accounts.get(account.id)
            assert found is not None
            accounts.put(found.model_copy(update=fields))

        self.registry.update(change)

    def add(self, kind: AuthMethod = "desktop", *, login: Login | None = None, **fields: Any) -> Account:
        """Log in anew and store the account, as `kimi-mitm login kiro` would."""
        aws, now = self.world.aws, time.time()
        client = aws.register() if SERVICES[kind] == "oidc" else {}
        answer = aws.login(SERVICES[kind], client=client.get("clientId", ""))
        family = aws.families[-1]
        self.world.logins[family.user] = login or Login(KINDS[kind], user=family.user)  # type: ignore[arg-type]
        made = {
            "id": new_id(),
            "label": f"account-{family.number}",
            "user_id": family.user,
            "auth_method": kind,
            "access_token": answer["accessToken"],
            "refresh_token": answer["refreshToken"],
            "expires_at": int((now + answer["expiresIn"]) * 1000),
            "refreshed_at": int(now * 1000),
            "profile_arn": answer.get("profileArn"),
            "client_id": client.get("clientId"),
            "client_secret": client.get("clientSecret"),
            "oidc_region": "us-east-1" if client else None,
            "start_url": BUILDER_START_URL if kind == "builder" else None,
        }
        account = Account.model_validate(made | fields)
        return self.registry.update(lambda accounts: accounts.upsert(account))

    def add_key(self, key: str) -> Account:
        """Store the account of an API key."""
        self.world.keys[key] = Login("api_key")
        account = Account(id=new_id(), label="key", auth_method="api_key", access_token=key)
        return self.registry.update(lambda accounts: accounts.upsert(account))

    def accounts(self, count: int, **fields: Any) -> list[Account]:
        """Forget the accounts there are, and store so many new ones."""
        self.registry.update(lambda accounts: [accounts.remove(account.id) for account in list(accounts.accounts)])
        return [self.add(**fields) for _ in range(count)]

    def who(self, seen: Any) -> str:
        """Return the label of the account whose token a request carried, be it good or not."""
        number = seen.bearer.split("-")[2]
        return f"account-{number}"


def said(answer: httpx.Response) -> str:
    """Return the text of an answer, streamed or not."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.json()["choices"][0]["message"]["content"]
    events = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)
