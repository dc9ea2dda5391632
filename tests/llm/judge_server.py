"""A local stand-in for an OpenAI-compatible endpoint, whose replies are a function of what is judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class JudgeServer(ThreadingHTTPServer):
    """url: to give to the judge. asked: bodies of the calls so far. failures: statuses that the next calls get, in
    place of a reply; 0 closes the connection. served: the model that answers are said to be of."""

    daemon_threads = True

    def __init__(self, reply: Callable[[dict[str, Any]], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.served = "m"
        self.reply, self.asked, self.failures = reply, list[dict[str, Any]](), list[int]()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that no longer listens is part of a test."""


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        status = self.server.failures.pop(0) if self.server.failures else 200
        if status == 0:
            self.close_connection = True
            return
        if status != 200:
            self._send(status, {"error": {"message": "not now"}})
            return
        message = {"role": "assistant", "content": self.server.reply(json.loads(body["messages"][1]["content"]))}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        served = self.server.served
        self._send(200, {"id": "1", "object": "chat.completion", "created": 0, "model": served, "choices": [choice]})

    def _send(self, status: int, found: dict[str, Any]) -> None:
        content = json.dumps(found).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
            ("retry-after-ms", "1"),  # the client waits so long, not the half second that it begins with
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


def shorter_is_better(judged: dict[str, Any]) -> str:
    """A judge that prefers the shorter answer, and takes 1 off for each character of one alone."""
    if "answer" in judged:
        return str(max(0, 10 - len(judged["answer"])))
    first, second = len(judged["answer_1"]), len(judged["answer_2"])
    return "1" if first < second else "2" if second < first else "0"


@contextmanager
def serving(reply: Callable[[dict[str, Any]], str] = shorter_is_better) -> Iterator[JudgeServer]:
    """A server that runs in a thread of its own."""
    with JudgeServer(reply) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
