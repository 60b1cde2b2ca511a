"""Several Kiro accounts behind one endpoint: who serves, who is passed over, and what is kept of it."""

import asyncio
import json
import time
from collections import Counter

import httpx
import pytest

from tests.e2e.harness import FOREIGN, wait_until
from tests.e2e.kiro_harness import said
from tests.kiro.kiro_frames import INITIAL, text
from tests.servers.kiro import BUILDER_ARN, Login, host_of, user_of
from tests.servers.kiro_answers import NASTY, REFUSALS, stream
from tests.servers.script import Break, Gate, Script

MODEL = "claude-sonnet-4.5"
IDC_ARN = "arn:aws:codewhisperer:us-east-1:123456789012:profile/FAKEPROFILE1"


@pytest.fixture
def three(kiro):
    """Give the proxy three accounts that nothing has happened to yet; the first is the active one."""
    return kiro.accounts(3)


@pytest.fixture
def ask(kiro):
    """Return a function that asks once and returns the answer, read."""
    with kiro.local_client() as client:

        def post(content="[[say served]]", *, conversation=None, expect=200, **more):
            body = {"model": MODEL, "messages": [{"role": "user", "content": content}]} | more
            headers = {"x-session-id": conversation} if conversation else {}
            answer = client.post("chat/completions", json=body, headers=headers | {"connection": "close"})
            assert answer.status_code == expect, answer.text
            return answer

        yield post


def askers(kiro_world, kiro):
    """Return the labels of the accounts that asked for an answer, in order."""
    return [kiro.who(seen) for seen in kiro_world.kiro.of("generate")]


def in_parallel(kiro, bodies, at_once):
    """Post all bodies, so many at once; return status and text of each, in order. A lost connection is status 0."""

    async def run():
        gate = asyncio.Semaphore(at_once)
        async with httpx.AsyncClient(base_url=kiro.local, trust_env=False, timeout=60) as client:

            async def one(body):
                async with gate:
                    try:
                        answer = await client.post("chat/completions", json=body, headers={"connection": "close"})
                    except httpx.TransportError as error:
                        return 0, repr(error)
                    return answer.status_code, answer.text

            return await asyncio.gather(*map(one, bodies))

    return asyncio.run(run())


# --- before the first byte -------------------------------------------------------------------------------------------

PASSED_OVER = {  # what the first account answers -> what is stored of it
    "rate": (REFUSALS["rate"].script(retry_after="20"), {"last_error": "USER_REQUEST_RATE_EXCEEDED"}),
    "rate_plain": (REFUSALS["rate_plain"].script(), {"last_error": "rate_limited"}),
    "quota": (REFUSALS["quota"].script(), {"quota_state": "exhausted", "last_error": "MONTHLY_REQUEST_COUNT"}),
    "quota_as_400": (REFUSALS["quota_as_400"].script(), {"quota_state": "exhausted"}),
    "quota_daily": (REFUSALS["quota_daily"].script(), {"quota_state": "exhausted"}),
    "suspended": (REFUSALS["suspended"].script(), {"state": "suspended"}),
    "exception first": (NASTY["exception-first"], {"last_error": "USER_REQUEST_RATE_EXCEEDED"}),
    "JSON under a 200": (NASTY["json-200"], {"last_error": "rate_limited"}),
}


@pytest.mark.parametrize(
    ("name", "streamed"), [*((name, True) for name in PASSED_OVER), ("rate", False), ("exception first", False)]
)
def test_the_next_account_answers(kiro_world, kiro, three, ask, name, streamed):
    """The client sees one good answer; the account at fault bears it, the others bear nothing."""
    script, marks = PASSED_OVER[name]
    kiro_world.kiro.queue(script)
    answer = ask(stream=streamed)
    first, second = askers(kiro_world, kiro)
    assert first == three[0].label != second
    assert answer.headers["x-kimi-mitm-account"] == second
    assert said(answer) == "served"
    assert not kiro.settled(three[0], **marks).is_healthy
    others = [kiro.stored(account) for account in three[1:]]
    assert all(account.is_healthy and not account.consecutive_failures for account in others)
    wait_until(lambda: kiro.stored().active_account_id != three[0].id, "the account that served as the active one")


def test_each_attempt_is_a_flow_of_its_own(kiro_world, kiro, three, ask):
    """The file of flows has every attempt with its own answer, its account, and why the next was made."""
    since = kiro.flow_bytes()
    kiro_world.kiro.queue(REFUSALS["rate"].script(), NASTY["exception-first"])
    ask()
    flows = wait_until(lambda: (found := kiro.flows(since))[2:] and found, "three flows")
    assert len(flows) == 3
    flows.sort(key=lambda flow: flow.request.headers["amz-sdk-request"])
    assert [flow.response.status_code for flow in flows] == [429, 200, 200]
    assert b"USER_REQUEST_RATE_EXCEEDED" in flows[0].response.content
    assert b"ThrottlingException" in flows[1].response.content
    assert [flow.request.headers["authorization"] for flow in flows] == [
        f"Bearer [kiro {label}]" for label in askers(kiro_world, kiro)
    ]
    assert three[0].label in flows[0].comment
    assert "USER_REQUEST_RATE_EXCEEDED" in flows[0].comment
    assert "3 attempts" in flows[2].comment or "attempts: 3" in flows[2].comment, flows[2].comment


def test_flows_are_open_to_inspection(kiro, three, ask):
    """What was asked, what went to Kiro and what came back can be read in the flow, but for the credential."""
    since = kiro.flow_bytes()
    ask(stream=True)
    (flow,) = wait_until(lambda: kiro.flows(since), "the flow")
    state = json.loads(flow.request.content)["conversationState"]
    assert state["currentMessage"]["userInputMessage"]["content"] == "[[say served]]"
    assert flow.request.headers["authorization"] == f"Bearer [kiro {three[0].label}]"
    assert b"chat.completion.chunk" in flow.response.content
    assert MODEL in flow.comment


def test_a_lost_connection_is_tried_again(kiro_world, kiro, three, ask):
    """A service that resets the connection before its answer is asked again, without blame for the account at first."""
    kiro_world.kiro.queue(Script(before=[Break.RESET]))
    ask()
    assert len(kiro_world.kiro.of("generate")) == 2
    assert kiro.settled(three[0], request_count=1).is_healthy


@pytest.mark.parametrize("name", ["too_long", "malformed", "image", "feature"])
def test_a_fault_of_the_request_is_tried_nowhere_else(kiro_world, kiro, three, ask, name):
    """One attempt, the client is told, and no account is punished."""
    answer = ask(f"[[error {name}]]", expect=403 if name == "feature" else 400)
    assert answer.json()["error"]["code"]
    assert len(kiro_world.kiro.of("generate")) == 1
    ask()
    kiro.settled(three[0], request_count=1)  # notes are written in their order
    assert all(account.is_healthy and not account.last_error for account in kiro.stored().accounts)


def test_capacity_of_the_model_punishes_nobody(kiro_world, kiro, three, ask):
    """The same account is asked again a little later, then another; nobody bears it."""
    kiro_world.kiro.queue(REFUSALS["capacity"].script())
    ask()
    assert askers(kiro_world, kiro) == [three[0].label] * 2
    kiro.settled(three[0], request_count=1)
    assert all(account.is_healthy and not account.last_error for account in kiro.stored().accounts)


def test_a_model_that_an_account_lacks_is_served_by_one_that_lists_it(kiro_world, kiro, ask):
    """INVALID_MODEL_ID leads to an account whose own list has the model."""
    first, second = kiro.accounts(2)
    kiro_world.logins[first.user_id].models = ("auto",)
    for account in (first, second):  # both lists become known
        kiro.registry.update(lambda stored, chosen=account: setattr(stored, "active_account_id", chosen.id))
        ask(model="auto", conversation=f"c-{account.id}")
    kiro_world.kiro.wait_for_request("models", 2)
    kiro.registry.update(lambda stored: setattr(stored, "active_account_id", first.id))
    answer = ask(conversation="another")
    assert answer.headers["x-kimi-mitm-account"] == second.label
    assert kiro.stored(first).is_healthy


# --- the login of an account -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["desktop", "builder"])
@pytest.mark.parametrize("name", ["token_401", "token", "token_expired"])
def test_a_refused_token_is_renewed_once(kiro_world, kiro, ask, kind, name):
    """The same account answers with its next token; the token that was good until now is rotated and stored."""
    (account,) = kiro.accounts(1, kind=kind)
    kiro_world.kiro.queue(REFUSALS[name].script())
    before = kiro_world.aws.refreshes
    answer = ask()
    assert answer.headers["x-kimi-mitm-account"] == account.label
    assert kiro_world.aws.refreshes == before + 1
    stored = kiro.stored(account)
    assert stored.refresh_token != account.refresh_token
    assert kiro_world.aws.alive(stored.refresh_token)
    assert kiro.settled(account, request_count=1).is_healthy


def test_a_token_that_stays_refused_leads_to_the_next_account(kiro_world, kiro, three, ask):
    """One refresh, one more attempt, then another account."""
    kiro_world.kiro.queue(*[REFUSALS["token"].script()] * 2)
    before = kiro_world.aws.refreshes
    ask()
    labels = askers(kiro_world, kiro)
    assert labels[0] == labels[1] == three[0].label != labels[2]
    assert kiro_world.aws.refreshes == before + 1
    assert kiro.settled(three[0], is_healthy=False).last_error == "auth_failed"


def test_an_account_whose_login_has_ended_is_passed_over(kiro_world, kiro, three, ask):
    """A refresh token that is turned down makes the account one that needs a new login; the request is served."""
    family = next(f for f in kiro_world.aws.families if f.user == three[0].user_id)
    family.revoked = True
    answer = ask()
    assert answer.headers["x-kimi-mitm-account"] != three[0].label
    assert kiro.settled(three[0], state="needs_login").access_token
    kiro_world.kiro.reset()
    ask(conversation="another")
    assert three[0].label not in askers(kiro_world, kiro), "it is not tried again"


def test_many_refused_at_once_cause_one_refresh(kiro_world, kiro, ask):
    """Twenty requests that meet an ended token are all served, by one refresh."""
    (account,) = kiro.accounts(1)
    next(f for f in kiro_world.aws.families if f.user == account.user_id).access.clear()
    before = kiro_world.aws.refreshes
    body = {"model": MODEL, "messages": [{"role": "user", "content": "[[say served]]"}]}
    answers = in_parallel(kiro, [body] * 20, 20)
    assert {status for status, _ in answers} == {200}
    assert kiro_world.aws.refreshes == before + 1
    assert kiro_world.aws.reuses == 0


# --- profile and place -----------------------------------------------------------------------------------------------


def test_the_place_that_serves_is_found_and_remembered(kiro_world, kiro, ask):
    """A Builder ID that the current host turns down is served by the older one, and goes there at once from then on."""
    (account,) = kiro.accounts(1, kind="builder")
    kiro_world.kiro.queue(REFUSALS["profile_required"].script())
    ask()
    first, second = kiro_world.kiro.of("generate")
    assert (host_of(first), first.json.get("profileArn")) == ("runtime", BUILDER_ARN)
    assert (host_of(second), second.json.get("profileArn")) == ("q", None)
    assert kiro.settled(account, host_winner="q").is_healthy
    ask(conversation="another")
    assert host_of(kiro_world.kiro.of("generate")[2]) == "q"


def test_the_profile_of_an_organisation_is_looked_for_and_stored(kiro_world, kiro, ask):
    """An account of IAM Identity Center without a profile gets its own before its first request."""
    (account,) = kiro.accounts(1, kind="idc", login=Login("idc", profiles=(IDC_ARN,), user="d-fake-idc"))
    ask()
    assert [seen.json.get("profileArn") for seen in kiro_world.kiro.of("generate")] == [IDC_ARN]
    assert kiro.stored(account).profile_arn == IDC_ARN
    kiro_world.kiro.reset()
    ask()
    assert not kiro_world.kiro.of("profiles")


def test_an_api_key_serves(kiro_world, kiro, ask):
    """A key goes out as one, names no profile, and is never refreshed."""
    kiro.accounts(0)
    kiro.add_key("ksk_fake_1234567890")
    ask()
    (seen,) = kiro_world.kiro.of("generate")
    assert seen.bearer == "ksk_fake_1234567890"
    assert "profileArn" not in seen.json


# --- who serves ------------------------------------------------------------------------------------------------------


@pytest.fixture
def strategy(kiro):
    """Return a function that sets the strategy in the document."""
    yield lambda word: kiro.registry.update(lambda stored: setattr(stored, "strategy", word))
    kiro.registry.update(lambda stored: setattr(stored, "strategy", "hybrid"))


def test_conversations_stay_where_they_are(kiro_world, kiro, three, ask, strategy):
    """Round-robin spreads conversations over the accounts, and each keeps its own."""
    strategy("round-robin")
    served = Counter()
    for turn in range(3):
        for name in "abc":
            label = ask(conversation=name).headers["x-kimi-mitm-account"]
            served[name, label] += 1
            who = next(account for account in three if account.label == label)
            kiro.settled(who, request_count=turn + 1)
    assert len(served) == 3, served
    assert {label for _, label in served} == {account.label for account in three}


def test_a_conversation_moves_when_its_account_fails_and_stays_there(kiro_world, kiro, three, ask):
    """After a failover the conversation is on the account that served it."""
    kiro_world.kiro.queue(REFUSALS["rate"].script())
    moved = ask(conversation="moving").headers["x-kimi-mitm-account"]
    assert moved != three[0].label
    kiro.alter(three[0], is_healthy=True, cooldown_until=None, consecutive_failures=0, last_error=None)
    kiro.registry.update(lambda stored: setattr(stored, "active_account_id", three[0].id))
    assert ask(conversation="moving").headers["x-kimi-mitm-account"] == moved


def test_an_account_that_cools_down_is_probed_by_one_request(kiro_world, kiro, ask):
    """Once its time is over one request tries it, and a good answer makes it healthy."""
    (account,) = kiro.accounts(1)
    kiro.alter(account, is_healthy=False, consecutive_failures=3, cooldown_until=int(time.time() * 1000) - 1)
    ask()
    stored = kiro.settled(account, is_healthy=True)
    assert (stored.consecutive_failures, stored.cooldown_until, stored.last_error) == (0, None, None)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_when_all_are_used_up_the_client_is_told_when_to_come_back(kiro_world, kiro, three, ask, streamed):
    """429, Retry-After, and for each account what stands against it; a second request costs no attempt."""
    kiro_world.kiro.queue(
        REFUSALS["rate"].script(retry_after="25"), REFUSALS["quota"].script(), REFUSALS["suspended"].script()
    )
    answer = ask(expect=429, stream=streamed)
    assert 20 <= int(answer.headers["retry-after"]) <= 25
    error = answer.json()["error"]
    assert error["code"] == "kiro_accounts_unavailable"
    for account, word in zip(askers(kiro_world, kiro), ("cooling", "credits used up", "suspended"), strict=True):
        assert f"{account}: {word}" in error["message"]
    assert len(kiro_world.kiro.of("generate")) == 3
    again = ask(expect=429, conversation="another")
    assert 15 <= int(again.headers["retry-after"]) <= 25
    assert len(kiro_world.kiro.of("generate")) == 3


def test_faults_survive_a_restart(kiro_world, kiro, start_kiro, ask):
    """Another process knows at once which account is cooling."""
    first, second = kiro.accounts(2)
    kiro_world.kiro.queue(REFUSALS["rate"].script())
    ask()
    kiro.settled(first, is_healthy=False)
    other = start_kiro(data=kiro.data)
    with other.local_client() as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
        answer = client.post("chat/completions", json=body)
    assert answer.headers["x-kimi-mitm-account"] == second.label


# --- one at a time ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(start_kiro):
    """Return a proxy that gives an account one request at a time."""
    made = start_kiro(options=["kiro_concurrency=1", "kiro_deadline=20"])
    made.add()
    return made


def test_a_client_that_leaves_frees_its_account(kiro_world, narrow):
    """Kiro's answer is cancelled, and the next request is served though an account takes one at a time."""
    narrow.accounts(1)
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    for round_ in range(3):
        kiro_world.kiro.queue(stream(INITIAL, text("half"), Gate()))
        with narrow.client() as client, client.stream("POST", "chat/completions", json=body) as answer:
            next(answer.iter_lines())
        kiro_world.kiro.wait_for_disconnect(kiro_world.kiro.of("generate")[2 * round_])
        with narrow.local_client() as client:
            begun = time.monotonic()
            assert client.post("chat/completions", json=body).status_code == 200
            assert time.monotonic() - begun < 5


def test_a_client_that_leaves_before_the_answer_frees_its_account(kiro_world, narrow):
    """The same before the head of the answer has come."""
    narrow.accounts(1)
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    kiro_world.kiro.queue(Script(before=[Gate()]))
    with narrow.local_client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("chat/completions", json=body, timeout=0.5)
    kiro_world.kiro.wait_for_disconnect(kiro_world.kiro.of("generate")[0])
    with narrow.local_client() as client:
        assert client.post("chat/completions", json=body).status_code == 200


def test_who_comes_while_all_are_busy_waits_for_a_place(kiro_world, narrow):
    """Two accounts, six requests at once, one at a time each: all are served, and never two of one account at once."""
    narrow.accounts(2)
    bodies = [{"model": MODEL, "messages": [{"role": "user", "content": f"[[say n{number}]]"}]} for number in range(6)]
    assert [status for status, _ in in_parallel(narrow, bodies, 6)] == [200] * 6


# --- hosts of others --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(start_kiro):
    """Return a proxy that takes over requests to another host which name a model of Kiro's."""
    made = start_kiro(options=[f"openai_hosts={FOREIGN}"])
    made.add()
    return made


def test_a_model_of_kiros_is_taken_over_on_another_host(kiro_world, elsewhere):
    """A request for kiro/… on an OpenAI-style host is served by Kiro, and the host's own key goes nowhere."""
    with elsewhere.client() as client:
        answer = client.post(
            f"https://{FOREIGN}/v1/chat/completions",
            json={"model": f"kiro/{MODEL}", "messages": [{"role": "user", "content": "[[say served]]"}]},
            headers={"authorization": "Bearer own-key"},
        )
    assert said(answer) == "served"
    (seen,) = kiro_world.kiro.of("generate")
    assert user_of(seen)["modelId"] == MODEL
    assert not kiro_world.foreign.requests


def test_all_else_on_another_host_passes_untouched(kiro_world, elsewhere):
    """Other models reach their own host with the client's key and every byte of the body."""
    body = b'{ "model": "gpt-x",  "messages": [] }'
    headers = {"authorization": "Bearer own-key", "content-type": "application/json"}
    with elsewhere.client() as client:
        client.post(f"https://{FOREIGN}/v1/chat/completions", content=body, headers=headers)
    (seen,) = kiro_world.foreign.requests
    assert (seen.body, seen.header("authorization")) == (body, "Bearer own-key")
    assert not kiro_world.kiro.of("generate")


# --- native traffic --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["runtime.us-east-1.kiro.dev", "q.us-east-1.amazonaws.com"])
def test_native_traffic_passes_as_it_is(kiro_world, kiro, host):
    """What kiro-cli itself sends to these hosts goes out with its own token and body, and comes back byte for byte."""
    kiro.accounts(1)
    own = kiro_world.aws.login("desktop")["accessToken"]
    target = "AmazonCodeWhispererStreamingService.GenerateAssistantResponse"
    headers = {
        "content-type": "application/x-amz-json-1.0",
        "x-amz-target": target,
        "user-agent": "aws-sdk-rust/9.9 native",
        "x-amz-user-agent": "aws-sdk-rust/9.9 native",
        "amz-sdk-invocation-id": "00000000-0000-4000-8000-000000000000",
        "authorization": f"Bearer {own}",
    }
    with kiro.local_client() as client:
        client.post("chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": "pattern"}]})
    pattern = kiro_world.kiro.of("generate")[0].body
    with kiro.client() as client:
        answer = client.post(f"https://{host}/", content=pattern, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/vnd.amazon.eventstream"
    seen = kiro_world.kiro.of("generate")[1]
    assert (seen.bearer, seen.body) == (own, pattern)
    assert seen.header("user-agent") == "aws-sdk-rust/9.9 native"
    assert answer.content.startswith(b"\x00\x00\x00")
    assert "x-kimi-mitm-account" not in answer.headers
    assert user_of(seen)["content"] == "pattern"
    wait_until(lambda: len(kiro.flows()) > 1, "its flow")
    assert own.encode() not in kiro.flow_file.read_bytes()
