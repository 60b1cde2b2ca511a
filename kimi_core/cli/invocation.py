"""The command line of the proxy for `run`, `start` and `service`: which program, which scripts, where it listens.

mitmproxy reads its own configuration file; what stands there is not repeated, save for lists of which a command line
replaces the whole.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import kimi_core
from kimi_core.cli.configuration import LOOPBACK, Configuration

PROXIES = ("regular", "upstream")  # modes in which clients take the listener for a proxy
ADDON = ("addons", "kimi.py")
PACKAGE = Path(kimi_core.__file__).resolve().parent
HOSTED = PACKAGE / "proxy" / "hosted.py"


@dataclass(frozen=True, slots=True)
class Tool:
    """One of mitmproxy's programs, without and with a page on which the traffic shows."""

    name: str

    def command(self, interpreter: str = sys.executable) -> list[str]:
        """Return what starts it on the Python that this program runs on, where its addon is installed."""
        for name in (self.name, f"{self.name}.exe"):
            if (script := Path(interpreter).with_name(name)).is_file():
                return [str(script)]
        return [interpreter, "-P", "-c", f"from mitmproxy.tools.main import {self.name} as main; main()"]


DUMP, WEB = Tool("mitmdump"), Tool("mitmweb")


def addon(package: Path = PACKAGE) -> Path:
    """Return the script that mitmproxy loads: a wheel has it inside the package, a checkout beside it."""
    packaged = package.joinpath(*ADDON)
    return packaged if packaged.is_file() else package.parent.joinpath(*ADDON)


def scripts(configuration: Configuration) -> list[str]:
    """Return the user's scripts, and the addon, unless it is one of them."""
    own = list(configuration.scripts)
    known = any(Path(path).parts[-2:] == ADDON for path in own)
    return own if known else [*own, str(addon())]


def words(configuration: Configuration, *more_scripts: Path) -> list[str]:
    """Return the arguments that any start of the proxy has: confdir, what was given with --set, scripts."""
    found = ["--set", f"confdir={configuration.confdir.absolute()}"]
    for override in configuration.overrides:
        found += ["--set", override]
    for script in (*scripts(configuration), *more_scripts):
        found += ["-s", str(script)]
    return found


def listener(configuration: Configuration, port: int | None) -> list[str]:
    """Return the arguments that leave the listeners as the configuration has them, or at *port*, on this machine.

    The addon moves them here as well, but after mitmproxy has opened them to everybody for a moment.
    """
    found = [] if configuration.listen_host else ["--listen-host", LOOPBACK]
    return found + (["--listen-port", str(port)] if port else [])


def only_here(configuration: Configuration, port: int) -> list[str]:
    """Return the arguments that leave one listener, a proxy at *port* of this machine (0 = any), as a client needs it.

    An upstream proxy of the user's stays; listeners of other kinds belong to whoever starts the proxy for them.
    """
    modes = (mode.partition("@")[0] if mode.count("@") else mode for mode in configuration.modes)
    mode = next((mode for mode in modes if mode.partition(":")[0].lower() in PROXIES), "regular")
    return ["--mode", mode, "--listen-host", LOOPBACK, "--listen-port", str(port)]
