"""The server of a test, in a process of its own: ``python serve.py URL MEDIA``. Prints its address when it answers."""

import sys
from pathlib import Path

from keel.feedback.db import Store
from keel.site.listening import listen
from keel.web.server import serve
from keel.web.settings import WebSettings

if __name__ == "__main__":
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    with Store(sys.argv[1]) as store:
        serve(store, WebSettings(media=Path(sys.argv[2]), port=port), listening)
