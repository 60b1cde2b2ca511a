"""A group of commands of which each is loaded when it is called: help and version come at once, a command sooner."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem


class Commands(UserDict[str, click.Command]):
    """Commands by name, each loaded at its first use from the module that has it under that name."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        super().__init__()
        self.modules = modules

    def __missing__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(self.modules[name]), name)
        self.data[name] = command
        return command

    def __contains__(self, name: object) -> bool:
        return name in self.modules

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


class LazyGroup(click.Group):
    """A group whose commands are known by name, module and a sentence until one of them is called.

    *later* has both for each name; the sentence is what lists of commands say, as click shortens the command's help.
    """

    def __init__(self, name: str | None = None, *, later: Mapping[str, tuple[str, str]], **attributes: Any) -> None:
        modules = {command: module for command, (module, _) in later.items()}
        self.sentences = {command: sentence for command, (_, sentence) in later.items()}
        super().__init__(name, commands=Commands(modules), **attributes)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without loading one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.sentences[name]) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name without loading one, or an option of the group."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self.sentences[name]) for name in names]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]
