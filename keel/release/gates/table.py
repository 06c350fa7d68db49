"""The gates by their kind: the one place where a new one is put in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keel.release.candidate import Candidate
from keel.release.gates import answers, language, machine, numbers, rewards
from keel.release.gates.verdict import Verdict

Gate = Callable[[Any, Candidate], Verdict]  # (its settings, the model) -> what it says

GATES: Mapping[str, Gate] = {
    "quantisation": language.quantisation,
    "retention": language.retention,
    "refusal": answers.refusal,
    "length": answers.length,
    "speed": machine.speed,
    "memory": machine.memory,
    "number": numbers.number,
    "hallucination": numbers.hallucination,
    "reward_quantisation": rewards.reward_quantisation,
    "checklist": numbers.checklist,
    "sign_off": numbers.sign_off,
}
