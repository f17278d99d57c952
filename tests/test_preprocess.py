"""`Preprocess` equals torchvision's and timm's evaluation transforms bit for bit, and knows what its input shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lucidcam.errors import OptionError
from lucidcam.imaging.preprocess import INTERPOLATIONS, Preprocess, Probed, from_timm
from lucidcam.types import Frame
from lucidcam.utils.optional import import_timm, import_torchvision

SIZES = [
    (451, 300),
    (300, 451),
    (640, 480),
    (333, 333),
    (100, 90),
    (97, 640),
    (1023, 257),
    (31, 33),
    (256, 256),
    (2, 3),
]


def noise(size, seed=0):
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
def test_equals_torchvision(size, interpolation):
    T = import_torchvision().transforms
    image = noise(size)
    for resize, crop in ((256, (224, 224)), (232, (225, 224)), (64, (97, 80)), ((70, 90), (64, 65))):
        theirs = T.Compose(
            [
                T.Resize(resize, T.InterpolationMode(interpolation)),
                T.CenterCrop(crop),
                T.ToTensor(),
                T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
        ours = Preprocess(size=crop, resize=resize, interpolation=interpolation)
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_torchvision_without_resize_and_in_grey(size):
    T = import_torchvision().transforms
    image = noise(size)
    theirs = T.Compose([T.Grayscale(), T.CenterCrop((64, 51)), T.ToTensor(), T.Normalize(0.3, 0.2)])
    assert torch.equal(Preprocess(size=(64, 51), resize=None, mean=(0.3,), std=(0.2,), channels="L")(image), theirs(image))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "tf_efficientnet_lite0",
        "vit_base_patch16_224",
        "inception_v3",
        "swin_tiny_patch4_window7_224",
        "convnext_tiny",
    ],
)
def test_equals_timm(name):
    timm = import_timm()
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config, is_training=False)
    ours = from_timm(config)
    for size in SIZES[:-1]:
        image = noise(size)
        assert torch.equal(ours(image), theirs(image))


def test_equals_timm_with_squash_and_other_shapes():
    create = import_timm().data.create_transform
    config = {
        "input_size": (3, 96, 128),
        "crop_pct": 0.9,
        "crop_mode": "squash",
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
    }
    image = noise((200, 140))
    assert torch.equal(from_timm(config)(image), create(**config)(image))
    assert from_timm({**config, "crop_mode": "border"}) is None
    assert from_timm({**config, "crop_mode": "center"}) is None


def test_scale_mean_and_channel_order():
    image = Image.new("RGB", (8, 8), (10, 20, 30))
    plain = Preprocess(size=(8, 8), resize=None, scale=1.0, mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0))
    assert plain(image)[:, 0, 0].tolist() == [4.5, 9.0, 13.5]
    swapped = Preprocess(size=(8, 8), resize=None, scale=1.0, mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0), channels="BGR")
    assert swapped(image)[:, 0, 0].tolist() == [14.5, 9.0, 3.5]
    assert swapped(image).dtype == torch.float32
    odd = Preprocess(size=(8, 8), resize=None, scale=0.3, mean=(0.0,), std=(1.0,))
    assert odd(image)[:, 0, 0].tolist() == pytest.approx([3.0, 6.0, 9.0])


def test_frame_of_a_crop_is_where_the_pixels_come_from():
    image = Image.new("RGB", (600, 400))
    crop = Preprocess(size=(100, 200), resize=200)
    frame = crop.frame(image.size)
    assert frame == Frame(600, 400, (100.0, 100.0, 500.0, 300.0))
    image.paste("white", tuple(map(int, frame.box)))
    black, white = crop(Image.new("RGB", (600, 400))), crop(Image.new("RGB", (600, 400), "white"))
    assert torch.equal(crop(image)[:, 2:-2, 2:-2], white[:, 2:-2, 2:-2])
    assert not torch.equal(white, black)


def test_frame_of_a_padded_image_exceeds_it():
    frame = Preprocess(size=(224, 224), resize=None).frame((100, 301))
    assert frame.box == (-62.0, 38.0, 162.0, 262.0)
    tensor = Preprocess(size=(224, 224), resize=None, mean=(0.0,), std=(1.0,))(Image.new("RGB", (100, 301), "white"))
    assert tensor[0, 0].nonzero().flatten().tolist() == list(range(62, 162))


def test_squash_shows_everything():
    squash = Preprocess(size=(60, 90)).refit("squash")
    assert squash(noise((300, 200))).shape == (3, 60, 90)
    assert squash.frame((300, 200)).box == (0, 0, 300, 200)


@pytest.mark.parametrize(
    ("size", "shape"),
    [((640, 480), (224, 288)), ((480, 640), (288, 224)), ((300, 300), (224, 224)), ((1000, 250), (224, 896))],
)
def test_whole_keeps_the_aspect_ratio(size, shape):
    whole = Preprocess().refit("whole")
    assert whole(noise(size)).shape == (3, *shape)
    assert whole.frame(size).box == (0, 0, *size)


def test_ints_and_lists_are_taken_as_pairs():
    made = Preprocess(size=32, resize=[40, 50], mean=0.5, std=[0.5])
    assert (made.size, made.resize, made.mean, made.std) == ((32, 32), (40, 50), (0.5,) * 3, (0.5,) * 3)
    assert hash(made) == hash(Preprocess(size=(32, 32), resize=(40, 50), mean=(0.5,) * 3, std=(0.5,) * 3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fit": "squish"}, "'squash'"),
        ({"interpolation": "bicubik"}, "'bicubic'"),
        ({"channels": "rgb"}, "'RGB'"),
        ({"size": (0, 5)}, "expected size"),
        ({"size": None}, "expected size"),
        ({"resize": -1}, "expected resize"),
        ({"mean": (1.0, 2.0)}, "expected mean as 3 finite numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "positive numbers as std"),
        ({"std": (1.0, float("nan"), 1.0)}, "finite"),
        ({"scale": 0}, "positive number as scale"),
    ],
)
def test_wrong_fields(fields, message):
    with pytest.raises(OptionError, match=message):
        Preprocess(**fields)


@pytest.mark.parametrize("size", [(451, 300), (640, 480), (120, 333), (90, 64), (1200, 800)], ids=str)
@pytest.mark.parametrize(
    "known",
    [
        Preprocess(),
        Preprocess(size=(97, 130), resize=150, interpolation="bicubic", channels="BGR", scale=1.0),
        Preprocess(size=(128, 128), resize=None),
        Preprocess(channels="L", mean=(0.1,), std=(0.3,)),
        Preprocess().refit("squash"),
        Preprocess().refit("whole"),
    ],
    ids=lambda p: f"{p.fit}-{p.resize}-{p.channels}",
)
def test_probing_finds_the_frame_of_any_function(size, known):
    found = Probed(known.__call__).frame(size)
    assert np.abs(np.subtract(found.box, known.frame(size).box)).max() <= max(1.0, 0.006 * max(size))


def test_interpolations_have_pillows_names():
    assert set(INTERPOLATIONS) >= {"nearest", "bilinear", "bicubic", "lanczos"}
