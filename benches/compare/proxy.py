"""A server of this process, in front of another one."""

import asyncio
import threading
from typing import Self
from urllib.parse import urlsplit

READ_BYTES = 256 << 10


class Proxy:
    """Takes connections for `upstream`; a context manager. What becomes of each, `connect` says."""

    def __init__(self, upstream: str):
        self.upstream = urlsplit(upstream)
        self.loop = asyncio.new_event_loop()
        self.url = ""

    def __enter__(self) -> Self:
        ready = threading.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self.connect, "127.0.0.1", 0, limit=READ_BYTES)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()

        def run() -> None:
            self.loop.create_task(serve())
            self.loop.run_forever()

        threading.Thread(target=run, daemon=True).start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        def stop() -> None:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.call_soon(self.loop.stop)

        self.loop.call_soon_threadsafe(stop)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError
