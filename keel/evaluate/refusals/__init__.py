"""Does an answer turn down what was asked: wholly, in part, not at all? In English and Chinese."""

from keel.evaluate.refusals.classify import REFUSALS, Reading, Refusal, read, refuses

__all__ = ["REFUSALS", "Reading", "Refusal", "read", "refuses"]
