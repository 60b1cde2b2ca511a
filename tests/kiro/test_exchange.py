import asyncio
import json

import pytest

from kimi_core.errors import AuthUnavailable, ConfigError, StoreError
from kimi_core.exchange import Answer, AnswerHead, Limits, Reply, Retry
from kimi_core.headers import Headers
from kimi_core.kiro.attempts import label
from kimi_core.kiro.auth_errors import AccountDead
from kimi_core.kiro.exchange import ACCOUNT, IGNORED, PING
from tests.kiro.kiro_frames import END, INITIAL, event, exception, text, thought, tool
from tests.kiro.pool_accounts import NOW, ms
from tests.kiro.service_stand_ins import (
    BROKEN,
    CAPACITY,
    EXPIRED,
    INVALID,
    PROFILE,
    QUOTA,
    RATE,
    STREAMED,
    SUSPENDED,
    UNKNOWN_MODEL,
    WHOLE,
    World,
    refused,
    social,
)

HEAD = AnswerHead(200, Headers([("content-type", "application/vnd.amazon.eventstream")]))


def _error(reply):
    assert isinstance(reply, Reply)
    return json.loads(reply.body)["error"]


async def _opened(folder, *accounts, body=STREAMED, **settings):
    world = World(folder, *accounts, **settings)
    exchange = world.exchange()
    attempt = await exchange.prepare(body.encode())
    return world, exchange, attempt


async def test_the_first_attempt(tmp_path):
    """A request is translated and goes to the active account, with a label where its token belongs."""
    _, exchange, attempt = await _opened(tmp_path, social("a"), social("b"))
    assert attempt is exchange.attempt
    assert (attempt.method, attempt.scheme, attempt.host, attempt.port, attempt.path) == (
        "POST",
        "https",
        "runtime.us-east-1.kiro.dev",
        443,
        "/",
    )
    assert attempt.headers.get("authorization") == "Bearer [kiro label_a]"
    assert attempt.headers.get("host") == "runtime.us-east-1.kiro.dev"
    assert attempt.secrets == {"authorization": "Bearer fake-access-a"}
    body = json.loads(attempt.body)
    assert body["conversationState"]["currentMessage"]["userInputMessage"]["content"]
    assert body["profileArn"].startswith("arn:aws:codewhisperer")
    assert b"fake-access" not in attempt.body
    assert exchange.story.facts["account"] == "label_a"
    assert exchange.limits == Limits(180, 300, 15)


@pytest.mark.parametrize(("identity", "path"), [("cli", "/"), ("ide", "/generateAssistantResponse")])
async def test_the_identity_of_the_settings(tmp_path, identity, path):
    """Path, fields and origin are those of the identity in use."""
    _, _, attempt = await _opened(tmp_path, social(), kiro_identity=identity, kiro_ide_version="9.9.9")
    assert attempt.path == path
    origin = json.loads(attempt.body)["conversationState"]["currentMessage"]["userInputMessage"]["origin"]
    assert origin == {"cli": "KIRO_CLI", "ide": "AI_EDITOR"}[identity]
    assert ("9.9.9" in attempt.headers.get("user-agent")) is (identity == "ide")


async def test_bad_requests_name_their_field(tmp_path):
    """What cannot be translated is a 400 that names the field, and no account is touched."""
    world, exchange, reply = await _opened(tmp_path, social(), body='{"model": "m", "messages": [{"role": "x"}]}')
    assert reply.status == 400
    assert _error(reply)["param"].startswith("messages[0]")
    assert world.service.in_flight == {}
    assert exchange.story.facts["reason"] == _error(reply)["code"]


async def test_without_accounts(tmp_path):
    """Without an account the client is told which command to run."""
    _, _, reply = await _opened(tmp_path)
    assert reply.status == 401
    assert "kimi-mitm login kiro" in _error(reply)["message"]


async def test_a_conversation_stays_on_its_account(tmp_path):
    """Requests of one conversation carry one id and go to the account that served it, whoever is active now."""
    world, first, attempt = await _opened(tmp_path, social("a"), social("b"))
    assert first.peek(HEAD, INITIAL + text("x"), ended=False) is True
    first.done()
    await world.service.settle()
    world.store(social("b"), social("a"))
    second = world.exchange()
    again = await second.prepare(STREAMED.encode())
    ids = [json.loads(a.body)["conversationState"]["conversationId"] for a in (attempt, again)]
    assert ids[0] == ids[1]
    assert again.label == "label_a"


async def _served(world, question):
    """Have a conversation served; return the label of its account."""
    exchange = world.exchange()
    attempt = await exchange.prepare(STREAMED.replace("hi", question).encode())
    exchange.peek(HEAD, INITIAL + text("x"), ended=False)
    exchange.done()
    await world.service.settle()
    return attempt.label


@pytest.mark.parametrize("strategy", ["sticky", "hybrid"])
async def test_the_account_that_the_user_has_chosen_stays_active(tmp_path, strategy):
    """A conversation that goes on where it was does not bring its account back; new ones go to the chosen one."""
    world = World(tmp_path, social("a"), social("b"), kiro_strategy=strategy)
    assert await _served(world, "first") == "label_a"
    world.service.registry.update(lambda stored: setattr(stored, "active_account_id", "b"))
    assert await _served(world, "first") == "label_a"
    assert world.service.registry.load().active_account_id == "b"
    assert await _served(world, "second") == "label_b"


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [RATE, QUOTA, SUSPENDED], ids=["rate", "quota", "suspended"])
async def test_what_is_the_accounts_fault_goes_to_the_next(tmp_path, answer):
    """A used-up, throttled or locked account is marked, and another one is asked."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    verdict = await exchange.judge(answer)
    assert isinstance(verdict, Retry)
    assert verdict.attempt.label == "label_b"
    assert verdict.attempt.secrets == {"authorization": "Bearer fake-access-b"}
    await world.service.settle()
    assert not world.stored("a").is_healthy
    assert world.service.in_flight == {"b": 1}


async def test_a_refused_token_is_renewed_once(tmp_path):
    """A refused token is renewed and the account tried once more; then another one is asked."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    again = await exchange.judge(EXPIRED)
    assert again.attempt.secrets == {"authorization": "Bearer fake-access-a-renewed"}
    other = await exchange.judge(EXPIRED)
    assert other.attempt.label == "label_b"
    assert world.tokens.renewed == [("a", "fake-access-a")]
    await world.service.settle()
    assert world.stored("a").last_error == "auth_failed"


async def test_a_renewal_that_fails_leads_on(tmp_path):
    """Where the refused token cannot be renewed another account is asked."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    world.tokens.errors["a"] = AccountDead("Turned down.")
    verdict = await exchange.judge(EXPIRED)
    assert verdict.attempt.label == "label_b"


async def test_an_account_whose_address_makes_no_sense_leads_on(tmp_path):
    """A region or an address that no token may be sent to is that account's trouble alone."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    world.tokens.errors["a"] = ConfigError("'nowhere' is no region.")
    assert (await exchange.judge(EXPIRED)).attempt.label == "label_b"
    await world.service.settle()
    assert world.stored("a").last_error == "auth_failed"


async def test_no_account_is_asked_twice_where_others_would_be_left_out(tmp_path):
    """The one attempt to spare is used once; after it each account gets its one attempt, unpunished if unhelped."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"), social("c"))
    assert exchange.max_attempts == 4
    labels = [(await exchange.judge(EXPIRED)).attempt.label for _ in range(3)]
    assert labels == ["label_a", "label_b", "label_c"]
    await world.service.settle()
    assert world.stored("b").is_healthy
    assert ("b", "fake-access-b") in world.tokens.renewed
    final = await exchange.judge(Answer(AnswerHead(403, EXPIRED.head.headers), EXPIRED.body, final=True))
    assert final.status == 429
    await world.service.settle()
    assert ("c", "fake-access-c") in world.tokens.renewed
    assert world.stored("c").is_healthy


async def test_an_account_left_for_want_of_attempts_is_asked_after_all(tmp_path):
    """Where the account that an attempt was kept for cannot be asked, the one that was passed over for it is."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"), social("c"))
    await exchange.judge(EXPIRED)  # the attempt to spare
    assert (await exchange.judge(RATE)).attempt.label == "label_b"
    world.tokens.errors["c"] = AccountDead("Turned down.")
    again = await exchange.judge(EXPIRED)
    assert again.attempt.label == "label_b"
    assert again.attempt.secrets == {"authorization": "Bearer fake-access-b-renewed"}
    final = Answer(EXPIRED.head, EXPIRED.body, final=True)
    assert (await exchange.judge(final)).status == 429
    await world.service.settle()
    assert world.stored("b").last_error == "auth_failed", "its new token was refused as well"
    assert world.service.in_flight == {}


@pytest.mark.parametrize("error", [AuthUnavailable("Down."), StoreError("The disk is full.")])
async def test_what_keeps_a_token_from_being_renewed_is_no_fault_of_its_account(tmp_path, error):
    """An account whose refused token cannot be renewed now is left, and bears nothing for it."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    world.tokens.errors["a"] = error
    assert (await exchange.judge(EXPIRED)).attempt.label == "label_b"
    await world.service.settle()
    assert world.stored("a").is_healthy


async def test_profile_and_place_are_healed_once(tmp_path):
    """A refusal that points to the place has the other place tried; the one that serves is remembered."""
    world, exchange, first = await _opened(tmp_path, social("a"))
    verdict = await exchange.judge(PROFILE)
    assert verdict.attempt.host == "q.us-east-1.amazonaws.com" != first.host
    assert exchange.peek(HEAD, text("x"), ended=False) is True
    await world.service.settle()
    assert world.stored("a").host_winner == "q"


async def test_passing_faults_are_waited_for(tmp_path):
    """A passing fault has the same account tried a little later; with one account that is all there is."""
    world, exchange, _ = await _opened(tmp_path, social("a"))
    verdict = await exchange.judge(BROKEN)
    assert verdict.attempt.label == "label_a"
    assert world.pauses == [1.0]
    reply = await exchange.judge(Answer(BROKEN.head, BROKEN.body, final=True))
    assert reply.status >= 500
    await world.service.settle()
    assert world.service.in_flight == {}


async def test_model_capacity_punishes_nobody(tmp_path):
    """A model without capacity is no account's fault."""
    world, exchange, _ = await _opened(tmp_path, social("a"))
    await exchange.judge(CAPACITY)
    reply = await exchange.judge(Answer(CAPACITY.head, CAPACITY.body, final=True))
    assert reply.status == 503
    await world.service.settle()
    assert world.stored("a").is_healthy


async def test_a_bad_request_is_final(tmp_path):
    """What every account would refuse is told at once and punishes nobody."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    reply = await exchange.judge(INVALID)
    assert reply.status == 400
    await world.service.settle()
    assert world.stored("a").is_healthy
    assert world.service.in_flight == {}


async def test_an_unknown_model_goes_only_where_it_is_listed(tmp_path):
    """A model that one account does not have is asked of those whose list has it, and of no other."""
    _, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    reply = await exchange.judge(UNKNOWN_MODEL)
    assert reply.status == 404


async def test_all_used_up(tmp_path):
    """When no account is left the client gets a 429 with the time and a reason per account."""
    _, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    await exchange.judge(RATE)
    await exchange._service.settle()
    reply = await exchange.judge(QUOTA)
    assert reply.status == 429
    assert int(reply.headers.get("retry-after")) > 0


async def test_the_deadline_ends_it(tmp_path):
    """After the deadline no further account is tried."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"), kiro_deadline=5)
    world.now += 5
    reply = await exchange.judge(BROKEN)
    assert isinstance(reply, Reply)


async def test_a_pause_beyond_the_deadline_is_not_made(tmp_path):
    """Where there is no time for a pause the next account is asked at once."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"), kiro_deadline=1)
    world.now += 0.5
    verdict = await exchange.judge(BROKEN)
    assert verdict.attempt.label == "label_b"
    assert world.pauses == []


async def test_each_account_is_asked_as_by_a_client_of_its_own(tmp_path):
    """Attempts on one account share an id and are counted to three; no two accounts are asked under one id."""
    world, exchange, attempt = await _opened(tmp_path, social("a"), *[social(x, enabled=False) for x in "xyz"])
    seen = [attempt, *[(await exchange.judge(answer)).attempt for answer in (EXPIRED, PROFILE, BROKEN)]]
    world.service.registry.update(lambda stored: stored.put(social("x")))
    seen.append((await exchange.judge(RATE)).attempt)
    assert [one.label for one in seen] == ["label_a"] * 4 + ["label_x"]
    counted = ["attempt=1; max=3", "attempt=2; max=3", "attempt=3; max=3", "attempt=1; max=3", "attempt=1; max=3"]
    assert [one.headers.get("amz-sdk-request") for one in seen] == counted
    ids = [one.headers.get("amz-sdk-invocation-id") for one in seen]
    assert len(set(ids[:3])) == 1
    assert len(set(ids[2:])) == 3


async def test_a_lost_connection_is_a_failed_attempt(tmp_path):
    """A transport error is judged like any other failure."""
    _, exchange, _ = await _opened(tmp_path, social("a"))
    verdict = await exchange.judge(Answer(None, error="connection refused"))
    assert isinstance(verdict, Retry)


@pytest.mark.parametrize("error", [AuthUnavailable("Down."), AccountDead("Turned down.")])
async def test_an_account_that_gets_no_token_is_passed_over(tmp_path, error):
    """An account whose token cannot be had is passed over without being marked by us."""
    world = World(tmp_path, social("a"), social("b"))
    world.tokens.errors["a"] = error
    attempt = await world.exchange().prepare(STREAMED.encode())
    assert attempt.label == "label_b"
    await world.service.settle()
    assert world.service.in_flight == {"b": 1}
    assert world.stored("a").is_healthy


async def test_a_damaged_document_is_told(tmp_path):
    """Accounts that cannot be read are an error that says so."""
    world = World(tmp_path, social("a"))
    world.service.registry.document.path.write_text("{oops")
    exchange = world.exchange()
    reply = await exchange.prepare(STREAMED.encode())
    assert _error(reply)["code"] == "store_damaged"
    assert exchange.max_attempts == 1


# --- answers --------------------------------------------------------------------------------------------------------


async def test_an_exception_under_a_200_is_a_failed_attempt(tmp_path):
    """A 200 whose first frames hold an exception is judged by that exception."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    assert not exchange.holds(HEAD)
    assert exchange.peek(HEAD, b"", ended=False) is None
    assert exchange.peek(HEAD, INITIAL, ended=False) is None
    assert (
        exchange.peek(HEAD, INITIAL + exception("ThrottlingException", message="Too many requests"), ended=False)
        is False
    )
    verdict = await exchange.judge(Answer(HEAD, b"whatever"))
    assert verdict.attempt.label == "label_b"
    await world.service.settle()
    assert world.stored("a").cooldown_until > ms(0)


async def test_a_streamed_answer(tmp_path):
    """A good answer streams as chunks, with the account and what was ignored in its head; the account is credited."""
    body = STREAMED.replace('"stream"', '"temperature": 0.5, "stream"')
    world, exchange, _ = await _opened(tmp_path, social("a", usage={"used": 1, "limit": 50}), body=body)
    assert exchange.peek(HEAD, INITIAL + text("Hel"), ended=False) is True
    assert exchange.peek(HEAD, INITIAL + text("Hel"), ended=False) is True
    head, converter = exchange.converter(HEAD)
    assert head.headers.get("content-type").startswith("text/event-stream")
    assert head.headers.get(ACCOUNT) == "label_a"
    assert "temperature" in head.headers.get(IGNORED)
    out = converter.feed(INITIAL + text("Hel") + text("lo") + END) + converter.finish()
    assert b'"content":"Hel"' in out
    assert out.endswith(b"data: [DONE]\n\n")
    exchange.done()
    exchange.done()
    await world.service.settle()
    stored = world.stored("a")
    assert (stored.request_count, stored.host_winner) == (1, "runtime")
    assert stored.usage.used == pytest.approx(1.073)
    assert world.service.in_flight == {}
    assert exchange.ping() == PING


async def test_a_whole_answer(tmp_path):
    """A client that does not stream gets one JSON object."""
    _, exchange, _ = await _opened(tmp_path, social(), body=WHOLE)
    assert exchange.collects(HEAD)
    reply = exchange.collected(HEAD, INITIAL + text("Hello") + END)
    assert reply.status == 200
    assert reply.headers.get(ACCOUNT) == "label_a"
    answer = json.loads(reply.body)
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["model"] == "claude-sonnet-4.5"


@pytest.mark.parametrize(
    "body",
    [
        INITIAL + text("Hello"),
        INITIAL + text("Hello") + exception("InternalServerException", message="x"),
        (INITIAL + text("Hello") + END)[:-3],
        b"",
    ],
    ids=["no end", "exception", "cut", "empty"],
)
async def test_a_flaw_in_a_whole_answer_leads_to_the_next_attempt(tmp_path, body):
    """A client that does not stream has seen nothing yet, so that a flawed answer is a failed attempt."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"), body=WHOLE)
    assert exchange.peek_limit > 1024 * 1024
    assert exchange.peek(HEAD, body[:5], ended=False) is None
    assert exchange.peek(HEAD, body, ended=True) is False
    assert isinstance(await exchange.judge(Answer(HEAD, b"")), Retry)
    assert "error" not in exchange.story.facts
    good = INITIAL + text("Hello") + END
    assert exchange.peek(HEAD, good, ended=True) is True
    assert json.loads(exchange.collected(HEAD, good).body)["choices"][0]["message"]["content"] == "Hello"
    await world.service.settle()
    assert sum(world.stored(name).request_count for name in "ab") == 1


@pytest.mark.parametrize("body", [b"", INITIAL])
async def test_a_streamed_answer_that_never_begins_is_a_failed_attempt(tmp_path, body):
    """An answer that ends before it has shown anything has failed."""
    _, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    assert exchange.peek_limit == 64 * 1024
    assert exchange.peek(HEAD, body, ended=True) is False
    assert isinstance(await exchange.judge(Answer(HEAD, b"")), Retry)


async def test_a_whole_answer_that_was_cut_is_an_error(tmp_path):
    """Half an answer is not passed off as a whole one."""
    _, exchange, _ = await _opened(tmp_path, social(), body=WHOLE)
    assert exchange.collected(HEAD, INITIAL + text("Hello")).status >= 500


async def test_thoughts_are_given_back_with_their_turn(tmp_path):
    """What a model thought before its calls goes back with the turn, although the client does not send it."""
    world, exchange, _ = await _opened(tmp_path, social())
    exchange.peek(HEAD, INITIAL + text("x"), ended=False)
    _, converter = exchange.converter(HEAD)
    frames = [
        INITIAL,
        thought(text="Let me see."),
        thought(signature="fake-signature"),
        tool("tooluse_1", "ls"),
        tool("tooluse_1", "ls", stop=True),
        END,
    ]
    converter.feed(b"".join(frames))
    converter.finish()
    exchange.done()
    call = {"id": "tooluse_1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "tooluse_1", "content": "a.txt"},
    ]
    body = json.dumps({"model": "claude-sonnet-4.5", "stream": True, "messages": messages}).encode()
    attempt = await world.exchange().prepare(body)
    assert b"fake-signature" in attempt.body


async def test_silence_is_said_so(tmp_path):
    """An answer that stays silent ends with an error that says for how long."""
    _, exchange, _ = await _opened(tmp_path, social())
    assert "300 s" in str(exchange.silence(300))


async def test_a_busy_account_is_waited_for(tmp_path):
    """With a limit of requests per account, one more waits until another is done."""
    world, first, _ = await _opened(tmp_path, social(), kiro_concurrency=1)
    second = asyncio.create_task(world.exchange().prepare(STREAMED.encode()))
    for _ in range(5):  # until it waits
        await asyncio.sleep(0)
    assert not second.done()
    first.done()
    assert (await second).label == "label_a"


def test_labels_fit_into_a_header():
    """Any label becomes visible ASCII; one of which nothing is left gives way to the id."""
    assert label(social("a", label="me@x.test é")) == "me@x.test_"
    assert label(social("a").model_copy(update={"label": ""})) == "a"


async def test_half_a_character_breaks_nothing(tmp_path):
    """A request with half a character in it is served."""
    world = World(tmp_path, social())
    body = b'{"model": "auto", "messages": [{"role": "user", "content": "x \\ud83d"}]}'
    assert (await world.exchange().prepare(body)).label == "label_a"


async def test_an_unknown_refusal_is_told_in_its_own_words(tmp_path):
    """What nobody knows is passed on as the service said it."""
    _, exchange, _ = await _opened(tmp_path, social())
    reply = await exchange.judge(refused(418, "I am a teapot"))
    assert "teapot" in _error(reply)["message"]


async def test_other_events_tell_nothing_of_health(tmp_path):
    """Frames that show nothing do not count as a beginning."""
    world, exchange, _ = await _opened(tmp_path, social())
    assert exchange.peek(HEAD, INITIAL + event("messageMetadataEvent", conversationId="x"), ended=False) is None
    await world.service.settle()
    assert world.stored("a").request_count == 0
    assert world.stored("a").last_used == int(NOW * 1000)


async def test_a_renewal_that_takes_too_long_ends_the_search(tmp_path):
    """After the deadline nothing is sent any more, and the account whose token is good again bears nothing."""
    world, exchange, _ = await _opened(tmp_path, social("a"), social("b"))
    renew = world.tokens.renew

    async def slow(account_id, rejected):
        world.now += 400
        return await renew(account_id, rejected)

    world.tokens.renew = slow
    assert isinstance(await exchange.judge(EXPIRED), Reply)
    await world.service.settle()
    assert world.stored("a").is_healthy


async def test_a_token_that_the_service_repeats_is_not_passed_on(tmp_path):
    """What Kiro says goes to the client, but for the credential that it was asked with."""
    world, exchange, _ = await _opened(tmp_path, social("a"))
    token = world.stored("a").access_token
    body = json.dumps({"__type": "x#ValidationException", "message": f"token {token} is odd"}).encode()
    reply = await exchange.judge(Answer(AnswerHead(400, Headers()), body))
    assert b"is odd" in reply.body
    assert token.encode() not in reply.body
