"""Import of other programs' logins, against services that rotate and revoke."""

import asyncio
import json

import pytest

from kimi_core.errors import AuthUnavailable
from kimi_core.kiro import sources
from kimi_core.kiro.accounts import Registry
from kimi_core.kiro.auth import Tokens
from kimi_core.kiro.auth_errors import AccountDead
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.records import Source
from kimi_core.kiro.refresh import refresh
from kimi_core.kiro.rotation import do
from kimi_core.kiro.stores import Surroundings
from kimi_core.kiro.sync import Importer, Person, identify
from kimi_core.outbound import Outbound
from kimi_core.tokens import digest
from tests.kiro import kiro_cli
from tests.kiro.stand_ins import HEADERS, NOW, account, granted, stored
from tests.servers.aws import FakeAws

SOCIAL, ODIC, LEGACY = "kirocli:social:token", "kirocli:odic:token", "codewhisperer:odic:token"


class Bench:
    """A kiro-cli store, a registry, and login services in this process."""

    def __init__(self, tmp_path, database):
        self.now = NOW
        self.fake = FakeAws(clock=lambda: self.now)
        self.registry = Registry(tmp_path / "data")
        self.database = database
        self.environ = {"KIROCLI_DB_PATH": str(tmp_path / "data.sqlite3")}
        self.around = Surroundings(self.environ, tmp_path, "linux")
        self.net = True
        self.asked = []
        self.names = True

    async def refresher(self, job):
        import httpx

        async def call(one):
            if not self.net:
                raise AuthUnavailable("no network.")
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.fake)) as client:
                return await refresh(client, one, job.endpoints, job.headers, clock=lambda: self.now)

        async def sleep(seconds):
            pass

        return await do(job, call, clock=lambda: self.now, sleep=sleep, around=self.around)

    @property
    def tokens(self):
        return Tokens(
            self.registry,
            lambda one: HEADERS,
            Outbound(),
            Endpoints(),
            clock=lambda: self.now,
            refresher=self.refresher,
            around=self.around,
        )

    async def who(self, one):
        self.asked.append(one.access_token)
        user = self.fake.owner(one.access_token)
        return Person(user, f"{user}@fake.test") if user and self.names else None

    async def sync(self, **options):
        importer = Importer(self.registry, self.tokens, self.who, lambda: self.now)
        return await importer.run(sources.discover(self.around), **options)

    def logs_in(self, key=SOCIAL, user="", left=3600.0, **fields):
        """Log in with kiro-cli; return the service's answer."""
        rows = {}
        client = ""
        if key != SOCIAL:
            made = self.fake.register()
            client = made["clientId"]
            rows[key.replace("token", "device-registration")] = kiro_cli.registration(made, now=self.now)
        answer = self.fake.login("desktop" if key == SOCIAL else "oidc", user=user, client=client)
        self.holds(key, answer, rows, left, **fields)
        return answer

    def holds(self, key, answer, rows=None, left=3600.0, **fields):
        rows = (rows or {}) | {key: kiro_cli.token(answer, now=self.now, left=left, **fields)}
        kiro_cli.put(self.database, "auth_kv", rows)

    @property
    def accounts(self):
        return self.registry.load().accounts


@pytest.fixture
def bench(tmp_path):
    """Return a bench with an empty kiro-cli store that is open."""
    with kiro_cli.store(tmp_path / "data.sqlite3", {}) as database:
        yield Bench(tmp_path, database)


def outcomes(lines):
    """Return the outcomes, in order."""
    return [line.outcome for line in lines]


@pytest.mark.parametrize("key", [SOCIAL, ODIC])
async def test_a_login_is_forked_exactly_once(bench, key):
    """However often it is synced, the token is spent once, at its own service, and the account is well."""
    answer = bench.logs_in(key)
    assert outcomes(await bench.sync()) == ["forked"]
    for _ in range(3):
        assert outcomes(await bench.sync()) == ["known"]
    (one,) = bench.accounts
    assert bench.fake.valid(one.access_token)
    assert (bench.fake.refreshes, bench.fake.reuses, bench.fake.wrong_service) == (1, 0, 0)
    assert (one.user_id, one.email, one.label) == ("d-fake-user-1", "d-fake-user-1@fake.test", one.email)
    assert list(one.imported_from.values()) == [digest(answer["refreshToken"])]


async def test_another_login_becomes_another_account(bench):
    """Log out, log in as somebody else, sync again: imported beside the first, whatever the labels are."""
    bench.logs_in()
    await bench.sync()
    bench.logs_in()
    assert outcomes(await bench.sync()) == ["forked"]
    assert [one.user_id for one in bench.accounts] == ["d-fake-user-1", "d-fake-user-2"]


async def test_a_token_that_kiro_cli_renewed_is_not_forked_again(bench):
    """The same user's newer token is recognised by asking whose it is, and left to kiro-cli."""
    bench.logs_in(user="u1")
    await bench.sync()
    newer = bench.logs_in(user="u1")
    (line,) = await bench.sync()
    assert (line.outcome, line.account_id) == ("known", bench.accounts[0].id)
    assert bench.fake.alive(newer["refreshToken"])
    assert len(bench.accounts) == 1
    assert outcomes(await bench.sync()) == ["known"]


async def test_a_dead_account_is_revived_by_a_new_login(bench):
    """A user who has to log in again does so in kiro-cli and syncs: the account keeps its id and counters."""
    bench.logs_in(user="u1")
    await bench.sync()
    (one,) = bench.accounts
    dead = one.model_copy(update={"request_count": 7}).buried("no", bench.now, refused=True)
    bench.registry.update(lambda accounts: accounts.put(dead))
    bench.logs_in(user="u1")
    assert outcomes(await bench.sync()) == ["forked"]
    (now,) = bench.accounts
    assert (now.id, now.state, now.request_count) == (one.id, "ok", 7)
    assert bench.fake.valid(now.access_token)


async def test_what_nobody_can_name_is_not_spent(bench):
    """A token that has run out may be an older one of an account that is well: it is left alone unless told."""
    bench.logs_in(user="u1")
    await bench.sync()
    older = bench.logs_in(user="u1", left=-10)
    (line,) = await bench.sync()
    assert line.outcome == "unclear"
    assert "--new" in line.text
    assert bench.fake.alive(older["refreshToken"])
    assert outcomes(await bench.sync(new=True)) == ["forked"]
    assert len(bench.accounts) == 1  # after the fork it was clear whose it was


async def test_the_first_login_is_taken_without_a_name(bench):
    """Where there is nothing to be hurt, a login is imported though nobody says whose it is."""
    bench.names = False
    bench.logs_in(left=-10)
    assert outcomes(await bench.sync()) == ["forked"]
    assert bench.accounts[0].user_id == ""
    bench.logs_in(key=ODIC, left=-10)
    assert sorted(outcomes(await bench.sync())) == ["forked", "known"]


async def test_generations_of_one_login_are_not_all_spent(bench):
    """Of tokens that may follow each other only the newest is taken; the user may name another."""
    bench.logs_in(ODIC, left=3600)
    bench.logs_in(LEGACY, left=100)
    bench.logs_in(SOCIAL, left=50)
    lines = await bench.sync()
    assert [(line.key, line.outcome) for line in lines] == [(ODIC, "forked"), (LEGACY, "older"), (SOCIAL, "forked")]
    assert LEGACY in lines[1].text
    assert outcomes(await bench.sync(only=frozenset({LEGACY}))) == ["forked"]
    assert len(bench.accounts) == 3


async def test_a_rejected_token_is_told_and_not_tried_again(bench):
    """What the service turns down makes no account, and no request at the next sync."""
    bench.logs_in()
    bench.fake.revoke()
    assert outcomes(await bench.sync()) == ["rejected"]
    asked = len(bench.fake.seen)
    assert outcomes(await bench.sync()) == ["rejected"]
    assert len(bench.fake.seen) == asked
    assert bench.accounts == []


async def test_without_network_nothing_is_decided(bench):
    """A sync without a network leaves everything for the next one."""
    bench.logs_in()
    bench.net = False
    (line,) = await bench.sync()
    assert line.outcome == "unavailable"
    bench.net = True
    assert outcomes(await bench.sync()) == ["forked"]


async def test_a_login_without_refresh_token_is_told(bench):
    """What cannot be renewed would be gone within the hour."""
    bench.logs_in(refresh_token="")
    assert outcomes(await bench.sync()) == ["rejected"]


async def test_a_removed_account_does_not_come_back(bench):
    """The token it was made from is spent; the line says what to do."""
    bench.logs_in()
    await bench.sync()
    bench.registry.update(lambda accounts: accounts.remove(accounts.accounts[0].id))
    (line,) = await bench.sync()
    assert (line.outcome, line.account_id) == ("known", None)
    assert "removed" in line.text
    assert bench.accounts == []


async def test_a_store_that_cannot_be_read_is_told(bench, tmp_path):
    """Other places are imported all the same."""
    folder = tmp_path / ".config" / "opencode"
    folder.mkdir(parents=True)
    (folder / "multi-kiro.json").write_text("half")
    bench.logs_in()
    lines = await bench.sync()
    assert outcomes(lines) == ["unreadable", "forked"]
    assert lines[0].place == "opencode's multi-kiro.json"


async def test_a_plugins_account_goes_before_the_token_it_was_made_from(bench, tmp_path):
    """The plugin spent kiro-cli's token for its own: that one is taken over, and the spent one left alone."""
    spent = bench.logs_in(user="u1")
    (family,) = bench.fake.families
    theirs = bench.fake._issue(family)
    row = {"id": "x", "access_token": theirs["accessToken"], "refresh_token": theirs["refreshToken"]}
    row |= {"expires_at": int((bench.now + 3600) * 1000), "auth_method": "desktop", "region": "us-east-1"}
    folder = tmp_path / ".config" / "opencode"
    folder.mkdir(parents=True)
    (folder / "multi-kiro.json").write_text(json.dumps({"accounts": [row]}))
    assert outcomes(await bench.sync()) == ["forked", "known"]
    assert bench.fake.reuses == 0
    assert bench.fake.valid(bench.accounts[0].access_token)
    assert not bench.fake.alive(spent["refreshToken"])


async def test_shared_logins_spend_nothing(bench):
    """A shared account has no token of its own here, and follows what kiro-cli has."""
    answer = bench.logs_in(user="u1")
    assert outcomes(await bench.sync(shared=True)) == ["shared"]
    (one,) = bench.accounts
    assert (await bench.tokens.fresh(one.id)).access_token == answer["accessToken"]
    assert answer["accessToken"] not in bench.registry.document.path.read_text()
    newer = bench.logs_in(user="u2")
    assert outcomes(await bench.sync(shared=True)) == ["shared"]
    assert [found.user_id for found in bench.accounts] == ["u2"]
    assert (await bench.tokens.fresh(one.id)).access_token == newer["accessToken"]
    assert bench.fake.refreshes == 0


async def test_a_shared_login_that_ran_out_is_renewed_here(bench):
    """Only then is its token spent; kiro-cli's store keeps what it had."""
    bench.logs_in(user="u1")
    await bench.sync(shared=True)
    (one,) = bench.accounts
    bench.now += 3600
    fresh = await bench.tokens.fresh(one.id)
    assert bench.fake.valid(fresh.access_token)
    again = await bench.tokens.renew(one.id, fresh.access_token)
    assert bench.fake.valid(again.access_token)
    assert (bench.fake.refreshes, bench.fake.reuses) == (2, 0)


async def _logged_out(bench):
    """Return the one account, shared with a kiro-cli whose login has ended."""
    bench.logs_in(user="u1")
    await bench.sync(shared=True)
    bench.now += 4000
    bench.fake.revoke()
    (one,) = bench.accounts
    with pytest.raises(AccountDead):
        await bench.tokens.fresh(one.id)
    assert bench.accounts[0].state == "needs_login"
    return one


async def test_a_shared_account_comes_back_with_a_new_login(bench):
    """It serves again once its program has logged in again and this is synced; the dead login brings nothing back."""
    await _logged_out(bench)
    await bench.sync(shared=True)
    assert bench.accounts[0].state == "needs_login"
    bench.logs_in(user="u1")
    await bench.sync(shared=True)
    (one,) = bench.accounts
    assert (one.state, one.is_healthy, one.last_error) == ("ok", True, None)
    assert (await bench.tokens.fresh(one.id)).remaining(bench.now) > 0


@pytest.mark.parametrize("by", ["the timer", "the user"])
async def test_a_shared_account_comes_back_by_itself(bench, by):
    """The proxy's timer sees the new login, and so does `accounts refresh`, which spends nothing of a good one."""
    one = await _logged_out(bench)
    bench.logs_in(user="u1")
    spent = bench.fake.refreshes

    ticks = [60.0]

    async def tick(seconds):
        if not ticks:
            raise asyncio.CancelledError
        ticks.pop()

    if by == "the user":
        await bench.tokens.insist(one.id)
    else:
        with pytest.raises(asyncio.CancelledError):
            await bench.tokens.keep_fresh(frozenset, sleep=tick)
    assert bench.accounts[0].state == "ok"
    assert bench.fake.refreshes == spent


async def test_insisting_renews_a_shared_login_that_ran_out(bench):
    """Only then is its token spent."""
    bench.logs_in(user="u1")
    await bench.sync(shared=True)
    (one,) = bench.accounts
    bench.now += 4000
    assert (await bench.tokens.insist(one.id)).remaining(bench.now) > 0
    assert bench.fake.refreshes == 1


async def test_an_api_key_is_shared_with_the_environment(bench):
    """The key becomes an account that is read from the environment; the document does not have it."""
    bench.environ["KIRO_API_KEY"] = "ksk_fake"
    for _ in range(2):
        assert outcomes(await bench.sync()) == ["shared"]
    (one,) = bench.accounts
    assert one.auth_method == "api_key"
    assert (await bench.tokens.fresh(one.id)).access_token == "ksk_fake"
    assert "ksk_fake" not in bench.registry.document.path.read_text()


@pytest.mark.parametrize("key", [True, False], ids=["API key", "kiro-cli"])
async def test_a_login_of_ones_own_is_not_given_up_for_a_shared_one(bench, key):
    """A key in the environment, or a login that would be shared, leaves a good login of the same user as it is."""
    own = stored(bench.registry.folder, account(now=bench.now, user_id="u1", auth_method="builder"))
    bench.logs_in(user="u1")
    if key:
        bench.database.execute("DELETE FROM auth_kv")
        bench.environ["KIRO_API_KEY"] = "ksk_fake"

        async def who(_):
            return Person("u1")

        bench.who = who
    (line,) = await bench.sync(shared=not key)
    assert (line.outcome, line.account_id) == ("known", own.id)
    assert bench.accounts == [own]


async def test_a_shared_login_steps_in_for_a_dead_one(bench):
    """An account that waits for a login gets it from there, and keeps its id."""
    own = stored(bench.registry.folder, account(now=bench.now, user_id="u1", state="needs_login"))
    bench.logs_in(user="u1")
    assert outcomes(await bench.sync(shared=True)) == ["shared"]
    (one,) = bench.accounts
    assert (one.id, one.state, one.source.kind) == (own.id, "ok", "kiro-cli")


SHARED = {"source": Source(kind="kiro-cli", path="/x"), "access_token": "", "refresh_token": "", "identity_hash": "d"}
DEAD = {"rejected_refresh": digest("fake-refresh-2")}


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        ({}, DEAD, "fake-refresh-1"),
        ({}, {"state": "needs_login"}, "fake-refresh-1"),
        ({}, SHARED, "fake-refresh-1"),
        ({}, {}, "fake-refresh-2"),
        ({"rejected_refresh": digest("fake-refresh-1")}, DEAD, "fake-refresh-2"),
        ({"state": "needs_login"}, {}, "fake-refresh-2"),
        (SHARED, {}, "fake-refresh-2"),
    ],
)
def test_of_two_logins_of_one_user_the_better_stays(bench, first, second, left):
    """A dead or shared login takes the place of none that is well."""
    one = stored(bench.registry.folder, account(1, now=bench.now, user_id="u1", **first))
    two = stored(bench.registry.folder, account(2, now=bench.now, imported_from={"x": "y"}, **second))
    assert bench.registry.update(lambda accounts: identify(accounts, two.id, Person("u1"))) == one.id
    (found,) = bench.accounts
    assert (found.id, found.refresh_token, found.source) == (one.id, left, None)
    assert found.imported_from == {"x": "y"}


async def test_an_odd_login_does_not_keep_the_others_out(bench, tmp_path):
    """One whose region is none is told, with nothing spent; the next one is taken over."""
    good = bench.fake.login("desktop", user="u1")
    odd = {"client_id": "c", "client_secret": "s", "access_token": "a", "refresh_token": "r", "oidc_region": "nowhere"}
    rows = [odd, {"access_token": good["accessToken"], "refresh_token": good["refreshToken"]}]
    folder = tmp_path / ".config" / "opencode"
    folder.mkdir(parents=True)
    (folder / "multi-kiro.json").write_text(json.dumps({"accounts": rows}))
    first, second = await bench.sync(new=True)
    assert (first.outcome, second.outcome) == ("rejected", "forked")
    assert "'nowhere' is no region" in first.text
    assert len(bench.accounts) == 1


async def test_lines_hold_no_secret(bench):
    """What is told of an import can be shown to anybody."""
    bench.logs_in()
    bench.logs_in(ODIC)
    bench.fake.families[1].revoked = True
    lines = await bench.sync()
    assert "fake-refresh" not in repr(lines)
    assert "fake-access" not in repr(lines)


async def test_without_anybody_to_ask_the_first_is_imported(bench):
    """The importer works where nobody can say whose a login is."""
    bench.logs_in()
    importer = Importer(bench.registry, bench.tokens, clock=lambda: bench.now)
    assert outcomes(await importer.run(sources.discover(bench.around))) == ["forked"]


def test_identifying_an_account_unites_it_with_its_users(bench):
    """An account that turns out to be a known user's gives its login to that one."""
    folder = bench.registry.folder
    first = stored(folder, account(1, user_id="u1"))
    second = stored(folder, account(2))
    third = stored(folder, account(3))
    registry = bench.registry
    assert registry.update(lambda accounts: identify(accounts, second.id, Person("u1"))) == first.id
    assert registry.update(lambda accounts: identify(accounts, third.id, Person("u3", "c@fake.test"))) == third.id
    assert registry.update(lambda accounts: identify(accounts, "gone", Person("u1"))) == "gone"
    now = registry.load()
    assert [one.id for one in now.accounts] == [first.id, third.id]
    assert now.get(first.id).refresh_token == "fake-refresh-2"
    assert (now.get(third.id).email, now.get(third.id).label) == ("c@fake.test", "c@fake.test")


async def test_a_label_of_the_users_own_stays(bench):
    """Learning whose an account is renames only what had no name."""
    one = stored(bench.registry.folder, account(1, label="work"))
    bench.registry.update(lambda accounts: identify(accounts, one.id, Person("u1", "a@fake.test")))
    assert bench.accounts[0].label == "work"


async def test_an_account_that_is_removed_meanwhile_is_not_brought_back(bench):
    """A removal while the service is asked whose a login is stands."""
    bench.logs_in(user="u1")
    await bench.sync()
    bench.logs_in(user="u1")

    async def remove(one):
        bench.registry.update(lambda accounts: accounts.remove(accounts.accounts[0].id))
        return Person("u1")

    taken = bench.accounts
    importer = Importer(bench.registry, bench.tokens, remove, lambda: bench.now)
    (line,) = await importer.run(sources.discover(bench.around))
    assert (line.outcome, line.account_id) == ("known", taken[0].id)
    assert bench.accounts == []


async def test_a_token_of_ours_is_recognised_in_another_program(bench):
    """A chain that is an account already is not spent where it is found again, even when the account is dead."""
    answer = bench.fake.login()
    one = stored(bench.registry.folder, granted(answer, state="needs_login"))
    bench.holds(SOCIAL, answer)
    (line,) = await bench.sync()
    assert (line.outcome, line.account_id) == ("known", one.id)
    assert bench.fake.refreshes == 0
