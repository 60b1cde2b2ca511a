"""status, usage, models, logout: what a user asks every day."""

import json
import re
import socket

import pytest
from click.testing import CliRunner
from rich.console import Console

from kimi_core.cli.kimi_views import BAR, models_view, usage_view
from kimi_core.cli.main import main
from kimi_core.kimi.models import Catalog, Model
from kimi_core.kimi.usage import Booster, Row, Usage
from tests.servers.oauth import serve
from tests.servers.script import as_json, error

DAY = 86400
EXPIRED = {"expires_at": 1_000_000_000.0}


def drawn(view, width=80):
    """Return what a terminal with colours shows."""
    console = Console(width=width, force_terminal=True, color_system="standard", legacy_windows=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def plain(text):
    """Return *text* without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# --- the program ------------------------------------------------------------------------------------------------------


def test_help_tells_the_exit_codes(cli):
    """-h and --help are one, and the group's help lists what the exit codes mean."""
    text = cli("-h").stdout
    assert text == cli("--help").stdout
    assert re.findall(r"^ +(\d+) ", text, re.MULTILINE) == ["0", "1", "2", "3", "125", "126", "127", "130"]
    assert "HTTPS_PROXY" in text
    assert "upstream_auth" in text


def test_version(cli):
    """--version names the program."""
    assert re.fullmatch(r"kimi-mitm \S.*\n", cli("--version").stdout)


@pytest.mark.parametrize(
    "arguments",
    [["login"], ["login", "claude"], ["logout"], ["usage", "--region", "mars"], ["status", "--nonsense"], ["dance"]],
)
def test_a_wrong_command_line_is_exit_2(cli, arguments):
    """What is no command, provider or option ends with click's own code."""
    assert cli(*arguments).exit_code == 2


@pytest.mark.parametrize("command", [["status"], ["usage"], ["models"], ["logout", "kimi"], ["login", "kimi"]])
def test_a_wrong_configuration_is_exit_2(cli, command):
    """An option that does not exist is named, on standard error or as JSON; nothing is asked of anyone."""
    cli.configure("kimi_regoin: cn\n")
    result = cli(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "kimi_regoin" in result.stderr
    assert cli.json(*command)["error"]["code"] == "bad_configuration"
    assert cli.fake.requests == []


def test_a_place_that_cannot_be_used_is_a_sentence(cli):
    """A data folder that is a file is an error like any other."""
    cli.data.write_text("")
    result = cli("login", "kimi")
    assert result.exit_code == 1
    assert str(cli.data) in result.stderr


def test_a_file_error_is_a_sentence(cli, monkeypatch):
    """Whatever the system refuses is told without a traceback."""

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("kimi_core.cli.kimi.sites", refuse)
    result = cli("status")
    assert (result.exit_code, result.stderr) == (1, "/some/file: Permission denied.\n")


def test_a_reader_that_has_left_ends_it_quietly(cli, monkeypatch):
    """`kimi-mitm status | head -0` shows no error."""

    def gone(*_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("kimi_core.cli.kimi.sites", gone)
    result = CliRunner().invoke(main, ["status"], obj=cli.world)
    assert (result.exit_code, result.output) == (1, "")


def test_set_reaches_the_command(cli):
    """--set and --region are the same option by two names, and win over the file."""
    cli.configure("kimi_region: cn\n")
    for arguments in (["--region", "global"], ["--set", "kimi_region=global"]):
        assert cli.json("status", *arguments)["kimi"]["region"] == "global"


# --- status -----------------------------------------------------------------------------------------------------------


def status_of(cli, *arguments):
    """Return the login of the region in use and the exit code."""
    result = cli("status", "--json", *arguments)
    return json.loads(result.stdout)["kimi"]["logins"][0], result.exit_code


def test_status_without_a_login(cli):
    """Nothing is there: it says where it would be and what to run, and makes no file."""
    login, code = status_of(cli)
    assert (login["state"], login["next"], code) == ("none", "kimi-mitm login kimi", 3)
    assert login["path"] == str(cli.login_file)
    assert not cli.data.exists()
    assert not (cli.folder / ".kimi").exists()
    assert "not logged in" in cli("status").stdout


def test_status_of_a_good_login(cli):
    """A good login tells how long its token lives."""
    cli.log_in()
    login, code = status_of(cli)
    assert (login["state"], login["next"], code) == ("ok", None, 0)
    assert 895 <= login["expires_in"] <= 900
    assert re.search(r"token +good for 1(4m|5m)", cli("status").stdout)


def test_status_of_an_expired_token(cli):
    """A token that has run out is no problem: the next request renews it."""
    cli.log_in(**EXPIRED)
    login, code = status_of(cli)
    assert (login["state"], login["next"], code) == ("expired", None, 0)
    assert "renewed at the next request" in cli("status").stdout


def test_status_of_a_dead_login(cli):
    """A login that the service turned down asks for a new one."""
    cli.log_in(**EXPIRED)
    cli.fake.oauth.revoke()
    assert cli("usage").exit_code == 3
    login, code = status_of(cli)
    assert (login["state"], login["next"], code) == ("dead", "kimi-mitm login kimi", 3)
    assert "logged out by the service" in cli("status").stdout


def test_status_of_a_damaged_file(cli):
    """A damaged file is said to be damaged and stays as it is."""
    cli.data.mkdir(mode=0o700)
    cli.login_file.write_text("{")
    login, code = status_of(cli)
    assert (login["state"], code) == ("damaged", 3)
    assert str(cli.login_file) in login["problem"]
    assert "the file is damaged" in cli("status").stdout
    assert cli.login_file.read_text() == "{"


@pytest.mark.parametrize("content", ["{", "login"])
def test_status_breaks_no_path(cli, monkeypatch, content):
    """However narrow the terminal is: what is to be copied stands on one line."""
    monkeypatch.setattr("kimi_core.cli.output.FILE_WIDTH", 40)
    cli.data.mkdir(mode=0o700)
    if content == "login":
        cli.log_in()
    else:
        cli.login_file.write_text(content)
    (cli.data / "kiro-accounts.json").write_text(content if content == "{" else '{"accounts": []}')
    shown = cli("status", "--set", "kimi_client_key=auto").stdout.splitlines()
    assert any(line.endswith(str(cli.login_file)) for line in shown)
    assert any(str(cli.data / "client-key.json") in line for line in shown)
    if content == "{":
        assert any(f"{cli.login_file} is damaged: it holds no JSON." in line for line in shown)
        assert any(f"{cli.data / 'kiro-accounts.json'} is damaged" in line for line in shown)


def test_status_asks_nobody(cli):
    """No request is made, to the service or its login."""
    cli.log_in(**EXPIRED)
    asked = len(cli.fake.oauth.seen)
    cli("status")
    assert (cli.fake.requests, len(cli.fake.oauth.seen)) == ([], asked)


def test_status_shows_every_region(cli):
    """Both regions are listed, the one in use first, with the command for each."""
    del cli.environ["KIMI_CODE_OAUTH_HOST"], cli.environ["KIMI_CODE_BASE_URL"]
    logins = cli.json("status", "--region", "global")["kimi"]["logins"]
    assert [(login["slot"], login["region"], login["next"]) for login in logins] == [
        ("kimi.ai", "global", "kimi-mitm login kimi --region global"),
        ("kimi.com", "cn", "kimi-mitm login kimi --region cn"),
    ]
    text = cli("status").stdout
    assert text.index("kimi.com") < text.index("kimi.ai")
    assert text.count("next") == 1


@pytest.mark.parametrize(
    ("identity", "file"), [("kimi-cli", ".kimi/device_id"), ("kimi-code", ".kimi-code/device_id"), ("own", None)]
)
def test_status_names_identity_and_device_id(cli, identity, file):
    """The identity in use and the file of its device id are told."""
    path = str(cli.folder / file) if file else None
    found = cli.json("status", "--identity", identity)["kimi"]["identity"]
    assert found == {"name": identity, "device_id_file": path, "device_id_exists": False}
    if file:
        (cli.folder / file).parent.mkdir()
        (cli.folder / file).write_text("0" * 32)
        assert cli.json("status", "--identity", identity)["kimi"]["identity"]["device_id_exists"]
    assert ("device id" in cli("status", "--identity", identity).stdout) == bool(file)


@pytest.mark.parametrize(
    ("option", "mode", "says"),
    [
        ("", "none", "none is asked"),
        ("fake-chosen-key", "set", "the value of kimi_client_key"),
        ("auto", "auto", "client-key.json"),
    ],
)
def test_status_says_where_the_client_key_is(cli, option, mode, says):
    """The key itself is never shown."""
    cli.configure(f"kimi_client_key: '{option}'\n")
    assert cli.json("status")["kimi"]["client_key"]["mode"] == mode
    text = cli("status").stdout
    assert says in text.replace("\n", "")
    assert "fake-chosen-key" not in text
    if option == "auto":
        assert "made when the proxy starts" in " ".join(text.split())
        cli.data.mkdir(mode=0o700)
        (cli.data / "client-key.json").write_text("{}")
        assert "made when the proxy starts" not in " ".join(cli("status").stdout.split())


class Health:
    """A listener whose /health says what it is told to."""

    def __init__(self, status, body):
        self.status, self.body = status, body

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        assert scope["path"] == "/health"
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": self.body})


@pytest.mark.parametrize(
    ("status", "body", "state", "version"),
    [
        (200, b'{"status": "ok", "version": "1.2", "providers": {}}', "running", "1.2"),
        (200, b'{"status": "ok"}', "foreign", None),
        (200, b"[]", "foreign", None),
        (200, b"<html>", "foreign", None),
        (404, b'{"providers": {}}', "foreign", None),
    ],
)
def test_status_tells_whether_a_proxy_answers(cli, status, body, state, version):
    """What listens on the proxy's port is asked who it is."""
    with serve(Health(status, body)) as served:
        port = served.url.rpartition(":")[2]
        found = cli.json("status", "--set", f"listen_port={port}")["proxy"]
        text = cli("status", "--set", f"listen_port={port}").stdout
    assert found == {"url": served.url, "state": state, "version": version, "started_by": None, "others": []}
    assert ("a proxy is running" in text) == (state == "running")


def test_status_without_a_proxy(cli):
    """A port where nobody listens is told with the way to start one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert cli.json("status", "--set", f"listen_port={port}")["proxy"]["state"] == "none"
    assert "make run" in cli("status", "--set", f"listen_port={port}").stdout


@pytest.mark.parametrize("host", ["proxy.lan", "10.0.0.9"])
def test_status_never_asks_another_machine(cli, host):
    """A proxy on another address is named and not contacted."""
    assert cli.json("status", "--set", f"listen_host={host}")["proxy"]["state"] == "remote"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_status_asks_loopback_by_any_name(cli, host):
    """This machine is asked under each of its own names."""
    with serve(Health(200, b'{"providers": {}}')) as served:
        port = served.url.rpartition(":")[2]
        found = cli.json("status", "--set", f"listen_host={host}", "--set", f"listen_port={port}")["proxy"]
    assert found["state"] == "running"


# --- usage ------------------------------------------------------------------------------------------------------------


def test_usage_for_a_program(cli):
    """One JSON object with every row."""
    cli.log_in()
    usage = cli.json("usage")
    assert [(row["label"], row["left"], row["severity"]) for row in usage["rows"]] == [
        ("Weekly limit", 0.6, "green"),
        ("5h limit", 0.05, "red"),
    ]
    assert usage["parallel"] == 20
    assert usage["booster"] is None


def test_usage_for_a_person(cli):
    """Rows, bars and reset times as text."""
    cli.log_in()
    text = cli("usage", "kimi").stdout
    assert re.search(r"Weekly limit .*60% left \(resets in \d+d", text)
    assert re.search(r"5h limit .*5% left", text)
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("left", "colour"), [(100, "32"), (31, "32"), (30, "33"), (11, "33"), (10, "31"), (1, "31"), (0, "31")]
)
def test_usage_colours(left, colour):
    """A row is red with a tenth or less left, yellow with three tenths or less."""
    row = Row("Weekly limit", 100 - left, 100, 2 * DAY)
    text = drawn(usage_view(Usage((row,), None, None, 0.0), 0.0))
    assert f"\x1b[{colour}m{left}% left (resets in 2d)" in text
    bar = re.search(rf"\x1b\[{colour}m(━+)", text)
    assert (len(bar[1]) if bar else 0) == int(left * BAR / 100)


@pytest.mark.parametrize(
    ("booster", "says"),
    [
        (Booster(10000, 20000), "Booster  100.00 USD of 200.00 USD left"),
        (Booster(1, 2, "CNY", None, 500), "0.01 CNY of 0.02 CNY left; this month 5.00 CNY spent"),
        (Booster(1, 2, "USD", 20000, None), "left; this month 0.00 USD of 200.00 USD spent"),
        (Booster(1, 2, "USD", 20000, 500), "left; this month 5.00 USD of 200.00 USD spent"),
    ],
)
def test_usage_shows_the_booster(booster, says):
    """The wallet is shown in whole money, with the month's bound where there is one."""
    assert says in plain(drawn(usage_view(Usage((), booster, 20, 0.0), 0.0)))


def test_usage_that_says_nothing():
    """An answer without limits is told as that, not as an empty screen."""
    assert "tells nothing" in drawn(usage_view(Usage((), None, None, 0.0), 0.0))


def test_usage_renews_a_token_first(cli):
    """A token that is known to have run out is never sent."""
    cli.log_in(**EXPIRED)
    old = cli.stored()["access_token"]
    assert cli("usage").exit_code == 0
    assert [seen.bearer for seen in cli.fake.requests] == [cli.stored()["access_token"]]
    assert cli.stored()["access_token"] != old


def test_usage_renews_a_refused_token_once(cli):
    """After a 401 the token is renewed and the call made once more."""
    cli.log_in()
    cli.fake.refuse = 1
    assert cli("usage").exit_code == 0
    assert len(cli.fake.of("usages")) == 2
    assert cli.fake.requests[0].bearer != cli.fake.requests[1].bearer


def test_usage_does_not_go_on_for_ever(cli):
    """A service that refuses every token gets two calls and one refresh."""
    cli.log_in()
    cli.fake.refuse = -1
    before = cli.fake.oauth.refreshes
    result = cli("usage")
    assert (result.exit_code, len(cli.fake.of("usages")), cli.fake.oauth.refreshes - before) == (1, 2, 1)
    assert "401" in result.stderr


@pytest.mark.parametrize("command", ["usage", "models"])
def test_without_a_login_nothing_is_asked(cli, command):
    """Exit 3, and the command to run."""
    result = cli(command)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "kimi-mitm login kimi" in result.stderr
    assert cli.json(command)["error"]["code"] == "not_logged_in"
    assert cli.fake.requests == []


@pytest.mark.parametrize(("answer", "says"), [(error(500), "500"), (as_json([]), "unknown shape")])
def test_usage_that_cannot_be_read(cli, answer, says):
    """What the service says instead is told, exit 1."""
    cli.log_in()
    cli.fake.queue(answer, operation="usages")
    result = cli("usage")
    assert (result.exit_code, says in result.stderr) == (1, True)


# --- models -----------------------------------------------------------------------------------------------------------


def test_models_for_a_program(cli):
    """One JSON object in the service's own field names."""
    cli.log_in()
    models = cli.json("models")
    assert [model["id"] for model in models["models"]] == ["k3", "kimi-for-coding"]
    assert models["models"][0]["context_length"] == 1048576


def test_models_for_a_person(cli):
    """A table with what one needs to choose."""
    cli.log_in()
    rows = [re.split(r"  +", line.strip()) for line in cli("models").stdout.splitlines()]
    assert rows == [
        ["id", "name", "context", "inputs", "efforts", "default"],
        ["k3", "K3", "1M", "text image video", "low high max", "high"],
        ["kimi-for-coding", "K2.7 Coding", "256K", "text image video", "off on", "—"],
    ]


def test_models_that_say_little():
    """What the service leaves out is a dash, and odd numbers are written out."""
    text = plain(drawn(models_view(Catalog((Model("a", reasoning=False), Model("b", context_length=128500)), 0.0))))
    assert re.search(r"a +— +— +text +none +—", text)
    assert re.search(r"b +— +128,500 +text +off on +—", text)


def test_one_block_is_printed_as_it_is(cli):
    """--block writes what goes into the file to standard output, and its notes to standard error."""
    cli.log_in()
    result = cli("models", "--block", "opencode")
    assert "kimi-for-coding-oauth" in json.loads(result.stdout)["provider"]
    assert "/kimi/v1" in result.stderr


def test_all_blocks(cli):
    """--block all shows them as the login does; with --json by name."""
    cli.log_in()
    text = cli("models", "--block", "all", "--with-limit", "1000").stdout
    assert text.count("baseURL") == 2
    assert '"output": 1000' in text
    assert "ANTHROPIC_BASE_URL" in text
    assert set(cli.json("models", "--block", "all")["blocks"]) >= {"opencode", "shell"}
    assert list(cli.json("models", "--block", "shell")["blocks"]) == ["shell"]


def test_blocks_without_a_login(cli):
    """Lines for clients can be had at any time, with what is known."""
    result = cli("models", "--block", "opencode")
    assert result.exit_code == 0
    assert "could not be read now" in result.stderr
    assert "kimi-for-coding" in json.loads(result.stdout)["provider"]["kimi-for-coding-oauth"]["models"]


def test_blocks_remember_the_models(cli):
    """A list that was read once serves when the service cannot be reached."""
    cli.log_in()
    assert cli("models").exit_code == 0
    cli.fake.queue(error(500), operation="models")
    result = cli("models", "--block", "opencode")
    assert "k3" in json.loads(result.stdout)["provider"]["kimi-for-coding-oauth"]["models"]


def test_blocks_name_the_key_the_proxy_made(cli):
    """With kimi_client_key auto the blocks say where the key is."""
    cli.configure("kimi_client_key: auto\n")
    result = cli("models", "--block", "opencode")
    assert "{env:KIMI_MITM_KEY}" in result.stdout
    assert str(cli.data / "client-key.json") in result.stderr


# --- logout -----------------------------------------------------------------------------------------------------------


def test_logout_removes_the_login(cli):
    """The file goes; a second time there is nothing to do, which is no failure."""
    cli.log_in()
    result = cli("logout", "kimi")
    assert (result.exit_code, "Logged out" in result.stdout) == (0, True)
    assert not cli.login_file.exists()
    assert cli.json("logout", "kimi")["removed"] is False
    result = cli("logout", "kimi")
    assert (result.exit_code, "There was no login" in result.stdout) == (0, True)


def test_logout_leaves_other_regions_alone(cli):
    """Logins are kept apart by place."""
    cli.log_in()
    del cli.environ["KIMI_CODE_OAUTH_HOST"], cli.environ["KIMI_CODE_BASE_URL"]
    assert cli.json("logout", "kimi", "--region", "global") == {
        "slot": "kimi.ai",
        "path": str(cli.data / "kimi-kimi.ai.json"),
        "removed": False,
    }
    assert cli.login_file.exists()
