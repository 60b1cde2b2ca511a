import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from kimi_core.cli import child
from tests.e2e.harness import wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


def python(code):
    """Return the command for a piece of Python."""
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 15)", 143),
        ("import os; os.kill(os.getpid(), 9)", 137),
    ],
)
def test_the_exit_code_is_the_childs(code, expected):
    """What the child ends with comes back; a signal as 128 + n."""
    assert child.run(python(code), {"A": "b"}) == expected


def test_the_environment_is_what_was_given():
    """The child has the variables that it was given, and none of ours."""
    code = "import os, sys; sys.exit(3 if os.environ.get('ONLY') == 'this' and 'PATH' not in os.environ else 4)"
    assert child.run(python(code), {"ONLY": "this"}) == 3


@pytest.mark.parametrize(
    ("name", "text", "mode", "code", "words"),
    [
        ("none", None, 0, 127, "command not found"),
        ("plain", "echo", 0o644, 126, "cannot be run"),
        ("folder", None, -1, 126, "cannot be run"),
        ("odd", "\x7fELFodd", 0o755, 126, "cannot be run"),
    ],
)
def test_what_cannot_be_run_has_the_codes_of_shells(tmp_path, name, text, mode, code, words):
    """No such program is 127, one that cannot be executed 126."""
    path = tmp_path / name
    if mode == -1:
        path.mkdir()
    elif text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(child.CannotRun, match=words) as caught:
        child.run([str(path)], {})
    assert caught.value.code == code


def passed_on(number, folder, monkeypatch, *, terminal=False, life=60):
    """Send ourselves *number* while a child runs that ends with it, and return what became of the child."""
    monkeypatch.setattr(child, "_has_terminal", lambda: terminal)
    ready = folder / "ready"
    code = f"""
import pathlib, signal, sys, time
signal.signal({int(number)}, lambda *_: sys.exit(5))
pathlib.Path({str(ready)!r}).touch()
time.sleep({life})
"""

    def send():
        end = time.monotonic() + 20
        while not ready.exists() and time.monotonic() < end:
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        return child.run(python(code), os.environ)
    finally:
        sender.join()


@pytest.mark.parametrize("name", child.PASSED_ON)
def test_signals_to_us_reach_the_child(name, tmp_path, monkeypatch):
    """Who sends a signal to us alone means the child."""
    assert passed_on(getattr(signal, name), tmp_path, monkeypatch) == 5


def test_keys_of_the_terminal_are_left_to_it(tmp_path, monkeypatch):
    """The terminal gives Ctrl-C to both; it is not given twice."""
    assert passed_on(signal.SIGINT, tmp_path, monkeypatch, terminal=True, life=0.5) == 0


def test_what_was_ignored_stays_so(monkeypatch):
    """Under nohup neither we nor the child end with the terminal; afterwards all is as before."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code = "import signal, sys; sys.exit(6 if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else 7)"
        assert child.run(python(code), os.environ) == 6
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_comes_before_the_child_waits_for_it():
    """A signal between our readiness and the child's start is the child's; one that has gone is no fault."""
    with subprocess.Popen(python("import time; time.sleep(60)")) as process, child._Signals() as signals:
        signals._came(signal.SIGTERM, None)
        signals.child(process.pid)
        assert process.wait(10) == -signal.SIGTERM
        signals._came(signal.SIGTERM, None)


def test_a_child_that_stops_itself_stops_us_and_is_continued_with_us(tmp_path):
    """A program that stops on its own gives the terminal back to the shell, and goes on when we do."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); raise SystemExit(9)"
    run = f"import sys; from kimi_core.cli.child import run; sys.exit(run([sys.executable, '-c', {code!r}], {{}}))"
    with subprocess.Popen(python(run)) as process:
        end = time.monotonic() + 20
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGCONT)
        assert process.wait(20) == 9


def test_a_stop_that_is_meant_for_us_is_the_childs_first(tmp_path):
    """Told to stop, we have the child stop, and stop once it has: continued together, neither stops again."""
    ready = tmp_path / "ready"
    code = f"import signal; signal.signal(signal.SIGCONT, lambda *_: exit(9)); open({str(ready)!r}, 'w').close()"
    code = f"{code}; signal.pause()"
    run = f"import sys; from kimi_core.cli.child import run; sys.exit(run([sys.executable, '-c', {code!r}], {{}}))"
    with subprocess.Popen(python(run), process_group=0) as process:
        try:
            us = psutil.Process(process.pid)
            wait_until(ready.exists, "the child")
            process.send_signal(signal.SIGTSTP)
            wait_until(lambda: us.status() == psutil.STATUS_STOPPED, "our stop")
            assert [one.status() for one in us.children()] == [psutil.STATUS_STOPPED]
            os.killpg(process.pid, signal.SIGCONT)
            assert process.wait(20) == 9
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("fault", ["open", "tcgetpgrp"])
def test_no_terminal_is_no_terminal(fault, monkeypatch, tmp_path):
    """Without a terminal, or with something that is none, keys cannot come from it."""

    def refuse(*_):
        raise OSError(6, "no such device")

    if fault == "tcgetpgrp":
        (tmp_path / "tty").touch()
        real = os.open
        monkeypatch.setattr(os, "open", lambda path, flags: real(tmp_path / "tty", flags))
    monkeypatch.setattr(os, fault, refuse)
    assert not child._has_terminal()
