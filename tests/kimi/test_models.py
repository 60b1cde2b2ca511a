import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import StoreDamaged, UpstreamError
from kimi_core.headers import Headers
from kimi_core.kimi import models
from kimi_core.kimi.constants import Site
from kimi_core.kimi.models import Catalog, CatalogCache, Model

SITE = Site("kimi.com", "https://auth.example", "https://api.example/coding/v1")
LIST = {
    "object": "list",
    "data": [
        {
            "id": "k3",
            "object": "model",
            "created": 1761264000,
            "type": "model",
            "display_name": "K3",
            "context_length": 1048576,
            "supports_reasoning": True,
            "supports_image_in": True,
            "supports_video_in": True,
            "protocol": None,
            "supports_thinking_type": "only",
            "think_efforts": {"support": True, "valid_efforts": ["low", "high", "max"], "default_effort": "high"},
        },
        {
            "id": "kimi-for-coding",
            "display_name": "K2.7 Coding",
            "context_length": 262144,
            "supports_reasoning": True,
            "supports_image_in": True,
            "supports_video_in": False,
            "supports_thinking_type": "both",
            "supports_tool_use": True,
        },
    ],
}
K3 = Model("k3", "K3", 1048576, True, True, True, "only", ("low", "high", "max"), "high", None, None)
CODING = Model("kimi-for-coding", "K2.7 Coding", 262144, True, True, False, "both", tool_use=True)
CATALOG = Catalog((K3, CODING), 1000.0)


class MemoryShelf:
    def __init__(self, document=None):
        self.document = document
        self.problem = None

    def read(self):
        if self.problem:
            raise self.problem
        return self.document

    def write(self, data):
        if self.problem:
            raise self.problem
        self.document = json.loads(json.dumps(data))


def _one(item):
    return models.parse({"data": [item]}, 0.0).models[0]


def test_parse_reads_every_field():
    """The documented answer becomes models with all their fields, in the server's order."""
    assert models.parse(LIST, 1000.0) == CATALOG


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"id": "x"}, Model("x")),
        ({"id": " x "}, Model("x")),
        ({"id": "x", "context_length": "4096"}, Model("x", context_length=4096)),
        ({"id": "x", "context_length": 4096.0}, Model("x", context_length=4096)),
        ({"id": "x", "context_length": 0}, Model("x")),
        ({"id": "x", "context_length": -1}, Model("x")),
        ({"id": "x", "context_length": True}, Model("x")),
        ({"id": "x", "context_length": "lots"}, Model("x")),
        ({"id": "x", "context_length": float("inf")}, Model("x")),
        ({"id": "x", "context_length": {"max": 1}}, Model("x")),
        ({"id": "x", "display_name": 7, "protocol": "", "supports_image_in": "yes"}, Model("x")),
        ({"id": "x", "protocol": "anthropic"}, Model("x", protocol="anthropic")),
        ({"id": "x", "supports_reasoning": False}, Model("x", reasoning=False)),
        ({"id": "x", "supports_thinking_type": "sometimes"}, Model("x")),
        ({"id": "x", "supports_thinking_type": ["only"]}, Model("x")),
    ],
)
def test_odd_fields_are_none(item, expected):
    """A field that is missing or odd is None and never a crash."""
    assert _one(item) == expected


@pytest.mark.parametrize(
    ("said", "kind", "reasoning"),
    [(False, "both", True), (False, "only", True), (True, "no", False), (None, "no", False), (True, None, True)],
)
def test_thinking_type_wins(said, kind, reasoning):
    """supports_thinking_type counts for more than supports_reasoning, as in kimi-code."""
    item = {"id": "x", "supports_reasoning": said, "supports_thinking_type": kind}
    assert _one(item) == Model("x", reasoning=reasoning, thinking_type=kind)


@pytest.mark.parametrize(
    ("efforts", "levels", "default"),
    [
        ({"support": True, "valid_efforts": ["low", "max"], "default_effort": "max"}, ("low", "max"), "max"),
        ({"support": True, "valid_efforts": ["low", "low", 3, ""], "default_effort": "max"}, ("low",), None),
        ({"support": True, "valid_efforts": "low"}, (), None),
        ({"support": True}, (), None),
        ({"support": False, "valid_efforts": ["low"], "default_effort": "low"}, (), None),
        ({"support": "true", "valid_efforts": ["low"]}, (), None),
        ({"valid_efforts": ["low"]}, (), None),
        (["low"], (), None),
        (None, (), None),
    ],
)
def test_efforts_only_where_supported(efforts, levels, default):
    """Levels count only where support is true; a default must be one of them."""
    model = _one({"id": "x", "think_efforts": efforts})
    assert (model.efforts, model.default_effort) == (levels, default)


@pytest.mark.parametrize(
    ("model_id", "reasoning", "media", "kind"),
    [
        ("kimi-thinking-preview", True, None, "only"),
        ("Kimi-Reasoner", True, None, "only"),
        ("kimi-k2.5", True, True, None),
        ("kimi-k2-thinking", True, True, "only"),
        ("kimi-for-coding", True, True, None),
        ("kimi-code", True, True, None),
        ("kimi-for-coding-highspeed", None, None, None),
        ("moonshot-v1", None, None, None),
    ],
)
def test_rules_on_ids_fill_the_gaps(model_id, reasoning, media, kind):
    """Where the server says nothing, kimi-cli's rules on model ids apply."""
    model = _one({"id": model_id})
    assert (model.reasoning, model.image_in, model.video_in, model.thinking_type) == (reasoning, media, media, kind)


def test_the_servers_word_beats_the_rules_on_ids():
    """A capability that the server denies is not put back because of the id."""
    item = {"id": "kimi-k2-thinking", "supports_reasoning": False, "supports_image_in": False}
    assert _one(item) == Model("kimi-k2-thinking", reasoning=False, image_in=False, video_in=True)


def test_unusable_items_are_left_out():
    """Items without an id are skipped, and of two with one id the first counts."""
    items = [None, 3, {}, {"id": ""}, {"id": 5}, {"id": "a", "display_name": "A"}, {"id": "a"}]
    assert models.parse(items, 1.0).models == (Model("a", "A"),)


@pytest.mark.parametrize(
    "data", [None, 1, "x", {}, {"data": None}, {"data": {"id": "x"}}, {"error": {"message": "no"}}]
)
def test_unknown_shape(data):
    """Anything that holds no list is an UpstreamError."""
    with pytest.raises(UpstreamError, match="unknown shape"):
        models.parse(data, 0.0)


@pytest.mark.parametrize("data", [[], {"data": []}, {"data": [{"name": "x"}]}])
def test_no_model(data):
    """A list without one usable model is an UpstreamError, so that it never replaces a good one."""
    with pytest.raises(UpstreamError, match="holds no model"):
        models.parse(data, 0.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        name: JSON | st.text(min_size=1)
        for name in (
            "id",
            "display_name",
            "context_length",
            "supports_reasoning",
            "supports_image_in",
            "supports_video_in",
            "supports_thinking_type",
            "think_efforts",
            "supports_tool_use",
            "protocol",
        )
    },
)


@given(st.lists(ITEM | JSON, max_size=5))
def test_parse_is_tolerant_and_its_catalog_reads_back(items):
    """Any list gives a catalog or an UpstreamError; what a catalog writes, parse reads back as the same."""
    try:
        catalog = models.parse({"data": items}, 5.0)
    except UpstreamError:
        return
    written = json.loads(json.dumps({"data": [model.to_json() for model in catalog.models]}))
    assert models.parse(written, 5.0) == catalog


@pytest.mark.parametrize(
    ("ids", "wanted", "slug"),
    [
        (("k3", "kimi-for-coding"), "kimi-for-coding", "kimi-for-coding"),
        (("k3", "kimi-for-coding"), "k3", "k3"),
        (("k3", "kimi-for-coding-highspeed"), "kimi-for-coding", "kimi-for-coding-highspeed"),
        (("k3", "k2"), "kimi-for-coding", "k3"),
        (("k3",), "gpt-5", "gpt-5"),
        ((), "kimi-for-coding", "kimi-for-coding"),
        ((), "k3", "k3"),
    ],
)
def test_resolve(ids, wanted, slug):
    """Known ids pass, the alias finds the coding model before the first one, unknown names pass unchanged."""
    catalog = Catalog(tuple(Model(model_id) for model_id in ids))
    assert catalog.resolve(wanted) == (slug, catalog.find(slug))


def test_resolve_knows_a_coding_model_by_its_display_name():
    """A coding model whose id does not say so is found by its display name."""
    catalog = Catalog((Model("k3", "K3"), Model("k28", "K2.8 Coding")))
    assert catalog.resolve("kimi-for-coding") == ("k28", catalog.models[1])


async def test_fetch():
    """The list is asked for at the site's base with the headers given."""
    seen = []

    def handler(request):
        seen.append((str(request.url), request.headers["authorization"]))
        return httpx.Response(200, json=LIST)

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        headers = Headers([("Authorization", "Bearer fake-access-1")])
        assert await models.fetch(client, SITE, headers, clock=lambda: 1000.0) == CATALOG
    assert seen == [("https://api.example/coding/v1/models", "Bearer fake-access-1")]


async def test_fetch_401():
    """A refused token is told apart by http_status."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(401))) as client:
        with pytest.raises(UpstreamError) as caught:
            await models.fetch(client, SITE, Headers())
    assert caught.value.http_status == 401


def test_cache_path(tmp_path):
    """Each login slot has a file of its own."""
    assert models.cache_path(tmp_path, "kimi.ai") == tmp_path / "models-kimi.ai.json"


async def test_cache_survives_a_restart():
    """What one process learned, the next one knows before its first call."""
    shelf = MemoryShelf()

    async def ask():
        return CATALOG

    assert await CatalogCache(shelf).refresh(ask, 1000.0) == CATALOG
    again = CatalogCache(shelf)
    assert again.catalog == CATALOG
    assert not again.due(1599.0)
    assert again.due(1600.0)


async def test_cache_is_due_at_most_every_ten_minutes():
    """An attempt counts from its beginning, also when it fails; a clock set back counts as time passed."""
    cache = CatalogCache(MemoryShelf())
    assert cache.due(1000.0)

    async def ask():
        assert not cache.due(1000.0)
        raise UpstreamError("down")

    with pytest.raises(UpstreamError, match="down"):
        await cache.refresh(ask, 1000.0)
    assert [cache.due(now) for now in (1000.0, 1599.0, 1600.0, 999.0)] == [False, False, True, True]


async def test_a_failed_refresh_keeps_the_old_list():
    """The catalog that was known stays after a failure."""
    cache = CatalogCache(MemoryShelf({"fetched_at": 1.0, **LIST}))

    async def ask():
        raise UpstreamError("down")

    with pytest.raises(UpstreamError):
        await cache.refresh(ask, 5000.0)
    assert cache.catalog == Catalog((K3, CODING), 1.0)


def test_offer_learns_from_a_passing_answer():
    """A /models answer of a client's own call is learned and kept, and makes a call of ours needless."""
    shelf = MemoryShelf()
    cache = CatalogCache(shelf)
    assert cache.offer(json.dumps(LIST).encode(), 1000.0)
    assert cache.catalog == CATALOG
    assert not cache.due(1001.0)
    assert CatalogCache(shelf).catalog == CATALOG


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b'{"error":{"message":"no"}}', b'{"data":[]}', b" " * (models.MAX_ANSWER + 1)]
)
def test_offer_ignores_what_is_no_list(body):
    """Anything else leaves the catalog as it was."""
    cache = CatalogCache(MemoryShelf({"fetched_at": 1000.0, **LIST}))
    assert not cache.offer(body, 2000.0)
    assert cache.catalog == CATALOG


@pytest.mark.parametrize("document", [None, {}, LIST, {"fetched_at": 1.0}, {"fetched_at": "x", "data": LIST["data"]}])
def test_an_unusable_shelf_counts_as_empty(document):
    """A missing or foreign document is an empty catalog."""
    assert CatalogCache(MemoryShelf(document)).catalog == Catalog()


@pytest.mark.parametrize("problem", [StoreDamaged("broken"), PermissionError("no")])
def test_a_failing_shelf_is_no_failure(problem, caplog):
    """Neither reading nor writing the shelf can break discovery; both are said in the log."""
    shelf = MemoryShelf()
    shelf.problem = problem
    cache = CatalogCache(shelf)
    assert cache.offer(json.dumps(LIST).encode(), 1000.0)
    assert cache.catalog == CATALOG
    assert [str(problem) in record.getMessage() for record in caplog.records] == [True, True]
