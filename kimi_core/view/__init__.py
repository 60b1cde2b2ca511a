"""Readable text of what passes between a client, the proxy and a service: bytes in, text out."""
