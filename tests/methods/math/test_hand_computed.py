"""The losses against numbers worked out by hand."""

from __future__ import annotations

import importlib


def test_hand_computed_numbers(cases, loss_name):
    cases[loss_name](importlib.import_module(f"keel.methods.math.{loss_name}"))
