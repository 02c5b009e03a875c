"""A server that lets only so many requests a second through: a proxy that answers the others with 503 SlowDown.

It lets a request through where a bucket of tokens has one, which is filled so many times a second and holds as many as come in a second.
What is refused is read to its end and does not reach the server. It counts both kinds, and when each came.
"""

import asyncio
import time

from proxy import READ_BYTES, Proxy

BODY = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>reduce your request rate</Message></Error>'
REFUSAL = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: " + str(len(BODY)).encode() + b"\r\n\r\n"
)


class BusyServer(Proxy):
    """In front of `upstream`; a context manager. `per_second` may be changed while it runs; 0 lets everything through."""

    def __init__(self, upstream: str, per_second: float = 0):
        super().__init__(upstream)
        self.per_second = per_second
        self.tokens, self.filled_at = 1.0, time.monotonic()
        self.let_through: list[float] = []
        self.refused: list[float] = []

    def has_room(self) -> bool:
        now = time.monotonic()
        most = max(1.0, self.per_second)
        self.tokens = min(most, self.tokens + (now - self.filled_at) * self.per_second)
        self.filled_at = now
        if self.per_second and self.tokens < 1:
            self.refused.append(now)
            return False
        self.tokens -= 1
        self.let_through.append(now)
        return True

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = (self.upstream.hostname, self.upstream.port)
        try:
            their_reader, their_writer = await asyncio.open_connection(*address, limit=READ_BYTES)
        except OSError:
            writer.close()
            return
        try:
            while await self.exchange(reader, writer, their_reader, their_writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            their_writer.close()

    async def exchange(self, reader, writer, their_reader, their_writer) -> bool:
        """One request and its answer."""
        head = await reader.readuntil(b"\r\n\r\n")
        is_let_through = self.has_room()
        if not is_let_through:
            if b"expect: 100-continue" in head.lower():
                writer.write(REFUSAL + BODY)
                await writer.drain()
                return False
            await carry(reader, None, body_bytes(head))
            writer.write(REFUSAL + BODY)
            await writer.drain()
            return True
        their_writer.write(head)
        if b"expect: 100-continue" in head.lower():
            writer.write(await their_reader.readuntil(b"\r\n\r\n"))
        await carry(reader, their_writer, body_bytes(head))
        answer = await their_reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        status = int(answer.split(b" ", 2)[1])
        if head.startswith(b"HEAD ") or status in (204, 304):
            await writer.drain()
        elif b"transfer-encoding: chunked" in answer.lower():
            await carry_chunks(their_reader, writer)
        else:
            await carry(their_reader, writer, body_bytes(answer))
        return b"connection: close" not in answer.lower()


def body_bytes(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, left: int) -> None:
    while left:
        piece = await reader.read(min(left, READ_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        if writer:
            writer.write(piece)
            await writer.drain()
    if writer:
        await writer.drain()


async def carry_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        line = await reader.readuntil(b"\r\n")
        length = int(line.split(b";")[0], 16)
        writer.write(line + await reader.readexactly(length + 2))
        await writer.drain()
        if not length:
            return
