"""Mutation check of credit, policy objectives and sums of rewards: each module is broken in every small way there is
(``tests/mutants.py``), put in the place of the real one, and the module's own tests are run on it. Not one broken module may pass them."""

from __future__ import annotations

import importlib
import inspect
import itertools
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

TESTS = Path(__file__).parent
MUTANTS = runpy.run_path(str(TESTS / "mutants.py"))
TESTED_BY = {
    "keel.advantages.gae": ["advantages/test_tokens.py"],
    "keel.advantages.group": ["advantages/test_group.py"],
    "keel.advantages.shaping": ["advantages/test_tokens.py"],
    "keel.advantages.scaling": ["advantages/test_scaling.py"],
    "keel.advantages.whiten": ["advantages/test_tokens.py"],
    "keel.advantages.credit": ["advantages/test_credit.py"],
    "keel.objectives.policy": ["objectives/test_policy_by_hand.py", "objectives/test_policy_parts.py"],
    "keel.rewards.compose": ["rewards/test_compose.py", "rewards/test_segments.py"],
}

SAME = {  # broken in the text only: what is computed is the same
    "group call: torch.zeros_like(group_B)",  # one group of all samples, whatever its number
    "gae call: torch.zeros_like(rewards_T)",  # with lambda 1 the values cancel out of the returns
}


def _calls(test: Callable[..., None], fixtures: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments of every call that pytest would make; none where the test asks for a fixture that is not among these."""
    rows: list[list[dict[str, Any]]] = []
    for mark in (m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"):
        names = [n.strip() for n in mark.args[0].split(",")] if isinstance(mark.args[0], str) else list(mark.args[0])
        rows.append([dict(zip(names, v if len(names) > 1 else [v], strict=True)) for v in mark.args[1]])
    wanted = inspect.signature(test).parameters
    for parts in itertools.product(*rows):
        given = {name: value for part in parts for name, value in part.items()}
        known = {name: fixtures[name] for name in wanted if name in fixtures}
        if set(wanted) == set(given) | set(known):
            yield given | known


def _passes(module: str, source: str, tests: list[CodeType], fixtures: dict[str, Any]) -> bool:
    """Do all tests pass with what ``source`` is in the place of the module?"""
    real = sys.modules[module]
    try:
        sys.modules[module] = MUTANTS["execute"](source)
        for code in tests:
            found = vars(MUTANTS["execute"](code, "tests_of_a_mutant"))
            for test in [x for name, x in found.items() if name.startswith("test_")]:
                for arguments in _calls(test, fixtures):
                    test(**arguments)
    except (Exception, pytest.fail.Exception):
        return False
    finally:
        sys.modules[module] = real
    return True


@pytest.fixture(scope="module")
def makers() -> dict[str, Any]:
    """The makers of records that tests of rewards get from their conftest, made without pytest."""
    space = runpy.run_path(str(TESTS / "rewards" / "conftest.py"))
    prompt = inspect.unwrap(space["prompt"])()
    return {"prompt": prompt, "group": inspect.unwrap(space["group"])(prompt)}


@pytest.mark.parametrize("module", TESTED_BY)
@pytest.mark.filterwarnings("ignore")  # a mutant may well take the variance of nothing
def test_its_own_tests_catch_every_mutant_of_a_module(module: str, makers: dict[str, Any]):
    path = Path(str(importlib.import_module(module).__file__))
    tests = [compile((TESTS / name).read_text(), name, "exec") for name in TESTED_BY[module]]
    assert _passes(module, path.read_text(), tests, makers), "its tests fail on the module itself"
    tried = list(MUTANTS["mutants"](path))
    survivors = [what for what, source in tried if what not in SAME and _passes(module, source, tests, makers)]
    assert tried, "no mutant was made: the check checks nothing"
    assert survivors == []
