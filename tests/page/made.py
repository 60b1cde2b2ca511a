"""Records of the page with something in every field."""

from kimi_core.blocks.place import Block
from kimi_core.page.state import (
    Entry,
    Journal,
    Level,
    Login,
    Meter,
    Outcome,
    Page,
    Provider,
    Token,
    Total,
    Usage,
)

NOW = 1_790_000_000.0


def entry(**fields):
    """Return an exchange that went well."""
    usual = {
        "at": NOW - 60,
        "client": "opencode/1.18.33",
        "provider": "kimi",
        "outcome": Outcome.ok,
        "operation": "chat",
        "model": "kimi-for-coding",
        "effort": "high",
        "status": 200,
        "first_byte": 0.4,
        "duration": 12.25,
        "tokens_in": 12_345,
        "tokens_out": 678,
        "cached": 9_000,
    }
    return Entry(**usual | fields)


def login(**fields):
    """Return a login that serves."""
    usual = {
        "id": "kimi-kimi.com",
        "name": "kimi.com",
        "state": "ok",
        "level": Level.good,
        "meaning": "logged in",
        "in_use": True,
        "token": Token(NOW - 300, NOW + 600),
        "usage": Usage((Meter("Weekly limit", 0.6, "60% left", NOW + 7200),), NOW - 90, notes=("A note.",)),
    }
    return Login(**usual | fields)


def page(*logins, entries=(), running=(), today=None, **fields):
    """Return a page with one provider."""
    provider = Provider("kimi", "Kimi Code", logins=logins, hints=() if logins else ("kimi-mitm login kimi",), **fields)
    totals = (Total("kimi", 3, 1, 20_000, 700, 9_000, 0.0),) if today is None else today
    journal = Journal(tuple(running), tuple(entries), totals, len(running))
    return Page("1.2.3", NOW, NOW - 3700, "127.0.0.1:8080", (provider,), journal)


def block(**fields):
    """Return lines for a client."""
    usual = {"name": "openai", "title": "OpenAI SDKs", "text": "export A=1\n", "language": "bash", "notes": ("Note.",)}
    return Block(**usual | fields)
