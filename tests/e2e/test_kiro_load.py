"""Rotation under load: 200 requests over three accounts, 30 % failures of every kind, rotating tokens, and kill -9."""

import asyncio
import json
import random
import threading
import time
from collections import Counter, defaultdict

import httpx
import pytest

from kimi_core.kiro import health
from tests.e2e.harness import START_SECONDS, wait_until
from tests.e2e.kiro_harness import said
from tests.servers.kiro import host_of, user_of
from tests.servers.kiro_answers import NASTY, REFUSALS
from tests.servers.script import Break, Script

MODEL = "claude-sonnet-4.5"
SEED = 20
WAVES = 10
IN_A_WAVE = 20
AT_ONCE = 10
FAULTS = 0.3
KILLS = 3
PATIENCE = (KILLS + 1) * START_SECONDS  # that a client goes on asking while the proxy is killed and started

FINAL = {  # a fault of the request: told to the client at once, tried nowhere else -> its status
    "too_long": 400,
    "malformed": 400,
    "image": 400,
    "feature": 403,
}
PASSING = (
    "internal",
    "capacity",
    "unavailable",
    "high_load",
    "timeout",
    "reset",
    "html",
    "error-frame",
    "unauthorized",
)
SICK = {  # a fault of the account -> what is stored of it, and for how many seconds at the most
    "rate": ({"is_healthy": False, "state": "ok"}, 30),
    "rate_plain": ({"is_healthy": False, "state": "ok"}, 30),
    "exception-first": ({"is_healthy": False, "state": "ok"}, 30),
    "json-200": ({"is_healthy": False, "state": "ok"}, 30),
    "quota": ({"is_healthy": False, "quota_state": "exhausted"}, 32 * 86_400),
    "quota_daily": ({"is_healthy": False, "quota_state": "exhausted"}, 86_400),
    "suspended": ({"is_healthy": False, "state": "suspended"}, 0),
}
MADE = {"reset": Script(before=[Break.RESET])}


def script(name):
    """Return the answer that a fault has."""
    return MADE.get(name) or NASTY.get(name) or REFUSALS[name].script()


class Weather:
    """What the service answers: who is ill in this wave, and which request meets which fault.

    One account stays well in each wave; what it answers badly passes, so that each request can be served in the
    attempts there are. An ill account gives good answers until it falls ill, and its one fault from then on.
    """

    def __init__(self, kiro, world):
        self.kiro, self.world = kiro, world
        self.dice = random.Random(SEED)
        self.met = Counter()
        self.begin([])

    def begin(self, labels):
        self.well = self.dice.choice(labels) if labels else ""
        self.ill = {}
        self.final = {}
        self.tries = Counter()
        self.passed = set()

    def __call__(self, seen):
        marker, label = user_of(seen)["content"], self.kiro.who(seen)
        self.tries[marker] += 1
        if marker in self.passed and host_of(seen) == "q":
            return None
        if label in self.ill:
            return script(self.ill[label])
        if self.dice.random() >= FAULTS:
            return None
        name = self._draw(self.dice.choice([PASSING, FINAL] if label == self.well else [SICK, SICK, PASSING, FINAL]))
        asked = (user_of(one)["content"] for one in self.world.kiro.of("generate"))
        if name in PASSING and sum(content == marker for content in asked) > 1:
            return None  # there may be too few attempts left for one more on this account, which bears it
        self.met[name] += 1
        if name in SICK:
            self.ill[label] = name
        elif name in FINAL:
            self.final[marker] = name
        else:
            self.passed.add(marker)
        return script(name)

    def _draw(self, kinds):
        """Return one of these kinds, each as often as any other."""
        names = tuple(kinds)
        fewest = min(self.met[name] for name in names)
        return self.dice.choice([name for name in names if self.met[name] == fewest])


def body(marker, streamed):
    """Return a request that is answered with *marker*."""
    return {"model": MODEL, "stream": streamed, "messages": [{"role": "user", "content": marker}]}


async def post(client, marker, *, streamed, patient=False):
    """Ask once, and again for as long as the proxy is away where *patient*; return status, text, and whether good."""
    deadline = time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < deadline, f"{marker} was not answered within {PATIENCE} s"
        try:
            answer = await client.post("chat/completions", json=body(marker, streamed), headers={"connection": "close"})
        except httpx.TransportError:
            if not patient:
                raise
            await asyncio.sleep(0.1)
            continue
        good = answer.status_code == 200 and said(answer) == marker and (not streamed or "[DONE]" in answer.text)
        if patient and answer.status_code == 200 and not good:
            continue  # cut off by a kill
        return answer.status_code, answer.text, good


def waves(kiro, markers, **more):
    """Ask for all markers, so many at once; return what came, by marker."""

    async def run():
        gate = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(base_url=kiro.local, trust_env=False, timeout=60) as client:

            async def one(number, marker):
                async with gate:
                    return marker, await post(client, marker, streamed=number % 2 == 0, **more)

            return dict(await asyncio.gather(*(one(*pair) for pair in enumerate(markers))))

    return asyncio.run(run())


def time_passes(kiro):
    """End all waits, and have the user enable what was suspended; as if the day after."""

    def change(stored):
        for account in list(stored.accounts):
            until = {"cooldown_until": 1} if account.cooldown_until else {}
            state = {"state": "ok", "quota_state": "unknown"} if account.state != "needs_login" else {}
            stored.put(account.model_copy(update=until | state))

    kiro.registry.update(change)


@pytest.fixture(scope="module")
def spinning(start_kiro):
    """Return a proxy that spreads requests over its accounts."""
    made = start_kiro(options=["kiro_strategy=round-robin"])
    made.accounts(3)
    return made


def test_no_request_is_lost_that_one_account_could_serve(kiro_world, spinning):
    """All requests are answered as they should be; each account bears what it did, and nothing more.

    Tokens of one to three accounts are worth nothing when a wave begins. A request has as many attempts as accounts and
    one more: one that used them all up, one of them on the well account's worthless token, may fail, and no other one.
    """
    kiro = spinning
    accounts = kiro.accounts(3)
    by_label = {account.label: account for account in accounts}
    weather = Weather(kiro, kiro_world)
    lost, served = [], 0
    for wave in range(WAVES):
        weather.begin(sorted(by_label))
        kiro_world.kiro.fault = weather
        worthless = revoke(kiro_world, kiro, weather.dice.sample(accounts, weather.dice.randint(1, len(accounts))))
        kiro_world.aws.delay = 0.02
        faults = {label: kiro.stored(account).consecutive_failures for label, account in by_label.items()}
        markers = [f"wave {wave} request {number}" for number in range(IN_A_WAVE)]
        got = waves(kiro, markers)
        attempts = defaultdict(list)
        for seen in kiro_world.kiro.of("generate"):
            attempts[user_of(seen)["content"]].append(seen.bearer)
        for marker, (status, text, good) in got.items():
            if marker in weather.final:
                assert status == FINAL[weather.final[marker]], (marker, weather.final[marker], text)
            elif not good:
                lost.append(marker)
                assert len(attempts[marker]) == len(accounts) + 1, (marker, status, text, weather.well, weather.ill)
                assert worthless.get(weather.well) in attempts[marker], (marker, status, text, weather.ill)
            assert len(attempts[marker]) <= len(accounts) + 1
        kiro_world.kiro.fault = lambda _: None
        ((_, text, good),) = waves(kiro, [f"after wave {wave}"]).values()
        assert good, text
        served += 1 + sum(good for _, _, good in got.values())
        all_noted(kiro, served)
        assert weather.ill.keys() == {label for label in by_label if bears(kiro.stored(by_label[label]), weather)}
        now = time.time()
        for label, account in by_label.items():
            stored = kiro.stored(account)
            if label not in weather.ill:
                assert health.obstacle(stored, now) is None, (label, stored.last_error, weather.ill)
                continue
            _, longest = SICK[weather.ill[label]]
            assert stored.consecutive_failures <= faults[label] + 1, "requests that fail together count once"
            assert health.cooling(stored, now) <= longest * 2 ** faults[label]
        time_passes(kiro)
    assert len(lost) <= WAVES * IN_A_WAVE / 10, lost
    assert set(weather.met) == {*FINAL, *SICK, *PASSING}, weather.met
    assert kiro_world.aws.reuses == 0
    for account in accounts:
        stored = kiro.stored(account)
        assert stored.state == "ok"
        assert kiro_world.aws.alive(stored.refresh_token)
    assert not kiro_world.kiro.refusals()


def revoke(kiro_world, kiro, accounts):
    """Make the access tokens of these accounts worthless; return them by label."""
    for account in accounts:
        next(f for f in kiro_world.aws.families if f.user == account.user_id).access.clear()
    return {account.label: kiro.stored(account).access_token for account in accounts}


def all_noted(kiro, served):
    """Wait until the document counts so many served requests: what is noted is written in order, the last one last."""
    wait_until(lambda: sum(one.request_count for one in kiro.stored().accounts) == served, f"{served} served", 10)


def bears(account, weather):
    """Tell whether the document has what this account bears for its fault."""
    fault = weather.ill.get(account.label)
    return fault is not None and all(getattr(account, name) == value for name, value in SICK[fault][0].items())


def test_kills_at_random_moments_cost_no_login(kiro_world, start_kiro):
    """A kill -9 in the middle of refreshes and failovers: the document stays valid, and every login stays alive."""
    kiro = start_kiro(options=["kiro_strategy=round-robin"])
    accounts = kiro.accounts(3)
    dice = random.Random(SEED)
    families = {account.label: f for account in accounts for f in kiro_world.aws.families if f.user == account.user_id}

    def fault(seen):
        if dice.random() < 0.3:
            families[kiro.who(seen)].access.clear()  # its next request is refused, and the login is renewed
        return script("internal") if dice.random() < 0.1 else None

    kiro_world.kiro.fault = fault
    kiro_world.aws.delay = 0.05
    before = kiro_world.aws.refreshes
    done = threading.Event()
    kills = []

    def killer():
        while len(kills) < KILLS and not done.wait(dice.uniform(0.3, 1.0)):
            kiro.kill()
            kills.append(json.loads(kiro.registry.document.path.read_text()))  # whatever the moment: it is JSON
            kiro.start()

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        got = {}
        while thread.is_alive():
            got |= waves(kiro, [f"kill {len(got) + number}" for number in range(20)], patient=True)
    finally:
        done.set()
        thread.join()
    assert len(kills) == KILLS
    assert kiro_world.aws.refreshes > before
    wait_until(lambda: kiro_world.aws.in_flight == 0, "the end of the refreshes")
    wait_until(
        lambda: all(kiro_world.aws.alive(kiro.stored(account).refresh_token) for account in accounts),
        "that every rotated token is stored",
    )
    assert kiro_world.aws.reuses == 0
    for document in kills:
        assert {one["label"] for one in document["accounts"]} == set(families)
    kiro_world.kiro.reset()
    time_passes(kiro)
    assert all(good for _, _, good in waves(kiro, [f"after {number}" for number in range(6)]).values())
    assert all(kiro.stored(account).state == "ok" for account in accounts)
