"""Which part of a photo a function of the user's own shows, and how it is turned; and that everything lands where it belongs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn

import lucidcam
from lucidcam.errors import ModelError, OptionError
from lucidcam.imaging.preprocess import Preprocess, Probed
from lucidcam.samples import Object, Sample
from lucidcam.types import Frame

TURN = Image.Transpose
SIDE = 64
SIZES = [(500, 300), (320, 480), (64, 64), (40, 30)]


def tensor(photo: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(photo, np.float32)).permute(2, 0, 1) / 255


def square(photo: Image.Image) -> Tensor:
    return tensor(photo.resize((SIDE, SIDE)))


def letterbox(fill: int, offset: float = 0.5):
    def function(photo: Image.Image) -> Tensor:
        scale = 96 / max(photo.size)
        small = photo.resize((round(photo.width * scale), round(photo.height * scale)))
        canvas = Image.new("RGB", (96, 96), (fill,) * 3)
        canvas.paste(small, (int((96 - small.width) * offset), int((96 - small.height) * offset)))
        return tensor(canvas)

    return function


def letterboxed(size: tuple[int, int], offset: float = 0.5) -> tuple[float, ...]:
    scale = 96 / max(size)
    (width, height), (w, h) = size, (round(side * scale) for side in size)
    left, top = int((96 - w) * offset) / w * width, int((96 - h) * offset) / h * height
    return -left, -top, 96 / w * width - left, 96 / h * height - top


def z_score(function):
    return lambda photo: (lambda t: (t - t.mean()) / (t.std() + 1e-6))(function(photo))


def min_max(function):
    return lambda photo: (lambda t: (t - t.min()) / (t.max() - t.min() + 1e-6))(function(photo))


def part(photo: Image.Image) -> Tensor:
    w, h = photo.size
    return square(photo.crop((w // 5, h // 10, w * 7 // 10, h * 6 // 10)))


def of_part(size: tuple[int, int]) -> tuple[float, ...]:
    w, h = size
    return w // 5, h // 10, w * 7 // 10, h * 6 // 10


def everything(size: tuple[int, int]) -> tuple[float, ...]:
    return 0, 0, *size


def squared(mode: str, share: float = 1.0):
    """Padded to a square, or by a share of that, by what lies at the photo's border; then resized."""

    def function(photo: Image.Image) -> Tensor:
        return square(squared_pixels(photo, mode, share))

    return function


def squared_pixels(photo: Image.Image, mode: str, share: float = 1.0) -> Image.Image:
    (left, top), side = around(photo.size, share)
    widths = (top, side - photo.height - top), (left, side - photo.width - left), (0, 0)
    return Image.fromarray(np.pad(np.asarray(photo), widths, mode=mode))


def around(size: tuple[int, int], share: float) -> tuple[tuple[int, int], int]:
    side = round(max(size) * share)
    return ((side - size[0]) // 2, (side - size[1]) // 2), side


def of_square(size: tuple[int, int], share: float = 1.0) -> tuple[float, ...]:
    (left, top), side = around(size, share)
    return -left, -top, side - left, side - top


def disc(function, level: float = 0.0):
    """Only what lies in a circle is shown."""

    def masked(photo: Image.Image) -> Tensor:
        found = function(photo)
        y, x = (torch.linspace(-1, 1, side) for side in found.shape[1:])
        return torch.where(y[:, None] ** 2 + x**2 < 0.9, found, level)

    return masked


def high_pass(photo: Image.Image) -> Tensor:
    """Fourfold contrast to what is around."""
    small = photo.resize((SIDE, SIDE))
    return (4 * (tensor(small) - tensor(small.filter(ImageFilter.GaussianBlur(3)))) + 0.5).clamp(0, 1)


FUNCTIONS = {
    "resized": (square, everything),
    "as it is": (tensor, everything),
    "bicubic": (lambda p: tensor(p.resize((SIDE, SIDE), Image.Resampling.BICUBIC)), everything),
    "nearest": (lambda p: tensor(p.resize((SIDE, SIDE), Image.Resampling.NEAREST)), everything),
    "a batch of one": (lambda p: square(p)[None], everything),
    "grey": (lambda p: tensor(ImageOps.grayscale(p).convert("RGB").resize((SIDE, SIDE)))[:1], everything),
    "BGR, 0 to 255": (lambda p: square(p).flip(0) * 255 - 110, everything),
    "inverted": (lambda p: 1 - square(p), everything),
    "gamma": (lambda p: square(p) ** 2.2, everything),
    "z-score of the image": (z_score(square), everything),
    "z-score of each channel": (lambda p: torch.stack([z_score(lambda c: c)(channel) for channel in square(p)]), everything),
    "min-max of the image": (min_max(square), everything),
    "equalised": (lambda p: tensor(ImageOps.equalize(p.resize((SIDE, SIDE)))), everything),
    "contrast stretched": (lambda p: tensor(ImageOps.autocontrast(p.resize((SIDE, SIDE)))), everything),
    "blurred": (lambda p: tensor(p.filter(ImageFilter.GaussianBlur(p.width / 100)).resize((SIDE, SIDE))), everything),
    "part": (part, of_part),
    "part, z-score": (z_score(part), of_part),
    "letterboxed, grey": (letterbox(114), letterboxed),
    "letterboxed, black, z-score": (z_score(letterbox(0)), letterboxed),
    "letterboxed, white, at the top left": (letterbox(255, 0.0), lambda size: letterboxed(size, 0.0)),
    "letterboxed, off the middle, min-max": (min_max(letterbox(114, 0.2)), lambda size: letterboxed(size, 0.2)),
    "squared by its border mirrored": (squared("symmetric"), of_square),
    "squared by its border mirrored without its own pixels, z-score": (z_score(squared("reflect")), of_square),
    "squared by its border continued": (lambda p: tensor(squared_pixels(p, "edge").resize((128, 128))), of_square),
    "squared by its border repeated": (squared("wrap"), of_square),
    "all sides padded by its border mirrored": (squared("symmetric", 1.3), lambda size: of_square(size, 1.3)),
    "only a disc": (disc(square), everything),
    "only a disc, grey beside it, min-max": (min_max(disc(square, 0.5)), everything),
    "a disc of a part": (disc(part), of_part),
    "high-pass": (high_pass, everything),
    "high-pass, only a disc": (disc(high_pass, 0.5), everything),
    "padded": (lambda p: tensor(ImageOps.expand(p, 12, (128,) * 3).resize((SIDE, SIDE))), lambda s: (-12, -12, s[0] + 12, s[1] + 12)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("how", "size"), [(how, size) for i, how in enumerate(FUNCTIONS) for j, size in enumerate(SIZES) if (i + j) % 2 == 0], ids=str
)
def test_the_frame_is_measured(how: str, size: tuple[int, int]) -> None:
    """Every function with every other size: a wide or a high photo, and a small one."""
    function, box = FUNCTIONS[how]
    if "by its border" in how and min(size) < 60:
        pytest.skip("too few stripes to tell padding from a part that is drawn out")
    frame = Probed(function).frame(size)
    assert frame == Frame(*size, frame.box)
    assert np.abs(np.subtract(frame.box, box(size))).max() <= max(0.5, 0.005 * max(size))


@pytest.mark.parametrize("size", SIZES[:3], ids=str)
@pytest.mark.parametrize("turn", TURN)
def test_mirrored_and_turned_photos(turn: Image.Transpose, size: tuple[int, int]) -> None:
    """Turned back, a tensor shows the photo again."""
    function = z_score(lambda p: square(p.crop((p.width // 4, 0, p.width, p.height)).transpose(turn)))
    frame = Probed(function).frame(size)
    assert np.abs(np.subtract(frame.box, (size[0] // 4, 0, *size))).max() <= max(0.5, 0.005 * max(size))
    photo = scene(size, 0)
    upright = frame.upright(function(photo))
    expected = z_score(lambda p: square(p.crop((p.width // 4, 0, p.width, p.height))))(photo)
    assert float((upright - expected).abs().mean()) < 0.1
    torch.testing.assert_close(frame.turned(upright), function(photo))


def random_crop(photo: Image.Image) -> Tensor:
    left = int(torch.randint(photo.width // 3, (), generator=random_crop.generator))
    return square(photo.crop((left, 0, left + photo.width // 2, photo.height)))


random_crop.generator = torch.Generator().manual_seed(0)


def foreground(photo: Image.Image) -> Tensor:
    box = ImageOps.grayscale(photo).point(lambda level: 255 * (level > 20)).getbbox()
    return square(photo.crop(box))


def on_white(photo: Image.Image) -> Tensor:
    return foreground(ImageOps.invert(photo))


def middle_of_light(photo: Image.Image) -> Tensor:
    grey = np.asarray(ImageOps.grayscale(photo), float) + 1
    x = int((grey.sum(0) * np.arange(photo.width)).sum() / grey.sum())
    return square(photo.crop((x - photo.width // 4, 0, x + photo.width // 4, photo.height)))


def seldom_mirrored(photo: Image.Image) -> Tensor:
    return square(photo).flip(2) if torch.rand(()) < 0.08 else square(photo)


UNMEASURABLE = {
    "mirrored now and then": seldom_mirrored,
    "random crop": random_crop,
    "crop to what is not black": foreground,
    "crop to what is not white": on_white,
    "crop around the light": middle_of_light,
    "constant": lambda p: torch.zeros(3, 8, 8),
    "not in proportion": lambda p: square(p)[:, :, (torch.linspace(0, 1, SIDE) ** 1.6 * (SIDE - 1)).long()],
    "begins drawn out": lambda p: square(p)[
        :, :, torch.cat([torch.arange(16) // 2, torch.linspace(8, SIDE - 1, SIDE - 16).round().long()])
    ],
    "turned by ten degrees": lambda p: square(p.rotate(10)),
    "perspective": lambda p: square(p.transform(p.size, Image.Transform.PERSPECTIVE, (1, 0.2, 0, 0.1, 1, 0, 0.0006, 0.0004))),
    "turned by three degrees, only a disc": disc(lambda p: square(p.rotate(3))),
    "four views": lambda p: (lambda row: torch.cat([row, row.flip(1)], 1))((lambda t: torch.cat([t, t.flip(2)], 2))(square(p))),
    "twice beside": lambda p: torch.cat([square(p)] * 2, 2),
    "all and a part": lambda p: torch.cat([square(p), part(p)], 2),
    "rolled": lambda p: square(p).roll(20, 2),
    "two views side by side": lambda p: torch.cat([square(p), square(p).flip(2)], 2),
    "noise": lambda p: square(p) + torch.rand(3, SIDE, SIDE),
}


def test_random_numbers_that_change_nothing_are_no_reason() -> None:
    def draws(photo: Image.Image) -> Tensor:
        torch.rand(3)
        np.random.rand()
        return square(photo)

    assert Probed(draws).frame((120, 90)).box == Probed(square).frame((120, 90)).box


@pytest.mark.parametrize("size", SIZES[:2], ids=str)
@pytest.mark.parametrize("how", UNMEASURABLE)
def test_what_cannot_be_measured_is_refused(how: str, size: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match=r'cannot be measured which part of a photo.*frame="whole"'):
        Probed(UNMEASURABLE[how]).frame(size)


def test_a_function_that_fails_for_stripes_is_refused() -> None:
    def picky(photo: Image.Image) -> Tensor:
        if np.ptp(np.asarray(photo)) > 200:
            raise ValueError("no face was detected.\nTry another photo.")
        return square(photo)

    with pytest.raises(ModelError, match=r"fails for a black-and-white image of 40 × 30: ValueError: no face was detected\).*frame="):
        Probed(picky).frame((40, 30))
    assert Probed(picky, "whole").frame((40, 30)) == Frame.whole(40, 30)


def test_a_crop_that_follows_the_photo_is_noticed_on_the_photo() -> None:
    """Barcodes leave it where it is: only what it makes of photos tells."""

    def function(photo: Image.Image) -> Tensor:
        grey = np.asarray(photo.convert("HSV"), float)[..., 1]  # follows colour alone
        x = int((grey.sum(0) * np.arange(photo.width)).sum() / grey.sum()) if grey.any() else photo.width // 2
        return square(photo.crop((x - 60, 0, x + 60, photo.height)))

    model = lucidcam.wrap(bright(), function)
    photo = np.asarray(scene((320, 240), 1)).copy()
    photo[:, 250:] = photo[:, 250:] * [1, 0.2, 0.2]
    photo[:, :250] = photo[:, :250].mean(-1, keepdims=True)
    with pytest.raises(ModelError, match="another part"):
        model.prepare(Image.fromarray(photo))
    assert lucidcam.wrap(bright(), square).prepare(Image.fromarray(photo))[0].frame == Frame.whole(320, 240)


def test_what_is_said_is_not_measured() -> None:
    def left_half(photo: Image.Image) -> Tensor:
        raise AssertionError("nothing is measured")

    half = Probed(left_half, lambda size: Frame(*size, (0, 0, size[0] / 2, size[1])))
    assert half.frame((40, 30)).box == (0, 0, 20, 30)
    assert Probed(left_half, "whole").frame((40, 30)) == Frame.whole(40, 30)
    model = lucidcam.wrap(bright(), UNMEASURABLE["crop around the light"], frame="whole")
    assert model.prepare(scene((50, 40), 0))[0].frame == Frame.whole(50, 40)
    with pytest.raises(OptionError, match="expected frame"):
        lucidcam.wrap(bright(), square, frame=(0, 0, 1, 1))
    with pytest.raises(OptionError, match="says itself"):
        lucidcam.wrap(bright(), Preprocess(), frame="whole")
    with pytest.raises(OptionError, match="expected a lucidcam"):
        Probed(square, lambda size: (0, 0, *size)).frame((4, 4))


def test_a_size_is_measured_once() -> None:
    calls = []
    probed = Probed(lambda photo: (calls.append(photo.size), square(photo))[1])
    first = probed.frame((90, 70))
    count = len(calls)
    assert probed.frame((90, 70)) == first
    assert len(calls) == count


# ------------------------------------------------------------------------------------------------------ where everything lands


def bright() -> nn.Module:
    """Answers to red, and to green, wherever it is: turning its input turns its maps."""
    net = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5]])[:, :, None, None])
        net[4].weight.copy_(torch.eye(2))
    return net.eval()


def scene(size: tuple[int, int], seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def spotted() -> Image.Image:
    pixels = np.full((120, 200, 3), 90, np.uint8)
    pixels[20:50, 140:170] = 255, 0, 0
    pixels[70:90, 60:100] = 0, 255, 0
    return Image.fromarray(pixels)


ORIENTATIONS = list(itertools.product([False, True], repeat=3))


def oriented(mirrored: bool, flipped: bool, transposed: bool) -> lucidcam.types.Model:
    frame = Frame(1, 1, (0, 0, 1, 1), mirrored, flipped, transposed)
    size = (40, 60)  # of the upright part

    def function(photo: Image.Image) -> Tensor:
        return frame.turned(tensor(photo.crop((20, 0, 200, 120)).resize(size[::-1]))).contiguous()

    return lucidcam.wrap(bright(), function, ["red", "green"])


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_maps_lie_as_the_photo_does(orientation) -> None:
    photo = spotted()
    expected = lucidcam.explain(oriented(False, False, False), photo, "hirescam", [[0, 1]])
    explanations = lucidcam.explain(oriented(*orientation), photo, "hirescam", [[0, 1]])
    for turned, upright in zip(explanations, expected, strict=True):
        assert (turned.frame.mirrored, turned.frame.flipped, turned.frame.transposed) == orientation
        np.testing.assert_allclose(turned.map, upright.map, atol=1e-3 * upright.map.max())
        assert np.abs(np.subtract(turned.boxes(), upright.boxes())).max() <= 1
        assert np.abs(np.asarray(turned.overlay(), int) - np.asarray(upright.overlay(), int)).mean() < 1
    [pixels] = lucidcam.explain(oriented(*orientation), photo, "gradient", 0, reduce="none")
    [upright_pixels] = lucidcam.explain(oriented(False, False, False), photo, "gradient", 0, reduce="none")
    assert np.abs(np.asarray(pixels.rgb, int) - np.asarray(upright_pixels.rgb, int)).mean() < 1


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_metrics_regions_and_boxes_lie_as_the_photo_does(orientation) -> None:
    sample = Sample(spotted(), "spots", ("red",), (Object("red", (140, 20, 170, 50)),))
    options = {"baselines": [], "resamples": 0, "progress": False}
    metrics = ["pointing_game", "maxboxacc", "energy_pointing_game"]
    report, upright = (
        lucidcam.evaluate(oriented(*turns), [sample], ["hirescam"], metrics, **options) for turns in (orientation, (False, False, False))
    )
    assert report.row("hirescam", "pointing_game").mean == 100
    for metric in {row.metric for row in upright.rows}:
        assert report.row("hirescam", metric).mean == pytest.approx(upright.row("hirescam", metric).mean, abs=0.5, nan_ok=True)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_boxes_go_in_and_out(orientation) -> None:
    frame = Frame(200, 120, (20.0, 0.0, 200.0, 120.0), *orientation)
    size = (60, 40) if orientation[2] else (40, 60)
    box = (140, 20, 170, 50)
    inside = frame.inside(box, size)
    assert frame.outside(inside, size) == pytest.approx(box)
    marked = torch.zeros(120, 200)
    marked[20:50, 140:170] = 1
    seen = frame.turned(marked[:, 20:])
    rows, columns = (seen.any(axis).nonzero()[:, 0] for axis in (1, 0))
    assert inside == pytest.approx([int(columns[0]) / 3, int(rows[0]) / 3, int(columns[-1] + 1) / 3, int(rows[-1] + 1) / 3])


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_places_in_the_photo_are_asked_for_in_its_own_pixels(orientation) -> None:
    from lucidcam.auditing.views import colours_of, covered, heat_of
    from lucidcam.dissection.channels import _at
    from lucidcam.dissection.iou import _on_grid
    from lucidcam.targets import Segmentation

    model = oriented(*orientation)
    [prepared] = model.prepare(spotted())
    size = tuple(prepared.tensor.shape[1:])
    mask = np.zeros((120, 200), bool)
    mask[20:50, 140:170] = True
    red = prepared.tensor[0] - prepared.tensor[1] > 0.5
    region = Segmentation(0, region=mask).placed(prepared.frame, size).region
    assert float((region == red).float().mean()) > 0.95
    assert float((_on_grid(mask, prepared.frame, size) == red).float().mean()) > 0.95
    [explanation] = lucidcam.explain(model, spotted(), "hirescam", 0)
    assert float(_at(explanation.raw[None], prepared.frame, (155, 35))[0]) > 0.5 * float(explanation.raw.max())
    heat, cover = heat_of(explanation.raw), covered([Object("red", (140, 20, 170, 50))], prepared.frame)
    assert float((heat * cover).sum()) > 0.65
    colours = colours_of(spotted(), prepared.frame).astype(int)
    assert ((colours[..., 0] - colours[..., 1] > 100) == (cover > 0.5)).mean() > 0.95


def test_the_fault_that_was_seen() -> None:
    """A small bright spot of a photo is where the map says, whatever was done to the photo."""
    net = nn.Sequential(
        nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1, bias=False)
    ).eval()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[4].weight.fill_(1)
    pixels = np.zeros((300, 500, 3), np.uint8)
    pixels[140:160, 300:320] = 255

    def crop(photo: Image.Image) -> Tensor:
        return tensor(photo.resize((107, 64)).crop((21, 0, 85, 64)))

    ways = [
        crop, z_score(crop), min_max(crop), lambda p: crop(p.transpose(TURN.FLIP_LEFT_RIGHT)),
        lambda p: crop(p.rotate(90, expand=True).resize((500, 300))),
    ]  # fmt: skip
    for way in ways:
        [explanation] = lucidcam.explain(lucidcam.wrap(net, way), Image.fromarray(pixels), "hirescam", target=0)
        y, x = np.unravel_index(explanation.heatmap.argmax(), explanation.heatmap.shape)
        assert abs(x - 310) <= 6
        assert abs(y - 150) <= 8
