"""A line to a server on this machine that is as slow as a long one: a relay of TCP connections that hands bytes on later.

Each direction of each connection takes half of the round-trip time, and holds as much at once as Linux lets a connection
have on its way by default (`tcp_wmem` is 4 MiB at most): so one connection carries 4 MiB a round trip, and several carry
more. Starting slowly, as TCP does, is left out. A relay may break connections, too. It counts requests by the lines that
begin them.
"""

import asyncio
import random
from collections import deque

from proxy import READ_BYTES, Proxy

ON_ITS_WAY_BYTES = 4 << 20
METHODS = (b"GET /", b"PUT /", b"HEAD /", b"POST /", b"DELETE /")


class Relay(Proxy):
    """Forwards to `upstream`; a context manager. What it does may be changed while it runs."""

    def __init__(self, upstream: str, round_trip_ms: float = 0, broken_after_mib: float = 0):
        super().__init__(upstream)
        self.round_trip_ms = round_trip_ms
        # A connection is broken after so many MiB, on average; 0: never.
        self.broken_after_mib = broken_after_mib
        self.requests = self.broken = 0
        self.generator = random.Random(1)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = (self.upstream.hostname, self.upstream.port)
        try:
            their_reader, their_writer = await asyncio.open_connection(*address, limit=READ_BYTES)
        except OSError:
            writer.close()
            return
        ways = (self.carry(reader, their_writer, counts=True), self.carry(their_reader, writer, counts=False))
        await asyncio.gather(*ways, return_exceptions=True)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counts: bool) -> None:
        """One direction: what is read is queued with the moment at which it arrives."""
        queue: deque[tuple[float, bytes]] = deque()
        changed, room = asyncio.Event(), asyncio.Event()
        on_its_way, left = 0, self.lifetime_bytes()

        async def deliver() -> None:
            try:
                await deliver_all()
            finally:
                room.set()

        async def deliver_all() -> None:
            nonlocal on_its_way
            while True:
                while not queue:
                    changed.clear()
                    await changed.wait()
                arrives, piece = queue[0]
                await asyncio.sleep(max(0.0, arrives - self.loop.time()))
                queue.popleft()
                if not piece:
                    writer.close()
                    return
                writer.write(piece)
                await writer.drain()
                on_its_way -= len(piece)
                room.set()

        delivery = asyncio.ensure_future(deliver())
        while not delivery.done():
            piece = await reader.read(READ_BYTES)
            self.requests += counts and piece.startswith(METHODS)
            left -= len(piece)
            if left < 0:
                self.broken += 1
                writer.transport.abort()
                delivery.cancel()
                return
            on_its_way += len(piece)
            queue.append((self.loop.time() + self.round_trip_ms / 2000, piece))
            changed.set()
            if not piece:
                await delivery
                return
            while on_its_way >= ON_ITS_WAY_BYTES and not delivery.done():
                room.clear()
                await room.wait()

    def lifetime_bytes(self) -> float:
        if not self.broken_after_mib:
            return float("inf")
        return self.generator.expovariate(1 / (self.broken_after_mib * (1 << 20)))
