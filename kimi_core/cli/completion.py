"""``kimi-mitm completion``: what a shell needs to complete its commands and options."""

from __future__ import annotations

import os
import shutil

import click
from click.shell_completion import CompletionItem, get_completion_class
from rich.text import Text

from kimi_core.cli.app import App, AppCommand
from kimi_core.cli.output import ExitCode, Report

SHELLS = {  # each with the line that makes it permanent
    "bash": "echo 'eval \"$(kimi-mitm completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(kimi-mitm completion zsh)\"' >> ~/.zshrc",
    "fish": "kimi-mitm completion fish > ~/.config/fish/completions/kimi-mitm.fish",
}
PROGRAM = "kimi-mitm"
VARIABLE = "_KIMI_MITM_COMPLETE"  # click's own rule for the name
MOST = 200  # programs that are offered; with more, type another letter

# \b keeps click from joining the lines
HELP = f"""Print what SHELL needs to complete commands and options.

\b
bash  {SHELLS["bash"]}
zsh   {SHELLS["zsh"]}
fish  {SHELLS["fish"]}
"""


@click.command(cls=AppCommand, help=HELP)
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(ctx: click.Context, app: App, shell: str) -> ExitCode:
    """Print what SHELL needs."""
    made = get_completion_class(shell)
    assert made is not None, "click has all of SHELLS"
    text = made(ctx.find_root().command, {}, PROGRAM, VARIABLE).source()
    if app.out.as_json:
        return app.out.show(Report({"shell": shell, "text": text}, Text()))
    app.out.raw(text.strip("\n"))
    return ExitCode.OK


def programs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the command that `run` is to run: a program of PATH, and files after it."""
    if ctx.params.get("command") or "/" in incomplete:
        return [CompletionItem(incomplete, type="file")]
    found: set[str] = set()
    for folder in os.get_exec_path():
        try:
            names = os.listdir(folder)  # noqa: PTH208 - names are all that is wanted, of folders with thousands
        except OSError:
            continue
        found |= {name for name in names if name.startswith(incomplete)}
        if len(found) > MOST:
            break
    return [CompletionItem(name) for name in sorted(found)[:MOST] if shutil.which(name)]
