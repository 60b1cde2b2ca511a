"""Where secrets could leak to: tracebacks, logs of libraries, arguments and environments of children, files, links."""

import json
import logging
import os
import subprocess
import traceback
from pathlib import Path

import pytest

from kimi_core import detached
from kimi_core.errors import KimiMitmError
from kimi_core.headers import Headers
from kimi_core.kimi import refresher
from kimi_core.kimi.constants import site_for
from kimi_core.kimi.logins import StoredLogin
from kimi_core.kimi.rotation import Job
from kimi_core.kiro.accounts import Account, Registry, new_id
from kimi_core.kiro.stores import Unreadable, read_json
from kimi_core.outbound import Outbound
from kimi_core.store import Document
from kimi_core.tokens import OAuthToken

SECRET = "fake-refresh-1"
WINDOWS = os.name == "nt"


def told(problem: BaseException) -> str:
    """Return all that a traceback of *problem* shows."""
    return "".join(traceback.format_exception(problem))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"access_token": SECRET, "refresh_token": 7}),
        json.dumps({"access_token": SECRET})[:-1],
        f'["{SECRET}"]',
        json.dumps({"accounts": [{"id": "1", "refresh_token": [SECRET]}]}),
        json.dumps({"accounts": SECRET}),
        f'{{"accounts": "{SECRET}", "expires_at": {"9" * 5000}}}',
    ],
)
def test_a_traceback_of_a_damaged_store_shows_nothing_of_it(tmp_path, content):
    """Neither the error nor what caused it quotes the file."""
    for name in ("kimi-kimi.com.json", "kiro-accounts.json"):
        (tmp_path / name).write_text(content)
    problems = []
    for ask in (StoredLogin(tmp_path, "kimi.com").token, Registry(tmp_path).load, lambda: _read(tmp_path)):
        try:
            ask()
        except (KimiMitmError, Unreadable) as error:
            problems.append(told(error))
    assert problems
    assert not [text for text in problems if SECRET in text]


def _read(folder):
    return read_json(folder / "kimi-kimi.com.json")


@pytest.mark.parametrize("answer", [{"access_token": SECRET}, {"access_token": SECRET, "refresh_token": [SECRET]}])
def test_a_traceback_of_an_odd_token_shows_nothing_of_it(answer):
    """The field is named, its value is not."""
    with pytest.raises(ValueError, match="missing or no") as caught:
        OAuthToken.from_response(answer | {"expires_in": 5, "refresh_token": answer.get("refresh_token")}, 0.0)
    assert SECRET not in told(caught.value)


@pytest.mark.parametrize("name", ["httpx", "httpcore", "httpcore.http11", "httpcore.connection"])
def test_libraries_that_would_log_header_fields_are_silenced(name):
    """Mitmproxy's --verbose lets every logger of the process through; these would tell each step of a login."""
    assert logging.getLogger(name).getEffectiveLevel() >= logging.WARNING


async def test_the_process_of_a_refresh_gets_no_secret_in_its_arguments(tmp_path, monkeypatch):
    """Arguments are for everybody to see; what it needs comes by its standard input, and it reads the store itself."""
    StoredLogin(tmp_path, "kimi.com").put(OAuthToken(SECRET, SECRET, 0.0, 900.0))
    started = []

    def popen(words, **more):
        started.append((words, more))
        raise OSError("no process here")

    monkeypatch.setattr(subprocess, "Popen", popen)
    job = Job(site_for("cn", {}), Headers([("user-agent", "x")]), Outbound().to_json(), tmp_path)
    with pytest.raises(detached.NotStarted):
        await detached.run(refresher.MODULE, job.to_json())
    ((words, more),) = started
    assert SECRET not in json.dumps([words, job.to_json()])
    assert "env" not in more, "it has the environment of its parent, and nothing beside"
    assert "-P" in words, "the working directory is no place to import from"


@pytest.mark.skipif(WINDOWS, reason="Windows has access lists in place of permission bits")
def test_what_is_written_is_for_its_owner_alone(tmp_path):
    """A folder that others could look into is closed, a file that they could read is replaced by one they cannot."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    document = Document(folder / "kimi-kimi.com.json")
    document.path.write_text("{}")
    document.path.chmod(0o644)
    with document.lock(1):
        document.write({"access_token": SECRET})
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert set(modes.values()) == {"0o600"}
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


@pytest.mark.skipif(WINDOWS, reason="links need rights there")
@pytest.mark.parametrize("name", ["kimi-kimi.com.json", "kiro-accounts.json", "client-key.json"])
def test_a_link_in_place_of_a_store_is_neither_read_nor_followed(tmp_path, name):
    """What it points at stays as it is."""
    aim = tmp_path / "theirs.json"
    aim.write_text("{}")
    (tmp_path / "data").mkdir(mode=0o700)
    link = tmp_path / "data" / name
    link.symlink_to(aim)
    document = Document(link)
    for ask in (document.read, lambda: document.write({"a": 1})):
        with pytest.raises(KimiMitmError, match="symbolic link"):
            ask()
    assert aim.read_text() == "{}"


@pytest.mark.parametrize("label", ["../../etc/passwd", "..", "/etc/x", "a\x00b", "con", "kiro-accounts.json"])
def test_a_label_is_no_name_of_a_file(tmp_path, label):
    """However an account is called, it lives in the one document."""
    registry = Registry(tmp_path / "data")
    registry.update(lambda stored: stored.upsert(Account(id=new_id(), label=label, refresh_token=SECRET)))
    assert {path.name for path in (tmp_path / "data").iterdir()} <= {"kiro-accounts.json", "kiro-accounts.json.lock"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("url", ["https://..", "https://../x", "https://a.test/../../x", "https://a\\..\\b"])
def test_an_address_of_the_environment_is_no_path(tmp_path, url):
    """The name of a login's file is made of the host, and stays one name in its folder."""
    try:
        slot = site_for("cn", {"KIMI_CODE_BASE_URL": url, "KIMI_CODE_OAUTH_HOST": url}).slot
    except KimiMitmError:
        return
    assert StoredLogin(tmp_path, slot).document.path.parent == tmp_path
    assert Path(f"kimi-{slot}.json").name == f"kimi-{slot}.json"
