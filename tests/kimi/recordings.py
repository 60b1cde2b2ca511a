"""Recorded requests of real clients (tests/recordings), ready to be sent again."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_core.headers import Headers

FOLDER = Path(__file__).parent.parent / "recordings"
KIMI_CLI = "kimi-cli-1.52.0"
KIMI_CODE = "kimi-code-2.1.0"
OPENCODE = "opencode-1.18.33"


@dataclass(frozen=True, slots=True)
class Recording:
    """One request. `body` is None where it had none, or was no JSON."""

    case: str
    method: str
    host: str
    target: str
    headers: Headers
    body: dict[str, Any] | None

    @property
    def raw(self) -> bytes:
        """The body as the client would send it."""
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":")).encode()


def load(name: str) -> list[Recording]:
    """Return every request of one file in order; placeholders of UUIDs are UUIDs again, the same ones for the same."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [_recording(json.loads(_with_uuids(line))) for line in lines]


def chats(name: str) -> list[Recording]:
    """Return the chat requests of one file."""
    return [recording for recording in load(name) if recording.target.endswith("/chat/completions")]


def _recording(line: dict[str, Any]) -> Recording:
    headers = Headers((key, value) for key, value in line["headers"])
    return Recording(line["case"], line["method"], line["host"], line["target"], headers, line.get("json"))


def _with_uuids(line: str) -> str:
    return re.sub(r"<UUID-\d+>", lambda found: str(uuid.uuid5(uuid.NAMESPACE_OID, found.group())), line)
