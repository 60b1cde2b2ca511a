from kimi_core.kimi.memory import ReasoningMemory


def test_reasoning_is_recalled_by_each_of_its_call_ids():
    """A turn with two calls is found by either."""
    memory = ReasoningMemory()
    memory.remember(["Shell:0", "Glob:1"], "I think.")
    assert memory.recall("Shell:0") == memory.recall("Glob:1") == "I think."
    assert memory.recall("Shell:2") is None


def test_empty_reasoning_is_remembered_as_such():
    """Thought but said nothing is not the same as unknown."""
    memory = ReasoningMemory()
    memory.remember(["Shell:0"], "")
    assert memory.recall("Shell:0") == ""


def test_scopes_do_not_see_each_other():
    """The call ids of two conversations are the same, their reasoning is not."""
    memory = ReasoningMemory()
    memory.scope("one").remember(["Shell:0"], "first")
    memory.scope("two").remember(["Shell:0"], "second")
    assert memory.scope("one").recall("Shell:0") == "first"
    assert memory.scope("two").recall("Shell:0") == "second"
    assert memory.recall("Shell:0") is None


def test_the_longest_unused_entry_goes_first():
    """A recall keeps an entry young."""
    memory = ReasoningMemory(max_entries=2)
    memory.remember(["a", "b"], "x")
    memory.recall("a")
    memory.remember(["c"], "y")
    assert [memory.recall(name) for name in "abc"] == ["x", None, "y"]


def test_bytes_are_bounded_over_all_scopes():
    """A long text pushes older ones out; what alone is too long is not kept."""
    memory = ReasoningMemory(max_bytes=10)
    memory.scope("one").remember(["a"], "12345")
    memory.scope("two").remember(["b"], "ééé")
    assert memory.scope("one").recall("a") is None
    memory.remember(["c"], "12345678901")
    assert len(memory) == 0


def test_an_entry_that_is_written_again_counts_once():
    """Sizes do not add up over rewrites."""
    memory = ReasoningMemory(max_bytes=10)
    for _ in range(5):
        memory.remember(["a"], "1234567\ud800")
    assert memory.recall("a") == "1234567\ud800"


def test_its_repr_tells_no_thoughts():
    """What was thought stays out of logs."""
    memory = ReasoningMemory()
    memory.remember(["a"], "secret plan")
    assert repr(memory) == "ReasoningMemory(1 entries)"
