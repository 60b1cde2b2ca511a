"""Disks that are full, stores that are damaged or replaced, clocks that jump, other versions of the program."""

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos import ailing
from tests.e2e.harness import wait_until
from tests.e2e.kiro_harness import KiroProxy, KiroWorld, said

CHAT = {"model": "kimi-for-coding", "stream": True, "messages": [{"role": "user", "content": "[[say well]]"}]}
KIRO = CHAT | {"model": "claude-sonnet-4.5"}
DAY = 86_400
VARIABLE = "KIMI_TEST_AILING"


class Ailing:
    """A proxy with both logins whose disk and clock a test has in its hands."""

    def __init__(self, world, proxy, path):
        self.world, self.proxy, self.path = world, proxy, path

    def ail(self, **how):
        new = self.path.with_suffix(".new")  # the processes read it at any moment
        new.write_text(json.dumps(how))
        new.replace(self.path)

    @property
    def kimi_file(self):
        return self.proxy.session().status().path

    @property
    def kiro_file(self):
        return self.proxy.registry.document.path

    def kimi(self):
        with self.proxy.local_client() as client:
            return client.post(f"{self.proxy.url}/kimi/v1/chat/completions", json=CHAT)

    def kiro(self):
        with self.proxy.local_client() as client:
            return client.post("chat/completions", json=KIRO)

    def well(self):
        """Assert that both services serve."""
        for answer in (self.kimi(), self.kiro()):
            assert answer.status_code == 200, answer.text
            assert said(answer) == "well"


@pytest.fixture(scope="module")
def running(background, ca, confdir, tmp_path_factory):
    """Run a proxy from whose processes disk and time can be taken."""
    folder = tmp_path_factory.mktemp("ailing")
    (folder / "site").mkdir()
    shutil.copy(ailing.__file__, folder / "site" / "sitecustomize.py")
    environ = {"PYTHONPATH": str(folder / "site"), VARIABLE: str(folder / "ailing.json")}
    with KiroWorld(background, ca, folder) as world:
        proxy = KiroProxy(world, folder / "proxy", confdir, environ=environ)
        proxy.login()
        proxy.accounts(1)
        with proxy:
            yield Ailing(world, proxy, folder / "ailing.json")


@pytest.fixture
def sick(running):
    """Begin in health, with new logins, and end in it: both services serve, and no login was spent twice."""
    world, proxy = running.world, running.proxy
    running.ail()
    world.reset()
    for path in (running.kimi_file, running.kiro_file):
        path.unlink(missing_ok=True)
    proxy.login()
    proxy.accounts(1)
    reuses = (world.kimi.oauth.reuses, world.aws.reuses)
    yield running
    running.ail()
    running.well()
    assert (world.kimi.oauth.reuses, world.aws.reuses) == reuses


def error(answer):
    """Return the code of an error that says what to do."""
    found = answer.json()["error"]
    assert found["message"]
    return found["code"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.EACCES])
def test_where_nothing_can_be_stored_nothing_is_spent(sick, number):
    """Tokens that are good serve on; one that is refused is not renewed, for its successor could not be kept."""
    kimi, aws = sick.world.kimi.oauth, sick.world.aws
    sick.ail(errno=number)
    sick.well()
    kimi.reject_access()
    for family in aws.families:
        family.access.clear()
    before = (kimi.refreshes, aws.refreshes)
    for answer in (sick.kimi(), sick.kiro()):
        assert answer.status_code >= 400
        assert error(answer)
    assert (kimi.refreshes, aws.refreshes) == before
    sick.ail()
    sick.well()
    assert (kimi.refreshes, aws.refreshes) == (before[0] + 1, before[1] + 1)


def test_what_cannot_be_stored_any_more_is_kept_until_it_can(sick):
    """The disk fails when the old tokens are spent: clients hear of it, and the new ones are used once it is back."""
    kimi, aws = sick.world.kimi.oauth, sick.world.aws
    kimi.reject_access()
    for family in aws.families:
        family.access.clear()
    before = (kimi.refreshes, aws.refreshes)
    stored = {path: path.read_bytes() for path in (sick.kimi_file, sick.kiro_file)}
    sick.ail(late=errno.ENOSPC)
    with ThreadPoolExecutor() as pool:
        for answer in pool.map(lambda ask: ask(), (sick.kimi, sick.kiro)):
            assert answer.status_code >= 400
            assert error(answer)
    assert (kimi.refreshes, aws.refreshes) == (before[0] + 1, before[1] + 1)
    assert json.loads(sick.kimi_file.read_text()) == json.loads(stored[sick.kimi_file])
    sick.ail()
    sick.well()
    assert (kimi.refreshes, aws.refreshes) == (before[0] + 1, before[1] + 1)
    for path, content in stored.items():
        assert path.read_bytes() != content
        assert not [*path.parent.glob(f".{path.name}*")]


DAMAGE = {
    "emptied": b"",
    "cut": b'{"access_token": "fake-acc',
    "no JSON": b"\x00\xff\xfe damaged",
    "a list": b"[]",
    "a number": b"7",
    "other types": b'{"access_token": 1, "refresh_token": {}, "accounts": 3}',
    "too deep": b'{"a":' * 100_000,
    "a directory": None,
    "gone": ...,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_store_that_is_damaged_while_running_is_told_and_kept(sick, name):
    """The client learns what to do; the file stays as it is; once it is back everything goes on."""
    found = {path: path.read_bytes() for path in (sick.kimi_file, sick.kiro_file)}
    content = DAMAGE[name]
    for path in found:
        path.unlink()
        if content is None:
            path.mkdir()
        elif content is not ...:
            path.write_bytes(content)
    for answer in (sick.kimi(), sick.kiro()):
        assert answer.status_code in {401, 500, 503}, answer.text
        assert error(answer)
    for path, original in found.items():
        if content is None:
            path.rmdir()
        elif content is not ...:
            assert path.read_bytes() == content
        path.write_bytes(original)
    sick.well()


def test_a_store_that_is_replaced_while_running_is_used_at_once(sick):
    """Another login in the same file serves the very next request, also where it has the old one's size and times."""
    sick.well()
    before = sick.world.kimi.of("chat")[-1].bearer
    sick.proxy.login()
    sick.proxy.accounts(1)
    sick.well()
    assert sick.world.kimi.of("chat")[-1].bearer != before


@pytest.mark.parametrize("jump", [3600, DAY, 400 * DAY, -3600, -DAY, -400 * DAY, -50 * 365 * DAY])
def test_a_clock_that_jumps_loses_no_login(sick, jump):
    """Ahead or back: requests are served, and a login is renewed a few times at the most, there and back again."""
    kimi, aws = sick.world.kimi.oauth, sick.world.aws
    before = kimi.refreshes + aws.refreshes
    sick.ail(clock=jump)
    for _ in range(3):
        sick.well()
    sick.ail()
    for _ in range(3):
        sick.well()
    assert kimi.refreshes + aws.refreshes - before <= 6
    assert (kimi.rejections, aws.rejections) == (0, 0)


def test_a_newer_version_beside_this_one_loses_nothing_of_its_own(sick):
    """Members that are not known here outlive refreshes and notes of this version."""
    kimi = json.loads(sick.kimi_file.read_text()) | {"future": {"a": [1]}}
    sick.kimi_file.write_text(json.dumps(kimi))
    kiro = json.loads(sick.kiro_file.read_text()) | {"future": 1}
    kiro["accounts"][0] |= {"future": {"b": 2}, "usage": {"used": 1, "limit": 2, "future": 3}}
    sick.kiro_file.write_text(json.dumps(kiro))
    sick.world.kimi.oauth.reject_access()
    for family in sick.world.aws.families:
        family.access.clear()
    sick.well()
    after = json.loads(sick.kimi_file.read_text())
    assert after["future"] == {"a": [1]}
    assert after["access_token"] != kimi["access_token"]
    wait_until(lambda: json.loads(sick.kiro_file.read_text())["accounts"][0].get("last_used"), "that its use is noted")
    after = json.loads(sick.kiro_file.read_text())
    assert after["future"] == 1
    assert after["accounts"][0]["future"] == {"b": 2}
    assert after["accounts"][0]["access_token"] != kiro["accounts"][0]["access_token"]


def test_an_older_versions_documents_are_read(sick):
    """What a version before this one did not write has a default."""
    kept = ("access_token", "refresh_token", "expires_at", "expires_in")
    kimi = json.loads(sick.kimi_file.read_text())
    sick.kimi_file.write_text(json.dumps({name: kimi[name] for name in kept}))
    account = json.loads(sick.kiro_file.read_text())["accounts"][0]
    kept = ("id", "access_token", "refresh_token", "expires_at", "auth_method")
    sick.kiro_file.write_text(json.dumps({"accounts": [{name: account[name] for name in kept}]}))
    sick.well()
