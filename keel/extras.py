"""Which extra brings a module, for somebody who lacks it."""

from __future__ import annotations

from collections.abc import Mapping

from keel.core.errors import UserError

EXTRA_OF: Mapping[str, str] = {  # by the module that is imported; the smallest extra that brings it
    "bitsandbytes": "optim8bit",
    "datasets": "data",
    "fastapi": "web",
    "gguf": "gguf",
    "httpx": "judge",
    "jsonschema": "json",
    "lm_eval": "lm-eval",
    "math_verify": "math",
    "mlflow": "mlflow",
    "onnx": "onnx",
    "prometheus_client": "serve",
    "psycopg": "postgres",
    "ray": "ray",
    "reasoning_gym": "gym",
    "sqlalchemy": "feedback",
    "starlette": "web",
    "tensorboard": "tensorboard",
    "uvicorn": "web",
    "wandb": "wandb",
    "xllamacpp": "llamacpp",
}
ENOUGH_FOR: Mapping[str, str] = {"annotate": "web", "dash": "web", "serve": "serve", "chat": "serve"}  # a command that needs more than one


def missing(error: ModuleNotFoundError, command: str) -> UserError | None:
    """What to install where a command met a module that an extra brings; None for any other module, which is a fault of the program."""
    name = (error.name or "").partition(".")[0]
    if name not in EXTRA_OF:
        return None
    extra = ENOUGH_FOR.get(command, EXTRA_OF[name])
    return UserError(f"keel {command} needs {name}, which is not installed", f"pip install 'keel-align[{extra}]'")
