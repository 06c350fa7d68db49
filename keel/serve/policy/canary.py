"""How many requests go to the new model, and when none do any more. Pure but for the two files that it reads and writes.

A key is a share: its hash is a number in [0, 1), below the share it goes to the canary. So a key stays where it is, through restarts too,
and a larger share only adds keys. A rollback is for good: it takes a person to try again.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from keel.core.errors import ConfigError
from keel.core.hashing import stable_hash
from keel.serve.policy.config import CanaryConfig

log = logging.getLogger("keel")
ArmName = Literal["stable", "canary"]


def share_of(key: str, salt: str) -> float:
    """The number in [0, 1) that a key stands for: that of `keel ab assign`, for an experiment of that name."""
    return stable_hash("ab", salt, key) / 2**64


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended. ``per_token_s``: time between its tokens; None where there are not two."""

    ok: bool
    filtered: bool = False
    per_token_s: float | None = None


class Window:
    """The last requests of an arm, and the last thumbs about it."""

    def __init__(self, size: int) -> None:
        self._ended: deque[Ended] = deque(maxlen=size)
        self._size = size
        self._thumbs: dict[str, bool] = {}  # by answer, in the order of the last word on each

    def add(self, ended: Ended) -> None:
        self._ended.append(ended)

    def thumb(self, answer: str, up: bool) -> None:
        """The last word on an answer counts: one user who presses again and again is one thumb."""
        self._thumbs.pop(answer, None)
        self._thumbs[answer] = up
        if len(self._thumbs) > self._size:
            del self._thumbs[next(iter(self._thumbs))]

    def __len__(self) -> int:
        return len(self._ended)

    @property
    def thumbs(self) -> int:
        return len(self._thumbs)

    @property
    def errors(self) -> float:
        return _share([not e.ok for e in self._ended])

    @property
    def filtered(self) -> float:
        return _share([e.filtered for e in self._ended])

    @property
    def down(self) -> float:
        return _share([not up for up in self._thumbs.values()])

    @property
    def per_token_s(self) -> float | None:
        """The median; one slow request says nothing."""
        times = [e.per_token_s for e in self._ended if e.per_token_s is not None]
        return statistics.median(times) if times else None


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0


class Canary:
    """Who goes where, until there is a reason to go back."""

    def __init__(self, config: CanaryConfig, clock: Callable[[], float] = time.time) -> None:
        """Raises ConfigError for a state file that cannot be read: a rollback might be forgotten."""
        self.config, self._clock = config, clock
        self.windows: dict[ArmName, Window] = {"stable": Window(config.guards.window), "canary": Window(config.guards.window)}
        self.reason = _remembered(config)
        self.rolled_back_at: float | None = None
        self._dead_since: float | None = None
        self._out = 0  # requests that have not ended
        self._silent_since: float | None = None  # since when requests are out and it says nothing

    @property
    def active(self) -> bool:
        return not self.reason

    def arm_of(self, key: str) -> ArmName:
        """Where a key goes."""
        return "canary" if self.active and share_of(key, self.config.salt) < self.config.share else "stable"

    def shadowed(self, key: str) -> bool:
        """Is a request of the stable arm also given to the canary? By another hash: not the same keys first."""
        return self.active and share_of(key, self.config.salt + "/shadow") < self.config.shadow

    def sent(self) -> None:
        """A request went to the canary; `left` follows, whatever becomes of it."""
        self._out += 1
        if self._silent_since is None:
            self._silent_since = self._clock()

    def left(self) -> None:
        """One of them is over."""
        self._out -= 1
        if self._out == 0:
            self._silent_since = None

    def heard(self) -> None:
        """The canary said something."""
        self._silent_since = self._clock() if self._out else None

    def ended(self, arm: ArmName, ended: Ended) -> None:
        """How a request of an arm ended."""
        self.windows[arm].add(ended)
        if arm == "canary":
            self.heard()

    def judge(self, alive: bool = True) -> str:
        """Roll back where something is wrong; returns the reason, empty where it goes on. To be called every second or so. ``alive``: can
        its engine be asked?"""
        self._dead_since = None if alive else self._dead_since if self._dead_since is not None else self._clock()
        if self.active:
            why = self._verdict() or self._silence() or self._guards()
            if why:
                self.roll_back(why)
        return self.reason

    def roll_back(self, why: str) -> None:
        """From now on every key goes to the stable arm."""
        self.reason, self.rolled_back_at = why, self._clock()
        log.warning("the canary is rolled back: %s", why)
        if self.config.state:
            target = Path(self.config.state)
            beside = target.with_name(target.name + ".new")
            beside.write_text(json.dumps({"model": self.config.model, "reason": why, "at": self.rolled_back_at}), encoding="utf-8")
            os.replace(beside, target)

    def _verdict(self) -> str:
        if not self.config.verdict:
            return ""
        path = Path(self.config.verdict)
        try:
            age = self._clock() - path.stat().st_mtime
            found = json.loads(path.read_text(encoding="utf-8"))
            said = found["answer"] if "answer" in found else found["verdict"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"no metrics: the verdict {path} cannot be read ({type(error).__name__})"
        if age > self.config.verdict_s:
            return f"no metrics: the verdict {path} is {age:.0f} s old"
        said = str(said).replace("_", " ").strip().lower()
        if said == "better" or said.startswith("cannot tell"):
            return ""
        return f"the verdict is: {said}"

    def _silence(self) -> str:
        limit = self.config.guards.silence_s
        if self._dead_since is not None and self._clock() - self._dead_since > limit:
            return f"no metrics: its worker has been gone for {limit:g} s"
        if self._silent_since is not None and self._clock() - self._silent_since > limit:
            return f"no metrics: it was asked, and has said nothing for {limit:g} s"
        return ""

    def _guards(self) -> str:
        new, old, g = self.windows["canary"], self.windows["stable"], self.config.guards
        if new.thumbs >= g.least and new.down > old.down + g.thumbs_down:
            return f"thumbs down are {new.down:.1%} of {new.thumbs}, in the stable arm {old.down:.1%}"
        if len(new) < g.least:
            return ""
        if new.errors > old.errors + g.errors:
            return f"{new.errors:.1%} of {len(new)} requests failed, in the stable arm {old.errors:.1%}"
        if new.filtered > old.filtered + g.filtered:
            return f"{new.filtered:.1%} of {len(new)} answers were filtered, in the stable arm {old.filtered:.1%}"
        mine, theirs = new.per_token_s, old.per_token_s
        if mine is not None and theirs is not None and len(old) >= g.least and mine > theirs * g.slower:
            return f"a token takes {mine * 1000:.0f} ms, in the stable arm {theirs * 1000:.0f} ms"
        return ""


def outcome_line(config: CanaryConfig, key: str, arm: ArmName, up: bool) -> str:
    """A thumb as `keel ab check` reads outcomes. The user is a number that only the same user has."""
    user = f"{stable_hash('outcome', config.salt, key):016x}"
    row = {"user": user, "arm": "treatment" if arm == "canary" else "control", "outcome": int(up)}
    return json.dumps(row) + "\n"


def _remembered(config: CanaryConfig) -> str:
    """Why this model was rolled back before; empty when it was not."""
    path = Path(config.state)
    if not config.state or not path.exists():
        return ""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return str(found["reason"]) if found["model"] == config.model else ""
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"canary.state: {path} cannot be read: a rollback might be forgotten", "look at it, and delete it to begin anew"
        ) from None
