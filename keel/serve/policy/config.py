"""Settings of `keel serve policy` and `keel chat`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.models.config import ModelOptions
from keel.render.config import RenderConfig

ENGINES = ("keel", "vllm", "sglang")


class RowsConfig(Section):
    """How many requests are answered at a time, and how many may wait."""

    rows: int = Field(default=32, ge=1, description="Answers decoded side by side in one worker; more is faster and takes more memory.")
    waiting: int = Field(default=64, ge=0, description="Answers that may wait for a place; a request beyond them is refused (429).")
    waiting_mb: float = Field(
        default=64.0, gt=0, description="Megabytes of all requests that are held, each as often as it has answers; beyond them: 429."
    )
    waiting_tokens: int = Field(
        default=262144, ge=1, description="Prompt tokens that may wait for a place in one worker; a request beyond them is refused (429)."
    )
    prefill_tokens: int = Field(
        default=2048, ge=1, description="Prompt tokens that join in one step; those that are being answered wait for them."
    )
    max_tokens: int = Field(default=1024, ge=1, description="Longest answer in tokens, also of a request that names no limit.")
    choices: int = Field(default=16, ge=1, description="Answers of one request at most (`n` times its prompts).")
    timeout_s: float = Field(default=600.0, gt=0, description="Longest time of a request, waiting included (504 after it).")
    max_body_mb: float = Field(default=16.0, gt=0, description="Largest request (413 above).")
    images: int = Field(default=16, ge=0, description="Images of one request at most (413 above).")
    image_mpx: float = Field(
        default=64.0, gt=0, description="Megapixels of all images of a request (413 above): a small file may be a very large picture."
    )
    drain_s: float = Field(default=60.0, ge=0, description="Time that accepted requests get to end when the server is told to stop.")


class ProbeConfig(Section):
    """How it is found out that a worker does not answer any more."""

    load_s: float = Field(default=1800.0, gt=0, description="A worker whose model is not there after so many seconds is ended, and named.")
    ready_s: float = Field(
        default=4.0, gt=0, description="`/ready` says 503 when a token that it asks for has not come after so many seconds."
    )
    stuck_s: float = Field(
        default=60.0,
        gt=0,
        description="A worker that is asked and gives no sign of life for so many seconds is ended and started again. A long prompt is one "
        "step: it must take less.",
    )
    restart_s: float = Field(default=1.0, ge=0, description="Pause before an ended worker starts again; doubled each time, up to 30 s.")
    gone_s: float = Field(
        default=60.0, gt=0, description="Longest wait of a request for a worker that is gone and starts again (503 after it)."
    )
    moves: int = Field(default=3, ge=0, description="How often a request goes on elsewhere, or again, when its worker ends; then 503.")


class GuardsConfig(Section):
    """What the canary must keep, measured over the last requests of both arms."""

    window: int = Field(default=200, ge=10, description="Last requests of each arm that are looked at.")
    least: int = Field(default=20, ge=1, description="Requests of the canary before shares and times are judged.")
    errors: float = Field(default=0.05, ge=0, le=1, description="Largest share of failed requests above the stable arm's own share.")
    filtered: float = Field(default=0.05, ge=0, le=1, description="Largest share of filtered answers above the stable arm's own share.")
    slower: float = Field(default=2.0, gt=1, description="Largest ratio of the median time between tokens to the stable arm's own.")
    thumbs_down: float = Field(default=0.2, ge=0, le=1, description="Largest share of thumbs down above the stable arm's own share.")
    silence_s: float = Field(
        default=30.0, gt=0, description="The canary was asked and has said nothing for so many seconds: no metrics, rolled back."
    )


class CanaryConfig(Section):
    """A new model for a share of the keys."""

    model: str = Field(description="The new model, as `model`.")
    engine: str = Field(default="keel", description="As `engine`.")
    share: float = Field(default=0.05, ge=0, le=1, description="Share of the keys that it answers.")
    key: Literal["user", "request"] = Field(
        default="user", description="What is hashed: the request's `user` (one without is its own key), or every request by itself."
    )
    salt: str = Field(
        default="canary", description="Another salt draws other keys; the same salt draws the same ones, after a restart too."
    )
    shadow: float = Field(
        default=0.0, ge=0, le=1, description="Share of the stable arm's requests that the canary answers too; that answer is thrown away."
    )
    guards: GuardsConfig = Field(default=GuardsConfig(), description="What it must keep.")
    verdict: str = Field(
        default="",
        description="A JSON file whose `answer` is `better`, `not_better` (rolled back) or `cannot_tell` (goes on), as `keel ab check "
        "--json` writes it. Empty: the guards alone decide.",
    )
    verdict_s: float = Field(
        default=86400.0, gt=0, description="An older verdict, none, or one that cannot be read is no metrics: rolled back."
    )
    outcomes: str = Field(
        default="",
        description="File for `keel ab check`: a line for each thumb of a user who consents to its being kept (`user`, `arm`, `outcome`).",
    )
    state: str = Field(
        default="", description="File that remembers a rollback over restarts, with its reason. Empty: a restart begins anew."
    )


class FeedbackConfig(Section):
    """Where thumbs and edits go. Nothing is kept of a request without the consent of whoever sends its feedback."""

    store: str = Field(default="", description="Store of judgements, e.g. sqlite:///feedback.db. Empty: feedback is refused (404).")
    campaign: str = Field(default="served", description="Campaigns CAMPAIGN-thumbs, -edits and -votes are made in it.")
    remember_s: float = Field(default=3600.0, gt=0, description="How long an answer can be spoken of; it is kept in memory alone.")
    remember: int = Field(default=1000, ge=1, description="Answers that are remembered at most.")


class DriftConfig(Section):
    """Are the prompts and answers still like those of before? Token counts are kept in memory, texts are not."""

    reference: str = Field(
        default="", description="File of texts to compare with (JSONL: `text`, `prompt` or `messages`). Empty: the first `window` requests."
    )
    window: int = Field(default=0, ge=0, description="Requests of one comparison, 50 or more; 0 = no comparison.")
    alpha: float = Field(default=0.01, gt=0, lt=1, description="Share of comparisons that alarm although nothing has changed.")

    @model_validator(mode="after")
    def _window(self) -> Self:
        if 0 < self.window < 50:
            raise ValueError("window must be 50 or more: fewer texts cannot show a change")
        if self.reference and not self.window:
            raise ValueError("reference would have no effect without window")
        return self


class ServePolicyConfig(Section):
    """`keel serve policy MODEL`: a policy behind OpenAI's protocol."""

    model: str = Field(description="The policy: folder, id, GGUF file or tiny:ARCH; with engine http://... the name it has there.")
    name: str = Field(default="", description="What clients call it; empty = `model`.")
    engine: str = Field(
        default="keel",
        description="keel: Keel's own sampler; vllm, sglang: that server, started beside, where it is installed; http://HOST:PORT: a "
        "server of OpenAI's protocol that runs already.",
    )
    engine_arguments: list[str] = Field(
        default=[], description="More of the command line of vllm or sglang, e.g. [--max-model-len, '4096', --enforce-eager]; of all arms."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen at. Elsewhere than here clients need the key.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 = one that is free, which is printed.")
    public_url: str = Field(default="", description="How clients reach the server through one with https before it.")
    key_env: str = Field(
        default="KEEL_API_KEY",
        description="Variable that holds the key clients must send (16 characters or more). Without it one is made where the address is "
        "not this machine's own, and printed.",
    )
    tools: Literal["auto", "hermes", "json", "off"] = Field(
        default="auto",
        description="How the model writes calls of tools: hermes = <tool_call>{...}</tool_call>, json = the whole answer is {name, "
        "parameters}; auto = by its chat template; off = requests with tools are refused.",
    )
    filters: str = Field(default="", description="File of rules for prompts and answers (docs/serve.md).")
    queue: RowsConfig = Field(default=RowsConfig(), description="How many at a time, how many wait, limits.")
    probe: ProbeConfig = Field(default=ProbeConfig(), description="Workers that do not answer.")
    canary: CanaryConfig | None = Field(default=None, description="A new model for a share of the keys.")
    feedback: FeedbackConfig = Field(default=FeedbackConfig(), description="Thumbs and edits of users.")
    drift: DriftConfig = Field(default=DriftConfig(), description="Prompts and answers that change.")
    threads: int | None = Field(default=None, ge=1, description="Threads of each worker; none = as many as there are cores.")
    model_options: ModelOptions = Field(default=ModelOptions(), description="How models are loaded and computed.")
    render: RenderConfig = Field(default=RenderConfig(), description="How messages become tokens.")

    @model_validator(mode="after")
    def _engines(self) -> Self:
        for engine in (self.engine, *((self.canary.engine,) if self.canary is not None else ())):
            if engine not in ENGINES and not engine.startswith(("http://", "https://")):
                raise ValueError(f"engine is '{engine}', but must be one of {', '.join(ENGINES)}, or http://HOST:PORT")
        engines = {self.engine, *((self.canary.engine,) if self.canary is not None else ())}
        if self.engine_arguments and not engines & {"vllm", "sglang"}:
            raise ValueError("engine_arguments would have no effect: no arm has engine vllm or sglang")
        if self.render.changed and engines != {"keel"}:
            others = ", ".join(sorted(engines - {"keel"}))
            raise ValueError(f"render would have no effect on {others}, which makes tokens of messages by itself: leave it out")
        return self


class ChatConfig(Section):
    """`keel chat MODEL [MODEL]`: a conversation with one model, or with two side by side and blind."""

    models: tuple[str, ...] = Field(
        min_length=1, max_length=2, description="The models, as `model` of keel serve policy; or http://HOST:PORT#NAME."
    )
    system: str = Field(default="", description="A system turn before every conversation.")
    max_tokens: int = Field(default=512, ge=1, description="Longest answer in tokens.")
    temperature: float = Field(default=0.7, ge=0, le=2, description="Logits are divided by it; 0 takes the likeliest token.")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Draw from the fewest likely tokens that hold this share of the mass; 1 = off."
    )
    store: str = Field(default="", description="Store of judgements for votes, e.g. sqlite:///feedback.db. Empty: they are counted only.")
    campaign: str = Field(default="chat", description="Votes go to CAMPAIGN-votes.")
    threads: int | None = Field(default=None, ge=1, description="Threads of each model's process; none = as many as there are cores.")
    model_options: ModelOptions = Field(default=ModelOptions(), description="How models are loaded and computed.")
    render: RenderConfig = Field(default=RenderConfig(), description="How messages become tokens.")
