"""Stages in order, one recipe. A stage takes what the stage before wrote; any of them can be replaced by the user's own file or model.

In a pipeline recipe ``"@model"`` stands for the pipeline's base model and ``"@sft"``, ``"@preferences"``, ``"@reward"``, ``"@rl"``,
``"@prefer"`` for what that stage left behind (a model folder, a file of comparisons). Each stage has a run directory of its own under
``stages/`` and resumes by itself.

Stages of other names, any number of them, say what they are by ``verb`` and run in the order in which they are written:
``{warm: {verb: prefer, ...}, polish: {verb: rl, model: "@warm", ...}}``.
"""

from __future__ import annotations

import difflib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, create_model, model_serializer, model_validator

from keel.core.config import Section, load, merge, read_recipe
from keel.core.errors import ConfigError
from keel.evaluate.compare import GOLD, GOLD_CONTENT, PromptAnswers, win_shares
from keel.evaluate.hallucination.answers import made_up
from keel.evaluate.report import collect, write_report
from keel.evaluate.statistics import pooled_win_rate
from keel.methods import AlgorithmConfig
from keel.methods.preference import ObjectiveConfig
from keel.models.config import ModelOptions
from keel.render.config import RenderConfig
from keel.runs.directory import METRICS, RunDir, read_summary
from keel.runs.durable import write_atomic
from keel.runs.logs import json_line
from keel.runs.logs import read as read_rows
from keel.runs.memory import give_back_memory, peak_mb
from keel.verbs.assemble import AssembleRecipe, make_model
from keel.verbs.campaign.recipe import LabelRecipe
from keel.verbs.evaluate.recipe import EvalRecipe
from keel.verbs.mine.recipe import MineRecipe
from keel.verbs.mine.run import run_mine
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.preferences.recipe import PreferencesRecipe
from keel.verbs.reward.recipe import RewardRecipe
from keel.verbs.rl.recipe import RLRecipe
from keel.verbs.run import RECIPES, STAGE_FUNCTIONS, STARTED, StageFunction, run_directory, show_price
from keel.verbs.scenes import ScenesRecipe, make_scenes
from keel.verbs.sft.recipe import SFTRecipe
from keel.verbs.shared.recipes import Settings
from keel.verbs.shared.session import show_recipe

log = logging.getLogger("keel")
JOINED = "stages.jsonl"


def _run_labels(recipe: Any, path: Path, parent: str) -> dict[str, Any]:
    """The stage of people, whose server and database are an extra that other pipelines do without."""
    from keel.verbs.campaign.run import run_labels

    return run_labels(recipe, path, parent)


STAGES: Mapping[str, tuple[type[Section], StageFunction]] = {
    **{verb: (recipe, STAGE_FUNCTIONS[verb]) for verb, recipe in RECIPES.items()},
    "scenes": (ScenesRecipe, make_scenes),
    "assemble": (AssembleRecipe, make_model),
    "annotate": (LabelRecipe, _run_labels),
    "mine": (MineRecipe, run_mine),
}
SHARED = ("model_options", "render", "seed", "settings")  # what every stage inherits from the pipeline


class StageList(Section):
    """Stages in the order of their fields; one that is left out is not run."""

    VERBS: ClassVar[Mapping[str, str]] = {}  # by stage

    @model_serializer(mode="wrap")
    def _with_verbs(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is written can be read: a stage under a name of its own says what it is."""
        own = {name: verb for name, verb in self.VERBS.items() if name not in Stages.VERBS}
        return {name: {"verb": own[name], **stage} if name in own else stage for name, stage in write(self).items()}

    def items(self) -> list[tuple[str, Section]]:
        """The stages that are there, by name, in order."""
        return [(name, stage) for name in type(self).model_fields if (stage := getattr(self, name)) is not None]

    def of(self, verb: str) -> dict[str, Section]:
        """Those of one verb, by name, in order."""
        return {name: stage for name, stage in self.items() if self.VERBS[name] == verb}


class Stages(StageList):
    """The stages, in this order. One that is left out is not run."""

    VERBS: ClassVar[Mapping[str, str]] = {
        **{name: name for name in ("sft", "preferences", "reward", "rl", "prefer")},
        "evaluate": "eval",
    }

    sft: SFTRecipe | None = Field(default=None, description="Supervised fine-tuning.")
    preferences: PreferencesRecipe | None = Field(default=None, description="Candidates and simulated annotators.")
    reward: RewardRecipe | None = Field(default=None, description="The reward model.")
    rl: RLRecipe | None = Field(default=None, description="Reinforcement learning.")
    prefer: PreferRecipe | None = Field(default=None, description="Direct preference optimisation.")
    evaluate: EvalRecipe | None = Field(default=None, description="Comparison of two models on held-out prompts.")


class PipelineRecipe(Section):
    """`keel run`: a whole alignment, from a raw model to an evaluated one."""

    model: str = Field(description="The raw model: folder, Hugging Face id, *.gguf, package:PKG/FILE or tiny:ARCH.")
    model_options: ModelOptions = Field(default=ModelOptions(), description="How models are loaded and computed; inherited by every stage.")
    render: RenderConfig = Field(default=RenderConfig(), description="How messages become tokens; inherited by every stage.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of everything that is drawn; inherited by every stage.")
    seeds: list[int] = Field(default=[], description="Run the whole pipeline once for each of these and pool the win rate.")
    run_dir: str = Field(default="", description="Run directory; empty = runs/<recipe's name>. Started again, it resumes.")
    settings: Settings = Field(
        default=Settings(), description="Threads, checkpoints, trackers, self-test, alarms; inherited by every stage."
    )
    algorithm: AlgorithmConfig | None = Field(default=None, description="The RL stage's algorithm (short for stages.rl.algorithm).")
    objective: ObjectiveConfig | None = Field(default=None, description="The prefer stage's objective (short for stages.prefer.objective).")
    stages: Stages = Field(description="The stages and their own settings; those of other names say what they are by `verb`.")

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, raw: Any) -> Any:
        """Hand shared settings down: under each stage's own, section by section and key by key."""
        if not isinstance(raw, Mapping) or not isinstance(raw.get("stages"), Mapping):
            return raw
        shared = {key: raw[key] for key in SHARED if key in raw}
        stages: dict[str, Any] = {}
        for name, stage in raw["stages"].items():
            if not isinstance(stage, Mapping):
                stages[name] = stage
                continue
            verb = stage.get("verb", name)
            own = {"rl": "algorithm", "prefer": "objective"}.get(verb)
            short = {own: raw[own]} if own and raw.get(own) is not None else {}
            makes = STAGES[verb][0].model_fields if verb in STAGES and verb not in RECIPES else shared
            stages[name] = merge(
                {**{key: shared[key] for key in shared if key in makes}, **short},
                {key: value for key, value in stage.items() if key != "verb"},
            )
        return {**raw, "stages": stages}


def load_pipeline(recipe_path: Path, overrides: Sequence[str]) -> PipelineRecipe:
    """The pipeline of a recipe file with its overrides. Raises ConfigError."""
    written = read_recipe(recipe_path)
    if "stages" not in written and ("data" in written or any(written.keys() <= r.model_fields.keys() for r in RECIPES.values() if written)):
        raise ConfigError(
            f"{recipe_path} is the recipe of one stage, not of a pipeline",
            f"start it with keel VERB {recipe_path}: VERB is one of {', '.join(STARTED)}",
        )
    stages = _stages_of(written.get("stages"))
    if stages is None:
        return load(PipelineRecipe, recipe_path, overrides)
    field = PipelineRecipe.model_fields["stages"]
    return load(create_model("PipelineRecipe", __base__=PipelineRecipe, stages=(stages, field)), recipe_path, overrides)


def _stages_of(written: Any) -> type[StageList] | None:
    """The class of stages under names of the recipe's own; None where all have the usual ones. Raises ConfigError for a stage that does not
    say what it is."""
    raw: Mapping[str, Any] = written if isinstance(written, Mapping) else {}
    verbs: dict[str, str] = {}
    for name, stage in raw.items():
        given = stage.get("verb") if isinstance(stage, Mapping) else None
        verb = str(given or Stages.VERBS.get(name, ""))
        if verb not in STAGES or Stages.VERBS.get(name, verb) != verb:
            near = difflib.get_close_matches(str(name), Stages.VERBS, 1)
            meant = f"; did you mean {near[0]}?" if near and given is None else ""
            what = f"its verb cannot be {given!r}" if given else f"a stage of this name needs the key `verb`{meant}"
            raise ConfigError(f"stages.{name}: {what}", f"verbs are: {', '.join(STAGES)}; {', '.join(Stages.VERBS)} have their own")
        verbs[name] = verb
    if verbs.keys() <= Stages.VERBS.keys():
        return None
    described = {name: Field(default=None, description=f"`keel {verb}`") for name, verb in verbs.items()}
    fields: dict[str, Any] = {name: (STAGES[verb][0] | None, described[name]) for name, verb in verbs.items()}
    made = create_model("Stages", __base__=StageList, **fields)
    made.VERBS = verbs
    return made


def run_pipeline(recipe_path: Path, overrides: Sequence[str], *, dry_run: bool = False) -> dict[str, Any]:
    """Run (or resume) the pipeline of a recipe and write its report and summary. Returns the summary."""
    recipe = load_pipeline(recipe_path, overrides)
    _check_references(recipe)
    root = run_directory(recipe.run_dir, recipe_path)
    if dry_run:
        show_recipe(recipe)
        _show_prices(recipe)
        return {"run_dir": str(root), "dry_run": True}
    if not recipe.seeds:
        return _run_once(recipe, root)
    rest = [o for o in overrides if not o.startswith(("seeds=", "run_dir="))]
    summaries: dict[int, dict[str, Any]] = {}
    for seed in recipe.seeds:
        summaries[seed] = _run_once(load_pipeline(recipe_path, [*rest, "seeds=[]", f"seed={seed}"]), root / f"seed-{seed}")
        if summaries[seed].get("interrupted"):
            return summaries[seed]
    return _pool(root, summaries, recipe)


def _run_once(recipe: PipelineRecipe, root: Path) -> dict[str, Any]:
    run = RunDir.open(root, recipe, "run", recipe.seed, argv=sys.argv)
    try:
        if (done := read_summary(root)) is not None:
            log.info("%s is finished already; its report is %s", root, root / "report.html")
            return done
        outputs, summaries = {"model": recipe.model}, {}
        for name, stage in recipe.stages.items():
            log.info("\n== %s ==", name)
            folder = root / "stages" / name
            summary = STAGES[recipe.stages.VERBS[name]][1](resolve_references(stage, outputs), folder, str(root))
            if summary.get("interrupted"):
                return {**summary, "run_dir": str(root), "stage": name}
            give_back_memory()
            summaries[name] = summary
            outputs[name] = str(summary.get("file", folder / "final"))
        summary = _summary(root, summaries, recipe.stages)
        _join_metrics(root, list(summaries))
        run.finish(summary)
        write_report(root / "report.html", collect(root))
        _tell(summary)
        return summary
    finally:
        run.close()


def _show_prices(recipe: PipelineRecipe) -> None:
    """What the stages that call somebody will pay at most. Of one whose data a stage before it makes nothing is known yet."""
    for name, stage in recipe.stages.items():
        if recipe.stages.VERBS[name] not in ("constitution", "improve"):
            continue
        print(f"# {name}:")
        if any(path.startswith("@") for path in stage.data.paths):  # type: ignore[attr-defined]
            print("# calls and price are known once the stages before it have run")
        else:
            show_price(stage)


def _check_references(recipe: PipelineRecipe) -> None:
    """Before hours of work: does every stage only ask for what stages before it leave? Raises ConfigError."""
    there = {"model": recipe.model}
    for name, stage in recipe.stages.items():
        try:
            resolve_references(stage, there)
        except ConfigError as error:
            raise ConfigError(f"stages.{name}: {error.message}") from None
        there[name] = name
    if recipe.seeds and "evaluate" not in recipe.stages.of("eval"):
        raise ConfigError("seeds: there is no evaluate stage whose win rates could be pooled", "add stages.evaluate, or leave out seeds")


def resolve_references(stage: Section, outputs: Mapping[str, str]) -> Section:
    """The stage's recipe with every ``"@name"`` replaced by what that stage left, ``"@name/FILE"`` by a file in it. Raises ConfigError for
    one that has not run."""

    def resolved(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("@"):
            name, _, file = value[1:].partition("/")
            if name not in outputs:
                raise ConfigError(f"{value} names no stage before this one; there are: {', '.join('@' + n for n in outputs)}")
            return f"{outputs[name]}/{file}" if file else outputs[name]
        if isinstance(value, dict):
            return {k: resolved(v) for k, v in value.items()}
        return [resolved(v) for v in value] if isinstance(value, list) else value

    given = stage.model_dump(mode="json", exclude_unset=True)  # what was set stays apart from what is a default
    return type(stage).model_validate(resolved(given))


_SIDES = ("reward", "length", "distinct_1", "distinct_2", "scores")
COMPARED = (
    *(
        "win_rate",
        "win_rate_gold_content",
        "win_rate_reward_model",
        "win_rate_rules",
        "gain",
        "hallucination",
        "kl",
        "retention",
        "languages",
        "level",
    ),
    *(f"{name}_{side}" for name in _SIDES for side in ("before", "after")),
)


def _join_metrics(root: Path, names: Sequence[str]) -> None:
    """``stages.jsonl``: the metrics of all stages in one row of steps, each row with its ``stage`` and the ``total_step`` over all."""
    joined: list[dict[str, Any]] = []
    for name in names:
        done = max((row["total_step"] for row in joined), default=0)
        rows = read_rows(root / "stages" / name / METRICS)
        joined += [{"stage": name, "total_step": done + row["step"], **row} for row in rows]
    write_atomic(root / JOINED, b"".join(json_line(row) for row in joined))


def _summary(root: Path, stages: Mapping[str, Mapping[str, Any]], recipes: StageList) -> dict[str, Any]:
    """The pipeline's summary: the (last) evaluation's numbers on top, seconds by stage, and what each stage said."""
    evaluated = next((stages[name] for name in reversed(recipes.of("eval"))), {})
    summary: dict[str, Any] = {"run_dir": str(root), "verb": "run", "stages": list(stages)}
    summary |= {key: evaluated[key] for key in COMPARED if key in evaluated}
    for name in (*recipes.of("preferences"), *recipes.of("annotate")):
        summary["agreement"] = stages[name]["agreement"]
    for name in recipes.of("reward"):
        if "reward_model" in stages[name]:
            summary["reward_model"] = stages[name]["reward_model"]
    summary["wall_s"] = {name: stage["wall_s"] for name, stage in stages.items()}
    summary["wall_total_s"] = round(sum(summary["wall_s"].values()), 2)
    summary["peak_mb"] = round(max(peak_mb(), *(stage["peak_mb"] for stage in stages.values())), 1)
    summary["models"] = {name: str(root / "stages" / name / "final") for name in stages if (root / "stages" / name / "final").is_dir()}
    return summary


def _pool(root: Path, summaries: Mapping[int, Mapping[str, Any]], recipe: PipelineRecipe) -> dict[str, Any]:
    """Win rates of the seeds side by side, and pooled by prompt."""
    evaluate = recipe.stages.of("eval")["evaluate"]
    assert isinstance(evaluate, EvalRecipe)
    config = evaluate.evaluate
    rows = [
        list(map(PromptAnswers.from_row, read_rows(root / f"seed-{seed}" / "stages" / "evaluate" / "samples" / "evaluation.jsonl")))
        for seed in summaries
    ]
    rows = [[r for r in of_seed if not config.languages or r.language in config.languages] for of_seed in rows]

    def pooled_by(scorer: str) -> dict[str, Any]:
        shares = [win_shares(of_seed, scorer) for of_seed in rows]
        return pooled_win_rate(shares, level=config.level).to_json()

    pooled = pooled_by(GOLD)
    together = made_up(_by_seed(rows), draws=config.draws, level=config.level, seed=config.seed)
    by_seed = {str(seed): summary.get("win_rate") for seed, summary in summaries.items()}
    summary = {"run_dir": str(root), "verb": "run", "seeds": list(summaries), "win_rate": pooled, "win_rate_by_seed": by_seed}
    if any(GOLD_CONTENT in answer.rules for of_seed in rows for row in of_seed for answer in row.after):
        summary["win_rate_gold_content"] = pooled_by(GOLD_CONTENT)
    if together is not None:
        summary["hallucination"] = together
        summary["hallucination_by_seed"] = {str(seed): s["hallucination"] for seed, s in summaries.items() if "hallucination" in s}
    write_atomic(root / "seeds.json", (json.dumps(summary, indent=1) + "\n").encode())
    for seed, rate in by_seed.items():
        if rate is not None:
            log.info("seed %s: gold win rate %.1f%% [%.1f, %.1f]", seed, 100 * rate["mean"], 100 * rate["low"], 100 * rate["high"])
    log.info("pooled: gold win rate %.1f%% [%.1f, %.1f], %d prompts", *(100 * pooled[k] for k in ("mean", "low", "high")), pooled["n"])
    _tell_made_up(together)
    return summary


def _by_seed(rows: Sequence[Sequence[PromptAnswers]]) -> list[PromptAnswers]:
    """One row a prompt, with the answers of all seeds: they are no independent prompts."""
    together: dict[str, list[PromptAnswers]] = {}
    for row in (row for of_seed in rows for row in of_seed):
        together.setdefault(row.prompt_id, []).append(row)
    return [
        replace(same[0], before=tuple(a for row in same for a in row.before), after=tuple(a for row in same for a in row.after))
        for same in together.values()
    ]


def _tell_made_up(found: Mapping[str, Any] | None) -> None:
    """How often answers make something up, before and after, and how much of the truth they tell."""
    if found is None:
        return
    for name, rate in found["rates"].items():
        if name not in ("errors_per_answer", "weighted"):
            change = (
                ""
                if rate["change"] is None
                else ", {:+.0%} [{:+.0%}, {:+.0%}]".format(*(rate["change"][k] for k in ("mean", "low", "high")))
            )
            what = "answers that make something up" if name == "any" else f"  {name}"
            log.info("%s: %.1f%% -> %.1f%%%s", what, 100 * rate["before"]["mean"], 100 * rate["after"]["mean"], change)
    for name in ("coverage", "silent"):
        if name in found:
            log.info("%s: %.3f -> %.3f", name, found[name]["before"]["mean"], found[name]["after"]["mean"])


def _tell(summary: Mapping[str, Any]) -> None:
    """The outcome in a few lines, for whoever watches."""
    rate = summary.get("win_rate")
    if rate is not None:
        text = "gold win rate over the model before: %.1f%% [%.1f, %.1f] on %d prompts"
        log.info("\n" + text, 100 * rate["mean"], 100 * rate["low"], 100 * rate["high"], rate["n"])
    _tell_made_up(summary.get("hallucination"))
    if "reward_before" in summary:
        log.info(
            "reward model: %.3f -> %.3f (standardised; the gold utility is not part of any reward)",
            summary["reward_before"],
            summary["reward_after"],
        )
    if "kl" in summary:
        log.info("KL to the model before: %.2f nats per answer", summary["kl"]["mean"])
    log.info("%.0f s in all; report: %s", summary["wall_total_s"], Path(summary["run_dir"]) / "report.html")
