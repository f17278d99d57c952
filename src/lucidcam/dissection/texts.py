"""A bank made of any photos: a model of images and texts (CLIP, SigLIP) says what they show.

In the manner of CLIP-Dissect (Oikarinen & Weng, ICLR 2023), which names channels by how well their activations go with such a model's
similarities: here an image shows the texts that fit it better than nearly all other images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lucidcam.data import Dataset, open_data
from lucidcam.dissection.query import check_model
from lucidcam.engine.run import open_run
from lucidcam.engine.session import session
from lucidcam.errors import DataError, ModelError, OptionError
from lucidcam.samples import Problem, Sample
from lucidcam.stream.problems import prepare
from lucidcam.targets.resolve import resolve_target
from lucidcam.tasks import Prompts
from lucidcam.types import Model
from lucidcam.utils.progress import bar
from lucidcam.utils.rollback import closes_scopes

AT_ONCE = 16
"""Images that go through the network together."""


def labelled(images: Any, texts: Sequence[str], clip: Model, share: float, prompt: str, progress: bool | None) -> Dataset:
    """The images, each labelled with the texts that it fits.

    Raises:
        ModelError: `clip` has no prompts.
        OptionError: fewer than two texts, equal ones, a share that is none, a prompt without a place for the text.
        DataError: no image can be used.
    """
    check_model(clip)
    if not isinstance(clip.task, Prompts):
        raise ModelError(f"expected a model of images and texts (hf:openai/clip-vit-base-patch16, say) to name by; got {clip.name}.")
    if isinstance(texts, str) or len(texts) < 2 or len(set(texts)) < len(texts):
        raise OptionError(f"expected at least two different texts to name by; got {texts!r}.")
    if not 0 < share < 0.5 or prompt.count("{}") != 1:
        raise OptionError(f"expected 0 < share < 0.5 and a prompt with one {{}}; got {share} and {prompt!r}.")
    dataset = open_data(images)
    prompts = [prompt.format(text) for text in texts]
    found: list[Tensor] = []
    kept: list[Sample | Problem] = []
    with bar(dataset.count, "reading images", progress) as advance:
        for samples, inputs in _batches(dataset, clip, kept):
            found.append(_similarities(clip, inputs, prompts))
            kept += samples
            advance(len(samples))
    if not found:
        raise DataError(f"{dataset.name}: no image could be used.")
    fits = torch.cat(found)
    # An image that is near every text (a drawing of letters, say) shows none of them more than others.
    fits = fits - fits.mean(1, keepdim=True)
    most = max(1, round(share * len(fits)))
    shown = fits >= fits.topk(most, dim=0).values[-1]
    rows = iter(shown.tolist())
    told = [each if isinstance(each, Problem) else _told(each, texts, next(rows)) for each in kept]
    name = f"{dataset.name} in {len(texts)} texts by {clip.name}"
    return Dataset(name, "texts", lambda: iter(told), len(told), tuple(texts))


def _told(sample: Sample, texts: Sequence[str], shown: Sequence[bool]) -> Sample:
    return replace(sample, labels=tuple(text for text, yes in zip(texts, shown, strict=True) if yes), objects=())


def _batches(dataset: Dataset, clip: Model, kept: list[Sample | Problem]) -> Iterator[tuple[list[Sample], Tensor]]:
    """Some usable samples at a time with their inputs; what cannot be used goes to `kept`."""
    samples: list[Sample] = []
    tensors: list[Tensor] = []
    for sample in dataset:
        prepared = sample if isinstance(sample, Problem) else prepare(clip, sample)
        if isinstance(prepared, Problem):
            kept.append(prepared)
            continue
        assert isinstance(sample, Sample)
        samples, tensors = [*samples, sample], [*tensors, prepared.tensor]
        if len(samples) == AT_ONCE:
            yield samples, torch.stack(tensors)
            samples, tensors = [], []
    if samples:
        yield samples, torch.stack(tensors)


@closes_scopes
def _similarities(clip: Model, images: Tensor, prompts: list[str]) -> Tensor:
    """`[n, T]` of images `[n, C, h, w]`."""
    assert clip.task is not None
    moved = images.to(clip.device, clip.dtype)
    with session(clip.module):
        inputs, target = clip.task.ask(moved, resolve_target(prompts, clip), clip)
    with open_run(clip.module, inputs, target, progress=False, stated=clip.class_scores) as run:
        return run.clean_scores().double().cpu()
