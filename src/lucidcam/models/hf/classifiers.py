"""Image classification."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from lucidcam.errors import ModelError
from lucidcam.models.hf._repository import Repository, classes
from lucidcam.types import Model
from lucidcam.utils.class_scores import BINARY_CLASSES, OutputKind

OUTPUTS: dict[str, OutputKind] = {"multi_label_classification": "sigmoid", "single_label_classification": "softmax", "regression": "none"}
"""What outputs mean, by the `problem_type` of a configuration."""


def load(repository: Repository, config: Any, auto: str) -> Model:
    """Load an image classifier."""
    module = _module(repository, config, auto)
    outputs = OUTPUTS.get(getattr(config, "problem_type", None) or "")
    return Model(module, repository.pictures(config), classes(config), None, repository.spec, outputs=outputs)


def _module(repository: Repository, config: Any, auto: str) -> nn.Module:
    """The network; with two labels it may have two outputs, or one that scores the second label, which only its weights tell."""
    try:
        return repository.module(auto, config)
    except ModelError:
        if getattr(config, "num_labels", None) != BINARY_CLASSES:
            raise
        single = copy.deepcopy(config)
        single.num_labels = 1
        try:
            return repository.module(auto, single)
        except ModelError:
            pass  # it fails for another reason, which the first error tells
        raise
