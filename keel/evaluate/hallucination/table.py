"""The table of measures: one row a measure. The verb, its checks and its help are made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from keel.core.errors import ConfigError
from keel.evaluate.hallucination import amber, chair, hallusion, mmhal, objhal, pope
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.result import Result

_EVERY = frozenset({"file", "measure", "mode", "draws", "rows", "model"})


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure: how it runs, the settings that it reads beside those of every measure, the rate that leads, and what the coverage is."""

    run: Callable[[HallucinationConfig], Result]
    reads: frozenset[str]
    leading: tuple[str, ...]
    coverage: str


MEASURES: Mapping[str, Measure] = {
    "chair": Measure(
        chair.run,
        frozenset({"truth", "objects", "pairs", "instances", "references", "check_sample", "checks", "seed"}),
        ("chair_i", "chair_s", "chair_s_with_objects"),
        "objects there that are named",
    ),
    "objhal": Measure(
        objhal.run,
        frozenset({"truth", "objects", "pairs", "instances", "references", "extracted", "check_sample", "checks", "seed"}),
        ("response", "object", "chair_s"),
        "objects there that are named",
    ),
    "pope": Measure(pope.run, frozenset({"truth"}), ("hallucination", "accuracy", "f1"), "questions answered yes or no"),
    "amber": Measure(
        amber.run,
        frozenset({"truth", "associations", "safe_words", "nouns", "similarity", "threshold"}),
        ("hallucination", "balanced_accuracy", "accuracy", "chair", "hal", "cover"),
        "items answered",
    ),
    "mmhal": Measure(mmhal.run, frozenset({"truth"}), ("hallucination", "score"), "informativeness"),
    "hallusion": Measure(hallusion.run, frozenset({"truth", "verdict"}), ("hallucination", "a_acc", "q_acc", "f_acc"), "definite answers"),
}


def measure(config: HallucinationConfig) -> Result:
    """The measure that ``config`` names. Raises ConfigError for settings that it does not read, DataError for files."""
    row = MEASURES[config.measure]
    unread = sorted(config.changed - row.reads - _EVERY)
    if unread:
        readers = {name: [m for m, r in MEASURES.items() if name in r.reads] for name in unread}
        told = "; ".join(f"{name} is read by {', '.join(of)}" for name, of in readers.items())
        raise ConfigError(f"--measure {config.measure} does not read {', '.join(unread)}: {told}", "take it out, or choose another measure")
    return row.run(config)
