"""Stands in for a server of OpenAI's protocol with a process below it: ``PORT FOLDER``. Writes both processes' ids to the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, FOLDER = int(sys.argv[1]), Path(sys.argv[2])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._say(json.dumps({"data": [{"id": "m", "max_model_len": 512}]}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        choice = {"text": str(os.getpid()), "finish_reason": "stop"}
        self._say(f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n")

    def _say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
(FOLDER / f"{os.getpid()}.json").write_text(json.dumps([os.getpid(), below.pid]))
if (FOLDER / "broken").exists():
    sys.exit(7)
server.serve_forever()
