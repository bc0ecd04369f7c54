"""What happens to a mail between its end and our reply: the processors, in order, and what each is told."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Final, TypeAlias, final

import msgspec

from trio_fcgimail.config.hosts import is_domain
from trio_fcgimail.config.rules import Items, Rule, flag, optional, text

__all__ = [
    "ChainSettings",
    "DebuggerSettings",
    "HeaderSettings",
    "MaildirSettings",
    "MaildirUser",
    "NamedProcessor",
    "Processor",
    "Step",
    "find_processor",
    "find_step",
    "maildir_path",
    "maildir_user",
]

_MAX_USERS = 100_000  # ours: far more than a table that somebody writes
_MAX_TEMPLATE_OCTETS = 1024  # ours: PATH_MAX leaves room for the user and the file below
_MAX_ID = (1 << 32) - 2  # POSIX: (uid_t)-1 means "leave it"
_KEPT = ("", "-1")
_USER = re.compile(r"[^\x00-\x20\x7f/\\\[\]]{1,64}")  # RFC 5321 4.5.3.1.1; no part of a path
_IDS = re.compile(r"(-1|[0-9]{1,10}):(-1|[0-9]{1,10})")


@final
class Processor(Enum):
    """A step of a chain, by the name that go-guerrilla has for it; docs/processors.md."""

    HEADERS_PARSER = "HeadersParser"
    HEADER = "Header"
    HASHER = "Hasher"
    DEBUGGER = "Debugger"
    COMPRESSOR = "Compressor"
    FASTCGI = "FastCGI"
    MAILDIR = "MailDir"

    @property
    def stores(self) -> bool:
        """Whether a mail is somewhere after this step."""
        return self in (Processor.FASTCGI, Processor.MAILDIR)


@final
@dataclass(frozen=True, slots=True)
class NamedProcessor:
    """A step that is none of ours: a processor of the user's own, looked up by its name when the server starts.

    Args:
        value: the name, in lower case.
    """

    value: str

    @property
    def stores(self) -> bool:
        """Whether a mail may be somewhere after this step; what it says at run time counts."""
        return True


Step: TypeAlias = Processor | NamedProcessor

_DATABASES: Final = frozenset(("sql", "mysql", "redis", "guerrillaredisdb", "guerrilladbredis"))
_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_BY_NAME: Final = {processor.value.lower(): processor for processor in Processor}


def find_processor(name: str) -> Processor:
    """Give the processor of a name in any case, blanks around it left aside.

    Raises:
        ValueError: there is none.
    """
    processor = _BY_NAME.get(name.strip().lower())
    if processor is None:
        raise ValueError("no processor of ours")
    return processor


def find_step(name: str) -> Step:
    """Do the same, and take any other name for that of a processor of the user's own.

    Raises:
        ValueError: it cannot be a name, or it is one of go-guerrilla's that need a database.
    """
    low = name.strip().lower()
    if low in _BY_NAME:
        return _BY_NAME[low]
    if low in _DATABASES or _NAME.fullmatch(low) is None:
        raise ValueError("no processor")
    return NamedProcessor(low)


@final
@dataclass(frozen=True, slots=True)
class MaildirUser:
    """A user who has a maildir.

    Args:
        name: the local part of the address, in lower case.
        uid: whom its files belong to; None leaves them to us.
        gid: likewise the group.
    """

    name: str
    uid: int | None
    gid: int | None


def maildir_user(name: str, ids: str) -> MaildirUser:
    """Read an entry of the user map.

    Args:
        name: in any case.
        ids: "UID:GID", with -1 for one that is left alone, or "" for both.

    Raises:
        ValueError: one of them is something else.
    """
    if _USER.fullmatch(name) is None or name.strip(".") == "":
        raise ValueError("not a user")
    if ids in _KEPT:
        return MaildirUser(name.lower(), None, None)
    match = _IDS.fullmatch(ids)
    if match is None:
        raise ValueError("not UID:GID")
    return MaildirUser(name.lower(), _id(match[1]), _id(match[2]))


def _id(number: str) -> int | None:
    if number == "-1":
        return None
    if int(number) > _MAX_ID:
        raise ValueError("no id is so large")
    return int(number)


def maildir_path(path: str) -> str:
    """Take the template of a maildir's path, such as "/home/[user]/Maildir" or "~/mail/[user]".

    Raises:
        ValueError: it is relative, too long or holds control characters.
    """
    if not path.startswith(("/", "~/")) or not path.isprintable() or len(path.encode()) > _MAX_TEMPLATE_OCTETS:
        raise ValueError("not the template of a path")
    return path


def _user_map(value: object) -> tuple[MaildirUser, ...]:
    entries = msgspec.convert(value, dict[str, str])
    users = tuple(maildir_user(name, ids) for name, ids in entries.items())
    if len(users) > _MAX_USERS or len({user.name for user in users}) < len(users):
        raise ValueError("too many users, or one of them twice")
    return users


def _processors(items: list[str]) -> tuple[Step, ...]:
    return tuple(map(find_step, items))


_NAMES = ", ".join(f'"{processor.value}"' for processor in Processor)
_OTHERS = "or the name of your own; SQL, Redis and GuerrillaRedisDB need a database, see docs/processors.md"
_CHAIN = Items(find_step, _processors, "a list of processors", f"{_NAMES}, {_OTHERS}", fewest=0)
_USER_MAP = Rule(_user_map, 'a table of users, such as {alice = "1000:1000", bob = "-1:-1"}, each user once')
_TEMPLATE = optional(text(maildir_path, 'a path such as "/home/[user]/Maildir" or "~/[user]"'), "", '"" for none')


def _domain(name: str) -> str:
    if not is_domain(name):
        raise ValueError("not a domain")
    return name


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """`[chain]`; each processor stands at most once in a list.

    `save` needs a processor that stores, unless `discard`. `trace_header` puts our own Received field in front of
    each mail, whether or not the Header processor puts one there too.
    """

    save: Annotated[tuple[Step, ...], _CHAIN] = (Processor.FASTCGI,)
    validate: Annotated[tuple[Step, ...], _CHAIN] = (Processor.FASTCGI,)
    discard: Annotated[bool, flag()] = False
    trace_header: Annotated[bool, flag()] = True


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderSettings:
    """`[header]`, of the processor Header; `primary_mail_host` None is `hostname`."""

    primary_mail_host: Annotated[
        str | None, optional(text(_domain, "the domain of Delivered-To"), "", '"" for hostname')
    ] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DebuggerSettings:
    """`[debugger]`, of the processor Debugger."""

    log_received_mails: Annotated[bool, flag()] = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MaildirSettings:
    """`[maildir]`, of the processor MailDir.

    The first `[user]` of `path` stands for the user's name, `~` for our own home; nobody but the users of `user_map`
    gets mail.
    """

    path: Annotated[str | None, _TEMPLATE] = None
    user_map: Annotated[tuple[MaildirUser, ...], _USER_MAP] = ()
