"""A frozen model beside the one that is trained: a reference that is not the starting weights, a teacher."""

from __future__ import annotations

from keel.core.errors import ModelError
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.verbs.shared.recipes import ModelRecipe
from keel.verbs.shared.session import Session, load, pin_weights


def other_model(
    session: Session, recipe: ModelRecipe, named: tuple[str, str], renderer: Renderer, media: MediaStore
) -> tuple[Model | None, str]:
    """The frozen model of a setting, ``named`` (the setting's key, the model), and the digest of its weights, which is recorded with the
    run; None where the setting is empty. ``media`` are the policy's images. Raises ModelError for one with another tokenizer."""
    key, spec = named
    if not spec:
        return None, ""
    role = key.removesuffix("_model")
    loaded, other = load(recipe, spec=spec)
    if other.tokenizer.get_vocab() != renderer.tokenizer.get_vocab():
        raise ModelError(
            f"{key} {spec} has another tokenizer than {recipe.model}: ids would mean other words", f"take a {role} of the same family"
        )
    digest = pin_weights(session, loaded.model, f"the {role}'s weights")
    loaded.model.freeze()
    loaded.model.media = media
    return loaded.model, digest
