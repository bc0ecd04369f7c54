"""A worker that a crowd makes say that it has failed, when it serves already, and that does not end."""

from unittest.mock import patch

from tests.server import tired_child
from trio_fcgimail.server.workers import child
from trio_fcgimail.server.workers.channel import Failed


def _fail(relief: child.Relief) -> None:
    relief.channel.post(Failed("the disk is full"))


def main() -> None:
    """Run as a process, as ``trio_fcgimail.server.workers.child``."""
    with patch.object(child.Relief, "is_wanted", _fail):
        tired_child.main()
