from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
import trustme
from mitmproxy.certs import CertStore

from tests.e2e.harness import Proxy, World
from tests.servers.serve import Background

KEY_BITS = 2048


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test below this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    """Run the loop in which all fakes live."""
    with Background() as running:
        yield running


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """Return the CA of the fakes."""
    return trustme.CA()


@pytest.fixture(scope="session")
def confdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make mitmproxy's CA once: it takes longer than anything else at its first start."""
    folder = tmp_path_factory.mktemp("confdir")
    CertStore.create_store(folder, "mitmproxy", KEY_BITS)
    return folder


@pytest.fixture(scope="module")
def world(background: Background, ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Serve the fakes of one module."""
    with World(background, ca, tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> None:
    """Forget what the test before has asked of the module's fakes."""
    if "world" in request.fixturenames:
        request.getfixturevalue("world").reset()


type StartProxy = Callable[..., Proxy]


@pytest.fixture(scope="module")
def start_module_proxy(world: World, confdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartProxy]:
    """Return a function that starts a proxy which lives until the module is done."""
    yield from _starter(world, confdir, tmp_path_factory.mktemp("proxies"))


@pytest.fixture
def start_proxy(world: World, confdir: Path, tmp_path: Path) -> Iterator[StartProxy]:
    """Return a function that starts a proxy for one test."""
    yield from _starter(world, confdir, tmp_path)


def _starter(world: World, confdir: Path, folder: Path) -> Iterator[StartProxy]:
    numbers = count(1)
    with ExitStack() as stack:

        def start(*, login: bool = True, **more: object) -> Proxy:
            proxy = Proxy(world, folder / f"proxy-{next(numbers)}", confdir, **more)
            if login:
                proxy.login()
            return stack.enter_context(proxy)

        yield start


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy) -> Proxy:
    """Return a logged-in proxy under the real host names, shared by the module."""
    return start_module_proxy()
