"""One attack in a process of its own: ``python -m tests.trust.hostile.attacker NAME PORT [CONNECTIONS]``.

Says ``ready`` once all connections are in position, attacks until its standard input ends, and prints what it came to.
"""

from __future__ import annotations

import sys

import trio

from benchmarks.processes import raise_descriptor_limit
from tests.trust.hostile.attacks import ATTACKS, Attack
from tests.trust.hostile.field import Field, Tally


async def attack(one: Attack, port: int, connections: int) -> Tally:
    """Attack until standard input ends."""
    tally = Tally()
    field = Field(port, tally)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(field.run, one.act, connections, one.kind)
        await field.in_position()
        print("ready", flush=True)
        await trio.lowlevel.wait_readable(sys.stdin)
        nursery.cancel_scope.cancel()
    return tally


def main(name: str, port: str, connections: str | None = None) -> None:
    """Attack, and report."""
    one = ATTACKS[name]
    raise_descriptor_limit()
    print(trio.run(attack, one, int(port), int(connections or one.connections)).to_json(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
