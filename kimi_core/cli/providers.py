"""The services that the command line knows. A new one is a module with a `Provider`, and a line in `PROVIDERS`."""

from __future__ import annotations

from typing import Protocol

from kimi_core.cli.app import App
from kimi_core.cli.kimi import Kimi
from kimi_core.cli.output import Report
from kimi_core.cli.place import Block
from kimi_core.cli.steps import Steps


class Provider(Protocol):
    """One service: what `login`, `logout`, `status`, `usage` and `models` do for it.

    Each method raises KimiMitmError where it cannot do its work.
    """

    def status(self, app: App) -> Report:
        """Tell what is stored, without asking the service."""
        ...

    async def login(self, app: App, steps: Steps, output_limit: int | None) -> None:
        """Log in, telling each step; the login that was there stays until the new one is stored."""
        ...

    def logout(self, app: App) -> Report:
        """Remove the login of the region in use."""
        ...

    async def usage(self, app: App) -> Report:
        """Tell what is left of the plan."""
        ...

    async def models(self, app: App) -> Report:
        """Tell which models the plan has."""
        ...

    async def blocks(self, app: App, output_limit: int | None) -> tuple[Block, ...]:
        """Return the lines for clients, for the models of the plan."""
        ...


PROVIDERS: dict[str, Provider] = {
    "kimi": Kimi(),
}
