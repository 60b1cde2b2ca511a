import json
from collections.abc import Iterator

import httpx
import pytest

from kimi_core.errors import KimiMitmError
from kimi_core.headers import Headers
from kimi_core.kiro.identity import build
from kimi_core.kiro.verdict import Kind, classify, classify_exception
from kimi_core.wire.eventstream import Decoder
from tests.servers.aws import FakeAws
from tests.servers.kiro import BUILDER_ARN, MODELS, SOCIAL_ARN, FakeKiro, Login, model
from tests.servers.kiro_answers import NASTY, REFUSALS, flood, in_bytes, paced, stream
from tests.servers.script import Break, Gate
from tests.servers.serve import HTTP1, Background, Service
from tests.servers.test_kiro_validator import assistant, body, tool, user

OWN = "arn:aws:codewhisperer:eu-central-1:123456789012:profile/FAKE"
LOGINS = {
    "fake-social": Login(),
    "fake-builder": Login("builder"),
    "fake-idc": Login("idc", (OWN,)),
    "ksk_fake": Login("api_key"),
    "fake-external": Login("external_idp"),
    "fake-small": Login(models=("auto",)),
}


@pytest.fixture
def fake():
    """Return a fake that knows the logins above."""
    return FakeKiro(LOGINS.__contains__, login=LOGINS.__getitem__)


def _headers(operation="generate", token="fake-social", name="cli"):
    headers = build(name, machine_id="ab" * 32).headers(
        operation,
        invocation="fake",
        bearer=f"Bearer {token}",
        auth_method="api_key" if token.startswith("ksk_") else "",
    )
    return dict(headers.without("accept-encoding", "connection"))


async def _ask(fake, path="/", *, host="127.0.0.1", method="POST", headers=None, data=None, **query):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fake), base_url=f"http://{host}") as client:
        content = data if isinstance(data, bytes) else json.dumps(data or {}).encode() if method == "POST" else None
        return await client.request(method, path, headers=headers, content=content, params=query)


async def _generate(fake, data, *, token="fake-social", name="cli", host="127.0.0.1"):
    path = build(name).path
    return await _ask(fake, path, host=host, headers=_headers("generate", token, name), data=data)


def _asking(words, arn=SOCIAL_ARN, origin="KIRO_CLI", **fields):
    request = body(user(words, origin=origin, **fields))
    request["profileArn"] = arn
    return {name: value for name, value in request.items() if value is not None}


def _frames(answer):
    decoder = Decoder()
    frames = list(decoder.feed(answer.content))
    decoder.finish()
    return [
        (frame.headers.get(":event-type") or frame.headers[":exception-type"], json.loads(frame.payload))
        for frame in frames
    ]


def _text(answer):
    return "".join(data["content"] for kind, data in _frames(answer) if kind == "assistantResponseEvent")


@pytest.mark.parametrize(
    ("words", "said"), [("hello", "hello"), ("[[say a b]]", "a b"), ("x [[think deep]]", "thought")]
)
async def test_text_and_reasoning(fake, words, said):
    """What the message asks for is answered, with the frames that begin and end a real answer."""
    answer = await _generate(fake, _asking(words))
    assert answer.headers["content-type"] == "application/vnd.amazon.eventstream"
    assert _text(answer) == said
    kinds = [kind for kind, _ in _frames(answer)]
    assert kinds[0] == "initial-response"
    assert kinds[-3:] == ["metadataEvent", "contextUsageEvent", "meteringEvent"]
    assert fake.refusals() == []


async def test_the_ide_gets_its_own_form(fake):
    """The REST form says the conversation in a header, and has no first frame for it."""
    answer = await _generate(fake, _asking("hello", origin="AI_EDITOR"), name="ide")
    assert answer.headers["x-amzn-codewhisperer-conversation-id"] == "fake"
    assert next(kind for kind, _ in _frames(answer)) == "assistantResponseEvent"


async def test_tool_calls_and_their_results(fake):
    """Calls are streamed in pieces; a result is read back."""
    answer = await _generate(fake, _asking('[[calls ls {"path": "."} cat {"x": {}}]]'))
    pieces = [data for kind, data in _frames(answer) if kind == "toolUseEvent"]
    assert "".join(piece.get("input", "") for piece in pieces if piece["name"] == "ls") == '{"path": "."}'
    assert {piece["name"] for piece in pieces} == {"ls", "cat"}
    history = body(user(), assistant("", uses=["t1"]), user("", results=["t1"], tools=[tool()]))
    history["profileArn"] = SOCIAL_ARN
    assert _text(await _generate(fake, history)) == "tool said: done"
    one = await _generate(fake, _asking('[[call ls {"path": "a b"}]]'))
    assert "".join(data.get("input", "") for kind, data in _frames(one) if kind == "toolUseEvent") == '{"path": "a b"}'


@pytest.mark.parametrize(
    ("token", "host", "arn", "expected"),
    [
        ("fake-social", "runtime.us-east-1.kiro.dev", SOCIAL_ARN, None),
        ("fake-social", "runtime.us-east-1.kiro.dev", None, "profile_required"),
        ("fake-social", "q.us-east-1.amazonaws.com", SOCIAL_ARN, None),
        ("fake-social", "q.us-east-1.amazonaws.com", None, None),
        ("fake-builder", "runtime.us-east-1.kiro.dev", BUILDER_ARN, None),
        ("fake-builder", "runtime.us-east-1.kiro.dev", None, "profile_required"),
        ("fake-builder", "q.us-east-1.amazonaws.com", BUILDER_ARN, "unauthorized"),
        ("fake-builder", "q.us-east-1.amazonaws.com", None, None),
        ("fake-idc", "runtime.eu-central-1.kiro.dev", OWN, None),
        ("fake-idc", "runtime.eu-central-1.kiro.dev", SOCIAL_ARN, "unauthorized"),
        ("fake-idc", "q.eu-central-1.amazonaws.com", None, "profile_required"),
        ("ksk_fake", "runtime.us-east-1.kiro.dev", None, None),
        ("ksk_fake", "runtime.us-east-1.kiro.dev", SOCIAL_ARN, "unauthorized"),
        ("fake-external", "runtime.us-east-1.kiro.dev", None, None),
        ("fake-social", "management.us-east-1.kiro.dev", SOCIAL_ARN, "operation"),
        ("fake-unknown", "runtime.us-east-1.kiro.dev", SOCIAL_ARN, "token"),
    ],
)
async def test_profiles_by_login_and_host(fake, token, host, arn, expected):
    """Each kind of login names the profile that its host wants, or is refused with the service's words."""
    answer = await _generate(fake, _asking("hello", arn), token=token, host=host)
    assert answer.status_code == (REFUSALS[expected].status if expected else 200)
    assert not expected or answer.json()["message"] == REFUSALS[expected].message


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"user-agent": "aws-sdk-js/1.0.34"}, 403),
        ({"amz-sdk-invocation-id": ""}, 403),
        ({"content-type": "application/json"}, 400),
        ({"x-amz-target": "AmazonCodeWhispererService.Other"}, 404),
        ({"authorization": "Basic fake"}, 403),
        ({"tokentype": "API_KEY"}, 403),
    ],
)
async def test_halves_of_two_clients(fake, change, status):
    """A request that is not of one client throughout is refused."""
    answer = await _ask(fake, headers=_headers() | change, data=_asking("hello"))
    assert answer.status_code == status


async def test_an_origin_of_the_other_client(fake):
    """The origin in the body belongs to the form."""
    assert (await _generate(fake, _asking("hello", origin="AI_EDITOR"))).status_code == 403


@pytest.mark.parametrize(
    ("data", "message", "reason"),
    [
        (b"{", "Improperly formed request.", "REQUEST_BODY_INVALID"),
        (_asking(""), "Improperly formed request.", None),
        (_asking("x" * 600_001), "Input is too long.", "CONTENT_LENGTH_EXCEEDS_THRESHOLD"),
        (_asking("x", modelId="none"), REFUSALS["model"].message, "INVALID_MODEL_ID"),
    ],
)
async def test_bodies_are_validated(fake, data, message, reason):
    """A body that breaks a rule gets the service's answer, and is named for the test."""
    answer = await _generate(fake, data)
    assert (answer.status_code, answer.json()["message"], answer.json()["reason"]) == (400, message, reason)
    assert fake.refusals()


async def test_models_of_the_plan(fake):
    """A model that the account does not have is unknown to it, and not in its list."""
    assert (await _generate(fake, _asking("x", modelId="glm-5"), token="fake-small")).json()["reason"]
    listed = await _ask(fake, headers=_headers("models", "fake-small"), data={"origin": "KIRO_CLI"})
    assert [entry["modelId"] for entry in listed.json()["models"]] == ["auto"]


@pytest.mark.parametrize(
    ("host", "method", "path", "name"),
    [
        ("q.us-east-1.amazonaws.com", "POST", "/", "cli"),
        ("q.us-east-1.amazonaws.com", "GET", "/ListAvailableModels", "ide"),
        ("management.us-east-1.kiro.dev", "POST", "/", "cli"),
        ("management.us-east-1.kiro.dev", "GET", "/List-Available-Models", "cli"),
        ("127.0.0.1", "POST", "/", "cli"),
    ],
)
async def test_models_in_every_form(fake, host, method, path, name):
    """The list comes page by page, whatever the form."""
    fake.page = 3
    found, token = [], {}
    while True:
        answer = await _ask(
            fake, path, host=host, method=method, headers=_headers("models", name=name), origin="KIRO_CLI", **token
        )
        found += answer.json()["models"]
        if not (more := answer.json().get("nextToken")):
            break
        token = {"nextToken": more}
    assert found == MODELS


async def test_the_runtime_host_lists_nothing(fake):
    """Models, usage and profiles are not served by the host that generates."""
    for operation in ("models", "usage", "profiles"):
        answer = await _ask(fake, host="runtime.us-east-1.kiro.dev", headers=_headers(operation))
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("host", "method", "path"),
    [
        ("q.us-east-1.amazonaws.com", "GET", "/getUsageLimits"),
        ("management.us-east-1.kiro.dev", "GET", "/Get-Usage-Limits"),
        ("q.us-east-1.amazonaws.com", "POST", "/"),
    ],
)
async def test_usage_in_every_form(fake, host, method, path):
    """Usage tells credits, and the e-mail only where it is asked for."""
    ask = {"origin": "KIRO_CLI", "resourceType": "CREDIT"}
    call = {"host": host, "method": method, "headers": _headers("usage")}
    found = (await _ask(fake, path, **call, isEmailRequired="true", **ask)).json()
    assert found["userInfo"] == {"userId": "d-fake", "email": "d-fake@example.test"}
    assert found["usageBreakdownList"][0]["usageLimitWithPrecision"] == 50.0
    assert (await _ask(fake, path, **call, **ask)).json()["userInfo"] == {"userId": "d-fake"}
    assert (await _ask(fake, path, **call)).status_code == 400


async def test_origin_is_asked_for(fake):
    """A model list without an origin is refused."""
    assert (await _ask(fake, headers=_headers("models"))).status_code == 400


@pytest.mark.parametrize(
    ("token", "host", "path", "expected"),
    [
        ("fake-idc", "q.eu-central-1.amazonaws.com", "/", [OWN]),
        ("fake-idc", "management.us-east-1.kiro.dev", "/", []),
        ("fake-idc", "management.eu-central-1.kiro.dev", "/List-Available-Profiles", [OWN]),
        ("fake-idc", "127.0.0.1", "/", [OWN]),
        ("fake-social", "127.0.0.1", "/", []),
    ],
)
async def test_profiles(fake, token, host, path, expected):
    """Profiles are listed in their own region."""
    answer = await _ask(fake, path, host=host, headers=_headers("profiles", token))
    assert [profile["arn"] for profile in answer.json()["profiles"]] == expected


async def test_a_builder_id_may_not_list_profiles(fake):
    """It is told so in the service's words."""
    answer = await _ask(fake, headers=_headers("profiles", "fake-builder"))
    assert (answer.status_code, answer.json()["reason"]) == (403, "FEATURE_NOT_SUPPORTED")


async def test_scripts_and_faults(fake):
    """Of good requests the first gets what is queued, others what the fault says, else the usual answer."""
    fake.queue(REFUSALS["rate"].script(retry_after="7"))
    fake.fault = lambda seen: REFUSALS["internal"].script() if seen.number == 3 else None
    assert (await _generate(fake, b"{}")).status_code == 400
    answers = [await _generate(fake, _asking("hello")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 500, 200]
    assert answers[0].headers["retry-after"] == "7"
    fake.reset()
    assert fake.requests == []
    assert (await _generate(fake, _asking("hello"))).status_code == 200


async def test_tokens_of_the_login_services():
    """With the fake login services' own check, a token is good until it is rejected."""
    aws = FakeAws()
    fake = FakeKiro(aws.valid, login=lambda token: Login(user=aws.owner(token) or ""))
    token = aws.login("desktop")["accessToken"]
    assert (await _generate(fake, _asking("hello"), token=token)).status_code == 200
    aws.reject_access()
    answer = await _generate(fake, _asking("hello"), token=token)
    assert (answer.status_code, answer.json()["message"]) == (403, REFUSALS["token"].message)


KINDS = {
    "profile_required": Kind.profile_required, "too_long": Kind.context, "model": Kind.model, "image": Kind.image,
    "malformed": Kind.invalid, "quota": Kind.quota, "quota_as_400": Kind.quota, "quota_daily": Kind.quota,
    "overage": Kind.quota, "suspended": Kind.suspended, "token_401": Kind.auth, "token": Kind.auth,
    "token_expired": Kind.auth, "unauthorized": Kind.unauthorized, "feature": Kind.feature, "capacity": Kind.capacity,
    "model_unavailable": Kind.capacity, "high_load": Kind.capacity, "rate": Kind.rate, "rate_plain": Kind.rate,
    "timeout": Kind.transient, "internal": Kind.transient, "bad_gateway": Kind.transient,
    "unavailable": Kind.transient, "gateway_timeout": Kind.transient, "operation": Kind.endpoint,
    "builder_profiles": Kind.feature,
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
async def test_refusals_are_those_of_the_verdict(fake, name):
    """Every refusal that a test can ask for has the kind that the verdict's table gives the real one."""
    answer = await _generate(fake, _asking(f"[[error {name}]]"))
    assert classify(answer.status_code, Headers(answer.headers.items()), answer.content).kind is KINDS[name]


def test_every_kind_of_fault_can_be_asked_for():
    """There is a refusal for each kind but the unknown, and each comes as a frame as well."""
    assert {*KINDS.values()} == {*Kind} - {Kind.unknown}
    for name in ("rate", "quota", "suspended", "high_load"):
        (frame,) = Decoder().feed(REFUSALS[name].frame())
        data = json.loads(frame.payload)
        assert classify_exception(frame.headers[":exception-type"], **data).kind is KINDS[name]


DAMAGED = {"crc", "prelude-crc", "length", "cut-in-frame"}


@pytest.mark.parametrize("name", sorted({*NASTY} - {"reset", "html", "json-200"}))
async def test_nasty_streams(fake, name):
    """Nasty answers are what they say: broken frames do not decode, all others do."""
    answer = await _generate(fake, _asking(f"[[nasty {name}]]"))
    if name in DAMAGED:
        with pytest.raises(KimiMitmError):
            _frames(answer)
    else:
        assert answer.status_code == 200
        decoder = Decoder()
        assert list(decoder.feed(answer.content)) or name == "nothing"
        decoder.finish()


@pytest.mark.parametrize(("name", "kind"), [("json-200", Kind.rate), ("html", Kind.transient)])
async def test_nasty_answers_that_are_no_stream(fake, name, kind):
    """Errors come under a 200, and as a page of some gateway."""
    answer = await _generate(fake, _asking(f"[[nasty {name}]]"))
    assert classify(answer.status_code, Headers(answer.headers.items()), answer.content).kind is kind


# --- over real sockets ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    """Run a loop in a thread for the servers."""
    with Background() as running:
        yield running


@pytest.fixture
def served(background, fake) -> Iterator[Service]:
    """Serve the fake on a loopback port."""
    with Service(background, fake, alpn=HTTP1) as service:
        yield service


def _sent(served, words="hello"):
    return {"url": served.url + "/", "headers": _headers(), "content": json.dumps(_asking(words))}


def test_frames_wait_for_the_test(served, fake):
    """A paced answer sends a frame when the test says so: silence needs no clock."""
    gate = Gate()
    fake.queue(paced(gate, *flood(2)))
    with httpx.Client(trust_env=False) as client:
        gate.open()
        with client.stream("POST", **_sent(served)) as answer:
            decoder, chunks = Decoder(), answer.iter_raw()
            seen = [frame.headers[":event-type"] for frame in decoder.feed(next(chunks))]
            assert seen == ["initial-response"]
            gate.open(4)
            assert len([frame for chunk in chunks for frame in decoder.feed(chunk)]) == 4


def test_a_client_that_leaves_is_noticed(served, fake):
    """A stream whose client has gone ends, and the record says so."""
    fake.queue(paced(Gate(), *flood(1)), stream(*flood(500)), in_bytes(*flood(3)))
    with httpx.Client(trust_env=False, timeout=0.5) as client, pytest.raises(httpx.ReadTimeout):
        client.post(**_sent(served))
    fake.wait_for_disconnect(fake.wait_for_request())
    for count in (503, 6):
        answer = httpx.post(**_sent(served), trust_env=False)
        assert len(list(Decoder().feed(answer.content))) == count


def test_broken_connections(served, fake):
    """A connection can break before an answer and within one."""
    fake.queue(stream(before=[Break.CLOSE]))
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(**_sent(served), trust_env=False)
    with pytest.raises(httpx.ReadError):
        httpx.post(**_sent(served, "[[nasty reset]]"), trust_env=False)


def test_models_can_be_added(fake):
    """A catalog of a test's own is one line."""
    fake.models = [model("fake-1", 1000)]
    assert fake.models[0]["tokenLimits"]["maxInputTokens"] == 1000
