"""Errors that a user can mend. Each one says what is wrong, where, and what to do; the CLI prints it and exits with 2."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: one clear message, exit code 2, no traceback.

    ``message`` says what is wrong and where; ``hint`` says what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigError(UserError):
    """A recipe or an override is wrong; the message lists every problem at once."""


class DataError(UserError):
    """A data file cannot be used; the message names file, line and field."""


class EmptyFileError(DataError):
    """A data file has no row."""


class ModelError(UserError):
    """A model cannot be loaded or used as asked."""


class RunError(UserError):
    """A run directory cannot be used (locked, not writable, made by another recipe, all checkpoints broken)."""


class SelfTestError(UserError):
    """A check of the self-test failed: training would have been silently wrong. The message names the check."""


class RankError(UserError):
    """A process that shares the work of a learner ended, or failed by itself; all others were ended too."""


class RankLostError(RankError):
    """It was killed, its machine is gone or cannot be reached: started again, the run goes on."""


class DivergedError(UserError):
    """Training cannot go on (several non-finite steps in a row, a hard limit crossed); the last good checkpoint stands."""
