"""Which answers of RL are kept whole for people to look at, with what every token was worth. It looks on and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from keel.core.events import Event
from keel.core.hashing import stable_hash
from keel.feedback.texts import asked_row
from keel.runs.rollouts import KeptRollout, Kind, Rollouts
from keel.types import Branch, BranchTensors, Group, Unit

Logprobs = Callable[[Sequence[Unit]], BranchTensors]
Place = tuple[int, int]  # group, rollout
_LOGPROBS = {"sampler_logprobs": "sampler", "old_logprobs": "policy", "ref_logprobs": "reference"}


@dataclass(frozen=True, slots=True)
class Seen:
    """The answers of a step. ``branches``: by the identity of a rollout's tokens, which units share with it, the unit and branch that
    training made of it."""

    step: int
    groups: tuple[Group, ...]
    branches: Mapping[int, tuple[Unit, Branch]]


def seen(step: int, groups: Sequence[Group], *units: Sequence[Unit]) -> Seen:
    """``units``: made of the groups' rollouts; those of later arguments know more."""
    found = {id(branch.tokens_T): (unit, branch) for made in units for unit in made for branch in unit.branches}
    return Seen(step, tuple(groups), found)


def picked(groups: Sequence[Group], step: int) -> dict[Place, str]:
    """The worst and the best rewarded answer, and one of the others at random: where they are, and why."""
    judged = [(float(g.rewards_G[i]), (k, i)) for k, g in enumerate(groups) for i in range(len(g.rollouts)) if bool(g.valid_G[i])]
    if not judged:
        return {}
    order = [place for _, place in sorted(judged, key=lambda x: x[0])]
    rest = order[1:-1]
    chance = {rest[stable_hash("kept rollout", step) % len(rest)]: "random"} if rest else {}
    return {**chance, order[0]: "worst", order[-1]: "best"}


class Keeper:
    """Keeps answers in the run directory. As a sink of events it hears of alarms, and then keeps those of the step that is under way."""

    def __init__(self, store: Rollouts, pieces: Callable[[Sequence[int]], list[str]], policy: Logprobs, reference: Logprobs | None) -> None:
        """``pieces``: the text of each token; ``policy`` and ``reference``: log-probabilities by the weights as they are."""
        self.store, self.pieces, self.policy, self.reference = store, pieces, policy, reference
        self._seen: Seen | None = None

    def take(self, step: int, groups: Sequence[Group], *units: Sequence[Unit]) -> None:
        """The answers of step ``step`` (from 1), before the weights change."""
        self._seen = seen(step, groups, *units)
        if self.store.due(step):
            self._keep("train", self._seen, picked(groups, step), asks=True)

    def measured(self, step: int, groups: Sequence[Group], why: Mapping[Place, str], units: Sequence[Unit]) -> None:
        """Answers of an evaluation after step ``step``."""
        if why and self.store.every:
            self._keep("eval", seen(step, groups, units), why, asks=True)

    def handle(self, event: Event) -> None:
        """Alarms: of the step's answers the best, the worst, and the farthest from the reference. The weights have changed since, so what
        was not recorded of them cannot be asked for."""
        if event.kind not in ("warning", "verdict") or not event.data.get("rule") or self._seen is None or self._seen.step != event.step:
            return
        if event.data.get("state", "firing") != "firing" or event.data.get("level") == "info":
            return
        places = dict.fromkeys(picked(self._seen.groups, event.step), "alarmed")
        apart = {place: max(map(abs, kl)) for place in self._places(self._seen) if (kl := self._row(self._seen, place, "").kl)}
        far = {max(apart, key=lambda place: apart[place]): "alarmed"} if apart else {}
        self._keep("alarm", self._seen, {**places, **far}, rule=str(event.data["rule"]))

    def close(self) -> None:
        self._seen = None

    @staticmethod
    def _places(of: Seen) -> list[Place]:
        return [(k, i) for k, g in enumerate(of.groups) for i in range(len(g.rollouts)) if bool(g.valid_G[i])]

    def _keep(self, kind: Kind, of: Seen, why: Mapping[Place, str], asks: bool = False, rule: str = "") -> None:
        rows = [self._row(of, place, reason) for place, reason in why.items()]
        if asks:
            rows = self._asked(of, list(why), rows)
        self.store.write(kind, of.step, [replace(row, rule=rule) for row in rows])

    def _asked(self, of: Seen, places: Sequence[Place], rows: Sequence[KeptRollout]) -> list[KeptRollout]:
        """With the log-probabilities of policy and reference that training did not need itself."""
        found = [of.branches.get(id(of.groups[k].rollouts[i].tokens_T)) for k, i in places]
        out = list(rows)
        for name, logprobs in (("policy", self.policy), ("reference", self.reference)):
            missing = [j for j, made in enumerate(found) if made is not None and name not in out[j].logprobs]
            if logprobs is None or not missing:
                continue
            units = [replace(made[0], branches=(made[1],)) for j in missing if (made := found[j]) is not None]
            for j, (tensor,) in zip(missing, logprobs(units), strict=True):
                out[j] = replace(out[j], logprobs={**out[j].logprobs, name: _floats(tensor)})
        return out

    def _row(self, of: Seen, place: Place, why: str) -> KeptRollout:
        group, i = of.groups[place[0]], place[1]
        rollout, valid = group.rollouts[i], bool(group.valid_G[i])
        made = of.branches.get(id(rollout.tokens_T))
        signals = {"sampler_logprobs": rollout.logprobs_T, **(made[1].signals if made is not None else {})}
        tokens = [int(t) for t in rollout.tokens_T.tolist()]
        return KeptRollout(
            of.step,
            why,
            group.prompt.prompt_id,
            rollout.sample,
            group.prompt.last_user_text,
            rollout.text,
            tokens,
            self.pieces(tokens),
            len(group.encoded),
            [bool(s) for s in rollout.sampled_T.tolist()],
            {_LOGPROBS[name]: _floats(t) for name, t in signals.items() if name in _LOGPROBS},
            {name: _floats(t) for name, t in signals.items() if name not in _LOGPROBS},
            float(group.rewards_G[i]) if valid else None,
            {name: float(part_G[i]) for name, part_G in group.parts.items()},
            rollout.finish_reason,
            rollout.error,
            turns=rollout.conversation.told() if rollout.conversation is not None else (),
            asked=asked_row(group.prompt),
        )


def _floats(values_T: Tensor) -> list[float]:
    return [float(x) for x in values_T.detach().float().cpu().tolist()]
