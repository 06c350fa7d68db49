"""A reference that is another model than the one that training starts from."""

from __future__ import annotations

from keel.core.errors import ModelError
from keel.models.media import MediaStore
from keel.models.model import Model
from keel.render.renderer import Renderer
from keel.verbs.prefer.recipe import PreferRecipe
from keel.verbs.shared.session import Session, load, pin_weights


def other_reference(session: Session, recipe: PreferRecipe, renderer: Renderer, media: MediaStore) -> tuple[Model | None, str]:
    """The frozen model that the recipe names and the digest of its weights, which is recorded with the run; None where it names none.
    ``media`` are the policy's images. Raises ModelError for one with another tokenizer."""
    if not recipe.reference_model:
        return None, ""
    loaded, other = load(recipe, spec=recipe.reference_model)
    if other.tokenizer.get_vocab() != renderer.tokenizer.get_vocab():
        raise ModelError(
            f"reference_model {recipe.reference_model} has another tokenizer than {recipe.model}: ids would mean other words",
            "take a reference of the same family",
        )
    digest = pin_weights(session, loaded.model, "the reference's weights")
    loaded.model.freeze()
    loaded.model.media = media
    return loaded.model, digest
