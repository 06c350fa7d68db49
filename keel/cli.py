"""The one console script: its arguments, errors and exit codes. What the verbs do is in `keel.commands`."""

from __future__ import annotations

import argparse
import errno
import io
import json
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Sequence

from keel import commands, extras
from keel.advise.cli import add_arguments as advise_arguments
from keel.completion.cli import add_arguments as completion_arguments
from keel.core.errors import UserError
from keel.help import Parser, next_step, no_such_command
from keel.new.cli import add_arguments as new_arguments
from keel.plan.cli import add_arguments as plan_arguments


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, is {text!r}")
    return int(text)


Add = Callable[[str, str, Callable[[argparse.Namespace], commands.Summary | None]], argparse.ArgumentParser]


def parser(given: Sequence[str] = ()) -> Parser:
    """The command line. Overrides are `key.path=value`, values are YAML. ``given``: its words, where they are known; the table of rewards
    is read only for the help of `keel score`, the laboratory only for its own verbs."""
    top = Parser(prog="keel", description="Align language models with what people prefer.")
    top.add_argument("--version", action="store_true", help="print the version")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", parser_class=argparse.ArgumentParser)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the summary as one JSON line, last on standard output")

    def add(name: str, help_text: str, action: Callable[[argparse.Namespace], commands.Summary | None]) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help_text, parents=[common], description=help_text)
        sub.set_defaults(action=action)
        return sub

    new_arguments(verbs.add_parser("new", help="a project that runs: recipe, data, the next commands", parents=[common]))
    _add_recipes(add)
    _add_looks(add)
    _add_score(add, commands.reward_names() if "score" in given else "NAME")
    _add_eval_reward(verbs.add_parser("eval-reward", help="measure a reward model: keel eval reward MODEL DATA"))
    _add_eval_hallucination(
        verbs.add_parser(
            "eval-hallucination", help="measure hallucination in a file of answers: keel eval hallucination FILE --measure NAME"
        )
    )
    _add_eval_refusals(verbs.add_parser("eval-refusals", help="answers that turn down what was asked, by class: keel eval refusals FILE"))
    _add_models(add)
    _add_chat(add)
    _add_annotate(add)
    _add_dash(add)
    _add_cases(add)
    _add_feedback(add)
    _add_judge(add)
    _add_judge_report(verbs.add_parser("judge-report", help="measure a judge beside people: keel judge report --labels FILE --judge NAME"))
    _add_watch(verbs.add_parser("watch", help="rules on a run, while it goes or afterwards: keel watch RUN, keel watch test RULES"))
    _add_ab(verbs.add_parser("ab", help="is B better than A: keel ab plan FILE, keel ab check FILE"))
    advise_arguments(verbs.add_parser("advise", help="measure data and machine, and say which way to take"))
    plan_arguments(verbs.add_parser("plan", help="memory and time of a run before it starts, and what to change so that it fits"))
    for name, help_text in commands.LABS.items():
        sub = verbs.add_parser(name, help=help_text)
        lab = commands.lab(name) if not given or name in given else None
        sub.set_defaults(action=lab.run if lab is not None else commands.no_lab)
        if lab is not None:
            lab.add_arguments(sub)
        else:
            sub.add_argument("rest", nargs=argparse.REMAINDER)
    _add_runs(add)
    sub = add("reference", "print every setting as Markdown", commands.reference)
    sub.add_argument("--keys", action="store_true", help="their names alone, as completion reads them")
    completion_arguments(verbs.add_parser("completion", help="completion for a shell: keel completion bash, zsh or fish"), parser)
    top.helps = {choice.dest: choice.help or "" for choice in verbs._choices_actions}
    for name, sub in verbs.choices.items():
        sub.epilog = next_step(name)
    return top


def _add_recipes(add: Add) -> None:
    for name, help_text in {"run": "a whole pipeline from one recipe", **commands.STAGES}.items():
        sub = add(name, help_text, commands.pipeline if name == "run" else commands.stage(name))
        sub.add_argument("recipe", help="YAML file, see recipes/")
        sub.add_argument(
            "overrides", nargs="*", default=[], metavar="key.path=value", help="settings over the recipe; run_dir=DIR starts or resumes DIR"
        )
        if name == "eval":
            sub.add_argument("--json-file", default="", metavar="FILE", help="--json FILE: where the summary goes")
        sub.add_argument("--dry-run", action="store_true", help="print the resolved recipe (and what calls will cost) and stop")

    sub = add("tune", "search learning rate, price of the KL or any other setting of a recipe", commands.tune)
    sub.add_argument("recipe", help="a recipe of a stage that trains; its section `tune` says what is searched")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. tune.budget=400; run_dir=DIR goes on in DIR")
    sub.add_argument("--dry-run", action="store_true", help="say what would be run and how many steps it takes, and stop")

    sub = add("ablate", "switch settings of a recipe off, over seeds, and say what each is good for", commands.ablate)
    sub.add_argument("recipe", help="a recipe of a stage that trains")
    sub.add_argument(
        "keys", nargs="*", default=[], metavar="KEY", help="KEY or KEY=VALUE,VALUE; settings of the study: ablate.seeds=5, run_dir=DIR"
    )
    sub.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="key.path=value", help="for all runs, e.g. loop.steps=50"
    )
    sub.add_argument("--jobs", type=_count, default=0, metavar="N", help="runs at a time, each in a process of its own (ablate.jobs)")
    sub.add_argument("--dry-run", action="store_true", help="say what would be run, and about how long it takes once one run is known")


def _add_looks(add: Add) -> None:
    sub = add("doctor", "prove that this machine and this model compute what they should", commands.doctor)
    sub.add_argument("model", nargs="?", default=commands.DOCTOR_MODEL, help="folder, id, GGUF file or tiny:ARCH")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. seed=1")
    sub = add("check", "the lists of what to look at before, during and after a training, checked where a program can", commands.check)
    sub.add_argument("target", metavar="RECIPE_OR_RUN", help="a recipe of a stage, or the directory of a run")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="settings over the recipe")
    sub.add_argument("--verb", dest="verb_of", default="", choices=["rl", "reward", "prefer", "sft", "offline"], help="whose recipe it is")
    sub.add_argument("--lang", default="en", choices=["en", "zh"], help="language of the items")
    sub.add_argument("--out", default="", metavar="FILE", help="also write what was found there, as JSON; a gate of keel release reads it")
    sub = add("data", "look at data, or clean it: keel data show PATH, keel data clean PATH --out FILE", commands.data)
    sub.add_argument("what", choices=["show", "clean"])
    sub.add_argument("path", help="file, folder or data set id")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. data.layout=alpaca render.loss_on=last")
    sub.add_argument("--model", default="tiny:llama", help="whose tokenizer and template render the rows")
    sub.add_argument("--rows", type=_count, default=3, help="how many rows to show")
    sub.add_argument("--out", default="", metavar="FILE", help="clean: where the rows that stay go (JSONL); the others go beside it")
    sub = add("assemble", "join a vision tower and a language model to one that reads pictures", commands.assemble)
    sub.add_argument("folder", help="a new folder for the model")
    sub.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. vision=FOLDER language=FOLDER align.path=FILE"
    )
    sub = add("scenes", "write pictures with everything known about them, and rows to train and evaluate on", commands.scenes)
    sub.add_argument("folder", help="a new folder")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. n=500 scenes.objects=[1,5] planted.count=0.2")


def _add_score(add: Add, rewards: str) -> None:
    sub = add("score", "score a file of answers with any reward", commands.score)
    sub.add_argument("file", help="rows {prompt, completion, ...}: JSONL, JSON, CSV, Parquet")
    sub.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings of the reward, e.g. pattern='[0-9]+' truth=answer"
    )
    sub.add_argument("--reward", required=True, help=f"one of {rewards}")
    sub.add_argument("--out", default="", metavar="FILE", help="where the rows go, each with score, reason and error (JSONL)")
    sub.add_argument("--cache", default="", metavar="DIR", help="keep scores here, and take from here what the same reward scored before")


def _add_eval_reward(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(action=commands.eval_reward, json=False)
    sub.add_argument("model", help="folder that keel reward made, or any model with a score head")
    sub.add_argument("data", help="labelled data: file, folder or data set id")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. trained_on.path=train.jsonl stress_pairs=50")
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where the measures go")
    sub.add_argument("--html", default="", metavar="FILE", help="where the page goes")


def _add_eval_hallucination(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(action=commands.eval_hallucination, json=False)
    sub.add_argument("file", nargs="?", default="", help="answers: JSONL, JSON, or the published benchmark's own format")
    sub.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. truth=labels.jsonl mode=original rows=verdicts.jsonl"
    )
    sub.add_argument("--measure", default="", choices=commands.HALLUCINATION_MEASURES, help="which measure")
    sub.add_argument("--check-sample", metavar="SHARE", help="write this share of the verdicts as tasks for people, e.g. 0.05")
    sub.add_argument("--agreement", default="", metavar="FILE", help="read people's answers to such tasks: agreement and kappa by type")
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where the measures go")


def _add_eval_refusals(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(action=commands.eval_refusals, json=False)
    sub.add_argument("files", nargs="+", metavar="FILE", help="answers: JSONL, JSON, CSV or Parquet")
    sub.add_argument(
        "--settings", dest="overrides", nargs="*", default=[], metavar="key=value", help="e.g. answer=text label=people cluster=prompt"
    )
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where the counts and the agreement go")


def _add_models(add: Add) -> None:
    sub = add("serve", "serve over HTTP: keel serve policy MODEL, keel serve reward MODEL, keel serve rollouts", commands.serve)
    sub.add_argument("what", choices=["policy", "reward", "rollouts"], help="OpenAI's protocol, scores, or an engine for RL")
    sub.add_argument(
        "model",
        nargs="?",
        default="",
        help="policy: any model, or a recipe (.yaml); reward: folder that keel reward made, or a model with a score head; rollouts: none",
    )
    sub.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. queue.waiting=4096 canary.model=runs/new/final"
    )
    sub.add_argument("--port", type=_count, default=None, help="0 = one that is free; else policy 8000, reward 5000, rollouts 8100")
    sub.add_argument("--host", default="", help="where to listen, 127.0.0.1 unless given; elsewhere a policy asks for a key")
    sub = add("merge", "a model whose weights lie between those of others", commands.merge)
    sub.add_argument("models", nargs="+", metavar="MODEL", help="folders, ids or GGUF files of one architecture")
    sub.add_argument("--weights", nargs="+", type=float, metavar="W", help="one a model, adding up to 1; all the same where there are none")
    sub.add_argument("--out", required=True, metavar="DIR", help="where the merged model goes; a folder that plain transformers loads")
    sub = add("export", "a run's model as others load it: merged, adapter, GGUF; read again and compared", commands.export)
    sub.add_argument("run", help="run directory, or a folder that holds a model")
    sub.add_argument(
        "--to", required=True, choices=["merged", "adapter", "gguf"], help="a folder, an adapter for PEFT, a file for llama.cpp"
    )
    sub.add_argument("--out", default="", metavar="DIR", help="a new folder; RUN/export/FORM unless given")
    sub.add_argument("--dtype", choices=["fp32", "bf16"], help="merged: what the weights are kept in; fp32 unless given")
    sub.add_argument("--quant", choices=["f32", "f16", "q8_0"], help="gguf: what the matrices are kept in; f32 unless given")
    sub.add_argument("--prompts", default="", metavar="FILE", help="prompts that it is compared on; the run's own unless given")
    sub = add("release", "a model goes out where every gate passes; exit code 1 where one does not", commands.release)
    sub.add_argument("run", help="run directory, or a folder that holds a model")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. export.to=gguf gates.0.at_most=0.01")
    sub.add_argument("--gates", required=True, metavar="FILE", help="what must hold (YAML), see recipes/gates/")
    sub.add_argument("--out", default="", metavar="DIR", help="the release folder; RUN/release unless given")
    sub.add_argument("--root", default="", metavar="DIR", help="folder of the runs before; the one that holds the run unless given")


def _add_chat(add: Add) -> None:
    sub = add("sweep", "which temperature and top-p: answers at each of them, scored", commands.sweep)
    sub.add_argument("model", help="any model, or a recipe (.yaml)")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. prompts=[p.jsonl] temperatures=[0,0.7,1]")
    sub = add("drift", "are the prompts of now like those of before? By the model's own tokens", commands.drift)
    sub.add_argument("before", help="rows with text, prompt or messages (JSONL)")
    sub.add_argument("now", help="the same")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="model=MODEL, alpha=0.01 ...")
    sub = add("chat", "talk to a model, or to two side by side and blind: keel chat MODEL [MODEL]", commands.chat)
    sub.add_argument("names", nargs="+", metavar="MODEL", help="one or two: folder, id, GGUF file, tiny:ARCH, or http://HOST:PORT#NAME")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. temperature=0 store=sqlite:///votes.db")
    sub.add_argument("--page", action="store_true", help="as a page in the browser")
    sub.add_argument("--host", default="127.0.0.1", help="page: where to listen; elsewhere than here the link holds a key")
    sub.add_argument("--port", type=_count, default=8768, help="page: 0 = one that is free")
    sub.add_argument("--no-browser", action="store_true", help="page: open no browser")


def _add_cases(add: Add) -> None:
    sub = add("cases", "a page of a run's cases side by side, and its failures by group", commands.cases)
    sub.add_argument("run", help="the folder of a keel eval or keel rl run")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. worst=0.2 scorer=reward_model extremes=5")
    sub.add_argument("--store", default="", metavar="URL", help="a store of feedback: people's votes on these answers")
    sub.add_argument("--campaign", default="", metavar="NAME", help="its campaign")
    sub.add_argument("--out", default="", metavar="DIR", help="where the page goes; the run's folder unless given")
    sub = add("mine", "send a run's failures to people: tasks of a campaign, none twice", commands.mine)
    sub.add_argument("run", help="the folder of a keel eval or keel rl run")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="e.g. tasks=100 worst=0.2, as for keel cases")
    sub.add_argument("--to", required=True, metavar="URL", help="the store: sqlite:///feedback.db or postgresql://user@host/name")
    sub.add_argument("--campaign", required=True, metavar="NAME", help="the campaign; it is made where it is not there")
    sub.add_argument("--out", default="", metavar="DIR", help="where page and tasks go; the run's folder unless given")


def _add_feedback(add: Add) -> None:
    sub = add("feedback", "the store of judgements: import, export, snapshots, retraction, lineage", commands.feedback)
    sub.add_argument("what", choices=["import", "export", "status", "snapshot", "retract", "lineage"])
    sub.add_argument("names", nargs="*", help="import: files; retract: an annotator or event; lineage: one of these, a snapshot or a run")
    sub.add_argument("--store", required=True, metavar="URL", help="sqlite:///feedback.db or postgresql://user@host/name")
    sub.add_argument("--campaign", default="", metavar="NAME", help="which one; import: the file's own, or its name, unless given")
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
    sub.add_argument("--surplus", action="store_true", help="export, snapshot: also votes beyond the wanted number of people")
    sub.add_argument("--why", default="", help="retract: the reason, kept with it")
    sub.add_argument("--root", default="runs", metavar="DIR", help="retract, lineage: folder that holds the runs")
    sub.add_argument("--dry-run", action="store_true", help="retract: only list what saw the judgements")


def _add_annotate(add: Add) -> None:
    sub = add("annotate", "people judge in the browser: pairs, rankings, ratings, marked errors", commands.annotate)
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


def _add_dash(add: Add) -> None:
    sub = add("dash", "look at runs in the browser, while they go and afterwards", commands.dash)
    sub.add_argument("folder", nargs="?", default="runs", help="folder that holds the runs")
    sub.add_argument("--host", default="127.0.0.1", help="where to listen; elsewhere than here a token is asked for")
    sub.add_argument("--port", type=_count, default=8767, help="0 = one that is free")
    sub.add_argument("--no-browser", action="store_true", help="open no browser")


def _add_judge(add: Add) -> None:
    sub = add("judge", "let a judge compare, order or score answers", commands.judge)
    told = "a recipe (.yaml), or a file of answers: rows {prompt, answers}, pairs, rankings, single answers; without: store= campaign="
    sub.add_argument("target", nargs="?", default="", help=told)
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. samples=2 kind=rubric store=sqlite:///f.db")
    sub.add_argument("--judge", default="", metavar="NAME", help="which judge of the file of judges")
    sub.add_argument("--judges", default="", metavar="FILE", help="the file of judges; recipes/judges.yaml unless given")
    sub.add_argument("--out", default="", metavar="FILE", help="where the judgements go (JSONL, as keel feedback import reads it)")
    sub.add_argument("--report", default="", metavar="FILE", help="report of keel judge report that lets this judge label")
    sub.add_argument("--override", default="", metavar="NAME", help="the judge's name: let it label without a passed report")
    sub.add_argument("--dry-run", action="store_true", help="say how many calls there are and what they cost, and stop")


def _add_judge_report(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(action=commands.judge_report, json=False)
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
    sub.set_defaults(action=commands.watch, json=False)
    sub.add_argument("what", nargs="+", metavar="RUN", help="run directory or log of another trainer; or: test RULES ...")
    sub.add_argument("--rules", default="", metavar="FILE", help="a rule file, default or documents; the run's own rules unless given")
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where what was found goes")
    sub.add_argument("--follow", action="store_true", help="go on until the run is over; say when it stalls or its process is gone")
    sub.add_argument("--factor", type=_positive, default=10.0, metavar="N", help="follow: stalled after N times the usual step")
    sub.add_argument("--every", type=_positive, default=5.0, metavar="SECONDS", help="follow: how often to look")


def _add_ab(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(action=commands.ab, json=False)
    sub.add_argument(
        "what", choices=["plan", "check", "assign"], help="plan: how many and when; check: the verdict; assign: who gets which arm"
    )
    sub.add_argument("file", help="an experiment (YAML, see recipes/ab/); check also takes the data alone (JSONL)")
    sub.add_argument("names", nargs="*", default=[], metavar="key.path=value", help="settings over the file; assign: the keys")
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where plan or verdict goes")
    sub.add_argument("--html", default="", metavar="FILE", help="check: where the page goes; the Chinese one beside it")


def _add_runs(add: Add) -> None:
    sub = add("runs", "list runs, or compare some", commands.runs)
    sub.add_argument("--root", default="runs", help="folder that holds the runs")
    sub.add_argument("--compare", nargs="+", metavar="DIR", help="run directories to set side by side")
    sub.add_argument("--plot", default="", metavar="FILE", help="draw metrics of the compared runs there (PNG, SVG or PDF)")
    sub.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help="which ones, e.g. reward kl")
    sub = add("report", "write report.html of a run again", commands.report)
    sub.add_argument("run_dir")


_JSON_FILE = (
    "ab",
    "bench",
    "eval-reward",
    "eval-hallucination",
    "eval-refusals",
    "judge-report",
    "plan",
    "advise",
    "study",
    "watch",
    "watchbench",
)  # verbs whose --json names a file


def _take_json_file(given: list[str]) -> str:
    """Takes FILE of ``--json FILE`` (or ``--json=FILE``) out of the words of `keel eval`; without one ``--json`` is the flag that it is for
    other verbs. A recipe or a setting is no such file."""
    for i, word in enumerate(given):
        if word.startswith("--json="):
            del given[i]
            return word.removeprefix("--json=")
        if word == "--json" and i + 1 < len(given):
            after = given[i + 1]
            if not after.startswith("-") and "=" not in after and not after.endswith((".yaml", ".yml")):
                del given[i : i + 2]
                return after
    return ""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, options and overrides in any order (argparse alone stops taking overrides at the first option between them, and
    takes ``--json`` after the verb only)."""
    given = list(sys.argv[1:] if argv is None else argv)
    top = parser(given)
    if given[:2] in (["eval", "reward"], ["eval", "hallucination"], ["eval", "refusals"], ["judge", "report"]):
        given[:2] = ["-".join(given[:2])]
    if given and not given[0].startswith("-") and given[0] not in top.helps:
        no_such_command(given[0], top.helps)
    json_file = _take_json_file(given) if given[:1] == ["eval"] else ""
    names_a_file = given[:1] and given[0] in _JSON_FILE
    args, rest = top.parse_known_args(given if names_a_file else [a for a in given if a != "--json"])
    if not names_a_file:
        args.json = "--json" in given
    if json_file:
        args.json_file = json_file
    if hasattr(args, "names"):  # of `keel feedback`: they may stand after an option too
        args.names = [*args.names, *(a for a in rest if not a.startswith("-"))]
        rest = [a for a in rest if a.startswith("-")]
    if args.verb == "chat":  # settings stand among the models; a model may have = in it, but no word before it is a setting's name
        args.overrides = [*args.overrides, *(a for a in args.names if re.match(r"[a-z_.]+=", a))]
        args.names = [a for a in args.names if not re.match(r"[a-z_.]+=", a)]
    unknown = [a for a in rest if a.startswith("-") or "=" not in a or not hasattr(args, "overrides")]
    if unknown:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    if args.verb == "doctor" and re.match(r"[\w.]+=", args.model):  # `keel doctor seed=1`: an override, and the usual model
        args.overrides, args.model = [args.model, *args.overrides], commands.DOCTOR_MODEL
    return args


DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})


def _disk_trouble(error: OSError) -> UserError:
    """A file that could not be written in the middle of work, wherever that was."""
    where = f"{error.filename}: " if error.filename else ""
    return UserError(
        f"{where}{error.strerror}", "free some space, or make it writable, and start the same command again: a run goes on where it was"
    )


READER_GONE = 128 + 13  # as shells say of a program that SIGPIPE ended


def _reader_is_gone() -> bool:
    """Did whoever read the standard output end (`keel runs | head`)? Then nothing more is written there, nor tried at exit."""
    try:
        out = sys.stdout.fileno()
    except (OSError, ValueError):  # no file: a notebook, a test
        return False
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        gone = True
    else:  # what is not buffered was tried already
        look = select.poll() if hasattr(select, "poll") else None
        if look is not None:
            look.register(out, 0)  # errors alone
        gone = look is not None and any(event & select.POLLERR for _, event in look.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return gone


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 a release that was refused or a plan that does not fit, 2 a mistake of the user's (one
    message, no traceback), 130 interrupted (resumable), 141 nobody reads the output any more."""
    try:
        code = _main(argv)
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # another pipe
        return READER_GONE
    return READER_GONE if _reader_is_gone() and not code else code


def _main(argv: Sequence[str] | None) -> int:
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
    except ModuleNotFoundError as error:
        lacking = extras.missing(error, args.verb)
        if lacking is None:
            raise
        print(f"error: {lacking}", file=sys.stderr)
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
    if summary is not None and summary.get("interrupted"):
        return 130
    return 1 if summary is not None and (summary.get("released") is False or summary.get("fits") is False) else 0


if __name__ == "__main__":
    sys.exit(main())
