"""Mutation check of credit, policy objectives and sums of rewards: each module is broken in every small way there is
(``tests/mutants.py``), put in the place of the real one, and the module's own tests are run on it. Not one broken module may pass them."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

TESTS = Path(__file__).parent
MUTANTS = runpy.run_path(str(TESTS / "mutants.py"))
TESTED_BY = {
    "keel.methods.credit.estimators": ["methods/credit/test_tokens.py", "methods/credit/test_group.py"],
    "keel.methods.credit.scaling": ["methods/credit/test_tokens.py", "methods/credit/test_scaling.py"],
    "keel.methods.credit.assign": ["methods/credit/test_credit.py", "methods/credit/test_conversations.py"],
    "keel.methods.objectives.policy": ["methods/objectives/test_policy_by_hand.py", "methods/objectives/test_policy_parts.py"],
    "keel.rewards.composition.rewards": [
        "rewards/test_compose.py",
        "rewards/test_segments.py",
        "rewards/test_run_rewards.py",
        "rewards/test_composition.py",
    ],
    "keel.rewards.composition.combine": ["rewards/test_composition.py"],
    "keel.rewards.composition.composer": ["rewards/test_composition.py"],
    "keel.loops.control": ["loops/test_controllers.py", "loops/test_phases.py"],
    "keel.watch.expressions.windows": ["watch/test_expressions.py"],
    "keel.watch.early_stop": ["watch/test_early_stop.py"],
    "keel.watch.trends": ["watch/test_trends.py"],
    "keel.watch.drift": ["watch/test_trends.py"],
    "keel.evaluate.compare": ["evaluate/test_compare.py"],
    "keel.feedback.aggregate": ["feedback/test_aggregate.py"],
    "keel.feedback.agreement": ["feedback/test_agreement.py"],
    "keel.learner.packing": ["learner/test_packing.py"],
}
REACHED_BY = {  # a module that the tests reach through others: these are made anew on top of it
    "keel.watch.expressions.windows": ["keel.watch.expressions.parser"],
    "keel.rewards.composition.combine": ["keel.rewards.composition.composer"],
}

SAME = {  # broken in the text only: what is computed is the same
    "estimators call: torch.zeros_like(group_B)",  # one group of all samples, whatever its number
    "estimators call: torch.zeros_like(rewards_T)",  # with lambda 1 the values cancel out of the returns
    "windows number: 1 in n or 1",  # the last answers are not read where all are counted
    "windows operator: v - height",  # what is added to all values has no slope
    "drift compare-GtE: spread > 1e-09",
    "drift dropped-double: counts_V.double()",  # one rounding of float32
    "composer dropped-double: torch.where(valid_G, parts[name], 0.0).double()",  # weights are float64 and make it so
    "composer dropped-double: g.parts[name][g.valid_G].double()",
    "combine compare-GtE: scale > 1e-12",
    "combine compare-LtE: r < CONFLICT",
    "combine dropped-double: group.parts[name].double()",
    "combine number: 0.0 in torch.where(group.valid_G, parts_KG, 0.0)",  # what failed is not on the front whatever stands there
    "composer number: 0.0 in torch.where(valid_G, parts[name], 0.0)",  # any number that is finite: what failed is 0 in the end
    "aggregate number: 1.0 in votes.total() / len(votes) if votes else 1.0",  # without votes there is no pair to weigh
    "agreement compare-NotEq: answer_id(c.candidates[0]) == item[1]",  # all votes the other way round agree as much
    "agreement number: 1 in item[1]",  # the same
    "agreement number: 0 in c.candidates[0]",  # the same
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
    above = {name: _path(name).read_text() for name in REACHED_BY.get(module, ())}
    try:
        with _in_place({module: source, **above}):
            for code in tests:
                found = vars(MUTANTS["execute"](code, "tests_of_a_mutant"))
                for test in [x for name, x in found.items() if name.startswith("test_")]:
                    for arguments in _calls(test, fixtures):
                        test(**arguments)
    except (Exception, pytest.fail.Exception):
        return False
    return True


@contextlib.contextmanager
def _in_place(sources: Mapping[str, str]) -> Iterator[None]:
    """These sources, run in this order, are what is imported under these names."""
    with pytest.MonkeyPatch.context() as patch:
        for name, source in sources.items():
            room, _, own = name.rpartition(".")
            made = MUTANTS["execute"](source, f"broken_{own}")
            patch.setitem(sys.modules, name, made)
            patch.setattr(sys.modules[room], own, made)
        yield


def _path(module: str) -> Path:
    return Path(str(importlib.import_module(module).__file__))


@pytest.fixture(scope="module")
def makers() -> dict[str, Any]:
    """The makers of records that tests of rewards get from their conftest, made without pytest."""
    space = runpy.run_path(str(TESTS / "rewards" / "conftest.py"))
    prompt = inspect.unwrap(space["prompt"])()
    return {"prompt": prompt, "group": inspect.unwrap(space["group"])(prompt)}


@pytest.mark.parametrize("module", TESTED_BY)
@pytest.mark.filterwarnings("ignore")  # a mutant may well take the variance of nothing
def test_its_own_tests_catch_every_mutant_of_a_module(module: str, makers: dict[str, Any]):
    path = _path(module)
    tests = [compile((TESTS / name).read_text(), name, "exec") for name in TESTED_BY[module]]
    assert _passes(module, path.read_text(), tests, makers), "its tests fail on the module itself"
    tried = list(MUTANTS["mutants"](path))
    survivors = [what for what, source in tried if what not in SAME and _passes(module, source, tests, makers)]
    assert tried, "no mutant was made: the check checks nothing"
    assert survivors == []
