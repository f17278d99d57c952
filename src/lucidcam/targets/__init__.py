"""What is explained: from a module's outputs to one score per image and target.

A target is first *bound* to the outputs of the clean images; that fixes which classes are meant ("the predicted one"). The bound
target then reads the same scores from any other outputs, of masked or noisy copies for instance. One file per kind of output.

    >>> import torch
    >>> outputs = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]])
    >>> as_target(None).bind(outputs, 2).scores(outputs)          # the predicted class
    tensor([[3.],
            [5.]])
    >>> Contrast(2, 0).bind(outputs, 2).scores(outputs)           # why 2 rather than 0
    tensor([[ 1.],
            [-1.]])
"""

from lucidcam.targets._as import as_target, by_word
from lucidcam.targets._base import Bound, Target, kind_of, leaves, local, logits, part, sound, tensors_of
from lucidcam.targets.classes import All, Classes, TopK
from lucidcam.targets.composed import Contrast, Head, LogProbability, Probability, Several
from lucidcam.targets.detection import Detection
from lucidcam.targets.embedding import Similarity
from lucidcam.targets.function import Function
from lucidcam.targets.segmentation import Segmentation, dense
from lucidcam.targets.tokens import Tokens
from lucidcam.targets.unclassed import PredictedOrNone
from lucidcam.targets.words import Caption, Prompt, Question, Spoken

__all__ = [
    "All",
    "Bound",
    "Caption",
    "Classes",
    "Contrast",
    "Detection",
    "Function",
    "Head",
    "LogProbability",
    "PredictedOrNone",
    "Probability",
    "Prompt",
    "Question",
    "Segmentation",
    "Several",
    "Similarity",
    "Spoken",
    "Target",
    "Tokens",
    "TopK",
    "as_target",
    "by_word",
    "dense",
    "kind_of",
    "leaves",
    "local",
    "logits",
    "part",
    "sound",
    "tensors_of",
]
