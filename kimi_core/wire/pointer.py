"""JSON pointers (RFC 6901) as local references of JSON schemas: ``#/$defs/name``."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

_is_index = re.compile(r"[0-9]{1,6}").fullmatch


def resolve(root: object, reference: str) -> Any:
    """Return what *reference* (``#`` and a pointer, percent-encoded) stands for in *root*, None for nothing."""
    value: Any = root
    for token in unquote(reference[1:]).split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and _is_index(name) and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value
