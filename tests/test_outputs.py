"""What a network's outputs mean: one-logit, multi-label, squeezed and already normalised heads, for every method, metric and task."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lucidcam
from in_turn import in_turn
from lucidcam import registry
from lucidcam.auditing.probing import Prober
from lucidcam.errors import ModelError, OptionError, TargetError, TargetNotFoundError
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.metrics import FaithfulnessMetric
from lucidcam.models._card import Card
from lucidcam.study.build import predicted
from lucidcam.utils.class_scores import OUTPUT_KINDS, ClassScores
from lucidcam.utils.optional import import_transformers

SIDE = 16
STEPS = Preprocess(size=(SIDE, SIDE), fit="squash", mean=(0.0,), std=(1.0,))
HEADS = ("two logits", "one logit", "two probabilities", "one probability", "one probability by hand")
"""Heads of one network for two classes, which give the same probabilities: class 1 is the one that a single column scores."""


class Trunk(nn.Module):
    """Convolution and global average pooling, and one of several heads that mean the same."""

    def __init__(self, head: str, squeeze: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 2)
        self.head, self.squeeze = head, squeeze
        if head.startswith("one"):
            folded = nn.Linear(6, 1).to(self.fc.weight)
            folded.weight.data, folded.bias.data = self.fc.weight[1:] - self.fc.weight[:1], self.fc.bias[1:] - self.fc.bias[:1]
            self.fc = folded

    def forward(self, x: Tensor) -> Tensor:
        z = self.fc(self.pool(self.features(x)).flatten(1))
        z = {
            "two probabilities": lambda: z.softmax(1),
            "one probability": lambda: torch.sigmoid(z),
            "one probability by hand": lambda: 1 / (1 + torch.exp(-z)),
        }.get(self.head, lambda: z)()
        return z.squeeze() if self.squeeze else z


def trunk(head: str, seed: int = 0, scale: float = 5.0, **options: Any) -> Trunk:
    """The same weights for every head: those of two logits, from which the others are folded."""
    torch.manual_seed(seed)
    two = Trunk("two logits").double()
    with torch.no_grad():
        two.fc.weight *= scale
        two.fc.bias -= two.fc(two.pool(two.features(images(8))).flatten(1)).mean(0)  # both classes are predicted
    net = Trunk(head, **options).double()
    net.features.load_state_dict(two.features.state_dict())
    with torch.no_grad():
        if head.startswith("one"):
            net.fc.weight.copy_(two.fc.weight[1:] - two.fc.weight[:1])
            net.fc.bias.copy_(two.fc.bias[1:] - two.fc.bias[:1])
        else:
            net.fc.load_state_dict(two.fc.state_dict())
    return net.eval()


def images(count: int = 3, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def photos(count: int = 3) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8) for i in range(count)]


def wrapped(head: str, **options: Any) -> lucidcam.Model:
    return lucidcam.wrap(trunk(head), STEPS, labels=["healthy", "tumour"], **options)


def truth(x: Tensor) -> Tensor:
    """Probabilities `[B, 2]`, written out."""
    z = trunk("two logits")(x).detach()
    p = 1 / (1 + torch.exp(z[:, 0] - z[:, 1]))
    return torch.stack([1 - p, p], 1)


def single_id(head: str, class_id: int) -> int:
    """The id under which a bare network, without labels, knows a class: its only column is class 0."""
    return 1 - class_id if head.startswith("one") else class_id


# ------------------------------------------------------------------------------------------------------------- reading one column


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("class_id", [0, 1])
def test_every_head_gives_the_same_probability(head, class_id):
    model = wrapped(head)
    x = torch.stack([each.tensor for each in model.prepare(photos())]).double()
    for i, explanation in enumerate(lucidcam.explain(model, photos(), target=class_id)):
        assert explanation.probability == pytest.approx(float(truth(x)[i, class_id]), abs=1e-6)
        assert explanation.label == ("healthy", "tumour")[class_id]
        assert explanation.target == class_id
    for explanation, row in zip(lucidcam.explain(model, photos()), truth(x), strict=True):
        assert explanation.target == int(row.argmax())


@pytest.mark.parametrize("head", HEADS)
def test_targets_of_probabilities(head):
    model = wrapped(head)
    x = torch.stack([each.tensor for each in model.prepare(photos())]).double()
    for class_id in (0, 1):
        for i, explanation in enumerate(lucidcam.explain(model, photos(), target=lucidcam.Probability(class_id))):
            assert explanation.score == pytest.approx(float(truth(x)[i, class_id]), abs=1e-9)
        for i, explanation in enumerate(lucidcam.explain(model, photos(), target=lucidcam.LogProbability(class_id))):
            assert explanation.score == pytest.approx(math.log(float(truth(x)[i, class_id])), abs=1e-9)
    several = lucidcam.explain(model, photos(1), target="all")
    assert [each.label for each in several] == ["healthy", "tumour"]
    assert sum(each.probability for each in several) == pytest.approx(1)
    top = lucidcam.explain(model, photos(1), target="top2")
    assert top[0].probability >= top[1].probability


METHODS = [
    name
    for name, kind in sorted(registry.methods.items())
    if name
    not in ("mcam", "attention_relevance", "rollout", "legrad", "excitation_backprop", "contrastive_excitation_backprop", "eigencam")
    # of attention blocks, of a memory; excitation backprop splits a difference of two rows by sign, otherwise than one row of differences
]
MASKING = {"rise": {"masks": 40}, "occlusion": {}, "smoothgradcam++": {"samples": 3}, "sscam": {"samples": 2}, "iscam": {"steps": 2}}


def options_of(method: str) -> dict[str, Any]:
    fields = registry.methods[method].__dataclass_fields__
    return {name: value for name, value in MASKING.get(method, {}).items() if name in fields}


@pytest.mark.parametrize(("method", "head"), in_turn(METHODS, ["one logit", "one probability", "two probabilities"]))
def test_a_folded_network_has_the_same_maps(method, head):
    """Of the probability of either class: whether it is one column or two, a logit or not."""
    if method == "cam" and "probabilit" in head:
        pytest.skip("CAM needs scores that are linear in the features")
    x = images()
    for class_id in (0, 1):
        expected = lucidcam.attribute(trunk("two logits"), x, method, target=lucidcam.Probability(class_id), **options_of(method))
        target = lucidcam.Probability(single_id(head, class_id))
        maps = lucidcam.attribute(trunk(head), x, method, target=target, **options_of(method))
        torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_the_logit_of_a_single_column_is_a_contrast_of_two(method):
    x = images()
    for class_id in (0, 1):
        contrast = lucidcam.Contrast(class_id, 1 - class_id)
        expected = lucidcam.attribute(trunk("two logits"), x, method, target=contrast, **options_of(method))
        maps = lucidcam.attribute(trunk("one logit"), x, method, target=single_id("one logit", class_id), **options_of(method))
        if method == "rise":  # it weighs by the class's probability, which a contrast has not
            contrast = lucidcam.Probability(class_id)
            expected = lucidcam.attribute(trunk("two logits"), x, method, target=contrast, **options_of(method))
        torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-9)


def test_rise_differs_between_images_and_equals_its_definition():
    net, x = trunk("one logit"), images(2)
    maps = lucidcam.attribute(net, x, "rise", masks=64, target=0)
    assert not torch.allclose(maps[0], maps[1])
    from lucidcam.perturb.masks import rise_masks

    masks = rise_masks(64, (SIDE, SIDE), 7, 0.5, torch.Generator().manual_seed(0)).double()
    for row, image in enumerate(x):
        with torch.no_grad():
            weights = torch.sigmoid(net(image * masks))[:, 0]
        expected = (weights[:, None, None] * masks[:, 0]).sum(0) / (64 * 0.5)
        torch.testing.assert_close(maps[row], expected, rtol=1e-5, atol=1e-7)


FAITHFULNESS = sorted(name for name, kind in registry.metrics.items() if issubclass(kind, FaithfulnessMetric) and name != "win_rate")
"""Win rate compares the average drops of two methods; it measures nothing of its own."""


# not sanity: random weights depend on the layers' shapes
@pytest.mark.parametrize(("metric", "head"), in_turn([name for name in FAITHFULNESS if name != "sanity"], HEADS[1:]))
def test_every_metric_asks_for_the_same_probability(metric, head):
    x = images()
    few = {"deletion": 6, "insertion": 6}
    options = {"steps": few[metric]} if metric in few else {}
    for class_id in (0, 1):
        maps = lucidcam.attribute(trunk("two logits"), x, "hirescam", target=lucidcam.Probability(class_id))

        def explain(module: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
            return lucidcam.attribute(module, inputs, "hirescam", target=lucidcam.Probability(classes))

        judge = registry.metrics[metric](**options)
        ids = torch.full((3,), single_id(head, class_id))
        values = judge(trunk(head), x, maps, target=ids, explain=explain)
        expected = judge(trunk("two logits"), x, maps, target=class_id, explain=explain)
        for name, value in expected.items():
            torch.testing.assert_close(values[name], value, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_average_drop_of_one_logit_by_hand():
    net, x = trunk("one logit"), images()
    maps = lucidcam.attribute(net, x, "hirescam", target=0)
    unit = F.interpolate(maps[:, None], size=(SIDE, SIDE), mode="bilinear")[:, 0]
    low, high = unit.amin((1, 2), keepdim=True), unit.amax((1, 2), keepdim=True)
    with torch.no_grad():
        before, after = net(x).sigmoid()[:, 0], net(x * ((unit - low) / (high - low))[:, None]).sigmoid()[:, 0]
    expected = 100 * ((before - after) / before).clamp(min=0)
    torch.testing.assert_close(registry.metrics["average_drop"]()(net, x, maps, target=0)["average_drop"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_evaluate_gives_the_same_figures(head):
    reports = [
        lucidcam.evaluate(
            wrapped(each),
            photos(4),
            ["occlusion", ("scorecam", {"weights": "probability"})],
            ["average_drop", ("deletion", {"steps": 4}), ("insertion", {"steps": 4}), "road"],
            target=1,
            baselines=["random"],
            resamples=0,
            optimized=False,
        )
        for each in ("two logits", head)
    ]
    rows = [
        {(row.method, row.metric): row.mean for row in report.rows if row.method.startswith(("random", "scorecam"))} for report in reports
    ]
    assert rows[0].keys() == rows[1].keys()
    assert rows[0]
    for key, value in rows[0].items():
        assert rows[1][key] == pytest.approx(value, rel=1e-5, abs=1e-5), key


@pytest.mark.parametrize("head", HEADS)
def test_the_audit_and_the_study_read_the_same_probability(head):
    model = wrapped(head)
    prepared = model.prepare(photos())
    x = torch.stack([each.tensor for each in prepared]).double()
    scores = Prober(model).scores([each.tensor for each in prepared])
    torch.testing.assert_close(scores.probabilities(), truth(x), rtol=1e-9, atol=1e-9)
    odds = (truth(x)[:, 1] / truth(x)[:, 0]).log().numpy()
    np.testing.assert_allclose(scores.log_odds([1, 1, 1]), odds, atol=1e-6)
    np.testing.assert_allclose(scores.log_odds([0, 0, 0]), -odds, atol=1e-6)
    assert scores.predicted() == truth(x).argmax(1).tolist()
    class_id, probability = predicted(model, prepared[0])
    assert class_id == int(truth(x)[0].argmax())
    assert probability == pytest.approx(float(truth(x)[0].max()))


@pytest.mark.parametrize("head", HEADS)
def test_channels_read_the_same_probability(head):
    found = lucidcam.channels(wrapped(head), photos(1)[0], target=1)
    x = wrapped(head).prepare(photos(1))[0].tensor[None].double()
    assert found.probability == pytest.approx(float(truth(x)[0, 1]), abs=1e-6)


def test_the_web_app_shows_both_classes_of_one_logit():
    from lucidcam.web.service import Seen, Studio

    studio = Studio.of({"net": wrapped("one logit")})
    served = studio.model("net")
    (prepared,) = served.model.prepare(photos(1))
    shown = studio.top(Seen("digest", prepared, prepared.image.size), served)
    assert [score.label for score in shown] in (["healthy", "tumour"], ["tumour", "healthy"])
    assert sum(score.value for score in shown) == pytest.approx(1, abs=1e-6)
    assert all(score.is_probability for score in shown)


# -------------------------------------------------------------------------------------------------------------- labels and thresholds


def test_one_label_names_its_complement():
    model = lucidcam.wrap(trunk("one logit"), STEPS, labels=["tumour, neoplasm"])
    assert model.class_labels == ("tumour, neoplasm", "not tumour")
    assert model.find_label("tumour") == 0
    assert model.find_label("not tumour") == 1
    assert model.label(1) == "not tumour"
    against = lucidcam.explain(model, photos(1)[0], target="not tumour")[0]
    for_it = lucidcam.explain(model, photos(1)[0], target="tumour")[0]
    assert against.score == pytest.approx(-for_it.score)
    assert against.probability == pytest.approx(1 - for_it.probability)
    assert against.label == "not tumour"
    assert for_it.label == "tumour, neoplasm"
    with pytest.raises(TargetError, match="out of range: the model has 2 classes"):
        lucidcam.attribute(trunk("one logit"), images(), target=2)


def test_two_labels_of_which_the_second_denies_the_first():
    one = lucidcam.wrap(trunk("one logit"), STEPS, labels=["tumour, neoplasm"])
    two = lucidcam.wrap(trunk("one logit"), STEPS, labels=one.class_labels)
    for label in ("tumour", "not tumour"):
        [first], [second] = (lucidcam.explain(model, photos(1), target=label) for model in (one, two))
        assert (first.target, first.label, first.score, first.probability) == (
            second.target,
            second.label,
            second.score,
            second.probability,
        )


def test_a_bare_column_is_class_0_and_its_complement_class_1():
    model = lucidcam.wrap(trunk("one logit"), STEPS)
    [explanation] = lucidcam.explain(model, photos(1), target=1)
    assert explanation.label == "not class 0"
    with torch.no_grad():
        z = float(trunk("one logit")(model.prepare(photos(1))[0].tensor[None].double()))
    assert explanation.score == pytest.approx(-z)
    assert explanation.probability == pytest.approx(1 / (1 + math.exp(z)))


@pytest.mark.parametrize("head", ["one logit", "one probability"])
def test_a_threshold_moves_the_predicted_class(head):
    probability = float(lucidcam.explain(wrapped(head), photos(1), target=1)[0].probability)
    for threshold, expected in ((probability - 0.01, "tumour"), (probability + 0.01, "healthy")):
        model = wrapped(head, threshold=threshold)
        assert lucidcam.explain(model, photos(1))[0].label == expected
        assert lucidcam.explain(wrapped(head), photos(1), threshold=threshold)[0].label == expected
    for wrong in (0.0, 1.0, True, "high"):
        with pytest.raises(OptionError):
            wrapped(head, threshold=wrong)


def test_metrics_predict_by_the_threshold():
    net, x = trunk("one logit"), images()
    maps = lucidcam.attribute(net, x, "hirescam", target=0)
    with torch.no_grad():
        p = net(x).sigmoid()[:, 0]
    for threshold, class_id in ((float(p.min()) - 1e-3, 0), (float(p.max()) + 1e-3, 1)):
        for metric in ("average_drop", "road"):
            judge = registry.metrics[metric]()
            expected = judge(net, x, maps, target=class_id, threshold=threshold)
            for name, value in judge(net, x, maps, threshold=threshold).items():
                torch.testing.assert_close(value, expected[name], equal_nan=True)


def test_wrong_numbers_of_labels_are_refused():
    for head, labels in (("one logit", ["a", "b", "c"]), ("two logits", ["a"]), ("two logits", ["a", "b", "c"])):
        with pytest.raises(ModelError, match="one label per class"):
            lucidcam.explain(lucidcam.wrap(trunk(head), STEPS, labels=labels), photos(1))


# -------------------------------------------------------------------------------------------------------------- found, stated, checked


class Ended(nn.Module):
    """Five classes, and what comes after the last linear layer."""

    def __init__(self, end: Any, scale: float = 20.0) -> None:
        super().__init__()
        self.features, self.fc, self.end = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Linear(8, 5), end
        with torch.no_grad():
            self.fc.weight *= scale

    def forward(self, x: Tensor) -> Any:
        return self.end(self.fc(self.features(x).mean((2, 3))))


def ended(end: Any, **options: Any) -> Ended:
    torch.manual_seed(2)
    return Ended(end, **options).double().eval()


ENDS: dict[str, tuple[Any, Any]] = {  # what the network does in the end; the probabilities that are right, from what it returns
    "logits": (lambda z: z, lambda y: y.softmax(1)),
    "softmax": (lambda z: z.softmax(1), lambda y: y),
    "mean of two softmaxes": (lambda z: (z.softmax(1) + (2 * z).softmax(1)) / 2, lambda y: y),
    "sigmoid": (lambda z: z.sigmoid(), lambda y: y),
    "sigmoid in a dictionary": (lambda z: {"logits": torch.sigmoid(z)}, lambda y: y["logits"]),
    "mean of two sigmoids": (lambda z: (z.sigmoid() + (z / 2).sigmoid()) / 2, lambda y: y),
    "log-softmax": (lambda z: z.log_softmax(1), lambda y: y.exp()),
    "temperature": (lambda z: z / 0.07, lambda y: y.softmax(1)),
    "small logits, all in [0, 1]": (lambda z: 0.5 + z / 1000, lambda y: y.softmax(1)),
    "scripted sigmoid": ("script", lambda y: y),
    "half of a tanh": (lambda z: (1 + z.tanh()) / 2, lambda y: y),
    "arc tangent": (lambda z: z.atan() / math.pi + 0.5, lambda y: y),
    "sigmoid as a fraction": (lambda z: z.exp() / (1 + z.exp()), lambda y: y),
    "complementary log-log": (lambda z: 1 - torch.exp(-torch.exp(z)), lambda y: y),
    "clipped sigmoid": (lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6), lambda y: y),
    "sigmoids weighted by a sigmoid": (
        lambda z: z[:, :1].sigmoid() * z.sigmoid() + z[:, :1].neg().sigmoid() * (z / 2).sigmoid(),
        lambda y: y,
    ),
    "noisy or": (lambda z: 1 - (1 - z.sigmoid()) * (1 - (2 * z).sigmoid()), lambda y: y),
    "small logits, soft-capped": (lambda z: 0.5 + 2 * torch.tanh(z / 4000), lambda y: y.softmax(1)),
    "small logits, gated": (lambda z: (0.4 + z / 1000) * (3 * z).sigmoid(), lambda y: y.softmax(1)),
    "small logits, swish by hand": (lambda z: (1 + z / 1000) * torch.sigmoid(1 + z / 1000), lambda y: y.softmax(1)),
    "small ratings": (lambda z: 5 * (z / 1000 - 3).sigmoid(), lambda y: y.softmax(1)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("end", ENDS)
def test_what_outputs_mean_is_found_by_value(end):
    change, right = ENDS[end]
    change = torch.jit.script(nn.Sigmoid()) if change == "script" else change
    net, x = ended(change), images()
    with torch.no_grad():
        expected = right(net(x))
    explanations = lucidcam.explain(lucidcam.wrap(net, STEPS), photos(), "occlusion", target=2, window=8, stride=8)
    for explanation, row in zip(explanations, range(3), strict=True):
        inputs = lucidcam.wrap(net, STEPS).prepare(photos())[row].tensor[None].double()
        with torch.no_grad():
            assert explanation.probability == pytest.approx(float(right(net(inputs))[0, 2]), abs=1e-6)
    masked = lucidcam.attribute(net, x, "occlusion", target=lucidcam.Probability(2), window=4, stride=4)
    logits_first = lucidcam.attribute(net, x, "occlusion", target=lambda out: right(out)[:, 2], window=4, stride=4)
    torch.testing.assert_close(masked, logits_first)
    assert expected.shape == (3, 5)


@pytest.mark.parametrize("kind", ["multi_label attribute", "stated", "option"])
def test_multi_label_logits_have_a_sigmoid_each(kind):
    net = ended(lambda z: z)
    if kind == "multi_label attribute":
        net.multi_label = True
    model = lucidcam.wrap(net, STEPS, outputs="sigmoid" if kind == "stated" else None)
    options = {"outputs": "sigmoid"} if kind == "option" else {}
    plain, probability, log = (
        lucidcam.explain(model, photos(1), target=target, **options)[0]
        for target in (1, lucidcam.Probability(1), lucidcam.LogProbability(1))
    )
    expected = 1 / (1 + math.exp(-plain.score))
    assert plain.probability == pytest.approx(expected) == probability.score == pytest.approx(math.exp(log.score))


@pytest.mark.parametrize("how", ["sum", "product of matrices", "maximum", "mean"])
def test_probabilities_of_instances_stay_probabilities(how):
    """Multiple-instance learning: a sigmoid at each place, and a pooling that may be weighted by an attention."""

    class Instances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.a, self.c = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 1, 1), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.f(x).relu()
            a, p = self.a(h).flatten(2).softmax(2), self.c(h).flatten(2).sigmoid()
            if how == "product of matrices":
                return torch.bmm(p, a.transpose(1, 2))[..., 0]
            return {"sum": (a * p).sum(2), "maximum": p.amax(2), "mean": p.mean(2)}[how]

    torch.manual_seed(0)
    net = Instances().double().eval()
    model = lucidcam.wrap(net, STEPS)
    with torch.no_grad():
        expected = net(model.prepare(photos(1))[0].tensor[None].double())[0]
    for class_id in range(3):
        [explanation] = lucidcam.explain(model, photos(1), "occlusion", target=class_id, window=8, stride=8)
        assert explanation.probability == pytest.approx(float(expected[class_id]), abs=1e-6)


def test_percentages_are_refused():
    with pytest.raises(ModelError, match="percentages"):
        lucidcam.attribute(ended(lambda z: 100 * z.softmax(1)), images(), target=0)


@pytest.mark.parametrize("options", [{}, {"outputs": "sigmoid"}, {"outputs": "none"}])
def test_a_threshold_that_means_nothing_is_refused(options):
    """Of several classes that exclude each other the likeliest is predicted; a regression has no probability."""
    net = ended(lambda z: z)
    if options.get("outputs") == "sigmoid":
        assert lucidcam.attribute(net, images(), threshold=0.3, **options).shape[0] == 3
        return
    with pytest.raises(ModelError, match=r"the threshold 0\.3 is for networks with one output column"):
        lucidcam.attribute(net, images(), threshold=0.3, **options)
    with pytest.raises(ModelError, match=r"the threshold 0\.3 is for networks with one output column"):
        lucidcam.explain(lucidcam.wrap(net, STEPS, threshold=0.3, **options), photos(1))


def test_what_is_stated_and_does_not_hold_is_refused():
    x = images()
    with pytest.raises(ModelError, match=r"probabilities.*values from"):
        lucidcam.attribute(ended(lambda z: z), x, target=lucidcam.Probability(1), outputs="probabilities")
    for end in (lambda z: z.softmax(1), lambda z: z.sigmoid()):
        for kind in ("softmax", "sigmoid"):
            with pytest.raises(ModelError, match='say outputs="probabilities"'):
                lucidcam.attribute(ended(end), x, target=1, outputs=kind)
    with pytest.raises(OptionError, match="kind of outputs"):
        lucidcam.wrap(ended(lambda z: z), STEPS, outputs="logits")
    with pytest.raises(OptionError):
        lucidcam.attribute(ended(lambda z: z), x, outputs="sofmax")


def test_numbers_that_are_no_class_scores_have_no_probability():
    model = lucidcam.wrap(trunk("one logit"), STEPS, outputs="none")
    [explanation] = lucidcam.explain(model, photos(1))
    assert explanation.probability is None
    assert explanation.target == 0
    with pytest.raises(TargetError, match="no probabilities"):
        lucidcam.explain(model, photos(1), target=lucidcam.Probability(0))
    with pytest.raises(TargetError, match="no probabilities"):
        lucidcam.evaluate(model, photos(2), ["gradcam"], ["average_drop"], baselines=[], resamples=0)
    with pytest.raises(TargetError, match="out of range"):
        lucidcam.explain(model, photos(1), target=1)
    by_score = lucidcam.explain(model, photos(1), "rise", masks=20, weigh_by="score")[0]
    np.testing.assert_array_equal(lucidcam.explain(model, photos(1), "rise", masks=20)[0].map, by_score.map)


def test_a_model_says_what_its_outputs_mean():
    net = ended(lambda z: z)
    assert "outputs='found by value'" in repr(lucidcam.wrap(net, STEPS))
    for kind in OUTPUT_KINDS:
        assert f"outputs={kind!r}" in repr(lucidcam.wrap(net, STEPS, outputs=kind))
    assert lucidcam.load("timm:resnet18", pretrained=False).outputs == "softmax"
    assert lucidcam.load("torchvision:resnet18", pretrained=False, outputs="sigmoid").outputs == "sigmoid"
    assert lucidcam.load("timm:resnet18", pretrained=False, num_classes=3).outputs is None


@pytest.mark.parametrize(("fields", "kind"), [({}, "softmax"), ({"multi_label": True}, "sigmoid"), ({"outputs": "none"}, "none")])
def test_cards_keep_it(tmp_path: Path, fields, kind):
    Card("gap:small", {}, ("a", "b"), None, Preprocess(), threshold=0.3, **fields).write(tmp_path)
    card = Card.beside(tmp_path)
    assert card.output_kind == kind
    assert card.threshold == 0.3
    old = json.loads((tmp_path / "model.json").read_text())
    del old["outputs"], old["threshold"]  # as cards were before
    (tmp_path / "model.json").write_text(json.dumps(old))
    assert Card.beside(tmp_path).output_kind == ("sigmoid" if fields.get("multi_label") else "softmax")


@pytest.mark.parametrize(
    ("problem", "count", "kind"),
    [
        ("multi_label_classification", 4, "sigmoid"),
        ("single_label_classification", 4, "softmax"),
        (None, 4, "softmax"),
        ("regression", 1, None),
    ],
)
def test_transformers_say_it_by_their_problem_type(tmp_path: Path, problem, count, kind):
    pytest.importorskip("transformers")
    transformers = import_transformers()
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8, num_labels=count
    )
    config.problem_type = problem
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    [explanation] = lucidcam.explain(lucidcam.load(f"hf:{tmp_path}"), photos(1), target=0)
    model = lucidcam.load(f"hf:{tmp_path}")
    with torch.no_grad():
        logits = model.module(model.prepare(photos(1))[0].tensor[None]).logits[0]
    expected = {"sigmoid": logits.sigmoid()[0], "softmax": logits.softmax(0)[0]}.get(kind)
    assert explanation.probability == (None if expected is None else pytest.approx(float(expected), abs=1e-6))


@pytest.mark.parametrize("problem", [None, "multi_label_classification", "single_label_classification"])
def test_one_logit_of_transformers_whose_configuration_has_two_labels(tmp_path: Path, problem):
    pytest.importorskip("transformers")
    transformers = import_transformers()
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8, num_labels=1
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    written.update(id2label={"0": "healthy", "1": "tumour"}, label2id={"healthy": 0, "tumour": 1}, problem_type=problem)
    (tmp_path / "config.json").write_text(json.dumps(written))
    model = lucidcam.load(f"hf:{tmp_path}")
    with torch.no_grad():
        z = float(model.module(model.prepare(photos(1))[0].tensor[None]).logits)
    well, ill = lucidcam.explain(model, photos(1), target="all")
    assert (well.label, ill.label) == ("healthy", "tumour")
    assert ill.probability == pytest.approx(1 / (1 + math.exp(-z)), abs=1e-6)
    assert well.probability == pytest.approx(1 / (1 + math.exp(z)), abs=1e-6)


def test_one_logit_of_transformers_with_two_labels(tmp_path: Path):
    pytest.importorskip("transformers")
    transformers = import_transformers()
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8, num_labels=1
    )
    config.id2label, config.label2id = {0: "healthy", 1: "tumour"}, {"healthy": 0, "tumour": 1}
    config.problem_type = "multi_label_classification"
    net = transformers.ViTForImageClassification(config)
    net.classifier = nn.Linear(16, 1)
    model = lucidcam.wrap(net.eval(), STEPS, labels=[config.id2label[i] for i in (0, 1)])
    with torch.no_grad():
        z = float(net(model.prepare(photos(1))[0].tensor[None]).logits)
    ill, well = (lucidcam.explain(model, photos(1), target=word)[0] for word in ("tumour", "healthy"))
    assert ill.score == pytest.approx(z, abs=1e-5)
    assert ill.probability == pytest.approx(1 / (1 + math.exp(-z)), abs=1e-5)
    assert well.probability == pytest.approx(1 / (1 + math.exp(z)), abs=1e-5)


def test_heads_of_several_outputs_are_read_each_by_itself():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.kind, self.ill, self.age = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(4, 1), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.f(x).relu().mean((2, 3))
            return {"ill": self.ill(h).sigmoid(), "kind": self.kind(h), "age": self.age(h)}

    torch.manual_seed(0)
    net, x = Two().double().eval(), images()
    with torch.no_grad():
        out = net(x)
    for target, expected in (
        (lucidcam.Head("ill", lucidcam.Probability(0)), out["ill"][:, 0]),
        (lucidcam.Head("ill", lucidcam.Probability(1)), 1 - out["ill"][:, 0]),
        (lucidcam.Head("kind", lucidcam.Probability(2)), out["kind"].softmax(1)[:, 2]),
        (lucidcam.Head("age"), out["age"][:, 0]),
    ):
        with lucidcam.engine.run.open_run(net, x, target) as run:
            torch.testing.assert_close(run.clean_scores()[:, 0], expected)


# ------------------------------------------------------------------------------------------------------------------------- squeezed


@pytest.mark.parametrize(("method", "head"), in_turn(METHODS, ["two logits", "one logit"]))
@pytest.mark.parametrize("count", [1, 2])
def test_squeezed_outputs_give_the_same_maps(method, head, count):
    x = images(count)
    for chunk in (7, 1):  # chunks of one row lose their axis, too
        options = {**options_of(method), "batch_size": chunk}
        expected = lucidcam.attribute(trunk(head), x, method, target=0, **options)
        torch.testing.assert_close(lucidcam.attribute(trunk(head, squeeze=True), x, method, target=0, **options), expected)


@pytest.mark.parametrize(
    "end", [lambda z: z[:, None], lambda z: z[:, None, None], lambda z: z[..., None], lambda z: (z.squeeze(),), lambda z: z.to_sparse()]
)
@pytest.mark.parametrize("count", [1, 2])
def test_axes_of_size_one_are_not_minded(end, count):
    x = images(count)
    for method, options in (("occlusion", {"window": 8, "stride": 4}), ("rise", {"masks": 20})):
        expected = lucidcam.attribute(ended(lambda z: z), x, method, target=1, batch_size=3, **options)
        torch.testing.assert_close(lucidcam.attribute(ended(end), x, method, target=1, batch_size=3, **options), expected)


@pytest.mark.parametrize("metric", FAITHFULNESS)
@pytest.mark.parametrize("head", ["two logits", "one logit"])
def test_metrics_of_squeezed_outputs(metric, head):
    x = images(1)
    maps = lucidcam.attribute(trunk(head), x, "hirescam", target=0)

    def explain(module: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
        return lucidcam.attribute(module, inputs, "hirescam", target=classes)

    expected = registry.metrics[metric]()(trunk(head), x, maps, target=0, explain=explain, batch_size=3)
    values = registry.metrics[metric]()(trunk(head, squeeze=True), x, maps, target=0, explain=explain, batch_size=3)
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, equal_nan=True)


# -------------------------------------------------------------------------------------------------------------------- segmentation


class Pixels(nn.Module):
    """Class scores of each pixel; the pixel's brightness decides."""

    def __init__(self, end: Any, classes: int = 1) -> None:
        super().__init__()
        self.t, self.o, self.end = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), nn.Conv2d(8, classes, 1), end

    def forward(self, x: Tensor) -> Any:
        return self.end(F.interpolate(self.o(self.t(x)), size=x.shape[2:], mode="bilinear"))


def pixels(end: Any = lambda y: y, classes: int = 1) -> Pixels:
    torch.manual_seed(0)
    net = Pixels(lambda y: y, classes).double().eval()
    with torch.no_grad():
        net.o.bias -= net(images()).median()
    net.end = end
    return net


def hirescam_of(net: Pixels, x: Tensor, score: Any) -> Tensor:
    """`Σ_k g_k A_k` of a score of the logits of each pixel, written out."""
    activations = net.t(x).detach().requires_grad_()
    y = F.interpolate(net.o(activations), size=x.shape[2:], mode="bilinear")
    [gradient] = torch.autograd.grad(score(y).sum(), activations)
    return (gradient * activations).sum(1).detach()


@pytest.mark.parametrize("class_id", [0, 1])
def test_one_channel_means_the_pixels_above_the_threshold(class_id):
    net, x = pixels(), images()
    sign = 1 if class_id == 0 else -1
    maps = lucidcam.attribute(net, x, "hirescam", target=lucidcam.Segmentation(class_id), layer="t.1")
    expected = hirescam_of(net, x, lambda y: sign * y * (y > 0 if class_id == 0 else y <= 0))
    torch.testing.assert_close(maps, expected)
    if class_id == 0:
        torch.testing.assert_close(lucidcam.attribute(net, x, "hirescam", target=lucidcam.Segmentation(), layer="t.1"), maps)


def test_a_threshold_moves_the_pixels():
    net, x = pixels(), images()
    maps = lucidcam.attribute(net, x, "hirescam", target=lucidcam.Segmentation(0), layer="t.1", threshold=0.505)
    torch.testing.assert_close(maps, hirescam_of(net, x, lambda y: y * (y > math.log(0.505 / 0.495))))


def test_probabilities_of_each_pixel():
    net, x = pixels(lambda y: y.sigmoid()), images()
    maps = lucidcam.attribute(net, x, "hirescam", target=lucidcam.Segmentation(0), layer="t.1")
    torch.testing.assert_close(maps, hirescam_of(net, x, lambda y: y.sigmoid() * (y.sigmoid() > 0.5)))


def test_classes_of_pixels_that_do_not_exclude_each_other():
    net, x = pixels(classes=3), images()
    maps = lucidcam.attribute(net, x, "hirescam", target=lucidcam.Segmentation(1), layer="t.1", outputs="sigmoid")
    torch.testing.assert_close(maps, hirescam_of(net, x, lambda y: (y * (y > 0))[:, 1]))
    exclusive = lucidcam.attribute(net, x, "hirescam", target=lucidcam.Segmentation(1), layer="t.1")
    torch.testing.assert_close(exclusive, hirescam_of(net, x, lambda y: (y * (y.argmax(1, keepdim=True) == 1))[:, 1]))


@pytest.mark.parametrize("label", [None, 0])
def test_nothing_above_the_threshold_is_an_error_of_its_own(label):
    net, x = pixels(), images()
    with torch.no_grad():
        net.o.bias -= 1000
    with pytest.raises(TargetNotFoundError, match="above the threshold"):
        lucidcam.attribute(net, x, "gradcam", target=lucidcam.Segmentation(label), layer="t.1")
    assert lucidcam.attribute(net, x, "gradcam", target=lucidcam.Segmentation(1), layer="t.1").shape[0] == 3


DEEP = {
    "list": lambda y: [y, F.avg_pool2d(y, 2), F.avg_pool2d(y, 4)],
    "tuple, the finest last": lambda y: (F.avg_pool2d(y, 4), y),
    "dictionary": lambda y: {"aux": F.avg_pool2d(y, 2), "out": y},
    "lists in a list": lambda y: [[F.avg_pool2d(y, 2), y], F.avg_pool2d(y, 4)],
    "a list in a dictionary": lambda y: {"out": [F.avg_pool2d(y, 2), y], "loss": y.mean()},
    "squeezed": lambda y: [F.avg_pool2d(y, 2).squeeze(1), y.squeeze(1)],
    "beside coarse features": lambda y: (y, F.avg_pool2d(y, 2).expand(-1, 5, -1, -1)),
}


@pytest.mark.parametrize("how", DEEP)
def test_deep_supervision_is_read_at_its_finest(how):
    x = images()
    expected = lucidcam.attribute(pixels(), x, "hirescam", target=lucidcam.Segmentation(0), layer="t.1")
    maps = lucidcam.attribute(pixels(DEEP[how]), x, "hirescam", target=lucidcam.Segmentation(0), layer="t.1")
    torch.testing.assert_close(maps, expected)


def test_several_maps_of_one_size_are_asked_about():
    net, x = pixels(lambda y: [y, 2 * y]), images()
    with pytest.raises(TargetError, match="say which one is meant"):
        lucidcam.attribute(net, x, target=lucidcam.Segmentation(0), layer="t.1")
    first = lucidcam.attribute(net, x, "hirescam", target=lucidcam.Head(0, lucidcam.Segmentation(0)), layer="t.1")
    torch.testing.assert_close(first, lucidcam.attribute(pixels(), x, "hirescam", target=lucidcam.Segmentation(0), layer="t.1"))


def test_features_finer_than_the_scores_are_not_taken_for_them():
    net, x = pixels(lambda y: (F.avg_pool2d(y, 2), y.expand(-1, 5, -1, -1))), images()
    with pytest.raises(TargetError, match="different channels"):
        lucidcam.attribute(net, x, target=lucidcam.Segmentation(0), layer="t.1")


@pytest.mark.parametrize(
    ("classes", "end", "came"),
    [
        (3, lambda y: y.permute(0, 2, 3, 1), "classes last"),
        (3, lambda y: y.flatten(2), "one axis"),
        (1, lambda y: y.flatten(2), "one axis"),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_pixels_along_other_axes_are_refused(classes, end, came, count):
    with pytest.raises(TargetError, match=came):
        lucidcam.attribute(pixels(end, classes), images(count), target=lucidcam.Segmentation(0), layer="t.1")


@pytest.mark.parametrize(("count", "classes", "end"), [(2, 1, lambda y: y.squeeze(1)), (1, 1, lambda y: y[0, 0]), (1, 3, lambda y: y[0])])
def test_squeezed_scores_of_pixels(count, classes, end):
    x = images(count)
    expected = lucidcam.attribute(pixels(classes=classes), x, "hirescam", target=lucidcam.Segmentation(0), layer="t.1")
    maps = lucidcam.attribute(pixels(end, classes), x, "hirescam", target=lucidcam.Segmentation(0), layer="t.1")
    torch.testing.assert_close(maps, expected)


# ----------------------------------------------------------------------------------------------------------------------- detection


class Queries(nn.Module):
    """A detector of DETR's kind: each place of a grid is a query."""

    def __init__(self, classes: int, end: Any) -> None:
        super().__init__()
        self.b, self.h, self.end = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU()), nn.Conv2d(8, 4 + classes, 1), end

    def forward(self, x: Tensor) -> Any:
        y = self.h(self.b(x)).flatten(2).transpose(1, 2)
        return self.end(20 * y[..., 4:], y[..., :4].sigmoid())


def queries(end: Any = lambda logits, boxes: {"pred_logits": logits, "pred_boxes": boxes}, classes: int = 4) -> Queries:
    torch.manual_seed(3)
    return Queries(classes, end).double().eval()


@pytest.mark.parametrize("label", [None, 1])
@pytest.mark.parametrize(
    ("end", "background"), [("softmax", True), ("sigmoid", False), ("sigmoid", True)]
)  # of a sigmoid's probabilities no last class is "no object"
def test_queries_of_probabilities_are_found_by_their_probabilities(end, background, label):
    change = {"softmax": lambda z: z.softmax(-1), "sigmoid": lambda z: z.sigmoid()}[end]
    net = queries(lambda logits, boxes: {"pred_logits": change(logits), "pred_boxes": boxes})
    x = images()
    with torch.no_grad():
        p = net(x)["pred_logits"][..., : -1 if end == "softmax" else None]
    maps = lucidcam.attribute(net, x, "hirescam", target=lucidcam.targets.Detection(label=label, size=(SIDE, SIDE), background=background))
    for row in range(3):
        query, class_id = divmod(int(p[row].argmax()), p.shape[2]) if label is None else (int(p[row, :, label].argmax()), label)
        expected = lucidcam.attribute(
            net, x[row : row + 1], "hirescam", target=lambda o, at=(query, class_id): o["pred_logits"][:, at[0], at[1]]
        )
        torch.testing.assert_close(maps[row : row + 1], expected)


@pytest.mark.parametrize("classes", [1, 4])
def test_queries_of_one_image_may_be_squeezed(classes):
    x = images(1)
    target = lucidcam.targets.Detection(size=(SIDE, SIDE))
    expected = lucidcam.attribute(queries(classes=classes), x, "scorecam", target=target, batch_size=1)
    net = queries(lambda logits, boxes: {"pred_logits": logits.squeeze(0), "pred_boxes": boxes.squeeze(0)}, classes)
    torch.testing.assert_close(lucidcam.attribute(net, x, "scorecam", target=target, batch_size=1), expected)


# ------------------------------------------------------------------------------------------------------------------------ one place


def test_class_scores_against_their_definitions():
    z = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    softmax, sigmoid = ClassScores("softmax"), ClassScores("sigmoid", is_exclusive=False)
    torch.testing.assert_close(softmax.probabilities(z), z.exp() / z.exp().sum(1, keepdim=True))
    torch.testing.assert_close(sigmoid.probabilities(z), 1 / (1 + (-z).exp()))
    for scores, columns in ((softmax, z), (sigmoid, z), (ClassScores("probabilities"), z.softmax(1)), (ClassScores("sigmoid"), z[:, :1])):
        p = scores.probabilities(columns)
        torch.testing.assert_close(scores.log_probabilities(columns), p.log())
        ids = torch.arange(6) % p.shape[1]
        own = p.gather(1, ids[:, None])[:, 0]
        torch.testing.assert_close(scores.log_odds(columns, ids), (own / (1 - own)).log())
        assert torch.equal(scores.predicted(columns), p.argmax(1))
        assert torch.equal(scores.order(columns)[:, 0], p.argmax(1))
    positive = ClassScores("sigmoid", positive=1)
    torch.testing.assert_close(positive.of(z[:, :1]), torch.cat([-z[:, :1], z[:, :1]], 1))


def test_probabilities_are_made_in_one_place():
    """Attention, the weights of Score-CAM over channels, the memory's addresses and losses apart."""
    allowed = {"class_scores.py", "_channels.py", "memory.py", "attention_hooks.py", "rule_autograd.py", "output_activation.py", "gap.py"}
    root = Path(lucidcam.__file__).parent
    calls = ("softmax(", ".sigmoid(", "log_softmax(", "logsigmoid(", "special.expit(")
    wrong = [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in sorted(root.rglob("*.py"))
        if path.name not in allowed
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(call in line for call in calls) and ">>>" not in line
    ]
    assert wrong == []
