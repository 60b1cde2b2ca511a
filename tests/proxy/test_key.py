import stat

import pytest

from kimi_core.errors import StoreDamaged
from kimi_core.proxy.key import client_key, key_path


@pytest.mark.parametrize("option", ["", "my-own-key"])
def test_a_given_key_is_itself(option, tmp_path):
    """No key, and one that the user chose, make no file."""
    assert client_key(option, tmp_path) == option
    assert list(tmp_path.iterdir()) == []


def test_auto_makes_one_key_and_keeps_it(tmp_path):
    """With auto, a long random key is made at first use, private, and found again."""
    first = client_key("auto", tmp_path)
    assert len(first) > 40
    assert client_key("auto", tmp_path) == first
    assert stat.S_IMODE(key_path(tmp_path).stat().st_mode) == 0o600
    assert client_key("auto", tmp_path / "other") != first


def test_a_file_without_a_key_gets_one(tmp_path):
    """A file that holds no key is given one."""
    key_path(tmp_path).write_text("{}")
    assert client_key("auto", tmp_path) == client_key("auto", tmp_path)


def test_a_damaged_file_is_an_error(tmp_path):
    """A damaged key file is named and not replaced."""
    key_path(tmp_path).write_text("{oops")
    with pytest.raises(StoreDamaged):
        client_key("auto", tmp_path)
    assert key_path(tmp_path).read_text() == "{oops"
