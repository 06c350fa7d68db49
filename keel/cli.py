"""The one console script: verbs only. Each verb is imported when it is asked for, so that `keel --help` does not load torch."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keel.advise.cli import add_arguments as advise_arguments
from keel.core.errors import UserError

Summary = Mapping[str, Any]


def _stage(verb: str) -> Callable[[argparse.Namespace], Summary | None]:
    def run(args: argparse.Namespace) -> Summary | None:
        from keel.verbs.run import run_verb

        return run_verb(verb, Path(args.recipe), args.overrides, dry_run=args.dry_run)

    return run


def _pipeline(args: argparse.Namespace) -> Summary | None:
    from keel.pipeline import run_pipeline

    return run_pipeline(Path(args.recipe), args.overrides, dry_run=args.dry_run)


def _doctor(args: argparse.Namespace) -> Summary:
    from keel.doctor import doctor

    return doctor(args.model, args.overrides)


def _data_show(args: argparse.Namespace) -> Summary:
    if args.what == "clean":
        from keel.verbs.data_clean import data_clean

        if not args.out:
            raise UserError("keel data clean needs --out FILE", "name the file for the rows that stay, e.g. --out clean.jsonl")
        return data_clean(args.path, args.out, args.overrides)
    if args.out:
        raise UserError("--out belongs to keel data clean", "leave it out")
    from keel.verbs.data_show import data_show

    return data_show(args.path, args.model, args.rows, args.overrides)


def _scenes(args: argparse.Namespace) -> Summary:
    from keel.verbs.scenes import run_scenes

    return run_scenes(args.folder, args.overrides)


def _assemble(args: argparse.Namespace) -> Summary:
    from keel.verbs.assemble import run_assemble

    return run_assemble(args.folder, args.overrides)


def _score(args: argparse.Namespace) -> Summary:
    from keel.verbs.score.run import run_score

    return run_score(args.file, args.reward, args.out, args.overrides, args.cache)


def _runs(args: argparse.Namespace) -> Summary:
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


def _watch(args: argparse.Namespace) -> Summary:
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


def _report(args: argparse.Namespace) -> Summary:
    from keel.evaluate.report import collect, write_report

    target = Path(args.run_dir) / "report.html"
    write_report(target, collect(Path(args.run_dir)))
    return {"report": str(target)}


def _eval_reward(args: argparse.Namespace) -> Summary:
    from keel.verbs.eval_reward.run import run_eval_reward

    return run_eval_reward(args.model, args.data, args.json_file, args.html, args.overrides)


def _eval_hallucination(args: argparse.Namespace) -> Summary:
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


def _feedback(args: argparse.Namespace) -> Summary:
    from keel.verbs.feedback import run

    match args.what:
        case "import":
            return run.run_import(args.store, args.names, args.campaign, args.format)
        case "export":
            return run.run_export(args.store, args.campaign, args.out, args.form, args.without)
        case "status":
            return run.run_status(args.store)
        case "snapshot":
            return run.run_snapshot(args.store, args.campaign, args.without)
    if len(args.names) != 1:
        raise UserError(f"keel feedback {args.what} needs one name, got {len(args.names)}", "an annotator, an event, or for lineage a run")
    if args.what == "retract":
        return run.run_retract(args.store, args.names[0], args.why, args.root, args.dry_run)
    return run.run_lineage(args.store, args.names[0], args.root)


def _judge(args: argparse.Namespace) -> Summary:
    from keel.verbs.judge.run import run_judge

    named = {"judge": args.judge, "judges": args.judges, "out": args.out, "report": args.report, "override": args.override}
    given = [f"{name}={json.dumps(value)}" for name, value in named.items() if value]
    return run_judge(args.target, [*args.overrides, *given], dry_run=args.dry_run)


def _judge_report(args: argparse.Namespace) -> Summary:
    from keel.verbs.judge.report import run_judge_report

    return run_judge_report(args.labels, args.judge, args.judges, args.json_file, args.html, args.overrides)


def _serve(args: argparse.Namespace) -> Summary:
    from keel.verbs.serve_reward import run_serve_reward

    return run_serve_reward(args.model, args.port, args.overrides)


def _annotate(args: argparse.Namespace) -> Summary:
    from keel.verbs.annotate.run import run_annotate

    where = {"host": args.host, "port": args.port, "public_url": args.public_url}
    where |= {"browser": not args.no_browser, "runs": args.root}
    return run_annotate(args.store, args.campaign, args.tasks, overrides=args.overrides, **where)


def _merge(args: argparse.Namespace) -> Summary:
    from keel.verbs.merge import run_merge

    return run_merge(args.models, args.out, args.weights)


LABS = {
    "bench": "time, memory and learning, beside TRL or alone",
    "study": "over-optimisation, and the frontier of reward against KL",
}


def _lab(name: str) -> Any:
    """The command line of a room of the laboratory, which lies beside the library in a checkout; None where it does not."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "labs" / name).is_dir():
        return None
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))
    return importlib.import_module(f"labs.{name}.cli")


def _no_lab(args: argparse.Namespace) -> None:
    raise UserError(f"keel {args.verb} is not part of the installed library", "run it in a checkout of Keel: pip install -e .")


def _reference(args: argparse.Namespace) -> None:
    from keel.reference import reference_markdown

    print(reference_markdown(), end="")


DOCTOR_MODEL = "tiny:llama"
STAGES = {
    "sft": "supervised fine-tuning on demonstrations",
    "reward": "train a reward model on preferences",
    "prefer": "direct preference optimisation (DPO, KTO, SimPO ...)",
    "offline": "reinforcement learning on logged rewards (AWR, REINFORCE, TOPR)",
    "rl": "reinforcement learning (GRPO, PPO, RLOO ...)",
    "eval": "compare two models on held-out prompts",
    "improve": "rounds of generate, judge, train, stopped by a held-out measure",
    "collect": "answers from several sources as tasks for annotators",
}


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, is {text!r}")
    return int(text)


Add = Callable[[str, str, Callable[[argparse.Namespace], Summary | None]], argparse.ArgumentParser]


def parser(given: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The command line. Overrides are `key.path=value`, values are YAML. ``given``: its words, where they are known; the table of rewards
    is read only for the help of `keel score`."""
    top = argparse.ArgumentParser(prog="keel", description="Align language models with what people prefer.")
    top.add_argument("--version", action="store_true", help="print the version")
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the summary as one JSON line, last on standard output")

    def add(name: str, help_text: str, action: Callable[[argparse.Namespace], Summary | None]) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help_text, parents=[common], description=help_text)
        sub.set_defaults(action=action)
        return sub

    _add_recipes(add)
    _add_looks(add)
    _add_score(add, _reward_names() if "score" in given else "NAME")
    _add_eval_reward(verbs.add_parser("eval-reward", help="measure a reward model: keel eval reward MODEL DATA"))
    _add_eval_hallucination(
        verbs.add_parser(
            "eval-hallucination", help="measure hallucination in a file of answers: keel eval hallucination FILE --measure NAME"
        )
    )
    _add_models(add)
    _add_annotate(add)
    _add_feedback(add)
    _add_judge(add)
    _add_judge_report(verbs.add_parser("judge-report", help="measure a judge beside people: keel judge report --labels FILE --judge NAME"))
    _add_watch(verbs.add_parser("watch", help="rules on a run, while it goes or afterwards: keel watch RUN, keel watch test RULES"))
    advise_arguments(verbs.add_parser("advise", help="measure data and machine, and say which way to take"))
    for name, help_text in LABS.items():
        sub = verbs.add_parser(name, help=help_text)
        lab = _lab(name)
        sub.set_defaults(action=lab.run if lab is not None else _no_lab)
        if lab is not None:
            lab.add_arguments(sub)
        else:
            sub.add_argument("rest", nargs=argparse.REMAINDER)
    _add_runs(add)
    add("reference", "print every setting as Markdown", _reference)
    return top


def _add_recipes(add: Add) -> None:
    for name, help_text in {"run": "a whole pipeline from one recipe"}.items() | STAGES.items():
        sub = add(name, help_text, _pipeline if name == "run" else _stage(name))
        sub.add_argument("recipe", help="YAML file, see recipes/")
        sub.add_argument(
            "overrides", nargs="*", default=[], metavar="key.path=value", help="settings over the recipe; run_dir=DIR starts or resumes DIR"
        )
        sub.add_argument("--dry-run", action="store_true", help="print the resolved recipe and stop")


def _add_looks(add: Add) -> None:
    sub = add("doctor", "prove that this machine and this model compute what they should", _doctor)
    sub.add_argument("model", nargs="?", default=DOCTOR_MODEL, help="folder, id, GGUF file or tiny:ARCH")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. seed=1")
    sub = add("data", "look at data, or clean it: keel data show PATH, keel data clean PATH --out FILE", _data_show)
    sub.add_argument("what", choices=["show", "clean"])
    sub.add_argument("path", help="file, folder or data set id")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. data.layout=alpaca render.loss_on=last")
    sub.add_argument("--model", default="tiny:llama", help="whose tokenizer and template render the rows")
    sub.add_argument("--rows", type=_count, default=3, help="how many rows to show")
    sub.add_argument("--out", default="", metavar="FILE", help="clean: where the rows that stay go (JSONL); the others go beside it")
    sub = add("assemble", "join a vision tower and a language model to one that reads pictures", _assemble)
    sub.add_argument("folder", help="a new folder for the model")
    sub.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. vision=FOLDER language=FOLDER align.path=FILE"
    )
    sub = add("scenes", "write pictures with everything known about them, and rows to train and evaluate on", _scenes)
    sub.add_argument("folder", help="a new folder")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. n=500 scenes.objects=[1,5] planted.count=0.2")


def _reward_names() -> str:
    from keel.rewards.table import scorer_names

    return ", ".join(scorer_names())


def _add_score(add: Add, rewards: str) -> None:
    sub = add("score", "score a file of answers with any reward", _score)
    sub.add_argument("file", help="rows {prompt, completion, ...}: JSONL, JSON, CSV, Parquet")
    sub.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings of the reward, e.g. pattern='[0-9]+' truth=answer"
    )
    sub.add_argument("--reward", required=True, help=f"one of {rewards}")
    sub.add_argument("--out", default="", metavar="FILE", help="where the rows go, each with score, reason and error (JSONL)")
    sub.add_argument("--cache", default="", metavar="DIR", help="keep scores here, and take from here what the same reward scored before")


def _add_eval_reward(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(action=_eval_reward, json=False)
    sub.add_argument("model", help="folder that keel reward made, or any model with a score head")
    sub.add_argument("data", help="labelled data: file, folder or data set id")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. trained_on.path=train.jsonl stress_pairs=50")
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where the measures go")
    sub.add_argument("--html", default="", metavar="FILE", help="where the page goes")


HALLUCINATION_MEASURES = ("chair", "objhal", "pope", "amber", "mmhal", "hallusion")


def _add_eval_hallucination(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(action=_eval_hallucination, json=False)
    sub.add_argument("file", nargs="?", default="", help="answers: JSONL, JSON, or the published benchmark's own format")
    sub.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. truth=labels.jsonl mode=original rows=verdicts.jsonl"
    )
    sub.add_argument("--measure", default="", choices=HALLUCINATION_MEASURES, help="which measure")
    sub.add_argument("--check-sample", metavar="SHARE", help="write this share of the verdicts as tasks for people, e.g. 0.05")
    sub.add_argument("--agreement", default="", metavar="FILE", help="read people's answers to such tasks: agreement and kappa by type")
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where the measures go")


def _add_models(add: Add) -> None:
    sub = add("serve", "serve a reward model over HTTP: keel serve reward MODEL", _serve)
    sub.add_argument("what", choices=["reward"])
    sub.add_argument("model", help="folder that keel reward made, or any model with a score head")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. host=0.0.0.0 queue.waiting=4096")
    sub.add_argument("--port", type=int, default=5000, help="0 = one that is free")
    sub = add("merge", "a model whose weights lie between those of others", _merge)
    sub.add_argument("models", nargs="+", metavar="MODEL", help="folders, ids or GGUF files of one architecture")
    sub.add_argument("--weights", nargs="+", type=float, metavar="W", help="one a model, adding up to 1; all the same where there are none")
    sub.add_argument("--out", required=True, metavar="DIR", help="where the merged model goes; a folder that plain transformers loads")


def _add_feedback(add: Add) -> None:
    sub = add("feedback", "the store of judgements: import, export, snapshots, retraction, lineage", _feedback)
    sub.add_argument("what", choices=["import", "export", "status", "snapshot", "retract", "lineage"])
    sub.add_argument("names", nargs="*", help="import: files; retract: an annotator or event; lineage: one of these, a snapshot or a run")
    sub.add_argument("--store", required=True, metavar="URL", help="sqlite:///feedback.db or postgresql://user@host/name")
    sub.add_argument("--campaign", default="", metavar="NAME", help="which one; import of comparisons: the file's name unless given")
    sub.add_argument("--out", default="", metavar="FILE", help="export: where the rows go (JSONL)")
    sub.add_argument(
        "--as",
        dest="form",
        default="judgements",
        metavar="FORM",
        help="export: judgements (all, read back by import), training, unpaired, comparison, preference, ranking, rating, or another "
        "tool's format (docs/feedback_formats.md)",
    )
    sub.add_argument("--format", default="auto", metavar="NAME", help="import: another tool's format; auto = told by the content")
    sub.add_argument("--without", nargs="+", default=[], metavar="WHO", help="export, snapshot: annotators to leave out")
    sub.add_argument("--why", default="", help="retract: the reason, kept with it")
    sub.add_argument("--root", default="runs", metavar="DIR", help="retract, lineage: folder that holds the runs")
    sub.add_argument("--dry-run", action="store_true", help="retract: only list what saw the judgements")


def _add_annotate(add: Add) -> None:
    sub = add("annotate", "people judge in the browser: pairs, rankings, ratings, marked errors", _annotate)
    sub.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value", help="settings of the campaign, e.g. wanted=3 page.min_read_ms=800"
    )
    sub.add_argument("--store", default="annotations.db", metavar="URL", help="a SQLite file, or postgresql://user@host/name")
    sub.add_argument("--campaign", default="", metavar="NAME", help="which one; not needed when the store holds one")
    sub.add_argument("--tasks", default="", metavar="FILE", help="tasks to take in, one a line (docs/annotate.md)")
    sub.add_argument("--host", default="127.0.0.1", help="where to listen; 0.0.0.0: everywhere")
    sub.add_argument("--port", type=_count, default=8766, help="0 = one that is free")
    sub.add_argument("--public-url", default="", metavar="URL", help="how people reach the server through one with https before it")
    sub.add_argument("--no-browser", action="store_true", help="open no browser")
    sub.add_argument("--root", default="runs", metavar="DIR", help="folder of training runs, for the page of lineage")


def _add_judge(add: Add) -> None:
    sub = add("judge", "let a judge compare, order or score answers", _judge)
    sub.add_argument("target", help="a recipe (.yaml), or a file of answers: rows {prompt, answers}, pairs, rankings, single answers")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. samples=2 kind=rubric store=sqlite:///f.db")
    sub.add_argument("--judge", default="", metavar="NAME", help="which judge of the file of judges")
    sub.add_argument("--judges", default="", metavar="FILE", help="the file of judges; recipes/judges.yaml unless given")
    sub.add_argument("--out", default="", metavar="FILE", help="where the judgements go (JSONL, as keel feedback import reads it)")
    sub.add_argument("--report", default="", metavar="FILE", help="report of keel judge report that lets this judge label")
    sub.add_argument("--override", default="", metavar="NAME", help="the judge's name: let it label without a passed report")
    sub.add_argument("--dry-run", action="store_true", help="say how many calls there are and what they cost, and stop")


def _add_judge_report(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(action=_judge_report, json=False)
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. samples=3 gate.order_flip=0.1")
    sub.add_argument("--labels", required=True, metavar="FILE", help="pairs with people's labels")
    sub.add_argument("--judge", required=True, metavar="NAME", help="which judge of the file of judges")
    sub.add_argument("--judges", default="", metavar="FILE", help="the file of judges; recipes/judges.yaml unless given")
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where the report goes; rewards and scorers ask for it")
    sub.add_argument("--html", default="", metavar="FILE", help="where the page goes")


def _positive(text: str) -> float:
    value = float(text) if re.fullmatch(r"\d+\.?\d*|\.\d+", text) else 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, is {text!r}")
    return value


def _add_watch(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(action=_watch, json=False)
    sub.add_argument("what", nargs="+", metavar="RUN", help="run directory or log of another trainer; or: test RULES ...")
    sub.add_argument("--rules", default="", metavar="FILE", help="a rule file, default or documents; the run's own rules unless given")
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where what was found goes")
    sub.add_argument("--follow", action="store_true", help="go on until the run is over; say when it stalls or its process is gone")
    sub.add_argument("--factor", type=_positive, default=10.0, metavar="N", help="follow: stalled after N times the usual step")
    sub.add_argument("--every", type=_positive, default=5.0, metavar="SECONDS", help="follow: how often to look")


def _add_runs(add: Add) -> None:
    sub = add("runs", "list runs, or compare some", _runs)
    sub.add_argument("--root", default="runs", help="folder that holds the runs")
    sub.add_argument("--compare", nargs="+", metavar="DIR", help="run directories to set side by side")
    sub.add_argument("--plot", default="", metavar="FILE", help="draw metrics of the compared runs there (PNG, SVG or PDF)")
    sub.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help="which ones, e.g. reward kl")
    sub = add("report", "write report.html of a run again", _report)
    sub.add_argument("run_dir")


_JSON_FILE = ("bench", "eval-reward", "eval-hallucination", "judge-report", "advise", "study", "watch")  # verbs whose --json names a file


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, options and overrides in any order (argparse alone stops taking overrides at the first option between them, and
    takes ``--json`` after the verb only)."""
    given = list(sys.argv[1:] if argv is None else argv)
    top = parser(given)
    if given[:2] in (["eval", "reward"], ["eval", "hallucination"], ["judge", "report"]):
        given[:2] = ["-".join(given[:2])]
    names_a_file = given[:1] and given[0] in _JSON_FILE
    args, rest = top.parse_known_args(given if names_a_file else [a for a in given if a != "--json"])
    if not names_a_file:
        args.json = "--json" in given
    unknown = [a for a in rest if a.startswith("-") or "=" not in a or not hasattr(args, "overrides")]
    if unknown:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    if args.verb == "doctor" and re.match(r"[\w.]+=", args.model):  # `keel doctor seed=1`: an override, and the usual model
        args.overrides, args.model = [args.model, *args.overrides], DOCTOR_MODEL
    return args


DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})


def _disk_trouble(error: OSError) -> UserError:
    """A file that could not be written in the middle of work, wherever that was."""
    where = f"{error.filename}: " if error.filename else ""
    return UserError(
        f"{where}{error.strerror}", "free some space, or make it writable, and start the same command again: a run goes on where it was"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 2 a mistake of the user's (one message, no traceback), 130 interrupted (resumable)."""
    args = parse(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("keel").setLevel(logging.INFO)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if args.version:
        from keel.core.version import VERSION

        print(VERSION)
        return 0
    if args.verb is None:
        parser().print_help()
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show Chinese shows its escapes
    try:
        summary = args.action(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in DISK_TROUBLE:
            raise
        print(f"error: {_disk_trouble(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if summary is not None and args.json:
        from keel.runs.logs import plain

        print(json.dumps(plain(summary), ensure_ascii=False, allow_nan=False))
    return 130 if summary is not None and summary.get("interrupted") else 0


if __name__ == "__main__":
    sys.exit(main())
