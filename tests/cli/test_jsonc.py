import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.cli.jsonc import MAX_DEPTH, JsoncError, comments, parse
from kimi_core.cli.jsonc_merge import merge

# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        ("[]", []),
        ("  1.5e3 ", 1500.0),
        ('"a\\u00e9\\n"', "aé\n"),
        ("[true, false, null, -0]", [True, False, None, 0]),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('// one\n{ /* two */ "a" /* three */ : // four\n [1, /* five */ 2,], }// six', {"a": [1, 2]}),
        ('{"url": "https://x/*y*/"}', {"url": "https://x/*y*/"}),
        ("[[[]]]", [[[]]]),
        ('/**/{"a":/***/1}', {"a": 1}),
    ],
)
def test_what_is_understood(text, value):
    """JSON with comments of both kinds and a comma at the end."""
    assert parse(text).value == value


@pytest.mark.parametrize("text", ["", " \n", "// nothing\n", "/* nothing */"])
def test_nothing_is_no_value(text):
    """A text of comments alone has no value."""
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "line", "column", "word"),
    [
        ('{"a": 1\n "b": 2}', 2, 2, "comma"),
        ("[1 2]", 1, 4, "comma"),
        ("{,}", 1, 2, "key"),
        ('{"a": 1,,}', 1, 9, "key"),
        ("[1,,]", 1, 4, "a value is missing"),
        ("{a: 1}", 1, 2, "key"),
        ("{'a': 1}", 1, 2, "key"),
        ('{"a" 1}', 1, 6, "colon"),
        ('{"a":}', 1, 6, "a value is missing"),
        ('{"a": 1', 1, 8, "comma or }"),
        ("[1", 1, 3, "comma or ]"),
        ("{} {}", 1, 4, "follows"),
        ('{"a": tru}', 1, 7, "no value"),
        ('{"a": "x\ny"}', 1, 7, "no value"),
        (r'{"a": "\q"}', 1, 7, "no value"),
        ("{\n  /* open", 2, 3, "comment"),
        ("01", 1, 2, "follows"),
        ("1" * 5000, 1, 1, "no value"),
        ("[" * (MAX_DEPTH + 2), 1, MAX_DEPTH + 2, "deep"),
    ],
)
def test_what_is_refused(text, line, column, word):
    """A fault is named with its line and its column."""
    with pytest.raises(JsoncError, match=word) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert f"line {line}, column {column}" in str(caught.value)


# --- merging: how it looks --------------------------------------------------------------------------------------------

THE_SAME = '{\n  // mine\n  "a": {"b": 1}, /* kept */\n}\n'


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        (THE_SAME, {"a": {"b": 1}}, THE_SAME),
        (THE_SAME, {}, THE_SAME),
        ('{\n  "a": 1\n}\n', {"b": 2}, '{\n  "a": 1,\n  "b": 2\n}\n'),
        ('{\n  "a": 1,\n}\n', {"b": 2}, '{\n  "a": 1,\n  "b": 2,\n}\n'),
        ('{\n  "a": 1 // one\n}\n', {"b": 2}, '{\n  "a": 1, // one\n  "b": 2\n}\n'),
        ('{\n  "a": 1, // one\n  // end\n}\n', {"b": 2}, '{\n  "a": 1, // one\n  "b": 2,\n  // end\n}\n'),
        ('{\r\n\t"a": 1\r\n}\r\n', {"b": {"c": 2}}, '{\r\n\t"a": 1,\r\n\t"b": {"c": 2}\r\n}\r\n'),
        ('{\n   "a": {\n      "b": 1\n   }\n}', {"a": {"c": 2}}, '{\n   "a": {\n      "b": 1,\n      "c": 2\n   }\n}'),
        ("{}", {"a": 1}, '{\n  "a": 1\n}'),
        ("{ }", {"a": 1}, '{\n  "a": 1\n }'),
        ("{\n}\n", {"a": 1}, '{\n  "a": 1\n}\n'),
        ("{\n  // later\n}\n", {"a": 1}, '{\n  // later\n  "a": 1\n}\n'),
        ('{ // mine\n  "b": 1\n}', {"a": 0, "b": 1}, '{ // mine\n  "a": 0,\n  "b": 1\n}'),
        ('{"a": 1}', {"b": 2}, '{"a": 1,\n  "b": 2\n}'),
        ('{"a": 1 /* x */}', {"b": 2}, '{"a": 1, /* x */\n  "b": 2\n}'),
        ('{\n  "a": {"b": 1}\n}', {"a": {"c": 2}}, '{\n  "a": {"b": 1, "c": 2}\n}'),
        ('{\n  "a": { "c": 1 }\n}', {"a": {"b": 0, "c": 1}}, '{\n  "a": { "b": 0, "c": 1 }\n}'),
        ('{\n  "a": {}\n}', {"a": {"b": 1}}, '{\n  "a": {"b": 1}\n}'),
        ('{\n  "a": [1, /* two */ 2] // list\n}', {"a": [3]}, '{\n  "a": /* two */ [3] // list\n}'),
        ('{\n  "a": [1, // two\n  2]\n}', {"a": 3}, '{\n  "a": // two\n  3\n}'),
        ('{\n  "a": 1, "a": 2\n}', {"a": 3}, '{\n  "a": 1, "a": 3\n}'),
        ('{"x": {}}', {"x": {"k": "v" * 70}}, f'{{"x": {{\n  "k": "{"v" * 70}"\n}}}}'),
        ("// only\n", {"a": 1}, '// only\n{"a": 1}\n'),
        ("// only", {"a": 1}, '// only\n{"a": 1}\n'),
        ("", {"a": 1}, '{"a": 1}\n'),
        ("\ufeff{}", {"a": 1}, '\ufeff{\n  "a": 1\n}'),
        ('{"é": 1}', {"ü": "ß"}, '{"é": 1,\n  "ü": "ß"\n}'),
    ],
)  # fmt: skip
def test_what_is_new_looks_like_what_was_there(text, wanted, expected):
    """Indentation, line ends, commas at the end and comments are those of the file."""
    assert merge(text, wanted) == expected


def test_large_values_are_laid_out_in_the_files_own_units():
    """What does not fit on a line is broken as the program prints it, indented as the file is."""
    wanted = {"provider": {"kimi": {"name": "x" * 40, "models": {"a": "y" * 40}}}}
    text = merge('{\n\t"theme": "dark"\n}\n', wanted)
    assert text == (
        '{\n\t"theme": "dark",\n\t"provider": {\n\t\t"kimi": {'
        f'\n\t\t\t"name": "{"x" * 40}",\n\t\t\t"models": {{"a": "{"y" * 40}"}}\n'
        "\t\t}\n\t}\n}\n"
    )


def test_new_members_keep_their_order_among_those_there_are():
    """A member goes behind the one that it follows in what is wanted, or in front of all."""
    text = merge('{\n  "x": 0,\n  "b": 2,\n  "y": 9\n}', {"a": 1, "b": 2, "c": 3})
    assert list(json.loads(text)) == ["a", "x", "b", "c", "y"]


@pytest.mark.parametrize(
    ("text", "wanted", "line", "column"),
    [
        ("[]", {"a": 1}, 1, 1),
        ('{\n  "a": []\n}', {"a": {"b": 1}}, 2, 8),
        ('{\n  "a": null\n}', {"a": {}}, 2, 8),
        ('{"a": {}}', {"a": 1}, 1, 7),
        ('\ufeff{"a": {}}', {"a": 1}, 1, 7),
    ],
)
def test_an_object_and_something_else_are_no_match(text, wanted, line, column):
    """What the owner of the file meant by it is not known, so nothing is replaced."""
    with pytest.raises(JsoncError, match="expected") as caught:
        merge(text, wanted)
    assert (caught.value.line, caught.value.column) == (line, column)


# --- merging: what holds for all --------------------------------------------------------------------------------------

keys = st.sampled_from(["a", "b", "c", 'd"\\', "//e", "/*f"]) | st.text(st.characters(codec="utf-8"), max_size=3)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=6)
    | st.sampled_from(["// no comment", "/* none */", "x" * 70])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(keys, values, max_size=4)


class Writer:
    """Writes a value as JSONC in a way that nobody would, every comment with a number of its own."""

    def __init__(self, draw):
        self.draw = draw
        self.newline = draw(st.sampled_from(["\n", "\r\n"]))
        self.comments = []

    def gap(self):
        """Return white space and comments."""
        kinds = self.draw(st.lists(st.sampled_from(["", " ", "\t", "line", "/", "*"]), max_size=2))
        return "".join(self.piece(kind) for kind in kinds)

    def piece(self, kind):
        if kind == "line":
            return self.newline
        if kind not in ("/", "*"):
            return kind
        number = len(self.comments)
        self.comments.append(f'// c{number} "}}' if kind == "/" else f'/* c{number} {{", */')
        return self.comments[-1] + (self.newline if kind == "/" else "")

    def value(self, value):
        if isinstance(value, dict):
            return self.group(
                "{}", [f"{json.dumps(k)}{self.gap()}:{self.gap()}{self.value(v)}" for k, v in value.items()]
            )
        if isinstance(value, list):
            return self.group("[]", [self.value(item) for item in value])
        return json.dumps(value, ensure_ascii=self.draw(st.booleans()))

    def group(self, signs, items):
        end = self.draw(st.sampled_from(["", ","])) if items else ""
        inner = ",".join(f"{self.gap()}{item}{self.gap()}" for item in items) + end + self.gap()
        return f"{signs[0]}{inner}{signs[1]}"

    def document(self, value):
        return f"{self.gap()}{self.value(value)}{self.gap()}"


@st.composite
def documents(draw):
    """A value, a text that means it, and the comments in the text."""
    value, writer = draw(objects), Writer(draw)
    return value, writer.document(value), writer.comments


def reference(value, wanted):
    """Return the merged value, or raise where an object meets something else."""
    out = dict(value)
    for key, new in wanted.items():
        if key in out and isinstance(out[key], dict) != isinstance(new, dict):
            raise JsoncError("no match", "", 0)
        out[key] = reference(out[key], new) if isinstance(new, dict) and key in out else new
    return out


def canonical(value):
    """Return JSON in which true and 1, and 1 and 1.0, differ."""
    return json.dumps(value, sort_keys=True)


@settings(max_examples=60)
@given(documents())
def test_reading_gives_what_was_written(document):
    """Whatever stands between the tokens, the value is found, and all comments."""
    value, text, written = document
    assert canonical(parse(text).value) == canonical(value)
    assert sorted(found[0] for found in comments(text, 0, len(text))) == sorted(written)


@settings(max_examples=60)
@given(documents(), objects)
def test_any_merge_into_any_document(document, wanted):
    """The result reads as the merged value, has every comment, and a second merge finds nothing to do."""
    value, text, written = document
    try:
        expected = reference(value, wanted)
    except JsoncError:
        with pytest.raises(JsoncError):
            merge(text, wanted)
        return
    result = merge(text, wanted)
    assert canonical(parse(result).value) == canonical(expected)
    assert sorted(found[0] for found in comments(result, 0, len(result))) == sorted(written)
    assert merge(result, wanted) == result
    if canonical(expected) == canonical(value):
        assert result == text


@settings(max_examples=60)
@given(documents(), objects)
def test_additions_leave_every_byte_where_it_was(document, more):
    """Where nothing is replaced the old text is in the new one, with insertions only."""
    value, text, _ = document
    added = {key: new for key, new in more.items() if key not in value}
    rest = iter(merge(text, added))
    assert all(sign in rest for sign in text)


@settings(max_examples=75)
@given(st.text(st.sampled_from('{}[]",:/*\\ \n\r1ae-tn') | st.characters(codec="utf-8"), max_size=30))
def test_any_text_is_read_or_refused(text):
    """Garbage never ends in anything but a value or a JsoncError; JSON is always read as Python reads it."""

    def refuse(word):
        raise ValueError(word)

    try:
        expected = json.loads(text, parse_constant=refuse)
    except ValueError:
        with contextlib.suppress(JsoncError):
            parse(text)
        return
    assert canonical(parse(text).value) == canonical(expected)
