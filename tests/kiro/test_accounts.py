"""The accounts' document: what it keeps, whom it takes for whom, and what it never shows."""

import contextlib
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import StoreError
from kimi_core.kiro.accounts import KEPT_FORKS, Account, Accounts, AccountsDamaged, Registry, new_id
from kimi_core.kiro.records import ForkRecord, Source, UsageRecord
from kimi_core.tokens import digest

SOCIAL_ARN = "arn:aws:codewhisperer:us-east-1:699475941385:profile/EHGA3GRVQMUK"
OWN_ARN = "arn:aws:codewhisperer:eu-central-1:111122223333:profile/FAKEPROFILE1"
OTHER_ARN = "arn:aws:codewhisperer:us-east-1:111122223333:profile/FAKEPROFILE2"
SECRETS = {
    "access_token": "fake-access-1",
    "refresh_token": "fake-refresh-1",
    "client_secret": "fake-client-secret-1",
}
FOREIGN = {  # as another tool writes it (kiro.md §10), with keys of its own
    "strategy": "round-robin",
    "active_account_id": "one",
    "theirs": {"deep": None},
    "accounts": [
        {
            "id": "one",
            "label": "a@b.c",
            "email": "a@b.c",
            "auth_method": "desktop",
            "region": "us-east-1",
            "access_token": "fake-access-1",
            "refresh_token": "fake-refresh-1",
            "expires_at": 1785542400000,
            "is_healthy": False,
            "consecutive_failures": 2,
            "cooldown_until": 1785542400000,
            "last_error": "429",
            "usage": {"used": 12, "limit": 50, "fetched_at": 1785542400000, "their_key": [1]},
            "quota_state": "unknown",
            "quota_updated_at": 0,
            "request_count": 7,
            "last_used": 5,
            "added_at": 1785542400000,
            "their_key": None,
        }
    ],
}


def account(**fields):
    """Return an account with fake secrets."""
    return Account(**({"id": new_id()} | SECRETS | fields))


def test_foreign_document_keeps_every_key_and_value():
    """A document as other tools write it comes back with all that was in it, known or not."""
    written = Accounts.from_json(FOREIGN, "here").to_json()
    assert {key: written[key] for key in FOREIGN if key != "accounts"} == {
        key: value for key, value in FOREIGN.items() if key != "accounts"
    }
    theirs = FOREIGN["accounts"][0]
    assert {key: written["accounts"][0][key] for key in theirs} == theirs


def test_absent_fields_are_not_written():
    """What is not known of an account is no key of the document."""
    assert "profile_arn" not in account().to_json()


@pytest.mark.parametrize(
    "record",
    [
        account(label="work", their_secret="fake-theirs-1", last_error="fake-error-1"),
        Accounts(accounts=[account(their_secret="fake-theirs-1")], theirs="fake-theirs-2"),
        UsageRecord(theirs="fake-theirs-1"),
        ForkRecord(outcome="forked", theirs="fake-theirs-1"),
        Source(kind="kiro-cli", path="/fake/path"),
    ],
)
def test_no_secret_shows_in_a_repr(record):
    """A repr holds neither tokens nor keys of others, whose meaning nobody knows."""
    for text in (repr(record), str(record)):
        assert "fake-" not in text


def test_damage_is_named_without_its_value(tmp_path):
    """A field that does not fit is named by its path; what is in it is not said, for it may be a secret."""
    registry = Registry(tmp_path)
    registry.document.write({"accounts": [{"id": "one"}], "active_account_id": {"fake-secret-1": 1}})
    with pytest.raises(AccountsDamaged, match=r"damaged: active_account_id is not") as caught:
        registry.load()
    assert "fake-secret-1" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_file_that_is_no_json_is_refused_and_kept(tmp_path):
    """A damaged document is neither taken for an empty one nor written over."""
    registry = Registry(tmp_path)
    registry.document.path.write_text("{half")
    with pytest.raises(AccountsDamaged, match="holds no JSON"):
        registry.load()
    with pytest.raises(AccountsDamaged):
        registry.update(lambda accounts: accounts.upsert(account()))
    assert registry.document.path.read_text() == "{half"


def test_moments_of_any_form_are_read():
    """A moment in a document is read as leniently as in a store."""
    read = account(expires_at="2026-08-01T00:00:00Z", cooldown_until=1785542400, client_secret_expires_at="soon")
    assert (read.expires_at, read.cooldown_until, read.client_secret_expires_at) == (1785542400000, 1785542400000, 0)


def test_remaining_life():
    """The life of an access token is in seconds, that of an API key has no end."""
    assert account(expires_at=1_000_000_000_000).remaining(999_999_990) == 10
    assert account(auth_method="api_key").remaining(5) == float("inf")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, True), ({"refresh_token": ""}, False), ({"auth_method": "api_key"}, False)],
)
def test_what_can_be_renewed(fields, expected):
    """An account without a refresh token is not renewed, and an API key never."""
    assert account(**fields).renewable is expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"user_id": "u1"}, {"user_id": "u1", "refresh_token": "fake-refresh-2"}, True),
        ({"user_id": "u1"}, {"user_id": "u2"}, False),
        ({"user_id": "u1", "profile_arn": OWN_ARN}, {"user_id": "u1", "profile_arn": OTHER_ARN}, False),
        ({"user_id": "u1", "profile_arn": OWN_ARN}, {"user_id": "u1", "profile_arn": SOCIAL_ARN}, True),
        ({"user_id": "u1", "profile_arn": OWN_ARN}, {"user_id": "u1"}, True),
        ({"user_id": "u1"}, {}, True),
        ({}, {"refresh_token": "fake-refresh-2"}, False),
        ({"label": "a", "email": "a"}, {"label": "a", "email": "a", "refresh_token": "fake-refresh-2"}, False),
        ({"imported_from": {"kiro-cli": digest("fake-refresh-2")}}, {"refresh_token": "fake-refresh-2"}, True),
        ({"identity_hash": digest("fake-refresh-2")}, {"refresh_token": "fake-refresh-2"}, True),
        ({"profile_arn": OWN_ARN}, {"profile_arn": OWN_ARN, "refresh_token": "fake-refresh-2"}, False),
        ({"refresh_token": ""}, {"refresh_token": ""}, False),
        ({"auth_method": "api_key"}, {"auth_method": "api_key", "refresh_token": ""}, True),
        ({"auth_method": "api_key"}, {"auth_method": "api_key", "access_token": "fake-key-2"}, False),
    ],
)
def test_who_is_the_same_account(one, other, same):
    """Users decide where both are known, else chains of tokens do; labels and shared profiles never."""
    first, second = account(**one), account(**other)
    assert first.is_twin_of(second) is same
    assert second.is_twin_of(first) is same


def test_a_new_account_gets_what_it_keeps():
    """Identity, machine id, label and moment are made once, and the first account becomes the active one."""
    accounts = Accounts()
    first = accounts.upsert(account(email="a@b.c"), clock=lambda: 5.0)
    second = accounts.upsert(account(refresh_token="fake-refresh-2"))
    assert accounts.active_account_id == first.id
    assert (first.label, first.added_at, first.identity_hash) == ("a@b.c", 5000, digest("fake-refresh-1"))
    assert len(first.machine_id) == 64
    assert second.label == f"kiro-desktop-{second.id[:8]}"
    assert first.machine_id != second.machine_id


def test_identity_is_that_of_the_user_where_known():
    """The user and an own profile make the identity, not the token of the day."""
    one = account(user_id="u1", profile_arn=OWN_ARN).founded()
    other = account(user_id="u1", profile_arn=OWN_ARN, refresh_token="fake-refresh-9").founded()
    assert one.identity_hash == other.identity_hash != account(user_id="u1").founded().identity_hash


def test_a_login_of_a_known_account_replaces_tokens_and_keeps_the_rest():
    """A twin's login replaces the tokens and forgives, and keeps id, label, counters and what it does not know."""
    accounts = Accounts()
    usual = {"consecutive_failures": 3, "is_healthy": False, "state": "needs_login", "last_error": "401"}
    old = accounts.upsert(
        account(user_id="u1", label="mine", client_id="fake-client-1", request_count=7, cooldown_until=9, **usual)
    )
    login = account(user_id="u1", label="theirs", access_token="fake-access-2", refresh_token="fake-refresh-2")
    new = accounts.upsert(login.model_copy(update={"expires_at": 0, "imported_from": {"kiro-cli": "d"}}))
    assert accounts.accounts == [new]
    assert (new.id, new.label, new.request_count, new.client_id) == (old.id, "mine", 7, "fake-client-1")
    assert (new.access_token, new.refresh_token, new.expires_at) == ("fake-access-2", "fake-refresh-2", 0)
    assert (new.state, new.is_healthy, new.consecutive_failures) == ("ok", True, 0)
    assert (new.cooldown_until, new.last_error) == (None, None)
    assert new.imported_from == {"kiro-cli": "d"}
    assert new.identity_hash == old.identity_hash


def test_a_suspended_account_stays_suspended_by_a_login():
    """New tokens do not lift what the service did to the account."""
    accounts = Accounts()
    accounts.upsert(account(state="suspended", is_healthy=False, last_error="locked"))
    again = accounts.upsert(account(access_token="fake-access-2"))
    assert (again.state, again.is_healthy, again.last_error) == ("suspended", False, "locked")
    assert again.access_token == "fake-access-2"


def test_removal_moves_the_active_account_on():
    """The first account left becomes active; an id that is not there changes nothing."""
    accounts = Accounts()
    first, second = (accounts.upsert(account(refresh_token=f"fake-refresh-{n}")) for n in range(2))
    assert not accounts.remove("nobody")
    assert accounts.remove(first.id)
    assert accounts.active_account_id == second.id
    assert accounts.remove(second.id)
    assert accounts.active_account_id is None


def test_removal_of_another_account_leaves_the_active_one():
    """Removing an account that is not active does not change which one is."""
    accounts = Accounts()
    first, second = (accounts.upsert(account(refresh_token=f"fake-refresh-{n}")) for n in range(2))
    assert accounts.remove(second.id)
    assert accounts.active_account_id == first.id


def test_a_removed_account_is_not_put_back():
    """Who still holds a removed account cannot bring it back by storing it."""
    accounts = Accounts()
    gone = accounts.upsert(account())
    accounts.remove(gone.id)
    assert accounts.put(gone) is False
    assert accounts.accounts == []


def test_a_word_finds_accounts():
    """An id or label is taken exactly, else the beginning of an id; nothing by an empty word."""
    accounts = Accounts(accounts=[account(id="abc", label="x"), account(id="abd", label="abc"), account(id="b")])
    ids = {word: [found.id for found in accounts.find(word)] for word in ("abc", "ab", "x", "", "zz")}
    assert ids == {"abc": ["abc", "abd"], "ab": ["abc", "abd"], "x": ["abc"], "": [], "zz": []}


def test_forks_are_remembered_within_bounds():
    """The latest outcome of each token stands, and only the oldest are forgotten."""
    accounts = Accounts()
    for number in range(KEPT_FORKS + 2):
        accounts.note_fork(f"d{number}", ForkRecord(outcome="known"))
    accounts.note_fork("d2", ForkRecord(outcome="rejected"))
    assert len(accounts.forks) == KEPT_FORKS
    assert list(accounts.forks)[-1] == "d2"
    assert "d1" not in accounts.forks


def test_an_unchanged_document_is_not_written(tmp_path):
    """A look that alters nothing makes no file, and leaves one alone."""
    registry = Registry(tmp_path / "data")
    assert registry.update(lambda accounts: accounts.strategy) == "hybrid"
    assert not registry.document.path.exists()


async def test_updates_from_both_sides_meet(tmp_path):
    """What one process added is there for the next change, in both forms of it."""
    registry = Registry(tmp_path)
    first = registry.update(lambda accounts: accounts.upsert(account()))
    second = await Registry(tmp_path).aupdate(lambda accounts: accounts.upsert(account(refresh_token="fake-refresh-2")))
    assert [found.id for found in registry.load().accounts] == [first.id, second.id]


def test_a_change_that_fails_changes_nothing(tmp_path):
    """An exception inside a change leaves the document as it was."""
    registry = Registry(tmp_path)
    registry.update(lambda accounts: accounts.upsert(account()))
    before = registry.document.path.read_bytes()

    def fail(accounts):
        accounts.accounts.clear()
        raise LookupError

    with pytest.raises(LookupError):
        registry.update(fail)
    assert registry.document.path.read_bytes() == before


def test_concurrent_counts_lose_nothing(tmp_path):
    """Threads that count requests of one account lose none of them."""
    one = Registry(tmp_path).update(lambda accounts: accounts.upsert(account()))

    def count(accounts):
        now = accounts.get(one.id)
        accounts.put(now.model_copy(update={"request_count": now.request_count + 1}))

    def work():
        for _ in range(5):
            Registry(tmp_path).update(count)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Registry(tmp_path).load().get(one.id).request_count == 20


async def test_a_damaged_document_stays_where_nothing_can_take_its_place(tmp_path, monkeypatch):
    """On a disk that is full a damaged document is not put aside for a new one that cannot be written."""
    registry = Registry(tmp_path)
    registry.document.path.write_text("{")

    def full():
        raise StoreError("There is no room.")

    monkeypatch.setattr(registry.document, "probe", full)
    put_aside = []
    with pytest.raises(StoreError, match="no room"):
        await registry.aupdate_or_begin(
            lambda accounts: accounts.upsert(Account(id="one", refresh_token="r")), put_aside.append
        )
    assert put_aside == []
    assert [path.name for path in tmp_path.iterdir() if "lock" not in path.name] == [registry.document.path.name]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.dictionaries(st.text(), JSON, max_size=5))
def test_unknown_keys_survive_any_round_trip(outer, inner):
    """Whatever others put into the document is written back as it was."""
    outer = {key: value for key, value in outer.items() if key not in Accounts.model_fields}
    inner = {key: value for key, value in inner.items() if key not in Account.model_fields}
    written = Accounts.from_json({**outer, "accounts": [{**inner, "id": "one"}]}, "here").to_json()
    again = json.loads(json.dumps(written))
    assert {key: again[key] for key in outer} == outer
    assert {key: again["accounts"][0][key] for key in inner} == inner


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(["ok", "needs_login", "suspended"]),
        "last_error": st.none() | st.text(),
        "last_used": st.integers(),
        "usage": st.none() | st.just(UsageRecord(used=1.0)),
    },
)


@given(st.dictionaries(st.text(), JSON, max_size=3), CHANGES, CHANGES)
def test_the_quick_copy_is_the_general_one(foreign, before, changes):
    """Of any account, one that is not wholly understood too; and the account itself stays as it was."""
    foreign = {key: value for key, value in foreign.items() if key not in Account.model_fields}
    for odd in ({}, {"auth_method": "of-tomorrow"}):
        one = Accounts.from_json({"accounts": [{"id": "a", **foreign, **before, **odd}]}, "here").accounts[0]
        was = one.model_copy(deep=True)
        quick, general = one.changed(**changes), one.model_copy(update=changes)
        assert quick == general
        assert quick.to_json() == general.to_json()
        assert (quick.model_fields_set, quick.unknown) == (general.model_fields_set, general.unknown)
        quick.model_extra["new"] = 1
        assert (one, one.to_json(), one.model_fields_set) == (was, was.to_json(), was.model_fields_set)


@given(JSON)
def test_any_json_is_read_or_refused_by_name(data):
    """A document with anything in it is read, or refused as damaged; nothing else is raised."""
    with contextlib.suppress(AccountsDamaged):
        Accounts.from_json({"accounts": data, "forks": data, "strategy": data}, "here")
