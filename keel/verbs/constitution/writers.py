"""Who criticises and who revises: the model itself, a judge's model or server, or the rules."""

from __future__ import annotations

from keel.core.config import checked
from keel.core.errors import ConfigError
from keel.critique.ask import Writer, Writing
from keel.critique.config import RULES
from keel.critique.rules import RuleCritic
from keel.critique.templates import WritingTemplate, load_template
from keel.judges.build import read_judges
from keel.judges.config import EndpointConfig, LocalConfig
from keel.rewards.constitution.config import Constitution
from keel.rewards.constitution.scoring import Scorer
from keel.verbs.constitution.answers import Own
from keel.verbs.constitution.recipe import ConstitutionRecipe

SELF = "model"


def templates_of(recipe: ConstitutionRecipe, language: str) -> dict[Writing, WritingTemplate]:
    """What critics and revisers are shown. Raises ConfigError."""
    found: dict[Writing, WritingTemplate] = {
        "critique": load_template(recipe.revise.critique_template or f"critique_{language}"),
        "revision": load_template(recipe.revise.revision_template or f"revision_{language}"),
    }
    for kind, template in found.items():
        if template.kind != kind:
            raise ConfigError(f"revise.{kind}_template is a template for a {template.kind}", f"name one for a {kind}")
    return found


def writer_of(
    recipe: ConstitutionRecipe, name: str, kind: Writing, found: Constitution, scorer: Scorer | None = None, own: Own | None = None
) -> Writer:
    """The critic or reviser of that name; "" is the model itself. Raises ConfigError for one that cannot write."""
    templates = templates_of(recipe, found.language)
    warmth = 0.0 if kind == "critique" else recipe.revise.temperature
    if name == RULES:
        assert scorer is not None, "the rules are the scorer's"
        return RuleCritic(scorer)
    if not name:
        from keel.critique.local import LocalWriter

        assert own is not None, "the recipe has a model where it is needed"
        return LocalWriter(SELF, own.reading, own.sampler, templates, recipe.revise.max_tokens, warmth, recipe.seed)
    config = read_judges(recipe.constitution.judges).named(name)
    match config:
        case EndpointConfig():
            from keel.critique.endpoint import EndpointWriter  # httpx, where it is needed

            return EndpointWriter(name, config, templates, warmth)
        case LocalConfig():
            return _local(name, config, templates, warmth)
        case _:
            raise _mute(name, config.type)


def _mute(name: str, kind: str) -> ConfigError:
    return ConfigError(f"judge {name} ({kind}) cannot write critiques or revisions", "name one of type endpoint or local")


def _local(name: str, config: LocalConfig, templates: dict[Writing, WritingTemplate], warmth: float) -> Writer:
    from keel.critique.local import LocalWriter
    from keel.models.config import ModelOptions
    from keel.models.loading import load_model
    from keel.render.config import RenderConfig
    from keel.rollout.local import LocalSampler
    from keel.verbs.shared.session import renderer_of

    loaded = load_model(config.model, checked(ModelOptions, config.model_options))
    renderer = renderer_of(loaded, RenderConfig())
    sampler = LocalSampler(loaded.model.freeze(), renderer.decode)
    return LocalWriter(name, renderer, sampler, templates, config.max_tokens, warmth, config.seed)


def check_writers(recipe: ConstitutionRecipe, scorer: Scorer) -> None:
    """Raises ConfigError for critics that cannot say anything of these principles, before any call."""
    for name in recipe.writers():
        config = read_judges(recipe.constitution.judges).named(name)
        if not isinstance(config, EndpointConfig | LocalConfig):
            raise _mute(name, config.type)
    judged = [p.name for p in scorer.constitution.principles if p.weight > 0 and not scorer.known(p)]
    if recipe.revise.answers and recipe.revise.critic == RULES and judged:
        raise ConfigError(f"revise.critic: rules know nothing of {', '.join(judged)}, which a judge scores", "name another critic")
    if recipe.measure.answers and len(judged) == sum(p.weight > 0 for p in scorer.constitution.principles):
        raise ConfigError("measure.answers: no principle is scored by a rule or verifier, so that the truth is not known", "leave it out")
