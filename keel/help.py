"""The help of the program: its commands grouped by what somebody wants to do, and what comes after each."""

from __future__ import annotations

import argparse
import difflib
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import NoReturn

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Start": ("new", "advise", "plan", "doctor", "run", "check"),
    "Data": ("data", "collect", "constitution", "scenes"),
    "Train": ("sft", "reward", "prefer", "rl", "offline", "improve", "tune", "ablate"),
    "Judge": ("annotate", "feedback", "judge", "judge-report", "score"),
    "Watch": ("dash", "runs", "watch", "report"),
    "Evaluate": ("eval", "eval-reward", "eval-hallucination", "eval-refusals", "cases", "mine", "ab", "sweep", "drift"),
    "Release and serve": ("export", "release", "merge", "assemble", "serve", "chat"),
    "Laboratory, in a checkout": ("bench", "study", "watchbench"),
    "More": ("reference", "completion"),
}
SPOKEN = {
    name: name.replace("-", " ") for name in ("judge-report", "eval-reward", "eval-hallucination", "eval-refusals")
}  # what people type
FIRST = "New here? keel new DIR makes a project that runs; keel COMMAND --help says more of a command."
NEXT: Mapping[str, str] = {
    "new": "cd DIR, then keel run recipe.yaml",
    "advise": "the last line of its report is the command to start with",
    "plan": "the recipe with what it says to change, then keel run or the verb of the recipe",
    "doctor": "keel new DIR, or keel run RECIPE",
    "run": "keel dash shows it while it goes; report.html in its folder is the result",
    "check": "mend what it names, then keel run RECIPE",
    "data": "keel advise FILE says what to do with the rows",
    "collect": "keel annotate --tasks RUN/tasks.jsonl",
    "constitution": "keel prefer RECIPE data.path=RUN/pairs.jsonl",
    "scenes": "keel sft recipes/tiny_vlm_sft.yaml data.path=DIR/captions.jsonl",
    "sft": "keel prefer or keel rl with model=RUN/final; keel chat RUN/final",
    "reward": "keel eval reward RUN/final DATA, then keel rl with a reward of type model",
    "prefer": "keel eval RECIPE compares it with the model before; keel chat RUN/final",
    "rl": "keel eval RECIPE compares it with the model before; keel watch RUN",
    "offline": "keel eval RECIPE compares it with the model before",
    "improve": "report.html in its folder; keel release RUN --gates FILE",
    "tune": "the same recipe with the settings that it names",
    "ablate": "the recipe without what changes nothing; more seeds where it cannot tell: ablate.seeds=8",
    "cases": "keel mine RUN --to STORE --campaign NAME sends failures to people",
    "mine": "keel annotate --store STORE --campaign NAME",
    "annotate": "keel feedback export --store FILE --as training --out pairs.jsonl",
    "feedback": "keel advise FILE on what was exported",
    "judge": "keel judge report --labels FILE --judge NAME, before it may label",
    "judge-report": "--report FILE lets keel judge label with that judge",
    "score": "keel offline RECIPE learns from scored answers",
    "dash": "keel report RUN writes a page to hand on",
    "runs": "keel runs --compare RUN RUN; keel dash",
    "watch": "docs/alarms.md says what each alarm means",
    "report": "open report.html in a browser",
    "eval": "keel release RUN --gates FILE",
    "eval-reward": "keel rl with a reward of type model",
    "ab": "keel ab check FILE as data come in",
    "export": "keel serve policy FOLDER, or any server that loads such a model",
    "release": "keel serve policy RELEASE/model",
    "merge": "keel eval RECIPE compares it with its parts",
    "assemble": "keel sft RECIPE model=DIR with pictures in the data",
    "serve": "keel chat http://HOST:PORT#NAME",
    "chat": "keel feedback status --store FILE, if votes were stored",
}


def top_help(helps: Mapping[str, str], description: str, width: int | None = None) -> str:
    """The whole help. ``helps``: one line a command."""
    width = width or min(100, shutil.get_terminal_size().columns)
    lines = ["usage: keel COMMAND ... [--help]", "       keel --version", "", description, FIRST]
    for title, names in _groups(helps):
        lines += ["", title]
        for name in names:
            lines += textwrap.wrap(helps[name], width, initial_indent=f"  {SPOKEN.get(name, name):<20} ", subsequent_indent=" " * 23)
    return "\n".join(lines) + "\n"


def _groups(helps: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    for title, names in GROUPS.items():
        yield title, [name for name in names if name in helps]


def next_step(name: str) -> str:
    """What comes after a command, for the end of its help; "" where nothing does."""
    return f"next: {NEXT[name]}" if name in NEXT else ""


class Parser(argparse.ArgumentParser):
    """A parser of commands whose help is grouped, and which names the command that was meant."""

    helps: Mapping[str, str] = {}

    def format_help(self) -> str:
        return top_help(self.helps, self.description or "") if self.helps else super().format_help()


def no_such_command(name: str, helps: Mapping[str, str]) -> NoReturn:
    """One message for a command that there is not; exit code 2."""
    known = {**{n: n for n in helps}, **{word: name for name, word in SPOKEN.items()}}
    begun = [command for command in known if name.startswith(command)]  # evaluate: eval, and not what only sounds like it
    near = begun or difflib.get_close_matches(name, known, 2, 0.5)
    meant = f"did you mean keel {' or keel '.join(near)}?" if near else "keel --help lists the commands"
    print(f"error: there is no command 'keel {name}'\n  hint: {meant}", file=sys.stderr)
    raise SystemExit(2)
