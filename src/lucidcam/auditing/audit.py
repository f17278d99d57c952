"""The audit: one pass over the data, then trials of what looked suspicious."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lucidcam.auditing import backgrounds, cooccurrence, describe, regions, tables
from lucidcam.auditing.coverage import LIMITS, Coverage, Hypothesis, Untried, grouped
from lucidcam.auditing.evidence import Photographer
from lucidcam.auditing.findings import Audit, Cluster, Evidence, Finding, check_place, ranked
from lucidcam.auditing.probing import AT_ONCE, INPAINT, Prober
from lucidcam.auditing.tables import Fact
from lucidcam.auditing.trials import Change, Outcome, Skipped, Trial, odds, spread
from lucidcam.auditing.views import Drawer, View, colours_of, covered, heat_of, order_of
from lucidcam.data import open_data
from lucidcam.data.class_map import ClassMap, Given
from lucidcam.errors import DataError, LucidcamError, OptionError
from lucidcam.methods._base import Method
from lucidcam.samples import Mask, Problem
from lucidcam.stats.contingency import SHARE, estimate
from lucidcam.stats.paired import holm
from lucidcam.stream.explainer import LABEL, PREDICTED, Explained, Explainer, asked_of
from lucidcam.stream.problems import prepare
from lucidcam.types import Model
from lucidcam.utils.optional import import_optional
from lucidcam.utils.progress import bar
from lucidcam.utils.text import counted, short

STAGES = 4
"""Families of trials, among which the level is shared: places, backgrounds, companions, confusions."""

NEEDED = 2 * regions.FEWEST
"""Images of a class, half of them to suspect and half to try."""

FOREIGN = 200
"""Views of other classes that a class is compared with, in each half."""

KEPT = 256
"""Inputs that are kept in memory between trials."""

PICTURED = 12
"""Classes, and pairs of them, of which pictures are made beside the findings."""

BESIDE = 2
"""Images of a pair of classes that are confused."""

CALIBRATION = 0.05
"""A calibration error that is larger than chance makes it by this is a finding."""

CONFUSED = 0.05
"""A confusion of so large a share of a class's images is a finding."""


def audit(
    model: Model,
    data: Any,
    *,
    method: str | Method = "gradcam",
    target: Any = None,
    class_map: Given = None,
    layer: Any = None,
    fill: str = INPAINT,
    images_per_class: int = 200,
    min_effect: float = 0.05,
    level: float = 0.05,
    multi_label: bool | None = None,
    limit: int | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    format: str | None = None,
    **options: Any,
) -> Audit:
    """Find what a network learnt from a data set that it should not have, and where it fails.

    One pass explains every image and keeps a small map of a random sample of each class. Suspicions arise on one half of that sample:
    places that draw attention off the object, backgrounds, companions. They are tried on the other half: what is suspected is taken out of
    images that have it and put into images of other classes, each beside a control that changes as much. A shortcut is reported only where
    both move the class's log-odds further than the control (Wilcoxon's signed-rank test over images, with Holm's correction), and the
    probability by at least `min_effect`.

    Objects (boxes or masks) sharpen the audit and are not needed: without them a fixed place must show the same pixels in every image,
    since it might be the object itself, and a background is judged by its colours alone. Objects of classes that the network does
    not have are not looked at.

    Args:
        model: a classifier, from `lucidcam.load` or `lucidcam.wrap`.
        data: a folder, an annotation file, a list of images, …, as for `lucidcam.data.open_data`.
        method: as for `lucidcam.explain`, like `layer` and `options`.
        target: None: the images' own labels where the data has any, else "predicted"; "label"; "predicted".
        class_map: from the data's names of classes to the model's labels or ids, where they differ.
        layer: as for `lucidcam.explain`.
        fill: what stands in place of a covered region: "inpaint" (smooth from its rim), "mean", "blur" or "zeros".
        images_per_class: that suspicions arise on and are tried on; of more a random sample. Figures count all images.
        min_effect: on the class's probability, for a shortcut to be reported.
        level: the chance that any false shortcut passes the tests.
        multi_label: each class has a probability of its own (sigmoid), else a softmax shares it out; None: what
            the model's `outputs` say, or what is found by value.
        limit: at most so many samples.
        out: a folder to `save` to; None: nothing is written.
        seed: of pairs and control regions.
        progress: a bar; None: in a terminal or notebook.
        format: of the data, as for `lucidcam.data.open_data`; None: found out.
        options: of the method.

    Returns:
        What was found, and what could not be used: a bad image is left out, and listed there.

    Raises:
        DataError: for a data set that cannot be read, or of which no image can be used.
        LucidcamError: for a method, option or class that does not exist, or a model that gives no class scores.
    """
    _check(images_per_class, min_effect, level, limit, out)
    import_optional("sklearn.cluster", "audit", "an audit")  # told before the pass over the data
    if multi_label is not None and model.outputs != "probabilities":  # these stand as they are, of classes that exclude each other or not
        model = replace(model, outputs="sigmoid" if multi_label else "softmax")
    prober = Prober(model, fill)
    dataset = open_data(data, format).first(limit)
    asked = asked_of(target, dataset)
    if asked not in (None, LABEL):
        raise OptionError(f'an audit asks for the images\' own labels ("label") or for "predicted"; got target={target!r}.')
    explainer = Explainer(model, method, asked, layer, class_map, options)
    survey = _Survey(model, prober, ClassMap.of(model, class_map), asked == LABEL, Drawer(images_per_class))
    problems = survey.problems
    with bar(dataset.count, "looking", progress) as advance:
        batch: list[Explained] = []
        for each in explainer(dataset, problems.append):
            batch.append(each)
            if len(batch) == AT_ONCE:
                survey.add(batch)
                batch = []
            advance(1)
        survey.add(batch)
    if not survey.facts:
        raise DataError(f"{dataset.name}: no image could be audited{f': {problems[0].error}' if problems else '.'}")
    court = _Court(survey, Photographer(model, explainer, prober), min_effect, level / STAGES, seed)
    found = court.findings(progress)
    settings = {
        "model": model.name,
        "data": dataset.name,
        "method": survey.method,
        "layer": survey.layer,
        "target": PREDICTED if asked is None else LABEL,
        "images without a label": survey.untold,
        "fill": fill,
        "images_per_class": images_per_class,
        "min_effect": min_effect,
        "level": level,
        "outputs": survey.outputs,
        "seed": seed,
        "several_labels": not survey.single,
        **{name: value for name, value in options.items() if isinstance(value, (str, int, float, bool))},
    }
    result = Audit(
        findings=tuple(ranked(found)),
        classes=tuple(court.classes()),
        together=tuple(tables.together(survey.facts, survey.labels)),
        clusters=tuple(court.clusters()),
        confusions=tuple(court.confusions()) if survey.single else (),
        calibration=tuple(tables.calibration(survey.facts)) if survey.single and survey.labelled else (),
        coverage=court.coverage(),
        problems=tuple(problems),
        images=survey.images,
        settings=settings,
        needed=NEEDED,
    )
    if out is not None:
        result.save(out)
    return result


@dataclass(eq=False)
class _Survey:
    """The pass over the data: a fact of every image and class, a view of a sample.

    Attributes:
        model: the network.
        prober: asks it.
        class_of: from the data's words to class ids.
        labelled: whether the images' own labels are asked for.
        drawer: keeps views.
    """

    model: Model
    prober: Prober
    class_of: ClassMap
    labelled: bool
    drawer: Drawer
    facts: list[Fact] = field(default_factory=list)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    images: int = 0
    untold: int = 0
    empty: int = 0
    method: str = ""
    layer: str = ""
    outputs: str = ""
    single: bool = True

    def add(self, batch: Sequence[Explained]) -> None:
        """Take some images into account."""
        some = [each for each in batch if each.maps]
        self.untold += len(batch) - len(some)
        if not some:
            return
        scores = self.prober.scores([each.prepared.tensor for each in some])
        probabilities, predicted, self.outputs = scores.probabilities(), scores.predicted(), scores.meaning.kind or ""
        for row, each in enumerate(some):
            try:
                self._image(each, probabilities[row].numpy(), predicted[row])
            except LucidcamError as error:
                self.problems.append(Problem.of(each.sample.name, error))

    def _image(self, each: Explained, probabilities: Any, predicted: int) -> None:
        frame = each.prepared.frame
        sample = each.sample.fitted(frame.width, frame.height)
        ids = {label: self.class_of.resolve(label) for label in dict.fromkeys(thing.label for thing in sample.objects)}
        sample = replace(sample, objects=tuple(thing for thing in sample.objects if ids[thing.label] is not None))
        present = frozenset(explanation.target for _, explanation in each.maps if explanation.target is not None)
        drawn: list[View] = []
        for label, explanation in each.maps:
            id = explanation.target
            if id is None:
                raise OptionError("an audit needs class scores; this model's answers are no classes.")
            self.method, self.layer = explanation.method, explanation.layer
            heat = heat_of(explanation.raw)
            self.empty += not heat.any()
            mine = [thing for thing in sample.objects if ids[thing.label] == id]
            own = covered(mine, frame) if mine else None
            others = {
                other: covered([thing for thing in sample.objects if thing.label == other], frame)
                for other in dict.fromkeys(thing.label for thing in sample.objects)
                if ids[other] != id
            }
            attention = {other: float((heat * region).sum()) for other, region in others.items()}
            inside = None if own is None else float((heat * own).sum())
            probability = float(probabilities[id])
            self.facts.append(Fact(sample.name, label, id, probability, predicted, float(probabilities[predicted]), inside, attention))
            order = order_of(sample.name, label)
            if self.drawer.wanted(id, order):
                colours = colours_of(each.prepared.image, frame)
                drawn.append(View(sample, frame, label, id, heat, colours, own, others, probability, present, order))
            else:
                self.drawer.counts[id] = self.drawer.counts.get(id, 0) + 1
        for view in drawn:
            self.drawer.offer(view)
        self.images += 1
        if len(each.maps) > 1:
            self.single = False
            self.labels[sample.name] = tuple(label for label, _ in each.maps)


@dataclass(eq=False)
class _Court:
    """Where suspicions are tried.

    Attributes:
        survey: what was seen.
        photographer: makes the evidence.
        min_effect: on a probability, for a finding.
        level: of each family of trials.
        seed: of pairs and places.
    """

    survey: _Survey
    photographer: Photographer
    min_effect: float
    level: float
    seed: int
    hypotheses: list[Hypothesis] = field(default_factory=list)
    untried: list[Untried] = field(default_factory=list)
    searched: dict[str, int] = field(default_factory=dict)
    _inputs: dict[str, Tensor] = field(default_factory=dict)
    _reliance: dict[int, Mapping[str, list[float]]] = field(default_factory=dict)
    _kinds: dict[int, tuple[list[View], npt.NDArray[np.int64]]] = field(default_factory=dict)

    @property
    def prober(self) -> Prober:
        """Asks the network."""
        return self.survey.prober

    def findings(self, progress: bool | None) -> list[Finding]:
        """Everything that passed its trial."""
        ids = [id for id in self.survey.drawer.ids() if len(self.survey.drawer.of(id)) >= NEEDED]
        steps = len(ids) * (3 if self.survey.single else 4)
        with bar(steps, "trying", progress) as advance:
            found = self._places(ids, advance)
            hidden = [region for each in found for region in each.regions]
            found += self._backgrounds(ids, hidden, advance)
            found += self._companions(ids, advance) if not self.survey.single else []
            found += self._confusions(ids, advance) if self.survey.single and self.survey.labelled else []
        return found + (self._calibration() if self.survey.single and self.survey.labelled else [])

    def coverage(self) -> Coverage:
        """What was tried; what was not, for want of images, boxes, labels or maps; and what no audit tries."""
        survey, untried = self.survey, list(self.untried)
        few = [row["label"] for row in tables.classes(survey.facts) if row["images"] < NEEDED]
        if few:
            untried.insert(0, Untried("any change of images", f"fewer than {NEEDED} images of the class", f"{NEEDED} images", tuple(few)))
        if survey.empty:
            reason = f"{survey.empty} of {len(survey.facts)} maps are empty: nothing in them speaks for the class"
            untried.append(Untried("fixed places that these maps would show", reason, "another method or layer"))
        if survey.single:
            boxes = "several labels per image, with boxes or masks"
            untried.append(Untried("companions", "no class is marked beside another", boxes))
        if not survey.labelled:
            untried.append(Untried("confusions and calibration", "no labels were used", "labels"))
        elif not survey.single:
            untried.append(Untried("confusions and calibration", "images have several labels", "one label per image"))
        for count, reason, needs in (
            (len(survey.problems), "they could not be used", "mending: they are listed with the reasons"),
            (survey.untold, "they have no label", "labels"),
        ):
            if count:
                untried.append(Untried(counted(count, "image or label" if needs != "labels" else "image"), reason, needs))
        untried += [Untried(*each) for each in LIMITS]
        return Coverage(tuple(self.hypotheses), grouped(untried), dict(self.searched))

    def classes(self) -> list[dict[str, Any]]:
        """The classes' figures, with the probability that is left without object and without context."""
        rows = tables.classes(self.survey.facts)
        for row in rows:
            for name, values in self._reliance.get(row["id"], {}).items():
                row[name.replace(" ", "_")] = estimate(values, SHARE)
        return rows

    def clusters(self) -> list[Cluster]:
        """The kinds of maps of each class that was tried, those of most images first; of the largest classes with pictures."""
        found = []
        for place, (views, which) in enumerate(self._kinds.values()):
            groups = [[view for view, kind in zip(views, which, strict=True) if kind == number] for number in range(which.max() + 1)]
            for number, some in enumerate(sorted(groups, key=len, reverse=True), start=1):
                mean = np.mean([regions.off(view) for view in some], 0)
                some.sort(key=lambda view: float(np.square(regions.off(view) - mean).sum()))
                evidence = tuple(self.photographer.cluster(some, mean)) if place < PICTURED else ()
                found.append(Cluster(views[0].label, number, len(some), len(views), mean, evidence))
        return found

    def confusions(self) -> list[dict[str, Any]]:
        """Images that are taken for another class, with the maps of both for those pairs that have most of them."""
        found: list[dict[str, Any]] = []
        for (label, predicted), some in tables.confusions(self.survey.facts).items():
            evidence: tuple[Evidence, ...] = ()
            if len(found) < PICTURED:
                names = {fact.name for fact in some}
                here = [view for view in self.survey.drawer.of(some[0].id) if view.sample.name in names]
                evidence = tuple(self.photographer.confusion(here, [some[0].id, predicted], most=BESIDE))
            name = self.survey.model.label(predicted)
            found.append({"label": label, "predicted": name, "id": predicted, "images": len(some), "evidence": evidence})
        return found

    def _halves(self, id: int) -> tuple[list[View], list[View]]:
        """A class's views on which suspicions arise, and those on which they are tried."""
        views = self.survey.drawer.of(id)
        return views[::2], views[1::2]

    def _others(self, id: int) -> tuple[list[View], list[View]]:
        """Views of other classes whose images do not hold this one; of each image one."""
        seen: dict[str, View] = {}
        for other in self.survey.drawer.ids():
            if other != id:
                for view in self.survey.drawer.of(other):
                    if id not in view.present:
                        seen.setdefault(view.sample.name, view)
        views = sorted(seen.values(), key=lambda view: view.order)
        return views[::2][:FOREIGN], views[1::2][:FOREIGN]

    def _input(self, view: View) -> Tensor:
        """A view's input, read again if it is not at hand."""
        name = view.sample.name
        if name not in self._inputs:
            found = prepare(self.survey.model, view.sample)
            if isinstance(found, Problem):
                raise DataError(f"{found.error} It could be read a moment ago: leave the data alone while it is audited.")
            if len(self._inputs) >= KEPT:
                self._inputs.pop(next(iter(self._inputs)))
            self._inputs[name] = found.tensor
        return self._inputs[name]

    def _tried(self, kind: str, label: str, trial: Trial, reason: str, beside: str = "", where: str = "") -> None:
        self.hypotheses.append(Hypothesis(kind, label, trial.weakest, reason, beside, where, trial.p, trial))

    def _reasons(self, trials: Sequence[Trial]) -> list[str]:
        """Why each trial does not confirm its suspicion; "" where it does.

        What a trial's own figures deny is not confirmed, whatever its p: see `Trial.denied`.
        """
        convinced = holm([each.p for each in trials], self.level)
        chance = f"chance may do as much (Holm's correction over {len(trials)})"
        return [each.denied(self.min_effect) or ("" if yes else chance) for yes, each in zip(convinced, trials, strict=True)]

    def _places(self, ids: Sequence[int], advance: Any) -> list[Finding]:
        tried: list[tuple[regions.Place, Trial]] = []
        self.searched["place"] = len(ids)
        for id in ids:
            (before, after), (foreign, others) = self._halves(id), self._others(id)
            which = regions.kinds(before)
            self._kinds[id] = before, which
            suspects = regions.suspects(before, foreign, which)
            for suspect in [*suspects, *regions.all_together(suspects)]:
                trial = regions.trial(suspect, after, others, self.prober, self._input, self.seed)
                if isinstance(trial, Skipped):
                    if suspect.parts:
                        continue  # said of the parts
                    self.untried.append(Untried("places that the maps point to", trial.reason, trial.needs, (suspect.label,)))
                else:
                    tried.append((suspect, trial))
            advance(1)
        reasons = self._reasons([trial for _, trial in tried])
        for (suspect, trial), reason in zip(tried, reasons, strict=True):
            self._tried("place", suspect.label, trial, reason, where=describe.where(suspect.regions))
        found = []
        for id in ids:
            confirmed = [each for each, reason in zip(tried, reasons, strict=True) if not reason and each[0].id == id]
            single = [each for each in confirmed if not each[0].parts]
            if confirmed:
                found.append(self._place(id, single or confirmed))
        return found

    def _place(self, id: int, confirmed: Sequence[tuple[regions.Place, Trial]]) -> Finding:
        """All confirmed places of a class as one finding; the strongest alone where the figures of all together deny it."""
        if Trial.joined([each for _, each in confirmed]).denied(self.min_effect):
            confirmed = [max(confirmed, key=lambda each: each[1].weakest.mean)]
        views = self.survey.drawer.of(id)
        masks = tuple(region for place, _ in confirmed for region in place.regions)
        having = [view for view in views if any(regions.has(view, region) for region in masks)]
        trial = Trial.joined([each for _, each in confirmed])
        alike = self._alike(having, masks)
        label, share = views[0].label, len(having) / len(views)
        return Finding(
            kind="watermark" if alike else "place",
            label=label,
            words=describe.place(label, masks, share, alike, trial),
            effect=trial.effect,
            images=self.survey.drawer.counts[id],
            share=share,
            p=max(each.p for _, each in confirmed),
            trial=trial,
            regions=masks,
            evidence=tuple(self.photographer.place(_of(having, trial), [place.region for place, _ in confirmed])),
        )

    def _alike(self, having: Sequence[View], masks: Sequence[Mask]) -> bool:
        """Whether the masked regions look the same to the pixel in the images that have them."""
        found = []
        for region in masks:
            some = [self._input(view) for view in having if regions.has(view, region)][: regions.MOST]
            found.append(regions.likeness(some, region))
        return float(np.mean(found)) >= regions.ALIKE

    def _backgrounds(self, ids: Sequence[int], hidden: Sequence[Mask], advance: Any) -> list[Finding]:
        tried: list[tuple[int, Trial]] = []
        exchange = backgrounds.Exchange(self.prober, self._input, hidden)
        for id in ids:
            (_, after), (_, others) = self._halves(id), self._others(id)
            self._reliance[id] = backgrounds.reliance(after, self.prober, self._input)
            trial = backgrounds.trial(after, others, self.prober, self.seed, exchange)
            label = self.survey.drawer.of(id)[0].label
            if isinstance(trial, Skipped):
                self.untried.append(Untried("backgrounds", trial.reason, trial.needs, (label,)))
            else:
                tried.append((id, trial))
                if not backgrounds.comparable(after, others)[2]:
                    reason = "only the colours of the whole image were shifted"
                    needs = f"boxes or masks in {regions.FEWEST} images of the class and of others"
                    self.untried.append(Untried("backgrounds put behind the objects, textures too", reason, needs, (label,)))
            advance(1)
        reasons = self._reasons([trial for _, trial in tried])
        for (id, trial), reason in zip(tried, reasons, strict=True):
            self._tried("background", self.survey.drawer.of(id)[0].label, trial, reason)
        found = [self._background(id, trial, hidden) for (id, trial), reason in zip(tried, reasons, strict=True) if not reason]
        return found + self._surroundings([id for id in ids if id not in {each for each, _ in tried}])

    def _background(self, id: int, trial: Trial, hidden: Sequence[Mask]) -> Finding:
        views, (_, others) = self.survey.drawer.of(id), self._others(id)
        return Finding(
            kind="background",
            label=views[0].label,
            words=describe.background(views[0].label, views, others, trial),
            effect=trial.effect,
            images=self.survey.drawer.counts[id],
            share=1.0,
            p=trial.p,
            trial=trial,
            evidence=tuple(self.photographer.background(views[1::2], others, hidden)),
        )

    def _surroundings(self, ids: Sequence[int]) -> list[Finding]:
        """Where there are no other classes: whether the surroundings alone say more than the object alone.

        What is taken out is the surroundings, and the control is the object taken out.
        """
        tried: list[tuple[int, Trial]] = []
        for id in ids:
            views, values = self._halves(id)[1], self._reliance.get(id, {})
            if len(values.get("whole", ())) < regions.FEWEST:
                needs = f"boxes or masks in {2 * regions.FEWEST} images of the class"
                reason = f"fewer than {regions.FEWEST} of the images kept for trials have the object marked"
                self.untried.append(Untried("the surroundings without the object", reason, needs, (views[0].label,)))
                continue
            whole, removed, alone = (np.array(values[name]) for name in ("whole", "object removed", "context removed"))
            names = tuple(view.sample.name for view in backgrounds.marked(views))
            take = Outcome(whole, alone, removed, odds(removed) - odds(alone), -1, names)
            tried.append((id, Trial(take, Outcome.none(1), names)))
        if tried:
            self.searched["context"] = len(tried)
        found = []
        for (id, trial), reason in zip(tried, self._reasons([each for _, each in tried]), strict=True):
            views = self.survey.drawer.of(id)
            self._tried("context", views[0].label, trial, reason)
            if not reason:
                words = describe.context(views[0].label, trial)
                count = self.survey.drawer.counts[id]
                evidence = tuple(self.photographer.context(_of(views, trial)))
                found.append(Finding("context", views[0].label, words, trial.effect, count, 1.0, trial.p, trial, evidence=evidence))
        return found

    def _companions(self, ids: Sequence[int], advance: Any) -> list[Finding]:
        tried: list[tuple[int, str, Trial]] = []
        self.searched["companion"] = len(ids)
        for id in ids:
            views, (_, others) = self.survey.drawer.of(id), self._others(id)
            for label in dict.fromkeys(label for view in views for label in view.others):
                trial = cooccurrence.trial(label, views, others, self.prober, self._input, self.seed)
                if isinstance(trial, Skipped):
                    self.untried.append(Untried(f"“{short(label)}” as a companion", trial.reason, trial.needs, (views[0].label,)))
                else:
                    tried.append((id, label, trial))
            advance(1)
        found = []
        for (id, label, trial), reason in zip(tried, self._reasons([each[-1] for each in tried]), strict=True):
            views = self.survey.drawer.of(id)
            self._tried("companion", views[0].label, trial, reason, beside=label)
            if not reason:
                share = float(np.mean([label in view.others for view in views]))
                words = describe.companion(views[0].label, label, share, trial)
                count = self.survey.drawer.counts[id]
                evidence = tuple(self.photographer.companion(_of(views, trial), label))
                found.append(Finding("companion", views[0].label, words, trial.effect, count, share, trial.p, trial, (), label, evidence))
        return found

    def _confusions(self, ids: Sequence[int], advance: Any) -> list[Finding]:
        """Classes that are taken for one another, where covering what speaks for the wrong one helps."""
        facts = tables.confusions(self.survey.facts)
        totals: dict[str, list[Fact]] = {}
        for fact in self.survey.facts:
            totals.setdefault(fact.label, []).append(fact)
        tried = []
        self.searched["confusion"] = len(ids)
        rare = 0
        for id in ids:
            views = {view.sample.name: view for view in self.survey.drawer.of(id)}
            for (_, predicted), some in facts.items():
                if some[0].id != id or len(some) < CONFUSED * len(totals[some[0].label]):
                    continue
                here = [views[fact.name] for fact in some if fact.name in views][: regions.MOST]
                outcome = self._wrong(here, predicted) if len(some) >= regions.FEWEST else None
                if outcome is None:
                    rare += 1
                else:
                    tried.append((some, predicted, here, Trial(outcome, Outcome.none(1), tuple(view.sample.name for view in here))))
            advance(1)
        if rare:
            reason, needs = f"fewer than {regions.FEWEST} images of each can be changed", "more images"
            self.untried.append(Untried(f"what speaks for the wrong class in {counted(rare, 'confusion')}", reason, needs))
        found = []
        for (some, predicted, here, trial), denied in zip(tried, self._reasons([each[-1] for each in tried]), strict=True):
            label, whole = some[0].label, totals[some[0].label]
            effect = estimate([float(fact.predicted == predicted) for fact in whole], SHARE)
            other = short(self.survey.model.label(predicted))
            reason = denied or ("" if effect.mean >= self.min_effect else f"fewer than {self.min_effect:.0%} of the images are confused")
            self._tried("confusion", label, trial, reason, beside=other)
            if not reason:
                words = describe.confusion(label, other, effect, len(some), len(whole), trial)
                evidence = tuple(self.photographer.confusion(here, [some[0].id, predicted], trial.take))
                found.append(Finding("confusion", label, words, effect, len(whole), effect.mean, trial.p, trial, (), other, evidence))
        return found

    def _wrong(self, views: Sequence[View], predicted: int) -> Outcome | None:
        """Cover what speaks for the class that is predicted wrongly."""
        rng = np.random.default_rng(self.seed)
        changes = []
        for view in views:
            heat = heat_of(self.photographer.maps(view, predicted))
            region = max(regions.peaks(heat) or [heat >= np.quantile(heat, 1 - regions.LARGEST)], key=lambda each: float(heat[each].sum()))
            whole = self._input(view)
            free = replace(view, own=None)
            masks = [spread(each, backgrounds.size_of(whole)) for each in [region, *regions.controls(free, region, rng)]]
            after, *beside = self.prober.covered([whole] * len(masks), masks)
            if beside:
                changes.append(Change(view.sample.name, predicted, whole, after, tuple(beside)))
        return Outcome.of(self.prober, changes, -1) if len(changes) >= regions.FEWEST else None

    def _calibration(self) -> list[Finding]:
        facts = self.survey.facts
        if len(facts) < NEEDED:
            self.untried.append(Untried("calibration", f"fewer than {NEEDED} images", f"{NEEDED} images"))
            return []
        found = tables.calibration_error(facts, self.seed)
        reason = ""
        if found.counted <= found.chance + CALIBRATION or found.error.low <= 0:
            reason = "a perfectly calibrated network may show as much"
        elif found.error.mean < self.min_effect:
            reason = f"the error is smaller than {self.min_effect:g}"
        self.searched["calibration"] = 1
        self.hypotheses.append(Hypothesis("calibration", "", found.error, reason))
        if reason:
            return []
        return [Finding("calibration", "", describe.calibration(found.error, found.gap), found.error, len(facts), 1.0)]


def _of(views: Sequence[View], trial: Trial) -> list[View]:
    """Those views whose images the trial took the suspicion out of, in the order of the views."""
    names = set(trial.take.names)
    return [view for view in views if view.sample.name in names]


def _check(images_per_class: int, min_effect: float, level: float, limit: int | None, out: Any) -> None:
    if images_per_class < NEEDED:
        raise OptionError(f"expected images_per_class ≥ {NEEDED}, half to suspect and half to try; got {images_per_class}.")
    if not 0 <= min_effect < 1 or not 0 < level < 1:
        raise OptionError(f"expected 0 ≤ min_effect < 1 and 0 < level < 1; got {min_effect} and {level}.")
    if limit is not None and limit < 1:
        raise OptionError(f"expected limit ≥ 1 (samples); got {limit}.")
    if out is not None:
        check_place(out)
