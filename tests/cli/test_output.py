import io
import threading

import click
import pytest
from click.testing import CliRunner
from rich.console import Group
from rich.text import Text

from kimi_core.cli import app, formats
from kimi_core.cli import main as main_module
from kimi_core.cli.output import FILE_WIDTH, Output, Report
from kimi_core.cli.steps import TerminalSteps
from kimi_core.device_flow import DeviceCode


def test_signs_that_a_stream_lacks_are_replaced(monkeypatch):
    """An ASCII-only stream shows a question mark, and no traceback."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    out = Output(as_json=False, environ={})
    out.console.print("a — b")
    out.raw("█")
    out.emit({"name": "é"})
    out.console.file.flush()
    assert raw.getvalue() == b'a ? b\n?\n{"name": "\\u00e9"}\n'


def test_any_stream_will_do(monkeypatch):
    """Standard output may be something that is no file at all."""
    monkeypatch.setattr("sys.stdout", io.StringIO())
    out = Output(as_json=False, environ={})
    out.console.print("x" * 300)
    assert out.console.file.getvalue() == "x" * 300 + "\n"
    assert out.console.width == FILE_WIDTH


def terminal(monkeypatch, width):
    """Return an output that takes a text for a terminal of *width* columns."""
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Output(as_json=False, environ={})
    assert out.is_terminal
    return out


CODE = DeviceCode("fake-device-code-1", "FAKE-0001", "https://www.kimi.com/code?user_code=FAKE-0001", "", 1800, 5)


def test_a_narrow_terminal_gets_no_qr_code(monkeypatch):
    """Where the drawing has no room only the address is shown."""
    out = terminal(monkeypatch, 20)
    with TerminalSteps(out, None) as steps:
        steps.code(CODE)
    assert "▄" not in out.console.file.getvalue()
    assert CODE.url in out.console.file.getvalue()


def test_a_line_that_is_left_whole_is_shown_whole(monkeypatch):
    """What is to be copied, a command or an address, is longer than a terminal is wide, and nothing of it is cut."""
    out = terminal(monkeypatch, 20)
    command = "kimi-mitm doctor --set listen_port=PORT"
    out.show(Report({}, Group(Text("above"), Text(command, no_wrap=True, overflow="ignore"))))
    assert out.console.file.getvalue() == f"above\n{command}\n"


def test_the_countdown_is_taken_down(monkeypatch):
    """It runs on one line, a slower pace changes nothing about it, and nothing of it is left in the end."""
    out = terminal(monkeypatch, 100)
    with TerminalSteps(out, None) as steps:
        steps.code(CODE)
        steps.waiting(1799, 5)
        steps.waiting(61, 10)
    drawn = out.console.file.getvalue()
    assert drawn.index("29:59") < drawn.index("1:01")
    assert drawn.endswith("\x1b[1A\x1b[2K")
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(1800, "30:00"), (1799.9, "29:59"), (61, "1:01"), (5, "0:05"), (0, "0:00"), (-3, "0:00")]
)
def test_countdown(seconds, text):
    """Minutes and seconds, never below zero."""
    assert formats.clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "—"), (1048576, "1M"), (262144, "256K"), (3 * 2**20 + 1024, "3073K"), (200000, "200,000"), (12, "12")],
)
def test_tokens(count, text):
    """Powers of 1024 as such, everything else in full."""
    assert formats.tokens(count) == text


@pytest.mark.parametrize("failure", [None, OSError("no browser"), app.webbrowser.Error("no browser")])
def test_a_browser_is_opened_beside_the_login(monkeypatch, failure):
    """It is opened in a thread of its own, and one that cannot be opened is no error."""
    opened = threading.Event()

    def show(url):
        assert url == CODE.url
        opened.set()
        if failure:
            raise failure

    monkeypatch.setattr(app.webbrowser, "open", show)
    app.open_browser(CODE.url)
    assert opened.wait(10)
    for thread in threading.enumerate():
        if thread.name == "browser":
            thread.join(10)


def test_the_version_of_a_checkout(monkeypatch):
    """A checkout that was never installed says so."""

    def none(_):
        raise main_module.PackageNotFoundError

    monkeypatch.setattr(main_module, "version", none)
    assert "checkout" in main_module._version()


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_in_any_command(monkeypatch, as_json, tmp_path):
    """Whatever is under way, Ctrl-C is exit 130 and one word on standard error."""

    @click.command(cls=app.AppCommand)
    def wait(app):
        raise click.Abort

    result = CliRunner().invoke(wait, ["--confdir", str(tmp_path), *(["--json"] if as_json else [])])
    assert (result.exit_code, result.stdout, result.stderr.strip()) == (130, "", "Interrupted.")


@pytest.mark.parametrize(
    ("count", "text"), [(None, "—"), (200_000, "200k"), (1_000_000, "1M"), (128_500, "128,500"), (999, "999")]
)
def test_thousands(count, text):
    """Numbers of tokens are short where they are round, and exact where they are not."""
    assert formats.thousands(count) == text


@pytest.mark.parametrize(
    ("is_terminal", "as_json", "shown"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_what_takes_its_time_is_shown_to_who_watches(monkeypatch, is_terminal, as_json, shown):
    """A person at a terminal sees that something is going on, on standard error; nobody else sees anything."""

    class Terminal(io.StringIO):
        def isatty(self):
            return is_terminal

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    out = Output(as_json=as_json, environ={})
    with out.busy("Starting …"):
        pass
    assert ("Starting …" in out.errors.file.getvalue()) is shown
