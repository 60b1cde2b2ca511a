"""Modules that are loaded when something of them is first used, so that the start waits for what it needs alone.

Loading all that a request may come to need takes as long as starting mitmproxy itself. What stands at the border of
that is bound in this way, which types and import contracts see as the plain import that it is:

    if TYPE_CHECKING:
        import httpx
    else:
        httpx = later.module("httpx")

Whoever runs for longer has everything loaded beside (`load`), soon after its start: no request is to pay for it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_expected: dict[str, None] = {}


class Later:
    """Stands for a module: what is asked of it is asked of that one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, attribute: str) -> Any:
        if self._module is None:
            self._module = import_module(self._name)
        return getattr(self._module, attribute)


def module(name: str) -> Later:
    """Return what stands for the module *name*.

    Raises ModuleNotFoundError where it is not installed, as importing it would.
    """
    if find_spec(name) is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    _expected[name] = None
    return Later(name)


def load() -> None:
    """Load every module that was put off, and what those have put off; in a thread the event loop goes on meanwhile."""
    while _expected:
        import_module(_expected.popitem()[0])
