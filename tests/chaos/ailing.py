"""Ails a process from its start on: a folder with a link to this file as sitecustomize.py goes into PYTHONPATH.

The file that KIMI_TEST_AILING names says how: ``{"clock": seconds, "errno": number}``. The clock goes wrong by so much;
and where there is an errno, no temporary file of the stores can be made, as on a disk that is full or read-only.
"""

import json
import os
import tempfile
import time

_true_time = time.time
_true_mkstemp = tempfile.mkstemp
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


if _path:
    time.time = _time
    tempfile.mkstemp = _mkstemp
