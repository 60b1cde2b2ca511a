import os
from pathlib import Path

import pytest

from kimi_core.cli.checks.check import State
from kimi_core.cli.checks.storage import Entry, Room, judge_files, judge_folder, judge_room

ID = "0123456789abcdef0123456789abcdef"


def test_before_the_first_login(cli, find):
    """Nothing is wrong with folders and files that are still to be made."""
    assert find(cli, "store.folder")["state"] == "skipped"
    assert find(cli, "store.files")["state"] == "skipped"
    assert find(cli, "store.room")["state"] == "ok"
    assert find(cli, "store.device-id")["state"] == "ok"


def test_a_store_that_is_well(cli, find):
    """A folder and files of one's own are well."""
    cli.log_in()
    cli.login_file.chmod(0o600)
    assert find(cli, "store.folder")["state"] == "ok"
    assert find(cli, "store.files")["state"] == "ok"


@pytest.mark.parametrize(("mode", "state"), [(0o755, "warning"), (0o750, "warning"), (0o777, "problem")])
def test_a_folder_that_is_open_to_others(cli, find, mode, state):
    """A folder that others may look into is a warning, one that they may write to is a problem."""
    cli.data.mkdir()
    cli.data.chmod(mode)
    found = find(cli, "store.folder")
    assert found["state"] == state
    assert found["fix"] == f"chmod 700 {cli.data}"


def test_a_file_in_place_of_the_folder(cli, find):
    """Where a file has the folder's name, no login can be kept."""
    cli.data.write_text("")
    assert find(cli, "store.folder")["state"] == "problem"


def test_a_folder_that_is_elsewhere(cli, find, tmp_path):
    """A link to a folder is judged by where it leads."""
    (tmp_path / "there").mkdir(mode=0o700)
    cli.data.symlink_to(tmp_path / "there")
    assert find(cli, "store.folder")["state"] == "ok"
    (tmp_path / "there").rmdir()
    assert find(cli, "store.folder")["state"] == "problem"


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (Entry(Path("/data"), folder=True, mode=0o700, mine=False), "another user"),
        (Entry(Path("/data"), folder=True, mode=0o500, writable=False), "cannot be read and written"),
    ],
)
def test_a_folder_of_somebody_else(entry, word):
    """A folder of another user, and one that is read-only, are problems."""
    found = judge_folder(entry)
    assert found.state is State.problem
    assert word in found.message


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="to root every folder is writable")
def test_a_folder_that_is_read_only(cli, find):
    """A folder that cannot be written to is a problem."""
    cli.data.mkdir(mode=0o500)
    try:
        assert find(cli, "store.folder")["state"] == "problem"
    finally:
        cli.data.chmod(0o700)


def test_a_file_that_others_may_read(cli, find):
    """A login that others may read is a problem."""
    cli.log_in()
    cli.login_file.chmod(0o644)
    found = find(cli, "store.files")
    assert found["state"] == "problem"
    assert found["fix"] == f"chmod 600 {cli.login_file}"


def test_a_link_in_place_of_a_login(cli, find, tmp_path):
    """A symbolic link is named: logins are never read through one."""
    cli.log_in()
    cli.login_file.rename(tmp_path / "elsewhere.json")
    cli.login_file.symlink_to(tmp_path / "elsewhere.json")
    assert "symbolic link" in find(cli, "store.files")["message"]


def test_a_damaged_file_is_found_among_good_ones(cli, find):
    """The worst of several files decides, and its content is not repeated."""
    cli.log_in()
    cli.login_file.chmod(0o600)
    damaged = cli.data / "kiro-accounts.json"
    damaged.write_text('{"refresh_token": "fake-refresh-1"')
    found = find(cli, "store.files")
    assert found["state"] == "problem"
    assert str(damaged) in found["message"]
    assert found["fix"].startswith("kimi-mitm login kiro")
    assert "fake-refresh-1" not in str(found)


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (Entry(Path("/data/kimi-x.json"), mode=0o600, mine=False), "another user"),
        (Entry(Path("/data/kimi-x.json"), mode=0o600, readable=False), "cannot be read"),
        (Entry(Path("/data/kimi-x.json"), mode=0o600, damage="It is damaged."), "damaged"),
    ],
)
def test_files_that_cannot_be_used(entry, word):
    """Files of others, unreadable ones and damaged ones are told apart."""
    found = judge_files([Entry(Path("/data/kimi-y.json"), mode=0o600), entry])
    assert found.state is State.problem
    assert word in found.message


def test_a_path_that_leads_nowhere(tmp_path):
    """What the system refuses to look at is no file."""
    (tmp_path / "file").write_text("")
    entry = Entry.of(tmp_path / "file" / "below")
    assert not entry.readable
    assert not entry.exists or entry.damage


def test_a_folder_that_cannot_be_looked_into(cli, find, monkeypatch):
    """Where the folder refuses, the check of the folder says why."""
    cli.data.mkdir()

    def refuse(self, _):
        raise PermissionError

    monkeypatch.setattr(Path, "glob", refuse)
    assert "store.folder" in find(cli, "store.files")["message"]


@pytest.mark.parametrize(("free", "state"), [(1024, State.problem), (1024 * 1024, State.warning), (1024**3, State.ok)])
def test_room(free, state):
    """A full disk is a problem, one that is nearly full a warning."""
    assert judge_room(Room(Path("/data"), free)).state is state


def test_the_device_id(cli, find):
    """A file with an id is well, whatever program has made it; one with something else is a warning."""
    path = Path(cli.environ.setdefault("KIMI_SHARE_DIR", str(cli.folder / "share"))) / "device_id"
    path.parent.mkdir()
    for text, state in ((ID, "ok"), (f"{ID}\n", "ok"), ("", "warning"), ("nonsense", "warning")):
        path.write_text(text)
        assert find(cli, "store.device-id")["state"] == state
    path.unlink()
    path.mkdir()
    found = find(cli, "store.device-id")
    assert found["state"] == "warning"
    assert "cannot be read" in found["message"]


def test_no_device_id(cli, find):
    """The honest identity has none."""
    assert find(cli, "store.device-id", "--set", "kimi_identity=own")["state"] == "skipped"


def test_a_device_id_that_cannot_be_made(cli, find):
    """Where its folder cannot be made (here: it is a file), a stand-in is used."""
    share = cli.folder / "share"
    share.write_text("")
    cli.environ["KIMI_SHARE_DIR"] = str(share / "below")
    found = find(cli, "store.device-id")
    assert found["state"] == "warning"
    assert "cannot be made" in found["message"]
