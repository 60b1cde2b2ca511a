"""Reasoning that is kept to be given back."""

from kimi_core.kiro import thoughts
from kimi_core.kiro.events import Reasoning
from kimi_core.kiro.thoughts import Thoughts


def test_collects():
    """Text is joined, the last signature counts, redacted blocks are kept apart."""
    kept = Thoughts()
    assert not kept.seen
    for event in (
        Reasoning("h", "s1"),
        Reasoning("m"),
        Reasoning("", "s2"),
        Reasoning("", None, "r1"),
        Reasoning("", None, "r2"),
    ):
        kept.add(event)
    assert kept.seen
    assert (kept.text, kept.signature, kept.redacted) == ("hm", "s2", ("r1", "r2"))


def test_half_a_thought_is_none(monkeypatch):
    """What grows too long is forgotten whole."""
    monkeypatch.setattr(thoughts, "MAX_TEXT", 5)
    kept = Thoughts()
    for event in (Reasoning("abc", "s"), Reasoning("", None, "abc"), Reasoning("a", "s")):
        kept.add(event)
    assert (kept.text, kept.signature, kept.redacted) == ("", None, ())
    assert kept.seen
