"""A script for mitmdump: answers ``GET /gauge`` on the proxy's own port with what the process has of everything.

Loaded before the addon, so that its answer stands before the addon looks.
"""

import asyncio
import gc
import json
from collections import Counter

from mitmproxy import http

PATH = "/gauge"
COUNTED = ("HTTPFlow", "ReplayStream", "HttpStream", "HttpLayer", "Server", "Client", "ExchangeControl", "AnswerStream")
COUNTED += ("KimiExchange", "KiroExchange", "RefusedControl", "PageControl", "Attempt", "Context", "Http1Server")


async def requestheaders(flow: http.HTTPFlow) -> None:
    """Answer, once nothing is left that waits for the collector."""
    if flow.request.path != PATH:
        return
    gc.collect()
    objects = gc.get_objects()
    kinds = Counter(type(each).__name__ for each in objects)
    found = {name: kinds[name] for name in COUNTED} | {"tasks": len(asyncio.all_tasks()), "objects": len(objects)}
    flow.response = http.Response.make(200, json.dumps(found), {"content-type": "application/json"})
