"""Evaluation: figures are the metrics' own, intervals are bootstrap intervals, a killed run goes on, bad samples are skipped."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import lucidcam
from lucidcam.cli.program import app
from lucidcam.errors import DataError, LayerError, OptionError
from lucidcam.evaluation.baselines import TRIVIAL
from lucidcam.methods.gradcam import GradCAM
from lucidcam.metrics import Record, State
from lucidcam.metrics.average_drop import AverageDrop
from lucidcam.metrics.deletion import Deletion
from lucidcam.metrics.maxboxacc import MaxBoxAcc
from lucidcam.metrics.pointing_game import PointingGame
from lucidcam.samples import Object, Problem, Sample
from scenes import folder, model, samples, scene

FAST = {"resamples": 50, "progress": False}
TRIVIALS = list(TRIVIAL)


def figures(report, method):
    return {row.metric: row.mean for row in report.rows if row.method == method}


# ------------------------------------------------------------------------------------------------------------------ figures


def test_a_faithfulness_figure_is_the_mean_of_what_the_metric_gives_alone():
    net, data = model(), samples(5)
    report = lucidcam.evaluate(net, data, "gradcam", ["average_drop", ("deletion", {"steps": 10})], optimized=False, **FAST)
    inputs = torch.stack([each.tensor for each in net.prepare([s.image for s in data])])
    maps = lucidcam.attribute(net.module, inputs, "gradcam")
    for metric in (AverageDrop(), Deletion(steps=10)):
        expected = metric(net.module, inputs, maps)
        name = metric.name if metric.name == "average_drop" else "deletion:steps=10"
        row = report.row("gradcam", name)
        assert row.mean == pytest.approx(float(expected[metric.name].mean()), abs=1e-6)
        assert row.n == 5
        np.testing.assert_allclose(report.values["gradcam", name], expected[metric.name].numpy(), atol=1e-6)


def test_a_localisation_figure_is_what_the_metric_gives_alone():
    net, data = model(), samples(6)
    report = lucidcam.evaluate(net, data, "cam", ["maxboxacc", ("pointing_game", {"tolerance": 2.0})], **FAST)
    inputs = torch.stack([each.tensor for each in net.prepare([s.image for s in data])])
    ids = torch.tensor([["red", "green", "blue"].index(s.labels[0]) for s in data])
    maps = lucidcam.attribute(net.module, inputs, "cam", target=ids)
    given = {"boxes": [[o.box for o in s.objects] for s in data], "sizes": [(48, 64)] * 6, "labels": [s.labels[0] for s in data]}
    assert report.row("cam", "maxboxacc").mean == pytest.approx(MaxBoxAcc()(maps, **given)["maxboxacc"])
    expected = PointingGame(tolerance=2.0)(maps, **given)["pointing_game"]
    assert report.row("cam", "pointing_game:tolerance=2.0").mean == pytest.approx(expected)


def test_a_map_that_sees_the_truth_beats_every_trivial_baseline():
    report = lucidcam.evaluate(model(), samples(12), "gradcam", ["maxboxacc", "pointing_game", "energy_pointing_game", "deletion"], **FAST)
    for metric in ("maxboxacc", "pointing_game", "energy_pointing_game"):
        for baseline in TRIVIALS:
            assert report.row("gradcam", metric).mean >= report.row(baseline, metric).mean, (metric, baseline)
        assert report.best(metric) == "gradcam"
    assert report.row("gradcam", "energy_pointing_game").mean > report.row("uniform", "energy_pointing_game").mean + 30


def test_every_baseline_is_always_in_the_report_and_may_be_chosen():
    report = lucidcam.evaluate(model(), samples(2), "gradcam", "average_drop", **FAST)
    assert report.methods == ["gradcam", *TRIVIALS]
    assert list(report.trivial) == TRIVIALS
    report = lucidcam.evaluate(model(), samples(2), "gradcam", "average_drop", baselines=["uniform"], **FAST)
    assert report.methods == ["gradcam", "uniform"]


def test_several_classes_of_an_image_each_get_their_own_map():
    data = samples(4, per_image=2)
    report = lucidcam.evaluate(model(), data, "cam", ["pointing_game", "localization_error"], baselines=["uniform"], **FAST)
    assert report.row("cam", "pointing_game").mean == 100
    assert report.row("cam", "localization_error_gt_known").mean < 50


def test_seeds_of_a_known_scene_overlap_the_masks():
    report = lucidcam.evaluate(model(), samples(4, masks=True, per_image=2), "cam", ["seed_miou", "pxap"], baselines=["uniform"], **FAST)
    assert report.row("cam", "seed_miou").mean > 60 > report.row("uniform", "seed_miou").mean
    assert report.row("cam", "pxap").mean > 70


def test_the_win_rates_of_a_pair_make_a_hundred():
    report = lucidcam.evaluate(model(), samples(5), ["gradcam", "gradient", "rise"], "win_rate", baselines=[], **FAST)
    groups = report.groups["win_rate"]
    assert groups["gradcam"]["gradient"]["win_rate"] + groups["gradient"]["gradcam"]["win_rate"] == pytest.approx(100)
    mean = np.mean([groups["gradcam"][rival]["win_rate"] for rival in ("gradient", "rise")])
    assert report.row("gradcam", "win_rate").mean == pytest.approx(mean)


def test_mosaics_are_a_second_stage(tmp_path):
    metrics = [("grid_pointing_game", {"confidence": 0.0}), "average_drop"]
    options = {"baselines": ["uniform"], "out": tmp_path, **FAST}
    report = lucidcam.evaluate(model(4), samples(17, classes=4), "gradcam", metrics, **options)
    row = report.row("gradcam", "grid_pointing_game:confidence=0.0")
    assert row.n == 4
    assert row.mean > 85
    assert report.row("uniform", "grid_pointing_game:confidence=0.0").mean == pytest.approx(25)
    assert report.row("gradcam", "average_drop").n == 17
    parts = sorted((tmp_path / "parts").glob("grid_pointing_game-*.npz"))
    stamps = [path.stat().st_mtime_ns for path in parts]
    assert lucidcam.evaluate(model(4), samples(17, classes=4), "gradcam", metrics, **options).to_dict()["rows"] == report.to_dict()["rows"]
    assert [path.stat().st_mtime_ns for path in parts] == stamps
    three = lucidcam.evaluate(model(3), samples(12), "gradcam", metrics[:1], baselines=[], **FAST)
    assert three.rows[0].n == 0  # three classes cannot fill four cells
    assert math.isnan(three.rows[0].mean)


@pytest.mark.parametrize("target", ["label", 1, "green"])
def test_the_target_may_be_the_label_or_a_class(target):
    net, data = model(), samples(3)
    report = lucidcam.evaluate(net, data, "gradcam", "average_drop", target=target, optimized=False, baselines=[], **FAST)
    inputs = torch.stack([each.tensor for each in net.prepare([s.image for s in data])])
    ids = torch.tensor([0, 1, 2] if target == "label" else [1, 1, 1])
    expected = AverageDrop()(net.module, inputs, lucidcam.attribute(net.module, inputs, "gradcam", target=ids), target=ids)
    np.testing.assert_allclose(report.values["gradcam", "average_drop"], expected["average_drop"].numpy(), atol=1e-6)


@pytest.mark.slow
def test_results_do_not_depend_on_the_batch():
    once, twice = (
        lucidcam.evaluate(
            model(),
            samples(7),
            ["gradcam", "rise"],
            ["insertion", "infidelity", "maxboxacc"],
            images_at_once=size,
            batch_size=batch,
            **FAST,
        )
        for size, batch in ((16, 64), (2, 5))
    )
    for a, b in zip(once.rows, twice.rows, strict=True):
        assert (a.method, a.metric, a.n) == (b.method, b.metric, b.n)
        assert a.mean == pytest.approx(b.mean, rel=1e-5)
        assert a.low == pytest.approx(b.low, rel=1e-5)


def test_method_objects_options_and_labels_of_ones_own():
    methods = {"mine": GradCAM(), "smooth": ("gradcam", {"smooth": 2})}
    report = lucidcam.evaluate(model(), samples(2), methods, "average_drop", baselines=[], **FAST)
    assert report.methods == ["mine", "smooth"]
    report = lucidcam.evaluate(model(), samples(2), ["gradcam", ("rise", {"masks": 20})], "average_drop", baselines=[], **FAST)
    assert report.methods == ["gradcam", "rise:masks=20"]
    deep, shallow = ("gradcam", {"layer": "2"}), ("gradcam", {"layer": "0"})
    # the two layers' maps are alike but for their scale, which infidelity looks at
    report = lucidcam.evaluate(model(), samples(2), [deep, shallow], "infidelity", baselines=[], **FAST)
    assert report.methods == ["gradcam:layer=2", "gradcam:layer=0"]
    assert report.rows[0].mean != report.rows[1].mean
    with pytest.raises(OptionError, match="asked for twice"):
        lucidcam.evaluate(model(), samples(2), ["gradcam", "gradcam"], "average_drop", **FAST)


def test_the_model_comes_back_as_it_was():
    net = model()
    net.module.train()
    before = pickle.dumps({name: value.numpy() for name, value in net.module.state_dict().items()})
    lucidcam.evaluate(net, samples(2), ["gradcam", "guided_backprop"], ["average_drop", "sanity", "max_sensitivity"], **FAST)
    assert net.module.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.module.parameters())
    assert not any(child._forward_hooks for child in net.module.modules())
    assert pickle.dumps({name: value.numpy() for name, value in net.module.state_dict().items()}) == before


# ------------------------------------------------------------------------------------------------------- states, intervals


def test_states_merge_and_carry_n():
    rng = np.random.default_rng(0)
    names = [f"image {i}" for i in range(40)]
    values = [[Record(rng.random(1), group)] for group in rng.choice(["a", "b"], 40)]
    whole, left, right = (State(AverageDrop(), resamples=30) for _ in range(3))
    whole.update_all(names, values)
    for state, part in ((left, slice(0, 13)), (right, slice(13, 40))):
        for name, records in zip(names[part], values[part], strict=True):
            state.update(name, records)
    left.merge(pickle.loads(pickle.dumps(right)))
    assert left.n == whole.n == 40
    assert left.figures() == pytest.approx(whole.figures())
    for name, drawn in whole.samples().items():
        np.testing.assert_allclose(left.samples()[name], drawn)
    with pytest.raises(OptionError, match="merge"):
        left.merge(State(Deletion(), resamples=30))


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        state = State(AverageDrop(), resamples=300, seed=trial)
        state.update_all([f"{i}" for i in range(60)], [[Record(np.array([x]))] for x in rng.exponential(1.0, 60)])
        low, high = state.intervals()["average_drop"]
        covered += low <= 1.0 <= high
    assert 84 <= covered <= 99


def test_the_interval_agrees_with_the_normal_one_on_many_images():
    values = np.random.default_rng(2).normal(10, 2, 400)
    state = State(AverageDrop(), resamples=2000)
    state.update_all([f"{i}" for i in range(400)], [[Record(np.array([x]))] for x in values])
    low, high = state.intervals()["average_drop"]
    width = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - width, abs=0.05)
    assert high == pytest.approx(values.mean() + width, abs=0.05)


def test_what_was_not_compared_is_not_marked_as_equal():
    one = lucidcam.evaluate(model(), samples(1), ["gradcam", "rise"], "average_drop", resamples=20, progress=False)
    assert one.comparisons == ()
    none = lucidcam.evaluate(model(), samples(4), ["gradcam", "rise"], "average_drop", resamples=0, progress=False)
    assert none.differs("average_drop", "gradcam", "rise") is None
    for report in (one, none):
        assert "≈" not in printed(report)


def printed(report, width=120):
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as captured:
        console.print(report.table(width))
    return captured.get()


def test_one_image_has_no_interval():
    state = State(AverageDrop(), resamples=20)
    state.update("only", [Record(np.array([3.0]))])
    assert state.figures()["average_drop"] == 3
    assert all(math.isnan(edge) for edge in state.intervals()["average_drop"])


def test_a_tuned_threshold_is_marked_wherever_its_figure_stands(tmp_path):
    report = lucidcam.evaluate(model(), samples(8), "gradcam", ["maxboxacc", "average_drop"], baselines=[], out=tmp_path / "judged", **FAST)
    assert "maxboxacc % ↑ †" in printed(report)
    assert [note for note in report.notes if note.startswith("† maxboxacc:")]
    told = json.loads((tmp_path / "judged" / "results.json").read_text(encoding="utf-8"))
    assert (told["metrics"]["maxboxacc"]["tuned"], told["metrics"]["average_drop"]["tuned"]) == (True, False)
    page = lucidcam.report(tmp_path / "judged", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "maxboxacc % † (higher is better)" in page
    assert "chosen on the images it is measured on" in page
    row = report.row("gradcam", "maxboxacc")
    assert row.low < row.mean <= row.high


def test_differences_are_paired():
    """Two methods whose values differ by a constant differ for sure, however wide their intervals."""
    report = lucidcam.evaluate(model(), samples(10), ["gradcam", "rise"], "energy_pointing_game", baselines=["uniform"], **FAST)
    comparison = next(c for c in report.comparisons if {c.first, c.second} == {"gradcam", "uniform"})
    assert comparison.difference == pytest.approx(
        report.row(comparison.first, "energy_pointing_game").mean - report.row(comparison.second, "energy_pointing_game").mean
    )
    assert comparison.low <= comparison.difference <= comparison.high
    assert comparison.p == pytest.approx(2 / 51)
    assert report.differs("energy_pointing_game", "gradcam", "uniform")


# ---------------------------------------------------------------------------------------------------- interrupted, written


class Stop(BaseException):
    """What a signal would be."""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same(tmp_path):
    data, net = samples(7), model()
    metrics = ["average_drop", "maxboxacc", "win_rate", ("insertion", {"steps": 9})]

    def run(out, halt_at):
        halting = replace(net, preprocess=Halting(net.preprocess, halt_at))
        return lucidcam.evaluate(halting, data, ["gradcam", ("rise", {"masks": 40})], metrics, out=out, images_at_once=2, **FAST)

    whole = run(tmp_path / "whole", halt_at=10**9)
    with pytest.raises(Stop):
        run(tmp_path / "killed", halt_at=8)
    done = sorted((tmp_path / "killed" / "parts").glob("images-*.npz"))
    assert 0 < len(done) < 4
    stamps = {path: path.stat().st_mtime_ns for path in done}
    again = run(tmp_path / "killed", halt_at=10**9)
    assert {path: path.stat().st_mtime_ns for path in done} == stamps
    assert again.to_dict()["rows"] == whole.to_dict()["rows"]
    assert again.to_dict()["comparisons"] == whole.to_dict()["comparisons"]
    assert (tmp_path / "killed" / "images.csv").read_bytes() == (tmp_path / "whole" / "images.csv").read_bytes()


class Halting:
    """A preprocessing that is interrupted at its n-th image."""

    def __init__(self, preprocess, at):
        self.preprocess, self.left = preprocess, at  # it counts down itself, so that the number is no setting

    def __repr__(self):
        return repr(self.preprocess)

    def frame(self, size):
        return self.preprocess.frame(size)

    def __call__(self, image):
        self.left -= 1
        if not self.left:
            raise Stop
        return self.preprocess(image)


def test_a_folder_of_other_settings_is_refused(tmp_path):
    lucidcam.evaluate(model(), samples(2), "gradcam", "average_drop", out=tmp_path, **FAST)
    with pytest.raises(OptionError, match="other settings \\(metrics\\)"):
        lucidcam.evaluate(model(), samples(2), "gradcam", "insertion", out=tmp_path, **FAST)
    lucidcam.evaluate(model(), samples(2), "gradcam", "insertion", out=tmp_path, restart=True, **FAST)
    with pytest.raises(DataError, match="data changed"):
        lucidcam.evaluate(model(), samples(3), "gradcam", "insertion", out=tmp_path, **FAST)


def test_other_weights_of_the_same_name_are_other_settings(tmp_path):
    lucidcam.evaluate(model(), samples(2), "gradcam", "average_drop", out=tmp_path, **FAST)
    net = model()
    with torch.no_grad():
        net.module[1].weight.mul_(0.5)
    with pytest.raises(OptionError, match="weights"):
        lucidcam.evaluate(net, samples(2), "gradcam", "average_drop", out=tmp_path, **FAST)


@pytest.mark.slow
def test_other_bootstrap_samples_use_what_was_measured(tmp_path):
    lucidcam.evaluate(
        model(),
        samples(3),
        "gradcam",
        ["maxboxacc", "maxboxacc_v2", ("sanity", {"stages": 2})],
        out=tmp_path,
        baselines=["uniform"],
        resamples=0,
        progress=False,
    )
    stamp = (tmp_path / "parts" / "images-000000.npz").stat().st_mtime_ns
    more = lucidcam.evaluate(
        model(),
        samples(3),
        "gradcam",
        ["maxboxacc", "maxboxacc_v2", ("sanity", {"stages": 2})],
        out=tmp_path,
        baselines=["uniform"],
        resamples=40,
        progress=False,
    )
    assert math.isfinite(more.row("gradcam", "maxboxacc").low)
    assert (tmp_path / "parts" / "images-000000.npz").stat().st_mtime_ns == stamp


def test_a_preprocessing_without_a_name_of_its_own_may_go_on(tmp_path):
    """A lambda's repr holds an address, which the next process does not have."""
    net = model()
    for _ in range(2):
        plain = replace(net, preprocess=lambda image, inner=net.preprocess: inner(image))
        lucidcam.evaluate(plain, samples(2), "gradcam", "average_drop", out=tmp_path, **FAST)
    with pytest.raises(OptionError, match="prepared"):
        lucidcam.evaluate(model(size=16), samples(2), "gradcam", "average_drop", out=tmp_path, **FAST)


def test_other_boxes_are_other_data(tmp_path):
    data = samples(3)
    lucidcam.evaluate(model(), data, "gradcam", "energy_pointing_game", out=tmp_path, **FAST)
    moved = [replace(each, objects=(Object(each.labels[0], (1.0, 1.0, 30.0, 30.0)),)) for each in data]
    with pytest.raises(DataError, match="data changed"):
        lucidcam.evaluate(model(), moved, "gradcam", "energy_pointing_game", out=tmp_path, **FAST)


def test_half_a_part_is_measured_again(tmp_path):
    first = lucidcam.evaluate(model(), samples(3), "gradcam", "average_drop", out=tmp_path, **FAST)
    part = tmp_path / "parts" / "images-000000.npz"
    part.write_bytes(part.read_bytes()[:100])
    again = lucidcam.evaluate(model(), samples(3), "gradcam", "average_drop", out=tmp_path, **FAST)
    assert again.to_dict()["rows"] == first.to_dict()["rows"]


def test_two_games_of_mosaics_do_not_share_their_parts(tmp_path):
    games = [("grid_pointing_game", {"confidence": 0.0}), ("grid_pointing_game", {"confidence": 0.0, "size": "same"})]
    data = samples(8, classes=4)
    alone = [lucidcam.evaluate(model(4), data, "gradcam", [game], baselines=[], **FAST).rows[0] for game in games]
    both = lucidcam.evaluate(model(4), data, "gradcam", games, baselines=[], out=tmp_path, **FAST)
    assert list(both.rows) == alone
    assert alone[0].mean != alone[1].mean


def test_labels_may_hold_slashes(tmp_path):
    lucidcam.evaluate(model(), samples(3), {"ours/v1": "gradcam"}, ("deletion", {"steps": 3}), baselines=[], out=tmp_path, **FAST)
    assert (tmp_path / "gallery" / "ours_v1.jpg").is_file()
    with pytest.raises(OptionError, match="another label"):
        lucidcam.evaluate(model(), samples(3), {"a/b": "gradcam", "a:b": "cam"}, "average_drop", **FAST)


def test_a_threshold_of_the_data_set_gives_no_values_per_image(tmp_path):
    report = lucidcam.evaluate(model(), samples(3), "gradcam", ["maxboxacc", "energy_pointing_game"], out=tmp_path, **FAST)
    assert {metric for _, _, metric, _ in report.images()} == {"energy_pointing_game"}
    assert (tmp_path / "gallery" / "gradcam.jpg").is_file()


def test_what_is_written(tmp_path):
    data = [*samples(4), Problem("lost.jpg", "lost.jpg does not exist.")]
    metrics = [("deletion", {"steps": 8}), "maxboxacc"]
    report = lucidcam.evaluate(model(), data, ["gradcam", "cam"], metrics, out=tmp_path, **FAST)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"rows", "settings", "skipped"} <= set(results)
    assert set(results["rows"][0]) == {"method", "metric", "mean", "low", "high", "n"}
    assert results["skipped"] == [{"name": "lost.jpg", "error": "lost.jpg does not exist."}]
    assert results["rows"] == report.to_dict()["rows"]
    frame = report.frame()
    assert list(frame.columns) == ["image", "method", "metric", "value"]
    means = frame[frame.metric == "deletion:steps=8"].groupby("method").value.mean()
    assert means["gradcam"] == pytest.approx(report.row("gradcam", "deletion:steps=8").mean)
    import pandas

    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "images.parquet"), frame, check_dtype=False)
    assert len(pandas.read_csv(tmp_path / "images.csv")) == len(frame)
    for stem in ("deletion_steps=8", "maxboxacc"):
        with Image.open(tmp_path / "curves" / f"{stem}.png") as picture:
            assert picture.width > 300
        assert (tmp_path / "curves" / f"{stem}.svg").read_text().startswith("<?xml")
    with Image.open(tmp_path / "gallery" / "gradcam.jpg") as sheet:
        assert min(sheet.size) > 300


def test_plots_only_for_metrics_with_curves():
    report = lucidcam.evaluate(model(), samples(2), "gradcam", ["average_drop", ("insertion", {"steps": 4})], **FAST)
    figure = report.plot("insertion:steps=4")
    assert [line.get_label() for line in figure.axes[0].lines][:2] == ["gradcam", "centre_box"]
    with pytest.raises(OptionError, match="curves"):
        report.plot("average_drop")


@pytest.fixture(scope="module")
def of_every_metric():
    return lucidcam.evaluate(model(), samples(4), ["gradcam", "cam"], None, resamples=50, progress=False)


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_the_terminal(width, of_every_metric):
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as captured:
        console.print(of_every_metric.table(width))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    text = captured.get()
    for name in ("average", "deletion", "maxboxacc", "pointing", "sobel_edges", "gradcam"):
        assert name in text


def test_published_figures_are_marked_as_such():
    report = lucidcam.evaluate(model(), samples(3), ["gradcam"], preset="wsol", metrics=["maxboxacc_v2"], **FAST)
    assert {each.value for each in report.published if each.data == "ImageNet"} == {63.7, 52.5}
    assert all(row.method in [*TRIVIALS, "gradcam"] for row in report.rows)
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as captured:
        console.print(report.table(120))
    assert "published" in captured.get()


# ------------------------------------------------------------------------------------------------------------- bad input


def test_a_preset_leaves_out_what_the_data_cannot_answer():
    report = lucidcam.evaluate(model(), samples(3), "gradcam", preset="wsol", baselines=[], **FAST)
    assert "pxap" not in report.figures
    assert any("pxap is left out: it needs masks" in note for note in report.notes)
    assert any("3 images are few" in note for note in report.notes)


def test_bad_samples_are_skipped_and_counted(tmp_path):
    root = folder(tmp_path / "data", 6)
    (root / "red" / "cut.png").write_bytes((root / "red" / "000.png").read_bytes()[:300])
    outside = Sample(scene(("red", (1, 1, 20, 20))), "outside", ("red",), (Object("red", (10.0, 10.0, 300.0, 40.0)),))
    report = lucidcam.evaluate(model(), root, "gradcam", "average_drop", **FAST)
    assert report.rows[0].n == 6
    assert [each.name for each in report.skipped] == ["red/cut.png"]
    report = lucidcam.evaluate(model(), [*samples(3), outside], "gradcam", "maxboxacc", **FAST)
    assert report.rows[0].n == 3
    assert "outside the image" in report.skipped[0].error


def test_classes_that_the_network_does_not_have_are_no_background():
    data = samples(3, masks=True)
    grass = [Object("zebra", None, lambda own=each.objects[0].mask: ~own()) for each in data]
    with_zebra = [replace(each, labels=(), objects=(*each.objects, zebra)) for each, zebra in zip(data, grass, strict=True)]
    found = lucidcam.evaluate(model(), with_zebra, "cam", "seed_miou", baselines=["full_box"], **FAST)
    assert found.groups["seed_miou"]["full_box"].keys() == {"red", "green", "blue"}


def test_a_mask_of_another_size_is_a_problem_of_its_image():
    data = samples(2, masks=True)
    turned = replace(data[0], objects=(Object("red", None, lambda: np.ones((64, 48), bool)),))
    report = lucidcam.evaluate(model(), [turned, data[1]], "cam", "pxap", baselines=[], **FAST)
    assert report.rows[0].n == 1
    assert "48×64, the image 64×48" in report.skipped[0].error
    assert "EXIF" in report.skipped[0].error


def test_a_stream_that_breaks_says_so():
    from lucidcam.data import Dataset

    def broken():
        yield from samples(2)
        raise OSError("connection reset")

    with pytest.raises(DataError, match="after 2 samples \\(connection reset\\)"):
        lucidcam.evaluate(model(), Dataset("remote", "", broken), "gradcam", "average_drop", **FAST)


def test_a_mosaic_that_fails_is_lost_alone():
    class Whole:
        """A preprocessing that keeps the photo's size."""

        def __call__(self, image):
            return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    data = samples(8, classes=4)
    data[1] = replace(data[1], image=data[1].image.resize((96, 80)), objects=())
    net = replace(model(4), preprocess=Whole())
    report = lucidcam.evaluate(net, data, "gradcam", [("grid_pointing_game", {"confidence": 0.0})], baselines=[], **FAST)
    assert report.rows[0].n == 2


def test_sanity_is_asked_of_the_network_as_it_is():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(5400, 3)
    )
    with torch.no_grad():
        net[1].weight.uniform_(-1, 1)
        net[1].running_var.uniform_(0.5, 2)
    plain = lucidcam.wrap(net.eval(), model().preprocess, labels=["red", "green", "blue"])
    rows = [lucidcam.evaluate(plain, samples(2), "gradcam", "sanity", baselines=[], optimized=fast, **FAST).rows for fast in (True, False)]
    assert rows[0] == rows[1]


def test_an_image_the_model_fails_on_is_lost_alone():
    net = model()
    odd = Sample(Image.new("RGB", (64, 48), (255, 255, 255)), "white", ("red",))

    class Picky(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            if (x.flatten(1).amin(1) > 0.99).any():
                raise RuntimeError("too bright")
            return self.inner(x)

    picky = lucidcam.wrap(Picky(net.module), net.preprocess, labels=net.labels, layer="inner.2")
    report = lucidcam.evaluate(picky, [*samples(3), odd], "gradcam", ("deletion", {"steps": 3, "baseline": 0.5}), **FAST)
    assert report.rows[0].n == 3
    assert "too bright" in report.skipped[0].error


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        lucidcam.evaluate(model(), tmp_path / "empty", **FAST)
    with pytest.raises(DataError, match="does not exist"):
        lucidcam.evaluate(model(), tmp_path / "missing", **FAST)
    broken = folder(tmp_path / "broken", 3)
    for path in broken.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of"):
        lucidcam.evaluate(model(), broken, **FAST)


def test_metrics_that_the_data_cannot_answer_are_refused_before_any_work(tmp_path):
    root = folder(tmp_path / "data", 3)
    with pytest.raises(DataError, match="needs boxes"):
        lucidcam.evaluate(model(), root, "gradcam", "maxboxacc", **FAST)
    unknown = [Sample(s.image, s.name, ("zebra",), (Object("zebra", s.objects[0].box),)) for s in samples(2)]
    with pytest.raises(DataError, match="class-map"):
        lucidcam.evaluate(model(), unknown, "gradcam", "maxboxacc", **FAST)
    report = lucidcam.evaluate(model(), unknown, "gradcam", "maxboxacc", class_map={"zebra": "green"}, **FAST)
    assert report.rows[0].n == 2
    report = lucidcam.evaluate(model(), unknown, "gradcam", "average_drop", **FAST)
    assert "zebra" in report.unmatched


def test_what_is_asked_for_wrongly_is_an_error():
    for options, error in (
        ({"methods": "gradcm"}, OptionError),
        ({"metrics": "deletions"}, OptionError),
        ({"metrics": [("deletion", {"stepps": 3})]}, OptionError),
        ({"baselines": ["sobel"]}, OptionError),
        ({"preset": "wsl"}, OptionError),
        ({"layer": "9"}, LayerError),
        ({"limit": 0}, OptionError),
    ):
        with pytest.raises(error):
            lucidcam.evaluate(model(), samples(2), **options, **FAST)


# ----------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def checkpoint(monkeypatch):
    """The command line's "demo" model is the colours' one."""
    from lucidcam import registry

    things = dict(registry.sources)
    monkeypatch.setitem(registry.sources._things, "demo", lambda name, *, pretrained=True: model())
    return things


def run(*words):
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


def test_the_command_line_ranks_methods(tmp_path, checkpoint):
    root = folder(tmp_path / "data", 6)
    ran = run(
        "evaluate", root, "--method", "gradcam", "--method", "rise:masks=20", "--metric", "deletion:steps=5", "--out", tmp_path / "out"
    )
    assert ran.exit_code == 0, ran.output
    assert "rise:masks=20" in ran.output
    assert "6 images measured, 0 skipped" in ran.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["settings"]["methods"]["rise:masks=20"]["masks"] == 20
    (root / "red" / "cut.png").write_bytes(b"\x89PNG")
    ran = run("evaluate", root, "--metric", "average_drop", "--json", "--resamples", 10)
    assert ran.exit_code == 1
    assert "cut.png" in ran.stderr
    assert json.loads(ran.stdout)["rows"][0]["method"] == "gradcam"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--metric", "deletoin"), "did you mean 'deletion'"),
        (("--metric", "deletion:stepz=3"), "did you mean 'steps'"),
        (("--metric", "deletion:steps=many"), "whole number"),
        (("--method", "rise:masks"), "rise:option=value"),
        (("--preset", "wsoll"), "did you mean 'wsol'"),
    ],
)
def test_mistyped_words_are_answered(tmp_path, checkpoint, words, told):
    ran = run("evaluate", folder(tmp_path, 3), *words)
    assert ran.exit_code == 2
    assert told in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


def test_every_metric_is_listed_and_explained():
    ran = run("metrics")
    for name, kind in lucidcam.metrics().items():
        assert name in ran.output
        shown = run("metrics", name)
        assert shown.exit_code == 0
        for figure in kind.figures:
            assert figure.name in " ".join(shown.output.split())
