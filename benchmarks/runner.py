"""The order of measurements: rounds, in each of them every peer in its turn, so that a slow minute hits them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, final

from benchmarks.outcome import BenchmarkError, Outcome, Sample
from benchmarks.peers import Peer, Place
from benchmarks.peers.peer import Certificate
from benchmarks.phpfpm import Php, php_fpm
from benchmarks.processes import open_folder, raise_descriptor_limit
from benchmarks.scenarios import Scenario

_CERTIFICATE_FOR: Final = "localhost"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One step of a run."""

    scenario: Scenario
    peer: Peer
    round: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A measurement that could not be made."""

    measurement: Measurement
    problem: str


Watch = Callable[[Measurement], None]


def plan(scenarios: Sequence[Scenario], peers: Sequence[Peer], rounds: int) -> list[Measurement]:
    """All steps in their order: a scenario's rounds follow each other, and in every round another peer begins."""
    steps = []
    for scenario in scenarios:
        suited = [peer for peer in peers if peer.suits(scenario)]
        for number in range(rounds):
            first = number % max(1, len(suited))
            turn = [*suited[first:], *suited[:first]]
            steps += [Measurement(scenario=scenario, peer=peer, round=number) for peer in turn]
    return steps


def run(steps: Sequence[Measurement], seconds: float, watch: Watch) -> tuple[list[Sample], list[Failure]]:
    """Take every step; what cannot be measured twice in a row is told, and left out of that scenario from then on.

    Raises:
        BenchmarkError: there is no php-fpm.
    """
    samples: list[Sample] = []
    failures: dict[tuple[str, str], Failure] = {}
    raise_descriptor_limit()
    with open_folder() as folder, _php(folder) as php:
        certificate = _certificate(folder)
        with suppress(KeyboardInterrupt):  # what was measured until then is shown
            for step in steps:
                watch(step)
                key = (step.scenario.name, step.peer.name)
                if key in failures:
                    continue
                try:
                    outcome = _measure_patiently(step, php, certificate, seconds)
                except BenchmarkError as exc:
                    failures[key] = Failure(measurement=step, problem=str(exc))
                else:
                    samples.append(Sample(scenario=key[0], peer=key[1], round=step.round, outcome=outcome))
    return samples, list(failures.values())


def _measure_patiently(step: Measurement, php: Php, certificate: Certificate | None, seconds: float) -> Outcome:
    """Try once more when it fails: in an hour on a busy machine something always does, and not for its own fault."""
    with suppress(BenchmarkError):
        return _measure(step, php, certificate, seconds)
    return _measure(step, php, certificate, seconds)


def _measure(step: Measurement, php: Php, certificate: Certificate | None, seconds: float) -> Outcome:
    with open_folder() as place:
        return step.peer.measure(step.scenario, Place(place, php, certificate), seconds)


@contextmanager
def _php(folder: Path) -> Iterator[Php]:
    place = folder / "php"
    place.mkdir(mode=0o755)
    with php_fpm(place) as php:
        yield php


def _certificate(folder: Path) -> Certificate | None:
    if find_spec("trustme") is None:
        return None
    from trustme import CA  # noqa: PLC0415 - only some scenarios need it, and it need not be installed

    issued = CA().issue_cert(_CERTIFICATE_FOR)
    certificate = Certificate(folder / "chain.pem", folder / "key.pem")
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(certificate.chain), append=number > 0)
    issued.private_key_pem.write_to_path(str(certificate.key))
    return certificate
