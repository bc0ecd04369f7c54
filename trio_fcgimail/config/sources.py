"""Where settings come from: a file, or the command line alone."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from trio_fcgimail.config.addresses import ListenAddress, UpstreamAddress
from trio_fcgimail.config.errors import ConfigError, ConfigErrors, shown
from trio_fcgimail.config.reader import read_document
from trio_fcgimail.config.settings import DEFAULT_LISTEN, LogSettings, Settings

__all__ = ["find_configuration", "load_settings", "serve_settings"]

_NAMES: Final = ("fcgimail.toml", "goguerrilla.conf", "goguerrilla.conf.json")  # docs/operating.md, "Commands"
_MAX_FILE_OCTETS = 1 << 20  # ours: thousands of allowed hosts fit
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


def load_settings(path: Path, *, default_hostname: str) -> Settings:
    """Read a TOML file.

    Args:
        path: the file, at most 1 MiB.
        default_hostname: stands in for an absent `hostname`.

    Raises:
        ConfigErrors: the file cannot be read, is no TOML, or holds faults, all of which are named.
    """
    file = str(path)
    document = _parse(_text_of(path), file)
    return read_document(document, file=file, default_hostname=default_hostname)


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
        _fail(str(path), "file", f"that it cannot be read ({error.strerror})", "a TOML file")
    except ValueError:  # a NUL in the path
        _fail(str(path), "file", "no such file", "a TOML file")
    if len(content) > _MAX_FILE_OCTETS:
        _fail(str(path), "file", "a larger one", f"at most {_MAX_FILE_OCTETS} octets")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        _fail(str(path), f"line {line}", f"the octet 0x{content[error.start]:02x}", "UTF-8")


def _parse(text: str, file: str) -> dict[str, object]:
    if file.endswith(".json") or text.lstrip().startswith("{"):  # no TOML document starts so
        _fail(file, "file", "JSON", "TOML (reading a goguerrilla file: not yet in this version)")
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
