"""The whole file, translated."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, final

from trio_fcgimail.config.errors import ConfigError, ConfigErrors, shown
from trio_fcgimail.config.guerrilla import backend, servers, tls
from trio_fcgimail.config.guerrilla.draft import Draft
from trio_fcgimail.config.guerrilla.fields import Fields, KeyCase, Notes
from trio_fcgimail.config.guerrilla.hosts import allowed_hosts
from trio_fcgimail.config.guerrilla.syntax import JsonObject, parse_json
from trio_fcgimail.config.reader import read_document
from trio_fcgimail.config.settings import LogLevel
from trio_fcgimail.config.warnings import Concern, ConfigWarning

__all__ = ["KEYS", "Translation", "translate"]

KEYS: Final = (
    "servers",
    "allowed_hosts",
    "pid_file",
    "log_file",
    "log_level",
    "backend_config",
    "backend_name",
)
_ELSEWHERE: Final = (
    *(f"backend_config.{name}" for name in backend.KEYS),
    *(f"servers.{name}" for name in servers.KEYS),
    *(f"servers.tls.{name}" for name in tls.KEYS),
)
_LEVELS: Final = {
    "panic": LogLevel.ERROR,
    "fatal": LogLevel.ERROR,
    "error": LogLevel.ERROR,
    "warn": LogLevel.WARNING,
    "warning": LogLevel.WARNING,
    "info": LogLevel.INFO,
    "debug": LogLevel.DEBUG,
    "trace": LogLevel.DEBUG,
}
_STDERR = "stderr"
_BARE_BACKEND: Final = JsonObject((("log_received_mails", True),))  # what go-guerrilla has without any


@final
@dataclass(frozen=True, slots=True)
class Translation:
    """What a file of go-guerrilla means here.

    Args:
        document: as a TOML file of ours would give it.
        warnings: in the order of the file.
        origins: the path of a key of ours to the path of the one that it comes from.
    """

    document: Mapping[str, object]
    warnings: tuple[ConfigWarning, ...]
    origins: Mapping[str, str]

    def named_theirs(self, errors: ConfigErrors) -> ConfigErrors:
        """Give errors about the document as errors about the file that it comes from."""
        return ConfigErrors(tuple(replace(error, key=_origin(error.key, self.origins)) for error in errors.errors))


def translate(text: str, *, file: str, default_hostname: str, may_discard: bool = False) -> Translation:
    """Translate a file.

    Args:
        text: of the file.
        file: its name, for error lines.
        default_hostname: the name of this machine.
        may_discard: whether a chain that stores nowhere is wanted, by the option ``--discard``.

    Raises:
        ConfigErrors: with every fault, each under the key of theirs. That the server cannot do something yet is none.
    """
    notes, draft = Notes(file), Draft()
    fields = Fields(notes, "", parse_json(text, file), KEYS, elsewhere=_ELSEWHERE)
    log_file = fields.string("log_file") or _STDERR
    found_servers = servers.ServerReader(notes, default_hostname).read(fields.get("servers"))
    hostname = servers.put_servers(found_servers, draft, log_file) or default_hostname
    draft.put("allowed_hosts", allowed_hosts(fields, default_hostname), "allowed_hosts")
    if pid_file := fields.string("pid_file"):
        draft.put("pid_file", pid_file, "pid_file")
    draft.put("log.level", _level(fields).value, "log_level")
    draft.put("log.file", log_file, "log_file")
    if fields.get("backend_name") is not None:
        fields.warn("backend_name", shown(fields.get("backend_name")), "without effect, as always", Concern.UNUSED)
    content = _BARE_BACKEND if fields.get("backend_config") is None else fields.table("backend_config")
    inner = Fields(notes, "backend_config", content, backend.KEYS, case=KeyCase.EXACT, elsewhere=_ELSEWHERE)
    backend.Backend(inner, draft, may_discard=may_discard).translate(hostname, default_hostname)
    translation = Translation(draft.document, notes.warnings, draft.origins)
    _refuse_all(notes, translation, default_hostname)
    return translation


def _level(fields: Fields) -> LogLevel:
    name = fields.string("log_level")
    level = _LEVELS.get(name.lower())
    if level is None:
        if name:
            fields.warn("log_level", shown(name), 'no level, so the default "debug" counts', Concern.UNUSABLE)
        return LogLevel.DEBUG
    if name.lower() not in (level.value, "warn"):
        fields.warn("log_level", shown(name), f'"{level.value}" is the nearest', Concern.DIFFERENT)
    return level


def _refuse_all(notes: Notes, translation: Translation, default_hostname: str) -> None:
    """Raise what is wrong with the file, and what is wrong with our document and not told yet."""
    own = notes.problems.exception().errors if notes.problems.count else ()
    try:
        read_document(translation.document, file=notes.file, default_hostname=default_hostname)
        more: tuple[ConfigError, ...] = ()
    except ConfigErrors as errors:
        more = translation.named_theirs(errors).errors
    told = {error.key for error in own}
    # What our document lacks because it was refused: whoever mends that mends this.
    every = (*own, *(error for error in more if error.key not in told and not (own and error.found == _MISSING)))
    if every:
        raise ConfigErrors(every)


_MISSING = "nothing"  # as the reader has it
_COUNTER = re.compile(r"\[[0-9]+\]$")
_REQUIRED: Final = {
    "fastcgi.upstreams": "backend_config.fcgi_connection_address",
    "scripts.save": "backend_config.fcgi_script_filename_save",
    "maildir.path": "backend_config.maildir_path",
    "maildir.user_map": "backend_config.maildir_user_map",
    "chain.save": "backend_config.save_process",
}


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """Give the key of theirs; of a list it is the list."""
    plain = _COUNTER.sub("", key)
    return origins.get(key) or origins.get(plain) or _REQUIRED.get(plain) or key
