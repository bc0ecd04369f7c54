"""The command line, on click."""

from __future__ import annotations

import math
import platform
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from urllib.parse import quote_plus

import click
import rich.console
import trio

from trio_fcgimail import __version__
from trio_fcgimail.cli.call import asked_by_hand, call_script, form_file, of_known_length
from trio_fcgimail.cli.callstage import MAIL_FIELDS, mail_asked, stage_fields
from trio_fcgimail.cli.check import check_settings
from trio_fcgimail.cli.problems import BadConfiguration, Failure, writing_output
from trio_fcgimail.cli.run import OwnPhp, run_server
from trio_fcgimail.config import (
    DEFAULT_LISTEN,
    ConfigErrors,
    Configuration,
    ListenAddress,
    LogLevel,
    Settings,
    UnixAddress,
    UpstreamAddress,
    convert_file,
    find_configuration,
    is_domain,
    load_configuration,
    parse_listen_address,
    parse_upstream_address,
    serve_settings,
)
from trio_fcgimail.demo import run_demo
from trio_fcgimail.mail import BodyKind, BodyLines, Stage
from trio_fcgimail.server.php import PHP_MISSING, find_php

_CONFIGURATION = click.Path(path_type=Path)


def _listen_address(_ctx: click.Context, _param: click.Parameter, value: str) -> ListenAddress:
    try:
        return parse_listen_address(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _upstream_address(_ctx: click.Context, _param: click.Parameter, value: str | None) -> UpstreamAddress | None:
    try:
        return None if value is None else parse_upstream_address(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def default_hostname() -> str:
    """The name of this machine, where it can stand in a banner."""
    name = socket.gethostname()
    return name if is_domain(name) else "localhost"


def read_configuration(path: Path, *, discard: bool = False) -> Configuration:
    """Read a configuration file. Raises BadConfiguration."""
    try:
        return load_configuration(path, default_hostname=default_hostname(), discard=discard)
    except ConfigErrors as exc:
        raise BadConfiguration(exc) from exc


def _reader(
    path: Path, *, discard: bool = False, pid_file: Path | None = None, level: LogLevel | None = None
) -> Callable[[], Configuration]:
    """What reads a file, now and again: at first its faults are for the user, later for the log.

    Raises:
        BadConfiguration: it has some now.
    """
    first = [read_configuration(path, discard=discard)]

    def read() -> Configuration:
        given = first.pop() if first else load_configuration(path, default_hostname=default_hostname(), discard=discard)
        return given.with_options(pid_file=pid_file, level=level)

    return read


def main() -> None:
    """Run a command and exit with its code."""
    cli(prog_name="trio_fcgimail")


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A mail server that hands every mail to your script over FastCGI.

    Without a command: serves the configuration of the current folder, or, where there is none, takes mail on
    127.0.0.1:2525, shows it and stores it in ./Maildir.
    """
    if ctx.invoked_subcommand is not None:
        return
    path = find_configuration(Path.cwd())
    if path is not None:
        sys.exit(run_server(_reader(path)))
    console = rich.console.Console(highlight=False)
    sys.exit(
        trio.run(
            partial(
                run_demo, listen=DEFAULT_LISTEN, folder=Path.cwd() / "Maildir", console=console, hostname="localhost"
            )
        )
    )


@cli.command()
@click.option("-c", "--config", "config", type=_CONFIGURATION, help="The file to serve, TOML or goguerrilla.conf.json.")
@click.option(
    "-p",
    "--pid-file",
    "--pidFile",
    "pid_file",
    type=_CONFIGURATION,
    help="Where our process id goes, not as the file says.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log at level debug, whatever the file says.")
@click.option("--discard", is_flag=True, help="Serve a file whose chain stores no mail anywhere.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="The script that every mail is handed to; no file needed."
)
@click.option("--validate", type=click.Path(path_type=Path), help="The script that is asked about every recipient.")
@click.option(
    "--fastcgi",
    metavar="ADDRESS",
    callback=_upstream_address,
    help="unix:/PATH or HOST:PORT; without it a PHP of our own is started.",
)
@click.option(
    "--listen",
    metavar="ADDRESS",
    callback=_listen_address,
    default=str(DEFAULT_LISTEN),
    show_default=True,
    help="Where to take mail.",
)
@click.option("--allow", multiple=True, metavar="DOMAIN", help="A recipient domain to take; any on loopback.")
@click.option("--hostname", metavar="NAME", help="For the banner and the trace header; the machine's by default.")
@click.option("--max-connections", type=click.IntRange(1, 10_000), help="To the FastCGI server; PHP's children.")
@click.option("--php-user", metavar="USER", help="As whom our own PHP runs scripts when started by root.")
@click.pass_context
def serve(
    ctx: click.Context,
    config: Path | None,
    pid_file: Path | None,
    verbose: bool,
    discard: bool,
    save: Path | None,
    validate: Path | None,
    fastcgi: UpstreamAddress | None,
    listen: ListenAddress,
    allow: tuple[str, ...],
    hostname: str | None,
    max_connections: int | None,
    php_user: str | None,
) -> None:
    """Take mail and hand it to scripts, until INT or TERM.

    Either by a configuration file (by default fcgimail.toml in the current folder) or by --save and the options
    beside it.
    """
    if save is None:
        _refuse_options_of_save(ctx)
        read = _reader(
            config or _configuration_here(),
            discard=discard,
            pid_file=pid_file,
            level=LogLevel.DEBUG if verbose else None,
        )
        sys.exit(run_server(read))
    if config is not None:
        raise click.UsageError("--config and --save exclude each other: the file names its own scripts.")
    if discard:
        raise click.UsageError("--discard is for a configuration file; --save stores every mail.")
    if fastcgi is not None and php_user is not None:
        raise click.UsageError("--php-user is for a PHP of our own; --fastcgi names another's.")
    settings_with = partial(
        serve_settings,
        save=_script_path(save, must_exist=fastcgi is None),
        validate=None if validate is None else _script_path(validate, must_exist=fastcgi is None),
        listen=listen,
        allow=allow,
        hostname=hostname or default_hostname(),
        max_connections=max_connections,
    )
    try:
        settings = _without_upstream(settings_with) if fastcgi is None else settings_with(upstream=fastcgi)
    except ConfigErrors as exc:
        raise BadConfiguration(exc) from exc
    level = LogLevel.DEBUG if verbose else None
    given = Configuration(settings).with_options(pid_file=pid_file, level=level)
    sys.exit(_serve_with_own_php(given.settings, php_user) if fastcgi is None else run_server(lambda: given))


def _without_upstream(settings_with: partial[Settings]) -> Settings:
    """What the options say, all of it checked before PHP is started: its socket becomes the upstream, of which there
    is none yet. Any address does to have the others judged, as it is taken out again.
    """
    settings = settings_with(upstream=UnixAddress("/any"))
    return replace(settings, fastcgi=replace(settings.fastcgi, upstreams=()))


def _serve_with_own_php(settings: Settings, user: str | None) -> int:
    program = find_php()
    if program is None:
        raise Failure(PHP_MISSING)
    scripts = [Path(script) for script in (settings.scripts.save, settings.scripts.validate) if script is not None]
    return run_server(lambda: Configuration(settings), OwnPhp(program, scripts, user))


def _refuse_options_of_save(ctx: click.Context) -> None:
    """An option that would be ignored is a mistake of the user that we can see."""
    for parameter in ctx.command.params:
        name = parameter.name or ""
        given = ctx.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT)
        if given and name not in ("config", "save", "pid_file", "verbose", "discard"):
            raise click.UsageError(f"{parameter.opts[-1]} goes with --save; a configuration file says it by itself.")


def _configuration_here() -> Path:
    path = find_configuration(Path.cwd())
    if path is None:
        raise click.UsageError("no fcgimail.toml here: name a file with --config, or a script with --save.")
    return path


def _script_path(path: Path, *, must_exist: bool) -> str:
    """A script as PHP needs it, absolute. With a FastCGI server elsewhere the path may exist only there."""
    if must_exist and not path.is_file():
        raise click.UsageError(f"there is no script {path}.")
    return str(path.absolute())


@cli.command()
@click.option("-c", "--config", "config", type=_CONFIGURATION, help="The file to check, TOML or goguerrilla.conf.json.")
@click.option("--probe", is_flag=True, help="Ask the validate script about postmaster at the first allowed domain.")
@click.option(
    "--probe-script",
    metavar="PATH",
    help="Ask PHP for its limits: where the FastCGI server sees a copy of our probe.php.",
)
@click.option("--discard", is_flag=True, help="Take a file whose chain stores no mail anywhere.")
def check(config: Path | None, probe: bool, probe_script: str | None, discard: bool) -> None:
    """Read the configuration, try everything it names and say what holds; no mail is taken and none saved.

    Exit code 0 when all is good, 1 when something fails, 2 when the configuration cannot be read.
    """
    if probe_script is not None and (not probe_script.startswith("/") or "\0" in probe_script):
        raise click.UsageError("--probe-script is an absolute path.")
    path = config or _configuration_here()
    configuration = read_configuration(path, discard=discard)
    sys.exit(trio.run(partial(check_settings, configuration, path, probe=probe, probe_script=probe_script)))


@cli.command()
@click.argument("file", type=_CONFIGURATION)
@click.option("--discard", is_flag=True, help="Take a file whose chain stores no mail anywhere.")
def convert(file: Path, discard: bool) -> None:
    """Print a goguerrilla.conf.json as TOML that means the same, with a comment where there is something to know."""
    try:
        text = convert_file(file, default_hostname=default_hostname(), discard=discard)
    except ConfigErrors as exc:
        raise BadConfiguration(exc) from exc
    with writing_output():
        click.echo(text, nl=False)


@cli.command()
@click.argument("script")
@click.argument("fields", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--post", type=click.File("rb"), metavar="FILE", help="POST this as the body; - is standard input.")
@click.option("--mail", type=click.File("rb"), metavar="FILE", help="Hand over this mail as the server would.")
@click.option(
    "--body",
    type=click.Choice([kind.value for kind in BodyKind]),
    default=BodyKind.FORM.value,
    show_default=True,
    help="How the mail is sent (scripts.body).",
)
@click.option(
    "--line-ends",
    type=click.Choice([lines.value for lines in BodyLines]),
    default=BodyLines.LF.value,
    show_default=True,
    help="Of a mail in a form (scripts.line_ends).",
)
@click.option(
    "--stage",
    type=click.Choice([stage.value for stage in Stage]),
    help="Ask as this stage does, and say what the answer means to it; by default save for a POST, else validate.",
)
@click.option("--content-type", default="application/x-www-form-urlencoded", show_default=True, help="Of the body.")
@click.option(
    "--fastcgi", metavar="ADDRESS", callback=_upstream_address, required=True, help="unix:/PATH or HOST:PORT."
)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True, help="To wait.")
def call(
    script: str,
    fields: tuple[str, ...],
    post: BufferedIOBase | None,
    mail: BufferedIOBase | None,
    body: str,
    line_ends: str,
    stage: str | None,
    content_type: str,
    fastcgi: UpstreamAddress,
    seconds: float,
) -> None:
    """Make one FastCGI request by hand: SCRIPT is its absolute path as the FastCGI server sees it.

    The fields go into the query string, with --stage auth and no --post into a form; with --stage, those that are not
    given are as a local client would bring them about. With --mail they are helo, mail_from, remote_ip and, as often
    as there are recipients, rcpt_to. Status, headers and body go to standard output; the script's STDERR, the time it
    took, and what the server would make of the answer to standard error. Exit code 0 for a status of 2xx, 1 for
    another one or no answer.
    """
    pairs = _fields(fields)
    if not script.startswith("/") or "\0" in script:
        raise click.UsageError("SCRIPT is an absolute path.")
    if math.isnan(seconds):  # which no range of click's keeps out
        raise click.UsageError("--seconds is a number.")
    if mail is not None:
        if post is not None or stage not in (None, Stage.SAVE.value):
            raise click.UsageError("--mail is a POST of its own, to the save script.")
        if odd := [name for name, _ in pairs if name not in MAIL_FIELDS]:
            raise click.UsageError(f"{odd[0]!r} is what the mail says; beside it there are {', '.join(MAIL_FIELDS)}.")
        sys.exit(trio.run(_call_with_mail, fastcgi, script, mail, pairs, BodyKind(body), BodyLines(line_ends), seconds))
    if stage is not None and post is None:
        pairs = stage_fields(Stage(stage), pairs, hostname=default_hostname())
    pairs = [(quote_plus(name, errors="surrogateescape"), value) for name, value in pairs]
    with ExitStack() as stack:
        if stage == Stage.AUTH.value and post is None:
            post, pairs = stack.enter_context(form_file(pairs)), []
        posted = None if post is None else stack.enter_context(of_known_length(post))
        judged_as = Stage(stage or (Stage.VALIDATE if post is None else Stage.SAVE).value)
        asked = asked_by_hand(
            script, pairs, posted, stage=judged_as, hostname=default_hostname(), content_type=content_type
        )
        sys.exit(trio.run(partial(call_script, fastcgi, asked, seconds=seconds)))


def _fields(given: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for field in given:
        name, equals, value = field.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{field!r} is not NAME=VALUE.")
        pairs.append((name, value))
    return pairs


async def _call_with_mail(
    fastcgi: UpstreamAddress,
    script: str,
    mail: BufferedIOBase,
    given: list[tuple[str, str]],
    kind: BodyKind,
    lines: BodyLines,
    seconds: float,
) -> int:
    async with mail_asked(script, mail, given, kind, lines, hostname=default_hostname()) as asked:
        return await call_script(fastcgi, asked, seconds=seconds)


@cli.command()
@click.option("-v", "--verbose", is_flag=True, help="And those of what we run on.")
def version(verbose: bool) -> None:
    """Print the version."""
    with writing_output():
        click.echo(f"trio_fcgimail {__version__}")
        if verbose:
            click.echo(f"Python {platform.python_version()}, Trio {trio.__version__}, {ssl.OPENSSL_VERSION}")
