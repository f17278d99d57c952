"""Detectors and segmenters."""

from __future__ import annotations

from typing import Any

from lucidcam.models.hf._repository import Repository, branch, classes
from lucidcam.tasks import Detections, Segments
from lucidcam.types import Model

DETECTORS = frozenset({"detr", "table-transformer", "conditional_detr", "dab-detr", "deformable_detr", "rt_detr", "rt_detr_v2", "d_fine"})
WITH_BACKGROUND = frozenset({"detr", "table-transformer"})
"""Detectors with a softmax over classes and "no object"; the others have a sigmoid for each class."""

SEGMENTERS = frozenset({"segformer", "mask2former", "maskformer", "upernet", "dpt", "beit"})


def detector(repository: Repository, config: Any, auto: str) -> Model:
    """Load a detector of DETR's kind.

    Its layer is the backbone's last one, which every query and every scale is computed from; the decoder's queries are no places.
    """
    module = repository.module(auto, config)
    layer = branch(module, "model.backbone.conv_encoder", "model.backbone")
    task = Detections(background=config.model_type in WITH_BACKGROUND)
    return Model(module, repository.pictures(config, everything=True), classes(config), layer, repository.spec, task=task)


def segmenter(repository: Repository, config: Any, auto: str) -> Model:
    """Load a segmenter; its layer is the backbone's last one, as Seg-Grad-CAM's is the bottleneck."""
    module = repository.module(auto, config)
    layer = branch(module, "model.pixel_level_module.encoder", "backbone", getattr(module, "base_model_prefix", "") or "backbone")
    return Model(module, repository.pictures(config, everything=True), classes(config), layer, repository.spec, task=Segments())
