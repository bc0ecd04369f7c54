"""The Trio shell: listeners, sessions, spool, the FastCGI client, limits and drain.

Start at :mod:`trio_fcgimail.server.app`, whose head draws the nursery tree.
"""

from trio_fcgimail.server.app import Ending, Server
from trio_fcgimail.server.gateway import MailReport, Observer
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.listeners import ListenError
from trio_fcgimail.server.log import LogFile, LogObserver, make_log
from trio_fcgimail.server.signals import stop_at_signals
from trio_fcgimail.server.systemd import Notifier, take_sockets
from trio_fcgimail.server.workers import RightsError, Supervisor

__all__ = [
    "Ending",
    "Limit",
    "ListenError",
    "LogFile",
    "LogObserver",
    "MailReport",
    "Notifier",
    "Observer",
    "RightsError",
    "Server",
    "Supervisor",
    "make_log",
    "stop_at_signals",
    "take_sockets",
]
