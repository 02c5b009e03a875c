"""An HTTP proxy on the loopback device that does to requests what bad networks and servers do."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>'
)
NOT_FORWARDED = {"connection", "transfer-encoding", "keep-alive"}


class FaultProxy:
    """Forwards to `upstream`; a context manager. Faults may be changed while it runs."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        # Seconds before each request is passed on.
        self.latency = 0.0
        # Every so manieth request is answered with 503; 0: none.
        self.refuse_every = 0
        # Connections are closed without an answer.
        self.down = False
        self.requests = 0
        self.refused = 0
        self.lock = threading.Lock()
        proxy = self

        class Handler(RequestHandler):
            owner = proxy

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "FaultProxy":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def is_refused(self) -> bool:
        """Counts a request, and says whether it is one that is refused."""
        with self.lock:
            self.requests += 1
            refused = self.down or (self.refuse_every > 0 and self.requests % self.refuse_every == 0)
            self.refused += refused
        return refused


class RequestHandler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        refused = self.owner.is_refused()
        if self.owner.down:
            self.close_connection = True
            return
        time.sleep(self.owner.latency)
        if refused:
            self.answer(503, "Slow Down", [("Content-Type", "application/xml")], SLOW_DOWN)
        else:
            self.forward(body)

    def forward(self, body: bytes) -> None:
        # The signature covers Host, so all headers are passed on as they came.
        upstream = http.client.HTTPConnection(self.owner.upstream.hostname, self.owner.upstream.port, timeout=120)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            reply = upstream.getresponse()
            self.answer(reply.status, reply.reason, reply.getheaders(), reply.read())
        except OSError:
            self.close_connection = True
        finally:
            upstream.close()

    def answer(self, status: int, reason: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status, reason)
        named = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in NOT_FORWARDED:
                self.send_header(name, value)
        if "content-length" not in named and status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any
