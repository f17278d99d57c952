"""The one file that imports Lightning and torchmetrics, which import torchvision, whose compiled operators may not load (see `compat`)."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from lucidcam.utils.optional import import_optional, import_torchvision

PURPOSE = "training"

if importlib.util.find_spec("torchvision") is not None:
    import_torchvision(PURPOSE)
lightning: Any = import_optional("lightning.pytorch", "train", PURPOSE)
torchmetrics: Any = import_optional("torchmetrics.classification", "train", PURPOSE)

Task: Any = lightning.LightningModule
Callback: Any = lightning.Callback


def leads() -> bool:
    """Whether this process writes and speaks for all of them."""
    return int(lightning.utilities.rank_zero_only.rank) == 0


for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)  # what hardware there is, which model was summarised, tips
