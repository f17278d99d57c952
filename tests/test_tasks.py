"""Models that do more than tell classes, from a photo or the command line to explanations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import lucidcam
from commands import run
from lucidcam import Caption, Contrast, Detection, Prompt, Question, Segmentation, Several, Tokens, registry, tasks
from lucidcam.errors import ModelError, OptionError, TargetError
from talkers import COLOURS, KINDS, PREPROCESS, SIDE, TASKS, WORDS, Lister, encode, ids_of, talker

ASKED: dict[str, Any] = {
    "captioning": Caption("a red circle left of a blue square", "circle"),
    "question answering": Question("what colour is the circle?", "blue"),
    "image-text similarity": "a red circle",
    "lists": Detection((10, 40, 30, 60)),
    "queries": Detection((10, 40, 30, 60), "square"),
    "semantic segmentation": "circle",
}


def photo(seed: int = 0, size: tuple[int, int] = (80, 60)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 4, size[0] // 4, 3)).astype(np.uint8)
    return Image.fromarray(pixels).resize(size)


@pytest.mark.parametrize("kind", TASKS)
def test_a_photo_is_explained(kind: str) -> None:
    model = talker(kind)
    [found] = lucidcam.explain(model, photo(), target=ASKED[kind])
    assert found.map.shape == (60, 80)
    assert found.layer == ("see.3" if kind == "captioning" else "see")
    assert found.raw.shape == (SIDE // 2, SIDE // 2)
    assert np.isfinite(found.map).all()


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("method", ["scorecam", "rise", "gradient", "ablationcam", "layercam"])
def test_every_kind_of_method(kind: str, method: str) -> None:
    options = {"masks": 8} if method == "rise" else {}
    model = talker(kind)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    [found] = lucidcam.explain(model, photo(), method, ASKED[kind], **options)
    assert found.map.shape == (60, 80)
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
    assert all(parameter.grad is None for parameter in model.module.parameters())


@pytest.mark.parametrize("kind", TASKS)
def test_a_batch_gives_what_single_photos_do(kind: str) -> None:
    model = talker(kind)
    photos = [photo(0), photo(1), photo(2, (60, 80)), photo(3)]
    together = lucidcam.explain(model, photos, target=ASKED[kind])
    assert [each.name for each in together] == ["image"] * 4
    for image, found in zip(photos, together, strict=True):
        [alone] = lucidcam.explain(model, image, target=ASKED[kind])
        assert torch.allclose(found.raw, alone.raw, atol=1e-6)
        assert found.label == alone.label
        assert found.score == pytest.approx(alone.score, abs=1e-5)


def test_each_word_of_a_caption() -> None:
    model = talker("captioning")
    text = "A red circle, left of a blue square."
    found = lucidcam.explain(model, photo(), target=Caption(text, "all"))
    assert [each.label for each in found] == tasks.split(text)
    [first] = lucidcam.explain(model, photo(), target=Caption(text, "a"))
    [by_place] = lucidcam.explain(model, photo(), target=Caption(text, 5))
    assert torch.allclose(found[0].raw, first.raw, atol=1e-7)
    assert torch.allclose(found[5].raw, by_place.raw, atol=1e-7)
    assert float(found[5].raw.std()) > 0
    assert sum(each.score for each in found) == pytest.approx(lucidcam.explain(model, photo(), target=text)[0].score, abs=1e-4)


def test_the_models_own_caption_of_each_photo() -> None:
    model = talker("captioning")
    found = lucidcam.explain(model, [photo(0), photo(5)])
    for seed, each in zip((0, 5), found, strict=True):
        own = model.task.write(PREPROCESS(photo(seed))[None])  # type: ignore[union-attr]
        assert each.label == own
        [given] = lucidcam.explain(model, photo(seed), target=own)
        assert torch.allclose(each.raw, given.raw, atol=1e-6)


def test_words_against_each_other() -> None:
    model = talker("captioning")
    text = "a red circle left of a blue square"
    [found] = lucidcam.explain(model, photo(), target=Contrast(Caption(text, "circle"), Caption(text, "square")))
    assert found.label == "circle rather than square"
    parts = [lucidcam.explain(model, photo(), target=Caption(text, word))[0].score for word in ("circle", "square")]
    assert found.score == pytest.approx(parts[0] - parts[1], abs=1e-5)


def test_a_question_with_and_without_its_answer() -> None:
    model = talker("question answering")
    question = "what colour is the circle?"
    [own] = lucidcam.explain(model, photo(), target=question)
    best = own.label.rpartition(" ")[2]
    assert best in COLOURS
    assert own.label == f"{question} {best}"
    assert own.probability is not None
    [same] = lucidcam.explain(model, photo(), target=Question(question, best))
    assert torch.equal(own.raw, same.raw)
    [other] = lucidcam.explain(model, photo(), target=Question("what is left of the square", best))
    assert not torch.allclose(own.raw, other.raw)
    [rather] = lucidcam.explain(model, photo(), target=Contrast(Question(question, "red"), Question(question, "blue")))
    assert rather.label == f"{question} red rather than {question} blue"


def test_prompts_and_their_difference() -> None:
    model = talker("image-text similarity")
    texts = ["a red circle", "a blue square"]
    found = lucidcam.explain(model, photo(), target=texts)
    assert [each.label for each in found] == texts
    embedding = model.module(PREPROCESS(photo())[None])
    cosine = torch.nn.functional.cosine_similarity(embedding, model.task.encode(texts))  # type: ignore[union-attr]
    assert [each.score for each in found] == pytest.approx((10 * cosine).tolist(), abs=1e-4)
    [rather] = lucidcam.explain(model, photo(), target=Contrast(*texts))
    assert rather.score == pytest.approx(found[0].score - found[1].score, abs=1e-4)
    assert rather.label == "a red circle rather than a blue square"


@pytest.mark.parametrize("kind", ["lists", "queries"])
def test_the_box_is_where_it_is_in_the_photo(kind: str) -> None:
    """Each of these detectors sees one quarter of the photo for each of its boxes: so must the map."""
    model = talker(kind)
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        box = (40 * x + 2, 30 * y + 2, 40 * x + 36, 30 * y + 28)
        [found] = lucidcam.explain(model, photo(), "hirescam", Detection(box))
        inside = np.abs(found.raw.numpy()).reshape(2, 6, 2, 6).sum((1, 3))
        assert inside[y, x] == pytest.approx(inside.sum())
        assert found.label.endswith(f" at {40 * x},{30 * y},{40 * x + 40},{30 * y + 30}")


def test_several_boxes_at_once() -> None:
    model = talker("queries")
    boxes = [Detection((2, 2, 36, 28), "circle"), Detection((42, 32, 78, 58), "square")]
    found = lucidcam.explain(model, photo(), target=boxes)
    assert [each.label.partition(" ")[0] for each in found] == ["circle", "square"]
    for each, box in zip(found, boxes, strict=True):
        [alone] = lucidcam.explain(model, photo(), target=box)
        assert torch.allclose(each.raw, alone.raw, atol=1e-7)


def test_a_label_is_the_best_detection_of_it() -> None:
    model = talker("queries")
    [by_name], [by_id] = (lucidcam.explain(model, photo(), target=each) for each in ("square", 1))
    assert by_name.label.startswith("square at ")
    assert torch.equal(by_name.raw, by_id.raw)
    logits = model.module(PREPROCESS(photo())[None])["logits"][0].detach()
    assert by_name.score == pytest.approx(float(logits[logits.softmax(1)[:, 1].argmax(), 1]), abs=1e-5)


def test_a_region_of_the_photo() -> None:
    model = talker("semantic segmentation")
    mask = np.zeros((60, 80), bool)
    mask[30:, :40] = True  # the lower left quarter
    [found] = lucidcam.explain(model, photo(), "hirescam", Segmentation("square", mask))
    inside = np.abs(found.raw.numpy()).reshape(2, 6, 2, 6).sum((1, 3))
    assert inside[1, 0] == pytest.approx(inside.sum())
    assert found.label == "square in the region"
    scores = model.module(PREPROCESS(photo())[None])["out"][0, 2, 6:, :6].detach()
    assert found.score == pytest.approx(float(scores.sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "target", "told"),
    [
        ("captioning", 3, "captioning does captioning: give Caption"),
        ("captioning", Caption("a red dog", "dog"), "dog"),
        ("captioning", Caption("a red circle", "square"), "no word 'square'; its words are: a, red, circle"),
        ("captioning", Caption("a red circle", 7), "3 words"),
        ("captioning", Caption("?"), "no words"),
        ("captioning", Several([Caption("a red circle"), Caption("a blue square")]), "one caption at a time"),
        ("question answering", None, "give Question"),
        ("question answering", 2, "give Question"),
        ("question answering", Caption("a red circle"), "give Question"),
        ("question answering", Question("what is red?", "purple"), "no class is called 'purple'"),
        ("image-text similarity", None, "give a text or Prompt"),
        ("image-text similarity", "", "give a text or Prompt"),
        ("lists", Caption("a"), "give a label, or Detection"),
        ("lists", "dog", "no class is called 'dog'"),
        ("semantic segmentation", Detection((1, 1, 2, 2)), "give a label, or Segmentation"),
        ("semantic segmentation", Segmentation(1, np.ones((60, 80, 3))), r"mask \[H, W\]"),
        ("semantic segmentation", Segmentation(1, np.ones((80, 60))), "of the photo's size .60, 80.; got .80, 60."),
        ("semantic segmentation", Segmentation(1, "nowhere.png"), "cannot be read as a picture"),
        ("lists", "all", "about the classes of an image"),
    ],
)
def test_what_a_model_cannot_be_asked(kind: str, target: Any, told: str) -> None:
    model = talker(kind)
    with pytest.raises((TargetError, ValueError), match=told):
        lucidcam.explain(model, photo(), target=target)


@pytest.mark.parametrize("target", [Caption("a cat"), Question("why?"), Contrast(Prompt("a cat"), 0)])
def test_a_classifier_is_not_spoken_to(target: Any) -> None:
    model = replace(talker("semantic segmentation"), task=None, name="plain")
    with pytest.raises(TargetError, match="plain tells classes: give a label"):
        lucidcam.explain(model, photo(), target=target)


def test_a_model_that_cannot_write() -> None:
    model = talker("captioning")
    mute = replace(model, task=replace(model.task, write=None))  # type: ignore[type-var]
    with pytest.raises(TargetError, match="does not write captions by itself"):
        lucidcam.explain(mute, photo())


def open_talker() -> lucidcam.Model:
    """The captioner once more, whose text is a question and then the answer."""
    model = talker("captioning")

    def encode(answer: str) -> tasks.Written:
        return tasks.Written(ids_of(answer), [(word, [i]) for i, word in enumerate(tasks.split(answer))])

    def inputs(images: torch.Tensor, question: str, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text = torch.cat([torch.tensor([0, *ids_of(question)]), ids])
        return images, text.expand(len(images), -1)

    def logits_of_answer(net: torch.nn.Module) -> torch.nn.Module:
        class Ahead(torch.nn.Module):
            """Logits of each token at its own place."""

            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = self.net(image, text)
                return logits[:, :-1]

        return Ahead()

    def write(image: torch.Tensor, question: str) -> str:
        return "blue" if float(image.mean()) > 0 else "red"

    task = tasks.OpenQuestions(encode, inputs, write, shift=0)
    return replace(model, module=logits_of_answer(model.module).eval(), task=task, layer="net.see.*")


def test_answers_in_words() -> None:
    model = open_talker()
    question = "what colour is the square"
    [given] = lucidcam.explain(model, photo(), target=Question(question, "red"))
    text = torch.tensor([[0, *ids_of(question), ids_of("red")[0]]])
    logits = model.module(PREPROCESS(photo())[None], text).detach()
    assert given.score == pytest.approx(float(logits[0, -1].log_softmax(0)[WORDS.index("red")]), abs=1e-5)
    assert given.label == f"{question} red"
    assert given.layer == "net.see"
    own = lucidcam.explain(model, [photo(0), photo(1)], target=question)
    assert {each.label.rpartition(" ")[2] for each in own} <= {"red", "blue"}
    with pytest.raises(TargetError, match="one at a time"):
        lucidcam.explain(model, photo(), target=[Question(question, "red"), Question(question, "blue")])
    with pytest.raises(TargetError, match="one question at a time"):
        lucidcam.explain(model, photo(), target=[Question(question, "red"), Question("what is red", "red")])


def test_a_branch_is_looked_at() -> None:
    model = talker("captioning")
    given = (PREPROCESS(photo())[None], torch.tensor([[0, 2, 3]]))
    target = Tokens([0, 2, 3])
    inside = lucidcam.attribute(model.module, given, target=target, layer="see.*")
    assert torch.equal(inside, lucidcam.attribute(model.module, given, target=target, layer="see.3"))
    with pytest.raises(lucidcam.LucidcamError, match="no layer of the branch 'word' holds a spatial map"):
        lucidcam.attribute(model.module, given, target=target, layer="word.*")
    with pytest.raises(lucidcam.LucidcamError, match="no layer is called 'sea'"):
        lucidcam.attribute(model.module, given, target=target, layer="sea.*")
    with pytest.raises(lucidcam.LucidcamError, match="no layer is called 'sea"):
        lucidcam.wrap(model.module, layer="sea.*")


# ------------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def place(tmp_path: Path) -> Any:
    """A photo, and `talker:KIND` as a model that the command line can load."""

    def load(name: str, *, pretrained: bool = True) -> lucidcam.Model:
        if name not in TASKS:
            raise OptionError("no such talker")
        return talker(name)

    registry.sources.register("talker")(load)
    photo().save(tmp_path / "photo.png")
    mask = Image.new("L", (80, 60))
    mask.paste(255, (0, 30, 40, 60))
    mask.save(tmp_path / "mask.png")
    yield tmp_path
    del registry.sources._things["talker"]


@pytest.mark.parametrize(
    ("kind", "flags", "labels"),
    [
        ("captioning", ["--caption", "a red circle"], ["a red circle"]),
        ("captioning", ["--caption", "a red circle", "--word", "circle", "--word", "1"], ["circle", "red"]),
        ("captioning", ["--caption", "a red circle", "--word", "all"], ["a", "red", "circle"]),
        ("captioning", ["--caption", "a red circle", "--word", "circle", "--against", "red"], ["circle rather than red"]),
        ("question answering", ["--question", "what is red?", "--answer", "blue"], ["what is red? blue"]),
        ("image-text similarity", ["--prompt", "a red circle", "--prompt", "a square"], ["a red circle", "a square"]),
        ("image-text similarity", ["--prompt", "a circle", "--against", "a square"], ["a circle rather than a square"]),
        ("lists", ["--box", "2,32,36,58"], None),
        ("queries", ["--box", "2,32,36,58", "--class", "square"], ["square at 0,30,40,60"]),
        ("queries", ["--target", "circle"], None),
        ("semantic segmentation", ["--region", "mask.png", "--class", "circle"], ["circle in the region"]),
        ("semantic segmentation", [], None),
    ],
)
def test_from_the_command_line(place: Path, kind: str, flags: list[str], labels: list[str] | None) -> None:
    flags = [str(place / flag) if flag.endswith(".png") else flag for flag in flags]
    out = place / "out"
    run("explain", str(place / "photo.png"), "--model", f"talker:{kind}", *flags, "--out", str(out))
    entries = json.loads((out / "explanations.json").read_text())
    assert labels is None or [each["label"] for each in entries] == labels
    assert entries
    assert all(Path(file).exists() for each in entries for file in each["files"])
    assert len({file for each in entries for file in each["files"]}) == len(entries)


@pytest.mark.parametrize(
    ("kind", "flags", "told"),
    [
        ("captioning", ["--question", "what?"], "--question is for question answering; captioning does captioning and takes a caption"),
        ("lists", ["--caption", "a"], "takes a box, a class of boxes, or both (--box)"),
        ("captioning", ["--word", "red"], "--word goes with --caption"),
        ("question answering", ["--answer", "red"], "--answer goes with --question"),
        ("captioning", ["--caption", "a", "--prompt", "b"], "one of these at a time: --caption, --prompt"),
        ("captioning", ["--caption", "a", "--target", "b"], "--target goes with --box and --region"),
        ("lists", ["--box", "1,2,3"], "--box expects left,top,right,bottom"),
        ("lists", ["--box", "9,9,3,3"], "--box expects left,top,right,bottom"),
        ("semantic segmentation", ["--region", "nothing.png"], "cannot be read as a picture"),
        ("captioning", ["--probability", "--caption", "a"], "--probability is for classification"),
        ("captioning", ["--caption", "a red circle", "--word", "crcle"], "the sentence has no word 'crcle'"),
        ("question answering", ["--question", "what is red?", "--answer", "gren"], "did you mean 2 (green)"),
        ("question answering", [], "question answering does question answering: give --question"),
    ],
)
def test_flags_that_do_not_fit(place: Path, kind: str, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("explain", place / "photo.png", "--model", f"talker:{kind}", *flags, "--out", place / "out", code=2)
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", TASKS)
def test_the_layers_of_a_model_that_takes_more_than_an_image(place: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("layers", "--model", f"talker:{kind}")
    shown = capsys.readouterr().out
    assert ("see.3 ← default" if kind == "captioning" else "see ← default") in shown


def test_one_photo_without_the_class_does_not_end_a_run(tmp_path: Path) -> None:
    """Of a data set, the images in which a detector finds no such thing are told; the others are explained."""
    model = talker("lists")
    net: Any = model.module
    with torch.no_grad():  # a bias with which every other photo has a circle somewhere
        logits = [net.classify(F.adaptive_avg_pool2d(net.see(PREPROCESS(photo(seed))[None]), 2)[0].flatten(1).T) for seed in range(12)]
        net.classify.bias[0] -= torch.stack([(each[:, 0] - each[:, 1]).max() for each in logits]).median() + 1e-6
    has = [seed for seed in range(12) if 1 in net(PREPROCESS(photo(seed))[None])[0]["labels"].tolist()]
    assert 3 < len(has) < 9
    for seed in range(12):
        photo(seed).save(tmp_path / f"{seed}.png")
    results = lucidcam.run(model, tmp_path, tmp_path / "out", target="circle")
    assert sorted(Path(row["image"]).stem for row in results.rows()) == sorted(str(seed) for seed in has)


def test_one_photo_without_the_region_does_not_end_a_run(tmp_path: Path) -> None:
    model = talker("semantic segmentation")
    net: Any = model.module
    with torch.no_grad():  # a bias with which every other photo has a square somewhere
        most = torch.stack([(each[2] - each[:2].amax(0)).max() for each in (net(PREPROCESS(photo(s))[None])["out"][0] for s in range(8))])
        net.classify.bias[2] -= most.median() + 1e-6
    has = [seed for seed in range(8) if bool((net(PREPROCESS(photo(seed))[None])["out"].argmax(1) == 2).any())]
    assert 1 < len(has) < 7
    for seed in range(8):
        photo(seed).save(tmp_path / f"{seed}.png")
    results = lucidcam.run(model, tmp_path, tmp_path / "out", target="square")
    assert sorted(Path(row["image"]).stem for row in results.rows()) == sorted(str(seed) for seed in has)


def test_a_run_with_several_prompts(tmp_path: Path) -> None:
    for seed in range(3):
        photo(seed).save(tmp_path / f"{seed}.png")
    results = lucidcam.run(talker("image-text similarity"), tmp_path, tmp_path / "out", target=["a red circle", "a blue square"])
    assert sorted(row["label"] for row in results.rows()) == ["a blue square"] * 3 + ["a red circle"] * 3


@pytest.mark.parametrize("kind", ["lists", "queries", "semantic segmentation"])
def test_flipped_copies_have_the_place_elsewhere(kind: str) -> None:
    with pytest.raises(OptionError, match="names a place in the image"):
        lucidcam.explain(talker(kind), photo(), target=ASKED[kind], augment="hflip")
    lucidcam.explain(talker(kind), photo(), target=ASKED[kind], augment="gain")


def test_a_callable_may_always_be_asked() -> None:
    model = talker("semantic segmentation")
    [found] = lucidcam.explain(model, photo(), target=lambda outputs: outputs["out"][:, 1].mean((1, 2)))
    assert found.score == pytest.approx(float(model.module(PREPROCESS(photo())[None])["out"][0, 1].detach().mean()), abs=1e-5)
    [by_number] = lucidcam.explain(model, photo(), target=np.int64(1))
    assert by_number.label == "circle"


def test_a_model_in_training_writes_as_it_does_in_evaluation() -> None:
    model = talker("captioning")
    model.module.train()
    modes = []
    noting = replace(model, task=replace(model.task, write=lambda image: modes.append(model.module.training) or "a red circle"))  # type: ignore
    lucidcam.explain(noting, photo())
    assert modes == [False]
    assert model.module.training


def test_inputs_without_a_row_per_image_are_refused() -> None:
    """Four words and four photos: a sentence could be taken for one word of each photo."""
    model = talker("captioning")
    careless = replace(model, task=tasks.Captions(encode, lambda images, ids: (images, ids)))
    with pytest.raises(ModelError, match="need one row per image, text too"):
        lucidcam.explain(careless, [photo(seed) for seed in range(4)], target="a red circle")


def test_the_default_layer_lies_before_the_scores_of_each_place() -> None:
    """Otherwise the map would be the answer itself."""
    queries = talker("queries")
    assert lucidcam.explain(replace(queries, layer=None), photo(), target=ASKED["queries"])[0].layer == "see"
    torch.manual_seed(0)
    heads = (
        nn.Sequential(nn.Conv2d(8, 3, 3, padding=1), nn.Upsample(scale_factor=2)),
        nn.ConvTranspose2d(8, 3, 2, stride=2),
    )
    for head in heads:
        net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), head)
        model = lucidcam.wrap(net, PREPROCESS, KINDS, task=tasks.Segments())
        assert lucidcam.explain(model, photo())[0].layer == "1"


def test_an_optimised_copy_of_a_detector_that_finds_nothing() -> None:
    class Shy(Lister):
        def forward(self, image: torch.Tensor) -> list[dict[str, torch.Tensor]]:
            return [{key: value[:0] for key, value in each.items()} for each in super().forward(image)]

    model = replace(talker("lists"), module=Shy().eval())
    assert lucidcam.optimize(model).module is not model.module


def test_metrics_are_for_classifiers(tmp_path: Path) -> None:
    photo().save(tmp_path / "1.png")
    with pytest.raises(ModelError, match="lists does object detection"):
        lucidcam.evaluate(replace(talker("lists"), name="lists"), tmp_path)


def test_a_classifier_is_given_a_caption(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("explain", place / "photo.png", "--caption", "a cat", "--out", place / "out", code=2)
    assert "--caption is for captioning; demo does classification and takes --target" in " ".join(capsys.readouterr().err.split())


def test_bad_models_are_told() -> None:
    with pytest.raises(ModelError):
        lucidcam.wrap("net", task=tasks.Segments())  # type: ignore[arg-type]
    assert KINDS[talker("semantic segmentation").find_label("circle")] == "circle"
