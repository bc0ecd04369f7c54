"""Where settings come from: a file, or the command line alone."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn, Self, final

from trio_fcgimail.config.addresses import ListenAddress, UpstreamAddress
from trio_fcgimail.config.conversion import converted
from trio_fcgimail.config.errors import ConfigError, ConfigErrors, shown
from trio_fcgimail.config.guerrilla import translate
from trio_fcgimail.config.reader import read_document
from trio_fcgimail.config.settings import DEFAULT_LISTEN, LogLevel, LogSettings, Settings
from trio_fcgimail.config.warnings import ConfigWarning

__all__ = [
    "Configuration",
    "convert_file",
    "find_configuration",
    "load_configuration",
    "load_settings",
    "serve_settings",
]

# docs/operating.md, "Commands"
_NAMES: Final = ("fcgimail.toml", "goguerrilla.conf", "goguerrilla.conf.json", "maildiranasaurus.conf")
_MAX_FILE_OCTETS = 1 << 20  # ours: thousands of allowed hosts fit
_A_FILE = "a TOML file, or a JSON file of go-guerrilla"
_COMMAND_LINE = "command line"
_ANY_HOST = "."
_LINE = re.compile(r"\(at line ([0-9]+), column [0-9]+\)")

_OPTIONS: Final = {  # which option of `serve` a key of the settings comes from
    "hostname": "--hostname",
    "allowed_hosts": "--allow",
    "listeners[0].address": "--listen",
    "fastcgi.upstreams": "--fastcgi",
    "fastcgi.max_connections": "--max-connections",
    "scripts.save": "--save",
    "scripts.validate": "--validate",
}


def find_configuration(folder: Path) -> Path | None:
    """Find the configuration file that `serve` reads when none is named.

    Args:
        folder: where to look, not below.

    Returns:
        The first of the names that exists there, also when it cannot be read: an operator who
        put it there wants to hear of it. None when there is none.
    """
    return next((folder / name for name in _NAMES if _is_there(folder / name)), None)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


@final
@dataclass(frozen=True, slots=True)
class Configuration:
    """What a file says.

    Args:
        warnings: about what is taken otherwise than it stands there; of a file of go-guerrilla only.
    """

    settings: Settings
    warnings: tuple[ConfigWarning, ...] = ()

    def with_options(self, *, pid_file: Path | None, level: LogLevel | None) -> Self:
        """Give what options of `serve` say instead of the file, where they do."""
        settings = self.settings
        if pid_file is not None:
            settings = replace(settings, pid_file=pid_file)
        if level is not None:
            settings = replace(settings, log=replace(settings.log, level=level))
        return replace(self, settings=settings)


def load_configuration(path: Path, *, default_hostname: str, discard: bool = False) -> Configuration:
    """Read a TOML file, or a JSON file of go-guerrilla or MailDiranasaurus.

    Args:
        path: the file, at most 1 MiB.
        default_hostname: stands in for an absent `hostname`.
        discard: whether a chain that stores nowhere is wanted, whatever the file says of it.

    Raises:
        ConfigErrors: the file cannot be read, is neither, or holds faults, all of which are named.
    """
    file, content = str(path), _text_of(path)
    if not _is_json(content, file):
        document = _parse(content, file)
        if discard and isinstance(chain := document.setdefault("chain", {}), dict):
            chain["discard"] = True
        return Configuration(read_document(document, file=file, default_hostname=default_hostname))
    translation = translate(content, file=file, default_hostname=default_hostname, may_discard=discard)
    try:
        settings = read_document(translation.document, file=file, default_hostname=default_hostname)
    except ConfigErrors as errors:
        raise translation.named_theirs(errors) from None
    return Configuration(settings, translation.warnings)


def load_settings(path: Path, *, default_hostname: str) -> Settings:
    """Do the same for those who do not care about warnings.

    Raises:
        ConfigErrors: likewise.
    """
    return load_configuration(path, default_hostname=default_hostname).settings


def convert_file(path: Path, *, default_hostname: str, discard: bool = False) -> str:
    """Give a file of go-guerrilla or MailDiranasaurus as TOML; the arguments are those of `load_configuration`.

    Raises:
        ConfigErrors: likewise, and for a TOML file; not for what the server cannot do yet.
    """
    file, content = str(path), _text_of(path)
    if not _is_json(content, file):
        _fail(file, "file", "no JSON", "a file of go-guerrilla or MailDiranasaurus")
    return converted(translate(content, file=file, default_hostname=default_hostname, may_discard=discard), path.name)


def serve_settings(
    *,
    save: str,
    validate: str | None = None,
    upstream: UpstreamAddress,
    listen: ListenAddress = DEFAULT_LISTEN,
    allow: Sequence[str] = (),
    hostname: str,
    max_connections: int | None = None,
    log: LogSettings | None = None,
) -> Settings:
    """Make settings without a file, for `serve --save` and for the embedded default.

    Args:
        save: absolute path of the save script, as the FastCGI responder sees it.
        validate: likewise of the validate script.
        upstream: where the responder listens.
        listen: where we listen.
        allow: entries as in `allowed_hosts`; empty means any domain, on a loopback or unix listener only.
        hostname: for the banner and the trace header.
        max_connections: to the responder; None leaves the default.
        log: None leaves the default.

    Raises:
        ConfigErrors: an argument is refused; the keys are named as the options of `serve`.
    """
    if not allow and not listen.is_loopback:
        expected = f"at least one recipient domain, since {listen} can be reached from other machines"
        _fail(_COMMAND_LINE, "--allow", "nothing", expected)
    scripts: dict[str, object] = {"save": save} if validate is None else {"save": save, "validate": validate}
    fastcgi: dict[str, object] = {"upstreams": [str(upstream)]}
    if max_connections is not None:
        fastcgi["max_connections"] = max_connections
    document: dict[str, object] = {
        "hostname": hostname,
        "allowed_hosts": list(allow) or [_ANY_HOST],
        "listeners": [{"address": str(listen)}],
        "fastcgi": fastcgi,
        "scripts": scripts,
    }
    try:
        settings = read_document(document, file=_COMMAND_LINE, default_hostname=hostname)
    except ConfigErrors as errors:
        raise ConfigErrors(tuple(map(_as_option, errors.errors))) from None
    return settings if log is None else replace(settings, log=log)


def _as_option(error: ConfigError) -> ConfigError:
    key = re.sub(r"\[[0-9]+\]$", "", error.key)
    return replace(error, key=_OPTIONS.get(key, error.key))


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_FILE_OCTETS + 1)
    except OSError as error:
        _fail(str(path), "file", f"that it cannot be read ({error.strerror})", _A_FILE)
    except ValueError:  # a NUL in the path
        _fail(str(path), "file", "no such file", _A_FILE)
    if len(content) > _MAX_FILE_OCTETS:
        _fail(str(path), "file", "a larger one", f"at most {_MAX_FILE_OCTETS} octets")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        _fail(str(path), f"line {line}", f"the octet 0x{content[error.start]:02x}", "UTF-8")


def _is_json(text: str, file: str) -> bool:
    return file.endswith(".json") or text.lstrip().startswith("{")  # no TOML document starts so


def _parse(text: str, file: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        _fail(file, "file", "values nested too deeply", "TOML")
    except ValueError as error:  # TOMLDecodeError is one; an integer of 5,000 digits is a plain one
        _refuse_syntax(str(error), text, file)


def _refuse_syntax(message: str, text: str, file: str) -> NoReturn:
    """Turn what tomllib says into an error with the line itself."""
    place = _LINE.search(message)
    lines = text.split("\n")  # as tomllib counts them
    number = int(place[1]) if place else len(lines)
    reason = message[: place.start()].strip() if place else message
    _fail(file, f"line {number}", shown(lines[number - 1].strip()), f"TOML ({reason})")


def _fail(file: str, key: str, found: str, expected: str) -> NoReturn:
    raise ConfigErrors((ConfigError(file, key, found, expected),))
