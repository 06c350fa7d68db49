"""`keel completion`: its arguments, and the scripts for the shells."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from keel.completion.complete import Parsers, complete

SHELLS = ("bash", "zsh", "fish")


def add_arguments(sub: argparse.ArgumentParser, parsers: Parsers) -> None:
    """The arguments of ``keel completion``. ``parsers``: what makes the parser of the whole program."""
    sub.add_argument("shell", choices=(*SHELLS, "words"), help="whose script; words: what the scripts ask for")
    sub.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    sub.description = (
        "Completion of commands, recipes, runs and settings. bash: source <(keel completion bash) in ~/.bashrc; "
        "zsh: source <(keel completion zsh) after compinit in ~/.zshrc; fish: keel completion fish | source in config.fish"
    )
    sub.set_defaults(action=lambda args: _run(args, parsers), json=False)


def _run(args: argparse.Namespace, parsers: Parsers) -> None:
    if args.shell == "words":
        given = args.words[1:] if args.words[:1] == ["--"] else args.words
        sys.stdout.write("".join(f"{word}\n" for word in complete(given, parsers)))
    else:
        print((Path(__file__).parent / "scripts" / f"keel.{args.shell}").read_text(encoding="utf-8"), end="")
