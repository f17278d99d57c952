"""Every kind of target: its score by hand, what it says, what it refuses; and the cut graph's gradients against the whole graph's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lucidcam
from lucidcam import Contrast, Detection, Head, LogProbability, Segmentation, Several, Similarity, Tokens
from lucidcam.errors import TargetError, TargetNotFoundError
from lucidcam.targets import Caption, Prompt, Question, leaves
from lucidcam.types import Frame
from talkers import SIDE, Answerer, Captioner, Lister, Querier, Segmenter, Towers, ids_of

TEXT = [0, *ids_of("a red circle left of a blue square")]
BOX = (1.0, SIDE / 2 + 1, SIDE / 2, SIDE)  # the lower left quarter, number 2


def double(net: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    return type(net)().double().eval()


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def text(words: str | list[int], count: int = 2) -> Tensor:
    return torch.tensor([ids_of(words) if isinstance(words, str) else words] * count)


def region() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4:12, 6:20] = True
    return mask


def sentence(outputs: Tensor) -> Tensor:
    """The log-probability of a sentence, word by word."""
    total = torch.zeros(len(outputs), dtype=outputs.dtype)
    for b in range(len(outputs)):
        for i in range(1, len(TEXT)):
            total[b] = total[b] + torch.log(torch.exp(outputs[b, i - 1, TEXT[i]]) / torch.exp(outputs[b, i - 1]).sum())
    return total


def cosine(outputs: Tensor) -> Tensor:
    reference = torch.arange(1.0, 6.0, dtype=outputs.dtype)
    return 7 * (outputs @ reference) / (outputs.square().sum(1).sqrt() * reference.square().sum().sqrt())


def painted(outputs: dict[str, Tensor]) -> Tensor:
    """Sum over the region, which half the cells' pixels cover in full: rows 4 to 12 and columns 6 to 20 are cells 2 to 6 and 3 to 10."""
    return outputs["out"][:, 1, 2:6, 3:10].sum((1, 2))


CASES: dict[str, tuple[nn.Module, Callable[[Tensor], Any], Any, Callable[[Any], Tensor]]] = {
    "caption": (Captioner(), lambda x: (x, text(TEXT)), Tokens(TEXT), sentence),
    "word": (
        Captioner(), lambda x: (x, text(TEXT)), Tokens(TEXT, [3]), lambda out: out[:, 2].softmax(-1)[:, TEXT[3]].log(),
    ),
    "answer": (Answerer(), lambda x: {"text": text("what colour is the circle"), "image": x}, 2, lambda out: out["logits"][:, 2]),
    "answers": (
        Answerer(),
        lambda x: {"text": text("what colour is the circle"), "image": x},
        Contrast(LogProbability(1), LogProbability(0)),
        lambda out: out["logits"][:, 1] - out["logits"][:, 0],
    ),
    "head": (Answerer(), lambda x: {"text": text("the circle"), "image": x}, Head("logits", 1), lambda out: out["logits"][:, 1]),
    "similarity": (Towers(), lambda x: x, Similarity(torch.arange(1.0, 6.0), 7.0), cosine),
    "box of a list": (Lister(), lambda x: x, Detection(BOX), lambda out: torch.stack([each["scores"][2] for each in out])),
    "box of queries": (Querier(), lambda x: x, Detection(BOX, 1, size=(SIDE, SIDE)), lambda out: out["logits"][:, 2, 1]),
    "query": (Querier(), lambda x: x, Detection(label=0, query=3, size=(SIDE, SIDE)), lambda out: out["logits"][:, 3, 0]),
    "region": (Segmenter(), lambda x: x, Segmentation(1, region()), painted),
}  # fmt: skip


def whole_graph(net: nn.Module, inputs: Any, score: Callable[[Any], Tensor]) -> Tensor:
    """`Σ_k g_k A_k` at the trunk's end, from the whole graph of a copy."""
    net = copy.deepcopy(net)
    kept: list[Tensor] = []

    def hook(_: nn.Module, __: Any, out: Tensor) -> None:
        out.retain_grad()
        kept.append(out)

    net.get_submodule("see.3").register_forward_hook(hook)
    outputs = net(**inputs) if isinstance(inputs, dict) else net(*inputs) if isinstance(inputs, tuple) else net(inputs)
    score(outputs).sum().backward()
    assert kept[0].grad is not None
    return (kept[0].grad * kept[0]).sum(1).detach()


@pytest.mark.parametrize("name", CASES)
def test_the_cut_graph_equals_the_whole_one(name: str) -> None:
    net, make, target, score = CASES[name]
    net = double(net)
    inputs = make(images())
    found = lucidcam.attribute(net, inputs, "hirescam", target=target, layer="see.3")
    expected = whole_graph(net, inputs, score)
    assert found.shape == expected.shape
    assert float(expected.abs().max()) > 1e-6
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_masked_images_are_asked_the_same(name: str) -> None:
    """Ablation-CAM and RISE run changed images in batches: scores of one row must not depend on the others."""
    net, make, target, _ = CASES[name]
    net = double(net)
    options = {"masks": 12, "seed": 2}
    both = lucidcam.attribute(net, make(images()), "rise", target=target, batch_size=5, **options)
    single = lucidcam.attribute(net, make(images()), "rise", target=target, batch_size=1, **options)
    assert torch.allclose(both, single, atol=1e-9)
    assert float(both.std()) > 0


def test_several_targets_are_the_single_ones() -> None:
    net = double(Captioner())
    given = (images(), text(TEXT))
    found = lucidcam.attribute(net, given, target=Several([Tokens(TEXT), Tokens(TEXT, [[2], [3, 4]])]), layer="see.3")
    assert found.shape[:2] == (2, 3)
    for t, positions in enumerate((None, [2], [3, 4])):
        alone = lucidcam.attribute(net, given, target=Tokens(TEXT, positions), layer="see.3")
        assert torch.allclose(found[:, t], alone, atol=1e-12)


def test_words_of_a_sentence_add_up_to_it() -> None:
    logits = torch.randn(2, len(TEXT), 20, generator=torch.Generator().manual_seed(0))
    every = Tokens(TEXT, [[i] for i in range(1, len(TEXT))]).bind(logits, 2).scores(logits)
    assert every.shape == (2, len(TEXT) - 1)
    assert torch.allclose(every.sum(1, keepdim=True), Tokens(TEXT).bind(logits, 2).scores(logits), atol=1e-5)


def test_tokens_after_an_image_and_without_a_shift() -> None:
    logits = torch.randn(1, 9, 20, generator=torch.Generator().manual_seed(0))
    last = logits[:, 4:]  # what comes before the sentence is the image's
    assert torch.equal(Tokens(TEXT[:5]).bind(logits, 1).scores(logits), Tokens(TEXT[:5]).bind(last, 1).scores(last))
    now = Tokens(TEXT[:5], [0, 1], shift=0).bind(last, 1).scores(last)
    assert torch.allclose(now[0, 0], sum(last[0, i].log_softmax(0)[TEXT[i]] for i in (0, 1)))


@pytest.mark.parametrize(
    ("target", "outputs", "told"),
    [
        (Tokens([]), torch.zeros(1, 3, 5), "token ids"),
        (Tokens([1, 2, 9]), torch.zeros(1, 3, 5), "vocabulary has 5"),
        (Tokens([1, 2, 3], [0]), torch.zeros(1, 3, 5), "positions from 1 to 2"),
        (Tokens([1, 2, 3]), torch.zeros(1, 5), r"logits \[B, L, V\]"),
        (Tokens([1, 2, 3], names=["a", "b"]), torch.zeros(1, 3, 5), "a name for each"),
        (Similarity(torch.ones(4)), torch.zeros(1, 3), "D = 3"),
        (Similarity(torch.zeros(3)), torch.zeros(1, 3), "similar to nothing"),
        (Similarity(torch.ones(3)), {"scores": torch.zeros(1, 3)}, "a dict with scores"),
        (Head("age"), {"kind": torch.zeros(1, 3)}, "no 'age': it returned a dict with kind"),
        (Head(3), (torch.zeros(1, 3),), "no 3: it returned a tuple of 1"),
        (Detection(), torch.zeros(1, 3), "a detector's output"),
        (Detection(label="dog"), [], "needs a model with labels"),
        (Segmentation("sky"), torch.zeros(1, 3, 4, 4), "needs a model with labels"),
        (Segmentation(5), torch.zeros(1, 3, 4, 4), "has 3 classes"),
        (Segmentation(2), torch.zeros(1, 3, 4, 4), "no pixel of image 0 is of class 2, but of 0"),
        (Segmentation(1, np.zeros((4, 4))), torch.zeros(1, 3, 4, 4), "no pixel"),
        (Segmentation(1), torch.zeros(1, 3), "class scores of each pixel"),
        (Caption("a cat"), torch.zeros(1, 3), "a model that writes captions"),
        (Question("why?"), torch.zeros(1, 3), "a model that answers questions"),
        (Prompt("a cat"), torch.zeros(1, 3), "compares images with texts"),
    ],
)
def test_what_cannot_be_asked_is_told(target: Any, outputs: Any, told: str) -> None:
    with pytest.raises(TargetError, match=told):
        target.bind(outputs, 1)


@pytest.mark.parametrize("bad", [{"box": (1, 2, 3)}, {"box": (5, 5, 1, 9)}, {"box": (0, 0, 1, 1), "query": 2}])
def test_boxes_that_are_none(bad: dict[str, Any]) -> None:
    with pytest.raises(TargetError):
        Detection(**bad)


def found(*rows: tuple[tuple[float, ...], int, float]) -> list[dict[str, Tensor]]:
    """What a detector returns for one image."""
    boxes, labels, scores = zip(*rows) if rows else ((), (), ())
    return [{"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels).long(), "scores": torch.tensor(scores)}]


TWO = found(((0.0, 0.0, 10.0, 10.0), 1, 0.9), ((4.0, 4.0, 14.0, 14.0), 2, 0.6), ((40.0, 40.0, 50.0, 50.0), 2, 0.7))


@pytest.mark.parametrize(
    ("target", "score"),
    [
        (Detection(), 0.9),
        (Detection(label=2), 0.7),
        (Detection((5, 5, 14, 14)), 0.6),
        (Detection((5, 5, 14, 14), 1), 0.9),
        (Detection((39, 39, 60, 60), 2), 0.7),
    ],
)
def test_which_detection_is_meant(target: Detection, score: float) -> None:
    assert float(target.bind(TWO, 1).scores(TWO)) == pytest.approx(score)


def test_a_detection_is_followed_into_other_outputs() -> None:
    bound = Detection(label=2).bind(TWO, 1)  # the one at 40
    assert bound.name(0, 0, lambda id: f"thing {id}") == "thing 2 at 40,40,50,50"
    moved = found(((0.0, 0.0, 10.0, 10.0), 2, 0.99), ((42.0, 42.0, 52.0, 52.0), 2, 0.4), ((40.0, 40.0, 50.0, 50.0), 1, 0.8))
    gone = found(((0.0, 0.0, 10.0, 10.0), 2, 0.99))
    rows = torch.tensor([0, 0, 0])
    scores = bound.scores([*moved, *gone, *found()], rows)
    assert torch.allclose(scores[:, 0], torch.tensor([0.4, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("target", "told"), [(Detection(label=7), "no detection of class 7.*class 1 .0.90."), (Detection((60, 0, 70, 9)), "touches")]
)
def test_detections_that_are_not_there(target: Detection, told: str) -> None:
    with pytest.raises(TargetError, match=told):
        target.bind(TWO, 1)
    with pytest.raises(TargetError, match="no detection at all; the network found nothing"):
        Detection().bind(found(), 1)


def test_queries_of_no_object_are_not_meant() -> None:
    """A query that says "no object" lies nearer to the box than the one that sees the dog."""
    logits = torch.tensor([[[6.0, 0.0, 0.0], [0.0, 0.0, 9.0]]])
    outputs = {"logits": logits, "pred_boxes": torch.tensor([[[0.50, 0.5, 0.4, 0.4], [0.55, 0.5, 0.4, 0.4]]])}
    asked = Detection((36, 30, 76, 70), size=(100, 100))
    bound = asked.bind(outputs, 1)
    assert float(bound.scores(outputs)) == 6.0
    assert bound.name(0, 0, str).startswith("0 at")
    with pytest.raises(TargetNotFoundError, match="no query's box touches the box 90,90,99,99; the surest is class 0"):
        Detection((90, 90, 99, 99), size=(100, 100)).bind(outputs, 1)


def test_sums_over_pixels_stay_in_range_in_half_precision() -> None:
    outputs = torch.full((1, 2, 256, 256), 5.0).half()
    found = Segmentation(1, np.ones((256, 256))).bind(outputs, 1).scores(outputs)
    assert float(found) == 5.0 * 256 * 256


def test_queries_with_and_without_no_object() -> None:
    logits = torch.tensor([[[2.0, 0.0, 9.0], [1.0, 3.0, 0.0]]])
    outputs = {"logits": logits, "pred_boxes": torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]]])}
    best = Detection(size=(10, 20)).bind(outputs, 1)  # the first query is sure to see no object
    assert float(best.scores(outputs)) == 3.0
    assert best.name(0, 0, str) == "1 at 10,0,20,10"
    assert float(Detection(size=(10, 20), background=False).bind(outputs, 1).scores(outputs)) == 9.0
    with pytest.raises(TargetError, match="give size"):
        Detection().bind(outputs, 1)
    with pytest.raises(TargetError, match="has 2, 0 to 1"):
        Detection(query=2, size=(10, 20)).bind(outputs, 1)
    with pytest.raises(TargetError, match="DETR's kind"):
        Detection(query=0).bind(TWO, 1)


def test_a_box_and_a_region_find_their_place_in_the_input() -> None:
    frame = Frame(200, 100, (50.0, 0.0, 150.0, 100.0))  # the middle square of a wide photo
    box = Detection((60, 20, 100, 40)).placed(frame, (50, 50))
    assert isinstance(box, Detection)
    assert box.box == (5.0, 10.0, 25.0, 20.0)
    assert frame.outside(box.box, (50, 50)) == (60.0, 20.0, 100.0, 40.0)
    mask = np.zeros((100, 200), bool)
    mask[20:40, 60:100] = True
    placed = Segmentation(1, mask).placed(frame, (50, 50))
    assert isinstance(placed, Segmentation)
    rows, columns = np.nonzero(np.asarray(placed.region))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (10, 20, 5, 25)
    outside = np.zeros((100, 200), bool)
    outside[:, :30] = True
    with pytest.raises(TargetError, match="outside what the network sees"):
        Segmentation(1, outside).placed(frame, (50, 50))


def test_a_padded_photo_has_no_region_in_its_margin() -> None:
    frame = Frame(100, 50, (0.0, -25.0, 100.0, 75.0))
    placed = Segmentation(1, np.ones((50, 100), bool)).placed(frame, (20, 20))
    assert isinstance(placed, Segmentation)
    assert np.asarray(placed.region).sum(1).tolist() == [0] * 5 + [20] * 10 + [0] * 5


def test_the_largest_class_but_the_background() -> None:
    outputs = torch.zeros(1, 3, 4, 4)
    outputs[0, 0] = 1.0
    outputs[0, 2, 0, :3] = 5.0
    assert float(Segmentation().bind(outputs, 1).scores(outputs)) == 13.0
    assert float(Segmentation(ignored=(0,)).bind(outputs, 1).scores(outputs)) == 15.0


def test_a_masks_queries_make_each_pixels_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "class_queries_logits": torch.randn(1, 5, 4, generator=generator),
        "masks_queries_logits": torch.randn(1, 5, 6, 7, generator=generator),
    }
    by_hand = torch.zeros(6, 7)
    for q in range(5):
        by_hand += outputs["class_queries_logits"][0, q].softmax(0)[1] * outputs["masks_queries_logits"][0, q].sigmoid()
    found = Segmentation(1, np.ones((6, 7))).bind(outputs, 1).scores(outputs)
    assert torch.allclose(found[0, 0], by_hand.sum())


def test_what_targets_say() -> None:
    outputs = {"a": torch.tensor([[1.0, 2.0]]), "logits": torch.tensor([[1.0, 2.0]])}
    words = {0: "cat, tom", 1: "dog"}.__getitem__
    assert Head("a").bind(outputs, 1).name(0, 0, words) == "a: 1"
    assert Head("age").bind({"age": torch.ones(1, 1)}, 1).name(0, 0, words) == "age"
    assert Contrast(1, lambda out: out["a"][:, 0]).bind(outputs, 1).name(0, 0, words) == "dog rather than score"
    assert Contrast(0, 1).bind(outputs, 1).name(0, 0, words) == "cat rather than dog"
    several = Several([1, Contrast(1, 0), Head("a", 0)]).bind(outputs, 1)
    assert [several.name(0, t, words) for t in range(3)] == ["dog", "dog rather than cat", "a: 0"]
    assert LogProbability(1).bind(outputs, 1).name(0, 0, words) == "dog"


def test_leaves() -> None:
    box = Detection((0, 0, 1, 1))
    assert leaves(Several([Contrast(1, box), Head(0, 4)])) == [1, box, 4]
    assert leaves(3) == [3]
    assert leaves(box) == [box]
