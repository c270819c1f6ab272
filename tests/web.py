"""A web server on the loopback whose pages a test sets, and whose requests it can read."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    part_headers: dict[str, str] = field(default_factory=dict)  # only of an answer to a range
    etag: str | None = '"one"'
    ranges: bool = True
    trusting: bool = False  # answers a range without looking at If-Range
    cut: int | None = None  # bytes after which the connection ends
    length: bool = True
    chunked: bool = False
    stall: threading.Event | None = None


class Web:
    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0


@contextmanager
def serving() -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            web.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            page = web.pages.get(self.path, Page(b"no such page", 404))
            if page.stall is not None:
                page.stall.wait(10)
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            unchanged = page.trusting or self.headers.get("If-Range") in (None, page.etag)
            start = int(asked[1]) if asked and page.ranges and unchanged and page.status == 200 else 0
            status = 416 if start and start >= len(page.body) else 206 if start else page.status
            headers = {"ETag": page.etag, "Content-Type": "application/octet-stream", **page.headers}
            body = b"" if status == 416 else page.body[start:]
            if page.chunked:
                headers["Transfer-Encoding"] = "chunked"
            elif page.length:
                headers.setdefault("Content-Length", str(len(body)))
            if status == 206:
                headers |= page.part_headers
                headers.setdefault("Content-Range", f"bytes {start}-{len(page.body) - 1}/{len(page.body)}")
            self.send_response(status)
            for name, value in headers.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            body = body[: page.cut]
            web.sent += len(body)
            try:
                if page.chunked:
                    for part in (body[:1000], body[1000:]):
                        self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                    self.wfile.write(b"0\r\n\r\n" if page.cut is None else b"")
                else:
                    self.wfile.write(body)
            except ConnectionError:
                pass  # the client went away, as some tests make it do

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web = Web(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
