"""The losses against numbers worked out by hand."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("name", ["checks", "sft", "kl", "policy", "value", "reward", "preference", "answers", "divergence", "reduce"])
def test_hand_computed_numbers(cases, name):
    cases[name](importlib.import_module(f"keel.losses.{name}"))
