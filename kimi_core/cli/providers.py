"""The services that the command line knows. A new one is a module with a `Provider`, and a line in `PROVIDERS`."""

from __future__ import annotations

from typing import Protocol

from kimi_core.blocks.place import Block
from kimi_core.cli.app import App
from kimi_core.cli.kimi import Kimi
from kimi_core.cli.kiro import Kiro
from kimi_core.cli.output import Report
from kimi_core.cli.steps import Steps
from kimi_core.cli.wish import Wish


class Provider(Protocol):
    """One service: what `login`, `logout`, `status`, `usage` and `models` do for it.

    Each method raises KimiMitmError where it cannot do its work. `wishes` are the fields of `Wish` that the login
    knows, `block_names` the lines for clients that there are.
    """

    wishes: frozenset[str]
    block_names: tuple[str, ...]

    def status(self, app: App) -> Report:
        """Tell what is stored, without asking the service."""
        ...

    async def login(self, app: App, steps: Steps, wish: Wish) -> None:
        """Log in, telling each step; the login that was there stays until the new one is stored."""
        ...

    def logout(self, app: App, account: str | None) -> Report:
        """Remove the login of the region in use, or of *account* where there may be several."""
        ...

    async def usage(self, app: App) -> Report:
        """Tell what is left of the plan."""
        ...

    async def models(self, app: App) -> Report:
        """Tell which models the plan has."""
        ...

    async def blocks(self, app: App, output_limit: int | None, *, local: bool | None = None) -> tuple[Block, ...]:
        """Return the lines for clients, for the models of the plan; *local*: the way in, where the user chose one."""
        ...


PROVIDERS: dict[str, Provider] = {
    "kimi": Kimi(),
    "kiro": Kiro(),
}
