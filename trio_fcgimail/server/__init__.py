"""The Trio shell: listeners, sessions, spool, the FastCGI client, limits and drain.

Start at :mod:`trio_fcgimail.server.app`, whose head draws the nursery tree.
"""

from trio_fcgimail.server.app import Ending, Server
from trio_fcgimail.server.events import (
    ConnectionClosed,
    ConnectionOpened,
    Event,
    Events,
    LogsReopened,
    MailJudged,
    Reloaded,
    ReloadFailed,
    Started,
    Stopping,
)
from trio_fcgimail.server.gateway import MailReport, Observer
from trio_fcgimail.server.limits import Limit
from trio_fcgimail.server.listeners import ListenError, StartError
from trio_fcgimail.server.log import LogObserver, make_changing_log, make_log
from trio_fcgimail.server.logfile import LogFile
from trio_fcgimail.server.service import Service, serve
from trio_fcgimail.server.signals import stop_at_signals
from trio_fcgimail.server.systemd import Notifier, take_sockets
from trio_fcgimail.server.workers import RightsError, Supervisor

__all__ = [
    "ConnectionClosed",
    "ConnectionOpened",
    "Ending",
    "Event",
    "Events",
    "Limit",
    "ListenError",
    "LogFile",
    "LogObserver",
    "LogsReopened",
    "MailJudged",
    "MailReport",
    "Notifier",
    "Observer",
    "ReloadFailed",
    "Reloaded",
    "RightsError",
    "Server",
    "Service",
    "StartError",
    "Started",
    "Stopping",
    "Supervisor",
    "make_changing_log",
    "make_log",
    "serve",
    "stop_at_signals",
    "take_sockets",
]
