"""What each verb does with its parsed arguments. Whatever a verb needs is imported when it runs, so that `keel --help` loads no torch."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keel.core.errors import UserError

Summary = Mapping[str, Any]

DOCTOR_MODEL = "tiny:llama"
STAGES = {
    "sft": "supervised fine-tuning on demonstrations",
    "reward": "train a reward model on preferences",
    "prefer": "direct preference optimisation (DPO, KTO, SimPO ...)",
    "offline": "reinforcement learning on logged rewards (AWR, REINFORCE, TOPR)",
    "rl": "reinforcement learning (GRPO, PPO, RLOO ...)",
    "eval": "compare models on held-out prompts",
    "improve": "rounds of generate, judge, train, stopped by a held-out measure",
    "collect": "answers from several sources as tasks for annotators",
    "constitution": "answers scored by principles, criticised and revised: demonstrations and pairs",
}
HALLUCINATION_MEASURES = ("chair", "objhal", "pope", "amber", "mmhal", "hallusion")
LABS = {
    "bench": "time, memory and learning, beside TRL or alone",
    "study": "over-optimisation, and the frontier of reward against KL",
    "watchbench": "how good the rules of the watch are: healthy and sick runs, and what rules say of them",
}


def stage(verb: str) -> Callable[[argparse.Namespace], Summary | None]:
    def run(args: argparse.Namespace) -> Summary | None:
        from keel.verbs.run import run_verb

        summary = run_verb(verb, Path(args.recipe), args.overrides, dry_run=args.dry_run)
        if json_file := getattr(args, "json_file", ""):
            _write_json(Path(json_file), summary)
        return summary

    return run


def _write_json(path: Path, summary: Summary) -> None:
    from keel.runs.durable import write_atomic
    from keel.runs.logs import plain

    write_atomic(path, (json.dumps(plain(summary), ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode())


def pipeline(args: argparse.Namespace) -> Summary | None:
    from keel.pipeline import run_pipeline

    return run_pipeline(Path(args.recipe), args.overrides, dry_run=args.dry_run)


def check(args: argparse.Namespace) -> Summary:
    from keel.check import run_check

    found = run_check(args.target, args.overrides, args.verb_of, args.lang)
    if args.out:
        _write_json(Path(args.out), found)
    return found


def ablate(args: argparse.Namespace) -> Summary:
    from keel.ablate.run import run_ablate

    jobs = [f"ablate.jobs={args.jobs}"] if args.jobs else []
    return run_ablate(Path(args.recipe), [*args.keys, *jobs], args.overrides, dry_run=args.dry_run)


def cases(args: argparse.Namespace) -> Summary:
    from keel.verbs.cases.run import run_cases

    return run_cases(Path(args.run), args.overrides, args.store, args.campaign, args.out)


def mine(args: argparse.Namespace) -> Summary:
    from keel.mining import mine_run

    return mine_run(Path(args.run), args.to, args.campaign, args.overrides, args.out)


def tune(args: argparse.Namespace) -> Summary:
    from keel.tune.run import run_tune

    return run_tune(Path(args.recipe), args.overrides, dry_run=args.dry_run)


def doctor(args: argparse.Namespace) -> Summary:
    from keel.doctor import doctor

    return doctor(args.model, args.overrides)


def data(args: argparse.Namespace) -> Summary:
    if args.what == "clean":
        from keel.verbs.data_clean import data_clean

        if not args.out:
            raise UserError("keel data clean needs --out FILE", "name the file for the rows that stay, e.g. --out clean.jsonl")
        return data_clean(args.path, args.out, args.overrides)
    if args.out:
        raise UserError("--out belongs to keel data clean", "leave it out")
    from keel.verbs.data_show import data_show

    return data_show(args.path, args.model, args.rows, args.overrides)


def scenes(args: argparse.Namespace) -> Summary:
    from keel.verbs.scenes import run_scenes

    return run_scenes(args.folder, args.overrides)


def assemble(args: argparse.Namespace) -> Summary:
    from keel.verbs.assemble import run_assemble

    return run_assemble(args.folder, args.overrides)


def score(args: argparse.Namespace) -> Summary:
    from keel.verbs.score.run import run_score

    return run_score(args.file, args.reward, args.out, args.overrides, args.cache)


def reward_names() -> str:
    from keel.rewards.table import scorer_names

    return ", ".join(scorer_names())


def runs(args: argparse.Namespace) -> Summary:
    from keel.runs.listing import compare, list_runs, print_comparison, print_runs

    if bool(args.plot) != bool(args.metrics) or (args.plot and not args.compare):
        raise UserError("--plot FILE, --metrics NAME ... and --compare DIR ... go together")
    if args.compare:
        table = compare([Path(p) for p in args.compare])
        print_comparison(table)
        if args.plot:
            from keel.evaluate.run_plots import plot_runs

            plot_runs([Path(p) for p in args.compare], args.metrics, Path(args.plot))
        return {"compare": args.compare}
    rows = list_runs(Path(args.root))
    print_runs(rows)
    return {"runs": [str(row.path) for row in rows]}


def watch(args: argparse.Namespace) -> Summary:
    from keel.verbs.watch import run

    if args.what[0] == "test":
        if args.rules or args.json_file or args.follow:
            raise UserError("keel watch test takes rule files, and nothing else", "keel watch test rules.yaml")
        return run.run_rule_tests(args.what[1:])
    if len(args.what) != 1:
        raise UserError(f"keel watch needs one run, got {len(args.what)}", "keel watch RUN, or keel watch test RULES")
    if args.follow:
        return run.follow(args.what[0], args.rules, args.json_file, args.factor, args.every)
    return run.run_watch(args.what[0], args.rules, args.json_file)


def report(args: argparse.Namespace) -> Summary:
    from keel.evaluate.report import collect, write_report

    target = Path(args.run_dir) / "report.html"
    write_report(target, collect(Path(args.run_dir)))
    return {"report": str(target)}


def eval_reward(args: argparse.Namespace) -> Summary:
    from keel.verbs.eval_reward.run import run_eval_reward

    return run_eval_reward(args.model, args.data, args.json_file, args.html, args.overrides)


def eval_hallucination(args: argparse.Namespace) -> Summary:
    from keel.verbs.eval_hallucination.run import run_eval_hallucination

    if args.agreement:
        from keel.verbs.eval_hallucination.agreement import run_agreement

        if args.file or args.measure or args.check_sample is not None or args.overrides:
            raise UserError("--agreement reads the answers to a check sample, and nothing else", "leave FILE, --measure and settings out")
        return run_agreement(args.agreement, args.json_file)
    if not args.file or not args.measure:
        raise UserError("FILE and --measure are needed", f"keel eval hallucination FILE --measure {'|'.join(HALLUCINATION_MEASURES)}")
    sample = [] if args.check_sample is None else [f"check_sample={args.check_sample}"]
    return run_eval_hallucination(args.file, args.measure, args.json_file, [*args.overrides, *sample])


def eval_refusals(args: argparse.Namespace) -> Summary:
    from keel.verbs.eval_refusals.run import run_eval_refusals

    files, settings = [w for w in args.files if "=" not in w], [w for w in args.files if "=" in w]
    return run_eval_refusals(files, args.json_file, [*settings, *args.overrides])


def ab(args: argparse.Namespace) -> Summary:
    from keel.verbs.ab import run

    if args.html and args.what != "check":
        raise UserError("--html belongs to keel ab check", "leave it out")
    overrides = [word for word in args.names if "=" in word]
    keys = [word for word in args.names if "=" not in word]
    if args.what == "assign":
        return run.run_assign(args.file, keys, args.json_file, overrides)
    if keys:
        raise UserError(f"keel ab {args.what} takes one file and settings, not {keys[0]!r}", "settings look like key.path=value")
    if args.what == "plan":
        return run.run_plan(args.file, args.json_file, overrides)
    return run.run_check(args.file, args.json_file, args.html, overrides)


def feedback(args: argparse.Namespace) -> Summary:
    from keel.verbs.feedback import run

    match args.what:
        case "import":
            return run.run_import(args.store, args.names, args.campaign, args.format)
        case "export":
            return run.run_export(args.store, args.campaign, args.out, args.form, args.without, args.surplus)
        case "status":
            return run.run_status(args.store)
        case "snapshot":
            return run.run_snapshot(args.store, args.campaign, args.without, args.surplus)
    if len(args.names) != 1:
        raise UserError(f"keel feedback {args.what} needs one name, got {len(args.names)}", "an annotator, an event, or for lineage a run")
    if args.what == "retract":
        return run.run_retract(args.store, args.names[0], args.why, args.root, args.dry_run)
    return run.run_lineage(args.store, args.names[0], args.root)


def judge(args: argparse.Namespace) -> Summary:
    from keel.verbs.judge.run import run_judge

    named = {"judge": args.judge, "judges": args.judges, "out": args.out, "report": args.report, "override": args.override}
    given = [f"{name}={json.dumps(value)}" for name, value in named.items() if value]
    target, more = ("", [args.target]) if "=" in args.target and not Path(args.target).is_file() else (args.target, [])
    return run_judge(target, [*more, *args.overrides, *given], dry_run=args.dry_run)


def judge_report(args: argparse.Namespace) -> Summary:
    from keel.verbs.judge.report import run_judge_report

    return run_judge_report(args.labels, args.judge, args.judges, args.json_file, args.html, args.overrides)


def serve(args: argparse.Namespace) -> Summary:
    if args.what == "rollouts":
        from keel.verbs.serve_rollouts import run_serve_rollouts

        return run_serve_rollouts(args.host, args.port, [*([args.model] if args.model else []), *args.overrides])
    if not args.model:
        raise UserError(f"keel serve {args.what} needs a model", f"keel serve {args.what} MODEL")
    if args.what == "policy":
        from keel.verbs.serve_policy.run import run_serve_policy

        return run_serve_policy(args.model, args.host, args.port, args.overrides)
    from keel.verbs.serve_reward import run_serve_reward

    host = [f"host={args.host}"] if args.host else []
    return run_serve_reward(args.model, 5000 if args.port is None else args.port, [*host, *args.overrides])


def sweep(args: argparse.Namespace) -> Summary:
    from keel.verbs.sweep.run import run_sweep

    return run_sweep(args.model, args.overrides)


def drift(args: argparse.Namespace) -> Summary:
    from keel.verbs.drift.run import run_drift

    return run_drift(args.before, args.now, args.overrides)


def chat(args: argparse.Namespace) -> Summary:
    from keel.verbs.chat.run import run_chat

    return run_chat(args.names, args.page, args.host, args.port, not args.no_browser, args.overrides)


def annotate(args: argparse.Namespace) -> Summary:
    from keel.verbs.annotate.run import run_annotate

    where = {"host": args.host, "port": args.port, "public_url": args.public_url}
    where |= {"browser": not args.no_browser, "runs": args.root}
    return run_annotate(args.store, args.campaign, args.tasks, overrides=args.overrides, **where)


def dash(args: argparse.Namespace) -> Summary:
    from keel.dash.server import run_dash

    return run_dash(args.folder, args.host, args.port, browser=not args.no_browser)


def merge(args: argparse.Namespace) -> Summary:
    from keel.verbs.merge import run_merge

    return run_merge(args.models, args.out, args.weights)


def export(args: argparse.Namespace) -> Summary:
    from keel.verbs.export.run import run_export

    named = {"to": args.to, "dtype": args.dtype, "quant": args.quant}
    return run_export(args.run, args.out, args.prompts, [f"{name}={value}" for name, value in named.items() if value])


def release(args: argparse.Namespace) -> Summary:
    from keel.verbs.release.run import run_release

    return run_release(args.run, args.gates, args.out, args.root, args.overrides)


def lab(name: str) -> Any:
    """The command line of a room of the laboratory, which lies beside the library in a checkout; None where it does not."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "labs" / name).is_dir():
        return None
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))
    return importlib.import_module(f"labs.{name}.cli")


def no_lab(args: argparse.Namespace) -> None:
    raise UserError(f"keel {args.verb} is not part of the installed library", "run it in a checkout of Keel: pip install -e .")


def reference(args: argparse.Namespace) -> None:
    from keel.reference import reference_markdown, setting_keys

    print(setting_keys() if args.keys else reference_markdown(), end="")
