"""The fixtures that are in crash/fixtures.py."""

from crash.fixtures import fresh, server, template, world

__all__ = ["fresh", "server", "template", "world"]
