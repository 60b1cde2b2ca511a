"""Which conversation a request belongs to: one stable value per session, whatever the client calls it (kimi.md §8.4).

The layers, first hit counts::

    native               body prompt_cache_key in the shape of an official client: passes verbatim
    body, camel-case,    prompt_cache_key, promptCacheKey, x-opencode-kimi-prompt-cache-key
    private-header
    parent               x-parent-session-id, where sub-agents share the key of their session
    <header name>        x-session-id and the other names of kimi.md §8.2
    metadata, user       body metadata.user_id, user
    hash                 client, beginning of the system text, first user message

Everything but a native key is mapped to a UUID by RFC 9562 version 5, so that foreign ids do not leak; the map knows
the value only, not the layer, so a title call (header only) and a main call (body and header) of one session agree.
For the same reason a body key that repeats the session header counts as that header: the parent goes before it, and
it is mapped even where it looks native.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kimi_core.headers import Headers

PARENT_HEADER = "x-parent-session-id"
PRIVATE_HEADER = "x-opencode-kimi-prompt-cache-key"
SESSION_HEADERS = (
    "x-session-id",
    "x-session-affinity",
    "x-opencode-session",
    "session_id",
    "session-id",
    "thread-id",
    "conversation_id",
    "x-claude-code-session-id",
    "x-kilocode-taskid",
    "x-task-id",
    "x-client-session-id",
    "x-qwen-code-session-id",
    "x-continue-session-id",
    "x-openwebui-chat-id",
    "x-litellm-session-id",
    "helicone-session-id",
)
NATIVE = "native"  # layer of a key that passes verbatim
KNOWN_LENGTH = 200  # characters of an id that is remembered; clients' own are UUIDs and the like
SYSTEM_PREFIX = 128  # characters of the system text that are hashed: further down stand dates and directories

_is_native = re.compile(r"(session_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
_digits = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Key:
    """`value`: a dashed UUID, or a native key as the client sent it. `layer`: where it comes from."""

    value: str
    layer: str


def conversation_key(headers: Headers, body: Mapping[str, Any], *, salt: str, prefer_parent: bool) -> Key:
    """Return the key of the conversation that a chat request belongs to; never fails, never empty.

    *body* is the decoded request as the client sent it. *salt* is a value of this installation: without it the keys
    of two users who say the same thing would be the same. With *prefer_parent* a sub-agent has its session's key.
    """
    signal, layer = next(_signals(headers, body, prefer_parent=prefer_parent))
    return Key(signal if layer == NATIVE else _map(signal, salt), layer)


def _signals(headers: Headers, body: Mapping[str, Any], *, prefer_parent: bool) -> Iterator[tuple[str, str]]:
    known = headers.first
    sessions = [(value, name) for name in SESSION_HEADERS if name in known and (value := _text(known[name]))]
    own = {value for value, _ in sessions}
    parent = _text(known.get(PARENT_HEADER)) if prefer_parent else ""
    explicit = (
        (_text(body.get("prompt_cache_key")), "body"),
        (_text(body.get("promptCacheKey")), "camel-case"),
        (_text(known.get(PRIVATE_HEADER)), "private-header"),
    )
    for value, layer in explicit:
        if value and not (parent and value in own):
            native = layer == "body" and _is_native(value) and value not in own
            yield value, NATIVE if native else layer
    if parent:
        yield parent, "parent"
    yield from sessions
    metadata = body.get("metadata")
    if isinstance(metadata, Mapping) and (value := _text(metadata.get("user_id"))):
        yield value, "metadata"
    if value := _text(body.get("user")):
        yield value, "user"
    yield _opening(headers, body), "hash"


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _map(value: str, salt: str) -> str:
    return _known(value, salt) if len(value) <= KNOWN_LENGTH else _uuid(value, salt)


@functools.lru_cache(maxsize=256)  # a session says the same with each of its requests
def _known(value: str, salt: str) -> str:
    return _uuid(value, salt)


def _uuid(value: str, salt: str) -> str:
    return str(uuid.uuid5(_namespace(salt), value.encode("utf-8", "surrogatepass")))


@functools.lru_cache(maxsize=8)
def _namespace(salt: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"kimi-mitm:{salt}")


def _opening(headers: Headers, body: Mapping[str, Any]) -> str:
    """Return a digest of how the conversation begins; it stays while the history grows."""
    messages = body.get("messages")
    client = (headers.get("user-agent") or "").partition("/")[0]
    system = _digits.sub("0", _first(messages, "system").partition("\n")[0])[:SYSTEM_PREFIX]
    opening = json.dumps([client, system, _first(messages, "user")])
    return hashlib.sha256(opening.encode()).hexdigest()


def _first(messages: object, role: str) -> str:
    """Return the text of the first message of *role*; a list of parts and the same text as a string are one."""
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping) and message.get("role") == role:
            content = message.get("content")
            return content if isinstance(content, str) else "".join(map(_part, _parts(content)))
    return ""


def _parts(content: object) -> list[object]:
    return content if isinstance(content, list) else [content]


def _part(part: object) -> str:
    if not isinstance(part, Mapping):
        return json.dumps(part, sort_keys=True)
    if isinstance(text := part.get("text"), str):
        return text
    # a cache_control mark moves from turn to turn, the part does not
    return json.dumps({key: value for key, value in part.items() if key != "cache_control"}, sort_keys=True)
