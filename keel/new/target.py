"""Where a project may be written: never over anything."""

from __future__ import annotations

from pathlib import Path

from keel.core.errors import UserError


def check_target(name: str) -> Path:
    """The folder. Raises UserError where something is there, or cannot be."""
    folder = Path(name).expanduser()
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{name} is there already and is no folder", "give another name")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"the folder {name} holds something already, and nothing is overwritten", "give a new name, or an empty folder")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"{above} is no folder", "give another place")
    return folder
