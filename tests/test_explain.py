"""From photos to explanations: sizes, crops, labels, pictures, files, and two objects in one photo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from skimage import data
from torch import Tensor

import lucidcam
from lucidcam.imaging import maps, render
from lucidcam.imaging.preprocess import Preprocess
from nets import SeveralFC, build


@pytest.fixture(scope="module")
def demo() -> lucidcam.Model:
    return lucidcam.load("demo")


@pytest.fixture(scope="module")
def cat(demo: lucidcam.Model) -> lucidcam.Explanation:
    return lucidcam.explain(demo, data.chelsea(), target="tabby")[0]


def test_an_explanation_of_a_real_photo(cat: lucidcam.Explanation) -> None:
    assert cat.image.size == (451, 300)
    assert cat.map.shape == cat.heatmap.shape == (300, 451)
    assert cat.raw.shape == (7, 7)
    assert (cat.target, cat.label, cat.method, cat.layer) == (281, "tabby, tabby cat", "gradcam", "bn2")
    assert 0 < cat.probability < 1
    assert cat.heatmap.min() == 0
    assert cat.heatmap.max() == 1
    assert cat.overlay().size == (451, 300)


def test_what_the_network_did_not_see_is_zero_and_shown_as_it_is(cat: lucidcam.Explanation) -> None:
    left, top, right, bottom = (round(side) for side in cat.frame.box)
    assert 0 < left < right < 451
    outside = np.ones((300, 451), bool)
    outside[top:bottom, left:right] = False
    assert not cat.map[outside].any()
    np.testing.assert_array_equal(np.asarray(cat.overlay())[outside], data.chelsea()[outside])
    np.testing.assert_array_equal(cat.map[top:bottom, left:right], maps.resize(cat.raw, (bottom - top, right - left)).numpy())


def test_a_flipped_photo_has_a_flipped_map(demo: lucidcam.Model) -> None:
    photo = Image.fromarray(data.chelsea())
    plain = lucidcam.explain(demo, photo, target="tabby")[0].heatmap
    flipped = lucidcam.explain(demo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), target="tabby")[0].heatmap
    turned_back, as_it_is = (np.corrcoef(plain.ravel(), other.ravel())[0, 1] for other in (flipped[:, ::-1], flipped))
    assert turned_back > max(0.95, as_it_is)


def test_exif_orientation(demo: lucidcam.Model, tmp_path: Path) -> None:
    photo = Image.fromarray(data.chelsea())
    turned = photo.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270° counter-clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    upright, shown = lucidcam.explain(demo, [photo, tmp_path / "turned.png"], target="tabby")
    assert shown.image.size == (451, 300)
    np.testing.assert_allclose(upright.map, shown.map, atol=1e-5)


def test_targets_by_words(demo: lucidcam.Model) -> None:
    both = [data.chelsea(), data.coffee()]
    assert [e.label.split(",")[0] for e in lucidcam.explain(demo, both, target=["tabby", "espresso"])] == ["tabby", "espresso"]
    assert [e.target for e in lucidcam.explain(demo, both, target=[[281, "espresso"], [282, 967]])] == [281, 967, 282, 967]
    assert [e.target for e in lucidcam.explain(demo, both[0], target=["tabby", "espresso"])] == [281, 967]
    assert [e.target for e in lucidcam.explain(demo, both, target=[None, "espresso"])][1] == 967
    assert len(lucidcam.explain(demo, both, target="top3")) == 6
    contrast = lucidcam.explain(demo, both[0], target=lucidcam.Contrast("tabby", "espresso"))[0]
    assert contrast.label == "tabby rather than espresso"
    probability = lucidcam.explain(demo, both[0], target=lucidcam.Probability("tabby"))[0]
    assert probability.score == pytest.approx(probability.probability, rel=1e-5)
    with pytest.raises(lucidcam.LucidcamError, match="one target per image, 2 in all; got 3"):
        lucidcam.explain(demo, both, target=[1, 2, 3])
    with pytest.raises(lucidcam.LucidcamError, match="espresso"):
        lucidcam.explain(demo, both, target="expresso")
    with pytest.raises(lucidcam.LucidcamError, match="out of range"):
        lucidcam.explain(demo, both, target=1000)


def test_photos_of_different_sizes_go_through_whole(demo: lucidcam.Model) -> None:
    whole = lucidcam.load("demo", fit="whole")
    found = lucidcam.explain(whole, [data.chelsea(), data.astronaut(), data.coffee()])
    assert [e.image.size for e in found] == [(451, 300), (512, 512), (600, 400)]
    assert found[0].raw.shape != found[1].raw.shape
    assert found[0].frame.box == (0.0, 0.0, 451.0, 300.0)


PICTURES = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "tif": "TIFF", "tiff": "TIFF", "bmp": "BMP"}


def test_files_in_every_format(cat: lucidcam.Explanation, tmp_path: Path) -> None:
    with Image.open(cat.save(tmp_path / "deep" / "cat.png")) as picture:
        assert picture.size == (451, 300)
    with Image.open(cat.save(tmp_path / "cat.jpg", colormap="magma", alpha=0.2)) as picture:
        assert picture.format == "JPEG"
    for suffix, kind in [*PICTURES.items(), *((suffix.upper(), kind) for suffix, kind in PICTURES.items())]:
        with Image.open(cat.save(tmp_path / f"picture.{suffix}")) as picture:
            assert (picture.format, picture.size, picture.mode) == (kind, (451, 300), "RGB")
            difference = np.abs(np.asarray(picture, float) - np.asarray(cat.picture(), float))
            assert difference.max() == 0 or kind in ("JPEG", "WEBP")
            assert difference.mean() < 4
    with np.load(cat.save(tmp_path / "cat.npz")) as archive:
        np.testing.assert_array_equal(archive["map"], cat.map)
        assert json.loads(str(archive["info"]))["label"] == cat.label
    told = json.loads(cat.save(tmp_path / "cat.json").read_text())
    assert told["id"] == 281
    assert told["box"] == list(cat.boxes(0.2)[0])
    with pytest.raises(lucidcam.LucidcamError, match=r"cat\.pgn: no output format is called 'pgn'; did you mean 'png'"):
        cat.save(tmp_path / "cat.pgn")
    assert cat._repr_png_().startswith(b"\x89PNG")


def test_guided_maps_are_signed_colours_around_grey(demo: lucidcam.Model, tmp_path: Path) -> None:
    guided = lucidcam.explain(demo, data.chelsea(), "guided_gradcam", target="tabby")[0]
    assert guided.rgb is not None
    colours = np.asarray(guided.rgb)
    assert colours.shape == (300, 451, 3)
    assert abs(int(np.median(colours)) - 128) <= 1
    assert colours.min() < 64
    assert colours.max() > 192
    assert guided.pixels.shape == (3, 224, 224)
    assert guided.pixels.min() < 0 < guided.pixels.max()
    torch.testing.assert_close(guided.raw, guided.pixels.abs().amax(0))
    with np.load(guided.save(tmp_path / "guided.npz")) as archive:
        assert archive["pixels"].shape == (3, 224, 224)


def test_a_wrapped_module_with_its_own_preprocessing() -> None:
    net = build(SeveralFC, dtype=torch.float32)
    model = lucidcam.wrap(net, preprocess=Preprocess(size=(20, 28), fit="squash"), labels=["a", "b", "c", "d", "e"], layer="features.1")
    (found,) = lucidcam.explain(model, data.chelsea(), target="c")
    assert (found.label, found.layer, found.raw.shape) == ("c", "features.1", (20, 28))
    (found,) = lucidcam.explain(model, data.chelsea(), target="c", layer="features.4")
    assert found.raw.shape == (10, 14)
    (found,) = lucidcam.explain(model, data.chelsea(), target=lambda out: out[:, 0] - out[:, 1])
    assert (found.target, found.probability, found.label) == (None, None, "score")
    net.train()
    lucidcam.explain(model, data.chelsea())
    assert net.training


def half(photo: np.ndarray, model: lucidcam.Model) -> Tensor:
    return model.prepare(photo)[0].tensor


@pytest.mark.parametrize("method", ["gradcam", "cam", "contrastive_excitation_backprop"])
def test_two_objects_in_one_picture_are_told_apart(method: str, demo: lucidcam.Model) -> None:
    """Each half's class has most of its positive energy in its own half, whichever side it is on."""
    cat, cup = (half(photo(), demo) for photo in (data.chelsea, data.coffee))
    shares = []
    for left, right, classes in ((cat, cup, (282, 967)), (cup, cat, (967, 282))):
        x = torch.cat([left, right], dim=2)[None]
        layer = "blocks.4" if "excitation" in method else None
        found = lucidcam.attribute(demo.module, x, method, target=[list(classes)], layer=layer)[0].clamp(min=0)
        middle = found.shape[-1] // 2
        shares += [float(found[0, :, :middle].sum() / found[0].sum()), float(found[1, :, middle:].sum() / found[1].sum())]
    assert min(shares) > 0.85, shares


def test_counterfactual_is_somewhere_else(demo: lucidcam.Model) -> None:
    x = torch.cat([half(photo(), demo) for photo in (data.chelsea, data.coffee)], dim=2)[None]
    found = lucidcam.attribute(demo.module, x, "gradcam", target=967, counterfactual=True)[0]
    assert float(found[:, :7].sum() / found.sum()) > 0.6  # what speaks against a cup is on the cat's side


# ------------------------------------------------------------------------------------------------------------ maps, pictures


@pytest.mark.parametrize("seed", range(20))
def test_components_equal_scipys(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((generator.integers(1, 40), generator.integers(1, 40))) < generator.random()
    ours, (theirs, count) = maps.components(mask), scipy.ndimage.label(mask, np.ones((3, 3)))
    assert ours.max(initial=0) == count
    assert len({*zip(ours[mask], theirs[mask], strict=True)}) == count


@pytest.mark.parametrize("seed", range(10))
def test_boxes_enclose_the_regions_largest_first(seed: int) -> None:
    heat = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).random((50, 60)), 3).astype(np.float32)
    heat = maps.normalise(heat - heat.mean())
    labels, count = scipy.ndimage.label(heat >= 0.4, np.ones((3, 3)))
    places = scipy.ndimage.find_objects(labels)
    sizes = np.bincount(labels.ravel())[1:]
    found = maps.boxes(heat, 0.4)
    assert len(found) == count
    assert sorted(found) == sorted((x.start, y.start, x.stop, y.stop) for y, x in places)
    y, x = places[int(sizes.argmax())]
    assert found[0] == (x.start, y.start, x.stop, y.stop)


def test_maps_without_evidence() -> None:
    for flat in (np.zeros((5, 6), np.float32), np.full((5, 6), -1, np.float32)):
        assert not maps.normalise(flat).any()
        assert maps.boxes(maps.normalise(flat)) == []
        assert maps.boxes(maps.normalise(flat), 0.0) == []
    assert maps.boxes(np.ones((5, 6), np.float32)) == [(0, 0, 6, 5)]
    one = np.zeros((5, 6), np.float32)
    one[2, 3] = 7
    assert maps.boxes(maps.normalise(one)) == [(3, 2, 4, 3)]


def test_pictures_of_maps() -> None:
    image = Image.new("RGB", (40, 30), (200, 100, 50))
    heat = np.zeros((30, 40), np.float32)
    heat[10:20, 10:30] = 1
    assert np.asarray(render.overlay(image, heat, alpha=0.0)).tolist() == np.asarray(image).tolist()
    boxed = np.asarray(render.draw_boxes(image, maps.boxes(heat)))
    assert tuple(boxed[10, 10]) == (255, 64, 64)
    assert tuple(boxed[15, 20]) == (200, 100, 50)
    outlined = np.asarray(render.draw_contour(image, heat))
    assert tuple(outlined[10, 15]) == (255, 255, 255)
    assert tuple(outlined[15, 20]) == tuple(outlined[5, 5]) == (200, 100, 50)
    sheet = render.panel(
        [[("one", image), ("two", image)], [("a caption that is much too long for its picture", image)]], "title", height=60
    )
    assert sheet.width > 160
    assert sheet.height > 120
    for wrong in ({"alpha": 1.5}, {"colormap": "trubo"}):
        with pytest.raises(lucidcam.LucidcamError):
            render.overlay(image, heat, **wrong)


def test_a_map_larger_than_the_image_is_cut_back() -> None:
    """Where the preprocessing pads, the network's input lies partly outside the photo."""
    raw = torch.arange(16.0).reshape(4, 4)
    found = maps.finish(raw, (10, 20), (0.0, -5.0, 20.0, 15.0))
    np.testing.assert_allclose(found, maps.resize(raw, (20, 20)).numpy()[5:15])


def test_regions_of_a_higher_threshold_lie_in_those_of_a_lower() -> None:
    generator = np.random.default_rng(1)
    heat = maps.normalise(generator.random((20, 20)).astype(np.float32))
    for _ in range(10):
        low, high = sorted(generator.random(2))
        assert not (maps.threshold(heat, high) & ~maps.threshold(heat, low)).any()
