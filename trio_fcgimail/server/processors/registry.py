"""Which processor a name stands for: one of ours, one that was registered, one that a package brings along."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import entry_points
from inspect import iscoroutinefunction
from typing import Final, TypeAlias, TypeGuard, assert_never, final

from trio_fcgimail.config import NamedProcessor, Step
from trio_fcgimail.config import Processor as BuiltIn
from trio_fcgimail.server.listeners import StartError
from trio_fcgimail.server.processors.builtin import Compressor, Debugger, FastCgi, Hasher, Header, HeadersParser
from trio_fcgimail.server.processors.interface import GoOn, Mail, Processor, SaveAnswer
from trio_fcgimail.server.processors.maildir import MailDir
from trio_fcgimail.server.scripts import Scripts

ENTRY_POINT_GROUP: Final = "trio_fcgimail.processors"

SaveFunction: TypeAlias = Callable[[Mail], Awaitable[SaveAnswer | None]]
ProcessorFactory: TypeAlias = Callable[[], Processor]
ProcessorSource: TypeAlias = SaveFunction | ProcessorFactory
"""An async function that saves, whose None is GoOn; or what makes a processor: its class, or a function."""

_BUILT_IN: Final[Mapping[BuiltIn, ProcessorFactory]] = {
    BuiltIn.HEADERS_PARSER: HeadersParser,
    BuiltIn.HEADER: Header,
    BuiltIn.HASHER: Hasher,
    BuiltIn.DEBUGGER: Debugger,
    BuiltIn.COMPRESSOR: Compressor,
    BuiltIn.MAILDIR: MailDir,
}


class ChainError(StartError):
    """A chain cannot be had; the text is one line for the user."""


@final
class _SavingFunction(Processor):
    """A function as a processor."""

    def __init__(self, function: SaveFunction) -> None:
        self._function = function

    async def save(self, mail: Mail) -> SaveAnswer:
        """Call it."""
        answer = await self._function(mail)
        return GoOn() if answer is None else answer


def make_processor(step: Step, scripts: Scripts, registered: Mapping[str, ProcessorSource]) -> Processor:
    """Make the processor of a step.

    Args:
        scripts: for FastCGI.
        registered: by their names, in any case; before those of packages.

    Raises:
        ChainError: there is none of that name, or it cannot be made.
    """
    match step:
        case BuiltIn.FASTCGI:
            return FastCgi(scripts)
        case BuiltIn():
            return _BUILT_IN[step]()
        case NamedProcessor(value=name):
            source = {known.strip().lower(): one for known, one in registered.items()}.get(name)
            return _make(name, _load(name) if source is None else source)
        case _:
            assert_never(step)


def _load(name: str) -> object:
    found = [point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name.lower() == name]
    if not found:
        raise ChainError(f"there is no processor {name}: none is registered, and no package has one of that name")
    try:
        loaded: object = found[0].load()
    except Exception as exc:
        raise ChainError(f"cannot load the processor {name} from {found[0].value}: {exc}") from exc
    return loaded


def _make(name: str, source: object) -> Processor:
    if _is_save_function(source):
        return _SavingFunction(source)
    try:
        made: object = source() if callable(source) else source
    except Exception as exc:
        raise ChainError(f"cannot make the processor {name}: {exc}") from exc
    if not isinstance(made, Processor):
        raise ChainError(f"the processor {name} is no async function, nor does it make a Processor")
    return made


def _is_save_function(source: object) -> TypeGuard[SaveFunction]:
    return iscoroutinefunction(source)
