import json

import pytest

from kimi_core.exchange import Reply, RequestHead
from kimi_core.headers import Headers
from kimi_core.kiro.exchange import KiroExchange
from kimi_core.kiro.provider import Kiro
from kimi_core.kiro.resent import ResentExchange
from tests.kiro.service_stand_ins import World, social
from tests.servers.kiro_validator import violations

HOST = "runtime.us-east-1.kiro.dev"
SENT = {
    "conversationState": {
        "conversationId": "conversation-1",
        "chatTriggerType": "MANUAL",
        "agentTaskType": "vibe",
        "history": [],
        "currentMessage": {
            "userInputMessage": {"content": "Hello.", "origin": "KIRO_CLI", "modelId": "claude-sonnet-4.5"}
        },
    },
    "profileArn": "arn:aws:codewhisperer:us-east-1:000000000000:profile/GONE",
    "additionalModelRequestFields": {"max_tokens": 5},
}


def head(label="Bearer [kiro a]", method="POST", path="/"):
    """Return the head of a request that shows *label*."""
    return RequestHead(method, "https", HOST, 443, path, Headers([("authorization", label)]))


@pytest.fixture
def kiro(tmp_path):
    """The provider, with one account."""
    return Kiro(World(tmp_path, social("a")).service)


async def opened(kiro):
    """Return an exchange for a request that is sent again."""
    exchange = await kiro.open(head(), kiro.route(head(), local=False))
    assert isinstance(exchange, ResentExchange)
    return exchange


@pytest.mark.parametrize("path", ["/", "/generateAssistantResponse"])
def test_our_own_label_is_known(kiro, path):
    """A request that shows our label in place of a token is ours, whatever identity it went out with."""
    route = kiro.route(head(path=path), local=False)
    assert (route.operation, route.host, route.path) == ("resent", HOST, path)


@pytest.mark.parametrize(
    "other", [head("Bearer fake-native"), head("[client's own]"), head(method="GET"), head("Bearer [kimi]")]
)
def test_other_logins_are_native(kiro, other):
    """Everything else on Kiro's own paths is a native client's."""
    assert kiro.route(other, local=False) is None


async def test_the_conversation_goes_out_as_it_stands(kiro):
    """Its turns, model and fields stay; account, place and token are those of now."""
    exchange = await opened(kiro)
    attempt = await exchange.prepare(json.dumps(SENT).encode())
    body = json.loads(attempt.body)
    assert body["conversationState"] == SENT["conversationState"]
    assert body["additionalModelRequestFields"] == {"max_tokens": 5}
    assert body["profileArn"] != SENT["profileArn"]
    assert attempt.secrets == {"authorization": "Bearer fake-access-a"}
    assert not violations(body)
    assert exchange.story.facts["model"] == "claude-sonnet-4.5"
    assert exchange.story.facts["sent"] == "again, as it stood"


async def test_what_is_translated_can_be_sent_again(kiro, tmp_path):
    """What the translation makes of a request is taken as it is."""
    chat = {"model": "claude-sonnet-4.5", "messages": [{"role": "user", "content": "Hello."}], "stream": True}
    route = kiro.route(head(path="/v1/chat/completions"), local=False)
    first = await kiro.open(head(path="/v1/chat/completions"), route)
    assert type(first) is KiroExchange
    sent = (await first.prepare(json.dumps(chat).encode())).body
    first.done()
    exchange = await opened(kiro)
    assert (await exchange.prepare(sent)).body == sent


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"conversationState": 1}',
        b'{"conversationState": {}}',
        b'{"conversationState": {"currentMessage": {"userInputMessage": []}}}',
    ],
)
async def test_what_is_not_in_kiros_form_is_refused(kiro, body):
    """A body that cannot be Kiro's gets a 400 of ours."""
    reply = await (await opened(kiro)).prepare(body)
    assert isinstance(reply, Reply)
    assert reply.status == 400


async def test_a_conversation_without_a_model(kiro):
    """Where the body names no model, the service chooses."""
    state = {"currentMessage": {"userInputMessage": {"content": "Hello."}}}
    exchange = await opened(kiro)
    attempt = await exchange.prepare(json.dumps({"conversationState": state}).encode())
    assert json.loads(attempt.body)["conversationState"] == state
    assert exchange.story.facts["model"] == "auto"
