"""What the lines for clients have in common: where the proxy is, its key, the shell's syntax, JSON that fits. Pure.

No block holds a secret: the proxy replaces whatever key a client sends, so the key is a placeholder. Where
`kimi_client_key` is set, the block says where the key comes from.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

NPM_PACKAGE = "@ai-sdk/openai-compatible"
OPENCODE_SCHEMA = "https://opencode.ai/config.json"
PLACEHOLDER_KEY = "kimi-mitm"
KEY_VARIABLE = "KIMI_MITM_KEY"
WIDTH = 80  # columns of a JSON block, so that a terminal does not break its lines
NO_PROXY = "localhost,127.0.0.1,::1"


class Key(StrEnum):
    """What the proxy asks of clients: nothing, a key the user chose, or one that it made itself."""

    NONE = "none"
    CHOSEN = "chosen"
    MADE = "made"


@dataclass(frozen=True, slots=True)
class Place:
    """Where clients find things.

    `proxy_url` is the listener (``http://127.0.0.1:8080``), `api_base` the service's own base URL, `ca` mitmproxy's
    certificate, `key_file` the file of a key that the proxy made. `powershell` chooses the shell's syntax; `provider`
    is the service's path on the proxy's own port. `local` is the way in that the user chose: True = the proxy's own
    port, False = the service's own address behind HTTPS_PROXY, None = each block has what is usual for its service.
    """

    proxy_url: str
    api_base: str
    ca: Path
    key: Key = Key.NONE
    key_file: Path | None = None
    powershell: bool = False
    provider: str = "kimi"
    local: bool | None = None

    @property
    def local_base(self) -> str:
        """The base URL of the local endpoint for OpenAI clients."""
        return f"{self.proxy_url}/{self.provider}/v1"

    def base(self, *, usual: bool) -> str:
        """Return the base URL of the way in: the one that was chosen, else the local one where that is *usual*."""
        return self.local_base if (usual if self.local is None else self.local) else self.api_base


@dataclass(frozen=True, slots=True)
class Block:
    """One thing to paste: `text` exactly as it goes in, `title` what it is for, `notes` what to know.

    `on_request`: a login does not print it among the others, `kimi-mitm config` does.
    """

    name: str
    title: str
    text: str
    language: str
    notes: tuple[str, ...] = ()
    on_request: bool = False


def key_notes(place: Place) -> tuple[str, ...]:
    """Return where the key comes from, where the proxy asks for one."""
    if place.key is Key.NONE:
        return ()
    source = f"what {place.key_file} holds as `key`" if place.key is Key.MADE else "the value of kimi_client_key"
    return (f"The proxy asks for a key: put {source} into {KEY_VARIABLE}.",)


def opencode_key(place: Place) -> str:
    """Return the key in opencode's syntax."""
    return PLACEHOLDER_KEY if place.key is Key.NONE else f"{{env:{KEY_VARIABLE}}}"


def shell_key(place: Place) -> str:
    """Return the key for `exports`."""
    return PLACEHOLDER_KEY if place.key is Key.NONE else f"${KEY_VARIABLE}"


def shell(place: Place, name: str) -> Block:
    """Return the variables for clients that honour HTTPS_PROXY; *name* is the service's, for people."""
    notes = (
        "mitmproxy makes the certificate at its first start.",
        f"Python clients: SSL_CERT_FILE={place.ca} where they speak to {name} only: it replaces all other roots.",
    )
    text = exports(
        place,
        ("HTTPS_PROXY", place.proxy_url),
        ("NO_PROXY", NO_PROXY),
        ("NODE_EXTRA_CA_CERTS", str(place.ca)),
    )
    return Block("shell", "Shell: clients that honour HTTPS_PROXY", text, "bash", notes)


def openai(place: Place, model: str) -> Block:
    """Return the variables for OpenAI SDKs; *model* is the one to name in the note."""
    text = exports(place, ("OPENAI_BASE_URL", place.local_base), ("OPENAI_API_KEY", shell_key(place)))
    notes = (f"The model is {model}. No CA and no HTTPS_PROXY are needed.", *key_notes(place))
    return Block("openai", "OpenAI SDKs and whatever reads their variables", text, "bash", notes)


def curl(place: Place, model: str) -> Block:
    """Return a command that asks *model* one question at the local endpoint."""
    question = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    url = f"{place.local_base}/chat/completions"
    make = _invoke if place.powershell else _curl
    return Block("curl", "curl: one question", make(place, url, question), "bash", key_notes(place), on_request=True)


def _curl(place: Place, url: str, question: dict[str, Any]) -> str:
    key = "" if place.key is Key.NONE else f'  -H "Authorization: Bearer ${KEY_VARIABLE}" \\\n'
    body = shlex.quote(json.dumps(question, ensure_ascii=False))
    return f"curl -N {shlex.quote(url)} \\\n{key}  -H 'Content-Type: application/json' \\\n  -d {body}"


def _invoke(place: Place, url: str, question: dict[str, Any]) -> str:
    """Return the same for PowerShell, whose releases differ in how they pass quotes on to a program such as curl."""
    key = "" if place.key is Key.NONE else f' -Headers @{{Authorization = "Bearer $env:{KEY_VARIABLE}"}}'
    body = _powershell_quote(json.dumps(question | {"stream": False}))
    return f"Invoke-RestMethod -Method Post -Uri {url} -ContentType application/json{key} -Body {body}"


def exports(place: Place, *variables: tuple[str, str]) -> str:
    """Return lines that set *variables* in the user's shell; a value that begins with $ refers to another one."""
    return "\n".join(_export(name, value, powershell=place.powershell) for name, value in variables)


def _export(name: str, value: str, *, powershell: bool) -> str:
    reference = value.startswith("$")
    if powershell:
        return f"$env:{name} = {f'$env:{value[1:]}' if reference else _powershell_quote(value)}"
    return f"export {name}={f'"{value}"' if reference else shlex.quote(value)}"


def _powershell_quote(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def dump(value: Any, indent: int = 0, used: int = 0) -> str:
    """Return *value* as JSON in which what fits on a line of `WIDTH` columns, *used* of them taken, stands on one."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or used + len(flat) < WIDTH:
        return flat
    names = (
        [f"{json.dumps(key, ensure_ascii=False)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    )
    items = value.values() if isinstance(value, dict) else value
    inner = " " * (indent + 2)
    lines = (
        f"{inner}{name}{dump(item, indent + 2, len(inner) + len(name))}"
        for name, item in zip(names, items, strict=True)
    )
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}\n" + ",\n".join(lines) + "\n" + " " * indent + right
