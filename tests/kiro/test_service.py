import asyncio
import logging

import pytest

from kimi_core.errors import AuthUnavailable, StoreError, UpstreamError
from kimi_core.kiro import health, models, profiles, usage
from kimi_core.kiro.accounts import Account
from kimi_core.kiro.catalog import FALLBACK, Catalog, ModelInfo
from kimi_core.kiro.events import Failure
from kimi_core.kiro.health import Event
from kimi_core.kiro.records import UsageRecord
from kimi_core.kiro.refusals import Faulty, Suspended
from kimi_core.kiro.service import Service
from tests.kiro.pool_accounts import NOW, finding, ms
from tests.kiro.service_stand_ins import World, social

COMPANY = Account(
    id="c", label="company", auth_method="idc", start_url="https://company.test/start", access_token="fake-c"
)
ARN = "arn:aws:codewhisperer:eu-central-1:123456789012:profile/FAKE"


@pytest.fixture
def world(tmp_path):
    """A service with two accounts whose background questions are the real ones."""
    made = World(tmp_path, social("a"), social("b"))
    for name in ("want_models", "want_usage"):
        setattr(made.service, name, getattr(Service, name).__get__(made.service))
    return made


async def test_outcomes_of_one_account_are_stored_in_their_order(world):
    """What happens to an account is stored beside the requests, in the order in which it happened."""
    for _ in range(3):
        world.service.note("a", Event.served)
    world.service.note("a", finding("rate_limited"))
    world.service.note("gone", Event.served)
    await world.service.settle()
    stored = world.stored("a")
    assert stored.request_count == 3
    assert stored.cooldown_until == ms(30)


async def test_the_chosen_strategy(world):
    """The option decides how an account is chosen, else what the document says."""
    world.store(social("a", last_used=5), social("b", last_used=1))
    wanted = {"conversation": "x", "model": "auto", "tried": frozenset()}
    assert world.service.pick(**wanted).id == "a"
    world.service.registry.update(lambda stored: setattr(stored, "strategy", "round-robin"))
    assert world.service.pick(**wanted).id == "b"
    world.service.settings = world.service.settings.model_copy(update={"kiro_strategy": "sticky"})
    assert world.service.pick(**wanted).id == "a"


async def test_a_model_is_asked_of_who_lists_it(world, monkeypatch):
    """An account whose list has the model goes before one whose list has not."""
    lists = {"a": Catalog((ModelInfo("x"),), fetched_at=NOW), "b": Catalog((ModelInfo("y"),), fetched_at=NOW)}
    monkeypatch.setattr(world.service.catalogs, "known", lists.get)
    assert world.service.pick(conversation="", model="y", tried=frozenset()).id == "b"
    assert world.service.pick(conversation="", model="z", tried=frozenset(), listed_only=True) is None


async def test_waiting_ends_with_the_deadline(world):
    """Where every account stays busy the wait ends, and there is none."""
    world.service.settings = world.service.settings.model_copy(update={"kiro_concurrency": 1})
    world.service.begin("a")
    world.service.begin("b")
    more = {"conversation": "", "model": "auto", "tried": frozenset()}
    assert await world.service.wait_for_one(**more, deadline=NOW) is None
    waiting = asyncio.create_task(world.service.wait_for_one(**more, deadline=NOW + 0.01))
    for _ in range(3):
        await asyncio.sleep(0)
    world.now += 1
    assert await waiting is None


async def test_what_is_not_busy_is_not_waited_for(world):
    """Accounts that only time or the user brings back are not waited for."""
    world.store(social("a", enabled=False), social("b", cooldown_until=ms(60)))
    found = await world.service.wait_for_one(conversation="", model="auto", tried=frozenset(), deadline=NOW + 99)
    assert found is None


async def test_release_lets_the_count_go(world):
    """A request that is done is no longer counted."""
    world.service.begin("a")
    assert world.service.in_flight == {"a": 1}
    world.service.release("a")
    assert world.service.in_flight == {}


@pytest.mark.parametrize("found", [(profiles.Profile(ARN, "one"),), ()])
async def test_a_company_profile_is_found_once(world, monkeypatch, found):
    """An account of a company gets its profile before its first request; nothing else of it changes in the store."""
    world.store(COMPANY)

    async def discover(_caller, _account):
        world.service.registry.update(
            lambda stored: stored.put(stored.get("c").model_copy(update={"access_token": "fake-newer"}))
        )
        return found

    monkeypatch.setattr(profiles, "discover", discover)
    account = await world.service.ready("c")
    assert account.profile_arn == (ARN if found else None)
    assert world.stored("c").profile_arn == account.profile_arn
    assert world.stored("c").access_token == "fake-newer"
    assert (await world.service.ready("c")).profile_arn == account.profile_arn


@pytest.mark.parametrize(
    ("error", "state", "last_error"),
    [
        (UpstreamError("No answer."), "ok", "transient"),
        (Faulty("An answer of no use."), "ok", "transient"),
        (Suspended("Locked.", Failure("AccessDeniedException", reason="TEMPORARILY_SUSPENDED")), "suspended", None),
        (AuthUnavailable("No network."), "ok", ""),
    ],
)
async def test_a_profile_that_cannot_be_found_is_not_looked_for_at_every_request(
    world, monkeypatch, error, state, last_error
):
    """The account waits like one that fails, or is locked where the service says so; this machine's trouble is none."""
    world.store(COMPANY)

    async def discover(_caller, _account):
        raise error

    monkeypatch.setattr(profiles, "discover", discover)
    with pytest.raises(type(error)):
        await world.service.ready("c")
    await world.service.settle()
    now = world.stored("c")
    assert now.state == state
    assert bool(health.cooling(now, world.now)) is (last_error == "transient")
    if last_error is not None:
        assert (now.last_error or "") == last_error


async def test_a_profile_of_an_account_that_is_gone_is_not_stored(world, monkeypatch):
    """An account that was removed meanwhile does not come back."""
    world.store(COMPANY)

    async def discover(_caller, _account):
        world.store()
        return (profiles.Profile(ARN, "one"),)

    monkeypatch.setattr(profiles, "discover", discover)
    await world.service.ready("c")
    assert world.stored("c") is None


async def test_models_are_asked_for_when_they_are_due(world, monkeypatch):
    """The list of an account is fetched beside the requests, once; the union of all lists is the catalog."""
    asked = []

    async def fetch(_caller, account_id, now):
        asked.append(account_id)
        return Catalog((ModelInfo(f"model-of-{account_id}"),), fetched_at=now)

    monkeypatch.setattr(models, "fetch", fetch)
    assert world.service.catalog() is FALLBACK
    for account_id in "aab":
        world.service.want_models(account_id)
    await world.service.settle()
    assert asked == ["a", "b"]
    assert [model.id for model in world.service.catalog().models] == ["model-of-a", "model-of-b"]
    await world.service.settled_models("a", 1.0)
    assert asked == ["a", "b"]


async def test_usage_is_asked_for_when_it_is_old(world, monkeypatch):
    """Usage that is older than its life is fetched and stored; fresh usage is not asked for."""
    asked = []

    async def fetch(_caller, account_id, now_ms):
        asked.append(account_id)
        return usage.Usage((usage.Pot("plan", 10, 50),), "PRO", None, now_ms)

    monkeypatch.setattr(usage, "fetch", fetch)
    world.service.want_usage(world.stored("a"))
    await world.service.settle()
    assert world.stored("a").usage.used == 10
    world.now += usage.LIFE - 1
    world.service.want_usage(world.stored("a"))
    await world.service.settle()
    assert asked == ["a"]
    world.store()
    await world.service.fetch_usage("a")
    assert world.stored("a") is None


async def test_usage_tells_whose_an_account_is(world, monkeypatch):
    """An account that turns out to be another one's twin gives its login to that one."""
    world.store(social("a", user_id="u-1"), social("b"))

    async def fetch(_caller, _account_id, now_ms):
        return usage.Usage((usage.Pot("plan", 10, 50),), "PRO", None, now_ms, user_id="u-1", email="me@x.test")

    monkeypatch.setattr(usage, "fetch", fetch)
    await world.service.fetch_usage("b")
    (left,) = world.service.accounts().accounts
    assert (left.user_id, left.usage.used) == ("u-1", 10)


@pytest.mark.parametrize("failure", [Failure("AccessDeniedException", "Locked.", "TEMPORARILY_SUSPENDED"), None])
@pytest.mark.parametrize(("module", "ask"), [(usage, "fetch_usage"), (models, "fetch_models")])
async def test_a_lock_is_noted_wherever_it_is_told(world, monkeypatch, failure, module, ask):
    """An account that the service says it has locked is not used any more, whichever call it says it on."""

    async def fetch(*_args):
        raise Suspended("Locked.", failure)

    monkeypatch.setattr(module, "fetch", fetch)
    with pytest.raises(Suspended):
        await getattr(world.service, ask)("a")
    await world.service.settle()
    assert world.stored("a").state == ("suspended" if failure else "ok")


async def test_credits_are_counted_from_the_answers(world):
    """What an answer cost is taken off what was known to be left."""
    world.store(social("a", usage=UsageRecord(used=1, limit=50)))
    world.service.spent("a", 0.5)
    await world.service.settle()
    assert world.stored("a").usage.used == 1.5


async def test_the_active_account_is_the_one_that_serves(world):
    """The account that serves becomes the active one; one that is gone does not."""
    world.service.activate("b")
    world.service.activate("gone")
    await world.service.settle()
    assert world.service.accounts().active_account_id == "b"


async def test_the_account_that_the_user_chooses_meanwhile_stays_active(world):
    """What the proxy notes is written a moment later; a word of the user's that came first is not undone by it."""
    world.store(social("a"), social("b"), social("c"))
    world.service.activate("b")
    world.service.registry.update(lambda stored: setattr(stored, "active_account_id", "c"))
    assert world.service.accounts().active_account_id == "c"
    await world.service.settle()
    assert world.service.registry.load().active_account_id == "c"


async def test_where_accounts_cannot_be_read_none_is_made_active(world):
    """An answer that has begun is not disturbed by it."""
    world.service.registry.document.path.write_text("{")
    world.service.activate("b")
    await world.service.settle()
    assert world.service.registry.document.path.read_text() == "{"


@pytest.mark.parametrize(
    ("error", "level", "said"),
    [(AuthUnavailable("Down."), logging.INFO, "Down."), (StoreError("Full."), logging.WARNING, "Full.")],
)
async def test_trouble_beside_is_a_line_in_the_log(world, monkeypatch, caplog, error, level, said):
    """What fails beside the requests disturbs none of them."""

    async def fail(*_args):
        raise error

    monkeypatch.setattr(world.tokens, "renew", fail)
    with caplog.at_level(logging.INFO):
        world.service.renew_beside("a", "fake-old")
        await world.service.settle()
    assert (caplog.records[-1].levelno, said in caplog.text) == (level, True)


async def test_closing_writes_what_is_noted(world, monkeypatch):
    """Questions are cancelled at the end, what is noted is written."""
    gate = asyncio.Event()

    async def wait(*_args):
        await gate.wait()

    monkeypatch.setattr(world.tokens, "renew", wait)
    world.service.renew_beside("a", "fake-old")
    world.service.note("a", Event.served)
    await asyncio.sleep(0)
    (renewal,) = (task for task in asyncio.all_tasks() if task.get_name() == "kiro renew a")
    world.service.close()
    assert world.stored("a").request_count == 1
    await world.service.settle()
    assert world.stored("a").request_count == 1
    assert renewal.cancelled()
    world.service.close()


async def test_a_note_that_cannot_be_written_at_the_end_is_told(world, caplog):
    """A document that does not parse is named, and nothing raises while the program ends."""
    world.service.note("a", Event.served)
    world.service.registry.document.path.write_text("{oops")
    with caplog.at_level(logging.WARNING):
        world.service.close()
    assert "could not be stored" in caplog.text


async def test_notes_are_seen_before_they_are_written(world, monkeypatch):
    """What happened to an account counts for the next choice at once, and many notes are one write."""
    writes = []
    real = world.service.registry.update
    monkeypatch.setattr(world.service.registry, "update", lambda change: writes.append(1) or real(change))
    world.service.note("a", finding("rate_limited"))
    for _ in range(5):
        world.service.note("b", Event.served)
    assert world.service.pick(conversation="", model="auto", tried=frozenset()).id == "b"
    assert world.stored("a").cooldown_until is None
    await world.service.settle()
    assert world.stored("a").cooldown_until == ms(30)
    assert world.stored("b").request_count == 5
    assert len(writes) == 1


def test_versions_of_the_settings_are_named(tmp_path):
    """A version that the user sets is what the identity names."""
    service = World(tmp_path, kiro_cli_version="9.9.9").service
    headers = service.identity_for(social()).headers("generate", invocation="x")
    assert "9.9.9" in headers.get("user-agent")
    assert service._refresh_headers(social()).get("authorization") is None
