"""The words that make opencode 1.18 ask again, wherever they stand in an error's message or body."""

import re

RETRY_WORDS = re.compile(
    r"429|500|502|503|504|524|rate.?limit|overloaded|server.?error|terminated|connection.?(refused|reset|lost|error)|"
    r"network.?error|try again|timed? ?out|too many requests",
    re.IGNORECASE,
)
