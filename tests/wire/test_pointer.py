import pytest

from kimi_core.wire.pointer import resolve

ROOT = {"$defs": {"a/b": {"type": "string"}, "til~de": 1, "space d": 2, "": 3}, "items": [{"x": 5}, 6]}


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("#", ROOT),
        ("#/$defs/a~1b/type", "string"),
        ("#/$defs/til~0de", 1),
        ("#/$defs/space%20d", 2),
        ("#/$defs/", 3),
        ("#/items/0/x", 5),
        ("#/items/1", 6),
        ("#/items/2", None),
        ("#/items/-1", None),
        ("#/items/9999999", None),
        ("#/items/1/x", None),
        ("#/nowhere", None),
        ("#/nowhere/else", None),
    ],
)
def test_resolve(reference, found):
    """A pointer leads through objects by name and through lists by place, or nowhere."""
    assert resolve(ROOT, reference) == found
