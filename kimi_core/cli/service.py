"""``kimi-mitm service``: what it takes to have the proxy started with the machine."""

from __future__ import annotations

import plistlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
from rich.text import Text

from kimi_core.cli import invocation
from kimi_core.cli.app import App
from kimi_core.cli.configuration import LAST_PORT
from kimi_core.cli.hosting import ProxyCommand
from kimi_core.cli.output import ExitCode, Report
from kimi_core.errors import ConfigError
from kimi_core.plain import line

NAME = "kimi-mitm"
PLACES = ("KIMI_MITM_DATA_DIR", "KIMI_SHARE_DIR", "KIMI_CODE_HOME")  # variables that say where logins and ids are
RESTART_PAUSE = 5  # seconds; a proxy that cannot start does not spin
UMASK = 0o077
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
# bytes of a path that are no text in UTF-8 are surrogates here; the last two signs no XML may hold (XML 1.0 §2.2)
_ODD = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

UNIT = """\
# To install it:
#   mkdir -p ~/.config/systemd/user && kimi-mitm service systemd > ~/.config/systemd/user/{name}.service
#   systemctl --user daemon-reload && systemctl --user enable --now {name}
# What it says: journalctl --user -u {name} -f. On a machine where you are not logged in all the time, also:
# loginctl enable-linger
[Unit]
Description=kimi-mitm, a proxy for Kimi Code and Kiro on this machine
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
ExecStart={command}
{environment}Restart=on-failure
RestartSec={pause}
# a login that is being renewed is not cut in the middle: that process ends by itself
KillMode=process
UMask={umask:04o}
NoNewPrivileges=true
LockPersonality=true
RestrictRealtime=true
RestrictSUIDSGID=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""
PLIST_HEAD = """\
<?xml version="1.0" encoding="UTF-8"?>
<!-- To install it:
     kimi-mitm service launchd > ~/Library/LaunchAgents/{name}.plist
     launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/{name}.plist
     What it says: tail -f ~/Library/Logs/{name}.log -->
"""


@click.command(cls=ProxyCommand)
@click.argument("kind", type=click.Choice(["systemd", "launchd"]), required=False)
@click.option("--port", type=click.IntRange(1, LAST_PORT), metavar="PORT", help="Where the proxy listens.")
def service(app: App, kind: str | None, port: int | None) -> ExitCode:
    """Print a service that starts the proxy with the machine.

    The commands that install it stand in it. It is a user unit for systemd, or an agent for launchd on macOS;
    without an argument the one for this machine. What is given with --set goes into it.
    """
    kind = kind or ("launchd" if app.world.platform == "darwin" else "systemd")
    home = (app.world.home or Path.home()).absolute()
    words = [*invocation.DUMP.command(), *invocation.words(app.configuration)]
    words += invocation.listener(app.configuration, port)
    places = _places(app.world.environ)
    for each in (*words, *(f"{name}={value}" for name, value in places.items()), str(home)):
        _check(each)
    text = KINDS[kind](words, places, home)
    if app.out.as_json:
        return app.out.show(Report({"kind": kind, "text": text}, Text()))
    app.out.raw(text.rstrip("\n"))
    return ExitCode.OK


def systemd(words: Sequence[str], environ: Mapping[str, str], home: Path) -> str:
    """Return a user unit that runs *words* with *environ*; paths below *home* follow it (%h)."""
    lines = [f"Environment={_quoted(f'{name}={value}', home)}\n" for name, value in environ.items()]
    return UNIT.format(
        name=NAME,
        command=" ".join(_quoted(word, home, argument=True) for word in words),
        environment="".join(lines),
        pause=RESTART_PAUSE,
        umask=UMASK,
    )


def launchd(words: Sequence[str], environ: Mapping[str, str], home: Path) -> str:
    """Return an agent that runs *words* with *environ*."""
    log = home / "Library" / "Logs" / f"{NAME}.log"
    agent = {
        "Label": NAME,
        "ProgramArguments": list(words),
        "EnvironmentVariables": dict(environ),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": RESTART_PAUSE,
        "AbandonProcessGroup": True,  # a login that is being renewed is not cut in the middle
        "Umask": UMASK,
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
    }
    _, _, rest = plistlib.dumps(agent).decode().partition("?>\n")
    return PLIST_HEAD.format(name=NAME) + rest


KINDS: dict[str, Callable[[Sequence[str], Mapping[str, str], Path], str]] = {"systemd": systemd, "launchd": launchd}


def _check(word: str) -> None:
    """Raise ConfigError where neither systemd nor launchd could read *word* back: a line break begins a new setting."""
    if _ODD.search(word):
        name = line(_ODD.sub(_written_out, word.partition("=")[0]))  # a value may be a key
        raise ConfigError(f"A service cannot have this, for there is a control character, or no text, in it: {name}")


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _places(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in PLACES if environ.get(name)}


def _quoted(word: str, home: Path, *, argument: bool = False) -> str:
    """Return *word* as systemd reads it back (systemd.syntax(7)); $ means something in command lines alone."""
    text = word.replace("%", "%%")
    if argument:
        text = text.replace("$", "$$")
    text = re.sub(rf"(^|=){re.escape(str(home).replace('%', '%%'))}(?=/)", r"\1%h", text)
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
