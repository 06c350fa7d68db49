"""What the browser tests share: tasks, pictures, and waiting for what is on the page."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keel.feedback import members
from keel.feedback.db import Store
from keel.types import Candidate, ImagePart, Message, Prompt, Task, TextPart

if TYPE_CHECKING:
    from playwright.sync_api import Page

PASSWORD = "correct horse battery"


@dataclass
class Site:
    """A server of annotations in a process of its own."""

    url: str
    store: Store
    campaign: str
    problems: list[str] = field(default_factory=list)
    people: dict[str, str] = field(default_factory=dict)  # name -> session token

    def votes(self, annotator: str = "ann") -> list[Any]:
        """The events of a person, in the order in which they came."""
        return list(self.store.judgements(self.campaign, annotator=annotator))


def task(i: int, kind: str = "pairwise", count: int = 2, prompt: Prompt | None = None, texts: tuple[str, ...] = (), **more: Any) -> Task:
    """The i-th task; its answers differ from those of all others."""
    shown = texts or tuple(f"Answer {k} to question {i}" for k in range(count))
    candidates = tuple(Candidate(f"c{i}-{k}", text) for k, text in enumerate(shown))
    asked = prompt or Prompt(f"p{i}", text=f"Question {i}?")
    return Task(f"task-{i:03d}", asked, candidates, kind, f"{kind}-v1", **more)  # type: ignore[arg-type]


def png(width: int = 40, height: int = 30, colour: tuple[int, int, int] = (200, 60, 60)) -> str:
    """A picture as a ``data:`` URL."""
    row = b"\0" + bytes(colour) * width

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    raw = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(row * height)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(raw).decode()


def looked_at(i: int, source: str) -> Prompt:
    """A prompt with a picture."""
    return Prompt(f"p{i}", messages=(Message("user", (ImagePart(source), TextPart(f"What is in picture {i}?"))),))


def enter(site: Site, name: str) -> str:
    """An account of an annotator who is in the campaign; returns a session's token."""
    site.store.add_account(name, PASSWORD, "annotator")
    site.store.write(lambda c: members.member_state(c, name, site.campaign)).result()
    token = site.store.sign_in(name, PASSWORD, 86400.0)
    assert token is not None
    return token


def watch(page: Page, problems: list[str]) -> None:
    """Note what goes wrong in a page: exceptions, and errors in its console other than the network's, which tests cut."""
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" and "Failed to load resource" not in m.text else None)


def ready(page: Page, handle: str = "") -> str:
    """Wait until an item (another than ``handle``) can be answered; returns its handle."""
    page.wait_for_function(
        "h => document.body.dataset.gate === 'open' && (document.querySelector('.item')?.dataset.handle ?? h) !== h",
        arg=handle,
    )
    return page.locator(".item").get_attribute("data-handle") or ""


def saved(page: Page) -> None:
    """Wait until everything is with the server."""
    page.wait_for_selector(".net[data-net=net_saved]")


def kept(page: Page) -> None:
    """Wait until the page would open without the network."""
    page.wait_for_function(
        "async () => (await navigator.serviceWorker.ready).active && navigator.serviceWorker.controller"
        " && (await (await caches.open('keel-annotate')).keys()).some(({url}) => url.endsWith('/zh.json') || url.endsWith('/en.json'))"
    )


def vote(page: Page, key: str) -> str:
    """Press a key that answers, wait for the next item; returns its handle."""
    handle = ready(page)
    page.keyboard.press(key)
    return ready(page, handle)
