"""Settings of judges. A file of judges names them: `judges: {NAME: {type: endpoint, ...}}`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from keel.core.config import Section, dump, load
from keel.core.errors import ConfigError
from keel.core.python_file import file_of
from keel.judges.ask import Kind


class TemplatesConfig(Section):
    """Which template asks which kind of question: one of ours by name, or a file."""

    pairwise: str = Field(default="pairwise_en", description="Which of two answers is better.")
    pointwise: str = Field(default="pointwise_en", description="A score of one answer.")
    ranking: str = Field(default="ranking_en", description="Several answers in order.")
    rubric: str = Field(default="rubric_en", description="A score of one answer on one point.")

    def of(self, kind: Kind) -> str:
        """The template of a kind of question."""
        names: dict[Kind, str] = {"pairwise": self.pairwise, "pointwise": self.pointwise, "ranking": self.ranking, "rubric": self.rubric}
        return names[kind]


class PriceConfig(Section):
    """What a call costs."""

    read: float | None = Field(default=None, ge=0, description="Price of a million tokens read; empty = unknown, which is never 0.")
    written: float | None = Field(default=None, ge=0, description="Price of a million tokens written; empty = unknown.")


class ScriptedConfig(Section):
    """A fake judge with biases that are known, for tests, demos and to see whether a report finds them. What it says is a hash of what it
    is asked. Its log-odds are the sum of the terms below."""

    type: Literal["scripted"] = Field(default="scripted", description="A fake with stated biases.")
    family: str = Field(default="", description="The family of models that it favours by `own`.")
    quality: float = Field(default=1.0, description="Log-odds for each unit of difference in `origin.quality` of the answers.")
    worth: str = Field(
        default="",
        pattern=r"^(.+\.py:\w+)?$",
        description="FILE.py:NAME of fn(prompt, text) -> float, in place of `origin.quality`: the truth that the fake sees.",
    )
    position: float = Field(default=0.0, description="Log-odds for the answer shown first.")
    length: float = Field(default=0.0, description="Log-odds for each doubling of length, in characters.")
    own: float = Field(default=0.0, description="Log-odds for an answer of its own family (`origin.family`).")
    noise: float = Field(default=0.0, ge=0, description="Standard deviation of normal noise, new for each order and sample.")
    tie: float = Field(default=0.0, ge=0, description="Says tie where the log-odds are nearer to 0 than this; read with hard=true.")
    hard: bool = Field(default=True, description="Says the likelier label; false = gives its probabilities.")
    constant: str = Field(default="", description="Always this label, whatever is asked: A, B or C.")
    obeys: bool = Field(default=False, description="Follows the first verdict that is written in an answer, as a gullible judge does.")
    hollow: bool = Field(default=False, description="Gives answers without content the best score.")
    fails: float = Field(default=0.0, ge=0, le=1, description="Share of the calls that give no verdict.")
    price: float = Field(default=0.0, ge=0, description="What a call is said to cost.")
    seed: int = Field(default=0, ge=0, description="Seed of noise and failures.")


class AskedConfig(Section):
    """What judges that read a template share."""

    templates: TemplatesConfig = Field(default=TemplatesConfig(), description="The templates.")
    family: str = Field(default="", description="Family of the model, e.g. llama: answers of its own are watched for favour.")
    max_tokens: int = Field(default=1024, ge=1, description="Longest reply, where the reply is no single label.")
    temperature: float = Field(default=0.0, ge=0, description="Of replies that are sampled; log-probabilities are taken at 1.")


class EndpointConfig(AskedConfig):
    """A model behind OpenAI's chat protocol."""

    # how it is asked, how fast and for how much: none of it decides what it says
    MEANS: ClassVar[frozenset[str]] = frozenset(
        {
            *("key_env", "concurrency", "per_minute", "attempts", "timeout_s", "longest_pause_s"),
            *("price", "budget", "journal", "image_tokens"),
        }
    )

    type: Literal["endpoint"] = Field(default="endpoint", description="A server of OpenAI's chat protocol.")
    url: str = Field(pattern=r"^https?://\S+$", description="Address up to and with /v1, e.g. http://127.0.0.1:8000/v1.")
    model: str = Field(min_length=1, description="Name of the model that the server is asked for.")
    key_env: str = Field(default="", description="Name of the environment variable that holds the server's key; empty = none is sent.")
    verdict: Literal["logprobs", "label", "json"] = Field(
        default="logprobs",
        description="logprobs = from the distribution of one label token; label = a sampled label; json = an object (and all rankings).",
    )
    images: bool = Field(
        default=False,
        description="Does the model see images? They are sent as content parts, where they stand; false = rows with images are refused by "
        "name before the first call.",
    )
    image_tokens: int | None = Field(
        default=None,
        ge=0,
        description="Tokens that an image is charged at most, for prices told before and for calls whose tokens nobody counted; empty = "
        "unknown. A budget needs it where images=true.",
    )
    concurrency: int = Field(default=8, ge=1, le=128, description="Calls in flight at once.")
    per_minute: float | None = Field(default=None, gt=0, description="Calls begun in a minute at most; empty = as many as go.")
    attempts: int = Field(default=4, ge=1, le=20, description="How often a call is sent that finds the server full, gone or late.")
    timeout_s: float = Field(default=60.0, gt=0, description="Longest wait for one reply.")
    longest_pause_s: float = Field(default=120.0, gt=0, description="Longest pause before another attempt, whatever the server asks for.")
    price: PriceConfig = Field(default=PriceConfig(), description="What a call costs.")
    budget: float | None = Field(
        default=None,
        gt=0,
        description="What all calls in the journal may cost together; once it is spent no call begins. Needs a price. Empty = no limit.",
    )
    journal: str = Field(default="judge_calls.sqlite", description="File in which every paid call is kept before it is used.")

    @model_validator(mode="after")
    def _budget_has_a_price(self) -> EndpointConfig:
        if self.budget is not None and (self.price.read is None or self.price.written is None):
            raise ConfigError("budget: a budget cannot be kept where the price is unknown", "give price.read and price.written")
        if self.budget is not None and self.images and self.image_tokens is None:
            raise ConfigError("budget: it cannot be kept where nobody knows what an image may cost", "give image_tokens")
        if self.image_tokens is not None and not self.images:
            raise ConfigError("image_tokens would have no effect with images=false", "leave it out, or set images=true")
        return self


class LocalConfig(AskedConfig):
    """A model in this process. Pairs, scores and rubrics are read from the log-probabilities of one label, rankings from a JSON reply."""

    type: Literal["local"] = Field(default="local", description="A model on this machine.")
    model: str = Field(min_length=1, description="Folder, id, GGUF file or tiny:ARCH.")
    model_options: dict[str, Any] = Field(
        default={}, description="How the model is loaded and computed: the fields of a recipe's `model_options`."
    )
    seed: int = Field(default=0, ge=0, description="Seed of replies that are sampled.")


class RewardModelConfig(Section):
    """A reward model as judge: the better of two answers is the one with the higher score. It sees no order."""

    type: Literal["reward_model"] = Field(default="reward_model", description="A reward model.")
    path: str = Field(min_length=1, description="Folder that `keel reward` made, or any model with a score head.")
    family: str = Field(default="", description="Family of the model, e.g. llama.")
    temperature: float = Field(default=1.0, gt=0, description="P(first) = sigmoid(difference of scores / temperature).")


class PanelConfig(Section):
    """Several judges, whose mean is the verdict."""

    type: Literal["panel"] = Field(default="panel", description="Several judges.")
    members: list[str] = Field(min_length=1, description="Names of judges of the same file.")
    quorum: int = Field(default=2, ge=1, description="Members that must give a verdict; with fewer there is none.")
    family: str = Field(default="", description="Family of the panel, where it has one.")

    @model_validator(mode="after")
    def _quorum_is_there(self) -> PanelConfig:
        if len(set(self.members)) < len(self.members) or self.quorum > len(self.members):
            raise ConfigError(
                "members: each once, and at least as many as the quorum", f"{len(self.members)} members, quorum {self.quorum}"
            )
        return self


JudgeConfig = Annotated[ScriptedConfig | EndpointConfig | LocalConfig | RewardModelConfig | PanelConfig, Field(discriminator="type")]
AnyJudge = ScriptedConfig | EndpointConfig | LocalConfig | RewardModelConfig | PanelConfig


class JudgesFile(Section):
    """A file of judges."""

    SAMPLE: ClassVar[str] = "recipes/judges.yaml"

    judges: dict[str, JudgeConfig] = Field(min_length=1, description="Judges by name.")

    def named(self, name: str) -> AnyJudge:
        """Raises ConfigError for a name that is not there, and for a panel with a member that is not there, or that is a panel around
        itself: whoever asks for the members of what this returns comes to an end."""
        self._check(name, ())
        return self.judges[name]

    def _check(self, name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ConfigError(f"judge {name}: a panel cannot be its own member ({' > '.join((*above, name))})", "name other members")
        if name not in self.judges:
            what = f"judge {above[-1]}: no judge {name!r}" if above else f"there is no judge {name!r}"
            near = difflib.get_close_matches(name, self.judges, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(what + meant, f"the file of judges has {', '.join(sorted(self.judges))}")
        config = self.judges[name]
        for member in config.members if isinstance(config, PanelConfig) else ():
            self._check(member, (*above, name))

    def models(self, name: str) -> Iterator[tuple[str, str]]:
        """(name of the judge, model folder) of all that ``name`` loads in this process."""
        config = self.named(name)
        match config:
            case LocalConfig():
                yield name, config.model
            case RewardModelConfig():
                yield name, config.path
            case PanelConfig():
                for member in config.members:
                    yield from self.models(member)
            case _:
                return

    def functions(self, name: str) -> Iterator[tuple[str, str]]:
        """(name of the judge, file) of the functions that ``name`` runs in this process."""
        match config := self.named(name):
            case ScriptedConfig(worth=str(worth)) if worth:
                yield name, file_of(worth)
            case PanelConfig():
                for member in config.members:
                    yield from self.functions(member)
            case _:
                return


def deciding_of(path: Path, *, whole: bool = False) -> dict[str, Any]:
    """What a file of judges says of what they say: a run that goes on must find that as it was, and may find more money, another server's
    key, or more patience. Without what stands at its default (unless ``whole``), so that a setting which is new in Keel changes no file
    that does not name it. Raises ConfigError for a file that cannot be read."""
    judges = load(JudgesFile, path).judges
    found = dict[str, Any]()
    for name, j in sorted(judges.items()):
        means = j.MEANS if isinstance(j, EndpointConfig) else ()
        found[name] = {k: v for k, v in dump(j).items() if k not in means and (whole or k == "type" or k in j.changed)}
    return found


class JudgeUse(Section):
    """A judge at work: which one, and what lets it."""

    judges: str = Field(default=JudgesFile.SAMPLE, description="File of judges.")
    judge: str = Field(min_length=1, description="Name of the judge in it.")
    report: str = Field(default="", description="Report of `keel judge report` that lets this judge work here.")
    override: str = Field(
        default="", description="Name of a judge that works here without a passed report; it stands in the run's manifest."
    )

    def judge_files(self, key: str) -> Iterator[tuple[str, str, bool]]:
        """(key, path, is it a model?) of what decides what the judge says. A file of judges that cannot be read is told of when it is
        used."""
        yield f"{key}judges", self.judges, False
        if self.report:
            yield f"{key}report", self.report, False
        try:
            found = load(JudgesFile, Path(self.judges)) if Path(self.judges).is_file() else None
            for name, model in found.models(self.judge) if found is not None else ():
                yield f"{key}judges.{name}", model, True
            for name, file in found.functions(self.judge) if found is not None else ():
                yield f"{key}judges.{name}", file, False
        except ConfigError:
            return
