"""The choices and constants that options are made of, for the command line as for the library; nothing here needs torch."""

from __future__ import annotations

from typing import Literal

OutputKind = Literal["softmax", "sigmoid", "probabilities", "none"]
"""What outputs can mean: logits of a softmax over all classes, a logit of its own for each class, probabilities, or neither."""

Fit = Literal["crop", "squash", "whole"]
Channels = Literal["RGB", "BGR", "L"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
