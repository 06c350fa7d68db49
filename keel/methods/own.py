"""Losses of a user's own file, ``FILE.py:NAME``: a function, or a row that says what means something for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from keel.core.errors import UserError
from keel.core.python_file import load_object
from keel.methods.math.policy import PolicyLoss, PolicyTerms, PolicyTokens, unclipped
from keel.methods.objectives.preference import PairLoss

_POLICY = "def NAME(tokens: PolicyTokens) -> PolicyTerms, or -> Tensor: one loss a token, float [S] (docs/add_an_algorithm.md)"
_PAIR = "def NAME(winner_E, loser_E, label_E, margin_E, beta) -> Tensor: one loss a pair, float [E] (docs/add_a_loss.md)"


def own_policy_loss(spec: str) -> PolicyLoss:
    """The policy loss ``FILE.py:NAME``: a ``PolicyLoss``, or a function, which is taken to clip, to have a ratio and to need its sequences
    whole. What it returns is checked at every call.

    Raises:
        UserError: no such file or name, or a function that does not take tokens alone. Its calls raise it for a result that is no loss of
            these tokens, and for an error of the function.
    """
    found = load_object(spec, "policy loss", lambda x: callable(x) or isinstance(x, PolicyLoss))
    row = found if isinstance(found, PolicyLoss) else PolicyLoss(spec, found)
    _takes(spec, "policy loss", row.terms, 1, _POLICY)
    return replace(row, name=spec, terms=partial(_policy_terms, spec, row.terms))


def own_pair_loss(spec: str) -> PairLoss:
    """The loss ``FILE.py:NAME`` of pairs, called as ``math.preference.dpo`` is; what it returns is checked at every call.

    Raises:
        UserError: no such file or name, or a function of other arguments. Its calls raise it for a result that is no loss of these pairs,
            and for an error of the function.
    """
    function = load_object(spec, "preference loss")
    _takes(spec, "preference loss", function, 5, _PAIR)
    return partial(_pair_loss, spec, function)


def _pair_loss(
    spec: str,
    function: Callable[..., Tensor],
    winner_E: Tensor,
    loser_E: Tensor,
    label_E: Tensor,
    margin_E: Tensor,
    beta: float,
) -> Tensor:
    """The user's function with the contract kept."""
    loss_E = _called(f"preference loss {spec}", function, winner_E, loser_E, label_E, margin_E, beta)
    _is_loss(f"preference loss {spec}", loss_E, winner_E, f"it must be {_PAIR}")
    return loss_E


def _takes(spec: str, what: str, function: Callable[..., Any], n: int, wanted: str) -> None:
    try:
        inspect.signature(function).bind(*range(n))
    except TypeError as error:
        raise UserError(f"{what} {spec} cannot be called as it will be: {error}", f"it must be {wanted}") from None
    except ValueError:  # a function of another language says nothing of its arguments
        return


def _policy_terms(spec: str, function: Callable[[PolicyTokens], PolicyTerms | Tensor], tokens: PolicyTokens) -> PolicyTerms:
    """The user's function with the contract kept. A tensor alone means that nothing was held back."""
    found = _called(f"policy loss {spec}", function, tokens)
    terms = unclipped(found) if isinstance(found, Tensor) else found
    if not isinstance(terms, PolicyTerms):
        raise UserError(f"policy loss {spec} returned {type(found).__name__}", f"it must be {_POLICY}")
    _is_loss(f"policy loss {spec}", terms.loss_S, tokens.logprobs_S, f"it must be {_POLICY}")
    for name in ("low_S", "high_S"):
        held_S = getattr(terms, name)
        if not isinstance(held_S, Tensor) or held_S.dtype != torch.bool or held_S.shape != tokens.logprobs_S.shape:
            raise UserError(
                f"policy loss {spec}: {name} is {_shown(held_S)}, for {len(tokens.logprobs_S)} tokens", "it is bool, one a token"
            )
    return terms


def _called(what: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except torch.OutOfMemoryError:  # not the function's fault, and handled elsewhere
        raise
    except Exception as error:  # whatever it raises is the user's to mend
        raise UserError(f"{what} failed: {type(error).__name__}: {error}", "call it by itself on a few numbers") from error


def _is_loss(what: str, loss: Any, like: Tensor, hint: str) -> None:
    """``loss`` is one for each number of ``like``, and has a gradient where that has one."""
    if not isinstance(loss, Tensor) or loss.shape != like.shape or not loss.is_floating_point():
        raise UserError(f"{what} returned {_shown(loss)} for {tuple(like.shape)} numbers of {like.dtype}", hint)
    if torch.is_grad_enabled() and like.requires_grad and not loss.requires_grad:
        raise UserError(f"{what} returned a loss without a gradient", "compute it with torch from the log-probabilities, without detach()")


def _shown(value: Any) -> str:
    return f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
