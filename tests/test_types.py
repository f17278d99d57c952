"""A model prepares images, finds labels and moves to devices, and leaves the module alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lucidcam.errors import InputError, ModelError, OptionError, TargetError
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.types import Frame, Model, with_meaning

LABELS = (
    "tabby, tabby cat",
    "tiger cat",
    "crane",
    "crane",
    "Egyptian cat",
    "catamaran",
    "container ship, containership",
    "wood_rabbit",
    "cup",
    "coffee cup, mug",
)


@pytest.fixture
def model():
    return Model(nn.Conv2d(3, 10, 8), Preprocess(size=(8, 8), resize=8), LABELS, name="toy")


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("tabby", 0),
        ("TABBY  Cat", 0),
        ("tabby, tabby cat", 0),
        ("tiger", 1),
        ("tiger_cat", 1),
        ("egypt", 4),
        ("ship", 6),
        ("wood rabbit", 7),
        ("wood_rabbit", 7),
        ("cup", 8),  # the whole label, though it is also a word of another one
        ("mug", 9),
        ("amar", 5),
        ("3", 3),
        (" 9 ", 9),
    ],
)
def test_find_label(model, text, id):
    assert model.find_label(text) == id


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("cat", ["fits 3 classes", "0 (tabby, tabby cat)", "1 (tiger cat)", "4 (Egyptian cat)"]),
        ("crane", ["fits 2 classes", "2 (crane), 3 (crane)"]),
        ("tabbi", ["did you mean", "0 (tabby, tabby cat)"]),
        ("catamarane", ["did you mean 5 (catamaran)"]),
        ("qqqq", ["the model knows 10"]),
        ("10", ["out of range", "ids 0 to 9"]),
        ("-1", ["out of range"]),
        (" ", ["empty text"]),
    ],
)
def test_find_label_refuses(model, text, parts):
    with pytest.raises(TargetError) as caught:
        model.find_label(text)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_find_label_by_synset():
    model = Model(nn.Identity(), labels=("tabby", "n02123045"), name="toy", synsets=("n02123045", "n02123159"))
    assert (model.find_label("n02123045"), model.find_label("N02123159")) == (0, 1)
    with pytest.raises(TargetError, match=r"no class is the synset 'n00000001'; toy knows 2, for instance n02123045"):
        model.find_label("n00000001")
    assert Model(nn.Identity(), labels=("tabby", "n02123045")).find_label("n02123045") == 1
    assert Model(nn.Identity(), synsets=("n02123045",)).find_label("n02123045") == 0


def test_label_and_models_without_labels(model):
    assert (model.label(1), model.label(10), model.label(-1)) == ("tiger cat", "class 10", "class -1")
    bare = Model(nn.Identity())
    assert bare.label(3) == "class 3"
    assert bare.find_label("3") == 3
    with pytest.raises(TargetError, match="no labels"):
        bare.find_label("cat")


def test_prepare_takes_one_or_several(model, tmp_path):
    picture = Image.new("RGB", (12, 9), "red")
    path = tmp_path / "a.png"
    picture.save(path)
    array, tensor = np.asarray(picture), torch.rand(3, 9, 12)
    for one in (str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), picture, array, tensor):
        (prepared,) = model.prepare(one)
        assert prepared.tensor.shape == (3, 8, 8)
        assert prepared.tensor.dtype == torch.float32
        assert prepared.image.size == (12, 9)
        assert prepared.frame == model.preprocess.frame((12, 9))
    assert [p.name for p in model.prepare([path, picture, array])] == [str(path), "image", "array"]
    assert len(model.prepare(p for p in (picture, tensor))) == 2
    assert len(model.prepare(torch.rand(4, 3, 9, 12))) == len(model.prepare(np.stack([array] * 4))) == 4
    assert model.prepare([]) == []
    assert torch.equal(model.prepare(picture)[0].tensor, model.preprocess(picture))


def test_prepare_with_any_callable():
    def preprocess(image):
        return torch.from_numpy(np.array(image.resize((30, 30)), dtype=np.float64)).permute(2, 0, 1)[None]

    (prepared,) = Model(nn.Identity(), preprocess).prepare(Image.new("RGB", (7, 4)))
    assert prepared.tensor.shape == (3, 30, 30)
    assert prepared.tensor.dtype == torch.float32
    assert prepared.frame == Frame(7, 4, (0.0, 0.0, 7.0, 4.0))


def test_prepare_refuses():
    picture = Image.new("RGB", (7, 4))
    with pytest.raises(ModelError, match=r"preprocess=.*lucidcam\.wrap"):
        Model(nn.Identity()).prepare(picture)
    with pytest.raises(InputError, match=r"returned a tensor \[5, 5\]"):
        Model(nn.Identity(), lambda image: torch.ones(5, 5)).prepare(picture)
    with pytest.raises(InputError, match="returned ndarray"):
        Model(nn.Identity(), lambda image: np.ones((3, 5, 5))).prepare(picture)
    with pytest.raises(InputError, match="expected a path"):
        Model(nn.Identity(), Preprocess()).prepare(5)


def test_device_and_dtype_follow_the_module(model):
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert model.to("cpu", "float64") is model
    assert (model.dtype, model.module.weight.dtype) == (torch.float64, torch.float64)
    assert model.to(dtype=torch.bfloat16).dtype == torch.bfloat16
    assert model.to(dtype="fp32").dtype == torch.float32
    bare = Model(nn.ReLU())
    assert (bare.device, bare.dtype) == (torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", "meta", "7x"])
def test_unknown_devices(model, device):
    with pytest.raises(ModelError, match=r"available.*: cpu") as caught:
        model.to(device)
    assert "\n" not in str(caught.value)
    assert device in str(caught.value)


@pytest.mark.parametrize("dtype", ["int8", "float31", torch.int64])
def test_unknown_dtypes(model, dtype):
    with pytest.raises(OptionError, match="floating-point dtype"):
        model.to(dtype=dtype)


def test_they_are_frozen(model):
    with pytest.raises(AttributeError):
        model.name = "other"
    with pytest.raises(AttributeError):
        Frame.whole(3, 4).width = 5


@pytest.mark.parametrize(
    ("label", "meaning", "shown"),
    [("1", "goldfish, Carassius auratus", "1 (goldfish)"), ("Tiger_cat", "tiger cat, Felis tigrina", "Tiger_cat"), ("cup", "cup", "cup")],
)
def test_a_class_is_shown_with_what_the_network_calls_it(label, meaning, shown):
    assert with_meaning(label, meaning) == shown
