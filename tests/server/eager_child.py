"""A worker that asks to be relieved as soon as it serves, which none of ours does."""

from unittest.mock import patch

from trio_fcgimail.server import Server
from trio_fcgimail.server.workers import child
from trio_fcgimail.server.workers.channel import AskRelief


async def _ask(relief: child.Relief, _: Server) -> None:
    relief.channel.post(AskRelief())


def main() -> None:
    """Run as a process, as ``trio_fcgimail.server.workers.child``."""
    with patch.object(child.Relief, "ask", _ask):
        child.main()
