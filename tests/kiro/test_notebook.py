import asyncio
import threading

import pytest

from kimi_core.errors import StoreBusy
from kimi_core.kiro.accounts import Account, Registry
from kimi_core.kiro.notebook import Notebook


@pytest.fixture
def registry(tmp_path):
    """Return a registry with one account."""
    found = Registry(tmp_path)
    found.update(lambda accounts: accounts.accounts.append(Account(id="one", label="first")))
    return found


def renamed(label):
    """Return a note that changes the label."""

    def alter(accounts):
        account = accounts.get("one")
        if account is not None:
            accounts.put(account.model_copy(update={"label": label}))

    return alter


def counted(accounts):
    """Count one request; a note that is not the same twice."""
    account = accounts.get("one")
    accounts.put(account.model_copy(update={"request_count": account.request_count + 1}))


def label(accounts):
    """Return the label of the account."""
    return accounts.get("one").label


async def test_notes_are_seen_at_once_and_written_together(registry):
    """What is noted shows in this process's view; the file has all of it after one write."""
    notebook = Notebook(registry, linger=0.0)
    writes = []
    write = registry.document.write
    registry.document.write = lambda data: (writes.append(1), write(data))
    for _ in range(3):
        notebook.add(counted)
        notebook.accounts()
    notebook.add(renamed("second"))
    assert label(notebook.accounts()) == "second"
    assert notebook.accounts().get("one").request_count == 3
    assert label(registry.load()) == "first"
    await notebook.write()
    assert len(writes) == 1
    for accounts in (registry.load(), notebook.accounts()):
        assert (label(accounts), accounts.get("one").request_count) == ("second", 3)


async def test_what_others_write_is_seen_under_the_notes(registry):
    """A change of another process shows, and a note that is not written yet stands on top of it."""
    notebook = Notebook(registry, linger=0.0)
    notebook.add(counted)
    notebook.accounts()
    Registry(registry.folder).update(renamed("theirs"))
    assert label(notebook.accounts()) == "theirs"
    assert notebook.accounts().get("one").request_count == 1


async def test_notes_that_cannot_be_written_are_gone(registry, monkeypatch):
    """A store that is busy costs the notes, not what comes after; the view says what the file says."""
    notebook = Notebook(registry, linger=0.0)
    notebook.add(renamed("lost"))
    assert label(notebook.accounts()) == "lost"

    def busy(change):
        raise StoreBusy("in use")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "update", busy)
        with pytest.raises(StoreBusy):
            await notebook.write()
    assert label(notebook.accounts()) == "first"
    notebook.add(renamed("kept"))
    await notebook.write()
    assert label(registry.load()) == "kept"


def test_flush_writes_now(registry):
    """What is noted when the program ends is written before it does; nothing noted, nothing written."""
    notebook = Notebook(registry)
    notebook.flush()
    assert label(registry.load()) == "first"
    notebook.add(renamed("last"))
    notebook.flush()
    assert label(registry.load()) == "last"
    assert label(notebook.accounts()) == "last"


def test_what_is_loaded_to_be_altered_is_a_copy(registry):
    """Changes to a copy do not show in what others read."""
    loaded = registry.load()
    loaded.accounts.clear()
    loaded.forks["x"] = None
    assert label(registry.current()) == "first"
    assert registry.current().forks == {}


async def test_what_is_being_written_is_written_once(registry):
    """A write that is cancelled goes on in its thread; what a flush writes then is the rest."""
    notebook = Notebook(registry, linger=0.0)
    begun, go_on, over = asyncio.Event(), threading.Event(), asyncio.Event()
    loop, update = asyncio.get_running_loop(), registry.update

    def slow(change):
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        update(change)
        loop.call_soon_threadsafe(over.set)

    notebook.add(counted)
    registry.update = slow
    writing = asyncio.create_task(notebook.write())
    await begun.wait()
    registry.update = update
    notebook.add(counted)
    assert notebook.accounts().get("one").request_count == 2
    writing.cancel()
    notebook.flush()
    go_on.set()
    await over.wait()
    assert registry.load().get("one").request_count == 2
