"""`keel bench`: arguments, and what is printed. Nothing heavy is imported until a benchmark runs."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from keel.core.errors import UserError
from labs.bench.vlm_work import GEOMETRIES, Shape, VisionWork
from labs.bench.workload import VERBS, ModelShape, Verb, Workload

_SHAPE, _WORK = ModelShape(), Workload("rl", ModelShape())
_VISION = VisionWork("rl", Shape())
_VISION_HELP = {
    "steps": "timed optimizer steps of a process, after one that is not",
    "prompts": "prompts of an optimizer batch, each with an image of its own",
    "group": "samples a prompt; half as many pairs a prompt (dpo), each with an image of its own",
    "completion": "tokens of a sample; the longest answer of a pair",
    "words": "of a prompt, beside its image",
    "threads": "CPU threads of each side",
}


def add_arguments(top: argparse.ArgumentParser) -> None:
    """The arguments of ``keel bench``."""
    whats = top.add_subparsers(dest="what", required=True, metavar="|".join((*VERBS, "vlm", "growth", "learn", "sweep")))
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    for verb in VERBS:
        _comparison(whats.add_parser(verb, parents=[common], help=f"time and memory of {verb} training"))
    _pictures(whats.add_parser("vlm", parents=[common], help="time, memory and counted work of GRPO and DPO on images"))
    growth = whats.add_parser("growth", parents=[common], help="time and memory of RL as one size of the work grows")
    growth.add_argument("--axes", nargs="+", default=[], metavar="NAME", help="group, completion, prompt, vocab, hidden (default: all)")
    growth.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves there (PNG, SVG or PDF)")
    _comparison(growth)
    _learning(whats.add_parser("learn", parents=[common], help="what each algorithm of RL learns on three small tasks"))
    _sweeping(whats.add_parser("sweep", parents=[common], help="a study: one setting of RL changed on small tasks, several seeds"))


def _comparison(sub: argparse.ArgumentParser) -> None:
    sides = "the other side: TRL; plain padded code (rl with --algorithm ppo); none measures Keel alone"
    sub.add_argument("--against", choices=["trl", "padded", "none"], default="trl", help=sides)
    sub.add_argument("--trl-python", type=Path, default=Path(sys.executable), help="interpreter that has TRL (default: this one)")
    sub.add_argument("--repeats", type=int, default=5, help="processes of each side, taking turns; the result is their median")
    sub.add_argument("--steps", type=int, default=_WORK.steps, help="timed optimizer steps of a process, after one that is not")
    sub.add_argument("--prompts", type=int, default=_WORK.prompts, help="prompts of an optimizer batch")
    sub.add_argument("--group", type=int, default=_WORK.group, help="samples a prompt; prompts x group pairs (dpo, reward) or texts (sft)")
    sub.add_argument("--completion", type=int, default=_WORK.completion, help="tokens of a sample; the longest answer of a pair")
    sub.add_argument("--prompt-min", type=int, default=_WORK.prompt_min, help="shortest prompt, in tokens")
    sub.add_argument("--prompt-max", type=int, default=_WORK.prompt_max, help="longest prompt, in tokens")
    sub.add_argument("--arch", default=_SHAPE.arch, help="architecture, as in tiny:ARCH")
    sub.add_argument("--vocab", type=int, default=_SHAPE.vocab)
    sub.add_argument("--hidden", type=int, default=_SHAPE.hidden)
    sub.add_argument("--layers", type=int, default=_SHAPE.layers)
    sub.add_argument("--intermediate", type=int, default=_SHAPE.intermediate)
    sub.add_argument("--dtype", choices=["float32", "bfloat16"], default=_SHAPE.dtype, help="of the products, on both sides")
    sub.add_argument("--kl", type=float, default=_WORK.kl, help="price of the KL to the reference in rl; 0 = no reference")
    sub.add_argument("--algorithm", default=_WORK.algorithm, help="of rl; ppo with --against padded, others with --against none")
    sub.add_argument("--top-p", type=float, default=_WORK.top_p, help="nucleus that rl draws from, with --against none; 1 = all")
    sub.add_argument("--threads", type=int, default=_WORK.threads, help="CPU threads of each side")
    sub.add_argument("--seed", type=int, default=_WORK.seed)


def _pictures(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--against", choices=["trl", "none"], default="trl", help="the other side; none measures Keel alone")
    sub.add_argument("--trl-python", type=Path, default=Path(sys.executable), help="interpreter that has TRL (default: this one)")
    sub.add_argument("--tuned", action="store_true", help="TRL a second time, with its memory allocator tuned")
    sub.add_argument("--models", nargs="+", default=[], metavar="NAME", help=f"{', '.join(GEOMETRIES)} (default: all)")
    sub.add_argument("--verbs", nargs="+", default=[], metavar="NAME", help="rl, dpo (default: both)")
    sub.add_argument("--repeats", type=int, default=1, help="processes of each side, taking turns; the result is their median")
    for name in ("steps", "prompts", "group", "completion", "words", "threads", "seed"):
        sub.add_argument(f"--{name}", type=int, default=getattr(_VISION, name), help=_VISION_HELP.get(name))
    sub.add_argument("--depth", type=int, default=_VISION.model.depth, help="of all layers, each DEPTH-th is there; 1 = all")
    sub.add_argument("--dtype", choices=["float32", "bfloat16"], default=_VISION.model.dtype, help="of the products, on both sides")


def _learning(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--algorithms", nargs="+", default=[], metavar="NAME", help="default: all")
    sub.add_argument("--tasks", nargs="+", default=[], metavar="NAME", help="default: all")
    sub.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    sub.add_argument("--against", choices=["trl", "none"], default="none", help="trl: the same of TRL, for the algorithms that it has")
    sub.add_argument("--trl-python", type=Path, default=Path(sys.executable), help="interpreter that has TRL (default: this one)")
    sub.add_argument("--steps", type=int, default=40, help="sets of rollouts of a run")
    sub.add_argument("--threshold", type=float, default=0.8, help="share of right answers that samples are counted up to")
    sub.add_argument("--threads", type=int, default=1)


def _sweeping(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--study", required=True, metavar="NAME", help="clip, kl, group, lr, entropy, algorithms or recipes")
    sub.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    sub.add_argument("--steps", type=int, default=40, help="sets of rollouts of a run")
    sub.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves there (PNG, SVG or PDF)")
    sub.add_argument("--threads", type=int, default=1)


def run(args: argparse.Namespace) -> None:
    """Run what was asked for, print the table, write the file."""
    if args.what == "learn":
        return _run_learning(args)
    if args.what == "sweep":
        return _run_sweep(args)
    if args.what == "growth":
        return _run_growth(args)
    if args.what == "vlm":
        return _run_pictures(args)
    from labs.bench.compare import Plan, compare
    from labs.bench.report import table

    found = compare(Plan(workload(args), args.against, args.repeats, args.trl_python))
    print(table(found))
    _write(args.json, found)


def _run_pictures(args: argparse.Namespace) -> None:
    from labs.bench.vlm import Plan, compare, table, works

    lowest = {"group": 2, "completion": 4, "seed": 0}
    names = ("repeats", "steps", "prompts", "group", "completion", "words", "threads", "depth", "seed")
    problems = [
        f"--{n} is {getattr(args, n)}, but must be at least {lowest.get(n, 1)}" for n in names if getattr(args, n) < lowest.get(n, 1)
    ]
    if problems:
        raise UserError("; ".join(problems))
    rest = {name: getattr(args, name) for name in ("steps", "prompts", "group", "completion", "words", "threads", "seed")}
    like = VisionWork("rl", Shape(depth=args.depth, dtype=args.dtype), **rest)
    chosen = works(_names(args.models), _names(args.verbs), like)
    found = compare(Plan(chosen, args.against, args.repeats, args.tuned, args.trl_python))
    print(table(found))
    _write(args.json, found)


def _run_growth(args: argparse.Namespace) -> None:
    from labs.bench.compare import Plan
    from labs.bench.growth import AXES, grow, markdown, plot

    found = grow(Plan(workload(args), args.against, args.repeats, args.trl_python), _names(args.axes) or list(AXES))
    print(markdown(found))
    _write(args.json, found)
    if args.plot is not None:
        plot(found, args.plot)


def _run_learning(args: argparse.Namespace) -> None:
    import torch

    from labs.bench.learn import LEARNERS, learn, markdown
    from labs.bench.learn_against import checked, differences
    from labs.bench.learn_against import markdown as markdown_differences
    from labs.bench.learn_against import run as run_theirs
    from labs.bench.tasks import TASKS

    if args.steps < 1 or args.threads < 1 or not 0 < args.threshold <= 1:
        raise UserError("--steps and --threads must be at least 1, --threshold above 0 and at most 1")
    torch.set_num_threads(args.threads)
    names, budget = _names(args.algorithms) or list(LEARNERS), (args.steps, args.threshold)
    beside = {}
    if args.against == "trl":
        beside = {n: partial(run_theirs, args.trl_python, budget) for n in checked(names, args.trl_python)}
    found, curves = learn(names, _names(args.tasks) or list(TASKS), args.seeds, budget, beside)
    print(markdown(found))
    if beside:
        found["against_trl"] = differences(curves)
        print("\n" + markdown_differences(found["against_trl"]))
    _write(args.json, found)


def _run_sweep(args: argparse.Namespace) -> None:
    import torch

    from labs.bench.sweep import markdown, sweep
    from labs.bench.sweep_plot import plot

    if args.steps < 1 or args.threads < 1:
        raise UserError("--steps and --threads must be at least 1")
    torch.set_num_threads(args.threads)
    found = sweep(args.study, args.seeds, args.steps)
    print(markdown(found))
    _write(args.json, found)
    if args.plot is not None:
        plot(found, args.plot)


def _names(given: list[str]) -> list[str]:
    """Names apart by spaces or commas."""
    return [name for word in given for name in word.split(",") if name]


def workload(args: argparse.Namespace) -> Workload:
    """The workload that the arguments describe. Raises UserError for one that cannot be."""
    verb: Verb = "rl" if args.what == "growth" else args.what
    lowest = {"completion": 4, "vocab": 64, "hidden": 16, "prompt_min": 1, "group": 2 if verb == "rl" else 1}
    numbers = ("repeats", "steps", "prompts", "group", "completion", "prompt_min", "vocab", "hidden", "layers", "intermediate", "threads")
    problems = [
        f"--{name.replace('_', '-')} is {getattr(args, name)}, but must be at least {lowest.get(name, 1)}"
        for name in numbers
        if getattr(args, name) < lowest.get(name, 1)
    ]
    if args.prompt_max < args.prompt_min:
        problems.append(f"--prompt-max ({args.prompt_max}) is below --prompt-min ({args.prompt_min})")
    if args.hidden % 8:
        problems.append(f"--hidden is {args.hidden}, but must be a multiple of 8")
    if args.kl < 0:
        problems.append(f"--kl is {args.kl}, but must not be below 0")
    if not 0 < args.top_p <= 1:
        problems.append(f"--top-p is {args.top_p}, but must be above 0 and at most 1")
    elif args.top_p < 1 and (verb, args.against) != ("rl", "none"):
        problems.append("--top-p is for rl with --against none: no other side trains what it drew from then")
    if problems:
        raise UserError("; ".join(problems))
    shape = ModelShape(**{name: getattr(args, name) for name in ModelShape.__slots__})
    rest = {name: getattr(args, name) for name in Workload.__slots__ if name not in ("verb", "model")}
    return Workload(verb, shape, **rest)


def _write(path: Path | None, found: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--json {path} cannot be written: {error.strerror}") from error
