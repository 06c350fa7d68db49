"""The prices of KL and entropy in the course of a run: what controllers make of them. The trainer's only state beside its learners'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from keel.algorithms.parts import KL, Algorithm
from keel.loops.controllers import doubled_or_halved, multiplicative, proportional, scheduled, stepped


class Coefficients:
    """Starts from the algorithm's own coefficients and follows what each step measured."""

    def __init__(self, algorithm: Algorithm, total_steps: int) -> None:
        self._algorithm, self._total_steps = algorithm, total_steps
        self._kl = algorithm.kl.coef if algorithm.kl is not None else 0.0
        self._old_kl = algorithm.old_kl.coef
        self._entropy = algorithm.entropy.coef
        self.fixed: Mapping[str, float] = {}  # "kl" and "entropy" in place of what controllers say, which rest meanwhile; from the phase
        self.scale = 1.0  # of the price of the KL to the reference, whatever its controller says; whoever sets it keeps it

    def algorithm(self, step: int) -> Algorithm:
        """The algorithm with the coefficients of step ``step`` (0-based)."""
        a = self._algorithm
        entropy = replace(a.entropy, coef=self.fixed.get("entropy", self._entropy))
        kl = None
        if a.kl is not None:
            kl = replace(a.kl, coef=self.scale * self.fixed.get("kl", self._kl_coef(a.kl, step)))
        return replace(a, kl=kl, old_kl=replace(a.old_kl, coef=self._old_kl), entropy=entropy)

    def _kl_coef(self, kl: KL, step: int) -> float:
        if kl.control is None or kl.control.kind != "scheduled":
            return self._kl
        return scheduled(kl.coef, kl.control.end, step / max(1, self._total_steps - 1))

    def update(self, metrics: Mapping[str, float], samples: int, old_kl: float | None) -> None:
        """Follow a step: ``objective/kl``, ``objective/kl_per_token`` and ``entropy`` among its metrics, the number of its samples, and
        the KL to the old policy in its last pass (None: there was no update)."""
        kl, old = self._algorithm.kl, self._algorithm.old_kl
        if kl is not None and kl.control is not None and "objective/kl" in metrics and "kl" not in self.fixed:
            control = kl.control
            measured = metrics["objective/kl" if control.unit == "sequence" else "objective/kl_per_token"]
            if control.kind == "proportional":
                self._kl = proportional(self._kl, measured, control.target, samples, control.horizon, control.low)
            elif control.kind == "multiplicative":
                self._kl = multiplicative(self._kl, measured, control.target, control.low, control.high)
        if old.target is not None and old_kl is not None:
            self._old_kl = doubled_or_halved(self._old_kl, old_kl, old.target)
        entropy = self._algorithm.entropy
        if entropy.target is not None and "entropy" in metrics and "entropy" not in self.fixed:
            self._entropy = stepped(self._entropy, metrics["entropy"], entropy.target, entropy.step, entropy.high)

    def metrics(self, step: int) -> dict[str, float]:
        """The coefficients of a step: ``kl_coef`` (reference), ``policy/old_kl_coef`` (policy that sampled) and ``entropy_coef``, where
        there are any."""
        a = self.algorithm(step)
        named = {
            "kl_coef": a.kl.coef if a.kl is not None else None,
            "policy/old_kl_coef": a.old_kl.coef or None,
            "entropy_coef": a.entropy.coef if a.entropy.target is not None else a.entropy.coef or None,
        }
        return {name: value for name, value in named.items() if value is not None}

    def state(self) -> dict[str, float]:
        return {"kl": self._kl, "old_kl": self._old_kl, "entropy": self._entropy}

    def load_state(self, state: Mapping[str, float]) -> None:
        self._kl, self._old_kl, self._entropy = float(state["kl"]), float(state["old_kl"]), float(state["entropy"])
