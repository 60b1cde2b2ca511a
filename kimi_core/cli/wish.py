"""What a user asks of a login beside the provider."""

from __future__ import annotations

from dataclasses import dataclass, fields

from kimi_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Wish:
    """Options of ``kimi-mitm login``; None and False = not given.

    `output_limit` in tokens goes into opencode's models. `start_url` and `region` are those of an organisation's IAM
    Identity Center; `social` is the way in of the portal; `paste`: the browser cannot come back to this machine.
    """

    output_limit: int | None = None
    start_url: str | None = None
    region: str | None = None
    social: str | None = None
    paste: bool = False

    def check(self, provider: str, known: frozenset[str]) -> None:
        """Raise ConfigError for an option that the login of *provider* does not know."""
        for field in fields(self):
            if getattr(self, field.name) and field.name not in known:
                raise ConfigError(f"The login of {provider} has no --{field.name.replace('_', '-')}.")
