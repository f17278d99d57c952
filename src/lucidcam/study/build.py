"""From a config to a folder that can be served: photos explained once, pictures and plan written."""

from __future__ import annotations

import io
import itertools
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import comb
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from lucidcam.data import ClassMap, Dataset
from lucidcam.engine.run import open_run
from lucidcam.errors import DataError, LayerError, LucidcamError, MissingExtraError, ModelError, OptionError, RuleError
from lucidcam.imaging.explanation import Explanation
from lucidcam.io.ownership import OwnedFiles
from lucidcam.io.storage import check_writable, write_whole
from lucidcam.methods.settings import resolve_method
from lucidcam.samples import Sample
from lucidcam.stream.explain import explain
from lucidcam.study.config import Config, Trust, WhichClass
from lucidcam.study.config import read as read_config
from lucidcam.study.plan import PICTURES, PLAN, Block, Item, Plan
from lucidcam.study.scenes import Scene, joined, known, spoken, two_classed
from lucidcam.study.sources import data_of, labelled, method_of, model_of
from lucidcam.study.staging import Stage
from lucidcam.types import Model, Prepared
from lucidcam.utils.progress import bar
from lucidcam.utils.rollback import closes_scopes

LARGEST = 1280
"""Pixels of a picture's longer side at most: the width of a question's pictures on a laptop."""

SMALLEST = 640
"""Pixels of a picture's longer side at least. Smaller photos are enlarged before they are compressed: no browser enlarges JPEG's blocks."""

SPARE_CHECKS = 2
"""So many times the checks of one participant are made, so that not all get the same."""

SURE = 0.05
"""The largest p at which one model counts as more accurate than the other."""

WORDS = {
    "models": (
        "Which of the two networks is more reliable?",
        "Both gave the same answer for this photo. The pictures show what each of them looked at.",
        "Both say:",
    ),
    "methods": (
        "Which of the two explanations is more reliable?",
        "A network gave an answer for this photo. Both pictures explain that answer.",
        "The network says:",
    ),
}
"""Question, line below it and what goes before the answer, by what is compared."""


def make(config: Any, out: str | os.PathLike[str], progress: bool | None = None) -> Plan:
    """Explain the photos of a study, and write all that its page shows.

    Serving then needs no model and no network, and cannot tell which class or model is shown: pictures have random names. The folder
    appears when all is done; if that fails or is interrupted, nothing is left of it.

    Args:
        config: the path of a TOML file, a mapping of the same shape, or a `Config`.
        out: the folder of the study; it must not hold one yet.
        progress: a bar; None: in a terminal or notebook.

    Raises:
        OptionError: a wrong setting, a folder that holds a study, or one with pictures of someone else's where its own are to be.
        DataError: no photo suits a question, or the pictures cannot be written: a full disk, say.
    """
    study = read_config(config)
    folder = Path(out).expanduser()
    check_writable(folder, PLAN)
    if (folder / PLAN).exists():
        raise OptionError(f"{folder} holds a study; choose another folder, or take it away: its answers would be lost.")
    OwnedFiles(folder).check(PLAN, f"{PICTURES}/*.jpg")
    for name, options in study.methods.items():
        resolve_method(*method_of(name, options)[:2])
    data = data_of(study)
    samples, problems = labelled(data, study)
    models = {name: model_of(name, given, study.root) for name, given in study.models.items()}
    stage = Stage(folder, PLAN)
    try:
        stage.open()
        workshop = _Workshop(study, models, samples, _Pictures(stage.files), problems=problems)
        plan = _plan(study, workshop, data, progress)
        workshop.pictures.keep_only({name for item in plan.items for name in (*item.pictures, item.photo)})
        stage.files.path(PLAN)
        plan.write(stage.place)
        stage.commit()
    finally:
        try:
            stage.clear()
        finally:
            stage.clear()  # if the first was interrupted
    return plan


def _plan(study: Config, workshop: _Workshop, data: Dataset, progress: bool | None) -> Plan:
    with bar(None, "explaining", progress) as advance:
        workshop.tell = advance
        blocks = []
        if study.which_class is not None:
            blocks.append(workshop.which_class(study.which_class))
        if study.trust is not None:
            blocks.append(workshop.trust(study.trust))
    return Plan(
        id=secrets.token_hex(8),
        title=study.title,
        consent=study.consent,
        blocks=tuple(blocks),
        items=tuple(workshop.items),
        passed=study.passed,
        participants=study.participants,
        better=workshop.better,
        better_by=workshop.better_by,
        facts=workshop.facts(data),
        problems=tuple(workshop.problems),
    )


class _NotWrittenError(DataError):
    """A picture cannot be written, whatever photo it is of."""


@dataclass(frozen=True)
class _Pictures:
    """Pictures under random names, without anything that tells where they are from."""

    owned: OwnedFiles

    def keep(self, picture: Image.Image) -> str:
        shown = _resized(picture.convert("RGB"))
        buffer = io.BytesIO()
        # A new image: no metadata comes along. Full colour resolution: edges of the heat are of colour alone.
        Image.fromarray(np.asarray(shown)).save(buffer, "JPEG", quality=88, subsampling=0)
        name = f"{_name()}.jpg"
        try:
            write_whole(self.owned.path(f"{PICTURES}/{name}"), buffer.getvalue())
        except DataError as error:
            raise _NotWrittenError(str(error)) from error
        return name

    def keep_only(self, names: Collection[str]) -> None:
        """Remove the pictures of photos that turned out not to be usable."""
        for path in (self.owned.folder / PICTURES).iterdir():
            if path.name not in names:
                path.unlink()


def _resized(picture: Image.Image) -> Image.Image:
    """A picture whose longer side has `SMALLEST` to `LARGEST` pixels."""
    longer = max(picture.size)
    factor = min(max(longer, SMALLEST), LARGEST) / longer
    if factor == 1:
        return picture
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC)


@dataclass
class _Workshop:
    config: Config
    models: Mapping[str, Model]
    samples: Sequence[Sample]
    pictures: _Pictures
    items: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    accuracy: dict[str, float] = field(default_factory=dict)
    compared: dict[str, Any] = field(default_factory=dict)
    better: str = ""
    better_by: Literal["author", "accuracy", ""] = ""
    unmatched: dict[str, str] = field(default_factory=dict)
    tell: Callable[[float], None] = lambda _: None

    def which_class(self, asked: WhichClass) -> Block:
        name = asked.model or next(iter(self.models))
        model = self.models[name]
        classes = self._classes(name)
        makers = (joined if asked.join else two_classed)(self.samples, classes, model)
        self.unmatched |= classes.reasons
        if not makers:
            raise DataError(_no_scenes(self.samples, classes, asked.join))
        chosen = asked.methods or tuple(self.config.methods)
        made = len(self.items)
        spare: list[Scene] = []
        unmarked: list[Scene] = []
        count = 0
        for maker in makers:
            if count == asked.images and len(spare) == asked.checks * SPARE_CHECKS:
                break
            with self._problems():
                scene = maker()
                if asked.checks and not unmarked and scene.obvious() is None:
                    unmarked.append(scene)  # for checks in words, which must not be about a photo that counts
                elif count < asked.images:
                    self.items += self._shown(scene, model, chosen, asked.photo)
                    count += 1
                    self.tell(1)
                elif len(spare) < asked.checks * SPARE_CHECKS:
                    spare.append(scene)
        if not count and unmarked:
            raise DataError("which_class: a single photo suits, and it is kept for the checks; take more photos, or checks = 0.")
        if not count:
            raise DataError(f"none of the photos of two classes can be explained: {self.problems[-1]}")
        checks = self._obvious(asked, makers, spare)
        missing = asked.checks - len(checks)
        if missing > 0:
            pool = self._shown(unmarked[0], model, chosen[:1], asked.photo) if unmarked else checks
            checks = checks + _told(pool, missing * SPARE_CHECKS, self.config.seed)
        elif unmarked and count < asked.images:  # no words are needed
            with self._problems():
                self.items += self._shown(unmarked[0], model, chosen, asked.photo)
        counted = len(self.items) - made
        self.items += checks
        return Block("which_class", min(asked.items, counted), asked.checks, asked.ask, asked.help)

    def trust(self, asked: Trust) -> Block:
        chosen = asked.methods or tuple(self.config.methods)
        made = len(self.items)
        suited: list[tuple[Sample, str, list[int]]] = []
        right: list[list[bool]] = []
        models = [self.models[each] for each in self.config.compared]
        classes = [self._classes(each) for each in self.config.compared]
        for sample in self.samples:
            with self._problems():
                ids = [known(sample, each) for each in classes]
                if not all(ids):
                    continue
                told = [predicted(model, model.prepare([sample.image])[0]) for model in models]
                said = [next((label for label, id in each.items() if id == found), "") for each, (found, _) in zip(ids, told)]
                right.append([bool(each) for each in said])
                self.tell(1)
                if said[0] and len(set(said)) == 1 and max(p for _, p in told) - min(p for _, p in told) <= asked.similar:
                    word = spoken(said[0], *((model, id) for model, (id, _) in zip(models, told)))
                    suited.append((sample, word, [id for id, _ in told]))
        for each in classes:
            self.unmatched |= each.reasons
        if not right and self.problems:
            raise DataError(f"trust: no photo can be told by {' and '.join(self.config.compared)}: {self.problems[-1]}")
        if not right:
            raise DataError(f"trust: no photo has a label that {' and '.join(self.config.compared)} know; is a class_map missing?")
        self.accuracy = dict(zip(self.config.compared, np.mean(right, 0).tolist()))
        if asked.between == "models":
            self.compared = _compared(self.config.compared, right)
            self.better = asked.better or self._more_accurate()
            self.better_by = "author" if asked.better else "accuracy"
        for sample, word, predicted_ids in suited:
            if len({each.image for each in self.items[made:]}) == asked.images:
                break
            with self._problems():
                self.items += self._sides(sample, models, word, predicted_ids, chosen, asked)
                self.tell(1)
        if len(self.items) == made:
            why = f" The last problem: {self.problems[-1]}" if self.problems else ""
            raise DataError(
                f"trust: of {len(right)} labelled photos none is told rightly by {' and '.join(self.config.compared)} alike.{why}"
            )
        counted = self.items[made:]
        self.items += _told(counted, asked.checks * SPARE_CHECKS, self.config.seed)
        ask, help, says = WORDS[asked.between]
        return Block("trust", min(asked.items, len(counted)), asked.checks, asked.ask or ask, asked.help or help, says)

    def facts(self, data: Dataset) -> dict[str, Any]:
        """For the report."""
        from importlib.metadata import version

        return {
            "data": data.name,
            "labelled photos": len(self.samples),
            "labels that are no classes": self.unmatched,
            "models": {
                name: {"name": model.name, "weights": model.fingerprint(), "accuracy": self.accuracy.get(name)}
                for name, model in self.models.items()
            },
            **({"which model is more accurate": self.compared} if self.compared else {}),
            "methods": {
                name: {key: str(value) for key, value in {"method": name, **options}.items()}
                for name, options in self.config.methods.items()
            },
            "seed": self.config.seed,
            "lucidcam": version("lucidcam"),
            "torch": torch.__version__,
        }

    def _shown(self, scene: Scene, model: Model, methods: Sequence[str], photo: bool) -> list[Item]:
        """Each of the two classes by each method."""
        prepared = model.prepare([scene.image])[0]
        pictures = [(name, self._explained(model, prepared, name, [id for _, id in scene.classes])) for name in methods]
        beside = self.pictures.keep(scene.image.crop(scene.shown)) if photo else ""
        found = []
        for name, explanations in pictures:
            for each, options in zip(explanations, (scene.classes, scene.classes[::-1]), strict=True):
                kept = self.pictures.keep(each.picture().crop(scene.shown))
                found.append(Item(_name(), "which_class", scene.name, name, (kept,), beside, tuple(word for word, _ in options)))
        return found

    def _sides(
        self,
        sample: Sample,
        models: Sequence[Model],
        said: str,
        ids: Sequence[int],
        methods: Sequence[str],
        asked: Trust,
    ) -> list[Item]:
        """Two models by each method, or each two methods on a model."""
        prepared = [model.prepare([sample.image])[0] for model in models]
        made = {
            (k, name): self._explained(model, each, name, [id])[0].picture()
            for k, (model, each, id) in enumerate(zip(models, prepared, ids))
            for name in methods
        }
        beside = self.pictures.keep(prepared[0].image) if asked.photo else ""
        kept = {key: self.pictures.keep(picture) for key, picture in made.items()}
        found = []
        if asked.between == "models":
            pairs = [(name, self.config.compared, ((0, name), (1, name))) for name in methods]
        else:
            pairs = [(f"{a} or {b}", (a, b), ((0, a), (0, b))) for a, b in itertools.combinations(methods, 2)]
        for condition, sides, keys in pairs:
            both = tuple(kept[key] for key in keys)
            found.append(Item(_name(), "trust", sample.name, condition, both, beside, sides=sides, said=said))
        return found

    def _explained(self, model: Model, prepared: Prepared, name: str, ids: list[int]) -> list[Explanation]:
        method, options, layer = method_of(name, self.config.methods[name])
        return explain(model, [prepared], method, [ids], layer, **{"progress": False, **options})

    def _obvious(self, asked: WhichClass, makers: Sequence[Callable[[], Scene]], spare: list[Scene]) -> list[Item]:
        """Checks: heat drawn exactly on an object, on photos of their own where there are enough."""
        wanted = asked.checks * SPARE_CHECKS
        again = (maker for maker in makers[: asked.images])
        drawn: list[Item] = []
        while len(drawn) < wanted:
            with self._problems():
                maker = next(again, None) if not spare else None
                if not spare and maker is None:
                    break
                scene = spare.pop(0) if maker is None else maker()
                made = scene.obvious()
                if made is not None:
                    picture, options = made
                    beside = self.pictures.keep(scene.image.crop(scene.shown)) if asked.photo else ""
                    kept = self.pictures.keep(picture)
                    drawn.append(Item(_name(), "which_class", scene.name, "check", (kept,), beside, options, expected=0))
        return drawn

    def _classes(self, name: str) -> ClassMap:
        given = self.config.models[name]
        own = given.get("class_map") if isinstance(given, Mapping) else None
        return ClassMap.of(self.models[name], self.config.class_map if own is None else own)

    def _more_accurate(self) -> str:
        if self.compared["p"] >= SURE:
            shares = " and ".join(f"{share:.1%} ({name})" for name, share in self.accuracy.items())
            raise DataError(
                f"trust: right on {shares} of {self.compared['photos']} photos may differ by chance (p = {self.compared['p']:.2f}); say in "
                "better which one is known to be more accurate, or take more photos."
            )
        return max(self.accuracy, key=lambda name: self.accuracy[name])

    @contextmanager
    def _problems(self) -> Iterator[None]:
        """What is wrong with one photo is noted; what is asked for wrongly, whatever the photo, is raised."""
        try:
            yield
        except (OptionError, LayerError, RuleError, MissingExtraError, _NotWrittenError):
            raise
        except LucidcamError as error:
            self.problems.append(str(error))


@closes_scopes
def predicted(model: Model, prepared: Prepared) -> tuple[int, float]:
    """The class that a model gives an image, and its probability."""
    inputs = prepared.tensor[None].to(model.device, model.dtype)
    with open_run(model.module, inputs, progress=False, stated=model.class_scores) as run:
        best = int(run.class_scores().predicted(run.class_columns()))
        probability = run.class_probability(0, best)
    if probability is None:
        raise ModelError(f'{model.name} returns no class scores (outputs="none"), so it predicts no class.')
    return best, probability


def _compared(names: Sequence[str], right: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """McNemar's exact test of two models on the same photos: those that only one of the two gets right are as coins."""
    first, second = (sum(a > b for a, b in pairs) for pairs in (right, [each[::-1] for each in right]))
    n, few = first + second, min(first, second)
    p = min(1.0, 2 * sum(comb(n, k) for k in range(few + 1)) / 2**n)
    return {"photos": len(right), f"only {names[0]} right": first, f"only {names[1]} right": second, "p": p}


def _told(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """Checks that say in words what to answer, at random: nobody learns from it what a picture shows."""
    rng = np.random.default_rng([seed, 1])
    answers = {-2: "A is clearly more reliable", 2: "B is clearly more reliable"}
    found = []
    for k in range(count):
        item = items[int(rng.integers(len(items)))]
        if item.kind == "which_class":
            item = replace(item, options=item.options[:: int(rng.choice((1, -1)))])
            expected, told = 0, item.options[0]
        else:
            expected = (-2, 2)[k % 2]
            told = answers[expected]
        found.append(replace(item, id=_name(), condition="check", expected=expected, told=told))
    return found


def _no_scenes(samples: Sequence[Sample], classes: ClassMap, join: bool) -> str:
    unknown = f" These labels are no classes of the model: {', '.join(classes.unmatched[:10])}; see class_map." if classes.unmatched else ""
    if join:
        return f"which_class: no two of the {len(samples)} labelled photos have one class each, and not the same.{unknown}"
    return f"which_class: none of the {len(samples)} labelled photos has exactly two classes; join = true makes pairs of photos.{unknown}"


def _name() -> str:
    return secrets.token_hex(16)
