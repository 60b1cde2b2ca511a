"""The machine as checks see it: one run's configuration and environment, and answers that several of them share."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kimi_core.cli.app import App
from kimi_core.cli.checks.check import NothingToJudge
from kimi_core.cli.checks.clients import Client
from kimi_core.cli.configuration import Configuration
from kimi_core.errors import ConfigError
from kimi_core.kimi.constants import Site, site_for


class _Answer:
    """One shared answer, or the exception in its place."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.given = False
        self.value: Any = None
        self.error: BaseException | None = None


@dataclass(slots=True)
class Machine:
    """What checks are asked of. Checks run side by side in threads: nothing here changes but the shared answers."""

    app: App
    client: Client | None = None
    offline: bool = False
    cwd: Path = field(default_factory=Path.cwd)
    _answers: dict[str, _Answer] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment that clients started here would get."""
        return self.app.world.environ

    @property
    def configuration(self) -> Configuration:
        """What mitmproxy would run with."""
        return self.app.configuration

    @property
    def home(self) -> Path:
        """The user's home folder."""
        return self.app.world.home or Path.home()

    @property
    def now(self) -> float:
        """The time of this machine's clock, in unix seconds."""
        return self.app.world.clock()

    @property
    def site(self) -> Site:
        """The Kimi site in use. Raises NothingToJudge where the variables that move it make no sense."""
        try:
            return site_for(self.configuration.settings.kimi_region, self.environ)
        except ConfigError as error:
            raise NothingToJudge("A variable names an address that cannot be used: see config.variables.") from error

    def which(self, program: str) -> str | None:
        """Return where *program* is on PATH."""
        return shutil.which(program, path=self.environ.get("PATH", os.defpath))

    def once[T](self, what: str, gather: Callable[[], T]) -> T:
        """Return the answer called *what*, gathered by whichever check asks first; the others wait for it."""
        with self._lock:
            answer = self._answers.setdefault(what, _Answer())
        with answer.lock:
            if not answer.given:
                try:
                    answer.value = gather()
                except Exception as error:  # noqa: BLE001 - whatever it is, each that asks gets it
                    answer.error = error
                answer.given = True
        if answer.error is not None:
            raise answer.error
        value: T = answer.value
        return value
