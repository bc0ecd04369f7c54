"""Accepting connections: all that have come, whatever becomes of one of them."""

import errno
import socket

import pytest
import trio
import trio.testing

from trio_fcgimail.server.listeners import accept_on

pytestmark = pytest.mark.trio

SECONDS = 10
Accepted = tuple[socket.socket, object]


async def _listen() -> tuple[trio.SocketListener, tuple[str, int]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listener.socket.getsockname()
    return listener, (host, port)


async def test_all_who_came_at_once_are_served(nursery: trio.Nursery) -> None:
    listener, address = await _listen()
    clients = [socket.create_connection(address) for _ in range(30)]
    served: list[trio.SocketStream] = []
    all_served = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        served.append(stream)
        if len(served) == len(clients):
            all_served.set()

    nursery.start_soon(accept_on, listener, serve, nursery)
    with trio.fail_after(SECONDS):
        await all_served.wait()
    ports = [stream.socket.getpeername()[1] for stream in served]
    assert sorted(ports) == sorted(client.getsockname()[1] for client in clients)
    for client in clients:
        client.close()
    for stream in served:
        stream.socket.close()


async def test_others_may_be_quicker(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    listener, address = await _listen()
    served: list[trio.SocketStream] = []

    async def serve(stream: trio.SocketStream) -> None:
        served.append(stream)

    def patience() -> float:
        return SECONDS if len(served) < 2 else 0

    nursery.start_soon(accept_on, listener, serve, nursery, patience)
    with socket.create_connection(address), socket.socket(fileno=listener.socket.fileno()) as other:
        await trio.sleep(SECONDS / 2)
        await trio.testing.wait_all_tasks_blocked()
        assert not served
        other.accept()[0].close()
        other.detach()
        await trio.sleep(SECONDS)
        assert not served
    with socket.create_connection(address), socket.create_connection(address):
        await trio.sleep(SECONDS + 1)
        assert len(served) == 2  # nobody else was there
    with socket.create_connection(address):
        with trio.fail_after(SECONDS / 2):
            while len(served) < 3:
                await trio.testing.wait_all_tasks_blocked()
        for stream in served:
            stream.socket.close()


async def test_nobody_is_patient_when_many_come(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    listener, address = await _listen()
    clients = [socket.create_connection(address) for _ in range(30)]
    served: list[trio.SocketStream] = []

    async def serve(stream: trio.SocketStream) -> None:
        served.append(stream)

    nursery.start_soon(accept_on, listener, serve, nursery, lambda: SECONDS)
    await trio.sleep(1.5 * SECONDS)
    assert len(served) == len(clients)
    for client in clients:
        client.close()
    for stream in served:
        stream.socket.close()


async def test_a_listener_that_is_closed_meanwhile_is_left_alone(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    listener, address = await _listen()

    async def serve(stream: trio.SocketStream) -> None:
        pytest.fail(f"{stream} came by a socket that is closed")

    async def close() -> None:
        await trio.sleep(SECONDS / 2)
        listener.socket.close()

    nursery.start_soon(close)
    with socket.create_connection(address), pytest.raises(trio.ClosedResourceError):
        await accept_on(listener, serve, nursery, lambda: SECONDS)


def _fail_first(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    accept = socket.socket.accept
    left = [OSError(number, "as the kernel says")]

    def accept_later(self: socket.socket) -> Accepted:
        if left:
            raise left.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", accept_later)


# What accept(2) of Linux says may come of a connection, and nothing of it is the listener's.
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(getattr(errno, name), id=name)
        for name in (
            *("ENETDOWN", "EPROTO", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH"),
            *("ENOSR", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "ETIMEDOUT", "ECONNABORTED", "ECONNRESET", "EPERM"),
        )
        if hasattr(errno, name)
    ],
)
async def test_one_that_broke_before_it_was_accepted_harms_no_other(
    number: int, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, address = await _listen()
    _fail_first(monkeypatch, number)
    was_served = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        stream.socket.close()
        was_served.set()

    nursery.start_soon(accept_on, listener, serve, nursery)
    with socket.create_connection(address), trio.fail_after(SECONDS):
        await was_served.wait()


async def test_a_fault_of_the_listener_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    listener, address = await _listen()
    _fail_first(monkeypatch, errno.EINVAL)

    async def serve(stream: trio.SocketStream) -> None:
        raise AssertionError("nobody was accepted")

    with socket.create_connection(address), trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            with pytest.raises(OSError, match="as the kernel says"):
                await accept_on(listener, serve, nursery)
    assert listener.socket.fileno() == -1


async def test_cancelled_it_closes_the_listener_and_nothing_else(nursery: trio.Nursery) -> None:
    listener, address = await _listen()
    descriptor = listener.socket.fileno()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(accept_on, listener, trio.aclose_forcefully, nursery)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert listener.socket.fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with socket.socket() as another:  # takes the number that has become free: nobody closes it a second time
        assert another.fileno() == descriptor
