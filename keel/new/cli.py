"""`keel new`: its arguments. Nothing heavy is imported until the answers are there."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from keel.core.errors import UserError
from keel.new.ask import LABELS, LANGUAGES, MACHINES, Given, answered, missing


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of ``keel new``."""
    sub.add_argument("folder", metavar="DIR", help="a new folder; one that holds anything is left alone")
    sub.add_argument(
        "overrides", nargs="*", default=[], metavar="data.key=value", help="how --data is read, e.g. data.keys='{prompt: question}'"
    )
    sub.add_argument("--labels", default="", choices=LABELS, help="what there is to learn from; of --data it is found")
    sub.add_argument("--images", default="", choices=["yes", "no"], help="are there pictures in the questions?")
    sub.add_argument("--machine", default="", choices=MACHINES, help="where it will be trained")
    sub.add_argument("--language", default="", choices=LANGUAGES, help="of the example rows, the comments and the README")
    sub.add_argument("--model", default="", metavar="SPEC", help="folder, id, GGUF file or tiny:ARCH; a small one that fits unless given")
    sub.add_argument("--data", default="", metavar="FILE", help="your own rows, in any layout that Keel knows")
    sub.add_argument("--yes", action="store_true", help="ask nothing, take the usual answer")
    sub.set_defaults(action=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Ask what was not given, and write the project. Raises UserError where nobody can be asked."""
    given = Given(args.labels, args.images, args.machine, args.language, args.model, args.data, tuple(args.overrides))
    can_ask = sys.stdin is not None and sys.stdin.isatty()
    if not args.yes and not can_ask and (lacking := missing(given)):
        raise UserError(
            f"keel new asks in a terminal, and this is none: {', '.join(lacking)} is not given",
            f"--labels {'|'.join(LABELS)}, or --yes for the usual answers (pairs of text)",
        )
    from keel.new.target import check_target

    check_target(args.folder)
    wanted = answered(given, input if can_ask and not args.yes else None)
    from keel.new.project import write_project

    return write_project(args.folder, wanted)
