from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def cases() -> dict:
    """Hand-computed cases by the name of the loss module (a plain file: neither of the two tests that use it can import the other)."""
    return runpy.run_path(str(Path(__file__).with_name("cases.py")))["CASES"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
