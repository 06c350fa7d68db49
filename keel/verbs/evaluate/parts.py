"""What an evaluation measures of each model beside its answers to the held-out prompts: refusals, preferred answers, what is retained,
tasks of lm-evaluation-harness. Read once, asked of every model, told together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keel.core.errors import DataError, UserError
from keel.core.python_file import load_object
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.evaluate.choices import Chosen, Item, gained, read_items, table
from keel.evaluate.config import EvaluateConfig
from keel.evaluate.refusals.rates import SIDES, Asked, Reader, changes, labels_of, rates
from keel.evaluate.retained import report, task_loss, text_loss
from keel.feedback.texts import asked_row
from keel.loops.gathering import sample_groups
from keel.models.loading import Loaded
from keel.release import candidate
from keel.render.renderer import Refusal, Renderer
from keel.render.template import RefusedError
from keel.rollout.local import LocalSampler
from keel.types import Group, Message, Prompt, SampleRequest, Unit
from keel.verbs.evaluate.lm_tasks import run_tasks
from keel.verbs.evaluate.recipe import EvalRecipe
from keel.verbs.evaluate.scoring import language_of
from keel.verbs.shared.account import Account
from keel.verbs.shared.prompts import encode

log = logging.getLogger("keel")


@dataclass(frozen=True, slots=True)
class Texts:
    """Negative log-likelihood and tokens of each passage, by its name; ``cut``: passages cut at the model's context."""

    nll: Mapping[str, float]
    tokens: Mapping[str, int]
    ids: Mapping[str, tuple[int, ...]]
    facts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one model, all that is asked of it here."""

    refusals: tuple[Asked, ...] = ()
    hhh: tuple[Chosen, ...] = ()
    texts: Mapping[str, Texts] = field(default_factory=dict[str, Texts])
    tasks: Mapping[str, tuple[Chosen, ...]] = field(default_factory=dict[str, tuple[Chosen, ...]])
    lm_eval: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Parts:
    """The parts that a recipe asks for, with their data. Raises DataError for files that cannot be read, before any model is loaded."""

    def __init__(self, recipe: EvalRecipe) -> None:
        config = recipe.evaluate
        self.recipe, self.config = recipe, config
        self.refusals = _prompts(config)
        self.hhh = read_items(config.hhh.items) if config.hhh is not None else []
        retention = config.retention
        self.tasks = {n: read_items([f])[: retention.limit] for n, f in retention.tasks.items()} if retention is not None else {}
        self.reader: Reader | None = None
        if config.refusals is not None and config.refusals.reader:
            self.reader = load_object(config.refusals.reader, "evaluate.refusals.reader")

    def measure(self, loaded: Loaded, renderer: Renderer, account: Account, name: str) -> Measured:
        """Ask one model."""
        retention, reader = self.config.retention, candidate.Reader(loaded, renderer)
        texts = {n: _texts(reader, f, retention.limit) for n, f in retention.texts.items()} if retention is not None else {}
        return Measured(
            self._asked(loaded, renderer, account, name),
            _chosen(reader, self.hhh, account, f"{name}: hhh"),
            texts,
            {n: _chosen(reader, items, account, f"{name}: {n}") for n, items in self.tasks.items()},
            run_tasks(self.config.lm_eval, loaded, renderer, self.recipe.sampler) if self.config.lm_eval is not None else {},
        )

    def told(self, baseline: Measured, models: Mapping[str, Measured], baseline_name: str) -> dict[str, Any]:
        """What there is to say, by part; {} where nothing was asked for."""
        everyone, level = {baseline_name: baseline, **models}, self.config.level
        out: dict[str, Any] = {}
        if self.config.refusals is not None:
            out["refusals"] = {name: rates(m.refusals, level=level) for name, m in everyone.items()}
            out["refusal_changes"] = {name: changes(baseline.refusals, m.refusals, level=level) for name, m in models.items()}
        if self.hhh:
            out["hhh"] = {name: table(m.hhh, level=level) for name, m in everyone.items()}
            out["hhh_gain"] = {name: gained(baseline.hhh, m.hhh, level=level) for name, m in models.items()}
        if self.config.retention is not None:
            out["retained"] = {name: self._retained(baseline, m) for name, m in models.items()}
        if self.config.lm_eval is not None:
            out["lm_eval"] = {name: dict(m.lm_eval) for name, m in everyone.items()}
        return out

    def rows(self, baseline: Measured, models: Mapping[str, Measured], baseline_name: str) -> list[dict[str, Any]]:
        """Every answer to a safe or unsafe prompt with its class: for ``samples/refusals.jsonl``."""
        whole = {(side, p.prompt_id): asked_row(p) for side, prompts in self.refusals.items() for p in prompts}
        return [
            {
                "model": name,
                **{k: getattr(a, k) for k in ("prompt_id", "side", "prompt")},
                "asked": whole[a.side, a.prompt_id],
                "answers": [*a.answers],
                "labels": [*a.labels],
            }
            for name, m in {baseline_name: baseline, **models}.items()
            for a in m.refusals
        ]

    def _asked(self, loaded: Loaded, renderer: Renderer, account: Account, name: str) -> tuple[Asked, ...]:
        config, wanted = self.config, self.config.refusals
        if wanted is None:
            return ()
        longer = config.model_copy(update={"max_tokens": wanted.max_tokens})
        params = longer.sampling(renderer.stop_tokens, renderer.banned_tokens)
        found: list[Asked] = []
        for side in SIDES:
            prompts = self.refusals.get(side, ())
            if not prompts:
                continue
            encoded = encode(prompts, renderer, account, f"{name}: {side} prompts", wanted.max_tokens)
            requests = [SampleRequest(i, e, wanted.samples, params, config.seed) for i, (_, e) in encoded.items()]
            sampler = LocalSampler(loaded.model, renderer.decode, self.recipe.sampler)
            groups = sample_groups(sampler, requests, {i: p for i, (p, _) in encoded.items()})
            found += [self._labelled(group, side) for group in groups]
        return tuple(found)

    def _labelled(self, group: Group, side: Any) -> Asked:
        prompt = group.prompt
        texts = tuple(r.text if valid else None for r, valid in zip(group.rollouts, group.valid_G.tolist(), strict=True))
        try:
            labels = labels_of(prompt.last_user_text, texts, self.reader)
        except ValueError as error:
            raise UserError(f"evaluate.refusals.reader: {error}", "let it return one of the three") from None
        category = str(prompt.meta.get("category", ""))
        return Asked(prompt.prompt_id, side, prompt.last_user_text, texts, labels, language_of(prompt), category)

    def _retained(self, baseline: Measured, model: Measured) -> dict[str, Any]:
        wanted, level = self.config.retention, self.config.level
        assert wanted is not None
        found: dict[str, Any] = {}
        left_out: dict[str, str] = {}
        for name, after in model.texts.items():
            before = baseline.texts[name]
            if any(before.ids.get(k) != after.ids[k] for k in after.ids):
                left_out[name] = "the two models cut the text into other tokens"
                continue
            found[name] = text_loss(before.nll, after.nll, after.tokens, tolerance=wanted.text_tolerance, level=level) | dict(after.facts)
        for name, after in model.tasks.items():
            found[name] = task_loss(baseline.tasks[name], after, tolerance=wanted.task_tolerance, level=level)
        return report(found) | ({"left_out": left_out} if left_out else {})


def _prompts(config: EvaluateConfig) -> dict[str, tuple[Prompt, ...]]:
    if config.refusals is None:
        return {}
    sides = {"safe": list(config.refusals.safe), "unsafe": list(config.refusals.unsafe)}
    return {s: load_data(DataConfig(path=paths, limit=config.refusals.limit)).prompts() for s, paths in sides.items() if paths}


def _texts(reader: candidate.Reader, file: str, limit: int) -> Texts:
    found = candidate.texts_of(reader, file, limit)
    tokens = {u.unit_id: sum(int(b.trained_T.sum()) for b in u.branches) for u in found.units}
    ids = {u.unit_id: (*u.prompt.tokens_T.tolist(), *(int(t) for b in u.branches for t in b.tokens_T)) for u in found.units}
    return Texts(candidate.losses(reader, found.units), tokens, ids, found.told())


def _chosen(reader: candidate.Reader, items: Sequence[Item], account: Account, side: str) -> tuple[Chosen, ...]:
    """Log-probabilities of every choice, with the end of the answer. Items that cannot be rendered are refused by name."""
    units: list[Unit] = []
    kept: list[Item] = []
    refused: list[Refusal] = []
    for item in items:
        prompt = Prompt(item.item_id, item.turns, source_id=item.item_id)
        try:
            encoded, branches = reader.renderer.branches(prompt, [(Message("assistant", text),) for text in item.choices])
        except RefusedError as error:
            refused.append(Refusal(item.item_id, item.item_id, error.reason))
            continue
        units.append(Unit(item.item_id, encoded, branches))
        kept.append(item)
    account.refuse(side, refused)
    if items and not kept:
        raise DataError(f"{side}: no item is left: all {len(refused)} were refused: {refused[0].reason}")
    found = reader.inference.logprobs(units)
    return tuple(
        Chosen(item, tuple(float(b.double().sum()) for b in rows), tuple(len(c.encode()) for c in item.choices))
        for item, rows in zip(kept, found, strict=True)
    )
