"""Mutation check: break each loss in every small way there is (``tests/mutants.py``), and see the hand-computed cases notice. The broken
module is executed and its cases must fail on it. Not one may survive.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import keel.methods.math

FOLDER = Path(keel.methods.math.__file__).parent
MUTANTS = runpy.run_path(str(Path(__file__).parents[2] / "mutants.py"))


def _survives(case, source: str) -> bool:
    try:
        case(MUTANTS["execute"](source))
    except Exception:
        return False
    return True


@pytest.mark.filterwarnings("ignore:var")  # a mutant may well take the variance of nothing
def test_the_cases_catch_every_mutant(cases, loss_name):
    tried = list(MUTANTS["mutants"](FOLDER / f"{loss_name}.py"))
    survivors = [what for what, source in tried if _survives(cases[loss_name], source)]
    assert tried, "no mutant was made: the check checks nothing"
    assert survivors == []
