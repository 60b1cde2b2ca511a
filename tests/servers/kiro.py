"""The Kiro service as an ASGI app: generation, models, usage and profiles, on each of its hosts and in every form.

`FakeKiro` is one app for all hosts: ``runtime.*``, ``management.*`` and ``q.*`` serve what the real ones serve (kiro.md
§3.3, §6.3, §7.4, §8); on any other name, such as 127.0.0.1, everything is served as the runtime host would. Tokens are
checked with the function that it is given, requests as strictly as the service does: form and identity, profile by
kind of login and host, body by `kiro_validator`. A valid one is answered by what the last message asks for, unless a
test has queued a script or set `fault`::

    [[say TEXT]]              TEXT, in two pieces
    [[think TEXT]]            TEXT as reasoning, then "thought"
    [[call NAME {"a": 1}]]    one tool call; once its result is there: "tool said: RESULT"
    [[calls NAME {} NAME {}]] several at once
    [[nasty NAME]]            an answer out of `kiro_answers.NASTY`
    [[error NAME]]            a refusal out of `kiro_answers.REFUSALS`

Anything else is echoed. Every request is recorded as it came.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from tests.kiro.kiro_frames import INITIAL, call, text, thought
from tests.servers.kimi import Recorded
from tests.servers.kiro_answers import AWS_JSON, END_TURN, EVENT_STREAM, NASTY, REFUSALS, Refusal, ending, stream, whole
from tests.servers.kiro_validator import Rules, check
from tests.servers.script import Script
from tests.servers.scripted import Scripted

SOCIAL_ARN = "arn:aws:codewhisperer:us-east-1:699475941385:profile/EHGA3GRVQMUK"
BUILDER_ARN = "arn:aws:codewhisperer:us-east-1:638616132270:profile/AAAACCCCXXXX"
SERVICE = "AmazonCodeWhispererService."
GENERATE = "AmazonCodeWhispererStreamingService.GenerateAssistantResponse"
TARGETS = {
    GENERATE: "generate",
    f"{SERVICE}ListAvailableModels": "models",
    f"{SERVICE}GetUsageLimits": "usage",
    f"{SERVICE}ListAvailableProfiles": "profiles",
}
PATHS = {
    ("POST", "/generateAssistantResponse"): "generate",
    ("GET", "/ListAvailableModels"): "models",
    ("GET", "/List-Available-Models"): "models",
    ("GET", "/getUsageLimits"): "usage",
    ("GET", "/Get-Usage-Limits"): "usage",
    ("POST", "/List-Available-Profiles"): "profiles",
}
SERVES = {  # host's first label -> what it serves
    "runtime": {"generate"},
    "management": {"models", "usage", "profiles"},
    "q": {"generate", "models", "usage", "profiles"},
}
EVERYTHING = {"generate", "models", "usage", "profiles"}
WINDOW = 1_000_000  # tokens, for percentages


def _claude(efforts: list[str], most: int) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "max_tokens": {"type": "integer", "minimum": 1024, "maximum": most},
            "output_config": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"effort": {"type": "string", "enum": efforts}},
            },
            "thinking": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "type": {"type": "string", "enum": ["adaptive", "disabled"]},
                    "display": {"type": "string", "enum": ["summarized", "omitted"]},
                },
            },
        },
    }


def model(model_id: str, window: int, *, images: bool = True, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return one entry of ListAvailableModels."""
    entry = {
        "modelId": model_id,
        "modelName": model_id.replace("-", " ").title(),
        "description": "A fake model",
        "rateMultiplier": 1.0,
        "rateUnit": "Credit",
        "supportedInputTypes": ["TEXT", "IMAGE"] if images else ["TEXT"],
        "tokenLimits": {"maxInputTokens": window, "maxOutputTokens": 64_000},
        "promptCaching": {
            "supportsPromptCaching": True,
            "maximumCacheCheckpointsPerRequest": 4,
            "minimumTokensPerCacheCheckpoint": 1024,
        },
    }
    return entry | ({"additionalModelRequestFieldsSchema": schema} if schema else {})


MODELS = [
    model("auto", WINDOW),
    model("claude-opus-4.7", WINDOW, schema=_claude(["low", "medium", "high", "xhigh", "max"], 128_000)),
    model("claude-opus-4.6", WINDOW, schema=_claude(["low", "medium", "high", "max"], 64_000)),
    model("claude-sonnet-4.6", WINDOW, schema=_claude(["low", "medium", "high", "max"], 64_000)),
    model("claude-sonnet-4.5", 200_000),
    model("claude-haiku-4.5", 200_000),
    model("minimax-m2.5", 196_000, images=False),
    model("glm-5", 200_000, images=False),
]


@dataclass(slots=True)
class Login:
    """What the service knows of a token's account: kind of login, profiles of its own, credits."""

    kind: Literal["social", "builder", "idc", "api_key", "external_idp"] = "social"
    profiles: tuple[str, ...] = ()
    user: str = "d-fake"
    used: float = 12.4
    limit: float = 50.0
    models: tuple[str, ...] | None = None

    def takes(self, arn: str | None, host: str) -> Refusal | None:
        """Return the refusal for naming *arn* (None: naming none) on *host*; the matrix of kiro.md §3.3."""
        allowed: dict[str, set[str | None]] = {
            "social": {SOCIAL_ARN, *self.profiles},
            "builder": {None} if host == "q" else {BUILDER_ARN},
            "idc": set(self.profiles),
            "api_key": {None},
            "external_idp": {*self.profiles} or {None},
        }
        if arn in allowed[self.kind] or (self.kind == "social" and host == "q" and arn is None):
            return None
        return REFUSALS["profile_required" if arn is None else "unauthorized"]


class FakeKiro(Scripted):
    """The app and its state.

    `valid` tells whether an access token is good now; `login` gives what is known of its account (all social unless
    it says otherwise). `fault`, where set, is asked for each valid generation and may return a script to play in place
    of the answer. `models` is the catalog, listed `page` entries at a time.
    """

    def __init__(
        self, valid: Callable[[str], bool] = bool, *, login: Callable[[str], Login] = lambda _: Login()
    ) -> None:
        self.valid = valid
        self.login = login
        super().__init__()

    def reset(self) -> None:
        """Forget requests, scripts and faults; logins stay."""
        super().reset()
        self.fault: Callable[[Recorded], Script | None] = lambda _: None
        self.models: list[dict[str, Any]] = list(MODELS)
        self.page = len(self.models)

    def queue(self, *scripts: Script, operation: str = "generate") -> None:
        """Let the next requests of *operation* that are in order get *scripts*."""
        super().queue(*scripts, operation=operation)

    def wait_for_request(self, operation: str = "generate", count: int = 1) -> Recorded:
        """Wait until *count* requests of *operation* have come in whole; return the last of them."""
        return super().wait_for_request(operation, count)

    def refusals(self) -> list[str]:
        """Return what was wrong with the bodies of generation so far, by the validator; empty is good."""
        return [str(found) for seen in self.of("generate") if seen.complete for found in self._violations(seen)]

    # routing

    def operation(self, scope: Any) -> str:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] == "POST" and scope["path"] == "/":
            return TARGETS.get(headers.get("x-amz-target", ""), "other")
        return PATHS.get((scope["method"], scope["path"]), "other")

    def answer(self, seen: Recorded) -> Script:
        host = host_of(seen)
        if seen.operation not in SERVES.get(host, EVERYTHING):
            return REFUSALS["operation"].script()
        if not self._known(seen):
            return REFUSALS["token"].script()
        login = self.login(seen.bearer)
        if seen.operation == "generate" and (wrong := self._refused(seen, login, host)) is not None:
            return wrong.script()
        if queued := self.scripts[seen.operation]:
            return queued.popleft()
        return getattr(self, f"_{seen.operation}")(seen, login)

    def _known(self, seen: Recorded) -> bool:
        """Tell whether the token is good and of the kind that the request says it is."""
        authorization = seen.header("authorization") or ""
        is_key = seen.bearer.startswith("ksk_")
        said = (seen.header("tokentype") or "").upper() == "API_KEY"
        return authorization.startswith("Bearer ") and is_key == said and self.valid(seen.bearer)

    # generation

    def _refused(self, seen: Recorded, login: Login, host: str) -> Refusal | None:
        """Return the refusal for a generation that the service would not begin."""
        if (wrong := _form(seen)) is not None:
            return wrong
        if found := self._violations(seen):
            return Refusal(400, "ValidationException", *found[0].answer.value)
        if user_of(seen)["origin"] != ("KIRO_CLI" if is_rpc(seen) else "AI_EDITOR"):
            return REFUSALS["unauthorized"]
        if (wrong := login.takes(seen.json.get("profileArn"), host)) is not None:
            return wrong
        known = login.models is None or user_of(seen).get("modelId", "auto") in login.models
        return None if known else REFUSALS["model"]

    def _generate(self, seen: Recorded, login: Login) -> Script:
        del login
        return self.fault(seen) or _said(seen, user_of(seen))

    def _violations(self, seen: Recorded) -> list[Any]:
        try:
            body = json.loads(seen.body)
        except ValueError:
            body = None
        return check(body, Rules.of(self.models))

    # the account

    def _models(self, seen: Recorded, login: Login) -> Script:
        asked = parameters(seen)
        if asked.get("origin") not in {"KIRO_CLI", "AI_EDITOR"}:
            return REFUSALS["malformed"].script()
        listed = [entry for entry in self.models if login.models is None or entry["modelId"] in login.models]
        start = int(asked.get("nextToken") or 0)
        page: dict[str, Any] = {"defaultModel": {"modelId": "auto"}, "models": listed[start : start + self.page]}
        if start + self.page < len(listed):
            page["nextToken"] = str(start + self.page)
        return whole(page)

    def _usage(self, seen: Recorded, login: Login) -> Script:
        asked = parameters(seen)
        if asked.get("origin") not in {"KIRO_CLI", "AI_EDITOR"}:
            return REFUSALS["malformed"].script()
        user = {"userId": login.user}
        if str(asked.get("isEmailRequired")).lower() == "true":
            user["email"] = f"{login.user}@example.test"
        return whole(
            {
                "daysUntilReset": 7,
                "nextDateReset": 1785542400,
                "subscriptionInfo": {"type": "Q_DEVELOPER_STANDALONE_FREE", "subscriptionTitle": "KIRO FREE"},
                "overageConfiguration": {"overageStatus": "DISABLED"},
                "userInfo": user,
                "usageBreakdownList": [
                    {
                        "resourceType": asked.get("resourceType") or "CREDIT",
                        "currentUsage": int(login.used),
                        "currentUsageWithPrecision": login.used,
                        "usageLimit": int(login.limit),
                        "usageLimitWithPrecision": login.limit,
                        "unit": "INVOCATIONS",
                        "currentOverages": 0,
                        "overageRate": 0.04,
                        "overageCap": 0,
                        "nextDateReset": 1785542400,
                    }
                ],
            }
        )

    def _profiles(self, seen: Recorded, login: Login) -> Script:
        if login.kind == "builder":
            return REFUSALS["builder_profiles"].script()
        region = _region(seen)
        here = [arn for arn in login.profiles if region is None or arn.split(":")[3] == region]
        return whole({"profiles": [{"arn": arn, "profileName": f"fake-{arn[-4:]}"} for arn in here]})


# --- small parts -----------------------------------------------------------------------------------------------------


def host_of(seen: Recorded) -> str:
    """Return the first label of the host that was asked: runtime, management, q, or another."""
    return (seen.header("host") or "").partition(".")[0]


def is_rpc(seen: Recorded) -> bool:
    """Tell whether the call is in the form of kiro-cli: posted to the root, named by its target."""
    return urlsplit(seen.target).path == "/"


def user_of(seen: Recorded) -> dict[str, Any]:
    """Return the current message of a generation."""
    return seen.json["conversationState"]["currentMessage"]["userInputMessage"]


def _region(seen: Recorded) -> str | None:
    labels = (seen.header("host") or "").split(".")
    return labels[1] if labels[0] in SERVES and len(labels) > 1 else None


def parameters(seen: Recorded) -> dict[str, Any]:
    """Return what a call about the account names, in its query and in its body."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(seen.target).query).items()}
    body = json.loads(seen.body) if seen.body else {}
    return query | body


def _form(seen: Recorded) -> Refusal | None:
    """Return the refusal for a request that is half of one client and half of another (kiro.md §3.1)."""
    rpc = is_rpc(seen)
    if (seen.header("content-type") or "").partition(";")[0] != (AWS_JSON if rpc else "application/json"):
        return Refusal(400, "SerializationException", "Unexpected content type.")
    agent = seen.header("user-agent") or ""
    fits = agent.startswith("aws-sdk-rust/" if rpc else "aws-sdk-js/")
    fits &= bool(seen.header("amz-sdk-invocation-id")) and bool(seen.header("x-amz-user-agent"))
    fits &= rpc or bool(seen.header("x-amzn-kiro-agent-mode"))
    return None if fits else REFUSALS["unauthorized"]


_DIRECTIVE = re.compile(r"\[\[(say|think|calls?|nasty|error) (.*?)\]\]", re.DOTALL)
_CALLS = re.compile(r"([A-Za-z0-9_-]+) (\{.*?\})(?: |$)")


def _said(seen: Recorded, user: dict[str, Any]) -> Script:
    """Return the answer that the current message asks for."""
    results = user.get("userInputMessageContext", {}).get("toolResults", [])
    found = _DIRECTIVE.findall(user["content"])
    verb, words = found[-1] if found else ("say", user["content"])
    if results and not found:
        verb, words = "say", f"tool said: {' '.join(_result(result) for result in results)}"
    if verb == "nasty":
        return NASTY[words]
    if verb == "error":
        return REFUSALS[words].script()
    return _answer(seen, list(_frames(seen, verb, words)))


def _frames(seen: Recorded, verb: str, words: str) -> list[bytes]:
    if verb == "think":
        return [thought(text=words), thought(signature="fake-signature"), text("thought")]
    if verb in {"call", "calls"}:
        calls = [tuple(words.split(" ", 1))] if verb == "call" else _CALLS.findall(words)
        return [
            call(f"tooluse_{seen.number}x{number}", name, *_halves(arguments))
            for number, (name, arguments) in enumerate(calls)
        ]
    return [text(piece) for piece in _halves(words)]


def _answer(seen: Recorded, frames: list[bytes]) -> Script:
    """Return the stream in the form of the call: RPC says the conversation in a frame, REST in a header."""
    tokens = 900 + len(seen.body) // 4
    closing = [END_TURN, ending(100 * tokens / WINDOW)]
    if is_rpc(seen):
        return stream(INITIAL, *frames, *closing)
    script = stream(*frames, *closing)
    script.headers = [("content-type", EVENT_STREAM), ("x-amzn-codewhisperer-conversation-id", "fake")]
    return script


def _result(result: dict[str, Any]) -> str:
    return "".join(item["text"] if "text" in item else json.dumps(item["json"]) for item in result["content"])


def _halves(words: str) -> list[str]:
    middle = len(words) // 2
    return [piece for piece in (words[:middle], words[middle:]) if piece]
