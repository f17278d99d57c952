"""Labels of images, one after the other: the maps of their classes, cut into things."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lucidcam.data import open_data
from lucidcam.data.class_map import Given
from lucidcam.localization.regions import Keep, Refine, Regions
from lucidcam.methods._base import Method
from lucidcam.outputs._labels import Labels
from lucidcam.stream.explainer import Explained, Explainer, OnProblem
from lucidcam.types import Model


def localize(
    model: Model,
    data: Any,
    *,
    method: str | Method = "gradcam",
    target: Any = None,
    threshold: float = 0.2,
    regions: Keep = "all",
    min_area: float = 0.0,
    refine: Refine = "",
    masks: bool = True,
    layer: Any = None,
    class_map: Given = None,
    on_problem: OnProblem | None = None,
    **options: Any,
) -> Iterator[Labels]:
    """Turn image-level labels, or a model's predictions, into boxes and masks.

    Samples stream: a few images are in memory at a time. Write the result with the classes of `lucidcam.registry.exporters`.

    Args:
        model: from `lucidcam.load` or `lucidcam.wrap`.
        data: a folder, an annotation file, a list of images, …, as for `lucidcam.data.open_data`.
        method: as for `lucidcam.explain`, like `layer` and `options`.
        target: None: the predicted class of each image; "label": its own labels in the data set; a class label or id; a list of them;
            "top5". A thing is called by the data set's word where there is one.
        threshold: pixels at or above this share of a map's maximum belong to a thing; `calibrate` finds a good one.
        regions: "all": each connected region is a thing; "largest": one thing per map.
        min_area: smaller regions are left out; a share of the image.
        refine: "grabcut": masks, and the boxes around them, follow the image's colours; "": they are the map's.
        masks: False: boxes only.
        layer: as for `lucidcam.explain`.
        class_map: from the data's names of classes to the model's labels or ids, where they differ.
        on_problem: called with each image that cannot be used, which is then left out; None: it is raised.
        options: as for `lucidcam.explain`.

    Yields:
        The labels of each image. A thing's score is its class's probability × the mean of the heatmap in its region.

    Raises:
        DataError: for a data set that cannot be read, or of which no image can be used.
        LucidcamError: for a target, layer or option that does not exist.

    Example:
        >>> import torch, lucidcam, numpy as np
        >>> from PIL import Image
        >>> from lucidcam.localization import localize
        >>> net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1))  # class = colour
        >>> def to_tensor(image):
        ...     return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        >>> model = lucidcam.wrap(net, to_tensor, ["red", "green", "blue"], layer="0")
        >>> image = np.zeros((8, 8, 3), np.uint8)
        >>> image[2:5, 1:7, 0] = 255
        >>> [labels] = localize(model, [image])
        >>> [(thing.label, thing.box) for thing in labels.objects]
        [('red', (1, 2, 7, 5))]
    """
    chosen = Regions(threshold=threshold, keep=regions, min_area=min_area, refine=refine, masks=masks)
    explained = Explainer(model, method, target, layer, class_map, options)(open_data(data), on_problem)
    return (_labels(each, chosen) for each in explained)


def _labels(explained: Explained, regions: Regions) -> Labels:
    image, source = explained.prepared.image, explained.sample.image
    path = Path(source).expanduser() if isinstance(source, (str, os.PathLike)) else None
    objects = tuple(thing for label, explanation in explained.maps for thing in regions.things(explanation, label))
    return Labels(explained.sample.name, path, *image.size, objects, None if path is not None else image)
