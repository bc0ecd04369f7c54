"""What happens to a mail between its end and our reply: processors in order, those of ours and those of users."""

from trio_fcgimail.server.processors.builtin import COMPRESSED, HEADER, Compressed
from trio_fcgimail.server.processors.chain import Chain
from trio_fcgimail.server.processors.interface import (
    Context,
    Discarded,
    EachRecipient,
    Failed,
    GoOn,
    Mail,
    NoteKey,
    Notes,
    OneAnswer,
    Processor,
    RecipientAnswer,
    Refused,
    SaveAnswer,
    Stored,
)
from trio_fcgimail.server.processors.maildir import maildir_of
from trio_fcgimail.server.processors.registry import (
    ENTRY_POINT_GROUP,
    ChainError,
    ProcessorFactory,
    ProcessorSource,
    SaveFunction,
)

__all__ = [
    "COMPRESSED",
    "ENTRY_POINT_GROUP",
    "HEADER",
    "Chain",
    "ChainError",
    "Compressed",
    "Context",
    "Discarded",
    "EachRecipient",
    "Failed",
    "GoOn",
    "Mail",
    "NoteKey",
    "Notes",
    "OneAnswer",
    "Processor",
    "ProcessorFactory",
    "ProcessorSource",
    "RecipientAnswer",
    "Refused",
    "SaveAnswer",
    "SaveFunction",
    "Stored",
    "maildir_of",
]
