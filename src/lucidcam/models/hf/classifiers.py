"""Image classification."""

from __future__ import annotations

from typing import Any

from lucidcam.class_scores import OutputKind
from lucidcam.models.hf._repository import Repository, classes
from lucidcam.types import Model

OUTPUTS: dict[str, OutputKind] = {"multi_label_classification": "sigmoid", "single_label_classification": "softmax", "regression": "none"}
"""What outputs mean, by the `problem_type` of a configuration."""


def load(repository: Repository, config: Any, auto: str) -> Model:
    """Load an image classifier."""
    module = repository.module(auto, config)
    outputs = OUTPUTS.get(getattr(config, "problem_type", None) or "")
    return Model(module, repository.pictures(config), classes(config), None, repository.spec, outputs=outputs)
