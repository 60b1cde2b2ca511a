import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_core.errors import BadRequest
from kimi_core.headers import Headers
from kimi_core.kimi.models import Model
from kimi_core.kimi.thinking import SCALE, UNLISTED, Wanted, default, fold, lowest, resolve, wanted

PLAIN = Model("kimi-for-coding", reasoning=True, thinking_type="both")
K3 = Model("k3", reasoning=True, thinking_type="both", efforts=("low", "high", "max"), default_effort="high")
ALWAYS = Model("k3", reasoning=True, thinking_type="only", efforts=("low", "high", "max"), default_effort="high")
ALWAYS_PLAIN = Model("k2.7", reasoning=True, thinking_type="only")
NEVER = Model("no", thinking_type="no")
NO_REASONING = Model("no", reasoning=False)

ENABLED = {"type": "enabled"}
DISABLED = {"type": "disabled"}
KEPT = {"type": "enabled", "keep": "all"}


def kept(effort):
    """Return the thinking field of Kimi Code for an effort."""
    return {"type": "enabled", "effort": effort, "keep": "all"}


# (model, level): what each dialect sends as (thinking, reasoning_effort), and the repairs
TABLE = [
    # model, level, plugin, kimi-cli, kimi-code
    (None, None, (ENABLED, None), ENABLED, KEPT),
    (PLAIN, None, (ENABLED, None), ENABLED, KEPT),
    (K3, None, (ENABLED, None), ENABLED, kept("high")),
    (K3, "on", (ENABLED, None), ENABLED, kept("high")),
    (PLAIN, "auto", (None, None), None, None),
    (NEVER, "auto", (None, None), None, None),
    (PLAIN, "off", (DISABLED, None), DISABLED, DISABLED),
    (None, "off", (DISABLED, None), DISABLED, DISABLED),
    (ALWAYS, "off", (ENABLED, "low"), ENABLED, kept("low")),
    (ALWAYS_PLAIN, "off", (ENABLED, None), ENABLED, KEPT),
    (PLAIN, "minimal", (ENABLED, "low"), ENABLED, KEPT),
    (PLAIN, "low", (ENABLED, "low"), ENABLED, KEPT),
    (PLAIN, "medium", (ENABLED, "medium"), ENABLED, KEPT),
    (PLAIN, "high", (ENABLED, "high"), ENABLED, KEPT),
    (PLAIN, "xhigh", (ENABLED, "high"), ENABLED, KEPT),
    (None, "max", (ENABLED, "high"), ENABLED, KEPT),
    (K3, "minimal", (ENABLED, "low"), ENABLED, kept("low")),
    (K3, "low", (ENABLED, "low"), ENABLED, kept("low")),
    (K3, "medium", (ENABLED, "high"), ENABLED, kept("high")),
    (K3, "high", (ENABLED, "high"), ENABLED, kept("high")),
    (K3, "xhigh", (ENABLED, "max"), ENABLED, kept("max")),
    (K3, "max", (ENABLED, "max"), ENABLED, kept("max")),
    (NEVER, None, (None, None), None, DISABLED),
    (NEVER, "high", (None, None), None, DISABLED),
    (NEVER, "off", (DISABLED, None), DISABLED, DISABLED),
    (NO_REASONING, "low", (None, None), None, DISABLED),
]


@pytest.mark.parametrize(("model", "level", "plugin", "kimi_cli", "kimi_code"), TABLE)
def test_each_dialect_says_a_level_in_its_own_fields(model, level, plugin, kimi_cli, kimi_code):
    """The table of the module, row by row."""
    got = {mode: resolve(Wanted(level), mode, model) for mode in ("plugin", "kimi-cli", "kimi-code")}
    assert (got["plugin"].thinking, got["plugin"].reasoning_effort) == plugin
    assert (got["kimi-cli"].thinking, got["kimi-cli"].reasoning_effort) == (kimi_cli, None)
    assert (got["kimi-code"].thinking, got["kimi-code"].reasoning_effort) == (kimi_code, None)


@pytest.mark.parametrize(
    ("model", "level", "mode", "effort", "repairs"),
    [
        (K3, "medium", "plugin", "high", ("effort-folded",)),
        (K3, "high", "plugin", "high", ()),
        (K3, "medium", "kimi-code", "high", ("effort-folded",)),
        (K3, None, "kimi-code", "high", ()),
        (PLAIN, "high", "kimi-code", "on", ("effort-not-sent",)),
        (PLAIN, "high", "kimi-cli", "on", ("effort-not-sent",)),
        (PLAIN, None, "kimi-cli", "on", ()),
        (PLAIN, "off", "kimi-cli", "off", ()),
        (PLAIN, "auto", "plugin", "auto", ()),
        (ALWAYS, "off", "plugin", "low", ("thinking-kept-on",)),
        (ALWAYS_PLAIN, "off", "plugin", "on", ("thinking-kept-on",)),
        (NEVER, "high", "plugin", "off", ("thinking-unsupported",)),
        (NEVER, None, "plugin", "off", ()),
        (NEVER, "off", "kimi-code", "off", ()),
    ],
)
def test_what_went_out_and_what_was_changed_is_told(model, level, mode, effort, repairs):
    """The word for the flow is what was sent; a level that was not sent as asked is a repair."""
    got = resolve(Wanted(level), mode, model)
    assert (got.effort, got.repairs) == (effort, repairs)


@pytest.mark.parametrize(
    ("body", "headers", "level"),
    [
        ({}, {}, None),
        ({"reasoning_effort": "HIGH "}, {}, "high"),
        ({"reasoning_effort": None, "thinking": {"type": "disabled"}}, {}, "off"),
        ({"reasoning_effort": "low", "thinking": {"type": "enabled", "effort": "high"}}, {}, "low"),
        ({"reasoning_effort": False}, {}, "off"),
        ({"reasoning_effort": ""}, {}, None),
        *(({"reasoning_effort": word}, {}, "off") for word in ("off", "none", "false", "disabled")),
        ({"reasoning_effort": "auto"}, {}, "auto"),
        ({"reasoningEffort": "max"}, {}, "max"),
        ({"reasoning": {"effort": "medium"}}, {}, "medium"),
        ({"reasoning": {"enabled": False}}, {}, "off"),
        ({"reasoning": "high"}, {}, None),
        ({"thinking": {"type": "enabled"}}, {}, "on"),
        ({"thinking": {"type": "adaptive"}}, {}, "on"),
        ({"thinking": {"type": "adaptive", "effort": "low"}}, {}, "low"),
        ({"thinking": {"type": "Disabled", "effort": "low"}}, {}, "off"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, {}, "on"),
        ({"thinking": {"budget_tokens": 4096}}, {}, "on"),
        ({"thinking": {"budget_tokens": 0}}, {}, "off"),
        ({"thinking": {"budget_tokens": "many"}}, {}, None),
        ({"thinking": {"effort": "high"}}, {}, "high"),
        ({"thinking": True}, {}, "on"),
        ({"thinking": "high"}, {}, "high"),
        ({"thinking": {}, "enable_thinking": False}, {}, "off"),
        ({}, {"x-opencode-kimi-reasoning-effort": "high", "x-opencode-kimi-thinking-type": "disabled"}, "high"),
        ({}, {"x-opencode-kimi-thinking-type": "disabled"}, "off"),
        ({"enable_thinking": True}, {"x-opencode-kimi-thinking-type": "disabled"}, "on"),
    ],
)
def test_the_first_field_that_says_something_counts(body, headers, level):
    """Every way in which clients ask for an effort is understood, in the documented order."""
    assert wanted(body, Headers(headers.items()), PLAIN).level == level


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"reasoning_effort": "turbo"}, "reasoning_effort"),
        ({"reasoning_effort": 3}, "reasoning_effort"),
        ({"thinking": {"effort": ["high"]}}, "thinking.effort"),
        ({"thinking": [1]}, "thinking"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"reasoning": {"effort": "turbo"}}, "reasoning.effort"),
    ],
)
def test_a_level_that_nobody_knows_is_refused_by_name(body, param):
    """Upstream would answer 400 without saying which field."""
    with pytest.raises(BadRequest, match="low, medium, high") as caught:
        wanted(body, Headers(), None)
    assert caught.value.param == param


def test_a_level_of_the_models_own_list_is_taken():
    """A list may name a level that is not on the common scale; others fold to the end of such a list."""
    model = Model("k4", reasoning=True, efforts=("calm", "ultra"))
    assert wanted({"reasoning_effort": "ultra"}, Headers(), model).level == "ultra"
    assert resolve(Wanted("ultra"), "plugin", model).reasoning_effort == "ultra"
    assert resolve(Wanted("low"), "plugin", model).reasoning_effort == "ultra"
    assert resolve(Wanted("ultra"), "plugin", K3).reasoning_effort == "max"
    assert lowest(("calm", "low")) == "low"


@pytest.mark.parametrize(
    ("body_keep", "mode", "sent"),
    [
        ({}, "kimi-code", "all"),
        ({"keep": "all"}, "kimi-cli", "all"),
        ({"keep": "all"}, "plugin", "all"),
        ({"keep": "turns"}, "kimi-code", "turns"),
        ({"keep": "None"}, "kimi-code", None),
        ({"keep": None}, "kimi-code", None),
        ({"keep": "off"}, "plugin", None),
        ({}, "plugin", None),
    ],
)
def test_keep_is_the_clients_own_where_it_says_so(body_keep, mode, sent):
    """Kimi Code keeps by default; its words for no are understood everywhere."""
    asked = wanted({"thinking": {"type": "enabled", **body_keep}}, Headers(), PLAIN)
    got = resolve(asked, mode, PLAIN)
    assert got.thinking.get("keep") == sent
    assert got.keeps_all == (sent == "all")


def test_disabled_is_told_from_silence():
    """Only an explicit disabled switches the demands on the history off."""
    assert resolve(Wanted("off"), "plugin", PLAIN).disabled
    assert not resolve(Wanted("auto"), "plugin", PLAIN).disabled
    assert not resolve(Wanted("off", keep="all"), "plugin", PLAIN).keeps_all
    assert not resolve(Wanted("auto"), "plugin", PLAIN).keeps_all


def test_the_default_effort_is_the_models_else_the_middle_one():
    """Kimi Code's own rule."""
    assert default(K3) == "high"
    assert default(Model("k3", efforts=("low", "medium", "max"))) == "medium"
    assert default(PLAIN) is default(None) is None


@given(level=st.sampled_from(SCALE), listed=st.lists(st.sampled_from(SCALE), min_size=1, unique=True).map(tuple))
def test_folding_never_leaves_the_list_and_goes_up_where_it_can(level, listed):
    """What is sent is listed, and lower than asked only where the list ends below."""
    got = fold(level, listed)
    assert got in listed
    assert SCALE.index(got) >= SCALE.index(level) or got == max(listed, key=SCALE.index)
    assert fold(got, listed) == got


@given(level=st.sampled_from(SCALE), mode=st.sampled_from(["plugin", "kimi-cli", "kimi-code"]))
def test_what_goes_out_asks_for_itself(level, mode):
    """Sent through a second time, every answer stays what it is."""
    for model in (PLAIN, K3, ALWAYS, ALWAYS_PLAIN, NEVER):
        first = resolve(Wanted(level), mode, model)
        body = {"thinking": first.thinking, "reasoning_effort": first.reasoning_effort}
        again = resolve(wanted(body, Headers(), model), mode, model)
        assert (again.thinking, again.reasoning_effort) == (first.thinking, first.reasoning_effort)


def test_the_scale_holds_what_is_sent_without_a_list():
    """The three levels of the subscription are on the scale in its order."""
    assert sorted(UNLISTED, key=SCALE.index) == list(UNLISTED)
