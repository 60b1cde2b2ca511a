import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import trustme
from filelock import FileLock
from mitmproxy.certs import CertStore

from tests.e2e import npm
from tests.e2e.harness import Proxy, World
from tests.e2e.kiro_harness import KiroProxy, KiroWorld
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


def _starter(world: World, confdir: Path, folder: Path, kind: type[Proxy] = Proxy) -> Iterator[StartProxy]:
    numbers = count(1)
    with ExitStack() as stack:

        def start(*, login: bool = True, **more: object) -> Proxy:
            proxy = kind(world, folder / f"proxy-{next(numbers)}", confdir, **more)
            if login:
                proxy.login()
            return stack.enter_context(proxy)

        yield start


@pytest.fixture(scope="module")
def proxy(start_module_proxy: StartProxy) -> Proxy:
    """Return a logged-in proxy under the real host names, shared by the module."""
    return start_module_proxy()


# --- Kiro ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kiro_world(background: Background, ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KiroWorld]:
    """Serve the fakes of one module, Kiro among them."""
    with KiroWorld(background, ca, tmp_path_factory.mktemp("kiro-world")) as made:
        yield made


@pytest.fixture(autouse=True)
def _fresh_kiro(request: pytest.FixtureRequest) -> None:
    """Forget what the test before has asked of the module's fakes."""
    if "kiro_world" in request.fixturenames:
        request.getfixturevalue("kiro_world").reset()


@pytest.fixture(scope="module")
def start_kiro(kiro_world: KiroWorld, confdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartProxy]:
    """Return a function that starts a proxy, without accounts, which lives until the module is done."""
    for start in _starter(kiro_world, confdir, tmp_path_factory.mktemp("kiro"), KiroProxy):
        yield partial(start, login=False)


@pytest.fixture(scope="module")
def kiro(start_kiro: StartProxy) -> KiroProxy:
    """Return a proxy under the real host names with one account, shared by the module."""
    started = start_kiro()
    started.add()
    return started


# --- clients that are not Python -------------------------------------------------------------------------------------

NO_NODE = "KIMI_MITM_NO_NODE"


@pytest.fixture(scope="session")
def node_clients() -> Path:
    """Return the folder of the AI SDK and opencode."""
    return _installed("node")


@pytest.fixture(scope="session")
def claude_code() -> Path:
    """Return the folder of Claude Code."""
    return _installed("claude")


def _installed(name: str) -> Path:
    """Install what a folder's package.json names, once per version of that file; return where it is.

    KIMI_MITM_NO_NODE=1 skips what needs it; without npm and without that variable it fails.
    """
    if os.environ.get(NO_NODE) == "1":
        pytest.skip(f"{NO_NODE} is set")
    if not shutil.which("npm"):
        pytest.fail(f"npm is not on PATH: install Node.js 20 or newer, or set {NO_NODE}=1 to leave these tests out.")
    place = npm.place(name)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".lock", timeout=npm.SECONDS):  # the tests may run in several processes
        try:
            return npm.install(name)
        except npm.NotInstalled as problem:
            pytest.fail(f"npm could not install the node clients: {problem}")
