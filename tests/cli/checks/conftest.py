import pytest


@pytest.fixture
def find():
    """Return a function that runs one check by the command line of a machine, and returns what it found."""

    def run(cli, check, *arguments):
        (found,) = cli.json("doctor", "--only", check, *arguments)["checks"]
        assert found["id"] == check
        return found

    return run
