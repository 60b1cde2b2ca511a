from tests.proxy.conftest import place, world

__all__ = ("place", "world")
