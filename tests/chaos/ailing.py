"""Ails a process from its start on: a folder with a link to this file as sitecustomize.py goes into PYTHONPATH.

The file that KIMI_TEST_AILING names says how: ``{"clock": seconds, "errno": number, "late": number}``. The clock goes
wrong by so much; where there is an errno, no temporary file of the stores can be made, as on a disk that is full or
read-only; and the late one comes in the processes that renew logins, when such a file is put in the place of another.
"""

import json
import os
import sys
import tempfile
import time

_true_time = time.time
_true_mkstemp = tempfile.mkstemp
_true_replace = os.replace
_path = os.environ.get("KIMI_TEST_AILING", "")


def _ailing() -> dict[str, float]:
    try:
        with open(_path) as file:  # noqa: PTH123 - pathlib would be imported into every process
            return json.load(file)
    except (OSError, ValueError):
        return {}


def _time() -> float:
    return _true_time() + _ailing().get("clock", 0)


def _mkstemp(*args: object, **more: object) -> tuple[int, str]:
    number = _ailing().get("errno")
    if number and str(more.get("prefix", "")).startswith((".kimi-", ".kiro-")):
        raise OSError(int(number), os.strerror(int(number)))
    return _true_mkstemp(*args, **more)  # type: ignore[call-overload]


def _replace(source: object, target: object, **more: object) -> None:
    number = _ailing().get("late")
    if number and sys.argv[:1] == ["-c"] and str(target).endswith(".json"):
        raise OSError(int(number), os.strerror(int(number)))
    _true_replace(source, target, **more)  # type: ignore[arg-type]


if _path:
    os.replace = _replace
    time.time = _time
    tempfile.mkstemp = _mkstemp
