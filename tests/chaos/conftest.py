import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from tests.chaos.lab import Lab
from tests.e2e.conftest import background, ca, confdir  # noqa: F401 - fixtures
from tests.e2e.kiro_harness import KiroWorld
from tests.servers.serve import Background

SOAK = "--soak"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for a longer run."""
    parser.addoption(SOAK, type=int, default=1, metavar="N", help="tests/chaos: N times as many rounds")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test below this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> int:
    """Return how many times as many rounds as usual there are to be."""
    return request.config.getoption(SOAK, 1)


@pytest.fixture
def dice() -> Iterator[random.Random]:
    """Return chance; its seed is shown where the test fails."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - captured, and shown for a test that fails
    return random.Random(seed)


@pytest.fixture(scope="session")
def lab(
    background: Background,  # noqa: F811
    ca: trustme.CA,  # noqa: F811
    confdir: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lab]:
    """Run a proxy with both logins before services that break any rule: one for all files, as it has to bear it all."""
    folder = tmp_path_factory.mktemp("lab")
    with ExitStack() as stack:
        world = stack.enter_context(KiroWorld(background, ca, folder))
        yield stack.enter_context(Lab(world, ca, folder, confdir))


@pytest.fixture(autouse=True)
def _calm(request: pytest.FixtureRequest) -> Iterator[None]:
    """Begin each test at a laboratory without faults, and end it with a request that is served well."""
    if "lab" not in request.fixturenames:
        yield
        return
    made: Lab = request.getfixturevalue("lab")
    made.calm()
    yield
    made.calm()
    made.probe()
