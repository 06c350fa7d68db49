"""What a user's own Python file has: an object by its name, ``FILE.py:NAME``."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from keel.core.errors import UserError

USER_MODULE = "keel_user_"  # what the names of their modules begin with


def names_a_file(name: str | None) -> TypeGuard[str]:
    """Is this ``FILE.py:NAME`` rather than a name of ours?"""
    return name is not None and ".py:" in name


def file_of(spec: str) -> str:
    """The file of ``FILE.py:NAME``."""
    return spec.rpartition(":")[0]


def load_object(spec: str, what: str, fits: Callable[[Any], bool] = callable) -> Any:
    """The object ``FILE.py:NAME``.

    Args:
        spec: file, as seen from where the command is run, and name.
        what: what it is for; the messages begin with it.
        fits: is this object one of the kind that is wanted?

    Raises:
        UserError: the file is missing or cannot be run, or has nothing of that name and kind.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{what} {spec}: no such file: {path}", "check the path; it starts where the command is run")
    try:
        module = load_module(path)
    except Exception as error:  # whatever the user's file raises is the user's to mend
        raise UserError(f"{what} {spec}: {path} cannot be run: {type(error).__name__}: {error}", "run the file by itself") from error
    found = getattr(module, name, None)
    if not fits(found):
        near = difflib.get_close_matches(name, [n for n, v in vars(module).items() if fits(v) and not n.startswith("_")], 1)
        raise UserError(f"{what} {spec}: {path} has no function {name!r}", f"did you mean {near[0]!r}?" if near else "check the name")
    return found


def load_module(file: str | Path) -> ModuleType:
    """The file as a module under a name of its own, which its dataclasses look up."""
    path = Path(file)
    name = f"{USER_MODULE}{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None, "a .py file always has a loader"
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
