"""What every command shares: its view of the machine, the common options, and the way it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
import threading
import time
import webbrowser
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from kimi_core.blocks.place import Key, Place
from kimi_core.cli.configuration import Configuration, load
from kimi_core.cli.output import ExitCode, Output
from kimi_core.cli.probe import in_use
from kimi_core.errors import ConfigError, KimiMitmError, StoreError
from kimi_core.proxy.key import AUTO, key_path
from kimi_core.settings import Settings, choices
from kimi_core.store import data_dir

DEFAULT_PROVIDER = "kimi"
DEFAULT_CONFDIR = "~/.mitmproxy"  # mitmproxy.options.CONF_DIR


def open_browser(url: str) -> None:
    """Show *url* in the user's browser, without waiting for it."""

    def show() -> None:
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(url)

    threading.Thread(target=show, name="browser", daemon=True).start()


@dataclass(frozen=True, slots=True)
class World:
    """What the commands take from the machine; tests bring their own."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    home: Path | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    browse: Callable[[str], object] = open_browser
    platform: str = sys.platform

    @property
    def has_display(self) -> bool:
        """True where a browser that is opened would be seen by the person at the terminal."""
        if self.platform in ("win32", "darwin"):
            return "SSH_CONNECTION" not in self.environ
        return bool(self.environ.get("DISPLAY") or self.environ.get("WAYLAND_DISPLAY"))


@dataclass(frozen=True, slots=True)
class App:
    """One run of one command."""

    world: World
    out: Output
    configuration: Configuration

    @property
    def folder(self) -> Path:
        """Where logins are kept."""
        return data_dir(self.world.environ)

    @property
    def proxy_url(self) -> str:
        """Where clients find the proxy: the one that runs is asked."""
        return in_use(self.configuration, self.world.environ).proxy_url

    def place(self, provider: str, api_base: str, *, local: bool | None = None) -> Place:
        """Return where clients find the service *provider*, whose own base URL is *api_base*, by the way *local*."""
        option = self.configuration.settings.kimi_client_key
        return Place(
            proxy_url=self.proxy_url,
            api_base=api_base,
            ca=self.configuration.ca_certificate,
            key=Key.MADE if option == AUTO else Key.CHOSEN if option else Key.NONE,
            key_file=key_path(self.folder) if option == AUTO else None,
            powershell=self.world.platform == "win32",
            provider=provider,
            local=local,
        )


class AppCommand(click.Command):
    """A command whose function gets an `App` in place of the common options and returns its exit code.

    --region and --identity are short for the options of the provider that the command is about: its argument
    `provider`, else *provider*. A command that has one of them itself gets it where the provider has no such option.
    Every error of the project ends it with one sentence, what to do, and the error's exit code; never a traceback.
    """

    def __init__(
        self,
        name: str | None,
        *,
        params: list[click.Parameter] | None = None,
        provider: str = DEFAULT_PROVIDER,
        **attributes: Any,
    ) -> None:
        own = params or []
        self.provider = provider
        self._own = frozenset(param.name for param in own)
        only = None if "provider" in self._own else provider
        common = [option for option in _common_options(only) if option.name not in self._own]
        super().__init__(name, params=[*own, *common], **attributes)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command and leave with its exit code."""
        world = ctx.find_object(World) or World()
        out = Output(as_json=ctx.params.pop("as_json"), environ=world.environ)
        ctx.exit(self._run(ctx, world, out))

    def _run(self, ctx: click.Context, world: World, out: Output) -> int:
        confdir, overrides = ctx.params.pop("confdir"), ctx.params.pop("overrides")
        try:
            settings = [*overrides, *self._shorthands(ctx)]
            ctx.params["app"] = App(world, out, self.configuration(confdir, settings))
            return int(super().invoke(ctx))
        except KimiMitmError as error:
            return out.fail(error)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output has left: click ends quietly
                raise
            return out.fail(StoreError(f"{error.filename or 'A file'}: {error.strerror or error}."))
        except (KeyboardInterrupt, click.Abort):
            out.errors.print("\nInterrupted.")
            return ExitCode.INTERRUPTED

    def configuration(self, confdir: Path, settings: Sequence[str]) -> Configuration:
        """Return what the command runs with. Raises ConfigError."""
        return load(confdir, settings)

    def _shorthands(self, ctx: click.Context) -> list[str]:
        """Return the settings that --region and --identity stand for. Raises ConfigError where they stand for none."""
        provider = ctx.params.get("provider") or self.provider
        found = []
        for name in SHORTHANDS:
            setting = f"{provider}_{name}"
            if setting not in Settings.model_fields and name in self._own:
                continue
            value = ctx.params.pop(name, None)
            if name in self._own:
                ctx.params[name] = None
            if value is None:
                continue
            if setting not in Settings.model_fields:
                raise ConfigError(f"There is no --{name} for {provider} here.")
            found.append(f"{setting}={value}")
        return found


SHORTHANDS = {"region": "Region of the plan", "identity": "How calls of this program identify themselves"}


def _values(name: str, provider: str | None) -> str:
    """Return what a shorthand may be: for *provider*, or for each one that has it; empty where none has."""
    known = {setting: choices(setting) for setting in Settings.model_fields if setting.endswith(f"_{name}")}
    texts = {setting.removesuffix(f"_{name}"): ", ".join(values) for setting, values in known.items() if values}
    if provider is not None:
        return texts.get(provider, "")
    return "; ".join(f"{name.title()}: {values}" for name, values in texts.items())


def _common_options(provider: str | None) -> list[click.Parameter]:
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for programs, errors included."),
        *(
            click.Option([f"--{name}"], metavar="NAME", help=f"{text} ({values}).")
            for name, text in SHORTHANDS.items()
            if (values := _values(name, provider))
        ),
        click.Option(
            ["--set", "overrides"],
            multiple=True,
            metavar="NAME=VALUE",
            help="Set an option, in place of what mitmproxy's configuration file says; may be given several times.",
        ),
        click.Option(
            ["--confdir"],
            type=click.Path(path_type=Path),
            default=DEFAULT_CONFDIR,
            show_default=True,
            help="Folder of mitmproxy's configuration file and of its CA.",
        ),
    ]
