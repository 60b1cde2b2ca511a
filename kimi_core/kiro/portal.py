"""Login through Kiro's portal, for users of Google and GitHub (kiro.md §7.5), with a code and PKCE (RFC 7636).

The portal sends the browser back to a port of this machine; where that cannot be reached (a remote shell, a container)
the user pastes the address that the browser ended at.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from kimi_core.calls import NoAnswer
from kimi_core.errors import LoginDenied, LoginError
from kimi_core.headers import Headers
from kimi_core.kiro.accounts import Account, new_id
from kimi_core.kiro.constants import DEFAULT_REGION, Endpoints, arn_region
from kimi_core.kiro.refresh import JSON_TYPE, post, tokens_of

PATHS = ("/oauth/callback", "/signin/callback")
SOCIAL = frozenset({"github", "google"})
SSO = frozenset({"builderid", "awsidc", "internal"})
VERIFIER_BYTES = 32  # 43 characters, as the portal's own clients send
MAX_ADDRESS = 8192  # characters of a pasted address


@dataclass(frozen=True, slots=True)
class Attempt:
    """One login on its way: `url` is for the browser, which comes back to *port* of this machine."""

    url: str
    port: int
    state: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Callback:
    """With what the portal came back.

    `option` is the way in that the user chose: a social one has a `code`; for one of SSO `start_url` and `region` say
    where the device flow is to be done.
    """

    option: str
    code: str | None = field(default=None, repr=False)
    start_url: str | None = None
    region: str | None = None


def begin(endpoints: Endpoints, port: int, *, random: Callable[[int], str] = secrets.token_urlsafe) -> Attempt:
    """Return a new attempt that ends at *port*. *random* gives a text from that many random bytes."""
    verifier, state = random(VERIFIER_BYTES), random(VERIFIER_BYTES)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "redirect_uri": f"http://localhost:{port}",
        "redirect_from": "kirocli",
    }
    return Attempt(f"{endpoints.portal}/signin?{urlencode(query)}", port, state, verifier)


def read_callback(address: str, attempt: Attempt) -> Callback | None:
    """Return what *address* (a path with a query, or the whole as pasted) says, None if it is not for *attempt*.

    Raises LoginDenied and LoginError for what the portal says about this attempt.
    """
    try:
        parts = urlsplit(address.strip()[:MAX_ADDRESS])
        found = {name: values[0] for name, values in parse_qs(parts.query).items()}
    except ValueError:
        return None
    if parts.path not in PATHS or not hmac.compare_digest(found.get("state", "").encode(), attempt.state.encode()):
        return None
    if found.get("error") == "access_denied":
        raise LoginDenied("The login was refused in the browser.")
    option = found.get("login_option", "").lower()
    if found.get("code") and option in SOCIAL:
        return Callback(option, found["code"])
    if option in SSO:
        return Callback(option, None, found.get("issuer_url"), found.get("idc_region"))
    if option == "external_idp":
        raise LoginError(
            "A login with an identity provider of your organisation is not done here: log in with kiro-cli, then run "
            "`kimi-mitm accounts sync`."
        )
    raise LoginError("The portal came back without a login.")


async def exchange(
    client: httpx.AsyncClient,
    endpoints: Endpoints,
    headers: Headers,
    attempt: Attempt,
    callback: Callback,
    *,
    clock: Callable[[], float] = time.time,
) -> Account:
    """Spend the code of a social *callback* and return the new account. *headers* are the identity's for a refresh.

    Raises LoginError.
    """
    if callback.code is None:
        raise LoginError("This way in gives no code.")
    back = f"http://localhost:{attempt.port}{PATHS[0]}?login_option={callback.option}"
    fields = {"code": callback.code, "code_verifier": attempt.verifier, "redirect_uri": back}
    origin = endpoints.auth(DEFAULT_REGION)
    try:
        reply = await post(client, f"{origin}/oauth/token", headers, json.dumps(fields).encode(), JSON_TYPE)
    except NoAnswer as error:
        raise LoginError(f"The login service at {origin} could not be reached: {error}.") from None
    tokens = tokens_of(reply.data, clock()) if reply.status == httpx.codes.OK else {}
    if not tokens.get("refresh_token"):
        raise LoginError(f"The login service gave no token ({reply.told()}).")
    region = arn_region(str(tokens.get("profile_arn"))) or DEFAULT_REGION
    return Account.model_validate({"id": new_id(), "auth_method": "desktop", "region": region} | tokens)
