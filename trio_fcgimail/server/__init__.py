"""The Trio shell: listeners, sessions, spool, the FastCGI client, limits and drain.

Start at :mod:`trio_fcgimail.server.app`, whose head draws the nursery tree.
"""

from trio_fcgimail.server.app import Ending, Server
from trio_fcgimail.server.gateway import MailReport, Observer
from trio_fcgimail.server.listeners import ListenError, StartError
from trio_fcgimail.server.log import LogFile, LogObserver, make_log
from trio_fcgimail.server.signals import stop_at_signals

__all__ = [
    "Ending",
    "ListenError",
    "LogFile",
    "LogObserver",
    "MailReport",
    "Observer",
    "Server",
    "StartError",
    "make_log",
    "stop_at_signals",
]
