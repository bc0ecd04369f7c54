"""Which PHP is installed here, and as whom it may run our scripts."""

import enum
import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

__all__ = [
    "PHP_MISSING",
    "PhpError",
    "PhpKind",
    "PhpProgram",
    "PhpUser",
    "check_readable",
    "choose_user",
    "default_search",
    "find_php",
]

#: Where packages put it. /usr/sbin is not in the PATH of ordinary users on Debian, so PATH alone would miss it.
_FOLDERS: Final = (
    "usr/sbin",
    "usr/local/sbin",
    "opt/homebrew/sbin",
    "home/linuxbrew/.linuxbrew/sbin",
    "usr/bin",
    "usr/local/bin",
    "opt/homebrew/bin",
    "home/linuxbrew/.linuxbrew/bin",
)
#: Where Homebrew has the versions that it does not link elsewhere: php@8.3/sbin/php-fpm.
_KEGS: Final = ("opt/homebrew/opt", "usr/local/opt", "home/linuxbrew/.linuxbrew/opt")
_KEG: Final = re.compile(r"php@(\d+)\.(\d+)")
#: php-fpm8.2 (Debian), php-fpm83 (Alpine), php-fpm (Fedora, Homebrew); php-cgi alike.
_NAME: Final = re.compile(r"php-(fpm|cgi)(?:(\d)\.?(\d*))?")
#: Goes through pairs of a test and a path, and prints the first path that fails.
_CHECK: Final = 'while [ $# -gt 0 ]; do [ "$1" "$2" ] || { printf %s "$2"; exit 1; }; shift 2; done'

PHP_MISSING: Final = """\
There is no PHP here that speaks FastCGI (php-fpm or php-cgi). Install one:
  Debian, Ubuntu   apt-get install php-fpm
  Fedora, RHEL     dnf install php-fpm
  Alpine           apk add php83-fpm
  macOS            brew install php
or name a FastCGI server that already runs, for example --fastcgi unix:/run/php/php-fpm.sock"""


class PhpError(Exception):
    """PHP cannot be started as asked. The text is for the user: what is wrong, and what to do where we know it."""


class PhpKind(enum.Enum):
    """Which of PHP's two FastCGI servers a program is."""

    FPM = "php-fpm"
    """The FastCGI process manager: first choice."""
    CGI = "php-cgi"
    """The CGI binary in its FastCGI mode."""


@dataclass(frozen=True, slots=True)
class PhpProgram:
    """A PHP that is installed here."""

    kind: PhpKind
    path: Path


@dataclass(frozen=True, slots=True)
class PhpUser:
    """An account other than ours, as which the scripts run.

    Attributes:
        name: Login name.
        uid: User id, never 0.
        gid: Its main group.
        groups: All its groups, the main one among them.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def default_search(root: Path = Path("/")) -> tuple[Path, ...]:
    """The folders where :func:`find_php` looks unless told otherwise: the usual ones, those of PATH, then Homebrew's.

    Args:
        root: what the usual folders are below.
    """
    path = (Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder)
    usual = (root / folder for folder in _FOLDERS)
    return tuple(dict.fromkeys((*usual, *(folder for folder in path if folder.is_absolute()), *_kegs(root))))


def _kegs(root: Path) -> list[Path]:
    """The folders of Homebrew's single versions, the newest first."""
    found: list[tuple[tuple[int, int], Path]] = []
    for keg in (keg for opt in _KEGS for keg in (root / opt).glob("php@*")):
        if (name := _KEG.fullmatch(keg.name)) is not None:
            found.extend(((int(name[1]), int(name[2])), keg / folder) for folder in ("sbin", "bin"))
    return [folder for _, folder in sorted(found, key=lambda row: row[0], reverse=True)]


def find_php(search: Sequence[Path] | None = None) -> PhpProgram | None:
    """Find the PHP to start.

    php-fpm comes before php-cgi, then the newest version, then the earliest folder. A name without a version
    comes after those that have one.

    Args:
        search: Folders to look in; default: :func:`default_search`.

    Returns:
        The program, or None when there is none (:data:`PHP_MISSING` says what to do).
    """
    found: list[tuple[bool, tuple[int, int], PhpProgram]] = []
    for folder in default_search() if search is None else search:
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            continue
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name is not None and entry.is_file() and os.access(entry, os.X_OK):
                kind = PhpKind(f"php-{name[1]}")
                version = (int(name[2] or -1), int(name[3] or 0))
                found.append((kind is PhpKind.FPM, version, PhpProgram(kind, entry)))
    return max(found, key=lambda row: row[:2])[2] if found else None


def choose_user(scripts: Sequence[Path], wanted: str | None, *, euid: int | None = None) -> PhpUser | None:
    """Decide as whom the scripts run: never as root.

    Args:
        scripts: Absolute paths; the owner of the first counts.
        wanted: Login name asked for with ``--php-user``, if any.
        euid: Whom we run as; default: the process's effective user id.

    Returns:
        The account to change to, or None for ourselves.

    Raises:
        PhpError: The choice is root, or an account that does not exist or that we cannot become.
    """
    ours = os.geteuid() if euid is None else euid
    if wanted is not None:
        try:
            entry = pwd.getpwnam(wanted)
        except KeyError:
            raise PhpError(f"--php-user {wanted}: there is no such user") from None
        if entry.pw_uid == 0:
            raise PhpError(f"--php-user {wanted}: scripts never run as root; name an ordinary user")
        if ours not in (0, entry.pw_uid):
            raise PhpError(f"--php-user {wanted}: only root can run scripts as another user")
        return _account(entry) if ours == 0 else None
    if ours != 0:
        return None
    return _owner(scripts[0])


def _owner(script: Path) -> PhpUser:
    try:
        owner = script.stat().st_uid
    except OSError as error:
        raise PhpError(f"{script}: {error.strerror}") from None
    if owner == 0:
        raise PhpError(
            f"{script} belongs to root, and scripts never run as root; "
            "say whom they run as, for example --php-user www-data"
        )
    try:
        return _account(pwd.getpwuid(owner))
    except KeyError:
        raise PhpError(f"{script} belongs to user id {owner}, which has no account; give --php-user") from None


def _account(entry: pwd.struct_passwd) -> PhpUser:
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return PhpUser(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(groups))


async def check_readable(scripts: Sequence[Path], user: PhpUser | None) -> None:
    """Check, as the user who will run them, that the scripts can be read.

    The check is a small shell that runs as that user, because only the kernel knows all its rules.

    Args:
        scripts: Absolute paths.
        user: As chosen by :func:`choose_user`.

    Raises:
        PhpError: One is no file or cannot be reached; the text names the folder or file that is in the way.
    """
    for script in scripts:
        if not script.is_file():
            raise PhpError(f"{script}: there is no such file")
        tests = [word for folder in reversed(script.parents) for word in ("-x", str(folder))]
        result = await trio.run_process(
            ["/bin/sh", "-c", _CHECK, "sh", *tests, "-r", str(script)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd="/",
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else user.groups,
        )
        if result.returncode != 0:
            who = "we" if user is None else f"user {user.name}"
            where = os.fsdecode(result.stdout or result.stderr)
            what = "cannot read it" if where == str(script) else f"cannot pass {where}"
            raise PhpError(f"{script}: {who} {what}; change its rights or the user (--php-user)")
