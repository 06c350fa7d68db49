"""`keel plan`: its arguments. Nothing heavy is imported until it runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``keel plan``."""
    sub.add_argument("recipe", help="a recipe of a stage that trains")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="settings over the recipe")
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where the plan goes")
    sub.add_argument("--measure", action="store_true", help="run one micro-batch and one sampling call, and correct the formulas by them")
    sub.add_argument("--memory", default="", metavar="SIZE", help="what there is, e.g. 24GB; unless given, what this machine has free")
    sub.add_argument(
        "--shape", default="", metavar="NUMBERS", help="a model that is not here: hidden=8192,layers=80,heads=64,vocab=128256 ..."
    )
    sub.add_argument("--ranks", type=_ranks, default=1, metavar="N", help="processes among which the training is shared out")
    sub.add_argument("--replicated", action="store_true", help="every rank has all weights, gradients and moments")
    sub.add_argument("--verb", dest="verb_of", default="", choices=["rl", "reward", "prefer", "sft", "offline"], help="whose recipe it is")
    sub.add_argument("--lang", default="en", choices=["en", "zh"], help="language of the tables")
    sub.set_defaults(action=run, json=False)


def _ranks(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, is {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> Mapping[str, Any]:
    """Make the plan."""
    from keel.plan.run import run_plan

    return run_plan(
        Path(args.recipe),
        args.overrides,
        verb=args.verb_of,
        shape=args.shape,
        available=args.memory,
        ranks=args.ranks,
        share=not args.replicated,
        measure=args.measure,
        json_file=args.json_file,
        lang=args.lang,
    )
