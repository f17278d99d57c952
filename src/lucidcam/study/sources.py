"""What a study is made from: its models, its photos, its methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lucidcam.data import Dataset, open_data
from lucidcam.errors import DataError, ModelError, OptionError
from lucidcam.models import load
from lucidcam.samples import Problem, Sample
from lucidcam.study.config import Config
from lucidcam.types import Model


def method_of(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any], Any]:
    """A method's registered name, its options, and the layer it looks at (None: the model's own)."""
    rest = {key: value for key, value in options.items() if key not in ("method", "layer")}
    return str(options.get("method", name)), rest, options.get("layer")


def model_of(name: str, given: Any, root: Path) -> Model:
    """A model as the study's config names it; files are looked for beside the config first.

    Raises:
        OptionError: for what `lucidcam.load` does not take.
        ModelError: it cannot be loaded, or does not classify.
    """
    if isinstance(given, Model):
        model = given
    else:
        options: dict[str, Any] = {"load": given} if isinstance(given, str) else dict(given) if isinstance(given, Mapping) else {}
        spec = options.pop("load", None)
        options.pop("class_map", None)
        if not isinstance(spec, str):
            raise OptionError(f'models: expected {name} = {{ load = "demo" }}, or another name that lucidcam.load takes; got {given!r}.')
        beside = root / spec
        model = load(str(beside) if beside.exists() else spec, **options)
    if model.task is not None:
        raise ModelError(f"{name}: a study asks about classes; {model.name} does {model.task.name}.")
    return model


def data_of(study: Config) -> Dataset:
    """The study's photos; a folder or file is looked for beside the config first."""
    source = study.data
    if isinstance(source, str) and not Path(source).expanduser().is_absolute() and (study.root / source).exists():
        source = study.root / source
    options = {name: value for name, value in (("split", study.split), ("data_root", study.data_root)) if value}
    return open_data(source, study.format or None, **options)


def labelled(data: Dataset, study: Config) -> tuple[list[Sample], list[str]]:
    """The samples that have labels, shuffled, at most the study's limit; and what could not be read.

    Cut after shuffling: folders are sorted by class, and their first photos are of one.
    """
    everything = list(data)
    problems = [each.error for each in everything if isinstance(each, Problem)]
    found = [each for each in everything if isinstance(each, Sample) and each.labels]
    if not found:
        raise DataError(f"{data.name}: no photo has a label, and both questions need them; see the formats in the documentation of data.")
    return [found[k] for k in np.random.default_rng([study.seed, 0]).permutation(len(found))[: study.limit or None]], problems
