"""Which client a user asks about, and what it is written in: that decides which certificates it trusts."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Runtime(StrEnum):
    """What a client is written in, or rather which rules its TLS follows."""

    node = "node"
    python = "python"
    requests = "requests"
    curl = "curl"


@dataclass(frozen=True, slots=True)
class Client:
    """A client by the name that the user gave; `runtime` None = not known, `path` None = it is not on PATH."""

    name: str
    runtime: Runtime | None
    path: str | None = None

    @property
    def kind(self) -> bool:
        """Whether it is the name of a kind of clients, rather than of a program."""
        return self.name in KINDS


PRESETS: Mapping[str, Runtime] = {
    "opencode": Runtime.node,  # a Bun program: it takes NODE_EXTRA_CA_CERTS as Node.js does
    "claude": Runtime.node,
    "claude-code": Runtime.node,
    "node": Runtime.node,
    "npx": Runtime.node,
    "bun": Runtime.node,
    "deno": Runtime.node,
    "python": Runtime.python,
    "python3": Runtime.python,
    "openai": Runtime.python,
    "aider": Runtime.python,
    "requests": Runtime.requests,
    "curl": Runtime.curl,
    "git": Runtime.curl,
}
KINDS = frozenset({"claude-code", "node", "python", "requests", "openai"})  # names of a kind, no programs to look for
INTERPRETERS = ("node", "bun", "deno", "python", "curl")  # as the first line of a script may name them
FIRST_LINE = 200  # bytes; longer ones the kernel does not read either


def client(command: str, which: Callable[[str], str | None]) -> Client:
    """Return the client that *command* means: a preset, a program on PATH, or a whole command line of one."""
    try:
        words = shlex.split(command) or [command]
    except ValueError:  # a quote that does not end: it is part of a name
        words = [command]
    name = Path(words[0]).name
    path = which(words[0])
    return Client(name, PRESETS.get(name.removesuffix(".exe")) or _of_script(path), path)


def _of_script(path: str | None) -> Runtime | None:
    """Return the runtime that the first line of a script names."""
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            first = file.read(FIRST_LINE).partition(b"\n")[0]
    except OSError:
        return None
    if not first.startswith(b"#!"):
        return None
    line = first.decode(errors="replace")
    return next((PRESETS[name] for name in INTERPRETERS if name in line), None)
