"""A site for tests: an app over a fresh store, and people who call it as their pages would."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from keel.feedback import members
from keel.feedback.db import Store
from keel.types import Answer, Candidate, Choice, ImagePart, Message, Prompt, Task, TextPart

ADDRESS = "http://127.0.0.1:8766"
PASSWORD = "correct horse"
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
FIRST = {"type": "choice", "chosen": "first"}


@dataclass
class Person:
    """Somebody at a browser."""

    client: TestClient
    name: str
    csrf: str = ""
    sent: int = field(default=0)

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, **more)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.client.post(path, json=body, headers={"x-csrf": self.csrf, **headers})

    def items(self, n: int = 5, campaign: str = "shop") -> dict[str, Any]:
        answer = self.get(f"/api/campaigns/{campaign}/items?n={n}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def event(self, handle: str, answer: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """A judgement with an event id of its own."""
        self.sent += 1
        return {"event_id": f"{self.name.encode().hex()[:20]}-{self.sent:06d}", "handle": handle, "answer": answer or FIRST, **more}

    def vote(self, handle: str, answer: dict[str, Any] | None = None, **more: Any) -> Any:
        return self.post("/api/judgements", self.event(handle, answer, **more))


@dataclass
class Site:
    """An app, its store, its clock of the limits."""

    app: FastAPI
    store: Store
    now: list[float]

    def client(self) -> TestClient:
        return TestClient(self.app, ADDRESS, raise_server_exceptions=False)

    def person(self, name: str = "ann", role: Any = "annotator", campaign: str = "shop") -> Person:
        """A person with an account, who is signed in."""
        self.store.add_account(name, PASSWORD, role)
        if role == "annotator":
            self.store.write(lambda c: members.member_state(c, name, campaign)).result()
        return self.enter(name)

    def enter(self, name: str) -> Person:
        client = self.client()
        answer = client.post("/api/login", json={"name": name, "password": PASSWORD}, headers={"x-csrf": "page"})
        assert answer.status_code == 200, answer.text
        return Person(client, name, answer.json()["csrf"])


def make_task(i: int, kind: str = "pairwise", count: int = 2, expected: Answer | None = None, **meta: Any) -> Task:
    """The i-th task, full of things that no annotator may see."""
    prompt = Prompt(f"secret-p{i}", (Message("user", f"Question {i}?"),), source_id="secret.jsonl:7", meta={"truth": "secret-truth"})
    names = "abcdefgh"[:count]
    shown = tuple(Candidate(f"secret-{x}{i}", f"Answer {x} to {i}", {"model": "secret-model"}) for x in names)
    return Task(f"secret-t{i}", prompt, shown, kind, f"{kind}-v1", expected=expected, meta={"from": "secret-file", **meta})  # type: ignore[arg-type]


def with_picture(i: int, source: str) -> Task:
    """A task about a picture."""
    prompt = Prompt(f"p{i}", (Message("user", (ImagePart(source), TextPart("What is it?"))),))
    return Task(f"pic{i}", prompt, (Candidate("a", "A dot"), Candidate("b", "Two dots")), "pairwise", "pairwise-v1")


def right(task_id: str = "first") -> Choice:
    return Choice(task_id)  # type: ignore[arg-type]
