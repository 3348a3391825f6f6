"""A proxy before a real MLflow server that answers some requests itself, badly."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What goes wrong now.

    Attributes:
        method: Of the requests that are answered so.
        path: Part of their path.
        status: The answer; None hangs up instead.
        left: How many more requests are answered so.
        body: Of the answer.
    """

    method: str = ""
    path: str = ""
    status: int | None = 500
    left: int = 10**6
    body: bytes = b"<html>no</html>"


@contextmanager
def faulty_proxy(target: str, fault: Fault) -> Iterator[str]:
    """Run the proxy on loopback; yield its address. The fault may be changed meanwhile."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    class Proxy(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if fault.left and self.command == fault.method and fault.path in self.path:
                fault.left -= 1
                if fault.status is None:
                    self.close_connection = True
                    return
                self._answer(fault.status, "text/html", fault.body)
                return
            asked = urllib.request.Request(
                target + self.path, data=body or None, method=self.command
            )
            for name in ("Content-Type", "Authorization"):
                if name in self.headers:
                    asked.add_header(name, self.headers[name])
            try:
                with direct.open(asked, timeout=60) as got:
                    self._answer(got.status, got.headers["Content-Type"], got.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, error.headers["Content-Type"], error.read())

        def _answer(self, status: int, kind: str | None, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind or "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
