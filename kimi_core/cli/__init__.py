"""The kimi-mitm command line."""
