"""Pictures in files: what all plots of the command line share. ``matplotlib`` is imported when a picture is drawn, not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keel.core.errors import UserError

_DPI = 80


def grid(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure of ``width`` x ``height`` inches with ``rows`` x ``columns`` fields: the figure and its axes [rows][columns]."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Any, path: Path, flag: str = "--plot") -> None:
    """Write PNG, SVG or PDF, by the end of the name. Raises UserError, which names ``flag``, where the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=_DPI)
    except (OSError, ValueError) as error:  # ValueError: a format that it does not know
        raise UserError(f"{flag} {path} cannot be written: {error}") from error
