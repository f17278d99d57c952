"""Clips, volumes and signals: every method along any axes, frames in and out, animations, slices and curves."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import by_example
import lucidcam
from lucidcam.errors import ModelError
from lucidcam.imaging import animation, maps, render
from lucidcam.imaging.preprocess import Clips, Preprocess
from lucidcam.io import video

ATTENTION = {"attention_relevance", "legrad", "rollout"}
METHODS = sorted(set(lucidcam.methods()) - ATTENTION - {"mcam"})
SHORT = {"rise": {"masks": 70}, "sscam": {"samples": 2}, "iscam": {"steps": 2}, "smoothgradcam++": {"samples": 2}}


def flat_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    ).double().eval()  # fmt: skip


def of_axes(flat: nn.Sequential, axes: int) -> nn.Sequential:
    """The same network for volumes of one slice, or for signals (from a network whose kernels look at their middle row)."""
    conv, norm, pool = [(nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d), (), (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d)][axes - 1]
    layers: list[nn.Module] = []
    for layer in flat:
        if isinstance(layer, nn.Conv2d):
            made = conv(layer.in_channels, layer.out_channels, 3, stride=layer.stride[0], padding=1)
            with torch.no_grad():
                if axes == 1:
                    made.weight.copy_(layer.weight[:, :, 1])
                else:  # what lies before and behind the only slice is padding: its weights do not count
                    made.weight.normal_()
                    made.weight[:, :, 1] = layer.weight
                made.bias.copy_(layer.bias)
            layers.append(made)
        elif isinstance(layer, nn.BatchNorm2d):
            layers.append(norm(layer.num_features))
        else:
            layers.append(pool(1) if isinstance(layer, nn.AdaptiveAvgPool2d) else layer)
    return nn.Sequential(*layers).double().eval()


WRAPPERS = [{}, {"smooth": 2}, {"augment": "hflip,gain"}, {"layer": ["2", "4"]}, {"target": [[1, 2], [3, 0]]}]


@pytest.mark.parametrize(
    ("method", "wrapper"),
    [(method, each) for i, method in enumerate(METHODS) for j, each in enumerate(WRAPPERS) if j == 0 or (i + j) % 2 == 0],
    ids=lambda each: each if isinstance(each, str) else "+".join(each) or "plain",
)
def test_a_volume_of_one_slice_is_a_picture_and_a_signal_a_row(method, wrapper):
    """Every method by itself, and within every other wrapper."""
    flat = flat_net()
    images = torch.rand(2, 3, 14, 14, generator=torch.Generator().manual_seed(1)).double()
    if method == "cam" and "layer" in wrapper:  # it is defined at the pooled layer alone, for any number of axes
        for net, given in ((flat, images), (of_axes(flat, 3), images[:, :, None]), (of_axes(flat, 1), images[:, :, 3])):
            with pytest.raises(ModelError, match="global average pooling and one linear layer on top of '2'"):
                lucidcam.attribute(net, given, method, **wrapper)
        return
    options = {"target": [1, 2], **wrapper, **SHORT.get(method, {})}
    expected = lucidcam.attribute(flat, images, method, **options)
    volume = lucidcam.attribute(of_axes(flat, 3), images[:, :, None], method, **options)
    assert volume.shape == (*expected.shape[:-2], 1, *expected.shape[-2:])
    torch.testing.assert_close(volume.squeeze(-3), expected, rtol=1e-8, atol=1e-10)
    if method == "occlusion":
        options["window"] = 1  # a row is one pixel high
    row = lucidcam.attribute(flat, images[:, :, 3:4], method, **options)
    signal = lucidcam.attribute(of_axes(flat, 1), images[:, :, 3], method, **options)
    assert signal.shape == (*row.shape[:-2], row.shape[-1])
    torch.testing.assert_close(signal, row.squeeze(-2), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("baseline", ["zeros", "mean", "blur", "0.3"])
@pytest.mark.parametrize("method", ["occlusion", "rise", "scorecam"])
def test_baselines_of_any_axes(method, baseline, axes):
    net, inputs = of_axes(flat_net(), axes), torch.rand(1, 3, *(7,) * axes).double()
    found = lucidcam.attribute(net, inputs, method, baseline=baseline, **SHORT.get(method, {}))
    assert found.ndim == 1 + axes
    assert found.isfinite().all()
    assert found.std() > 0 or method == "scorecam"  # which may find only what speaks against the class


def test_gradcam_of_a_volume_is_its_equation():
    net, x = of_axes(flat_net(), 3), torch.randn(2, 3, 5, 8, 6).double()
    activations = net[:5](x).detach().requires_grad_()
    scores = net[5:](activations)[:, 2]
    (gradients,) = torch.autograd.grad(scores.sum(), activations)
    expected = (gradients.mean((2, 3, 4), keepdim=True) * activations).sum(1).relu()
    torch.testing.assert_close(lucidcam.attribute(net, x, target=2), expected.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("window", "stride", "sides", "steps"), [(3, 2, (2, 3, 3), (2, 2, 2)), (0, 0, (1, 1, 1), (1, 1, 1))])
def test_occlusion_of_a_clip_hides_blocks(window, stride, sides, steps):
    net, x = of_axes(flat_net(), 3), torch.randn(1, 3, 2, 5, 6).double()
    with torch.no_grad():
        clean, total, seen = net(x)[0, 1], torch.zeros(x.shape[2:]).double(), torch.zeros(x.shape[2:])
        starts = [sorted({*range(0, n - w + 1, s), n - w}) for n, w, s in zip(x.shape[2:], sides, steps)]
        for corner in itertools.product(*starts):
            there = tuple(slice(c, c + w) for c, w in zip(corner, sides))
            hidden = x.clone()
            hidden[(0, slice(None), *there)] = 0
            total[there] += clean - net(hidden)[0, 1]
            seen[there] += 1
    found = lucidcam.attribute(net, x, "occlusion", target=1, window=window, stride=stride)
    torch.testing.assert_close(found[0], total / seen, rtol=1e-9, atol=1e-12)


def test_rise_of_a_volume_is_its_equation():
    from lucidcam.perturb.masks import rise_masks

    net, x = of_axes(flat_net(), 3), torch.randn(1, 3, 5, 12, 10).double()
    masks = rise_masks(64, (5, 12, 10), 4, 0.5, torch.Generator().manual_seed(0)).double()
    assert masks.shape == (64, 1, 5, 12, 10)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert abs(float(masks.mean()) - 0.5) < 0.05
    with torch.no_grad():
        weights = net(x * masks).softmax(1)[:, 1]
    expected = (weights[:, None, None, None] * masks[:, 0]).sum(0) / 64 / 0.5
    found = lucidcam.attribute(net, x, "rise", target=1, masks=64, cells=4)
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("method", sorted(ATTENTION))
def test_methods_of_attention_refuse_what_has_none(method, axes):
    with pytest.raises(lucidcam.LucidcamError, match="attention"):
        lucidcam.attribute(of_axes(flat_net(), axes), torch.rand(1, 3, *(8,) * axes).double(), method)


def test_a_signal_has_no_rows_to_flip():
    with pytest.raises(lucidcam.LucidcamError, match="vflip needs"):
        lucidcam.attribute(of_axes(flat_net(), 1), torch.rand(1, 3, 8).double(), augment="vflip")


# Clips


def drawn(count: int = 6, size: tuple[int, int] = (40, 30)) -> list[Image.Image]:
    """Frames that differ: a bright square moves to the right."""
    found = []
    for i in range(count):
        pixels = np.full((size[1], size[0], 3), 40, np.uint8)
        pixels[10:20, 4 * i : 4 * i + 8] = (250, 200, 40)
        found.append(Image.fromarray(pixels))
    return found


def arrays(frames) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in frames])


@pytest.fixture
def written(tmp_path) -> dict[str, Path]:
    """A clip in every form of a file."""
    frames = drawn()
    paths = {kind: tmp_path / f"clip.{kind}" for kind in ("gif", "webp", "png", "tiff")}
    for kind, path in paths.items():
        frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "webp" else {}))
    paths["folder"] = tmp_path / "frames"
    paths["folder"].mkdir()
    for i, frame in enumerate(frames):
        frame.save(paths["folder"] / f"{i + 7}.png")  # 7, 8, …, 10: natural order counts
    return paths


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff", "folder"])
def test_files_of_clips(written, kind):
    clip = video.read(written[kind])
    assert clip.count == 6
    assert clip.name == str(written[kind])
    np.testing.assert_array_equal(arrays(clip.frames([1, 4, 4])), arrays(drawn())[[1, 4, 4]])
    if kind != "folder":
        content = written[kind].read_bytes()
        np.testing.assert_array_equal(arrays(video.read(content).frames([5])), arrays(drawn())[[5]])
        with written[kind].open("rb") as file:
            assert video.read(file).count == 6


def test_frames_in_memory():
    frames, pixels = drawn(), arrays(drawn())
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    grey = pixels[..., 0]
    for source, name in ((frames, "frames"), (pixels, "array"), (tensor, "tensor")):
        clip = video.read(source)
        assert (clip.name, clip.count) == (name, 6)
        np.testing.assert_array_equal(arrays(clip.frames(range(6))), pixels)
    np.testing.assert_array_equal(arrays(video.read(grey).frames([2]))[0, ..., 1], grey[2])
    assert video.read(frames[0]).count == 1
    assert video.read(clip) is clip


def test_one_clip_or_several(written):
    frames, pixels = drawn(), arrays(drawn())
    assert len(video.several(frames)) == 1
    assert len(video.several(pixels)) == 1
    assert len(video.several(written["gif"])) == 1
    assert len(video.several([written["gif"], written["folder"]])) == 2
    assert len(video.several(sorted(written["folder"].iterdir()))) == 1
    assert len(video.several([pixels, pixels, pixels])) == 3
    assert len(video.several(np.stack([pixels, pixels]))) == 2
    assert len(video.several([frames, frames])) == 2
    assert video.several([]) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.gif", "'nothing.gif' does not exist"),
        (b"no picture", "is not an image: it contains text"),
        ([], "at least one frame"),
        (3, "expected a path"),
    ],
)
def test_what_is_no_clip_is_told_so(source, message):
    with pytest.raises(lucidcam.LucidcamError, match=message):
        video.read(source)


def test_bad_frames_are_told_so(written, monkeypatch, tmp_path):
    mixed = video.read([*drawn(2), *drawn(1, (20, 30))])
    with pytest.raises(lucidcam.LucidcamError, match="frames of one size; 'frames' has 20×30 and 40×30"):
        mixed.frames([0, 1, 2])
    monkeypatch.setattr(video, "MAX_PIXELS", 2000)
    for source in (written["gif"], drawn()):
        video.read(source).frames([0])
        with pytest.raises(lucidcam.LucidcamError, match="at most 2000 pixels"):
            video.read(source).frames([0, 1])
    cut = tmp_path / "cut.webp"
    cut.write_bytes(written["webp"].read_bytes()[:200])
    with pytest.raises(lucidcam.LucidcamError, match=r"cut\.webp"):
        video.read(cut).frames([5])


def test_videos(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 40, 30, "yuv420p"
        for frame in drawn(9):
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    for source in (path, path.read_bytes()):
        clip = video.read(source)
        assert clip.count == 9
        found, expected = arrays(clip.frames([2, 2, 8])).astype(int), arrays(drawn(9))[[2, 2, 8]].astype(int)
        assert np.abs(found - expected).mean() < 8  # the codec is lossy; neighbouring frames differ by 16
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(lucidcam.LucidcamError, match="cannot be decoded"):
        video.read(path)


def test_a_video_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(100))
    with pytest.raises(lucidcam.LucidcamError, match=r"lucidcam\[video\]"):
        video.read(path)


# Explanations of clips


class Moves(nn.Module):
    """Takes clips: how bright is it, and how dark? Maps are `[T/2, h/4, w/4]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 2, (2, 4, 4), stride=(2, 4, 4))
        with torch.no_grad():
            self.conv.weight.fill_(1 / 96)
            self.conv.weight[1] *= -1
            self.conv.bias.copy_(torch.tensor([-0.25, 0.5]))
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[2.0, -0.1], [0.1, 0.2]]))
            self.head.bias.zero_()

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(clip).relu().mean((2, 3, 4)))


def model(count: int | None = 6, **options) -> lucidcam.Model:
    still = Preprocess(size=(16, 16), resize=18, mean=(0.0,), std=(1.0,), **options)
    return lucidcam.wrap(Moves(), Clips(still=still, count=count), ["bright", "dark"])


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "rise", "occlusion", "guided_backprop"])
def test_maps_over_time_are_resized_like_those_over_space(method):
    frames = drawn(12)
    options = SHORT.get(method, {})
    (found,) = lucidcam.explain(model(), frames, method, target="bright", **options)
    assert [e.time for e in found.film] == [1, 3, 5, 7, 9, 11]
    assert [e.image.size for e in found.film] == [(40, 30)] * 6
    np.testing.assert_array_equal(arrays(e.image for e in found.film), arrays(frames)[1::2])
    prepared = model().prepare(frames)[0]
    raw = lucidcam.attribute(model().module, prepared.tensor[None], method, target=0, **options)
    left, top, right, bottom = (round(side) for side in prepared.frame.box)
    if found.ranged:
        raw = raw - raw.min()
    seen = F.interpolate(raw[None], size=(6, bottom - top, right - left), mode="trilinear", align_corners=False)[0, 0].clamp(min=0)
    expected = np.zeros((6, 30, 40), np.float32)
    expected[:, top:bottom, left:right] = (seen / seen.max()).numpy()
    np.testing.assert_allclose(np.stack([e.heatmap for e in found.film]), expected, atol=1e-5)
    assert found.time == found.film[int(expected.max((1, 2)).argmax())].time
    assert found.heatmap.max() == pytest.approx(1)
    assert all(e.film == () and e.label == "bright" and e.score == found.score for e in found.film)


def test_frames_share_their_scale_in_signed_colours_too():
    (found,) = lucidcam.explain(model(), drawn(6), "gradient", target="bright")
    pixels = torch.stack([e.pixels for e in found.film])
    assert found.scale.magnitude == pytest.approx(float(np.percentile(pixels.abs().numpy(), 99.5)))
    assert len({e.scale for e in found.film}) == 1
    first = render.signed_rgb(np.stack([maps.finish(p, found.size, found.frame.box) for p in pixels[0]], -1), found.scale.magnitude)
    np.testing.assert_array_equal(np.asarray(found.film[0].rgb), np.asarray(first))


def test_a_clip_is_one_explanation_for_each_target():
    frames = drawn(6)
    found = lucidcam.explain(model(), [frames, frames[::-1]], target=[["bright", "dark"], ["dark"]])
    assert [(e.label, len(e.film)) for e in found] == [("bright", 6), ("dark", 6), ("dark", 6)]
    assert [len(e.film) for e in lucidcam.explain(model(), frames, target="top2")] == [6, 6]


def test_clips_of_several_lengths_and_all_frames(written):
    found = lucidcam.explain(model(count=None), [drawn(4), written["gif"]])
    assert [len(e.film) for e in found] == [4, 6]
    assert found[1].name == str(written["gif"])
    assert [len(e.film) for e in lucidcam.explain(model(), drawn(1))] == [6]  # a picture that stands still


def test_which_frames_the_network_gets():
    for count, total in itertools.product((1, 4, 7), (1, 3, 4, 30)):
        numbers = Clips(count=count).numbers(total)
        assert numbers == [int((i + 0.5) * total / count) for i in range(count)]
        assert numbers == sorted(numbers)
    assert Clips(count=None).numbers(5) == [0, 1, 2, 3, 4]
    with pytest.raises(lucidcam.LucidcamError, match="count ≥ 1"):
        Clips(count=0)


def test_photos_do_not_know_of_time():
    photo = lucidcam.wrap(flat_net().float(), Preprocess(size=(16, 16)))
    (found,) = lucidcam.explain(photo, drawn(1)[0])
    assert (found.time, found.film, found.scale) == (None, (), None)
    assert "frame" not in found.to_dict()


def test_writing_a_clip(tmp_path):
    (found,) = lucidcam.explain(model(), drawn(6), "hirescam", target="bright")
    assert found.to_dict()["frame"] == found.time
    with Image.open(found.save(tmp_path / "new" / "clip.gif", fps=5, size=80)) as image:
        assert (image.n_frames, image.size, image.info["duration"], image.info["loop"]) == (6, (80, 60), 200, 0)
        palette = image.getpalette()
        for i, e in enumerate(found.film):
            image.seek(i)
            expected = np.asarray(e.overlay().resize((80, 60), Image.Resampling.NEAREST), int)
            assert np.abs(np.asarray(image.convert("RGB"), int) - expected).mean() < 6
        assert palette
    with Image.open(found.save(tmp_path / "key.png")) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(found.overlay()))
    boxed = found.save(tmp_path / "boxed.gif", threshold=0.5)
    assert boxed.read_bytes() != found.save(tmp_path / "plain.gif").read_bytes()


def test_animating_an_episode(tmp_path):
    photo = lucidcam.wrap(flat_net().float(), Preprocess(size=(16, 16), fit="squash"))
    episode = [e for frame in drawn(4) for e in lucidcam.explain(photo, frame, "layercam", target=0)]
    shared = animation.share(episode)
    peaks = [float(maps.finish(e.raw, e.size, e.frame.box).max()) for e in episode]
    for e, peak in zip(shared, peaks, strict=True):
        assert e.heatmap.max() == pytest.approx(max(peak, 0) / max(peaks), abs=1e-6)
    assert [e.heatmap.max() for e in episode] == [pytest.approx(1)] * 4
    for name in ("episode.gif", "episode.webp"):
        with Image.open(lucidcam.animate([*shared, drawn(1)[0]], tmp_path / name)) as image:
            assert (image.n_frames, image.size) == (5, (320, 240))
    for given, options, message in (
        ([], {}, "at least one explanation"),
        (drawn(2), {"fps": 0}, "0 < fps"),
        ([*drawn(1), *drawn(1, (8, 8))], {}, "pictures of one size"),
    ):
        with pytest.raises(lucidcam.LucidcamError, match=message):
            lucidcam.animate(given, tmp_path / "x.gif", **options)
    with pytest.raises(lucidcam.LucidcamError, match=r"\.gif or \.webp"):
        lucidcam.animate(drawn(2), tmp_path / "x.mp4")
    assert animation.share([]) == []


def test_a_hot_spot_keeps_its_colour_in_a_gif(tmp_path):
    """A few pixels of a clip are as red as the map is hot there; the palette must not lose them."""
    heat = np.zeros((60, 60), np.float32)
    heat[30:34, 30:34] = 1
    frames = [render.overlay(Image.effect_noise((60, 60), 80 + i).convert("RGB"), heat, alpha=0.9) for i in range(8)]
    with Image.open(render.animation(frames, tmp_path / "hot.gif", size=60)) as image:
        spot = np.asarray(image.convert("RGB"), int)[30:34, 30:34]
    assert np.abs(spot - np.asarray(frames[0], int)[30:34, 30:34]).max() < 40


def test_the_preprocessing_must_give_clips():
    class Flat:
        def numbers(self, count):
            return [0]

        def __call__(self, frames):
            return torch.zeros(3, 8, 8)

    with pytest.raises(lucidcam.LucidcamError, match=r"into a tensor \[C, T, h, w\]; it returned a tensor \[3, 8, 8\]"):
        lucidcam.wrap(Moves(), Flat()).prepare(drawn(1))


@pytest.mark.parametrize("name", ["r3d_18", "mvit_v2_s", "s3d"])
def test_torchvision_makes_the_input_itself(name):
    models = lucidcam.utils.optional.import_torchvision().models
    from lucidcam.models._video import video_classifier

    weights = models.get_model_weights(name)["DEFAULT"]
    preprocess, _, _ = video_classifier(name, None, weights.transforms())
    assert preprocess.count == {"r3d_18": 16, "mvit_v2_s": 16, "s3d": 128}[name]
    frames = [Image.effect_noise((320, 240), 60 + i).convert("RGB") for i in range(2)]
    expected = weights.transforms()(torch.from_numpy(arrays(frames)).permute(0, 3, 1, 2))
    torch.testing.assert_close(preprocess(frames), expected, rtol=0, atol=0)
    # the frame tells where that lies: one white pixel comes out where it says
    smooth = [frame.resize((8, 6)).resize((320, 240), Image.Resampling.BICUBIC) for frame in frames]
    by_hand = torch.stack([preprocess.still(frame) for frame in smooth], dim=1)
    assert (preprocess(smooth) - by_hand).abs().mean() < 0.02


@pytest.mark.slow
def test_a_video_classifier_of_torchvision(tmp_path, written):
    found = lucidcam.load("torchvision:r3d_18", pretrained=False)
    (explanation,) = lucidcam.explain(found, written["gif"])
    assert explanation.layer == "layer4"
    assert len(explanation.film) == 16
    with Image.open(explanation.save(tmp_path / "explained.gif")) as image:
        assert image.size == (320, 240)


# Volumes and signals


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices(axis):
    volume, heat = torch.zeros(8, 6, 4), torch.zeros(4, 3, 2)
    heat[3, 2, 1] = 2.0
    volume[0, 0, 0] = 100
    sheet = render.slices(volume, heat, axis, count=[0, volume.shape[axis] - 1], alpha=1.0, height=60)
    stretched = F.interpolate(heat[None, None], size=(8, 6, 4), mode="trilinear", align_corners=False)[0, 0].clamp(min=0)
    last = stretched.select(axis, -1) / stretched.max()
    expected = np.asarray(render.colour(last.numpy()).resize((round(60 * last.shape[1] / last.shape[0]), 60), Image.Resampling.NEAREST))
    right = np.asarray(sheet)[36:96, sheet.width - 10 - expected.shape[1] : sheet.width - 10]
    np.testing.assert_array_equal(right, expected)


def test_slices_and_signals_refuse_other_shapes():
    volume = np.zeros((4, 4, 4))
    for call, message in (
        (lambda: render.slices(volume[0], volume), r"expected a volume \[D, H, W\]; got \[4, 4\]"),
        (lambda: render.slices(volume, volume[0]), r"expected its map \[d, h, w\]"),
        (lambda: render.slices(volume, volume, axis=3), "axis 0, 1 or 2"),
        (lambda: render.slices(volume, volume, count=[4]), "slices from 0 to 3"),
        (lambda: render.signal(volume, volume[0, 0]), r"expected a signal \[C, L\]"),
        (lambda: render.signal(volume[0], volume[0]), r"expected its map \[l\]"),
        (lambda: render.signal(volume[0], volume[0, 0], colormap="turbi"), "turbo"),
    ):
        with pytest.raises(lucidcam.LucidcamError, match=message):
            call()


def test_a_signal_is_hot_where_its_map_is():
    heat = torch.zeros(50)
    heat[35:40] = 1
    picture = np.asarray(render.signal(np.sin(np.linspace(0, 9, 400))[None].repeat(2, 0), heat, names=["I", "II"], size=(800, 300)), int)
    assert picture.shape == (300, 800, 3)
    red = (picture[..., 0] > 100) & (picture[..., 1] < 60) & (picture[..., 2] < 40)
    columns = np.flatnonzero(red.any(0))
    assert 0.68 < columns.min() / 800 < 0.78
    assert 0.76 < columns.max() / 800 < 0.86
    assert red[:150].any()
    assert red[150:].any()


@pytest.mark.slow
def test_the_map_of_a_clip_is_at_the_right_time_and_place(tmp_path):
    module = by_example.load("video")
    trained = module.train()
    figures = module.judge(trained)
    assert figures["accuracy"] > 0.9
    assert figures["chance"] < 0.05
    assert figures["energy"] > 0.45
    assert figures["when"] > 0.9
    assert figures["where"] > 0.9


@pytest.mark.slow
def test_the_map_of_a_trace_is_at_the_odd_beat(tmp_path):
    module = by_example.load("ecg")
    figures = module.judge(module.train())
    assert figures["accuracy"] > 0.9
    assert figures["chance"] < 0.15
    assert figures["energy"] > 0.6
    assert figures["peak"] > 0.9


def test_a_gif_counts_by_time_not_by_stored_frames(tmp_path):
    """Pillow stores equal frames once, and longer."""
    frames = [Image.new("RGB", (8, 6), (0 if i < 6 else 250, 0, 0)) for i in range(8)]
    frames[0].save(tmp_path / "long.gif", save_all=True, append_images=frames[1:], duration=50)
    with Image.open(tmp_path / "long.gif") as stored:
        assert stored.n_frames < 8
    clip = video.read(tmp_path / "long.gif")
    assert clip.count == 8 or clip.count == 4  # the common measure of 300 and 100 ms is 100 or less
    reds = [frame.getpixel((3, 3))[0] > 100 for frame in clip.frames(range(clip.count))]
    assert reds.count(True) * 3 == reds.count(False)
