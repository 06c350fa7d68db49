from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import keel.methods.math

FOLDER = Path(keel.methods.math.__file__).parent


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``loss_name`` is the name of each module of ``keel.methods.math``: a new one is checked without being listed."""
    if "loss_name" in metafunc.fixturenames:
        metafunc.parametrize("loss_name", sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__"))


@pytest.fixture(scope="session")
def cases() -> dict:
    """Hand-computed cases by the name of the loss module (a plain file: neither of the two tests that use it can import the other)."""
    return runpy.run_path(str(Path(__file__).with_name("cases.py")))["CASES"]
