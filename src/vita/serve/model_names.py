"""Names that clients call the loaded model by. No web framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vita.serve.errors import ApiError

if TYPE_CHECKING:
    from vita.serve.served_model import ServedModel

ALIAS = "vita"  # a name that every model answers to


def model_id(model: ServedModel) -> str:
    """The model's name for clients: a hub id as it is, of a folder its last part."""
    name, folder = model.name, model.engine.model.checkpoint.folder
    return folder.name if name not in ("default",) and ("\\" in name or name.startswith((".", "/", "~"))) else name


def is_model(model: ServedModel, name: str | None) -> bool:
    """Whether a client's model name means the loaded model."""
    return name is None or name in ("", ALIAS, model_id(model), model.name)


def check_name(model: ServedModel, name: str | None) -> None:
    """Refuse the name of a model that is not loaded.

    Raises:
        ApiError: 404.
    """
    if not is_model(model, name):
        raise ApiError(
            404, f"The model {str(name)[:80]!r} is not loaded; {model_id(model)!r} is.", param="model",
            code="model_not_found",
        )  # fmt: skip
