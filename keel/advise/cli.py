"""`keel advise`: its arguments. Nothing heavy is imported until it runs."""

from __future__ import annotations

import argparse


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``keel advise``."""
    sub.add_argument("data", help="labelled data or prompts: file, folder or data set id")
    sub.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="e.g. data.layout=alpaca race.steps=10 out=DIR")
    sub.add_argument("--json", dest="json_file", default="", metavar="FILE", help="where the advice goes")
    sub.add_argument("--budget", default="", metavar="TIME", help="time that training may take: 45m, 2h, 1d")
    sub.add_argument("--model", default="", metavar="SPEC", help="the model that will be trained: folder, id, GGUF file or tiny:ARCH")
    sub.add_argument("--race", action="store_true", help="train the best few ways a little and compare them on held-out labels")
    sub.set_defaults(action=run, json=False)


def run(args: argparse.Namespace) -> None:
    """Run what was asked for."""
    from keel.advise.advise import run_advise

    run_advise(args.data, args.model, args.budget, args.race, args.json_file, args.overrides)
