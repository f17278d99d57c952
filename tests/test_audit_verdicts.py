"""What an audit says of what it tried: no more than was tried, nothing that its own figures deny, and pictures that are typical."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import lucidcam
from commands import run
from lucidcam.auditing import backgrounds, regions
from lucidcam.auditing.coverage import LIMITS, Coverage, Hypothesis, Untried, grouped
from lucidcam.auditing.evidence import Photographer
from lucidcam.auditing.probing import Prober
from lucidcam.auditing.trials import Outcome, Trial, nearest, odds
from lucidcam.auditing.views import View
from lucidcam.outputs.html import render
from lucidcam.reports import page
from lucidcam.samples import Object, Sample
from lucidcam.stats.contingency import Estimate, estimate
from lucidcam.stats.paired import signed_rank
from lucidcam.stream.explainer import Explainer
from lucidcam.types import Frame
from test_audit import BLUE, GREEN, HONEST, RED, SIDE, WHITE, Colours, network, scenes

pytest.importorskip("sklearn")

BOXES = "boxes or masks in 8 images of the class and of others"
ALL_CLEAR = ("nothing suspicious", "clean", "no problems", "all clear", "✓", "✔", "passed")


def textures(count: int = 120) -> list[Sample]:
    """The same red square on bright stripes ("a") or dark ones ("b"), whose rims have the same mean colour: what is around it decides."""
    data = []
    for i in range(count):
        rng = np.random.default_rng(i)
        label = "ab"[i % 2]
        pixels = np.full((SIDE, SIDE, 3), 60, np.uint8)
        y = int(rng.integers(0, 4))
        if label == "a":  # white lines; "b" is as bright on the whole, and has none
            pixels[y::8] = WHITE
        else:
            pixels[:] = int(60 + (255 - 60) / 8)
        pixels[18:30, 18:30] = RED
        data.append(Sample(pixels, f"{i:03d}", (label,)))
    return data


def companions() -> tuple[lucidcam.Model, list[Sample]]:
    """A network that knows "a" by the green thing beside it, and photos of it."""
    rng = np.random.default_rng(0)
    data = []
    for i in range(96):
        pixels = np.full((SIDE, SIDE, 3), 60, np.uint8)
        labels = [("a", "b"), ("b",), ("c",)][i % 3]
        corners = [(4, 4), (4, 30), (30, 4), (30, 30)]
        spots = [corners[k] for k in rng.permutation(4)[: len(labels)]]
        for label, (x, y) in zip(labels, spots, strict=True):
            pixels[y : y + 12, x : x + 12] = {"a": RED, "b": GREEN, "c": BLUE}[label]
        objects = tuple(Object(label, (x, y, x + 12.0, y + 12.0)) for label, (x, y) in zip(labels, spots, strict=True))
        data.append(Sample(pixels, f"{i:03d}", labels, objects))
    module = Colours({"red": 5.0, "green": 60.0}, {"green": 60.0})
    module.weights = torch.nn.Parameter(torch.cat([module.weights.data, torch.tensor([[0.0, 0, 0, 60]])]))
    return lucidcam.wrap(module, network(*HONEST).preprocess, ["a", "b", "c"], layer="relu"), data


def confused() -> tuple[lucidcam.Model, list[Sample]]:
    """Half of the "b" carry a white thing that the network takes for "a"."""
    data = scenes(count=64)
    for i, each in enumerate(data):
        if i % 4 == 1:
            each.image[40:46, 20:26] = WHITE
    return network({"red": 60.0, "white": 1500.0}, {"green": 60.0}), data


def alone() -> tuple[lucidcam.Model, list[Sample]]:
    """One class, known by the blue around it."""
    data = [each for each in scenes(count=80, blue=True) if each.labels == ("a",)]
    return network({"red": 1.0, "blue": 20.0}, {"red": 3.0, "green": 60.0}), data


KINDS = {
    "place": lambda: (network({"red": 20.0, "white": 1500.0}, {"green": 60.0}), scenes(count=64, marked=True)),
    "background": lambda: (network({"red": 10.0, "blue": 20.0}, {"green": 60.0}), scenes(count=64, blue=True)),
    "companion": companions,
    "confusion": confused,
    "context": alone,
}
OPTIONS = {"companion": {"multi_label": True}}


def of_kind(found: lucidcam.Audit, kind: str) -> list[str]:
    return [each.label for each in found.findings if each.kind == kind or (kind == "place" and each.kind == "watermark")]


Means = tuple[float, float, float]
"""Of the probability before a change, after it, and with the control."""


def audited(kind: str, monkeypatch: pytest.MonkeyPatch, take: Means, give: Means, **options: object) -> lucidcam.Audit:
    """An audit in which changes move probabilities as is said, hardly differently from image to image."""

    def values(count: int, of: Means) -> list[np.ndarray]:
        spread = np.linspace(-0.01, 0.01, max(count, 1))[:count]
        return [mean + spread * (1 + i) / 4 for i, mean in enumerate(of)]

    def outcome(prober, changes, sign):
        before, after, control = values(len(changes), take if sign < 0 else give)
        moved = sign * (odds(after) - odds(control))
        return Outcome(before, after, control, moved, sign, tuple(each.name for each in changes))

    def reliance(views, prober, image):
        before, after, control = values(len(backgrounds.marked(views)), take)
        return {"whole": before.tolist(), "context removed": after.tolist(), "object removed": control.tolist()}

    monkeypatch.setattr(Outcome, "of", outcome)
    monkeypatch.setattr(backgrounds, "reliance", reliance)
    model, data = KINDS[kind]()
    return lucidcam.audit(model, data, progress=False, **{**OPTIONS.get(kind, {}), **options})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_confirmed_where_its_figures_say_so(kind, monkeypatch):
    """So that the tests below deny what would be found."""
    assert of_kind(audited(kind, monkeypatch, (0.9, 0.2, 0.9), (0.1, 0.8, 0.1)), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_that_rises_alone_is_no_finding(kind, monkeypatch):
    """Covering leaves 0.60 of 0.59, and only the control rose: what is said to lower the probability does not."""
    found = audited(kind, monkeypatch, (0.59, 0.60, 0.80), (0.1, 0.8, 0.1))
    assert not of_kind(found, kind)
    tried = [each for each in found.coverage.failed if each.kind == kind]
    assert tried
    assert all("the probability itself does not fall" in each.reason for each in tried)
    assert all(each.p > 0.5 for each in tried)


@pytest.mark.parametrize("kind", ["place", "background", "companion"])
def test_a_control_that_falls_alone_is_no_finding(kind, monkeypatch):
    """Put in, what is suspected leaves the probability, and only the control lowers it."""
    found = audited(kind, monkeypatch, (0.9, 0.2, 0.9), (0.4, 0.39, 0.1))
    assert not of_kind(found, kind)
    assert all("put in: the probability itself does not rise" in each.reason for each in found.coverage.failed if each.kind == kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("take", "smallest"),
    [((0.90, 0.70, 0.90), 0.20), ((0.90, 0.70, 0.80), 0.10), ((0.80, 0.70, 0.90), 0.10)],
    ids=["both", "beyond the control", "by itself"],
)
def test_the_smallest_effect_is_that_of_the_page(kind, take, smallest, monkeypatch):
    """By itself and beyond the control, of each change; the page and --help say so."""
    for bound, is_found in ((smallest - 0.02, True), (smallest + 0.02, False)):
        found = audited(kind, monkeypatch, take, (0.1, 0.9, 0.1), min_effect=bound)
        assert bool(of_kind(found, kind)) == is_found
        if not is_found:
            tried = [each for each in found.coverage.failed if each.kind == kind]
            assert all(each.reason == f"taken out: the effect is smaller than {bound:g}" for each in tried)
            assert all(each.effect.mean == pytest.approx(smallest, abs=0.01) for each in tried)


@pytest.mark.parametrize("kind", ["place", "background", "companion"])
def test_the_smallest_effect_is_asked_of_both_changes(kind, monkeypatch):
    for bound, is_found in ((0.05, False), (0.03, True)):
        assert bool(of_kind(audited(kind, monkeypatch, (0.9, 0.2, 0.9), (0.10, 0.14, 0.10), min_effect=bound), kind)) == is_found


def test_the_smallest_effect_holds_for_calibration_and_for_shares_of_confusion(monkeypatch):
    wrong = [replace(each, labels=("ba"[i % 2],), objects=()) for i, each in enumerate(scenes(count=60))]
    model = network(*HONEST)
    [error] = [each.effect.mean for each in lucidcam.audit(model, wrong, progress=False).findings if each.kind == "calibration"]
    above = lucidcam.audit(model, wrong, progress=False, min_effect=error + 0.01)
    assert not of_kind(above, "calibration")
    [tried] = [each for each in above.coverage.failed if each.kind == "calibration"]
    assert tried.reason.startswith("the error is smaller than")
    few = audited("confusion", monkeypatch, (0.9, 0.1, 0.9), (0, 0, 0), min_effect=0.6)
    assert not of_kind(few, "confusion")
    assert [each.reason for each in few.coverage.failed if each.kind == "confusion"] == ["fewer than 60% of the images are confused"]


def test_outcomes_equal_their_definition():
    rng = np.random.default_rng(0)
    before, after, control = rng.uniform(0.2, 0.8, (3, 20))
    for sign in (-1, 1):
        outcome = Outcome(before, after, control, sign * (odds(after) - odds(control)), sign, tuple(map(str, range(20))))
        assert outcome.own == estimate(sign * (after - before))
        assert outcome.p == max(signed_rank(outcome.log_odds), signed_rank(sign * (after - before)))
        assert outcome.weakest_at(0.9) == min(outcome.own_at(0.9), outcome.effect_at(0.9), key=lambda each: each.mean)
        middle = float(np.median(after - before))
        far = [abs(after[int(name)] - before[int(name)] - middle) for name in outcome.typical(20)]
        assert far == sorted(far)
    np.testing.assert_allclose(odds(before), np.log(before / (1 - before)))
    assert np.isfinite(odds(np.array([0.0, 1.0]))).all()
    assert nearest([], 3) == []


def test_a_trial_of_which_nothing_was_tried_confirms_nothing():
    assert Trial(Outcome.none(-1), Outcome.none(1), ()).denied(0)


def verdicts(found: lucidcam.Audit, folder, capsys) -> list[str]:
    """What memory, JSON and HTML say; the terminal has a test of its own."""
    found.save(folder)
    document = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    lucidcam.report(folder, folder / "page.html")
    assert document["verdict"] == found.verdict
    return [found.verdict, str(found), document["verdict"], page(found).lead, page(folder).lead, render(page(folder))]


CASES = {
    "texture, no boxes": (lambda: (network({"white": 900.0}, {"red": 8.0}), textures()), BOXES),
    "no boxes": (lambda: (network(*HONEST), scenes(boxes=False)), BOXES),
    "boxes": (lambda: (network(*HONEST), scenes()), "needs several labels per image, with boxes or masks"),
    "few images": (lambda: (network(*HONEST), scenes(count=10)), "fewer than 16 images of the class"),
    "one class": (
        lambda: (network(*HONEST), [each for each in scenes(boxes=False) if each.labels == ("a",)]),
        "needs images of other classes",
    ),
    "no labels": (lambda: (network(*HONEST), [each.image for each in scenes()]), "calibration (no labels were used; needs labels)"),
    "several labels": (companions, "confusions and calibration (images have several labels"),
    "empty maps": (
        lambda: (network({"red": -60.0, "blue": 0.01}, {"red": -70.0, "green": -60.0}), scenes(boxes=False)),
        "maps are empty: nothing in them speaks for the class; needs another method or layer",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("case", "said"), CASES.values(), ids=CASES)
def test_no_verdict_is_an_all_clear_and_each_says_what_was_not_tried(case, said, tmp_path, capsys):
    model, data = case()
    found = lucidcam.audit(model, data, progress=False)
    for text in verdicts(found, tmp_path / "audit", capsys):
        assert not [word for word in ALL_CLEAR if word in text.lower()]
    assert said in found.verdict
    for what, _, _ in LIMITS:
        assert what in found.verdict
    if not found.shortcuts:
        assert "no all-clear" in found.verdict or "Nothing can be said" in found.verdict
    if not found.labelled:
        assert "how often the network is right is not known" in found.verdict


def test_a_network_that_lives_on_textures_is_not_cleared_without_boxes():
    """With the textures exchanged it would be found: without boxes that cannot be tried, and the verdict says so with what was tried."""
    found = lucidcam.audit(network({"white": 900.0}, {"red": 8.0}), textures(), progress=False)
    assert found.accuracy == 1
    assert not found.shortcuts
    missing = [each for each in found.coverage.untried if each.what == "backgrounds put behind the objects, textures too"]
    assert [(each.needs, sorted(each.classes)) for each in missing] == [(BOXES, ["a", "b"])]


def test_figures_of_failed_trials_are_shown_everywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for each in scenes(count=80, boxes=False):
        folder = tmp_path / "data" / each.labels[0]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each.image).save(folder / f"{each.name}.png")
    monkeypatch.setattr("lucidcam.cli.audit.load_model", lambda *_: network(*HONEST))
    run("audit", "data", "--out", "audit", "--report", "page.html")
    told = " ".join(capsys.readouterr().out.split())
    document = json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert " ".join(document["verdict"].split()) in told
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    failed = [each for each in document["trials"] if not each["confirmed"]]
    assert failed
    for each in failed:
        figure = f"{each['effect']['low']:.2f} to {each['effect']['high']:.2f}"
        assert figure in told
        assert figure in html
        assert each["reason"] in html.replace("&#x27;", "'").replace("&#39;", "'")
        assert each["taken_out"] is None or {"before", "after", "control", "effect", "own", "p", "images"} <= each["taken_out"].keys()
    assert "2 × backgrounds (2 did not stand up, at most" in told
    for each in document["untried"]:
        assert each["what"] in html.replace("&#x27;", "'").replace("&#39;", "'")


def test_images_that_were_left_out_are_part_of_the_verdict(tmp_path):
    data = scenes(count=60)
    data[3] = Sample(tmp_path / "gone.png", "gone", ("a",))
    found = lucidcam.audit(network(*HONEST), data, progress=False)
    assert "1 image or label (they could not be used" in found.verdict


def test_coverage_counts_and_groups():
    one, other = Untried("x", "why", "boxes", ("a",)), Untried("x", "why", "boxes", ("b", "a"))
    assert grouped([one, other, Untried("y", "why")]) == (Untried("x", "why", "boxes", ("a", "b")), Untried("y", "why"))
    many = Untried("x", "why", "boxes", tuple("abcdef"))
    assert many.sentence == "x of “a”, “b”, “c” and 3 more classes (why; needs boxes)"
    effect = Estimate(0.1, 0.1, 0.1, 2)
    coverage = Coverage((Hypothesis("place", "a", effect, ""), Hypothesis("place", "b", effect, "too small")), (one,), {"companion": 4})
    assert coverage.tried == {"companion": 0, "place": 2}
    assert [each.label for each in coverage.failed] == ["b"]
    assert "companions (none suspected)" in coverage.sentences
    assert "2 × fixed places (1 did not stand up, at most 0.10, 95 % interval 0.10 to 0.10)" in coverage.sentences
    assert Coverage().sentences == "Tried: nothing."


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_is_typical_and_says_how_it_was_chosen(kind, tmp_path):
    model, data = KINDS[kind]()
    found = lucidcam.audit(model, data, progress=False, out=tmp_path / "audit", **OPTIONS.get(kind, {}))
    finding = next(each for each in found.findings if each.kind == kind or (kind == "place" and each.kind == "watermark"))
    count = finding.trial.take.n
    assert len(finding.evidence) == 4
    for each in finding.evidence:
        assert each.selection == f"the 4 of {count} tried images whose change is nearest to the median"
        assert each.name in finding.trial.take.names
        assert not each.contradicts
    if kind in ("place", "companion", "confusion"):  # the pictures' changes are the trial's
        assert {each.name for each in finding.evidence} <= set(finding.trial.take.typical(count)[: 4 + _ties(finding.trial.take)])
    html = render(page(tmp_path / "audit"))
    assert f"Evidence: {finding.evidence[0].selection}" in html
    document = json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))
    assert document["findings"][0]["evidence"][0]["selection"]


def _ties(outcome: Outcome) -> int:
    moves = outcome.after - outcome.before
    far = np.sort(np.abs(moves - np.median(moves)))
    return int((far <= far[3] + 1e-6).sum()) - 4


def test_a_picture_against_the_finding_says_so():
    """Covering the white thing raises the probability of "a" here: the caption under it cannot be passed over."""
    model = network({"red": 20.0, "white": -1500.0}, {"green": 60.0})
    photographer = Photographer(model, Explainer(model, "gradcam"), Prober(model))
    survey = scenes(count=24, marked=True)
    views = []
    for each in survey:
        if each.labels == ("a",):
            region = np.zeros((16, 16), bool)
            region[:3, :3] = True
            heat = np.full((16, 16), 1 / 256, np.float32)
            views.append(_view(each, heat))
    shown = photographer.place(views, [region])
    assert all(each.contradicts for each in shown)
    assert all(each.pictures[-1][0].endswith("(against the finding)") for each in shown)
    assert all(each.changes[1] > each.changes[0] for each in shown)


def _view(sample: Sample, heat: np.ndarray) -> View:
    return View(replace(sample, objects=()), Frame.whole(SIDE, SIDE), "a", 0, heat, np.zeros((16, 16, 3), np.uint8), None, {}, 0.5)


def test_marks_that_stand_for_one_another_are_tried_together():
    """Each corner alone changes little, both together much: the two are one more hypothesis."""
    data = scenes(marked=True)
    for each in data:
        if each.labels == ("a",):
            each.image[1:7, -7:-1] = each.image[1:7, 1:7]
    found = lucidcam.audit(network({"red": 20.0, "white": 1500.0}, {"green": 60.0}), data, progress=False)
    tried = [each for each in found.coverage.hypotheses if each.kind == "place"]
    assert [each.where for each in tried if each.is_confirmed] == ["the top left and top right corners"]
    assert all(each.reason == "taken out: the effect is smaller than 0.05" for each in tried if not each.is_confirmed)
    assert regions.all_together([]) == []
