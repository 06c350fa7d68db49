"""Simulated people at the annotator's page: invitation, session, items, answers, now and then one taken back. They know what a browser
is shown and nothing else, and read it by a hidden utility with noise, as `annotators` do. No torch.

What a person says is a function of the seed, the person, what is shown and how many answers they gave; event ids follow from the items'
handles. So whoever is interrupted goes on where they stood, and nothing is stored twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

from keel.core.errors import UserError
from keel.core.hashing import digest_bytes, stable_hash
from keel.core.json_lines import lines_of
from keel.data.text import word_count
from keel.simulate import gold
from keel.simulate.annotators import Annotator, Worth, make_annotators
from keel.simulate.client import Client, RefusedError
from keel.simulate.people_config import Fault, PeopleConfig
from keel.types import Message, Prompt

_CLEAR = 0.2  # a perceived difference of this much is stated with strength 1 - 1/e
_SOLD_AFTER = 40  # answers
_DRIFT = 80  # answers after which a drifting person reads nothing any more
_START_MS = 900.0
SIDES = ("first", "second")
OTHER = {"first": "second", "second": "first", "tie": "first", "both_bad": "tie"}


@dataclass(frozen=True, slots=True)
class Said:
    """What a person answers: a place on the screen or neither, how clear, and the time at work."""

    chosen: str
    strength: float
    active_ms: int

    def row(self) -> dict[str, Any]:
        """The part of a request."""
        answer: dict[str, Any] = {"type": "choice", "chosen": self.chosen}
        return {"answer": answer, "active_ms": self.active_ms} | ({"strength": self.strength} if self.chosen in SIDES else {})


@dataclass(frozen=True, slots=True)
class Person:
    """A reader with habits, or a fault. ``seed`` decides all that is drawn."""

    reader: Annotator
    fault: Fault | None
    config: PeopleConfig
    seed: int

    @property
    def name(self) -> str:
        """The user name."""
        return self.reader.annotator_id

    def says(self, prompt: Prompt, left: str, right: str, nth: int) -> Said:
        """The answer to two texts as they stand on the screen, the person's ``nth`` (from 0)."""
        key = (self.seed, self.name, prompt.text or prompt.last_user_text, left, right)
        words = word_count(prompt.text or prompt.last_user_text) + word_count(left) + word_count(right)
        time = (_START_MS + 1000.0 * self.config.seconds_a_word * words) * math.exp(0.3 * _normal("time", *key))
        drawn = _uniform("fault", *key)
        match self.fault:
            case "always_left":
                return Said("first", 0.7, round(time))
            case "random":
                return _anything(key, time)
            case "fast":
                return _anything(key, 0.08 * time)
            case "drifting" if drawn < nth / _DRIFT:
                return _anything(key, time)
            case "sold" if nth >= _SOLD_AFTER:
                return _anything(key, 0.5 * time)
            case _:
                return self._read(prompt, left, right, key, time)

    def slips(self, handle_words: tuple[str, str]) -> bool:
        """Is this one of the answers that are given by mistake?"""
        return _uniform("slip", self.seed, self.name, *handle_words) < self.config.undo

    def _read(self, prompt: Prompt, left: str, right: str, key: tuple[Any, ...], time: float) -> Said:
        reader = self.reader
        values = [reader.value(prompt, text) for text in (left, right)]
        noise = reader.noise * _normal("noise", *key)
        if self.config.both_bad and max(values) + reader.noise * _normal("worth", *key) < self.config.both_bad:
            return Said("both_bad", 0.0, round(time))
        perceived = values[0] - values[1] + reader.position_bias + noise
        if abs(perceived) < reader.tie_threshold:
            return Said("tie", 0.0, round(time))
        return Said(SIDES[perceived < 0], round(1.0 - math.exp(-abs(perceived) / _CLEAR), 4), round(time))


def make_people(config: PeopleConfig, seed: int, worth: Worth = gold.worth) -> tuple[Person, ...]:
    """People ``sim-1`` ... ``sim-count``; the faulty ones are the last."""
    readers = make_annotators(config.readers(), seed, worth)
    return tuple(Person(reader, fault, config, seed) for reader, fault in zip(readers, config.faults(), strict=True))


@dataclass(slots=True)
class Work:
    """People at work in one campaign of a server, one after another, ``batch`` items each turn: the same order every time.

    ``slips``: a file that keeps what a person is about to correct, so that a mistake never stays because the power went. ``secret`` makes
    their passwords, ``prefix`` stands before their user names.
    """

    people: Sequence[Person]
    base: str
    invitation: str  # its token
    campaign: str
    secret: bytes
    slips: Path
    prefix: str = ""
    batch: int = 5
    make_client: Callable[[str], Client] = Client
    counts: dict[str, int] = field(default_factory=lambda: {"answers": 0, "undone": 0, "training": 0}, init=False)
    ended: dict[str, str] = field(default_factory=dict[str, str], init=False)

    def until_done(self, most: int) -> None:
        """Work until nothing is left for anybody, at most ``most`` answers. Raises UserError when that many were not enough."""
        clients = {p.name: self.make_client(self.base) for p in self.people}
        try:
            for person in self.people:
                clients[person.name].enter(self.invitation, f"{self.prefix}{person.name}", self._password(person.name))
            self._mend(clients)
            busy = list(self.people)
            while busy:
                busy = [p for p in busy if self._turn(p, clients[p.name])]
                if self.counts["answers"] > most:
                    raise UserError(f"simulated people gave {most} answers and the campaign {self.campaign} is not done", "is it growing?")
        finally:
            for client in clients.values():
                client.close()

    def _turn(self, person: Person, client: Client) -> bool:
        """Some items of one person; False when nothing is left for them."""
        given = client.items(self.campaign, self.batch)
        if given["protocol"]["kind"] != "pairwise":
            raise UserError(f"simulated people compare two answers; {self.campaign} asks for something else", "take kind pairwise")
        for i, item in enumerate(given["items"]):
            self._answer(person, client, item, given["answered"] + i)
        if not given["items"]:
            self.ended[person.name] = given.get("end", {}).get("why", "paused")
        return bool(given["items"])

    def _answer(self, person: Person, client: Client, item: Mapping[str, Any], nth: int) -> None:
        prompt = prompt_of(item)
        left, right = (answer["text"] for answer in item["answers"])
        said = person.says(prompt, left, right, nth)
        body = {"event_id": _event(item["handle"], "answer"), "handle": item["handle"], **said.row()}
        if not person.slips((left, right)):
            told = client.judge(body)
            self.counts["training" if "feedback" in told else "answers"] += 1
            return
        wrong = {**body, **Said(OTHER[said.chosen], 0.5, said.active_ms).row(), "event_id": _event(item["handle"], "slip")}
        wrong = wrong if wrong["answer"]["chosen"] in SIDES else {k: v for k, v in wrong.items() if k != "strength"}
        self._note(person.name, wrong, {**body, "replaces": wrong["event_id"]})
        self._correct(client, wrong, {**body, "replaces": wrong["event_id"]})

    def _correct(self, client: Client, wrong: Mapping[str, Any], right: Mapping[str, Any]) -> None:
        """The mistake, the item asked for again, the correction."""
        told = client.judge(wrong)
        if "feedback" in told:  # a training item: its answer was shown, nothing can be taken back
            self.counts["training"] += 1
            return
        client.undo({"event_id": right["event_id"], "replaces": wrong["event_id"]})
        client.undo(right)
        self.counts["answers"] += 1
        self.counts["undone"] += 1

    def _note(self, name: str, wrong: Mapping[str, Any], right: Mapping[str, Any]) -> None:
        with self.slips.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "wrong": wrong, "right": right}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _mend(self, clients: Mapping[str, Client]) -> None:
        """Finish the newest correction of each person, which an earlier attempt may not have; sent twice it changes nothing."""
        if not self.slips.is_file():
            return
        newest: dict[str, dict[str, Any]] = {}
        for line in lines_of(self.slips.read_text(encoding="utf-8")):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError:  # half a line: nothing of it was sent
                continue
            if row is not None:
                newest[row["name"]] = row
        for name, row in newest.items():
            client = clients.get(name)
            if client is not None:
                client.judge(row["wrong"])
                try:
                    client.judge(row["right"])
                except RefusedError as error:
                    if error.status != 409:  # a training item
                        raise

    def _password(self, name: str) -> str:
        return hashlib.blake2b(name.encode(), key=self.secret[:64], digest_size=16).hexdigest()


def prompt_of(item: Mapping[str, Any]) -> Prompt:
    """The prompt as the page shows it; these people read no pictures."""
    said = item["prompt"]
    if isinstance(said, str):
        return Prompt("", text=said)
    return Prompt("", tuple(Message(m["role"], _text(m["content"])) for m in said))


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _event(handle: str, what: str) -> str:
    return f"sim-{digest_bytes(f'{what}:{handle}'.encode())[:32]}"


def _anything(key: tuple[Any, ...], time: float) -> Said:
    drawn = _uniform("anything", *key)
    chosen = "first" if drawn < 0.45 else "second" if drawn < 0.9 else "tie"
    return Said(chosen, 0.6 if chosen in SIDES else 0.0, max(1, round(time)))


def _uniform(*parts: str | int) -> float:
    return stable_hash(*parts) / 2.0**64


def _normal(*parts: str | int) -> float:
    return NormalDist().inv_cdf(min(1.0 - 1e-12, max(1e-12, _uniform(*parts))))
