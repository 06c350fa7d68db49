"""The table of measures: what each reads, and that the command line knows them all."""

from __future__ import annotations

from typing import get_args

import pytest

from keel.commands import HALLUCINATION_MEASURES
from keel.core.errors import ConfigError
from keel.evaluate.hallucination.config import HallucinationConfig, MeasureName
from keel.evaluate.hallucination.table import MEASURES, measure


def test_settings_the_command_line_and_the_table_name_the_same_measures() -> None:
    assert tuple(MEASURES) == get_args(MeasureName) == HALLUCINATION_MEASURES


def test_every_setting_is_read_by_some_measure() -> None:
    read = {name for row in MEASURES.values() for name in row.reads} | {"file", "measure", "mode", "draws", "rows", "model"}
    assert read == set(HallucinationConfig.model_fields)


def test_a_setting_that_the_measure_does_not_read_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="--measure pope does not read objects, threshold: objects is read by chair, objhal; threshold is read by amber"
    ):
        measure(HallucinationConfig(file="x", measure="pope", objects="list.txt", threshold=0.5))
