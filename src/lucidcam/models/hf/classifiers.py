"""Image classification."""

from __future__ import annotations

from typing import Any

from lucidcam.models.hf._repository import Repository, classes
from lucidcam.types import Model


def load(repository: Repository, config: Any, auto: str) -> Model:
    """Load an image classifier."""
    module = repository.module(auto, config)
    return Model(module, repository.pictures(config), classes(config), None, repository.spec)
