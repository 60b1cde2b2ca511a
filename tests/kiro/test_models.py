import json

import pytest

from kimi_core.errors import UpstreamError
from kimi_core.kiro import catalog, models
from kimi_core.kiro.catalog import FALLBACK, Catalog, ModelInfo
from kimi_core.kiro.models import LIFE, PAUSE, Catalogs, fetch, item, listing
from tests.kiro.calling import parameters, service

NOW = 1_785_000_000.0
OPUS = {
    "modelId": "claude-opus-4.6",
    "modelName": "Claude Opus 4.6",
    "description": "The large one",
    "rateMultiplier": 2.2,
    "supportedInputTypes": ["TEXT", "IMAGE"],
    "tokenLimits": {"maxInputTokens": 1000000, "maxOutputTokens": 64000},
    "additionalModelRequestFieldsSchema": FALLBACK.find("claude-opus-4.6").effort_schema,
}
GLM = {"modelId": "glm-5", "supportedInputTypes": ["TEXT"], "tokenLimits": {"maxInputTokens": 200000}}
ANSWER = {"defaultModel": {"modelId": "glm-5"}, "models": [OPUS, GLM]}


def made(*ids, now=NOW):
    """Return a catalog of models with these ids."""
    return Catalog(tuple(ModelInfo(i) for i in ids), ids[0], now)


async def kept(folder, account_id="a1", found=None, now=NOW):
    """Return lists of which one has been fetched."""
    lists = Catalogs(folder)

    async def ask():
        return found or made("m1", "m2", now=now)

    await lists.refresh(account_id, ask, now)
    return lists


async def failing():
    """Fail as the service does."""
    raise UpstreamError("no")


async def test_every_page_is_fetched():
    """The list is asked for to its end; a model that comes twice counts once."""
    fake = service({**ANSWER, "nextToken": "more"}, {"models": [GLM, {"modelId": "auto"}]})
    found = await fetch(fake.caller(), "a1", NOW)
    assert [model.id for model in found.models] == ["claude-opus-4.6", "glm-5", "auto"]
    assert (found.default, found.fetched_at) == ("glm-5", NOW)
    assert [parameters(seen) for seen in fake.seen] == [
        {"origin": "KIRO_CLI"},
        {"origin": "KIRO_CLI", "nextToken": "more"},
    ]


async def test_a_list_without_models_is_refused():
    """It must not replace a good one."""
    with pytest.raises(UpstreamError):
        await fetch(service({"models": []}).caller(), "a1", NOW)


async def test_lists_survive_a_restart(tmp_path):
    """What was fetched is there again, with all that is known of each model."""
    await kept(tmp_path, found=catalog.parse(ANSWER, NOW))
    again = Catalogs(tmp_path)
    assert again.known("a1") == catalog.parse(ANSWER, NOW)
    assert again.known("a2") is None
    assert not again.due("a1", NOW + LIFE - 1)


async def test_lists_live_an_hour(tmp_path):
    """A list is asked for again after an hour, and when the clock was set back."""
    lists = await kept(tmp_path)
    assert [lists.due("a1", NOW + after) for after in (0, LIFE - 1, LIFE, -5)] == [False, False, True, True]
    assert lists.due("a2", NOW)


async def test_a_failure_keeps_what_was_known(tmp_path):
    """The old list stays, and the next try waits a minute."""
    lists = await kept(tmp_path)
    later = NOW + LIFE
    with pytest.raises(UpstreamError):
        await lists.refresh("a1", failing, later)
    assert lists.known("a1") == made("m1", "m2")
    assert [lists.due("a1", later + after) for after in (0, PAUSE - 1, PAUSE)] == [False, False, True]


async def test_two_processes_keep_each_others_lists(tmp_path):
    """Lists of other accounts in the document are not lost."""
    first, second = Catalogs(tmp_path), Catalogs(tmp_path)

    async def ask():
        return made("m1")

    await first.refresh("a1", ask, NOW)
    await second.refresh("a2", ask, NOW)
    again = Catalogs(tmp_path)
    assert again.known("a1") == again.known("a2") == made("m1")


async def test_accounts_that_are_gone_leave_nothing(tmp_path):
    """Their lists go from memory and document."""
    lists = await kept(tmp_path)
    await lists.forget(["a1", "a9"])
    assert lists.known("a1") is None
    assert json.loads(lists.document.path.read_text()) == {"accounts": {}}


async def test_the_union_of_accounts(tmp_path):
    """Each model once, the first account's first; what nobody has is not offered."""
    lists = await kept(tmp_path)

    async def ask():
        return made("m2", "m3")

    await lists.refresh("a2", ask, NOW)
    assert [model.id for model in lists.joined(["a2", "a1", "a9"]).models] == ["m2", "m3", "m1"]
    assert lists.joined(["a9"]) is FALLBACK
    assert lists.joined([]) is FALLBACK


async def test_a_union_is_never_an_old_one(tmp_path):
    """It is the same for as long as no list changes, and shows each change at once."""
    lists = await kept(tmp_path)

    def names():
        return [model.id for model in lists.joined(["a1", "a2"]).models]

    assert lists.joined(["a1", "a2"]) is lists.joined(["a1", "a2"])
    assert names() == ["m1", "m2"]

    async def ask():
        return made("m9")

    await lists.refresh("a2", ask, NOW)
    assert names() == ["m1", "m2", "m9"]
    await lists.refresh("a1", ask, NOW)
    assert names() == ["m9"]
    await lists.forget(["a1", "a2"])
    assert lists.joined(["a1", "a2"]) is FALLBACK


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        "{}",
        '{"accounts": []}',
        '{"accounts": {"a1": null}}',
        '{"accounts": {"a1": {"fetched_at": true, "models": [{"modelId": "x"}]}}}',
        '{"accounts": {"a1": {"fetched_at": 1, "models": []}}}',
    ],
)
def test_a_document_that_cannot_be_used(tmp_path, document):
    """Lists can be fetched again: nothing fails for want of them."""
    (tmp_path / models.FILE).write_text(document)
    assert Catalogs(tmp_path).known("a1") is None


async def test_a_document_that_cannot_be_written(tmp_path, caplog):
    """The list serves all the same, and the log says so."""
    (tmp_path / models.FILE).mkdir()
    lists = await kept(tmp_path)
    assert lists.known("a1") == made("m1", "m2")
    assert "could not be kept" in caplog.text


def test_the_list_for_clients():
    """OpenAI's shape, with context, output, inputs and efforts where they are known."""
    assert listing(catalog.parse(ANSWER, NOW)) == {
        "object": "list",
        "data": [
            {
                "id": "claude-opus-4.6",
                "object": "model",
                "created": int(NOW),
                "owned_by": "kiro",
                "display_name": "Claude Opus 4.6",
                "description": "The large one",
                "context_length": 1000000,
                "max_completion_tokens": 64000,
                "input_modalities": ["text", "image"],
                "output_modalities": ["text"],
                "supports_image_in": True,
                "reasoning_efforts": ["low", "medium", "high", "max"],
                "rate_multiplier": 2.2,
            },
            {
                "id": "glm-5",
                "object": "model",
                "created": int(NOW),
                "owned_by": "kiro",
                "context_length": 200000,
                "input_modalities": ["text"],
                "output_modalities": ["text"],
                "supports_image_in": False,
            },
        ],
    }


def test_the_fallback_list_says_how_old_it_is():
    """`created` of its models is the day that the list is of."""
    assert {model["created"] for model in listing(FALLBACK)["data"]} == {1779580800}


def test_one_model_for_clients():
    """Any name that stands for a model of the list finds it."""
    found = catalog.parse(ANSWER, NOW)
    assert item(found, "kiro/claude-opus-4-6")["id"] == "claude-opus-4.6"
    assert item(found, "nobody-knows") is None
