"""Which sandbox works on this machine? Each is tried with a program that attempts what it must not be able to do; the first that holds is
used. Where none does, nothing is run unless the user says so by name."""

from __future__ import annotations

import shutil
import sys
from functools import cache

from keel.core.errors import UserError
from keel.sandbox.process import Guest, GuestEndedError, GuestTimeoutError, Kind, Limits, SandboxError
from keel.sandbox.run import run_script
from keel.sandbox.syscalls import supported

# Prints nothing but "shut" when the walls stand, and needs a good part of the library to do it.
_PROBE = """
import json, math, re, collections, heapq, itertools, functools, random, datetime, decimal, string, hashlib
import os, socket
open_doors = []
for path in ("/etc/passwd", "/proc/self/environ", "/proc/1/environ", "/root", "/home", "/tmp"):
    try:
        os.listdir(path) if not path.endswith(("environ", "passwd")) else open(path).read()
        open_doors.append(path)
    except OSError:
        pass
for name, attempt in {
    "write": lambda: open("/tmp/keel-probe", "w"),
    "socket": lambda: socket.socket(),
    "fork": lambda: os.fork() or os._exit(0),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
}.items():
    try:
        attempt()
        open_doors.append(name)
    except OSError:
        pass
print("open: " + " ".join(open_doors) if open_doors else "shut")
"""


@cache
def sandbox() -> tuple[Kind | None, str]:
    """The sandbox that works here, with its fences in words; (None, why not) where none does."""
    if not sys.platform.startswith("linux"):
        return None, f"sandboxes need Linux, this is {sys.platform}"
    if not supported():
        return None, "no table of system calls for this processor"
    reasons: list[str] = []
    kinds: list[Kind] = ["bubblewrap", "landlock"]
    for kind in kinds:
        if kind == "bubblewrap" and shutil.which("bwrap") is None:
            reasons.append("bubblewrap is not installed")
            continue
        held, words = tried(kind)
        if held:
            return kind, words
        reasons.append(words)
    return None, "; ".join(reasons)


def tried(kind: Kind) -> tuple[bool, str]:
    """Does this sandbox hold here? With its fences in words, or why not."""
    try:
        with Guest(kind, Limits()) as guest:
            fences = guest.fences
        outcome = run_script(_PROBE, "", kind, Limits(wall_s=20.0, cpu_s=10.0))
    except (SandboxError, GuestEndedError, GuestTimeoutError) as error:
        return False, str(error)
    if outcome.stdout.strip() != "shut":
        return False, f"{kind}: does not hold here ({outcome.stdout.strip() or outcome.ending}; {outcome.stderr.strip()[-200:]})"
    return True, ", ".join(fences)


def require_sandbox(unsandboxed: bool, what: str) -> Kind:
    """The sandbox to use. Raises UserError where none works, unless the user asked to go without by name."""
    kind, words = sandbox()
    if kind is not None:
        return kind
    if unsandboxed:
        return "none"
    raise UserError(
        f"{what}: no sandbox works on this machine ({words}), and code is not run without one",
        "install bubblewrap (the program bwrap) or use a kernel with landlock (Linux 5.13 on); for code you trust, set unsandboxed=true",
    )
