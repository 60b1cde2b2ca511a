"""The parts of kimi-mitm: providers, wire formats, the mitmproxy side and the command line."""
