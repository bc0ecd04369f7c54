"""Whether a PHP has room for the mails that a configuration lets pass: pure judgement of what probe.php says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, assert_never

from trio_fcgimail.cli.finding import Finding, State
from trio_fcgimail.cli.phpreport import PhpReport, PhpValue
from trio_fcgimail.config import BodyKind, Settings
from trio_fcgimail.mail.request import MAX_FIELDS
from trio_fcgimail.server.php import MEMORY_PER_BODY_OCTET

_MEBIBYTE: Final = 1 << 20
_TRACE_OCTETS: Final = 2048  # our Received field has 1,100 at most
_METADATA_OCTETS: Final = (
    262_144  # of all fields: 900 parts of a multipart body with 60,000 octets in them take 190,000
)
_ESCAPED: Final = 3  # octets that one octet may take in a form
_SCRIPT_MEMORY_OCTETS: Final = 8 * _MEBIBYTE  # ours: for the script and for PHP


def judge_php(report: PhpReport, settings: Settings) -> Iterator[Finding]:
    """A finding for each setting that matters to mails as large as they may be, sent as they are."""
    kind = settings.scripts.body
    octets = settings.limits.message_octets
    mail = math.inf if octets is None else octets + _TRACE_OCTETS
    yield Finding("PHP", State.GOOD, f"{report.version}, {report.sapi}" + _pool_words(report))
    yield _judge_size(report, "post_max_size", _posted_octets(kind, mail), mail)
    yield _judge_memory(report, kind, mail)
    if kind is not BodyKind.RAW:
        yield _judge_flag(report, "enable_post_data_reading", "else $_POST and $_FILES are empty")
    if kind is BodyKind.MULTIPART:
        yield _judge_size(report, "upload_max_filesize", mail, mail)
        yield _judge_flag(report, "file_uploads", "else there is no $_FILES['body']")
        yield _judge_count(report, "max_file_uploads", 1, "20")
        yield _judge_count(report, "max_multipart_body_parts", MAX_FIELDS, "-1")
    yield _judge_count(report, "max_input_vars", MAX_FIELDS, "1000")
    yield _judge_folder(report, mail)
    yield from _judge_errors(report)
    yield _judge_timeout(report, settings.scripts.save_seconds)
    yield _judge_children(report, settings.fastcgi.max_connections)


def _posted_octets(kind: BodyKind, mail: float) -> float:
    """The longest request body."""
    match kind:
        case BodyKind.FORM:
            return _ESCAPED * mail + _METADATA_OCTETS
        case BodyKind.MULTIPART:
            return mail + _METADATA_OCTETS
        case BodyKind.RAW:
            return mail
        case _:
            assert_never(kind)


def _pool_words(report: PhpReport) -> str:
    return "" if report.pool is None else f", pool [{report.pool}]"


def _row(name: str, state: State, detail: str) -> Finding:
    return Finding(f"PHP: {name}", state, detail)


def _shown(octets: float) -> str:
    return "any number of octets" if octets == math.inf else f"{int(octets)} octets"


def _mend(report: PhpReport, name: str, value: PhpValue, to: str) -> str:
    """Which line of which file to change, and to what."""
    pool_line = f"php_admin_value[{name}] = {to}"
    if value.place is None and report.pool is None:
        return f"set {name} = {to} in php.ini"
    if value.place is None:
        return f"add {pool_line} to the pool [{report.pool}] of php-fpm, and reload it"
    line = pool_line if value.of_pool else f"{name} = {to}"
    return f"change line {value.place.line} of {value.place.file} to {line}, and reload PHP"


def _judge_size(report: PhpReport, name: str, needed: float, mail: float) -> Finding:
    """A limit of the size of what comes, where 0 is none."""
    value = report.setting(name)
    octets = value.octets()
    if octets is None:
        return _row(name, State.UNKNOWN, f"found {value.value!r}")
    if octets <= 0:
        return _row(name, State.GOOD, "no limit")
    if octets >= needed:
        return _row(name, State.GOOD, f"{value.value}, and {_shown(needed)} may come")
    takes = "" if needed == mail else f", {_shown(needed)} as it is sent"
    detail = f"{value.value} is too small: a mail may have {_shown(mail)}{takes}"
    return _row(name, State.BAD, f"{detail}; {_mend(report, name, value, '0')}")


def _judge_memory(report: PhpReport, kind: BodyKind, mail: float) -> Finding:
    name = "memory_limit"
    value = report.setting(name)
    octets = value.octets()
    if octets is None:
        return _row(name, State.UNKNOWN, f"found {value.value!r}")
    if octets < 0:
        return _row(name, State.GOOD, "no limit")
    times = MEMORY_PER_BODY_OCTET if kind is BodyKind.FORM else 1
    needed = times * mail + _SCRIPT_MEMORY_OCTETS
    if octets >= needed:
        return _row(name, State.GOOD, f"{value.value}, and {_shown(needed)} may be needed")
    to = "-1" if needed == math.inf else f"{math.ceil(needed / _MEBIBYTE)}M"
    mend = _mend(report, name, value, to)
    if kind is BodyKind.FORM:
        detail = f"{value.value} is too small: PHP may need {_shown(needed)} for a form of {_shown(mail)} of mail"
        return _row(name, State.BAD, f"{detail}; {mend}")
    if octets >= _SCRIPT_MEMORY_OCTETS:
        detail = f"{value.value} is enough for a script that copies the mail, not for one that reads it whole"
        return _row(name, State.UNKNOWN, f"{detail}; for that {mend}")
    return _row(name, State.BAD, f"{value.value} is too small for any script; {mend}")


def _judge_flag(report: PhpReport, name: str, why: str) -> Finding:
    value = report.setting(name)
    if value.value is None:
        return _row(name, State.UNKNOWN, "this PHP does not know it")
    if value.is_on():
        return _row(name, State.GOOD, "on")
    return _row(name, State.BAD, f"it has to be on, {why}; {_mend(report, name, value, '1')}")


def _judge_count(report: PhpReport, name: str, needed: int, to: str) -> Finding:
    value = report.setting(name)
    if value.value is None:  # max_multipart_body_parts is younger than the rest
        return _row(name, State.GOOD, "this PHP has no such limit")
    count = value.octets()
    if count is None:
        return _row(name, State.UNKNOWN, f"found {value.value!r}")
    if count >= needed or (count < 0 and to == "-1"):
        return _row(name, State.GOOD, value.value)
    return _row(name, State.BAD, f"{value.value} is too small: {needed} may come; {_mend(report, name, value, to)}")


def _judge_folder(report: PhpReport, mail: float) -> Finding:
    name, folder = "upload_tmp_dir", report.folder
    if not folder.is_writable:
        value = report.setting(name)
        detail = f"PHP cannot write to {folder.path}, where it puts what is too large for its memory"
        return _row(name, State.BAD, f"{detail}; give it to PHP's user, or {_mend(report, name, value, '/tmp')}")  # noqa: S108 - of php-fpm's machine
    if folder.free_octets < mail < math.inf:
        free = f"only {folder.free_octets >> 20} MiB are free in {folder.path}"
        return _row(name, State.BAD, f"{free}, less than one mail may have; make room there")
    return _row(name, State.GOOD, f"{folder.path} can be written, {folder.free_octets >> 20} MiB are free")


def _judge_errors(report: PhpReport) -> Iterator[Finding]:
    """What keeps PHP's own words apart from the script's, and tells us that PHP dropped something."""
    shown, logged, log = (report.setting(name) for name in ("display_errors", "log_errors", "error_log"))
    if shown.is_on():
        mend = _mend(report, "display_errors", shown, "0")
        yield _row("display_errors", State.BAD, f"a warning before SAVED makes it no verdict; {mend}")
    else:
        yield _row("display_errors", State.GOOD, "off")
    blind = "PHP cannot tell us that it dropped a part of a mail, only a script that compares sizes notices"
    if not logged.is_on():
        yield _row("log_errors", State.BAD, f"{blind}; {_mend(report, 'log_errors', logged, '1')}")
    elif log.value:
        yield _row("error_log", State.BAD, f"it is {log.value}: {blind}; {_mend(report, 'error_log', log, '')}")
    else:
        yield _row("log_errors", State.GOOD, "to the log of the mail server")


def _judge_timeout(report: PhpReport, save_seconds: float) -> Finding:
    name = "request_terminate_timeout"
    value = report.directives.get(name)
    if value is None:
        return _row(name, State.UNKNOWN, "the file of php-fpm's pool cannot be seen by the probe")
    seconds = 0 if value.value is None else value.seconds()
    if seconds is None:
        return _row(name, State.UNKNOWN, f"found {value.value!r}")
    if 0 < seconds <= save_seconds:
        return _row(name, State.GOOD, f"{seconds} s, and save_seconds is {save_seconds:g}")
    line = f"{name} = {max(int(save_seconds), 1)}s"
    where = (
        f"to the pool [{report.pool}] of php-fpm add {line}"
        if value.place is None
        else f"change line {value.place.line} of {value.place.file} to {line}"
    )
    fault = f"{seconds} s is longer than save_seconds" if seconds else "nothing ends a script that waits for ever"
    return _row(name, State.UNKNOWN, f"{fault}; {where}, and reload php-fpm")


def _judge_children(report: PhpReport, max_connections: int) -> Finding:
    name = "pm.max_children"
    value = report.directives.get(name)
    children = None if value is None else value.octets()
    if value is None or children is None:
        return _row(name, State.UNKNOWN, "the file of php-fpm's pool cannot be seen by the probe")
    if children >= max_connections:
        return _row(name, State.GOOD, f"{children}, and max_connections is {max_connections}")
    where = "" if value.place is None else f" (line {value.place.line} of {value.place.file})"
    fault = f"{children} is less than fastcgi.max_connections, {max_connections}"
    return _row(name, State.BAD, f"{fault}; lower that, or raise {name}{where}")
