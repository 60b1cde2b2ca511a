import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.certs import CertStore

from kimi_core.blocks import kimi as kimi_blocks
from kimi_core.blocks import kiro as kiro_blocks
from kimi_core.cli import section
from kimi_core.cli.clients import CLIENTS
from kimi_core.cli.jsonc import parse
from kimi_core.cli.userfile import ClientFileError, apply, plan

KIMI, KIRO = kimi_blocks.PROVIDER_ID, kiro_blocks.PROVIDER_ID
COMMENTED = """{
\t// what I look at
\t"theme": "dark",
\t"provider": {
\t\t"mine": {"name": "Mine", "options": {"apiKey": "sk-fake-mine-1"}}, // not yours
\t},
}
"""
posix = pytest.mark.skipif(os.name == "nt", reason="permissions and links as POSIX has them")


@pytest.fixture
def opencode_file(cli):
    """The user's own file of opencode, with comments."""
    path = cli.folder / ".config/opencode/opencode.json"
    path.parent.mkdir(parents=True)
    path.write_text(COMMENTED)
    return path


def backups(path):
    """Return the backups beside a file, oldest first."""
    return sorted(path.parent.glob(f"{path.name}.*.bak"))


# --- what is printed --------------------------------------------------------------------------------------------------


def test_standard_output_is_the_block_and_nothing_else(cli):
    """The block can be piped into a file; what else there is to know is told on standard error."""
    cli.log_in()
    result = cli("config", "opencode")
    models = json.loads(result.stdout)["provider"][KIMI]["models"]
    assert list(models) == ["kimi-for-coding", "k3"]
    assert next(iter(models["k3"]["variants"])) == "off"
    assert "kimi-mitm run -- opencode" in result.stderr


def test_the_services_are_those_one_is_logged_in_to(kiro):
    """One block holds all of them; the models are those of the plans, the agent is there for Kiro."""
    kiro.log_in()
    assert list(json.loads(kiro("config", "opencode").stdout)["provider"]) == [KIMI]
    kiro.account()
    both = json.loads(kiro("config", "opencode").stdout)
    assert list(both["provider"]) == [KIMI, KIRO]
    assert both["agent"]["kiro"]["model"].startswith(f"{KIRO}/")
    assert kiro.fake.of("models")
    assert kiro.service.of("models")
    assert list(json.loads(kiro("config", "opencode", "--kiro").stdout)["provider"]) == [KIRO]
    switched_off = kiro("config", "opencode", "--set", "kiro_enabled=false").stdout
    assert list(json.loads(switched_off)["provider"]) == [KIMI]


def test_without_a_login_the_flags_say_what_is_meant(kiro):
    """Nothing is guessed; with a flag the lines are printed with what is known without a login."""
    result = kiro("config", "opencode")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "--kimi or --kiro" in result.stderr
    result = kiro("config", "opencode", "--kimi", "--kiro")
    assert list(json.loads(result.stdout)["provider"]) == [KIMI, KIRO]
    assert "no Kiro account yet" in result.stderr


@pytest.mark.parametrize(
    ("words", "of_kimi", "of_kiro"),
    [
        ((), "{url}/coding/v1", "{api}/v1"),
        (("--base-url",), "http://127.0.0.1:8080/kimi/v1", "http://127.0.0.1:8080/kiro/v1"),
        (("--base-url", "--set", "listen_port=9"), "http://127.0.0.1:9/kimi/v1", "http://127.0.0.1:9/kiro/v1"),
    ],
)
@pytest.mark.parametrize(
    ("client", "root", "options"), [("opencode", "provider", "options"), ("opencode-v2", "providers", "settings")]
)
def test_both_ways_in(kiro, words, of_kimi, of_kiro, client, root, options):
    """The services' own addresses behind HTTPS_PROXY, or the proxy's own port."""
    found = json.loads(kiro("config", client, "--kimi", "--kiro", *words).stdout)[root]
    places = {"url": kiro.url, "api": kiro.environ["KIRO_RUNTIME_URL"]}
    assert found[KIMI][options]["baseURL"] == of_kimi.format(**places)
    assert found[KIRO][options]["baseURL"] == of_kiro.format(**places)


def test_a_limit_is_put_in_on_request(cli):
    """The context that the service tells, and the output that the user names; only where there is room for it."""
    cli.log_in()
    block = json.loads(cli("config", "opencode", "--with-limit", "4000").stdout)
    assert block["provider"][KIMI]["models"]["k3"]["limit"] == {"context": 1048576, "output": 4000}
    result = cli("config", "curl", "--with-limit", "4000")
    assert (result.exit_code, "no limit" in result.stderr) == (2, True)


@pytest.mark.parametrize(("client", "one"), [("curl", "kiro/v1/chat"), ("openai", "OPENAI_BASE_URL")])
def test_lines_for_the_shell(kiro, client, one):
    """They are what `models --block` prints."""
    for service in ("kimi", "kiro"):
        printed = kiro("config", client, f"--{service}").stdout
        assert printed == kiro("models", service, "--block", client).stdout
    assert one in printed


def test_claude_code_is_for_kimi_alone(kiro):
    """Kiro is not offered in the dialect that it speaks, and that is said."""
    kiro.account()
    for words in ((), ("--kiro",), ("--kimi", "--kiro")):
        result = kiro("config", "claude-code", *words)
        assert (result.exit_code in (2, 3), result.stdout) == (True, "")
        assert "Anthropic dialect" in result.stderr
    kiro.log_in()
    env = json.loads(kiro("config", "claude-code").stdout)["env"]
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8080/kimi"


def test_a_client_with_room_for_one(kiro):
    """Of two that are logged in the first is taken and the other named; two that are asked for are refused."""
    kiro.log_in()
    kiro.account()
    result = kiro("config", "openai")
    assert "/kimi/v1" in result.stdout
    assert "--kiro has the others" in result.stderr
    assert kiro("config", "openai", "--kimi", "--kiro").exit_code == 2
    assert kiro("config", "curl").stdout.count("curl -N") == 2


def test_the_environment_of_any_client(cli):
    """Each variable is one that a shell takes; they lead through the proxy and trust its certificate."""
    result = cli("config", "env")
    assert (result.exit_code, "ca_missing" in cli("config", "env", "--json").stdout) == (1, True)
    CertStore.create_store(cli.folder / "mitmproxy", "mitmproxy", 2048)
    script = cli("config", "env").stdout + 'printf "%s\\n" "$HTTPS_PROXY" "$SSL_CERT_FILE" "$NO_PROXY"'
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "http://127.0.0.1:8080"
    assert Path(said[1]).read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert "127.0.0.1" in said[2]
    assert "KIMI_MITM_KEY" in cli("config", "env", "--set", "kimi_client_key=auto").stderr
    assert cli("config", "env", "--base-url").exit_code == 2


def test_the_key_is_named_and_never_printed(cli):
    """Where the proxy asks for one, the lines say where it is."""
    cli.log_in()
    for client in ("opencode", "openai", "curl", "claude-code"):
        result = cli("config", client, "--set", "kimi_client_key=fake-client-key-1")
        assert "KIMI_MITM_KEY" in result.stdout + result.stderr
        assert "fake-client-key-1" not in result.output


def test_json_has_block_and_notes(cli):
    """Programs get the same as one object."""
    cli.log_in()
    found = cli.json("config", "opencode")
    assert found["services"] == ["kimi"]
    assert json.loads(found["block"])["provider"]
    assert found["notes"]


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_every_client_has_a_block(client):
    """The table names blocks that there are."""
    known = {*kimi_blocks.BLOCK_NAMES, *kiro_blocks.BLOCK_NAMES, ""}
    assert client.block in known
    assert client.lacking or client.block in ("", *kiro_blocks.BLOCK_NAMES)


# --- what is written --------------------------------------------------------------------------------------------------


def test_writing_keeps_what_is_there_and_makes_a_backup(cli, opencode_file):
    """The user's every byte is still there; the backup is the old file, permissions included; twice is once."""
    cli.log_in()
    opencode_file.chmod(0o640)
    result = cli("config", "opencode", "--write")
    assert result.exit_code == 0
    text = opencode_file.read_text()
    rest = iter(text)
    assert all(sign in rest for sign in COMMENTED)
    found = parse(text).value
    assert list(found["provider"]) == ["mine", KIMI]
    assert "$schema" not in found
    (backup,) = backups(opencode_file)
    assert backup.read_text() == COMMENTED
    assert str(backup) in result.stdout
    assert [path.stat().st_mode & 0o777 for path in (backup, opencode_file)] == [0o640, 0o640]
    again = cli("config", "opencode", "--write")
    assert "Nothing to change" in again.stdout
    assert (opencode_file.read_text(), backups(opencode_file)) == (text, [backup])
    assert not list(opencode_file.parent.glob(".*"))


def test_a_new_file_has_the_block_and_nothing_else(cli):
    """Without a file there is nothing to keep; the schema's address is in it, for editors."""
    cli.log_in()
    printed = cli("config", "opencode").stdout
    found = cli.json("config", "opencode", "--write")
    assert found == {"file": str(cli.folder / ".config/opencode/opencode.json"), "changed": True, "backup": None}
    assert Path(found["file"]).read_text() == printed


def test_only_our_own_keys_change(kiro):
    """What the user has added to our provider stays, also an agent of the name; our own values are set right."""
    path = kiro.folder / "project.jsonc"
    mine = {
        "agent": {"kiro": {"model": "kiro/auto", "prompt": "be brief"}},
        "provider": {KIRO: {"name": "Mine", "models": {"auto": {"limit": {"context": 5, "output": 5}}, "own": {}}}},
    }
    path.write_text(json.dumps(mine, indent=2))
    kiro.account()
    assert kiro("config", "opencode", "--write", "--file", str(path)).exit_code == 0
    found = parse(path.read_text()).value
    assert found["agent"] == mine["agent"]
    assert found["provider"][KIRO]["name"] == "Kiro"
    assert "own" in found["provider"][KIRO]["models"]
    assert next(iter(found["provider"][KIRO]["models"]["claude-opus-4-6"]["variants"])) == "off"


def test_a_switch_of_the_way_in_changes_the_address_alone(cli, opencode_file):
    """With --base-url the same block gets the other address."""
    cli.log_in()
    cli("config", "opencode", "--write")
    before = opencode_file.read_text()
    cli("config", "opencode", "--write", "--base-url")
    after = opencode_file.read_text()
    assert after == before.replace(f"{cli.url}/coding/v1", "http://127.0.0.1:8080/kimi/v1") != before


@pytest.mark.parametrize(
    ("environ", "files", "expected"),
    [
        ({}, [], ".config/opencode/opencode.json"),
        ({}, [".config/opencode/opencode.json", ".config/opencode/opencode.jsonc"], ".config/opencode/opencode.jsonc"),
        ({"XDG_CONFIG_HOME": "{home}/xdg"}, [], "xdg/opencode/opencode.json"),
        ({"XDG_CONFIG_HOME": "{home}/xdg", "OPENCODE_CONFIG": "{home}/my.json"}, [], "my.json"),
    ],
)
def test_which_file_is_opencodes(tmp_path, environ, files, expected):
    """The one that opencode would read last, in the place where it looks."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    given = {name: value.format(home=tmp_path) for name, value in environ.items()}
    assert CLIENTS["opencode"].file(given, tmp_path) == tmp_path / expected


def test_claude_codes_settings(cli):
    """The section env gets our variables, and the rest of the settings stays."""
    settings_file = cli.folder / ".claude/settings.json"
    settings_file.parent.mkdir()
    settings_file.write_text('{\n  "model": "opus",\n  "env": {"EDITOR": "vi"}\n}\n')
    cli.log_in()
    assert cli("config", "claude-code", "--write").exit_code == 0
    found = json.loads(settings_file.read_text())
    assert (found["model"], found["env"]["EDITOR"]) == ("opus", "vi")
    assert found["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8080/kimi"
    assert CLIENTS["claude-code"].file({"CLAUDE_CONFIG_DIR": "/x"}, Path("/y")) == Path("/x/settings.json")


def test_a_shell_file_gets_lines_between_marks(cli):
    """The lines are found again and replaced; what stands around them stays."""
    path = cli.folder / "env.sh"
    path.write_text("# mine\nexport EDITOR=vi")
    cli.log_in()
    result = cli("config", "openai", "--write")
    assert (result.exit_code, "--file" in result.stderr) == (2, True)
    assert cli("config", "openai", "--write", "--file", str(path)).exit_code == 0
    cli("config", "openai", "--write", "--file", str(path), "--set", "listen_port=9")
    with path.open("a") as file:
        file.write("alias k=kimi-mitm\n")
    assert (
        "Nothing to change" in cli("config", "openai", "--write", "--file", str(path), "--set", "listen_port=9").stdout
    )
    assert path.read_text().splitlines() == [
        "# mine",
        "export EDITOR=vi",
        "",
        "# >>> kimi-mitm openai >>>",
        "export OPENAI_BASE_URL=http://127.0.0.1:9/kimi/v1",
        "export OPENAI_API_KEY=kimi-mitm",
        "# <<< kimi-mitm openai <<<",
        "alias k=kimi-mitm",
    ]


def test_the_diff_changes_nothing_and_hides_keys(cli, opencode_file):
    """A dry run shows what would be added; the user's own keys, which may stand beside it, are not shown."""
    cli.log_in()
    result = cli("config", "opencode", "--diff")
    assert f'+\t\t"{KIMI}": {{' in result.stdout.splitlines()
    assert '"options": {"apiKey": …}' in result.stdout
    assert "sk-fake" not in result.output
    assert (opencode_file.read_text(), backups(opencode_file)) == (COMMENTED, [])
    assert cli.json("config", "opencode", "--diff")["changed"] is True
    cli("config", "opencode", "--write")
    result = cli("config", "opencode", "--diff")
    assert (result.stdout, "Nothing to change" in result.stderr) == ("", True)
    assert cli("config", "opencode", "--diff", "--file", str(cli.folder / "new.json")).stdout.startswith(
        "--- /dev/null"
    )


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('"apiKey": "sk-fake-1"', '"apiKey": …'),
        ('"Authorization": "Bearer fake"', '"Authorization": …'),
        ('"x_secret_y": 5', '"x_secret_y": …'),
        ("export MY_TOKEN='fake'", "export MY_TOKEN=…"),
        ("password = fake", "password = …"),
        ("-H 'Authorization: Bearer sk-fake-1' -v", "-H 'Authorization: …' -v"),
        (r'"apiKey": "sk-\"fake"', '"apiKey": …'),
        ('"token": ["sk-fake-1", "sk-fake-2"]', '"token": …'),
        ("export GITHUB_PAT=fake", "export GITHUB_PAT=…"),
        ('"X-Auth": "fake"', '"X-Auth": …'),
        ('"Cookie": "a=fake"', '"Cookie": …'),
        ('"proxy": "http://user:fake@host:1"', '"proxy": "http://…@host:1"'),
        ('"apiKey": "kimi-mitm"', '"apiKey": "kimi-mitm"'),
        ('"apiKey": "{env:MINE}"', '"apiKey": "{env:MINE}"'),
        ('export KEY="$OTHER"', 'export KEY="$OTHER"'),
        ('"keybinds": {"a": "b"}', '"keybinds": {"a": "b"}'),
        ('"theme": "dark"', '"theme": "dark"'),
    ],
)
def test_no_line_of_a_diff_shows_a_secret_of_the_users(tmp_path, line, shown):
    """Be it left, taken away, or changed by a comma: only placeholders and references are shown."""
    path = tmp_path / "x"
    path.write_text(f"{line}\nend\n")
    for after in (f"{line}\n", f"{line},\nend\n", "end\n"):
        said = plan(path, lambda text, after=after: after).diff().splitlines()[3:]
        rows = {row[1:].rstrip(",") for row in said}
        assert shown in rows
        assert rows <= {shown, "end"}


def test_a_file_needs_a_purpose(cli):
    """--file without --write or --diff would be a mistake unseen."""
    assert cli("config", "opencode", "--file", "x").exit_code == 2


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{\n  "provider": {\n  "a" 1}}', "line 3, column 7"),
        (b'{\n  "provider": []\n}', "line 2, column 15"),
        (b"[]", "line 1, column 1"),
        (b"\xff\xfe{}", "UTF-8"),
    ],
)
def test_a_broken_file_is_left_alone(cli, opencode_file, content, place):
    """It is named with line and column, nothing is written, no backup is made."""
    opencode_file.write_bytes(content)
    cli.log_in()
    result = cli("config", "opencode", "--write")
    assert result.exit_code == 1
    assert f"{opencode_file}" in result.stderr
    assert place in result.stderr
    assert "It was left as it is." in result.stderr
    assert (opencode_file.read_bytes(), backups(opencode_file)) == (content, [])


def at_a_terminal(command, environ, answer):
    """Run a command in a terminal of its own, type *answer* when it asks; return its exit code and what it said."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environ)
    os.close(follower)
    said, typed = b"", False
    while select.select([leader], [], [], 60)[0]:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # the terminal has nobody left (Linux: EIO)
            break
        said += piece
        if not piece:
            break
        if not typed and b"[Y/n]" in said:
            os.write(leader, answer)
            typed = True
    os.close(leader)
    return process.wait(60), said.decode()


@posix
@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"\n", 0)])
def test_a_person_is_shown_the_diff_and_asked(tmp_path, answer, code):
    """At a terminal nothing is written before it was seen."""
    path = tmp_path / "opencode.json"
    path.write_text(COMMENTED)
    environ = os.environ | {"KIMI_MITM_DATA_DIR": str(tmp_path / "data"), "HOME": str(tmp_path), "TERM": "dumb"}
    words = ["config", "opencode", "--kimi", "--write", "--file", str(path)]
    got, said = at_a_terminal([str(Path(sys.executable).with_name("kimi-mitm")), *words], environ, answer)
    assert got == code, said
    assert f'+\t\t"{KIMI}"' in said.replace("        ", "\t")
    assert (path.read_text() == COMMENTED) == bool(code)


# --- the file itself --------------------------------------------------------------------------------------------------


@posix
def test_links_are_followed_and_stay(tmp_path):
    """Who keeps dotfiles elsewhere keeps them there: the target is replaced, the backup is beside it."""
    real, link = tmp_path / "dotfiles/oc.json", tmp_path / "oc.json"
    real.parent.mkdir()
    real.write_text("old")
    link.symlink_to("dotfiles/oc.json")
    backup = apply(plan(link, lambda text: text + " new"), 0.0)
    assert link.is_symlink()
    assert (real.read_text(), backup.read_text(), backup.parent) == ("old new", "old", real.parent)
    lost = tmp_path / "lost.json"
    lost.symlink_to("dotfiles/made.json")
    assert apply(plan(lost, lambda text: "new"), 0.0) is None
    assert (tmp_path / "dotfiles/made.json").read_text() == "new"


@posix
def test_what_cannot_be_read_or_written_is_said(tmp_path):
    """A circle of links, a folder, a folder that is a file: one error with the path, nothing else."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path / "a", tmp_path):
        with pytest.raises(ClientFileError, match="cannot be read"):
            plan(path, str)
    (tmp_path / "file").write_text("x")
    change = plan(tmp_path / "new/x", lambda text: "y")
    (tmp_path / "new").write_text("in the way")
    with pytest.raises(ClientFileError, match=r"cannot be (written|read)"):
        apply(change, 0.0)


def test_backups_never_replace_each_other(tmp_path):
    """Two changes within a second have a backup each."""
    path = tmp_path / "x"
    path.write_text("1")
    made = [apply(plan(path, lambda text: text + "1"), 0.0) for _ in range(3)]
    assert [one.name for one in made] == [f"x.19700101T000000Z{end}.bak" for end in ("", "-2", "-3")]
    assert [one.read_text() for one in made] == ["1", "11", "111"]


def test_a_change_by_somebody_else_is_not_lost(tmp_path):
    """The file is looked at again before it is replaced."""
    path = tmp_path / "x"
    path.write_text("1")
    change = plan(path, lambda text: text + "2")
    path.write_text("3")
    with pytest.raises(ClientFileError, match="another program"):
        apply(change, 0.0)
    assert (path.read_text(), backups(path)) == ("3", [])


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    """Where the last step fails there is the old file, and no rubbish."""
    path = tmp_path / "x"
    path.write_text("1")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ClientFileError, match="No space left"):
        apply(plan(path, lambda text: "2"), 0.0)
    assert path.read_text() == "1"
    assert len(list(tmp_path.iterdir())) == 2  # the file and its backup


@posix
@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs to be root and setpriv")
def test_the_owner_stays_where_that_is_possible(tmp_path):
    """With sudo the file still belongs to its user; without the right to give it away it is written all the same."""
    path = tmp_path / "x"
    path.write_text("1")
    os.chown(path, 12345, 12345)
    backup = apply(plan(path, lambda text: "2"), 0.0)
    assert {one.stat().st_uid for one in (path, backup)} == {12345}


def test_the_owner_may_be_another(tmp_path, monkeypatch):
    """Where the owner cannot be kept, the file is written all the same."""

    def not_permitted(path, uid, gid):
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "x"
    path.write_text("1")
    monkeypatch.setattr(os, "chown", not_permitted)
    apply(plan(path, lambda text: "2"), 0.0)
    assert path.read_text() == "2"


# --- lines between marks ----------------------------------------------------------------------------------------------

BROKEN = ("# >>> kimi-mitm x >>>", "# <<< kimi-mitm x <<<")


@pytest.mark.parametrize("marks", [BROKEN[:1], BROKEN[1:], BROKEN[::-1], BROKEN * 2, (BROKEN[0],) * 2])
def test_broken_marks_are_refused(marks):
    """What somebody has half removed is not guessed at."""
    with pytest.raises(ValueError, match="line 2"):
        section.put("\n".join(["first", *marks]), "x", "a")


@settings(max_examples=100)
@given(
    st.text(st.sampled_from("ab# \n") | st.characters(codec="utf-8", categories=["L"]), max_size=20),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.text("abc=#", min_size=1, max_size=5), min_size=1, max_size=3).map("\n".join),
    st.text("ab\n", max_size=5),
)
def test_sections_leave_the_rest_alone(text, newline, lines, after):
    """Before and behind the marks every byte stays, whatever is put between them, and twice is once."""
    text = text.replace("\n", newline)
    once = section.put(text, "x", "old\nlines")
    assert once.startswith(text)
    again = section.put(once + after, "x", lines)
    assert again.startswith(text)
    assert again.endswith(after)
    assert section.put(again, "x", lines) == again
    inner = re.search(r"^# >>> kimi-mitm x >>>\r?\n(.*)^# <<< kimi-mitm x <<<\r?\n", again, re.DOTALL | re.MULTILINE)[1]
    assert inner.split() == lines.split()
