"""Where other programs keep their logins, and what is read there."""

import contextlib
import json
import os
import sqlite3
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimi_core.kiro import ide_store, kiro_cli_store, opencode_store, sources
from kimi_core.kiro.stores import MAX_FILE, Surroundings, Unreadable
from tests.kiro import kiro_cli
from tests.kiro.kiro_cli import OWN_ARN, SOCIAL_ARN, registration
from tests.kiro.stand_ins import NOW, account

CLIENT = {"clientId": "fake-client-1", "clientSecret": "fake-client-secret-1"}
SOCIAL, ODIC, OIDC, LEGACY, EXTERNAL = (
    "kirocli:social:token",
    "kirocli:odic:token",
    "kirocli:oidc:token",
    "codewhisperer:odic:token",
    "kirocli:external-idp:token",
)


def cli_token(**fields):
    """Return a row's value."""
    return kiro_cli.token(now=NOW, **fields)


def around(tmp_path, platform="linux", **environ):
    """Return surroundings below *tmp_path*."""
    return Surroundings(environ, tmp_path, platform)


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {}, [".local/share/kiro-cli", ".local/share/amazon-q"]),
        ("linux", {"XDG_DATA_HOME": "/xdg"}, ["/xdg/kiro-cli", "/xdg/amazon-q"]),
        (
            "darwin",
            {"XDG_DATA_HOME": "/xdg"},
            ["Library/Application Support/kiro-cli", "Library/Application Support/amazon-q"],
        ),
        (
            "win32",
            {},
            [
                "AppData/Local/Kiro-Cli",
                "AppData/Roaming/kiro-cli",
                "AppData/Local/amazon-q",
                "AppData/Roaming/amazon-q",
            ],
        ),
        (
            "win32",
            {"LOCALAPPDATA": "/local", "APPDATA": "/roaming"},
            ["/local/Kiro-Cli", "/roaming/kiro-cli", "/local/amazon-q", "/roaming/amazon-q"],
        ),
    ],
)
def test_places_of_kiro_cli(tmp_path, platform, environ, expected):
    """Every platform's folders, those that the environment names, and those of its predecessor."""
    found = kiro_cli_store.paths(around(tmp_path, platform, **environ))
    assert found == tuple(tmp_path / folder / "data.sqlite3" for folder in expected)


@pytest.mark.parametrize("name", ["KIROCLI_DB_PATH", "KIRO_CLI_DB_FILE"])
def test_a_named_store_is_the_only_one(tmp_path, name):
    """Who names the store means that one."""
    assert kiro_cli_store.paths(around(tmp_path, **{name: "/fake/x.sqlite3"})) == (Path("/fake/x.sqlite3"),)


@pytest.mark.parametrize(
    ("platform", "folder"), [("linux", ".config"), ("darwin", ".config"), ("win32", "AppData/Roaming")]
)
def test_places_of_opencode_and_the_ide(tmp_path, platform, folder):
    """The files of opencode and the IDE's cache."""
    here = around(tmp_path, platform)
    assert opencode_store.paths(here) == (tmp_path / folder / "opencode" / "multi-kiro.json",)
    assert opencode_store.database_paths(here) == (tmp_path / folder / "opencode" / "kiro.db",)
    assert ide_store.paths(here) == (tmp_path / ".aws" / "sso" / "cache" / "kiro-auth-token.json",)


def test_what_is_in_the_log_alone_is_read(tmp_path):
    """A running kiro-cli's newest rows are in its write-ahead log; the file is not changed by reading."""
    path = tmp_path / "data.sqlite3"
    with kiro_cli.store(path, {SOCIAL: cli_token(profile_arn=SOCIAL_ARN, provider="github")}):
        assert path.with_name("data.sqlite3-wal").stat().st_size > 0
        before = path.read_bytes()
        (token,) = kiro_cli_store.read(path)
        assert path.read_bytes() == before
    found = token.account
    assert (token.key, found.auth_method, found.profile_arn) == (SOCIAL, "desktop", SOCIAL_ARN)
    assert (found.access_token, found.refresh_token) == ("fake-access-1", "fake-refresh-1")
    assert found.expires_at == int((NOW + 3600) * 1000)
    assert (found.region, found.oidc_region, found.client_id) == ("us-east-1", None, None)


@pytest.mark.parametrize("word", ["device-registration", "device_registration"])
@pytest.mark.parametrize(
    ("key", "row"),
    [
        (ODIC, "kirocli:odic"),
        (ODIC, "kirocli:oidc"),
        (OIDC, "kirocli:oidc"),
        (OIDC, "kirocli:odic"),
        (LEGACY, "codewhisperer:odic"),
    ],
)
def test_the_registration_is_joined(tmp_path, key, row, word):
    """An SSO token gets the registration that it was made with, in every spelling, and is no social login."""
    path = tmp_path / "data.sqlite3"
    with kiro_cli.store(path, {key: cli_token(), f"{row}:{word}": registration(CLIENT, now=NOW)}):
        (token,) = kiro_cli_store.read(path)
    found = token.account
    assert (found.auth_method, found.client_id) == ("builder", "fake-client-1")
    assert found.client_secret == "fake-client-secret-1"
    assert found.client_secret_expires_at == int((NOW + 80 * 86400) * 1000)
    assert found.scopes == ("codewhisperer:completions",)


def test_a_registration_of_another_program_is_not_taken(tmp_path):
    """kiro-cli's token and its predecessor's registration do not belong together."""
    path = tmp_path / "data.sqlite3"
    with kiro_cli.store(
        path, {ODIC: cli_token(), "codewhisperer:odic:device-registration": registration(CLIENT, now=NOW)}
    ):
        (token,) = kiro_cli_store.read(path)
    assert token.account.client_id is None


@pytest.mark.parametrize("profile", [{"arn": OWN_ARN, "profile_name": "x"}, f'"{OWN_ARN}"', OWN_ARN, OWN_ARN.encode()])
def test_an_organisations_login_is_complete(tmp_path, profile):
    """Profile, SSO region and start URL come from the state table; the API's region is that of the profile."""
    path = tmp_path / "data.sqlite3"
    row = cli_token(region=None)
    state = {
        "api.codewhisperer.profile": profile,
        "auth.idc.region": "eu-west-2",
        "auth.idc.start-url": "https://fake.awsapps.com/start",
    }
    with kiro_cli.store(path, {ODIC: row}, state):
        (token,) = kiro_cli_store.read(path)
    found = token.account
    assert (found.auth_method, found.start_url) == ("idc", "https://fake.awsapps.com/start")
    assert (found.region, found.oidc_region, found.profile_arn) == ("eu-central-1", "eu-west-2", OWN_ARN)


def test_builder_id_takes_nothing_of_another_login(tmp_path):
    """A Builder ID has no profile of its own: what an organisation's login left in the state table is not its."""
    path = tmp_path / "data.sqlite3"
    rows = {ODIC: cli_token(start_url="https://view.awsapps.com/start")}
    with kiro_cli.store(path, rows, {"api.codewhisperer.profile": {"arn": OWN_ARN}}):
        (token,) = kiro_cli_store.read(path)
    assert (token.account.auth_method, token.account.profile_arn) == ("builder", None)


def test_an_external_login_keeps_its_provider(tmp_path):
    """The user's own identity provider is named by the token itself."""
    path = tmp_path / "data.sqlite3"
    row = cli_token(token_endpoint="https://idp.test/token", issuer_url="https://idp.test", client_id="c", scopes="a b")
    with kiro_cli.store(path, {EXTERNAL: row}):
        (token,) = kiro_cli_store.read(path)
    found = token.account
    assert (found.auth_method, found.token_endpoint, found.issuer_url) == (
        "external_idp",
        "https://idp.test/token",
        "https://idp.test",
    )
    assert (found.client_id, found.scopes) == ("c", ("a", "b"))


def test_other_rows_are_no_logins(tmp_path):
    """Rows of other keys, without a token, or that are no JSON are left out; camelCase is read."""
    path = tmp_path / "data.sqlite3"
    rows = {
        "kirocli:something:else": cli_token(),
        SOCIAL: "no json",
        LEGACY: {"refresh_token": "fake-refresh-9"},
        OIDC: {"accessToken": "fake-access-2", "refreshToken": "fake-refresh-2", "expiresAt": NOW},
    }
    with kiro_cli.store(path, rows):
        (token,) = kiro_cli_store.read(path)
    assert (token.key, token.account.refresh_token, token.account.expires_at) == (OIDC, "fake-refresh-2", NOW * 1000)


def test_several_tokens_are_told_apart_newest_first(tmp_path):
    """One store may hold several logins; the one that is good for longest comes first."""
    here = around(tmp_path, KIROCLI_DB_PATH=str(tmp_path / "data.sqlite3"))
    rows = {
        SOCIAL: cli_token(left=100),
        ODIC: cli_token(left=900, access_token="fake-access-2", refresh_token="fake-refresh-2"),
    }
    with kiro_cli.store(tmp_path / "data.sqlite3", rows):
        (place,) = sources.discover(here)
    assert [token.key for token in place.tokens] == [ODIC, SOCIAL]
    assert sources.NAMES[place.kind] == "kiro-cli"


def test_no_store_is_no_problem(tmp_path):
    """Where nothing is installed nothing is found."""
    assert sources.discover(around(tmp_path)) == ()
    assert kiro_cli_store.read(tmp_path / "x") == opencode_store.read_database(tmp_path / "x") == ()
    assert opencode_store.read(tmp_path / "x") == ide_store.read(tmp_path / "x", around(tmp_path)) == ()


def test_a_store_without_tables_has_no_logins(tmp_path):
    """A database of an older release, or a fresh one, holds none."""
    path = tmp_path / "data.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE x (y)")
    assert kiro_cli_store.read(path) == ()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_store_is_named(tmp_path, content):
    """What cannot be read is told as a problem of that place, without anything of its content."""
    path = tmp_path / "data.sqlite3"
    path.write_bytes(content)
    (place,) = sources.discover(around(tmp_path, KIROCLI_DB_PATH=str(path)))
    assert place.tokens == ()
    assert str(path) in place.problem


def test_a_folder_in_place_of_a_store_is_named(tmp_path):
    """A folder is no database."""
    with pytest.raises(Unreadable):
        kiro_cli_store.read(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions stop")
def test_a_folder_that_may_not_be_written_is_read(tmp_path):
    """A store in WAL mode that is closed is read where SQLite may not make its index."""
    path = tmp_path / "ro" / "data.sqlite3"
    with kiro_cli.store(path, {SOCIAL: cli_token()}):
        pass
    path.parent.chmod(0o500)
    try:
        assert len(kiro_cli_store.read(path)) == 1
    finally:
        path.parent.chmod(0o700)


def test_a_store_at_rest_is_left_without_traces(tmp_path):
    """A database whose log is gone is read without making a log; an empty log is no reason to make an index."""
    path = tmp_path / "data.sqlite3"
    with kiro_cli.store(path, {SOCIAL: cli_token()}):
        pass
    assert len(kiro_cli_store.read(path)) == 1
    path.with_name("data.sqlite3-wal").touch()
    assert len(kiro_cli_store.read(path)) == 1
    assert sorted(found.name for found in tmp_path.iterdir()) == ["data.sqlite3", "data.sqlite3-wal"]


def test_a_store_without_a_log_mode_is_read(tmp_path):
    """A database that never had a log is read with SQLite's own locks."""
    path = tmp_path / "data.sqlite3"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE auth_kv (key, value)")
        kiro_cli.put(database, "auth_kv", {SOCIAL: cli_token()})
    assert len(kiro_cli_store.read(path)) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(
            ["access_token", "refresh_token", "expires_at", "region", "start_url", "scopes", "profile_arn", "client_id"]
        ),
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2),
    ),
    st.sampled_from(kiro_cli_store.TOKEN_KEYS),
)
def test_any_row_is_read_or_left_out(tmp_path_factory, row, key):
    """Whatever another program wrote, reading it raises nothing and makes sound accounts."""
    path = tmp_path_factory.mktemp("any") / "data.sqlite3"
    with kiro_cli.store(
        path, {key: row, "kirocli:odic:device-registration": row}, {"auth.idc.region": json.dumps(row)}
    ):
        for token in kiro_cli_store.read(path):
            assert token.account.access_token == row["access_token"]


# the IDE


def ide(tmp_path, *, client=None, profile=None, folder=".config/Kiro", **fields):
    """Write the IDE's files and return surroundings with them."""
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    row = {
        "accessToken": "fake-access-1",
        "refreshToken": "fake-refresh-1",
        "expiresAt": "2027-01-15T08:00:00.000Z",
        "region": "us-east-1",
    }
    (cache / "kiro-auth-token.json").write_text(json.dumps(row | fields))
    if client:
        (cache / "fakehash.json").write_text(json.dumps(client))
    if profile:
        path = tmp_path / folder / "User" / "globalStorage" / "kiro.kiroagent" / "profile.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"arn": profile}))
    return around(tmp_path)


IDE_CLIENT = CLIENT | {"expiresAt": "2027-01-15T08:00:00.000Z"}


@pytest.mark.parametrize(
    ("fields", "client", "method"),
    [
        ({"authMethod": "social", "provider": "Google", "profileArn": SOCIAL_ARN}, None, "desktop"),
        ({"authMethod": "IdC", "provider": "BuilderId", "clientIdHash": "fakehash"}, IDE_CLIENT, "builder"),
        ({"authMethod": "IdC", "provider": "Enterprise", "clientIdHash": "fakehash"}, IDE_CLIENT, "idc"),
        ({"clientIdHash": "fakehash"}, IDE_CLIENT, "builder"),
        ({"clientIdHash": "fakehash", "startUrl": "https://fake.awsapps.com/start"}, IDE_CLIENT, "idc"),
        ({"authMethod": "external_idp", "provider": "ExternalIdp"}, None, "external_idp"),
        ({}, None, "desktop"),
    ],
)
def test_logins_of_the_ide(tmp_path, fields, client, method):
    """Way of logging in and registration are those that the cache names."""
    here = ide(tmp_path, client=client, **fields)
    (place,) = sources.discover(here)
    found = place.tokens[0].account
    assert found.auth_method == method
    assert found.client_secret == (client and "fake-client-secret-1")
    assert found.client_secret_expires_at == (client and 1800000000000)
    assert found.expires_at == 1800000000000


@pytest.mark.parametrize(
    ("platform", "folder"),
    [
        ("linux", ".config/Kiro"),
        ("linux", ".config/kiro"),
        ("darwin", "Library/Application Support/Kiro"),
        ("win32", "AppData/Roaming/Kiro"),
    ],
)
def test_the_ides_profile_is_found(tmp_path, platform, folder):
    """An organisation's profile is beside the IDE's settings."""
    ide(tmp_path, provider="Enterprise", authMethod="IdC", clientIdHash="x", profile=OWN_ARN, folder=folder)
    (place,) = sources.discover(around(tmp_path, platform))
    assert (place.tokens[0].account.profile_arn, place.tokens[0].account.region) == (OWN_ARN, "eu-central-1")


@pytest.mark.parametrize("hashed", ["../../etc/x", "a/b", "", "x" * 200])
def test_the_hash_of_a_client_is_no_path(tmp_path, hashed):
    """What is in the cache cannot lead to another file."""
    here = ide(tmp_path, clientIdHash=hashed, authMethod="IdC")
    (place,) = sources.discover(here)
    assert place.tokens[0].account.client_id is None


@pytest.mark.parametrize("content", ["[1]", "{half", "{" + " " * MAX_FILE + "}"])
def test_a_damaged_cache_is_named(tmp_path, content):
    """What is no JSON object, or far too long, is a problem of that place."""
    here = ide(tmp_path)
    (tmp_path / ".aws" / "sso" / "cache" / "kiro-auth-token.json").write_text(content)
    (place,) = sources.discover(here)
    assert "no JSON object" in place.problem


def test_a_cache_without_token_is_no_login(tmp_path):
    """A file that was logged out of holds none; a folder in its place is named."""
    here = ide(tmp_path, accessToken="")
    assert sources.discover(here) == ()
    path = tmp_path / ".aws" / "sso" / "cache" / "kiro-auth-token.json"
    path.unlink()
    path.mkdir()
    (place,) = sources.discover(here)
    assert "cannot be read" in place.problem


# opencode


def multi_kiro(tmp_path, accounts):
    """Write multi-kiro.json and return surroundings with it."""
    path = tmp_path / ".config" / "opencode" / "multi-kiro.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"strategy": "sticky", "accounts": accounts}))
    return around(tmp_path)


OTHER = {
    "id": "theirs",
    "label": "a@b.c",
    "email": "a@b.c",
    "auth_method": "desktop",
    "region": "us-east-1",
    "access_token": "fake-access-1",
    "refresh_token": "fake-refresh-1",
    "expires_at": 1785542400000,
    "is_healthy": False,
    "cooldown_until": 1785542400000,
    "request_count": 7,
}


def test_accounts_of_multi_kiro(tmp_path):
    """Login, label and counters are taken, health is not, and the id is our own."""
    here = multi_kiro(tmp_path, [OTHER, {"id": "none"}, "odd"])
    (place,) = sources.discover(here)
    (token,) = place.tokens
    found = token.account
    assert (token.key, found.label, found.request_count, found.is_healthy) == ("theirs", "a@b.c", 7, True)
    assert (found.cooldown_until, found.expires_at) == (None, 1785542400000)
    assert found.id != "theirs"


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        ({"auth_method": "idc"}, "desktop"),
        ({"auth_method": "idc", "client_id": "c"}, "builder"),
        ({"auth_method": "desktop", "client_id": "c", "start_url": "https://fake.awsapps.com/start"}, "idc"),
        ({"auth_method": "builder", "client_id": "c", "start_url": "https://odd.test"}, "builder"),
    ],
)
def test_who_renews_an_account_of_multi_kiro(tmp_path, fields, method):
    """A registration decides, not the word that the plugin wrote."""
    (place,) = sources.discover(multi_kiro(tmp_path, [OTHER | fields]))
    assert place.tokens[0].account.auth_method == method


@pytest.mark.parametrize("accounts", [{"a": 1}, [OTHER | {"region": {"fake-secret": 1}}]])
def test_a_damaged_multi_kiro_is_named(tmp_path, accounts):
    """The problem says where, and nothing of the content."""
    (place,) = sources.discover(multi_kiro(tmp_path, accounts))
    assert place.problem
    assert "fake-secret" not in place.problem


def test_accounts_of_kiro_db(tmp_path):
    """The older plugin's database is read by its columns."""
    path = tmp_path / ".config" / "opencode" / "kiro.db"
    path.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(
            "CREATE TABLE accounts (id, email, auth_method, region, oidc_region, client_id, client_secret, "
            "profile_arn, start_url, access_token, refresh_token, expires_at, is_healthy, fail_count, used_count, "
            "last_used)"
        )
        row = ("1", "a@b.c", "idc", "us-east-1", "eu-west-1", "c", "fake-client-secret-1", OWN_ARN)
        row += ("https://fake.awsapps.com/start", "fake-access-1", "fake-refresh-1", 1785542400000, 1, 0, 5, 9)
        database.execute(f"INSERT INTO accounts VALUES ({', '.join('?' * len(row))})", row)
    (place,) = sources.discover(around(tmp_path))
    found = place.tokens[0].account
    assert (place.kind, found.auth_method, found.request_count, found.last_used) == ("opencode-db", "idc", 5, 9)
    assert (found.oidc_region, found.client_secret) == ("eu-west-1", "fake-client-secret-1")


# the environment, and views


@pytest.mark.parametrize(("key", "found"), [(" ksk_fake ", "ksk_fake"), ("", None), ("kßk", None)])
def test_the_api_key(tmp_path, key, found):
    """A key in the environment is an account; what cannot be a header is none."""
    places = sources.discover(around(tmp_path, KIRO_API_KEY=key))
    assert [place.tokens[0].account.access_token for place in places] == ([found] if found else [])
    assert "ksk_fake" not in repr(places)
    assert "ksk_fake" not in repr(Surroundings({"KIRO_API_KEY": key}, Path("/fake"), "linux"))


def test_only_the_kinds_asked_for_are_looked_at(tmp_path):
    """A place that was not asked for is not opened."""
    here = around(tmp_path, KIRO_API_KEY="ksk_fake", KIROCLI_DB_PATH=str(tmp_path))
    assert [place.kind for place in sources.discover(here, [sources.ENVIRONMENT])] == ["environment"]


def test_a_shared_account_is_read_each_time(tmp_path):
    """It has the login that is in the store now; without the store, what is kept here."""
    path = tmp_path / "data.sqlite3"
    here = around(tmp_path, KIROCLI_DB_PATH=str(path))
    with kiro_cli.store(path, {SOCIAL: cli_token()}) as database:
        (place,) = sources.discover(here)
        shared = account(9, source=place.source(place.tokens[0]), label="mine", user_id="u1")
        seen = sources.view(shared, here)
        assert (seen.access_token, seen.label, seen.user_id, seen.id) == ("fake-access-1", "mine", "u1", shared.id)
        database.execute("DELETE FROM auth_kv")
        assert sources.view(shared, here) == shared
    path.write_bytes(b"damaged" * 100)
    assert sources.view(shared, here) == shared
    assert sources.view(account(3), here).access_token == "fake-access-3"


def test_a_database_whose_text_is_damaged_is_not_quoted(tmp_path):
    """A login that is no UTF-8 is in no message: Python's own would quote it."""
    path = tmp_path / "data.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE auth_kv (key TEXT, value TEXT)")
        connection.execute("INSERT INTO auth_kv VALUES ('k', CAST(x'66616b652d31ff' AS TEXT))")
        connection.commit()
    with pytest.raises(Unreadable, match="no UTF-8") as caught:
        kiro_cli_store.read(path)
    assert "fake-1" not in "".join(traceback.format_exception(caught.value))
