"""Settings of sampling: what distribution is drawn from, by which engine, and how it packs its work."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.core.python_file import file_of, names_a_file
from keel.types import SamplingParams


class SamplingConfig(Section):
    """The distribution that completions are drawn from. The model's own generation config is never read. RL trains the log-probabilities
    over what could have been drawn."""

    max_tokens: int = Field(default=128, ge=1, description="Longest completion in tokens, the end token included.")
    min_tokens: int = Field(default=0, ge=0, description="End tokens and stop strings cannot end a completion before this many tokens.")
    temperature: float = Field(default=1.0, ge=0.0, description="Logits are divided by it; 0 takes the most likely token (greedy).")
    top_p: float = Field(
        default=1.0, gt=0.0, le=1.0, description="Draw from the fewest likely tokens that hold this share of the mass; 1 = off."
    )
    top_k: int = Field(default=0, ge=0, description="Draw from the k most likely tokens only; 0 = off.")
    stop: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(
        default=(), description="Texts that end a completion; the text up to and with the first of them is kept."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) is larger than max_tokens ({self.max_tokens}); lower it")
        if 0.0 < self.temperature < 1e-3:
            raise ValueError(f"temperature {self.temperature} is too small to divide by; write 0 for greedy")
        return self

    def params(self, stop_tokens: tuple[int, ...], banned_tokens: tuple[int, ...] = ()) -> SamplingParams:
        """The same as a record, with the ids that only the tokenizer knows: what ends a completion, what is never sampled."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop,
            stop_tokens=stop_tokens,
            banned_tokens=banned_tokens,
        )


class EvalSamplingConfig(Section):
    """How answers are drawn that only measure. Its numbers come from a seed of their own, the same at every evaluation and in every run."""

    temperature: float = Field(default=0.7, ge=0.0, description="Logits are divided by it; 0 takes the most likely token (greedy).")
    top_p: float = Field(
        default=1.0, gt=0.0, le=1.0, description="Draw from the fewest likely tokens that hold this share of the mass; 1 = off."
    )
    top_k: int = Field(default=0, ge=0, description="Draw from the k most likely tokens only; 0 = off.")
    samples: int = Field(default=1, ge=1, description="Answers to each prompt.")


class SamplerConfig(Section):
    """How a sampler packs its work. Nothing here changes what is sampled (in fp32)."""

    max_rows: int = Field(
        default=128, ge=1, description="Completions decoded side by side; more is faster and takes more memory for the cache."
    )
    prefill_tokens: int = Field(
        default=4096, ge=1, description="Prompt tokens read in one forward pass (one longer prompt still goes in whole)."
    )
    turns_gib: float = Field(
        default=1.0,
        ge=0.0,
        description="GiB for keys and values of conversations between two turns; 0: each turn reads the whole conversation again.",
    )
    path: Literal["auto", "plain"] = Field(
        default="auto",
        description="auto: the shared-prompt fast path if it proves itself on the loaded model; plain: transformers' own forward.",
    )


class VllmConfig(Section):
    """What vLLM is given, where it draws the rollouts."""

    cache_gb: float = Field(default=1.0, gt=0.0, description="Memory of vLLM's cache of keys and values, in GiB.")
    prefix_cache: bool = Field(default=True, description="Keep the cache of prompts for later requests with the same beginning.")


class ServerConfig(Section):
    """Engines in processes of their own, where they draw the rollouts."""

    kind: Literal["keel", "vllm", "sglang"] = Field(
        default="keel",
        description="What the engines are: Keel's own, or the servers of vLLM or SGLang, started as docs/rollouts_beside.md says.",
    )
    urls: tuple[str, ...] = Field(
        default=(),
        description="Engines that run already, http://HOST:PORT each. Empty: `spawn` of Keel's own are started.",
    )
    spawn: int = Field(default=1, ge=1, le=64, description="Engines started on this machine, which end with the run.")
    threads: int = Field(default=0, ge=0, description="Threads of the processor for each engine; 0 = as torch has them.")
    folder: str = Field(
        default="", description="Where weights are handed over: a folder that trainer and engines see. Empty: a temporary one."
    )
    timeout_s: float = Field(default=600.0, gt=0, description="Longest answer of an engine, after which it is given up.")
    patience_s: float = Field(default=120.0, gt=0, description="How long no engine at all may be there before the run ends.")

    @model_validator(mode="after")
    def _shared(self) -> Self:
        if self.urls and self.changed & {"spawn", "threads"}:
            raise ConfigError(
                "sampler.server: spawn and threads are for engines that are started here", "leave them out, or leave out urls"
            )
        if self.urls and not self.folder:
            raise ConfigError("sampler.server.urls needs folder: where those engines find the weights", "name a folder that they see")
        if self.kind != "keel" and not self.urls:
            raise ConfigError(
                f"sampler.server.kind={self.kind} needs urls: only Keel's own engines are started by the run",
                "start the server as docs/rollouts_beside.md says, and name its address",
            )
        return self


def _is_an_engine(name: str) -> str:
    """One of ours, or a file's: whether that file has it is told when it is read."""
    if name not in ("local", "vllm", "server") and not names_a_file(name):
        raise ValueError(f"'{name}' is none of: local, server, vllm; nor is it FILE.py:NAME")
    return name


class RolloutConfig(SamplerConfig):
    """How rollouts are drawn while training: by which engine, and how that packs its work."""

    engine: Annotated[str, AfterValidator(_is_an_engine)] = Field(
        default="local",
        description="local: the trained model itself; server: engines in processes of their own, beside the training (see rollouts.lag); "
        "vllm: vLLM in this process, which gets the new weights each step; or a sampler of yours, FILE.py:NAME, called with the local one "
        "and the tokenizer.",
    )
    vllm: VllmConfig = Field(default=VllmConfig(), description="Settings of vLLM; only with engine=vllm.")
    server: ServerConfig = Field(default=ServerConfig(), description="Engines beside the training; only with engine=server.")

    @model_validator(mode="after")
    def _settings_of_the_engine(self) -> Self:
        if self.engine != "vllm" and self.vllm.changed:
            name = f"sampler.vllm.{min(self.vllm.changed)}"
            raise ConfigError(f"{name} would have no effect with engine={self.engine}", "set sampler.engine=vllm")
        if self.engine != "server" and self.server.changed:
            name = f"sampler.server.{min(self.server.changed)}"
            raise ConfigError(f"{name} would have no effect with engine={self.engine}", "set sampler.engine=server")
        if self.engine == "vllm" and "path" in self.changed:
            raise ConfigError("sampler.path would have no effect with engine=vllm", "leave it out")
        return self

    @model_validator(mode="after")
    def _settings_of_the_server(self) -> Self:
        if self.foreign and self.engine == "server" and (unread := sorted({"path", "prefill_tokens"} & self.changed)):
            raise ConfigError(f"sampler.{unread[0]} would have no effect with sampler.server.kind={self.server.kind}", "leave it out")
        return self

    @property
    def foreign(self) -> str:
        """The name of the engine that draws, where it is not Keel's; empty where it is."""
        names = {"vllm": "vLLM", "sglang": "SGLang"}
        return names.get(self.server.kind if self.engine == "server" else self.engine, "")

    @property
    def repeats(self) -> bool:
        """Does the engine draw the same when it is asked again, on the same machine?"""
        return self.engine == "local" or (self.engine == "server" and not self.foreign)

    @property
    def file(self) -> str | None:
        """The file of a sampler that is the user's own."""
        return file_of(self.engine) if names_a_file(self.engine) else None

    def check_sampling(self, sampling: SamplingConfig, told: bool) -> None:
        """Raise ConfigError for a distribution that the engine cannot draw from. ``told``: RL wants to know what could have been drawn."""
        if not self.foreign:
            return
        if sampling.stop:
            raise ConfigError(f"{self.foreign} ends a completion at tokens, not at texts", "leave sampling.stop out, or engine=local")
        cut = [name for name in ("top_p", "top_k", "min_tokens") if name in sampling.changed]
        if cut and told:
            raise ConfigError(
                f"sampling.{cut[0]}: RL trains over what could have been drawn, which {self.foreign} does not tell",
                f"leave sampling.{cut[0]} out, or set sampler.engine=local",
            )


class PolicyEnsembleConfig(Section):
    """Several policies as one. The first member is the recipe's `model`."""

    models: tuple[str, ...] = Field(min_length=1, description="The other members, as `model`; all have one tokenizer.")
    of: Literal["weights", "logits", "probabilities", "sequences"] = Field(
        default="probabilities",
        description="What is averaged: the models' weights, at each token their logits or probabilities, or whole answers (each drawn from "
        "one member).",
    )
    weights: tuple[float, ...] = Field(
        default=(), description="One a member, the first is `model`'s; they add up to 1. Empty: all the same."
    )
    fit: tuple[str, ...] = Field(
        default=(),
        description="Files of validation prompts: the weight of the one other member is the best of `grid` by the recipe's rewards.",
    )
    grid: tuple[float, ...] = Field(default=(0.0, 0.25, 0.5, 0.75, 1.0), min_length=2, description="Weights of the other member to try.")

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights and len(self.weights) != len(self.models) + 1:
            raise ValueError(f"{len(self.weights)} weights for {len(self.models) + 1} members: one each, the first is that of `model`")
        if any(w < 0 for w in (*self.weights, *self.grid)) or any(a > 1 for a in self.grid):
            raise ValueError("weights are at least 0, those of the grid at most 1")
        if self.weights and abs(sum(self.weights) - 1.0) > 1e-6:
            raise ValueError(f"the weights add up to {sum(self.weights):g}, not to 1")
        if self.fit and (self.weights or len(self.models) > 1):
            raise ValueError("fit finds the weight of one other member: leave out `weights`, and name one model")
        if not self.fit and "grid" in self.changed:
            raise ValueError("grid would have no effect without fit")
        return self
