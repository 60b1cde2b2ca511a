"""The clients whose configuration is known: which block is theirs, which file they read, how it gets in there.

Pure but for one look at which of opencode's two files there is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_core.blocks.kiro import AGENT
from kimi_core.blocks.place import dump
from kimi_core.cli import section
from kimi_core.cli.jsonc import parse
from kimi_core.cli.jsonc_merge import BOM, merge


@dataclass(frozen=True, slots=True)
class Client:
    """One client, or one thing that clients have in common.

    `block` is the name of its block. `file` gives the file that it reads from the environment and the home folder;
    None: there is none that is its own, the user has to name one. `put` merges the block into the text of that file and
    raises ValueError where it cannot. `many`: one block can hold several services. `two_ways`: HTTPS_PROXY and a base
    URL are both possible, else there is a base URL in any case. `limits`: the block has room for limits of models.
    `lacking` says why a service has no such block.
    """

    name: str
    block: str
    put: Callable[[str, str], str]
    file: Callable[[Mapping[str, str], Path], Path] | None = None
    is_json: bool = False
    many: bool = False
    two_ways: bool = False
    limits: bool = False
    lacking: str = ""

    def joined(self, texts: Iterable[str]) -> str:
        """Return one block for several services; the same text twice counts once."""
        several = list(dict.fromkeys(texts))
        if len(several) == 1:
            return several[0]
        if not self.is_json:
            return "\n\n".join(several)
        whole: dict[str, Any] = {}
        for text in several:
            whole = _union(whole, json.loads(text))
        return dump(whole)


def _union(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return both, member by member; where both have a value that is no object it is the same."""
    shared = {key: _union(one[key], other[key]) for key in one if key in other and isinstance(one[key], dict)}
    return one | other | shared


def _opencode_file(environ: Mapping[str, str], home: Path) -> Path:
    """Return the file that OPENCODE_CONFIG names, else the user's own: .jsonc where there is one, it counts last."""
    if chosen := environ.get("OPENCODE_CONFIG"):
        return Path(chosen)
    folder = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "opencode"
    annotated = folder / "opencode.jsonc"
    return annotated if annotated.exists() else folder / "opencode.json"


def _claude_file(environ: Mapping[str, str], home: Path) -> Path:
    return Path(environ.get("CLAUDE_CONFIG_DIR") or home / ".claude") / "settings.json"


def _put_json(text: str, block: str) -> str:
    return merge(text, json.loads(block))


def _put_opencode(text: str, block: str) -> str:
    """Merge what is ours; the schema's address and the agent, an example, are only for whoever has none."""
    root, wanted = parse(text.removeprefix(BOM)), json.loads(block)
    if root is not None and root.is_object:
        wanted.pop("$schema")
        if AGENT in (root.value.get("agent") or {}):
            wanted.pop("agent", None)
    return merge(text, wanted)


def _put_section(name: str) -> Callable[[str, str], str]:
    return lambda text, block: section.put(text, name, block)


CLIENTS = {
    client.name: client
    for client in (
        Client("opencode", "opencode", _put_opencode, _opencode_file, True, True, True, True),
        Client("opencode-v2", "opencode-v2", _put_opencode, _opencode_file, True, True, True, True),
        Client("openai", "openai", _put_section("openai")),
        Client(
            "claude-code",
            "claude-code",
            _put_json,
            _claude_file,
            is_json=True,
            lacking="Claude Code speaks the Anthropic dialect, in which Kiro is not offered here: use it with Kimi.",
        ),
        Client("curl", "curl", _put_section("curl"), many=True),
        Client("env", "", _put_section("env"), many=True),
    )
}
