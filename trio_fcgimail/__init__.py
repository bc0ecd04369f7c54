"""trio_fcgimail: an SMTP server that hands every mail to a script over FastCGI.

The protocol cores are :mod:`trio_fcgimail.smtp` and :mod:`trio_fcgimail.fastcgi`; neither they nor this
package import an I/O library, so that embedding a core costs nothing else. What it takes to run the server from a
program (docs/api.md) is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trio_fcgimail.config import ConfigErrors, Settings, load_settings, make_settings
    from trio_fcgimail.mail import Envelope, Peer
    from trio_fcgimail.server import (
        ConnectionClosed,
        ConnectionOpened,
        Ending,
        Event,
        Events,
        LogsReopened,
        MailJudged,
        MailReport,
        Reloaded,
        ReloadFailed,
        Service,
        Started,
        StartError,
        Stopping,
        serve,
    )
    from trio_fcgimail.server.processors import (
        COMPRESSED,
        HEADER,
        Context,
        Discarded,
        EachRecipient,
        Failed,
        GoOn,
        Mail,
        NoteKey,
        Processor,
        ProcessorSource,
        RecipientAnswer,
        Refused,
        SaveAnswer,
        Stored,
    )
    from trio_fcgimail.smtp import EnhancedCode, Mailbox, Reply

__version__ = "0.1.0"

_ROOMS: Final = {
    "config": ("ConfigErrors", "Settings", "load_settings", "make_settings"),
    "mail": ("Envelope", "Peer"),
    "smtp": ("EnhancedCode", "Mailbox", "Reply"),
    "server": (
        "ConnectionClosed",
        "ConnectionOpened",
        "Ending",
        "Event",
        "Events",
        "LogsReopened",
        "MailJudged",
        "MailReport",
        "ReloadFailed",
        "Reloaded",
        "Service",
        "StartError",
        "Started",
        "Stopping",
        "serve",
    ),
    "server.processors": (
        "COMPRESSED",
        "HEADER",
        "Context",
        "Discarded",
        "EachRecipient",
        "Failed",
        "GoOn",
        "Mail",
        "NoteKey",
        "Processor",
        "ProcessorSource",
        "RecipientAnswer",
        "Refused",
        "SaveAnswer",
        "Stored",
    ),
}
_ROOM_OF: Final = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "COMPRESSED",
    "HEADER",
    "ConfigErrors",
    "ConnectionClosed",
    "ConnectionOpened",
    "Context",
    "Discarded",
    "EachRecipient",
    "Ending",
    "EnhancedCode",
    "Envelope",
    "Event",
    "Events",
    "Failed",
    "GoOn",
    "LogsReopened",
    "Mail",
    "MailJudged",
    "MailReport",
    "Mailbox",
    "NoteKey",
    "Peer",
    "Processor",
    "ProcessorSource",
    "RecipientAnswer",
    "Refused",
    "ReloadFailed",
    "Reloaded",
    "Reply",
    "SaveAnswer",
    "Service",
    "Settings",
    "StartError",
    "Started",
    "Stopping",
    "Stored",
    "__version__",
    "load_settings",
    "make_settings",
    "serve",
]


def __getattr__(name: str) -> object:
    """Import the room of a name that is asked for, by ``from trio_fcgimail import ...`` too."""
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Those that are not imported yet as well."""
    return sorted({*globals(), *__all__})
