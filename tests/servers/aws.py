"""Kiro's login services as one ASGI app: AWS SSO-OIDC, the desktop (social) service, its portal, an external IdP.

`FakeAws` is mounted by other apps or served alone with `tests.servers.oauth.serve`. It follows kiro.md §7.3 and §7.5:
every refresh token is good for one use, at the service it came from and for the client it was made for; a second use
revokes the whole family, so that a client that loses a rotated token, or spends one that is not its own, is found out.
"""

import asyncio
import base64
import hashlib
import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from tests.servers.oauth import _lifespan, _read

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
BUILDER_START = "https://view.awsapps.com/start"
SOCIAL_ARN = "arn:aws:codewhisperer:us-east-1:699475941385:profile/EHGA3GRVQMUK"
SCOPES = ["codewhisperer:completions", "codewhisperer:analysis", "codewhisperer:conversations"]
IDP_CLIENT = "fake-idp-client"

type Canned = int | tuple[int, dict[str, Any]]
type Answer = tuple[int, dict[str, Any], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came; `data` is its JSON object or its form."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: list[tuple[str, str]]
    data: dict[str, Any]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)


@dataclass(slots=True)
class Family:
    """One login: its tokens follow each other; `refresh` is the only one that is still good."""

    number: int
    service: str
    user: str
    client: str = ""
    generation: int = 0
    refresh: str = ""
    used: set[str] = field(default_factory=set)
    access: dict[str, float] = field(default_factory=dict)
    revoked: bool = False
    in_flight: int = 0
    refreshes: int = 0


class FakeAws:
    """The app, its knobs (set them any time before a request comes) and its counters.

    Knobs: `lifetime` of access tokens and `client_life` of registrations in seconds; `polls` = error codes that the
    next polls of a device code get; `failures` = statuses, or (status, object), that the next token requests of any
    service get before anything is looked at, and `register_failures`, `device_failures` those of the other calls;
    `rejection` = what a refresh token that is no good is answered with; `delay` = seconds that a refresh takes before
    it rotates, and again after it; `gate` = where set, a refresh that has rotated waits for this event with its
    answer; `omit_refresh` = refreshes answer without a refresh token and keep the old one good; `start_urls` = those
    that a device may be authorized for; `portal` = query fields that the portal's redirect has beside code and state.
    Counters: `refreshes` (rotations), `max_in_flight` (of one family), `reuses`, `rejections`, `wrong_service`.
    `holding` is set while an answer waits at the gate: a thread may wait for it.
    """

    def __init__(self, *, lifetime: float = 3600.0, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.lifetime = lifetime
        self.client_life = 90 * 86400.0
        self.polls: deque[str] = deque()
        self.failures: deque[Canned] = deque()
        self.register_failures: deque[Canned] = deque()
        self.device_failures: deque[Canned] = deque()
        self.device_answer: dict[str, Any] = {}
        self.rejection: Canned | None = None
        self.delay = 0.0
        self.gate: asyncio.Event | None = None
        self.omit_refresh = False
        self.start_urls = {BUILDER_START}
        self.portal: dict[str, str] = {"login_option": "github"}
        self.portal_code = True
        self.holding = threading.Event()
        self.seen: list[Seen] = []
        self.refreshes = 0
        self.max_in_flight = 0
        self.reuses = 0
        self.rejections = 0
        self.wrong_service = 0
        self.families: list[Family] = []
        self.clients: dict[str, tuple[str, float]] = {}
        self._device_codes: dict[str, str] = {}
        self._codes: dict[str, tuple[str, str]] = {}
        self._made = 0

    # what a test asks

    def register(self) -> dict[str, Any]:
        """Return the answer of a new client registration, without a request."""
        self._made += 1
        client, secret = f"fake-client-{self._made}", f"fake-client-secret-{self._made}"
        expires = self.clock() + self.client_life
        self.clients[client] = (secret, expires)
        return {"clientId": client, "clientSecret": secret, "clientSecretExpiresAt": int(expires)}

    def login(self, service: str = "desktop", *, user: str = "", client: str = "") -> dict[str, Any]:
        """Return the token answer of a new login at "desktop", "oidc" or "idp", without any flow."""
        number = len(self.families) + 1
        family = Family(number, service, user or f"d-fake-user-{number}", client)
        self.families.append(family)
        return self._issue(family)

    def owner(self, access: str) -> str | None:
        """Return the user whose access token this is and who may use it now, or None."""
        now = self.clock()
        good = (f.user for f in self.families if not f.revoked and f.access.get(access, 0.0) > now)
        return next(good, None)

    def valid(self, access: str) -> bool:
        """Tell whether an API would take this access token now."""
        return self.owner(access) is not None

    def alive(self, refresh: str) -> bool:
        """Tell whether this refresh token could be spent now."""
        return any(f.refresh == refresh and not f.revoked for f in self.families)

    def reject_access(self) -> None:
        """Make every access token so far worthless; refresh tokens stay good."""
        for family in self.families:
            family.access.clear()

    def revoke(self) -> None:
        """End every login so far."""
        for family in self.families:
            family.revoked = True

    def close_gate(self) -> asyncio.Event:
        """From now on rotations wait with their answers for the event that is returned; call it in the app's loop."""
        self.gate = asyncio.Event()
        return self.gate

    def requests(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    @property
    def in_flight(self) -> int:
        return sum(family.in_flight for family in self.families)

    # the app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        body = await _read(receive)
        query = parse_qs(scope.get("query_string", b"").decode())
        seen = Seen(scope["method"], scope["path"], query, headers, {})
        kind = (seen.header("content-type") or "").partition(";")[0]
        if body:
            seen.data.update(json.loads(body) if kind == "application/json" else dict(parse_qsl(body.decode())))
        self.seen.append(seen)
        status, answer, extra = await self._answer(seen, kind)
        raw = json.dumps(answer).encode() if answer or status != 200 else b""
        fields = {"content-type": "application/json", "content-length": str(len(raw))} | extra
        head = [(name.encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": raw})

    async def _answer(self, seen: Seen, kind: str) -> Answer:
        form = "application/x-www-form-urlencoded"
        calls: dict[tuple[str, str, str], Callable[[Seen], Any]] = {
            ("POST", "/client/register", "application/json"): self._register,
            ("POST", "/device_authorization", "application/json"): self._device,
            ("POST", "/token", "application/json"): self._oidc_token,
            ("POST", "/refreshToken", "application/json"): self._desktop_refresh,
            ("POST", "/oauth/token", "application/json"): self._social_token,
            ("POST", "/idp/token", form): self._idp_token,
            ("GET", "/signin", ""): self._signin,
        }
        call = calls.get((seen.method, seen.path, kind))
        if call is None:
            return _problem(404, "UnknownOperationException", "unknown_operation")
        made = call(seen)
        return await made if asyncio.iscoroutine(made) else made

    def _register(self, seen: Seen) -> Answer:
        if self.register_failures:
            return _canned(self.register_failures.popleft())
        wanted = {"clientType": "public", "scopes": SCOPES, "grantTypes": [DEVICE_GRANT, "refresh_token"]}
        if {key: seen.data.get(key) for key in wanted} != wanted or not seen.data.get("clientName"):
            return _problem(400, "InvalidClientMetadataException", "invalid_client_metadata")
        return 200, self.register(), {}

    def _client_problem(self, data: dict[str, Any]) -> Answer | None:
        secret, expires = self.clients.get(data.get("clientId", ""), ("", 0.0))
        if not secret or data.get("clientSecret") != secret:
            return _problem(401, "InvalidClientException", "invalid_client")
        if expires <= self.clock():
            return _problem(401, "InvalidClientException", "invalid_client", "Client secret expired")
        return None

    def _device(self, seen: Seen) -> Answer:
        if self.device_failures:
            return _canned(self.device_failures.popleft())
        if problem := self._client_problem(seen.data):
            return problem
        if seen.data.get("startUrl") not in self.start_urls:
            return _problem(400, "InvalidRequestException", "invalid_request")
        self._made += 1
        code, user_code = f"fake-device-code-{self._made}", f"FAKE-{self._made:04}"
        self._device_codes[code] = seen.data["clientId"]
        answer = {
            "deviceCode": code,
            "userCode": user_code,
            "verificationUri": "https://device.sso.us-east-1.amazonaws.com/",
            "verificationUriComplete": f"https://device.sso.us-east-1.amazonaws.com/?user_code={user_code}",
            "expiresIn": 600,
            "interval": 1,
        }
        return 200, answer | self.device_answer, {}

    async def _oidc_token(self, seen: Seen) -> Answer:
        if self.failures:
            return _canned(self.failures.popleft())
        if problem := self._client_problem(seen.data):
            return problem
        client = seen.data["clientId"]
        match seen.data.get("grantType"):
            case "refresh_token":
                return await self._spend("oidc", seen.data.get("refreshToken", ""), client)
            case grant if grant == DEVICE_GRANT:
                return self._poll(seen.data.get("deviceCode", ""), client)
        return _problem(400, "UnsupportedGrantTypeException", "unsupported_grant_type")

    def _poll(self, code: str, client: str) -> Answer:
        if self._device_codes.get(code) != client:
            return _problem(400, "InvalidGrantException", "invalid_grant")
        if self.polls:
            return _problem(400, "AuthorizationPendingException", self.polls.popleft())
        del self._device_codes[code]
        return 200, self.login("oidc", client=client), {}

    async def _desktop_refresh(self, seen: Seen) -> Answer:
        if self.failures:
            return _canned(self.failures.popleft())
        if set(seen.data) != {"refreshToken"} or seen.header("authorization"):
            return _problem(400, "ValidationException", "bad_request")
        return await self._spend("desktop", seen.data["refreshToken"], "")

    async def _idp_token(self, seen: Seen) -> Answer:
        if self.failures:
            return _canned(self.failures.popleft())
        if seen.data.get("client_id") != IDP_CLIENT or seen.data.get("grant_type") != "refresh_token":
            return _problem(400, "", "invalid_client")
        status, answer, extra = await self._spend("idp", seen.data.get("refresh_token", ""), "")
        names = {"accessToken": "access_token", "refreshToken": "refresh_token", "expiresIn": "expires_in"}
        return status, {names.get(key, key): value for key, value in answer.items() if key != "profileArn"}, extra

    def _signin(self, seen: Seen) -> Answer:
        asked = {key: values[0] for key, values in seen.query.items()}
        if asked.get("code_challenge_method") != "S256" or not asked.get("state"):
            return _problem(400, "", "bad_request")
        answer = {"state": asked["state"]} | self.portal
        if self.portal_code:
            code = str(uuid.uuid5(uuid.NAMESPACE_URL, asked["code_challenge"]))
            back = f"{asked['redirect_uri']}/oauth/callback?login_option={self.portal['login_option']}"
            self._codes[code] = (asked["code_challenge"], back)
            answer = {"code": code} | answer
        return 302, {}, {"location": f"{asked['redirect_uri']}/oauth/callback?{urlencode(answer)}"}

    def _social_token(self, seen: Seen) -> Answer:
        if self.failures:
            return _canned(self.failures.popleft())
        if set(seen.data) != {"code", "code_verifier", "redirect_uri"}:
            return _problem(400, "ValidationException", "bad_request")
        challenge, back = self._codes.pop(seen.data["code"], ("", ""))
        hashed = hashlib.sha256(seen.data["code_verifier"].encode()).digest()
        if challenge != base64.urlsafe_b64encode(hashed).rstrip(b"=").decode() or seen.data["redirect_uri"] != back:
            return _problem(401, "", "invalid_grant")
        assert urlsplit(back).hostname == "localhost"
        return 200, self.login("desktop"), {}

    async def _spend(self, service: str, token: str, client: str) -> Answer:
        family = next((f for f in self.families if token == f.refresh or token in f.used), None)
        if family is None:
            return self._rejected(service)
        family.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, family.in_flight)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            status, answer, extra = self._rotate(family, service, token, client)
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.gate is not None and status == 200:
                self.holding.set()
                await self.gate.wait()
                self.holding.clear()
            return status, answer, extra
        finally:
            family.in_flight -= 1

    def _rotate(self, family: Family, service: str, token: str, client: str) -> Answer:
        if (family.service, family.client) != (service, client):
            self.wrong_service += 1
            return self._rejected(service)
        if token in family.used:
            self.reuses += 1
            family.revoked = True
        if family.revoked:
            return self._rejected(service)
        self.refreshes += 1
        family.refreshes += 1
        return 200, self._issue(family), {}

    def _rejected(self, service: str) -> Answer:
        self.rejections += 1
        if self.rejection is not None:
            return _canned(self.rejection)
        if service == "desktop":
            return 401, {"message": "Invalid refresh token provided"}, {}
        return _problem(400, "InvalidGrantException", "invalid_grant", "Invalid refresh token provided")

    def _issue(self, family: Family) -> dict[str, Any]:
        family.generation += 1
        access = f"fake-access-{family.number}-{family.generation}"
        family.access[access] = self.clock() + self.lifetime
        answer: dict[str, Any] = {"accessToken": access, "expiresIn": int(self.lifetime)}
        answer |= {"profileArn": SOCIAL_ARN} if family.service == "desktop" else {"tokenType": "Bearer"}
        if self.omit_refresh and family.refresh:
            return answer
        if family.refresh:
            family.used.add(family.refresh)
        family.refresh = f"fake-refresh-{family.number}-{family.generation}"
        return answer | {"refreshToken": family.refresh}


def _canned(answer: Canned) -> Answer:
    return _problem(answer, "InternalServerException", "server_error") if isinstance(answer, int) else (*answer, {})


def _problem(status: int, name: str, code: str, words: str = "") -> Answer:
    answer = {"error": code, "error_description": words or f"the fake says {code}"}
    return status, answer, {"x-amzn-errortype": f"{name}:http://internal.amazon.com/"} if name else {}
