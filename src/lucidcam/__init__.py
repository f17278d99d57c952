"""lucidcam: where a vision network looks, and whether to believe it.

Class activation maps done right: one call for every method of the family, right to the paper's equation, at about the price of one forward
pass, and the user's model comes back as it was.

    >>> import torch, lucidcam
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(7200, 10))
    >>> lucidcam.attribute(net, torch.rand(1, 3, 32, 32), "gradcam", target=3).shape
    torch.Size([1, 30, 30])
"""

from lucidcam.auditing import Audit, audit
from lucidcam.costs import Cost, Costs, bench
from lucidcam.dissection import Bank, Channels, Names, Words, channels, concepts, words
from lucidcam.engine.layers import describe as layers
from lucidcam.engine.run import Run
from lucidcam.errors import LucidcamError
from lucidcam.evaluation import Report, evaluate
from lucidcam.explanation import Explanation
from lucidcam.films import animate
from lucidcam.localization import discover, localize
from lucidcam.methods._base import Method, register
from lucidcam.models import load, wrap
from lucidcam.pipeline import Results, run
from lucidcam.registry import methods as _methods
from lucidcam.registry import metrics as _metrics
from lucidcam.reports import report
from lucidcam.runner import attribute, explain, optimize
from lucidcam.samples import Object, Sample
from lucidcam.targets import (
    All,
    Caption,
    Classes,
    Contrast,
    Detection,
    Head,
    LogProbability,
    Probability,
    Prompt,
    Question,
    Segmentation,
    Several,
    Similarity,
    Target,
    Tokens,
    TopK,
)
from lucidcam.types import Model

__version__ = "0.1.0"

__all__ = [
    "All",
    "Audit",
    "Bank",
    "Caption",
    "Channels",
    "Classes",
    "Contrast",
    "Cost",
    "Costs",
    "Detection",
    "Explanation",
    "Head",
    "LogProbability",
    "LucidcamError",
    "Method",
    "Model",
    "Names",
    "Object",
    "Probability",
    "Prompt",
    "Question",
    "Report",
    "Results",
    "Run",
    "Sample",
    "Segmentation",
    "Several",
    "Similarity",
    "Target",
    "Tokens",
    "TopK",
    "Words",
    "animate",
    "attribute",
    "audit",
    "bench",
    "channels",
    "concepts",
    "discover",
    "evaluate",
    "explain",
    "layers",
    "load",
    "localize",
    "methods",
    "metrics",
    "optimize",
    "register",
    "report",
    "run",
    "words",
    "wrap",
]


def methods() -> dict[str, type]:
    """Return every method by name, with its class: its docstring holds the equation, its fields are its options.

    >>> "gradcam" in methods()
    True
    """
    return dict(_methods)


def metrics() -> dict[str, type]:
    """Return every metric by name, with its class: its docstring holds the definition, its fields are its options.

    >>> "deletion" in metrics()
    True
    """
    return dict(_metrics)
