"""What every stage opens and closes: threads, model, renderer, run directory, sinks, summary."""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from keel.core.config import Section, dump
from keel.core.errors import ConfigError, DataError
from keel.core.events import EventBus
from keel.evaluate.report import collect, write_report
from keel.loops.config import LoopConfig
from keel.loops.harness import Harness, Trainer, TrainResult
from keel.loops.offline import OfflineTrainer
from keel.loops.online import OnlineTrainer
from keel.models.config import LoraConfig
from keel.models.features import FeatureStore
from keel.models.heads import HeadSpec, ValueKind
from keel.models.loading import HeadName, Loaded, load_model
from keel.models.model import Model
from keel.models.pictured import reading_of
from keel.render.config import RenderConfig
from keel.render.limits import context_length
from keel.render.renderer import Renderer
from keel.rollout.local import LocalSampler
from keel.rollout.prove import company, row_dependence
from keel.runs.directory import RunDir, read_manifest, read_summary
from keel.runs.environment import flatten
from keel.runs.fingerprints import tensors_digest
from keel.runs.memory import peak_mb
from keel.runs.sinks import make_sinks
from keel.types import Sampler, Unit
from keel.verbs.shared.inputs import inputs_of
from keel.verbs.shared.learners import AnyLearner
from keel.verbs.shared.plan import check_plan, plan_line
from keel.verbs.shared.recipes import ModelRecipe
from keel.verbs.shared.reread import compare_saved
from keel.watch.alerts.delivery import alert_sinks
from keel.watch.config import EarlyStopConfig

log = logging.getLogger("keel")


@dataclass(slots=True)
class Session:
    """An open stage: its recipe, run directory and event bus. ``summary`` is what the stage adds to summary.json."""

    verb: str
    recipe: ModelRecipe
    run: RunDir
    bus: EventBus
    saved: dict[str, Any] = field(default_factory=dict[str, Any])  # final/ read again, beside the model that was trained
    features: FeatureStore = field(default_factory=lambda: FeatureStore(0))  # of images, which the models of the stage share
    started: float = field(default_factory=time.perf_counter)

    def finished(self) -> dict[str, Any] | None:
        """The summary of a run that came to its end before; None when there is something left to do."""
        found = read_summary(self.run.path)
        if found is not None:
            log.info("%s is finished already; its summary stands", self.run.path)
        return found

    def finish(self, summary: Mapping[str, Any], result: TrainResult | None = None) -> dict[str, Any]:
        """Write summary.json (last of all) and report.html; return the summary. An interrupted run gets neither: it is not finished."""
        if result is not None and result.interrupted:
            paused = {"paused": result.paused} if result.paused else {}
            return {"run_dir": str(self.run.path), "verb": self.verb, "interrupted": True, "step": result.step, **paused}
        whole: dict[str, Any] = {"run_dir": str(self.run.path), "verb": self.verb, **summary}
        if self.saved:
            whole["saved"] = self.saved
        if features := self.features.summary():
            whole["features"] = features
        whole["wall_s"] = round(time.perf_counter() - self.started + (result.wall_before if result is not None else 0.0), 2)
        whole["peak_mb"] = round(peak_mb(), 1)
        if result is not None:
            whole |= {
                "steps": result.step,
                "stopped_early": result.stopped_early,
                "last": dict(result.last),
                "last_eval": dict(result.last_eval),
                **({"test": dict(result.test)} if result.test else {}),
                **({"never_recovered": result.never_recovered} if result.never_recovered else {}),
            }
        self.bus.emit("run_finished", result.step if result is not None else 0)
        self.run.finish(whole)
        try:
            write_report(self.run.path / "report.html", collect(self.run.path))
        except OSError as error:  # the run is finished all the same
            log.warning("the report could not be written (%s); `keel report %s` writes it again", error.strerror, self.run.path)
        return whole


@contextlib.contextmanager
def open_session(
    verb: str, recipe: ModelRecipe, path: Path, fingerprints: Mapping[str, str], parent: str = "", growing: bool = False
) -> Iterator[Session]:
    """Set threads, open (or resume) the run directory, connect the sinks. Raises RunError when a file that the recipe names is not the
    one that the run began with; where the data are ``growing``, those of ``fingerprints`` may be others."""
    set_machine(recipe)
    read = {**fingerprints, **inputs_of(recipe, (read_manifest(path) or {}).get("data"))}
    names = tuple(fingerprints) if growing else ()
    run = RunDir.open(path, recipe, verb, recipe.seed, parent=parent or None, data_fingerprints=read, argv=sys.argv, growing=names)
    try:
        sinks = [*make_sinks(run, recipe.settings.tracking), *alert_sinks(recipe.settings.watch.alerts, run.path.name)]
        bus = EventBus(sinks, run.identity, run.last_event())
        try:
            yield Session(verb, recipe, run, bus)
        finally:
            bus.close()
    finally:
        run.close()


def set_machine(recipe: ModelRecipe) -> None:
    """Threads and determinism, before anything is computed."""
    if recipe.settings.threads is not None:
        torch.set_num_threads(recipe.settings.threads)
    torch.use_deterministic_algorithms(recipe.settings.deterministic, warn_only=True)


def load(
    recipe: ModelRecipe,
    heads: frozenset[HeadName] = frozenset(),
    lora: LoraConfig | None = None,
    spec: str = "",
    score: HeadSpec | None = None,
    value: ValueKind | None = None,
) -> tuple[Loaded, Renderer]:
    """The recipe's model (or ``spec``) and the renderer that belongs to it. ``heads`` may be new: the stage trains them. ``score``: what a
    score head is made of; ``value``: the kind of a value head."""
    loaded = load_model(spec or recipe.model, recipe.model_options, lora, heads, recipe.seed, new_heads=True, score=score, value=value)
    return loaded, renderer_of(loaded, recipe.render)


def renderer_of(loaded: Loaded, config: RenderConfig) -> Renderer:
    """The renderer of a model. What it never lets be sampled leaves the support of the model's log-probabilities too: both are of one
    distribution. The model learns from it what ends an answer, the tokenizer which chat template is used: both are saved with it."""
    model = loaded.model
    context = context_length(model.config)
    reading = reading_of(model.module, model.no_images)
    renderer = Renderer(loaded.tokenizer, loaded.processor, config, model.media, model.module.generation_config, context, reading)
    model.transform = replace(model.transform, banned=renderer.banned_tokens)
    model.stop_tokens = renderer.stop_tokens
    if config.chat_template and renderer.template is not None:  # what the model is trained on is what is saved with it
        for owner in (loaded.tokenizer, loaded.processor):
            if owner is not None:
                owner.chat_template = renderer.template.source
    return renderer


def train(session: Session, trainer: OfflineTrainer | OnlineTrainer, best: EarlyStopConfig) -> TrainResult:
    """Check and say what will be done, then run the loop of a training stage."""
    check_plan(trainer)
    return run_loop(session, trainer, trainer.config, best, plan_line(trainer))


def run_loop(session: Session, trainer: Trainer, config: LoopConfig, best: EarlyStopConfig, plan: str) -> TrainResult:
    """Say ``plan``, then run the loop of any trainer."""
    session.bus.emit("stage_started", 0, plan)
    settings = session.recipe.settings
    harness = Harness(
        trainer,
        session.run,
        session.run.checkpoints(settings.checkpoint.keep),
        session.bus,
        config,
        settings.watch,
        settings.checkpoint.every,
        best,
        session.features.since,
        flatten(dump(session.recipe)),
    )
    return harness.train()


def record(session: Session, loaded: Loaded, renderer: Renderer) -> None:
    """What is known only once the model is loaded: where it came from, its weights' digest, the template's hash. Raises RunError when the
    run began with other weights or another template, ConfigError for settings of images where the model takes none. From here on the
    template is told the day that the run began with."""
    session.features = loaded.model.media.features
    if loaded.processor is None and session.recipe.model_options.features.changed:
        raise ConfigError("model_options.features would have no effect: the model reads text only", "leave it out")
    digest = pin_weights(session, loaded.model, "the model's weights")
    keep_day(session, renderer)
    session.run.pin({"the chat template": renderer.template_hash})
    template = {"sha256": renderer.template_hash, "injected_system": renderer.injected_system}
    session.run.record(model={**loaded.source, "digest": digest}, template=template)


def keep_day(session: Session, renderer: Renderer) -> None:
    """A chat template that asks for today's date is told the day that the run began with, also when it is resumed on another one: prompts
    would differ from those that were trained on."""
    if renderer.follows_calendar:
        began = datetime.datetime.fromisoformat(session.run.manifest["starts"][0]["at"]).astimezone().date()
        day = datetime.date.fromisoformat(session.run.manifest.get("day", began.isoformat()))
        try:
            renderer.hold_day(day)
        except DataError as error:  # the run goes on: its prompts hold the day of each start
            log.warning("%s: a resumed run sees another date in its prompts: %s", error.message, error.hint)
            return
        session.run.record(day=day.isoformat())


def record_sampling(session: Session, sampler: Sampler) -> None:
    """Whether what a request draws hangs on its company, as measured on this machine with this model; of our own fast decoder."""
    if isinstance(sampler, LocalSampler) and sampler.fast:
        dependence = row_dependence(sampler.model)
        session.run.record(sampling={"row_dependence": dependence if math.isfinite(dependence) else None})
        log.info("sampling: %s", company(dependence))


def pin_weights(session: Session, model: Model, name: str) -> str:
    """Record the digest of a model's starting weights, or raise RunError when the run began with others. Returns it."""
    digest = tensors_digest(starting_weights(model))
    session.run.pin({f"{name} ({model.precision})": digest})  # a frozen base is kept in its precision
    return digest


def starting_weights(model: Model) -> list[tuple[str, Tensor]]:
    """All weights by name, before training. Under LoRA without the trained ones: what training adds comes from the seed, the base is what
    matters."""
    named = [*model.module.named_parameters()]
    named += [(f"{name}_head.{key}", p) for name, head in model.heads.items() for key, p in head.named_parameters()]
    return [(name, p) for name, p in named if model.peft_model is None or not p.requires_grad]


def save_final(session: Session, loaded: Loaded, learner: AnyLearner, units: Sequence[Unit]) -> None:
    """``final/``: what plain transformers loads; ``adapter/``: what PEFT loads, when adapters and nothing but them were trained. ``final/``
    is then read again and compared with ``learner`` on ``units``."""
    folder, whole = session.run.path / "final", learner.whole()
    loaded.model.save(folder, loaded.tokenizer, loaded.processor)
    if loaded.model.peft_model is not None and not loaded.model.whole_parts:
        loaded.model.save_adapter(session.run.path / "adapter", loaded.tokenizer)
    session.saved = compare_saved(folder, session.recipe.model_options, whole, units)


def show_recipe(recipe: Section) -> None:
    """Print the resolved recipe, as YAML."""
    print(yaml.safe_dump(dump(recipe), sort_keys=False, allow_unicode=True), end="")
