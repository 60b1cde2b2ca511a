import os
import threading

import pytest

from kimi_core.cli import lease
from kimi_core.proxy.hosted import Lease

pytestmark = pytest.mark.skipif(not lease.SHARED, reason="Windows has no named pipes of this kind")


class Proxy:
    """What reads the pipe: ends when the last user has gone."""

    def __init__(self, offer):
        self.offer = offer
        path = None if offer.name == lease.NAMELESS else offer.name
        from pathlib import Path

        self.thread = threading.Thread(target=Lease(offer.reader, path and Path(path)).wait, daemon=True)
        self.thread.start()

    def ends(self, seconds=5.0):
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def close(self):
        os.close(self.offer.reader)


@pytest.fixture
def offered(tmp_path):
    """A pipe with its first user, and the proxy that reads it."""
    proxy = Proxy(lease.offer(tmp_path / "state" / "x.lease"))
    yield proxy
    proxy.offer.hold.release()
    assert proxy.ends()
    proxy.close()


def test_a_proxy_lasts_as_long_as_its_last_user(offered, tmp_path):
    """The first user may go before the second; with the last one the proxy ends, and the name is gone."""
    path = tmp_path / "state" / "x.lease"
    second = lease.join(path)
    offered.offer.hold.release()
    assert not offered.ends(0.1)
    third = lease.join(path)
    second.release()
    assert not offered.ends(0.1)
    third.release()
    third.release()
    assert offered.ends()
    assert not path.exists()
    assert lease.join(path) is None


def test_a_pipe_that_nobody_reads_is_no_proxy(tmp_path):
    """A name that a killed proxy has left is not waited for."""
    offer = lease.offer(tmp_path / "x.lease")
    os.close(offer.reader)
    offer.hold.release()
    assert (tmp_path / "x.lease").exists()
    assert lease.join(tmp_path / "x.lease") is None


def test_a_name_that_goes_while_somebody_comes_is_no_proxy(offered, tmp_path, monkeypatch):
    """Who comes when the proxy has decided to go is told so."""
    path = tmp_path / "state" / "x.lease"
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    assert lease.join(path) is None


def test_who_came_in_the_last_moment_is_served(tmp_path):
    """The proxy looks again after its name is gone, and goes on for whoever is there."""
    offer = lease.offer(tmp_path / "x.lease")
    late = []

    class Path(type(tmp_path)):
        def unlink(self, missing_ok=False):
            late.append(lease.join(self))
            super().unlink(missing_ok=missing_ok)

    waiting = threading.Thread(target=Lease(offer.reader, Path(tmp_path / "x.lease")).wait, daemon=True)
    waiting.start()
    offer.hold.release()
    waiting.join(0.2)
    assert late[0] is not None
    assert waiting.is_alive()
    late[0].release()
    waiting.join(5)
    assert not waiting.is_alive()
    assert late[1:] == [None]
    os.close(offer.reader)


def test_without_names_there_is_one_user(tmp_path):
    """Where pipes have no names the proxy ends with whoever started it."""
    proxy = Proxy(lease.offer(tmp_path / "x.lease", shared=False))
    assert proxy.offer.name == lease.NAMELESS
    assert not proxy.ends(0.05)
    proxy.offer.hold.release()
    assert proxy.ends()
    proxy.close()


def test_no_child_holds_a_lease(tmp_path):
    """A program that outlives its user does not keep the proxy."""
    offer = lease.offer(tmp_path / "x.lease")
    second = lease.join(tmp_path / "x.lease")
    assert not os.get_inheritable(offer.hold.descriptor)
    assert not os.get_inheritable(second.descriptor)
    for hold in (offer.hold, second):
        hold.release()
    os.close(offer.reader)
