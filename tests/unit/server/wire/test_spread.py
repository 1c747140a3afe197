"""The workers with the fewest connections get the new ones. Here, all are in one process, with a clock of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import selectors
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from kes_core.server.metrics import Metrics
from kes_core.server.wire import spread
from kes_core.server.wire.accepting import BACKOFF, BURST, BURST_MARGIN, MAX_STEPS, STEP, Acceptor
from kes_core.server.wire.listener import HypercornRuntime
from kes_core.server.wire.spread import Spread
from kes_core.tls import ServerTLS
from tests.helpers.wire import Recorder

CONTEXT = SSL.Context(SSL.TLS_SERVER_METHOD)
ABSENT = 2**32 - 1
TICK = STEP / 20


class ClockSelector(selectors.EpollSelector):
    """Does not wait, but advances the clock: a test takes no time, and a busy machine does not disturb it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            self.now += timeout or 0.0
        return events


class ClockLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = ClockSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


class Workers:
    """Workers that serve on one socket, and their clients."""

    def __init__(self, listener: socket.socket, numbers: int, count: int, serving: int) -> None:
        self.listener = listener
        self.numbers_file = numbers
        self.spreads = [Spread(numbers, number + 1) for number in range(count)]
        self.runtimes = []
        for own in self.spreads[:serving]:
            runtime = HypercornRuntime(Recorder(), lambda: ServerTLS(CONTEXT, verifies_clients=False), Metrics())
            runtime.spread = own
            self.runtimes.append(runtime)
        self.clients: list[socket.socket] = []

    def numbers(self) -> list[int]:
        """Return the shared numbers."""
        size = 4 * len(self.spreads)
        return list(struct.unpack(f"={len(self.spreads)}I", os.pread(self.numbers_file, size, 0)))

    def connect(self) -> None:
        self.clients.append(socket.create_connection(self.listener.getsockname()))
        assert select.select([self.listener], [], [], 60)[0]  # before the clock goes on

    async def reach(self, condition: Callable[[], bool]) -> float:
        """Wait until `condition` is true; return how long it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition():
            await asyncio.sleep(TICK)
            assert loop.time() - began < 1, self.numbers()
        return loop.time() - began

    async def settle(self) -> None:
        """Wait until all workers are awake again, and no burst goes on."""
        await asyncio.sleep(BURST + MAX_STEPS * STEP)

    async def accepted(self, number: int) -> float:
        """Wait until the serving workers have `number` open connections; return how long it took."""
        return await self.reach(lambda: sum(self.numbers()[: len(self.runtimes)]) == number)


def run(test: Callable[[Workers], Awaitable[None]], count: int, serving: int | None = None) -> None:
    """Run a test with `count` workers, of which the last ones do not serve."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            numbers = spread.create(count)
            workers = Workers(listener, numbers, count, count if serving is None else serving)
            try:
                for runtime in workers.runtimes:
                    await runtime.start([listener.dup()])
                await test(workers)
            finally:
                for runtime in workers.runtimes:
                    await runtime.stop(grace=0)
                await asyncio.sleep(TICK)  # in which the transports close
                for client in workers.clients:
                    client.close()
                os.close(numbers)

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(main())


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.lists(st.integers(-20, 3), max_size=40))
def test_each_connection_goes_to_a_worker_that_has_the_fewest(count: int, events: Sequence[int]) -> None:
    """Also while others close. From 0, an event closes a connection: that number from the end."""

    async def test(workers: Workers) -> None:
        for event in events:
            before = workers.numbers()
            if event < 0 or not workers.clients:
                workers.connect()
                await workers.accepted(len(workers.clients))
                (chosen,) = [own for own, now in zip(before, workers.numbers(), strict=True) if own != now]
                assert chosen == min(before)
            else:
                workers.clients.pop(-1 - event % len(workers.clients)).close()
                await workers.accepted(len(workers.clients))
            await workers.settle()

    run(test, count)


@pytest.mark.parametrize("count", [2, 3])
def test_a_burst_is_spread(count: int) -> None:
    """Less strictly, and the connections after it make up for that."""

    async def test(workers: Workers) -> None:
        for _ in range(64):
            workers.connect()
        await workers.accepted(64)
        assert max(workers.numbers()) - min(workers.numbers()) <= BURST_MARGIN + 1
        for number in range(65, 65 + count * (BURST_MARGIN + 1)):
            await workers.settle()
            workers.connect()
            await workers.accepted(number)
        assert max(workers.numbers()) - min(workers.numbers()) <= 1

    run(test, count)


def test_a_worker_with_more_than_one_that_hangs_takes_all_after_a_moment() -> None:
    """A connection waits for one step, and a burst not much longer."""

    async def test(workers: Workers) -> None:
        workers.spreads[1].accepts(True)  # but it does not
        for number in range(1, 4):
            workers.connect()
            waited = await workers.accepted(number)
            assert waited < (0 if number == 1 else STEP) + 2 * TICK
            await workers.settle()
        for _ in range(100):
            workers.connect()
        assert await workers.accepted(103) < 20 * STEP

    run(test, 2, serving=1)


def test_others_share_what_one_that_hangs_does_not_take() -> None:
    async def test(workers: Workers) -> None:
        workers.spreads[2].accepts(True)
        for number in range(1, 21):
            workers.connect()
            await workers.accepted(number)
            await workers.settle()
        assert workers.numbers() == [10, 10, 0]

    run(test, 3, serving=2)


def test_however_many_hang_a_connection_waits_no_longer_than_for_a_few() -> None:
    async def test(workers: Workers) -> None:
        for own in workers.spreads[1:]:
            own.accepts(True)
        workers.connect()
        await workers.accepted(1)
        await workers.settle()
        workers.connect()
        assert MAX_STEPS * STEP <= await workers.accepted(2) < MAX_STEPS * STEP + 2 * TICK

    run(test, 100, serving=1)


def test_nobody_waits_for_one_that_has_died_or_stops() -> None:
    async def test(workers: Workers) -> None:
        workers.spreads[2].accepts(True)
        spread.clear(workers.numbers_file, 3)
        for number in range(1, 7):
            workers.connect()
            assert await workers.accepted(number) < 2 * TICK
            await workers.settle()
        await workers.runtimes.pop().stop(grace=0)
        assert workers.numbers() == [3, ABSENT, ABSENT]
        for number in range(4, 7):
            workers.connect()
            assert await workers.accepted(number) < 2 * TICK

    run(test, 3, serving=2)


def test_one_that_replaces_another_gets_what_comes_until_it_has_as_many() -> None:
    async def test(workers: Workers) -> None:
        for number in range(1, 11):
            workers.connect()
            await workers.accepted(number)
        late = workers.runtimes[0]
        replaced = HypercornRuntime(late.app, lambda: ServerTLS(CONTEXT, verifies_clients=False), Metrics())
        replaced.spread = workers.spreads[1]
        await replaced.start([workers.listener.dup()])
        workers.runtimes.append(replaced)
        for number in range(11, 21):
            workers.connect()
            assert await workers.accepted(number) < 2 * TICK
        await workers.settle()
        assert workers.numbers() == [10, 10]

    run(test, 2, serving=1)


def test_one_that_can_not_accept_is_left_nothing(tmp_path: object) -> None:  # noqa: ARG001
    """Such as for lack of descriptors. Afterwards, it takes part again."""

    async def test(workers: Workers) -> None:
        with socket.socket() as unusable:
            unusable.bind(("127.0.0.1", 0))
            failures: list[OSError] = []
            own = workers.spreads[1]
            acceptor = Acceptor(unusable, lambda: pytest.fail("nobody connects"), failures.append, own)
            await workers.reach(lambda: bool(failures))
            assert workers.numbers() == [0, ABSENT]
            for number in range(1, 4):
                workers.connect()
                assert await workers.accepted(number) < 2 * TICK
                await workers.settle()
            unusable.listen()
            assert await workers.reach(lambda: workers.numbers() == [3, 0]) <= BACKOFF
            await acceptor.close()

    run(test, 2, serving=1)


def test_rejected_connections_do_not_count() -> None:
    async def test(workers: Workers) -> None:
        gate = workers.runtimes[0]._gate
        gate.max_connections, gate.max_handshakes = 2, 2
        for number in (1, 2):
            workers.connect()
            await workers.accepted(number)
        # Each takes the place of one that has sent nothing.
        for _ in range(4):
            workers.connect()
            loop = asyncio.get_running_loop()
            client = workers.clients[-3]
            client.setblocking(False)
            with contextlib.suppress(ConnectionResetError):
                assert await loop.sock_recv(client, 1) == b""
        assert workers.numbers() == [2]

    run(test, 1)
