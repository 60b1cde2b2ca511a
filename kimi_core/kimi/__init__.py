"""The Kimi Code provider: identity, login, request rewriting, answers (protocol: kimi.com coding plan)."""
