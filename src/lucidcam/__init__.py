"""lucidcam: where a vision network looks, and whether to believe it.

Class activation maps done right: one call for every method of the family, right to the paper's equation, at about the price of one forward
pass, and the user's model comes back as it was.

    >>> import torch, lucidcam
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(7200, 10))
    >>> lucidcam.attribute(net, torch.rand(1, 3, 32, 32), "gradcam", target=3).shape
    torch.Size([1, 30, 30])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# Both packages before the functions of these names, which their import would replace later.
from lucidcam import methods as _methods  # noqa: F401
from lucidcam import metrics as _metrics  # noqa: F401
from lucidcam import registry as _registry
from lucidcam.utils.lazy import lazy_names as _lazy_names

if TYPE_CHECKING:
    from lucidcam.attribution import attribute, optimize
    from lucidcam.auditing import Audit
    from lucidcam.auditing.audit import audit
    from lucidcam.benchmark import Cost, Costs
    from lucidcam.benchmark.run import bench
    from lucidcam.dissection import Bank, Channels, Names, Words, concepts
    from lucidcam.dissection.channels import channels
    from lucidcam.dissection.concept_explanation import words
    from lucidcam.engine.layers import describe as layers
    from lucidcam.engine.run import Run
    from lucidcam.errors import LucidcamError
    from lucidcam.evaluation import Report
    from lucidcam.evaluation.evaluate import evaluate
    from lucidcam.imaging.animation import animate
    from lucidcam.imaging.explanation import Explanation
    from lucidcam.imaging.preprocess import Preprocess
    from lucidcam.localization.discover import discover
    from lucidcam.localization.localize import localize
    from lucidcam.methods._base import Method, register
    from lucidcam.models import load, wrap
    from lucidcam.pipeline import Results
    from lucidcam.pipeline.run import run
    from lucidcam.reports import report
    from lucidcam.samples import Object, Sample
    from lucidcam.stream.explain import explain
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
    "Preprocess",
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

_HOMES = {
    "lucidcam.auditing": ("Audit", "audit"),
    "lucidcam.benchmark": ("Cost", "Costs", "bench"),
    "lucidcam.dissection": ("Bank", "Channels", "Names", "Words", "channels", "concepts", "words"),
    "lucidcam.engine.run": ("Run",),
    "lucidcam.errors": ("LucidcamError",),
    "lucidcam.evaluation": ("Report", "evaluate"),
    "lucidcam.imaging.explanation": ("Explanation",),
    "lucidcam.imaging.animation": ("animate",),
    "lucidcam.imaging.preprocess": ("Preprocess",),
    "lucidcam.localization": ("discover", "localize"),
    "lucidcam.methods._base": ("Method", "register"),
    "lucidcam.models": ("load", "wrap"),
    "lucidcam.pipeline": ("Results", "run"),
    "lucidcam.reports": ("report",),
    "lucidcam.attribution": ("attribute", "optimize"),
    "lucidcam.stream.explain": ("explain",),
    "lucidcam.samples": ("Object", "Sample"),
    "lucidcam.targets": (
        "All",
        "Caption",
        "Classes",
        "Contrast",
        "Detection",
        "Head",
        "LogProbability",
        "Probability",
        "Prompt",
        "Question",
        "Segmentation",
        "Several",
        "Similarity",
        "Target",
        "Tokens",
        "TopK",
    ),
    "lucidcam.types": ("Model",),
}
"""Where the names above are defined: a module is imported, and torch with it, when the first of its names is asked for."""

if not TYPE_CHECKING:  # type checkers refuse names that do not exist
    __getattr__, __dir__ = _lazy_names(__name__, _HOMES, {"layers": ("lucidcam.engine.layers", "describe")})


def methods() -> dict[str, type]:
    """Return every method by name, with its class: its docstring holds the equation, its fields are its options.

    >>> "gradcam" in methods()
    True
    """
    return dict(_registry.methods)


def metrics() -> dict[str, type]:
    """Return every metric by name, with its class: its docstring holds the definition, its fields are its options.

    >>> "deletion" in metrics()
    True
    """
    return dict(_registry.metrics)
