"""The script that ``mitmdump -s addons/kimi.py`` loads: a thin shim, so that reloading it on save is safe."""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "kimi_core").is_dir() and str(_ROOT) not in sys.path:  # a plain checkout works without being installed
    sys.path.insert(0, str(_ROOT))

gc.disable()  # what is loaded is no garbage, and to look for some among it again and again slows the start
try:
    _addon = importlib.import_module("kimi_core.proxy.addon")
except ModuleNotFoundError as error:
    if (error.name or "").startswith("kimi_core"):
        raise
    # an error logged during start-up makes mitmdump exit, which is right here
    logging.getLogger(__name__).error(  # noqa: TRY400 - a traceback would bury the one line that helps
        "kimi-mitm cannot start: %s is missing from the Python that runs mitmproxy (%s). "
        "Run `make run` in the checkout, or install kimi-mitm into that Python.",
        error.name,
        sys.executable,
    )
    addons: list[object] = []
else:
    addons = _addon.addons()
finally:
    gc.enable()
