"""Drive the ``check`` of one fuzz target with atheris: ``python fuzz/run.py TARGET [libFuzzer arguments]``.

The committed corpus and the dictionary of the target are used; what the fuzzer finds goes to a folder of its own in
the system's temporary folder, so that the corpus changes by hand only.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent

# The dictionary of a target; SMTP and FastCGI have several targets for one wire format.
_DICTIONARIES: Final = {
    "address": "address.dict",
    "data_reader": "smtp.dict",
    "proxy_header": "proxy.dict",
    "smtp_server": "smtp.dict",
}
_DEFAULT_DICTIONARY: Final = "fastcgi.dict"


def targets() -> list[str]:
    """The names of all targets."""
    return sorted(path.stem for path in (HERE / "targets").glob("*.py") if path.stem != "__init__")


def work_folder(target: str) -> Path:
    """Where the fuzzer keeps what it finds of a target."""
    return Path(tempfile.gettempdir()) / f"fcgimail-fuzz-{target}"


def libfuzzer_arguments(target: str, work: Path) -> list[str]:
    """What libFuzzer needs to know of a target: its dictionary, where to write, where to read."""
    dictionary = HERE / "dictionaries" / _DICTIONARIES.get(target, _DEFAULT_DICTIONARY)
    return [
        f"-artifact_prefix={work}/",
        *([f"-dict={dictionary}"] if dictionary.is_file() else []),
        str(work),
        str(HERE / "corpus" / target),
    ]


def main(arguments: Sequence[str]) -> int:
    """Fuzz until stopped. Returns 2 for wrong usage or when atheris is missing; else libFuzzer ends the process."""
    if not arguments or arguments[0] not in targets():
        usage = "usage: python fuzz/run.py TARGET [libFuzzer arguments]; the targets: "
        print(usage + ", ".join(targets()), file=sys.stderr)
        return 2
    try:
        import atheris  # noqa: PLC0415 - an optional tool, of the extra "fuzz"
    except ImportError:
        print("atheris is not installed: pip install 'trio_fcgimail[fuzz]'", file=sys.stderr)
        return 2
    target, *more = arguments
    sys.path.insert(0, str(HERE.parent))
    with atheris.instrument_imports():
        module = importlib.import_module(f"fuzz.targets.{target}")
    work = work_folder(target)
    work.mkdir(exist_ok=True)
    atheris.Setup([sys.argv[0], *more, *libfuzzer_arguments(target, work)], module.check)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
