"""Accounts of a newer version: kept as they stand, whatever is done with others, used for nothing, told in words."""

import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.kiro import health
from kimi_core.kiro.account import Account
from kimi_core.kiro.accounts import STRATEGIES, Accounts, AccountsDamaged, Registry
from kimi_core.kiro.auth import Tokens
from kimi_core.kiro.auth_errors import AccountNewer, NoAccount
from kimi_core.kiro.condition import State, condition
from kimi_core.kiro.constants import Endpoints
from kimi_core.kiro.health import Event, Obstacle
from kimi_core.kiro.pool import choose, unavailable
from kimi_core.kiro.records import ForkRecord, Registration, SourceKind
from kimi_core.kiro.rotation import Job, do
from kimi_core.kiro.sources import NAMES
from kimi_core.kiro.sync import Person, identify
from kimi_core.outbound import Outbound

OURS = {"id": "ours", "label": "ours@b.c", "access_token": "fake-access-1", "refresh_token": "fake-refresh-1"}
THEIRS = {
    "id": "theirs",
    "label": "theirs@b.c",
    "user_id": "u2",
    "auth_method": "passkey",
    "state": "resting",
    "expires_at": "2026-08-01T00:00:00Z",
    "access_token": "fake-access-2",
    "refresh_token": "fake-refresh-2",
    "device_key": {"d": "fake-key-2", "deep": [None, 1.5]},
}


def document(**fields):
    """Return a document with an account of ours and one of a newer version."""
    return {"active_account_id": "ours", "accounts": [dict(OURS), dict(THEIRS)], **fields}


def read(**fields):
    """Return its accounts."""
    return Accounts.from_json(document(**fields), "here")


def test_what_is_understood_is_read():
    """Of an account with unknown values the others are known, and it is switched off here."""
    found = read().get("theirs")
    assert found.unknown == ("auth_method", "state")
    assert (found.label, found.user_id, found.expires_at) == ("theirs@b.c", "u2", 1785542400000)
    assert found.enabled is False
    assert found.to_json() == THEIRS
    assert read().get("ours").unknown == ()


def test_a_place_that_is_not_known_here_is_not_looked_into():
    """An account that is read from a program of which only a newer version knows is one of that version's."""
    theirs = {"id": "theirs", "source": {"kind": "other-tool", "path": "KIRO_API_KEY", "key": "KIRO_API_KEY"}}
    (found,) = read(accounts=[theirs]).accounts
    assert (found.unknown, found.source, found.to_json()) == (("source",), None, theirs)
    assert set(get_args(SourceKind.__value__)) == set(NAMES)


def test_no_change_of_it_is_written():
    """Whatever is put in its place here, the document keeps what the newer version wrote."""
    accounts = read()
    found = accounts.get("theirs")
    accounts.put(found.model_copy(update={"enabled": True, "state": "ok", "access_token": "fake-access-3"}))
    assert accounts.to_json()["accounts"][1] == THEIRS


def test_it_serves_nothing():
    """It is chosen by no strategy, and the client is told why."""
    accounts = read(accounts=[THEIRS])
    for strategy in STRATEGIES:
        assert choose(accounts.accounts, 0.0, strategy=strategy, active="theirs", conversation="theirs") is None
    assert health.obstacle(accounts.accounts[0], 0.0) is Obstacle.newer
    assert unavailable(accounts.accounts, 0.0) == (None, ("theirs@b.c: made by a newer version",))


def test_it_is_told_in_words():
    """People read that a newer version made it, what is unknown of it, and what to do."""
    found = condition(read().get("theirs"), 0.0)
    assert found.state is State.newer
    assert found.meaning == "was made by a newer version: unknown auth_method, state"
    assert "newest version" in found.next


async def test_its_token_is_neither_handed_out_nor_spent(tmp_path):
    """Nobody gets a token of it, and no refresh of it begins, were it asked for in another process."""
    registry = Registry(tmp_path)
    registry.document.write(document())

    async def never(job):
        raise AssertionError(job)

    tokens = Tokens(registry, lambda account: None, Outbound(), Endpoints(), refresher=never)
    for ask in (tokens.fresh("theirs"), tokens.renew("theirs", "fake-access-2"), tokens.insist("theirs")):
        with pytest.raises(AccountNewer, match="newer version"):
            await ask
    job = Job(tmp_path, Endpoints(), (), {}, account_id="theirs", insist=True)
    with pytest.raises(NoAccount):
        await do(job, never)


def test_a_login_of_the_same_user_is_an_account_of_its_own():
    """A login cannot be given to an account that is kept as it stands, so it gets one beside it, and is never lost."""
    accounts = read()
    new = accounts.upsert(Account(id="new", user_id="u2", access_token="fake-access-3", refresh_token="fake-refresh-3"))
    assert [found.id for found in accounts.accounts] == ["ours", "theirs", "new"]
    assert identify(accounts, new.id, Person("u2", "theirs@b.c")) == "new"
    assert identify(accounts, "theirs", Person("u1")) == "theirs"
    assert accounts.get("new").refresh_token == "fake-refresh-3"
    assert accounts.to_json()["accounts"][1] == THEIRS


@pytest.mark.parametrize("strategy", ["by-weather", None, {"name": "hybrid"}, 7])
def test_an_unknown_strategy_is_kept_until_another_is_chosen(tmp_path, strategy):
    """The default is used in place of a strategy that is not known here, which stays until the user chooses."""
    registry = Registry(tmp_path)
    registry.document.write(document(strategy=strategy))
    stored = registry.load()
    assert (stored.strategy, stored.unknown_strategy, stored.copied().unknown_strategy) == ("hybrid", True, True)
    registry.update(lambda accounts: accounts.remove("ours"))
    assert registry.document.read()["strategy"] == strategy

    def choose_it(accounts):
        accounts.strategy = "hybrid"

    registry.update(choose_it)
    assert registry.document.read()["strategy"] == "hybrid"
    assert not registry.load().unknown_strategy


def test_parts_that_others_wrote_are_kept():
    """A fork with an outcome of its own is one that was dealt with; a registration that is unclear is kept so."""
    forks = {"d1": {"outcome": "loaned", "to": ["x"]}, "d2": {"outcome": ["loaned"], "account": "ours"}}
    registrations = {"eu-north-1": {"client_id": {"jwk": "fake-key-1"}, "expires_at": 7}}
    accounts = read(forks=forks, registrations=registrations)
    assert accounts.forks["d1"].outcome == "loaned"
    assert (accounts.forks["d2"].outcome, accounts.forks["d2"].account) == ("", "ours")
    assert accounts.registrations["eu-north-1"].unknown == ("client_id",)
    accounts.note_fork("d3", ForkRecord(outcome="known"))
    accounts.registrations["eu-west-1"] = Registration(client_id="fake-client-1", client_secret="fake-secret-1")
    written = accounts.to_json()
    assert {name: written["forks"][name] for name in forks} | {"at": 0} == {**forks, "at": 0} | {
        "d1": forks["d1"] | {"at": 0}
    }
    assert {name: written["registrations"][name] for name in registrations} == registrations


@pytest.mark.parametrize("entry", [{}, {"id": 5}, {"id": None, "state": "resting"}, [], "theirs", None])
def test_an_account_without_a_name_is_damage(entry):
    """What cannot even be named is no account of any version; the document is damaged, and left alone."""
    with pytest.raises(AccountsDamaged, match=r"accounts\.1"):
        read(accounts=[OURS, entry])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KNOWN = sorted(set(Account.model_fields) - {"id"})
MEMBERS = st.dictionaries(st.sampled_from(KNOWN) | st.text(), VALUES, max_size=5).filter(
    lambda found: "id" not in found
)
FOREIGN_PARTS = st.dictionaries(st.text(), VALUES, max_size=3).map(
    lambda found: {key: value for key, value in found.items() if key not in Accounts.model_fields}
)


@settings(max_examples=200, deadline=None)
@given(
    theirs=MEMBERS,
    unknown=st.sampled_from(["state", "auth_method", "quota_state", "usage", "source"]),
    strange=st.text(),
    strategy=VALUES,
    beside=FOREIGN_PARTS,
)
def test_any_document_of_a_newer_version_survives_any_change(theirs, unknown, strange, strategy, beside):
    """Whatever a newer version wrote of an account, and beside them, is there when another account has changed."""
    account = {**theirs, "id": "theirs", unknown: f"x-{strange}"}
    before = {**document(accounts=[OURS, account], strategy=strategy), **beside}

    accounts = Accounts.from_json(json.loads(json.dumps(before)), "here")
    accounts.put(health.apply(accounts.get("ours"), Event.served, 1.0))
    accounts.put(health.apply(accounts.get("theirs"), Event.served, 1.0))
    accounts.upsert(Account(id="new", user_id="u9", refresh_token="fake-refresh-9"))
    after = json.loads(json.dumps(accounts.to_json()))
    assert json.dumps(after["accounts"][1]) == json.dumps(before["accounts"][1])
    assert {name: after[name] for name in [*beside, "strategy"]} == {
        name: before[name] for name in [*beside, "strategy"]
    }
    assert after["accounts"][0]["request_count"] == 1
    assert after["accounts"][2]["id"] == "new"
