"""Tests of functions that strangers wrote, so that the functions cannot forge the verdict.

Two sandboxed interpreters: one holds the code under test, the other the tests. They share nothing; the outside passes calls to the one and
values back to the other. The code under test sees arguments, never tests, expected values or verdicts; what it sends is decoded as plain
values, so an object that claims to equal everything equals nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keel.sandbox.process import Guest, GuestEndedError, GuestTimeoutError, Kind, Limits


@dataclass(frozen=True, slots=True)
class Verdicts:
    """How the tests went, in order; tests that were not run are not in it. ``why`` is the first failure."""

    passed: tuple[bool, ...]
    why: str = ""


class BrokenTestsError(Exception):
    """The tests themselves cannot be run: nothing can be said of the code."""


def run_functions(
    source: str, setup: str, tests: Sequence[str], names: Sequence[str], kind: Kind, limits: Limits, stop: bool = True
) -> Verdicts:
    """Run each of ``tests`` (Python code that raises when the code under test is wrong).

    Args:
        source: the code under test.
        setup: trusted code that the tests need before them.
        tests: one piece of code each.
        names: what the tests may call of the code under test; nothing else of it is seen by them.
        kind: the sandbox.
        limits: for each test; processor time is for all of them.
        stop: end at the first failure.

    Raises:
        BrokenTestsError: the tests do not compile, hand over what cannot enter the sandbox, or take too long by themselves.
        SandboxError: an interpreter could not be started inside.
    """
    with Guest(kind, limits) as tester:
        return _Relay(source, kind, limits, tester, names).run(setup, tests, stop)


class _Relay:
    """Passes calls from the tests to the code under test, which is started when it is needed and again after it died."""

    def __init__(self, source: str, kind: Kind, limits: Limits, tester: Guest, names: Sequence[str]) -> None:
        self.source, self.limits, self.tester, self.names = source, limits, tester, names
        self.kind: Kind = kind
        self.candidate: Guest | None = None
        self.spent = 0.0  # seconds of the test that the code under test had
        self.dead = ""  # why the code under test is gone, while one test lasts
        self.passed: list[bool] = []
        self.why = ""

    def run(self, setup: str, tests: Sequence[str], stop: bool) -> Verdicts:
        try:
            why = self._start()
            if why:
                return Verdicts((False,) * (1 if stop else len(tests)), why)
            self._run(setup, tests, stop)
        finally:
            self._end()
        return Verdicts(tuple(self.passed), self.why)

    def _run(self, setup: str, tests: Sequence[str], stop: bool) -> None:
        deadline = time.monotonic() + self.limits.wall_s
        try:
            self.tester.send({"work": "tests", "setup": setup, "tests": list(tests), "names": list(self.names)}, deadline)
            while True:
                said = self.tester.receive(deadline)
                if "ask" in said:
                    was_dead = self.dead
                    answer = self._asked(said["ask"], deadline)
                    if self.dead and not was_dead:  # its time is not the tests'
                        deadline = time.monotonic() + self.limits.wall_s
                    self.tester.send(answer, deadline)
                elif "begin" in said:
                    self.dead, self.spent = "", 0.0
                    deadline = time.monotonic() + self.limits.wall_s
                elif "end" in said:
                    self.passed.append(bool(said["passed"]))
                    self.why = self.why or ("" if said["passed"] else f"test {said['end'] + 1}: {said.get('why', '')}")
                    if stop and not said["passed"]:
                        return
                elif "broken" in said:
                    raise BrokenTestsError(str(said["broken"]))
                else:
                    return
        except GuestTimeoutError:
            raise BrokenTestsError("the tests took too long by themselves") from None
        except GuestEndedError as error:
            raise BrokenTestsError(f"the tests' interpreter is gone: {error}") from None

    def _asked(self, request: Any, deadline: float) -> dict[str, Any]:
        """The answer of the code under test, or how it failed to give one. Once it died it stays dead for the rest of that test."""
        if self.candidate is None and not self.dead:
            self.dead = self._start()
        if not self.dead:
            assert self.candidate is not None, "it was started"
            asked = time.monotonic()
            try:
                self.candidate.send(request, deadline)
                return self.candidate.receive(deadline)
            except (GuestTimeoutError, GuestEndedError) as error:
                mine = self.spent + time.monotonic() - asked
                if isinstance(error, GuestTimeoutError) and mine < self.limits.wall_s / 2:
                    raise  # the tests used up the time: that says nothing of the code
                self.dead = str(error)
                self._end()
            finally:
                self.spent += time.monotonic() - asked
        return {"raised": "Ended", "text": self.dead}

    def _start(self) -> str:
        """Start the code under test; returns why it did not come up, empty when it did."""
        deadline = time.monotonic() + self.limits.wall_s
        self.candidate = Guest(self.kind, self.limits)
        try:
            self.candidate.send({"work": "functions", "source": self.source}, deadline)
            said = self.candidate.receive(deadline)
        except GuestTimeoutError:
            said = {"raised": "Ended", "text": "the code did not come to its end: the time limit was reached"}
        except GuestEndedError as error:
            said = {"raised": "Ended", "text": str(error)}
        if "names" in said and isinstance(said["names"], list):
            defined = set(map(str, said["names"]))
            missing = [name for name in self.names if name not in defined]
            if not missing or len(missing) < len(self.names):
                return ""
            said = {"raised": "NameError", "text": f"the code defines none of: {', '.join(missing)}"}
        self._end()
        return f"{said.get('raised', 'Ended')}: {said.get('text', '')}"[:300]

    def _end(self) -> None:
        if self.candidate is not None:
            self.candidate.close()
            self.candidate = None
