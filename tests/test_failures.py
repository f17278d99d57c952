"""Images that fail are named, and the others go on; faults of the model, method or question are told once, with exit code 2."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lucidcam
from commands import run
from lucidcam.errors import LayerError, ModelError, TargetError, TargetNotFoundError
from lucidcam.stream.problems import isolate_failures
from lucidcam.targets import Classes, Probability, Several

Contrast = lucidcam.Contrast


def convolutional(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)).eval()


class Broken(nn.Module):
    """Runs on nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("kaput")


class Picky(nn.Module):
    """Runs on all images but those that are grey all over."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = convolutional()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        least, most = x.flatten(1).aminmax(dim=1)
        if bool(((least == most) & (most > 0)).any()):
            raise ValueError("it is grey")
        return self.inner(x)


def not_a_number() -> nn.Module:
    module = convolutional()
    module[0].weight.data.fill_(torch.nan)
    return module


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.resize((32, 32)))).permute(2, 0, 1).float() / 255


def fails(image: Image.Image) -> torch.Tensor:
    raise KeyError("no such lens")


def flat(image: Image.Image) -> torch.Tensor:
    return torch.zeros(3)


LABELS = ["red", "green", "blue"]
GENERAL = {
    "labels": lambda: lucidcam.wrap(convolutional(), to_tensor, LABELS[:2]),
    "module": lambda: lucidcam.wrap(nn.Sequential(convolutional(), Broken()), to_tensor, LABELS, layer="0.1"),
    "numbers": lambda: lucidcam.wrap(not_a_number(), to_tensor, LABELS),
    "no layer": lambda: lucidcam.wrap(nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), to_tensor, LABELS),
}
COMMANDS = {
    "explain": ["explain", "photos", "--out", "out"],
    "explain, words": ["explain", "photos", "--out", "out", "--words"],
    "audit": ["audit", "photos", "--out", "out"],
    "localize": ["localize", "photos", "--out", "coco:out"],
    "run": ["run", "photos", "--out", "out", "--exact", "--workers", "1"],
    "evaluate": ["evaluate", "photos", "--out", "out", "--exact", "--metric", "average_drop", "--resamples", "0"],
    "discover": ["discover", "photos", "--out", "out", "--method", "gradcam"],
}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of four photos, of which one is damaged, and one is grey all over."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8) if i else np.full((40, 40, 3), 7, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"photo-{i}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    return tmp_path


def with_model(monkeypatch: pytest.MonkeyPatch, model: lucidcam.Model) -> None:
    import lucidcam.cli.program  # noqa: F401  all commands are there now

    for name in ("explain", "audit", "localize", "run", "discover", "_common"):
        monkeypatch.setattr(sys.modules[f"lucidcam.cli.{name}"], "load_model", lambda *_, **__: model)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", GENERAL)
def test_what_concerns_the_model_is_told_once(command, fault, photos, monkeypatch, capsys):
    if (command, fault) == ("evaluate", "labels"):
        pytest.skip("an evaluation needs no labels of the model")
    with_model(monkeypatch, GENERAL[fault]())
    run(*COMMANDS[command], code=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "photo-" not in lines[0]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("preprocess", [fails, flat])
def test_a_preprocessing_that_fails_on_every_image_is_told_once(command, preprocess, photos, monkeypatch, capsys):
    with_model(monkeypatch, lucidcam.wrap(convolutional(), preprocess, LABELS))
    run(*COMMANDS[command], code=2)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert ("no such lens" if preprocess is fails else "[C, h, w]") in line
    assert "photo-" not in line


def light(image: Image.Image) -> torch.Tensor:
    """A preprocessing of a user's own that refuses such photos."""
    if (np.array(image) == 7).all():
        raise ValueError("it is grey")
    return to_tensor(image)


MODELS = {
    "module": lambda: lucidcam.wrap(Picky(), to_tensor, LABELS, layer="inner.1"),
    "preprocessing": lambda: lucidcam.wrap(convolutional(), light, LABELS),
}


@pytest.mark.parametrize("fault", MODELS)
@pytest.mark.parametrize("command", [each for each in COMMANDS if each != "explain, words"])
def test_an_image_that_fails_is_named_and_the_others_go_on(command, fault, photos, monkeypatch, capsys):
    with_model(monkeypatch, MODELS[fault]())
    run(*COMMANDS[command], code=0 if command == "audit" else 1)
    told = capsys.readouterr().err
    [grey] = [line for line in told.splitlines() if "it is grey" in line]
    assert "photo-0.png" in grey
    [damaged] = [line for line in told.splitlines() if "is not an image" in line]
    assert "broken.png" in damaged
    assert "photo-1.png" not in told
    assert "photo-2.png" not in told


@pytest.mark.parametrize("words", [["--method", "rollout"], ["--method", "gradcam", "--method", "rollout"], ["--layer", "4"]])
def test_a_method_or_layer_that_cannot_work_is_told_once(words, photos, monkeypatch, capsys):
    with_model(monkeypatch, lucidcam.wrap(convolutional(), to_tensor, LABELS))
    run("explain", "photos", "--out", "out", *words, code=2)
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert line.startswith("error: ")


def test_an_image_that_is_too_small_for_the_layer_is_named(photos, monkeypatch, capsys):
    """The layer is right, and holds no map of this image alone."""

    def whole(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 7, stride=7), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(photos / "photos" / "photo-9.png")
    with_model(monkeypatch, lucidcam.wrap(net, whole, LABELS))
    run("explain", "photos", "--out", "out", code=1)
    told = capsys.readouterr().err
    assert told.count("photo-9.png") == 1
    assert "photo-1.png" not in told


def test_working_together_raises_what_any_item_would_end_with():
    def work(items):
        if 3 in items:
            raise ModelError("three")
        return [2 * item for item in items]

    def check(item, error):
        if general:
            raise error

    lost: list[int] = []
    general = False
    assert isolate_failures([1, 3, 2], work, lambda item, _: lost.append(item), check) == [2, 4]
    assert lost == [3]
    general = True
    with pytest.raises(ModelError, match="three"):
        isolate_failures([1, 3, 2], work, lambda item, _: lost.append(item), check)


# ------------------------------------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize(
    "make",
    [
        lambda: Contrast(1, 1),
        lambda: Contrast(None, None),
        lambda: Contrast([0, 1, 2], [0, 1, 2]),
        lambda: Contrast(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])),
        lambda: Contrast(Classes(1), 1),
        lambda: Contrast(Probability(1), Probability(1)),
        lambda: Contrast("cat", "cat"),
        lambda: Several([0, Contrast(2, 2)]),
        lambda: Contrast(Contrast(0, 1), Contrast(0, 1)),
    ],
)
def test_a_contrast_with_itself_is_refused(make):
    with pytest.raises(TargetError, match="with itself is 0 everywhere"):
        make()


def test_a_contrast_of_the_predicted_class_with_itself_is_refused_by_value():
    net, x = convolutional(), torch.rand(3, 3, 16, 16)
    predicted = net(x).argmax(1).tolist()
    for target, image in (
        (Contrast(None, predicted[1]), 0 if predicted[0] == predicted[1] else 1),
        (Contrast([0, 1, 2], torch.tensor([2, 1, 0])), 1),
        (Contrast("top2", int(net(x[:1]).argmax())), 0),
        (Contrast("all", 1), 0),
        (Contrast(Probability(None), Probability(predicted[0])), 0),
    ):
        with pytest.raises(TargetNotFoundError, match="the one that it is set against") as caught:
            lucidcam.attribute(net, x, target=target)
        assert caught.value.image == image
    for target in (Contrast(0, 1), Contrast([0, 1, 2], [1, 2, 0]), Contrast(Contrast(0, 1), Contrast(0, 2)), Contrast(1, Probability(1))):
        assert bool(lucidcam.attribute(net, x, target=target).isfinite().all())


def test_photos_are_named_whose_predicted_class_is_the_one_they_are_set_against(photos, monkeypatch, capsys):
    model = lucidcam.wrap(convolutional(), to_tensor, LABELS)
    [one] = lucidcam.explain(model, photos / "photos" / "photo-1.png")
    with pytest.raises(TargetNotFoundError, match=r"photo-1\.png: the class"):
        lucidcam.explain(model, photos / "photos" / "photo-1.png", target=Contrast(None, one.label))
    with_model(monkeypatch, model)
    run("explain", "photos/photo-1.png", "--target", "red", "--against", "RED", "--out", "out", code=2)
    assert "with itself" in capsys.readouterr().err
    run("explain", "photos/photo-1.png", "--against", one.label, "--out", "out", code=1)
    assert "photo-1.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["channels", "explain"])
def test_labels_that_do_not_fit_the_network_are_refused_by_all_that_name_a_class(name):
    model = lucidcam.wrap(convolutional(), to_tensor, LABELS[:2])
    image = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    with pytest.raises(ModelError, match="2 labels for 3 classes"):
        getattr(lucidcam, name)(model, image)


@pytest.mark.parametrize("name", ["audit", "run", "evaluate", "discover", "localize", "channels", "words", "explain"])
@pytest.mark.parametrize("option", ["layer", "target"])
def test_an_empty_list_is_no_question(name, option, tmp_path):
    model = lucidcam.wrap(convolutional(), to_tensor, LABELS)
    image = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    options: dict[str, object] = {option: []}
    call = getattr(lucidcam, name)
    if name == "run":
        options |= {"out": tmp_path / "out", "optimized": False}
    if name in ("audit", "run", "evaluate", "discover"):
        options["progress"] = False
    with pytest.raises(lucidcam.LucidcamError) as caught:
        list(call(model, image if name in ("channels", "words", "explain") else [image], **options))
    assert "\n" not in str(caught.value)


def test_an_evaluation_by_no_metric_is_refused():
    image = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    for none in ([], ()):
        with pytest.raises(lucidcam.LucidcamError, match="at least one metric"):
            lucidcam.evaluate(lucidcam.wrap(convolutional(), to_tensor, LABELS), [image], metrics=none, progress=False)


def test_tensors_refuse_an_empty_list_of_layers_or_targets():
    net, x = convolutional(), torch.rand(1, 3, 16, 16)
    with pytest.raises(LayerError, match="at least one layer"):
        lucidcam.attribute(net, x, layer=[])
    for none in ([], (), torch.tensor([], dtype=torch.long)):
        with pytest.raises(TargetError, match="at least one class id"):
            lucidcam.attribute(net, x, target=none)
