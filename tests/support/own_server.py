"""A server of one's own that speaks OpenAI's format: it lists a model, and answers every prompt with the same words."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

MODEL = "our-model"
SAYS = "A book of accounts."


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": SAYS}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
        self._answer({"id": "1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})

    def _answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200 if self.path.startswith("/v1/") else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def own_server() -> Generator[str]:
    """Its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
