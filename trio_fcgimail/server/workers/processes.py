"""Processes of ours, with a channel to each: started by exec, and never left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import trio

from trio_fcgimail.server.workers.channel import Channel, Cut

_MAX_WORD_OCTETS: Final = 65_536  # of a message of a child, which is trusted no further than the network that it reads
# The child finds modules where we found them, and nowhere else: not in the current folder.
_CODE: Final = "import sys; sys.path[:] = {path!r}; from {program} import main; main()"


async def spawn(program: str, descriptors: Sequence[int]) -> tuple[trio.Process, Channel]:
    """Start a child that has these file descriptors, and one end of a channel. Raises OSError.

    Args:
        program: a module with a function ``main``, which finds the file descriptor of its end in the first argument.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = await trio.lowlevel.open_process(
                [
                    sys.executable,
                    *(f"-W{option}" for option in sys.warnoptions),
                    "-P",
                    "-c",
                    _CODE.format(path=sys.path, program=program),
                    str(theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *descriptors],
                process_group=0,  # a signal of the terminal is for us, and we tell the children
            )
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    return process, Channel(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), _MAX_WORD_OCTETS)


async def put_away(process: trio.Process, channel: Channel, seconds: float) -> None:
    """Have no process left, even when we were cancelled: one that still lives may say goodbye to its clients."""
    with trio.CancelScope(shield=True):
        if process.returncode is None:
            with trio.move_on_after(seconds):
                await channel.send(Cut())
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()  # which is at once
        await channel.aclose()
