import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.view import text
from kimi_core.view.text import Page


def test_a_page_counts_what_has_no_room():
    """What no longer fits is told once, and a part with room of its own is there all the same."""
    page = Page(limit=10)
    page.add("12345")
    page.add("1234567890")
    page.add("x")
    assert page.full
    page.make_room(50)
    assert not page.full
    page.add("the end")
    assert page.render() == "12345\n \n… 13 characters more had no room here …\nthe end"


def test_sections_and_dividers_have_a_blank_line_before_them():
    """Titles stand within rules of one width; empty words leave no trace; no line is empty."""
    page = Page()
    page.section("One", "", "two")
    page.divider("Below")
    blank, section, blank_too, divider = page.render().split("\n")
    assert (blank, blank_too) == (" ", " ")
    assert section.startswith("── One · two ─")
    assert divider.startswith("══ Below ═")
    assert len(section) == len(divider) == text.WIDTH


def test_a_page_can_be_encoded():
    """Halves of surrogate pairs do not leave a page."""
    page = Page()
    page.add("é \ud800")
    assert page.render() == "é \\ud800"


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 1024 * 1024, "3.0 MiB")]
)
def test_sizes(number, shown):
    """Sizes are said in the unit that fits."""
    assert text.size(number) == shown


def test_counts():
    """A noun follows its number."""
    assert (text.count(1, "frame"), text.count(1200, "frame")) == ("1 frame", "1,200 frames")
    assert text.count(2, "story", "stories") == "2 stories"


def test_long_texts_are_shortened_in_the_middle():
    """Beginning and end stay, and the length is told."""
    shown = text.shorten("a" * 600 + "b" * 600, 300)
    assert shown == "a" * 200 + "\n[… 900 of 1,200 characters left out …]\n" + "b" * 100
    assert text.shorten("short\n", 10) == "short"


def test_clipped_texts_stay_on_a_line():
    """Line breaks are shown as such, and the length is told."""
    assert text.clip("a\r\nb", 10) == "a\\r\\nb"
    assert text.clip("abcdef", 3) == "abc… (6 characters)"


def test_hexadecimal():
    """Bytes are shown in rows of sixteen with what is printable of them."""
    assert text.hexed(b"AB\x00\xff") == f"{'41 42 00 ff':<48} AB.."
    assert text.hexed(bytes(100)).endswith("\n… 52 bytes more")


@pytest.mark.parametrize(
    ("given", "wrapped"),
    [
        ("short", "short"),
        ("aaa bbb ccc", "aaa bbb\nccc"),
        ("  aaa bbb ccc", "  aaa bbb\n  ccc"),
        ("aaaaaaaaaaaaa", "aaaaaaaaa\naaaa"),
        ("```\naaa bbb ccc\n```\naaa bbb ccc", "```\naaa bbb ccc\n```\naaa bbb\nccc"),
        (" " * 8 + "aaa bbb ccc", "       \naaa bbb\nccc"),
    ],
)
def test_long_lines_are_wrapped(given, wrapped):
    """Lines break between words, keep their indent, and stay as they are within fences."""
    assert text.wrap(given, 9) == wrapped


@given(st.text(alphabet="ab \n`\t", max_size=200), st.integers(1, 20))
@settings(max_examples=120)
def test_wrapping_loses_nothing(given, width):
    """Whatever the text, nothing but blanks and line breaks is added or lost."""
    assert "".join(text.wrap(given, width).split()) == "".join(given.split())


def test_rows_are_wrapped_beside_their_label():
    """The value of a row hangs beside its label."""
    page = Page()
    page.row("tools", "word " * 30)
    first, second, *_ = page.render().split("\n")
    assert first.startswith("tools      word")
    assert second.startswith(" " * text.LABEL + "word")


@pytest.mark.parametrize(
    ("data", "value"), [(b'{"a": [1, NaN]}', '{"a":[1,NaN]}'), (b'["\\udc00x"]', '["\\udc00x"]'), (b"1", "1")]
)
def test_json_is_read_leniently(data, value):
    """Values that clients do send are read, also such as are no strict JSON."""
    assert text.compact(text.read_json(data)).encode("utf-8", "backslashreplace").decode() == value


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 5000, b'["\\ud800'])
def test_what_is_no_json_is_told(data):
    """Everything else is unreadable, for a reason."""
    with pytest.raises(text.Unreadable, match=r"."):
        text.read_json(data)


def test_as_much_as_there_is():
    """Of a cut document its beginning is read, of one with too many members as many as may be."""
    assert text.read_most(b'{"a": 1}') == ({"a": 1}, "")
    value, problem = text.read_most(b'{"a": "begi')
    assert value == {"a": "begi"}
    assert "no whole JSON" in problem
    value, problem = text.read_most(b"[" + b'{"a":1},' * (text.MAX_MEMBERS * 2) + b"1]")
    assert 0 < len(value) <= text.MAX_MEMBERS
    assert "only the first" in problem
    assert text.read_most(b"\xff")[0] is None


def test_pretty_json():
    """Short values stay on a line, long ones are indented, and depth is no fault."""
    assert text.pretty({"a": 1}) == '{"a":1}'
    assert text.pretty(["x" * 60, "y" * 60]).count("\n") == 3
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested too deeply" in text.pretty(deep)
    assert text.pretty({"a": "\ud800" + "x" * 100}).startswith('{\n  "a"')


def test_json_in_a_text():
    """Arguments are indented where they are JSON, and stay as they came where they are not or are too long."""
    assert text.pretty_source('{"a": "' + "b" * 120 + '"}', 1000).startswith('{\n  "a"')
    assert text.pretty_source("{half", 100) == "{half"
    assert "left out" in text.pretty_source("x" * 200, 100)
    assert text.pretty_source('["\ud800"]', 100) == '["\ud800"]'


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234, "1,234"), (0.5, "0.5"), (True, "true"), ("x", "x"), (None, ""), (10**5000, "1000"), (float("inf"), "I")],
    ids=["int", "float", "bool", "str", "none", "huge", "inf"],
)
def test_amounts(value, shown):
    """Counts get their thousands apart; whatever else stands there is shown as it is."""
    assert text.amount(value).startswith(shown)


def test_too_many_members_that_are_no_json():
    """What only looks like very much JSON is nothing."""
    assert text.read_most(b"\xff" + b'":' * (text.MAX_MEMBERS + 1))[0] is None
