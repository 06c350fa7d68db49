"""A task of the verifiers library (v1, 0.4) with the library's own agent: its harness in a subprocess asks Keel's endpoint, tool servers
run beside it, and the task's rewards judge the library's trace.

The library starts its chat programs by uv, which makes an environment for each; here they run by this interpreter, which must have what
they import. Boxes (docker, sandboxes) are refused by name. It is the user's file that imports the library."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from keel.core.errors import UserError
from keel.core.python_file import USER_MODULE
from keel.environments.agent import Agent
from keel.environments.play import EpisodeError
from keel.environments.verifiers import data_of, rewards_of
from keel.sandbox.frames import die_with_parent
from keel.types import Endpoint, Prompt

AGENT = "agent"  # the argument whose fields are those of the library's AgentConfig
_OURS = ("model", "client")
_PACKAGE = re.compile(r"^[A-Za-z0-9._-]+")


def task_agent(task: Any, spec: str, arguments: Mapping[str, Any]) -> Agent:
    """The agent that ``arguments.agent`` describes, with ``task``; the other arguments are the task's config. Raises UserError for what is
    not known, and for what needs a box."""
    told = arguments[AGENT]
    if not isinstance(told, Mapping):
        raise UserError(
            f"environment {spec}: arguments.agent is {told!r}", "it holds fields of verifiers' AgentConfig: {harness: {id: null}}"
        )
    if own := [name for name in _OURS if name in told]:
        raise UserError(f"environment {spec}: arguments.agent.{own[0]} is the trainer's to say", "leave it out")
    config = _made(spec, task.config_type(), {k: v for k, v in arguments.items() if k != AGENT})
    fields = {"harness": {"id": "null"}, "runtime": {"type": "subprocess"}, **told}
    made = _made(spec, import_module("verifiers.v1.configs.agent").AgentConfig, fields)
    if made.runtime.type != "subprocess":
        raise UserError(
            f"environment {spec} wants a runtime of type {made.runtime.type}, a box", "set arguments.agent.runtime={type: subprocess}"
        )
    harness = import_module("verifiers.v1.utils.loaders").load_harness(made.harness)
    if boxed := [of for of, needs in (("harness", harness.NEEDS_CONTAINER), ("task", task.NEEDS_CONTAINER)) if needs]:
        raise UserError(f"environment {spec}: its {boxed[0]} needs a container", "only what runs in a subprocess is run here: null or bash")
    _importable(task)
    return Agent(lambda prompt, endpoint: _run(task, config, fields, prompt, endpoint), {}, seeded=False)


def _importable(task: Any) -> None:
    """Tool servers are processes that import the task by its module's name, which is one of ours: let them find the user's file by it."""
    module = task.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    if not module.startswith(USER_MODULE) or file is None:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keel" / "modules"
    folder.mkdir(parents=True, exist_ok=True)
    link, source = folder / f"{module}.py", Path(file).resolve()
    if not link.is_symlink() or link.resolve() != source:
        spare = folder / f"{module}.{os.getpid()}"
        spare.symlink_to(source)
        spare.replace(link)
    paths = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(folder), str(source.parent)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))


def _made(spec: str, kind: Any, fields: Mapping[str, Any]) -> Any:
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"environment {spec}: its {kind.__name__} cannot be made: {error}", "see environment.arguments") from None


async def _run(task: Any, config: Any, fields: Mapping[str, Any], prompt: Prompt, endpoint: Endpoint) -> dict[str, float]:
    """By name, each with its weight. Raises EpisodeError where the library's agent failed."""
    vf = import_module("verifiers.v1")
    import_module("verifiers.v1.runtimes.subprocess").SubprocessRuntime.prepare_uv_script = _prepare
    made = (
        asyncio.create_subprocess_exec
    )  # what the library starts is in sessions of its own: let it end with this process, however that ends
    asyncio.create_subprocess_exec = partial(made, preexec_fn=die_with_parent)
    client = {"type": "eval", "base_url": endpoint.base_url, "api_key_var": "OPENAI_API_KEY"}
    async with vf.make_agent(vf.AgentConfig(model=endpoint.model, client=client, **fields)) as agent:
        trace = await agent.run(task(data_of(task, prompt), config))
    if trace.errors:
        raise EpisodeError(f"the agent of verifiers failed: {str(trace.errors[-1])[-500:]}")
    return rewards_of(trace)


async def _prepare(runtime: Any, script: str | bytes, env: Any = None, *, activate: bool = True) -> list[str]:
    """In place of uv: the script by this interpreter. Raises EpisodeError naming a package that it would have installed."""
    text = script.decode() if isinstance(script, bytes) else script
    declared = re.search(r"^# dependencies = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    for one in re.findall(r"\"([^\"]+)\"", declared[1]) if declared else ():
        name = _PACKAGE.match(one)
        try:
            metadata.version(name[0] if name else one)
        except metadata.PackageNotFoundError:
            raise EpisodeError(f"a program of verifiers needs {one}, which uv would install: install it beside verifiers") from None
    path = f"{runtime.workdir}/program.py"
    await runtime.write(path, text.encode())
    return [sys.executable, path]
