"""A program that drives by itself: it asks an OpenAI endpoint for the policy's answers as often as it likes, and says at the end what they
were worth. No torch here: it runs in processes of its own."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keel.core.errors import UserError
from keel.environments.play import Start, points_of, seed_all
from keel.types import Endpoint

_OWN = "127.0.0.1,localhost"  # is asked without a proxy


@dataclass(frozen=True, slots=True)
class Agent:
    """``function(prompt, endpoint=..., ...)``, plain or async; ``seeded``: it also takes the seed of the prompt's world."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    seeded: bool

    @classmethod
    def of(cls, function: Callable[..., Any], spec: str, arguments: Mapping[str, Any]) -> Agent:
        """Raises UserError for arguments that it does not take."""
        parameters = inspect.signature(function).parameters
        given = {"endpoint": None, **({"seed": 0} if "seed" in parameters else {})}
        if taken := [name for name in arguments if name in given]:
            raise UserError(f"agent {spec}: {taken[0]!r} is given to it by the trainer", f"leave environment.arguments.{taken[0]} out")
        try:
            inspect.signature(function).bind(None, **given, **arguments)
        except TypeError as error:
            known = ", ".join([name for name in parameters if name not in given][1:]) or "none"
            raise UserError(f"agent {spec} cannot be called: {error}", f"environment.arguments may hold: {known}") from None
        return cls(function, arguments, "seed" in given)

    def run(self, start: Start, endpoint: Endpoint) -> tuple[float | None, dict[str, float]]:
        """(the reward, by name). Clients that are made without arguments find the endpoint in the environment variables that they look
        at. Raises whatever the user's code raises, and EpisodeError."""
        os.environ.update({"OPENAI_BASE_URL": endpoint.base_url, "OPENAI_API_KEY": endpoint.api_key})
        for name in ("NO_PROXY", "no_proxy"):
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), _OWN)))
        seed_all(start.chance)
        more = {"seed": start.seed} if self.seeded else {}
        found = self.function(start.prompt, endpoint=endpoint, **more, **self.arguments)
        return points_of(asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found)


def is_agent(found: Any) -> bool:
    """Is it a function that takes an ``endpoint``?"""
    if isinstance(found, type) or not callable(found):
        return False
    try:
        return "endpoint" in inspect.signature(found).parameters
    except (TypeError, ValueError):  # a builtin that tells none
        return False


async def _awaited(found: Any) -> Any:
    return await found
