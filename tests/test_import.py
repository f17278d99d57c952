"""What importing costs, and what the package shows."""

from __future__ import annotations

import subprocess
import sys

import lucidcam


def test_the_public_surface() -> None:
    assert sorted(lucidcam.__all__) == [
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
    assert all(hasattr(lucidcam, name) for name in lucidcam.__all__)


def test_importing_brings_no_heavy_library() -> None:
    heavy = (
        "torch",
        "numpy",
        "PIL",
        "matplotlib",
        "timm",
        "torchvision",
        "transformers",
        "rich",
        "typer",
        "skimage",
        "scipy",
        "cv2",
        "pandas",
        "pyarrow",
        "pycocotools",
        "yaml",
    )
    code = f"import sys, lucidcam; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
