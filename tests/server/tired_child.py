"""A worker as any other, but that it is tired of every crowd: in a test, its memory hardly grows."""

from unittest.mock import patch

from trio_fcgimail.server import crowd
from trio_fcgimail.server.workers.child import main as serve


def main() -> None:
    """Run as a process, as ``trio_fcgimail.server.workers.child``."""
    with patch.object(crowd, "SPARE_OCTETS", -(1 << 40)):
        serve()
