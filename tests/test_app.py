"""The web app's plain parts: photos, questions, maps, pixels, verdicts, pictures, the gate. No server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lucidcam
from lucidcam import maps
from lucidcam.errors import InputError, LucidcamError, ModelError, OptionError, TargetError
from lucidcam.preprocess import Preprocess
from lucidcam.types import Frame
from lucidcam.web import judging, pixels, questions, showing
from lucidcam.web.gate import Gate, RefusedError, check_body
from lucidcam.web.limits import Limits
from lucidcam.web.photos import Upload
from lucidcam.web.room import occupied
from lucidcam.web.shelf import Shelf
from lucidcam.web.studio import StoppedError, Studio, in_full, scaled, twin
from web_nets import LABELS, bomb, channels_last, photo, png, tiny, transformer


def nothing(_: float | None) -> None:
    """Whoever is told and does nothing."""


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.of({"tiny": tiny()})


@pytest.fixture
def upload(tmp_path):
    def write(content: bytes, name: str = "photo.png") -> Upload:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}-{name.rpartition('/')[2]}"
        path.write_bytes(content)
        return Upload(path, name)

    return write


# ------------------------------------------------------------------------------------------------------------------ photos


def encoded(format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    photo(1).save(buffer, format, **options)
    return buffer.getvalue()


def animation() -> bytes:
    buffer = io.BytesIO()
    photo(1).save(buffer, "PNG", save_all=True, append_images=[photo(2)])
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_a_photo_is_known_by_its_content(studio, upload, format):
    found = studio.photo(upload(encoded(format), "holiday.gif"))  # the name says something else, and does not matter
    assert found.whole.mode == "RGB"
    assert found.size == (96, 72)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"<html><script>alert(1)</script></html>", "none of these"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "none of these"),
        (b"%PDF-1.4", "none of these"),
        (encoded("GIF"), "none of these"),
        (encoded("PNG")[:60], "damaged"),
        (encoded("PNG")[:2000], "cut off"),
        (bomb(), "promises far more|million"),
        (bomb(6000, 6000), "more than 25 million"),
        (animation(), "animation of 2 pictures"),
        (png(Image.new("RGB", (1, 1))), "at least 2×2"),
        (png(Image.new("RGB", (60_000, 2))), "more than 20 times the other"),
        (png(Image.new("RGB", (3, 20_000))), "more than 20 times the other"),
    ],
)
def test_what_is_no_photo_is_refused_in_words(studio, upload, content, told):
    began = time.monotonic()
    with pytest.raises(InputError, match=told) as refused:
        studio.photo(upload(content, "../../etc/cat.png"))
    assert time.monotonic() - began < 1
    assert "/" not in str(refused.value).replace("./", "")  # no folder of the server, nor of the visitor
    assert "cat.png" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_large_files_are_refused_unread(upload):
    studio = Studio.of({"tiny": tiny()}, Limits(megabytes=0.001))
    with pytest.raises(InputError, match=r"at most 0.001 MB; photo.png has 0.0 MB"):
        studio.photo(upload(png(photo(1))))


def test_large_photos_are_shown_small(studio, upload):
    found = studio.photo(upload(png(photo(1, (2000, 1000)))))
    assert found.size == found.whole.size == (2000, 1000)
    assert found.shown.size == (768, 384)


@pytest.mark.parametrize("fit", ["crop", "whole"])
def test_slender_photos_stay_small_for_a_usual_network(upload, fit):
    usual = replace(tiny(), preprocess=Preprocess(size=(224, 224), resize=256, fit=fit))
    studio = Studio.of({"usual": usual})
    served = studio.model("usual")
    assert max(studio.see(upload(png(Image.new("RGB", (4000, 200)))), served).prepared.tensor.shape) <= 20 * 256
    began = time.monotonic()
    with pytest.raises(InputError, match="one side more than 20 times the other"):
        studio.see(upload(png(Image.new("RGB", (60_000, 2)))), served)
    assert time.monotonic() - began < 1


def test_a_photo_is_upright(studio, upload):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert studio.photo(upload(encoded("JPEG", exif=exif))).size == (72, 96)


def test_shelf_keeps_what_was_used_last():
    shelf: Shelf[int] = Shelf(2)
    shelf.put("a", 1)
    shelf.put("b", 2)
    assert shelf.get("a") == 1
    shelf.put("c", 3)
    assert (shelf.get("a"), shelf.get("b"), shelf.get("c"), len(shelf)) == (1, None, 3, 2)


# --------------------------------------------------------------------------------------------------------------- questions


def test_every_method_of_the_app_has_options_that_can_be_shown():
    for name in lucidcam.methods():
        if name not in questions.NOT_HERE:
            for each in questions.choices(name):
                assert each.checked(each.default) == each.default, (name, each)


def test_options_are_bounded():
    assert questions.options('{"scorecam": {"budget": 64, "baseline": "0.5"}}', ["scorecam"]) == {
        "scorecam": {"budget": 64, "baseline": 0.5}
    }
    assert questions.options("", ["gradcam"]) == {"gradcam": {}}
    assert questions.options('{"rise": {"masks": 10}}', ["gradcam"]) == {"gradcam": {}}  # of a method that is not asked for
    with pytest.raises(OptionError, match="masks between 0 and 8000"):
        questions.options('{"rise": {"masks": 1000000}}', ["rise"])
    with pytest.raises(OptionError, match="no option is called 'mask'; did you mean 'masks'"):
        questions.options('{"rise": {"mask": 10}}', ["rise"])
    with pytest.raises(OptionError, match="weights is called 'x'"):
        questions.options('{"scorecam": {"weights": "x"}}', ["scorecam"])
    with pytest.raises(OptionError):
        questions.options('{"scorecam": {"budget": "many"}}', ["scorecam"])
    for number in ('"1e999"', '"nan"', '"-inf"', "1e999", "NaN"):
        with pytest.raises(OptionError, match="finite as baseline"):
            questions.options(f'{{"rise": {{"baseline": {number}}}}}', ["rise"])
    for text in ("[1]", "{", '{"gradcam": 1}', "[" * 100_000, '{"gradcam": {"counterfactual": 3}}', '{"rise": {"masks": NaN}}'):
        with pytest.raises(OptionError):
            questions.options(text, ["gradcam", "rise"])


def test_no_method_reads_a_file_of_the_server(studio):
    for name, kind in lucidcam.methods().items():
        if any("Path" in str(each.type) for each in fields(kind)):
            assert name in questions.NOT_HERE
            assert name not in studio.model("tiny").methods


def test_classes_are_found_by_id_and_label(studio):
    model = studio.model("tiny").model
    assert questions.targets(model, ["2", "0"], " green ; 2 ", "") == [2, 0, 1]
    assert questions.targets(model, ["2"], "", "red") == [lucidcam.Contrast(2, 0)]
    assert questions.targets(model, ["2", "0"], "", "red") == [lucidcam.Contrast(2, 0)]
    with pytest.raises(TargetError, match="rather than itself"):
        questions.targets(model, ["0"], "", "red")
    with pytest.raises(TargetError, match="did you mean"):
        questions.targets(model, [], "gren", "")
    with pytest.raises(TargetError, match="200 letters"):
        questions.targets(model, ["x" * 201], "", "")


# ------------------------------------------------------------------------------------------------------------------ studio


def test_maps_are_those_of_explain(studio, upload):
    image = photo(3, (96, 72))
    served = studio.model("tiny")
    seen = studio.see(upload(png(image)), served)
    for method in ("gradcam", "layercam", "gradient", "excitation_backprop", "rise"):
        options = {"masks": 20} if method == "rise" else {}
        found = studio.explain(seen, served, served.default, method, options, [1, 4], nothing)
        expected = lucidcam.explain(served.model, image, method, [1, 4], progress=False, **options)
        for got, wanted in zip(found, expected, strict=True):
            assert torch.equal(got.raw, wanted.raw), method
            np.testing.assert_allclose(got.heatmap, wanted.heatmap, atol=1e-6)
            assert (got.label, got.score, got.probability, got.layer) == (wanted.label, wanted.score, wanted.probability, wanted.layer)


def test_what_is_known_is_not_made_again_and_nothing_is_mixed(studio, upload, monkeypatch):
    served = studio.model("tiny")
    seen = [studio.see(upload(png(photo(i))), served) for i in (10, 11)]
    made = [studio.explain(each, served, served.default, "gradcam", {}, [0, 1], nothing) for each in seen]
    assert not torch.equal(made[0][0].raw, made[1][0].raw)
    monkeypatch.setattr("lucidcam.web.studio.explain", None)  # may not be called
    again = studio.explain(seen[0], served, served.default, "gradcam", {}, [1, 0], nothing)
    assert torch.equal(again[0].raw, made[0][1].raw)
    assert torch.equal(again[1].raw, made[0][0].raw)


def test_layers_come_in_order_and_change_the_map(studio, upload):
    served = studio.model("tiny")
    assert [place.name for place in served.places] == ["0", "1", "2", "3", "4", "5"]
    assert served.places[served.default].name == "5"
    assert (served.places[0].channels, served.places[0].grid) == (8, (24, 24))
    seen = studio.see(upload(png(photo(5))), served)
    shapes = [studio.explain(seen, served, i, "gradcam", {}, [0], nothing)[0].raw.shape for i in (0, 5)]
    assert shapes == [(24, 24), (12, 12)]
    for wrong in (6, -1, 0.5, "x", None, [5], float("nan"), float("inf")):
        with pytest.raises(OptionError, match="layer from 0 to 5"):
            studio.explain(seen, served, wrong, "gradcam", {}, [0], nothing)


@pytest.mark.parametrize("model", [transformer(), channels_last()], ids=["tokens", "channels last"])
def test_channels_are_counted_where_the_layer_has_them(upload, model):
    studio = Studio.of({"net": model})
    served = studio.model("net")
    assert {place.channels for place in served.places if "wide" not in place.name} == {12}
    assert {place.channels for place in served.places if "wide" in place.name} == {20}
    seen = studio.see(upload(png(photo(5))), served)
    (one,) = studio.explain(seen, served, served.default, "hirescam", {}, [0], nothing)
    at, activations = pixels.pixel(served.model, seen.prepared, one, 0, 48, 36, count=99)
    assert at.note == ""
    assert len(at.channels) == len(activations) == served.places[served.default].channels


def test_the_likeliest_classes(studio, upload):
    served = studio.model("tiny")
    seen = studio.see(upload(png(photo(6))), served)
    with torch.no_grad():
        shares = served.model.module(seen.prepared.tensor[None]).softmax(1)[0]
    found = studio.top(seen, served)
    assert [each.id for each in found] == shares.topk(5).indices.tolist()
    assert found[0].label == LABELS[found[0].id]
    assert found[0].probability == pytest.approx(float(shares.max()), rel=1e-5)


def test_only_models_named_at_start(studio):
    for name in ("demo", "torchvision:resnet18", "/etc/passwd", "", ["tiny"], {}, None, 3):
        with pytest.raises(OptionError, match="no model is called"):
            studio.model(name)


def test_models_that_tell_no_classes_are_refused():
    with pytest.raises(ModelError, match="no layer of flat holds"):
        Studio.of({"flat": lucidcam.wrap(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 48 * 48, 2)), tiny().preprocess)})
    with pytest.raises(OptionError, match="at least one model"):
        Studio.of({})


def test_a_twin_shares_the_weights_and_nothing_else():
    module = tiny().module
    other = twin(module)
    assert other is not module
    for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
        assert mine is theirs
    assert {id(each) for each in module.modules()}.isdisjoint(id(each) for each in other.modules())


def test_a_long_computation_is_told_of_and_can_be_stopped(studio, upload):
    served = studio.model("tiny")
    seen = studio.see(upload(png(photo(7))), served)
    shares: list[float] = []

    def tell(share: float | None) -> None:
        if share is not None:
            shares.append(share)
            if share > 0.3:
                raise StoppedError("stopped.")

    with pytest.raises(StoppedError):
        studio.explain(seen, served, served.default, "rise", {"masks": 1000}, [0], tell)
    assert 0.3 < shares[-1] < 0.6
    assert shares == sorted(shares)
    assert len(studio.explain(seen, served, served.default, "rise", {"masks": 30}, [0], nothing)) == 1  # the next finds all as it was


def test_quick_work_passes_long_work(studio, upload):
    served = studio.model("tiny")
    seen = studio.see(upload(png(photo(8))), served)
    under_way, go_on = threading.Event(), threading.Event()

    def tell(share: float | None) -> None:
        under_way.set()
        go_on.wait(20)

    long = threading.Thread(target=studio.explain, args=(seen, served, served.default, "rise", {"masks": 40}, [0], tell))
    long.start()
    try:
        assert under_way.wait(20)
        assert studio.explain(seen, served, served.default, "gradcam", {}, [0], nothing)
    finally:
        go_on.set()
        long.join(20)


def test_so_many_long_computations_and_no_more(upload):
    studio = Studio.of({"tiny": tiny()}, Limits(long=1))
    served = studio.model("tiny")
    with studio.turn(served, True, nothing), pytest.raises(OptionError, match="try again in a minute"), studio.turn(served, True, nothing):
        pass
    with studio.turn(served, True, nothing):
        pass


def test_work_ends_in_time(upload):
    studio = Studio.of({"tiny": tiny()}, Limits(seconds=0.05))
    served = studio.model("tiny")
    seen = studio.see(upload(png(photo(8))), served)
    with pytest.raises(StoppedError, match=r"ended after 0.05 s"):
        studio.explain(seen, served, served.default, "rise", {"masks": 8000}, [0], nothing)


def test_frames_are_scaled():
    found = scaled(Frame(200, 100, (50.0, 0.0, 150.0, 100.0)), (100, 50))
    assert found == Frame(100, 50, (25.0, 0.0, 75.0, 50.0))


# ----------------------------------------------------------------------------------------------------------------- showing


def seen_map(studio, upload, number=12, method="gradcam", target=0, size=(96, 72)):
    served = studio.model("tiny")
    given = upload(png(photo(number, size)))
    seen = studio.see(given, served)
    return served, given, seen, studio.explain(seen, served, served.default, method, {}, [target], nothing)[0]


def decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_what_the_page_is_sent(studio, upload):
    _, _, _, one = seen_map(studio, upload)
    value = showing.viewed([one], 1)
    assert json.loads(json.dumps(value)) == value
    assert (value["width"], value["height"], value["columns"]) == (96, 72, 1)
    assert value["box"] == [12, 0, 84, 72]  # the square in the middle
    levels = np.asarray(decoded(value["cells"][0]["map"]))
    np.testing.assert_allclose(levels / 255, one.heatmap, atol=0.5 / 255 + 1e-6)
    assert decoded(value["photo"]).size == (96, 72)
    assert value["cells"][0]["probability"] == one.probability


def test_palettes_are_those_of_matplotlib():
    import matplotlib

    for name, digits in showing.palettes().items():
        table = np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(256, 3)
        np.testing.assert_array_equal(table, (matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).round())


def test_downloads_have_all_pixels(studio, upload):
    served, given, _, one = seen_map(studio, upload, size=(1600, 1200))
    assert one.image.size == (768, 576)
    full = in_full(one, studio.photo(given), served.model)
    (expected,) = lucidcam.explain(served.model, photo(12, (1600, 1200)), "gradcam", 0)
    np.testing.assert_array_equal(full.map, expected.map)
    assert full.boxes(0.3) == expected.boxes(0.3)
    plain = showing.picture(full, "viridis", 0.4, 0.3, boxes=False, hide=False)
    np.testing.assert_array_equal(plain, expected.overlay("viridis", 0.4))
    hidden = np.asarray(showing.picture(full, "viridis", 0.4, 0.3, boxes=False, hide=True))
    inside = maps.threshold(full.heatmap, 0.3)
    np.testing.assert_array_equal(hidden[~inside], np.asarray(full.image)[~inside])
    np.testing.assert_array_equal(hidden[inside], np.asarray(plain)[inside])


def test_curves_are_drawn_where_they_are():
    low = np.asarray(showing.curve_picture([("a", [0.0, 0.0])]))
    high = np.asarray(showing.curve_picture([("a", [1.0, 1.0])]))
    red = lambda sheet: np.argwhere(sheet[:, 100:400, 0].astype(int) - sheet[:, 100:400, 2] > 100)[:, 0]  # noqa: E731
    assert red(high).mean() < 30 < 200 < red(low).mean()


# ------------------------------------------------------------------------------------------------------------------ pixels


@pytest.mark.parametrize("method", sorted(pixels.TERMS))
@pytest.mark.parametrize("against", [False, True])
def test_channels_add_up_to_the_map(studio, upload, method, against):
    target = lucidcam.Contrast(2, 4) if against else 2
    served, _, seen, one = seen_map(studio, upload, 14, method, target)
    rows, columns = one.raw.shape
    for x, y in ((20, 10), (48, 36), (80, 70)):
        at, activations = pixels.pixel(served.model, seen.prepared, one, target, x, y, count=16)
        assert at.note == ""
        assert at.grid == (rows, columns)
        i, j = at.cell
        assert (i, j) == (int((y + 0.5) / 72 * rows), int((x + 0.5 - 12) / 72 * columns))
        assert at.value == float(one.raw[i, j])
        assert at.share == pytest.approx(float(one.heatmap[y, x]))
        total = sum(channel.adds for channel in at.channels)
        assert total == pytest.approx(at.total, abs=1e-5)
        signed = float(one.raw.min()) < 0
        assert at.value == pytest.approx(total if signed else max(0.0, total), abs=1e-4 * float(one.raw.abs().max()))
        assert [channel.adds for channel in at.channels] == sorted((channel.adds for channel in at.channels), reverse=True)
        for channel, activation in zip(at.channels, activations, strict=True):
            assert channel.activation == float(activation[i, j])
            assert channel.adds == pytest.approx(channel.activation * channel.weight, abs=1e-6)


def test_channels_of_gradcam_by_hand(studio, upload):
    served, _, seen, one = seen_map(studio, upload, 15)
    net, x = served.model.module, seen.prepared.tensor[None]
    activations = net[:6](x).detach().requires_grad_()
    net[6:](activations)[0, 0].backward()
    weights = activations.grad[0].mean((1, 2))
    net.zero_grad()
    at, _ = pixels.pixel(served.model, seen.prepared, one, 0, 48, 36, count=16)
    for channel in at.channels:
        if channel.activation:
            assert channel.weight == pytest.approx(float(weights[channel.number]), rel=1e-3, abs=1e-7)


def test_where_channels_cannot_be_told_it_is_said(studio, upload):
    served, _, seen, one = seen_map(studio, upload, 14, "eigencam")
    at, _ = pixels.pixel(served.model, seen.prepared, one, 0, 48, 36)
    assert at.value == float(one.raw[at.cell])
    assert "is not a sum over channels" in at.note
    outside, _ = pixels.pixel(served.model, seen.prepared, one, 0, 2, 36)
    assert (outside.share, outside.value, outside.cell) == (0, None, None)
    assert "did not see" in outside.note
    with pytest.raises(OptionError, match="96×72"):
        pixels.pixel(served.model, seen.prepared, one, 0, 96, 0)


def test_channels_that_do_not_make_the_map_are_not_told(studio, upload):
    served = studio.model("tiny")
    seen = studio.see(upload(png(photo(14))), served)
    (one,) = studio.explain(seen, served, served.default, "gradcam", {"counterfactual": True}, [0], nothing)
    assert "these options" in pixels.pixel(served.model, seen.prepared, one, 0, 48, 36)[0].note


# ---------------------------------------------------------------------------------------------------------------- verdicts


def test_verdicts_are_those_of_the_metrics(studio, upload):
    served, _, seen, one = seen_map(studio, upload, 16, target=3)
    shares: list[float] = []
    found = {each.name: each for each in judging.judge(served.model, seen.prepared, one, lambda share: shares.append(share or 0.0), 12)}
    inputs, raw = seen.prepared.tensor[None], one.raw[None]
    black = judging.black(served.model).tolist()
    for name, options in {"average_drop": {}, "increase_in_confidence": {}, "deletion": {"steps": 12}, "insertion": {"steps": 12}}.items():
        metric = lucidcam.metrics()[name](**options)
        expected = metric(served.model.module, inputs, raw, target=3, black=black)[name]
        assert found[name].value == pytest.approx(float(expected[0]), abs=1e-6)
    curve = found["deletion"].curve
    assert len(curve) == 13
    assert curve[0] == pytest.approx(one.probability, rel=1e-4)
    assert found["insertion"].curve[-1] == pytest.approx(one.probability, rel=1e-4)
    assert shares[-1] == 1
    assert shares == sorted(shares)


def test_a_comparison_of_classes_is_not_judged(studio, upload):
    served, _, seen, one = seen_map(studio, upload, 16, target=lucidcam.Contrast(0, 1))
    with pytest.raises(TargetError, match="one class"):
        judging.judge(served.model, seen.prepared, one, nothing)


# -------------------------------------------------------------------------------------------------------------------- gate


async def inner(scope, receive, send):
    body = b""
    if scope["method"] == "POST":
        while True:
            message = await receive()
            body += message["body"]
            if not message.get("more_body"):
                break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in:" + body})


def knock(
    folder: Path, method: str, path: str, body: bytes = b"", auth: tuple[str, str] | None = None, **headers: str
) -> tuple[int, bytes, dict[bytes, bytes]]:
    """Ask the gate; the status, the body and the headers of the answer."""
    gate = Gate(inner, folder, 1000, 1_500_000, frozenset({"127.0.0.1", "localhost"}), auth)
    sent: list[dict] = []
    parts = [body[i : i + 300_000] for i in range(0, len(body), 300_000)] or [b""]

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    given = {"host": "127.0.0.1:7860", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {"type": "http", "method": method, "path": path, "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()]}
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], sent[1]["body"], dict(sent[0]["headers"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/config"),
        ("GET", "/assets/index-DphvyggB.js"),
        ("GET", "/static/img/logo.svg"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/heartbeat/abc123"),
        ("GET", "/gradio_api/call/explain/0123abc"),
        ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/call/explain"),
        ("POST", "/gradio_api/run/predict"),
    ],
)
def test_what_the_page_needs_is_let_in(tmp_path, method, path):
    assert knock(tmp_path, method, path, b"{}")[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=http://127.0.0.1:22/"),
        ("GET", "/gradio_api/proxy=https://example.org/"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/custom_component/1/client/component/index.js"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/runs"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/run/explain"),
        ("POST", "/gradio_api/api/explain"),
        ("POST", "/"),
        ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
        ("GET", "/gradio_api/deep_link"),
        ("DELETE", "/"),
        ("PUT", "/config"),
        ("GET", "/assets/../../../etc/passwd"),
        ("GET", "/static/.."),
        ("GET", "/docs"),
        ("POST", "/login"),
        ("GET", "/openapi.json"),
        ("GET", "/gradio_api/file/etc/passwd"),
    ],
)
def test_everything_else_stays_outside(tmp_path, method, path):
    assert knock(tmp_path, method, path, b"{}")[0] == 404


def test_files_are_read_from_one_folder(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    (folder / "a b.png").write_bytes(b"x")
    (outside / "secret.txt").write_text("s")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "way").symlink_to(outside)
    ask = lambda name: knock(folder, "GET", f"/gradio_api/file={name}")[0]  # noqa: E731
    assert ask(folder / "a b.png") == 200
    for name in (
        outside / "secret.txt",
        folder / "link.txt",
        folder / "way/secret.txt",
        f"{folder}/../out/secret.txt",
        "/etc/passwd",
        "../out/secret.txt",
        "http://127.0.0.1/x",
        "https://example.org/",
        "file:///etc/passwd",
        "/proc/self/environ",
        "",
        "\0",
        f"{folder}\0.png",
        "x" * 5000,
        "ftp://x/y",
        "data:text/plain,hi",
        "//example.org/share/x",
    ):
        assert ask(name) == 404, name


@pytest.mark.parametrize(
    "thing",
    [
        {"path": "http://127.0.0.1:8000/x.png"},
        {"path": "HTTPS://example.org/x.png"},
        {"path": " http://x/"},
        {"path": "file:///etc/passwd"},
        {"path": "data:image/png;base64,AAAA"},
        {"path": "/tmp/x.png", "url": "http://169.254.169.254/latest"},
        {"url": "data:image/png;base64,AA"},
        {"path": "ftp://x/y.png"},
        {"path": "x.png", "url": "http://127.0.0.1:7860@example.org/"},
        {"path": "x.png", "url": "http://127.0.0.1:7860/x.png"},
        {"path": "x.png", "url": "ftp://127.0.0.1:7860/gradio_api/file=/tmp/x.png"},
    ],
)
def test_addresses_of_photos_are_refused_wherever_they_stand(thing):
    for body in (thing, [thing], {"data": [1, {"deep": [{"value": thing}]}]}):
        with pytest.raises(RefusedError, match="not fetched"):
            check_body(json.dumps(body).encode(), "127.0.0.1:7860", Path("/tmp"))


@pytest.mark.parametrize("path", ["/etc/passwd", "tests/web_nets.py", "", "\0", "x" * 5000, "IN/../secret.txt", "IN/link.txt", "IN/loop"])
def test_photos_that_were_not_uploaded_are_refused(tmp_path, path):
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("s")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "loop").symlink_to(folder / "loop")
    given = {"path": path.replace("IN", str(folder)), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(RefusedError, match="no upload has"):
        check_body(json.dumps({"data": [given]}).encode(), "h", folder)


def test_bodies_that_are_let_in():
    for body in (
        {"data": ["http is a word", {"path": "/tmp/x.png", "url": "http://127.0.0.1:7860/gradio_api/file=/tmp/x.png"}]},
        {"path": "C"},
        {"path": "/tmp/expired/x.png", "meta": {"_type": "gradio.FileData"}},  # what is said of it, the action tells
    ):
        check_body(json.dumps(body).encode(), "127.0.0.1:7860", Path("/tmp").resolve())
    for body in (b"{", b"\xff", b"[" * 200_000):
        with pytest.raises(RefusedError, match="expected JSON"):
            check_body(body, "h", Path("/tmp"))


def test_sizes_and_hosts_are_checked(tmp_path):
    assert knock(tmp_path, "POST", "/gradio_api/queue/join", b'{"a": "' + b"x" * 1_000_000 + b'"}')[0] == 413
    assert knock(tmp_path, "POST", "/gradio_api/queue/join", b"{}", content_length="2000000")[0] == 413
    assert knock(tmp_path, "POST", "/gradio_api/queue/join", b"{}", content_length="-1")[0] == 400
    assert knock(tmp_path, "POST", "/gradio_api/queue/join", b"{}", content_length="²")[0] == 400
    assert knock(tmp_path, "POST", "/gradio_api/queue/join", b"{}", content_length="9" * 5000)[0] == 400
    assert knock(tmp_path, "POST", "/gradio_api/upload", b"", content_length="3000000")[0] == 413
    assert knock(tmp_path, "POST", "/gradio_api/upload", b"x")[0] == 411
    assert knock(tmp_path, "POST", "/gradio_api/upload", b"x", content_length="1", transfer_encoding="chunked")[0] == 411
    assert knock(tmp_path, "POST", "/gradio_api/upload", b"x", content_length="1")[0] == 200
    assert knock(tmp_path, "GET", "/", host="evil.example:7860")[0] == 403
    assert knock(tmp_path, "GET", "/", host="localhost:7860")[0] == 200
    status, body, _ = knock(tmp_path, "POST", "/gradio_api/queue/join", json.dumps({"a": "y" * 700_000}).encode())
    assert (status, len(body)) == (200, 700_000 + 3 + len('{"a": ""}'))  # read by the gate, and given on whole


def test_what_is_no_address_and_no_password_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lucidcam.web.gate.PATIENCE", 0)
    assert knock(tmp_path, "GET", "/", host="[")[0] == 400
    for url in ("http://[", "http://℀/"):
        for escaped in (True, False):
            body = json.dumps({"data": [{"path": "x.png", "url": url}]}, ensure_ascii=escaped).encode()
            assert knock(tmp_path, "POST", "/gradio_api/queue/join", body)[0] == 400
    for words in ("Basic é", "Basic ²", "Basic", "é", "Basic /w=="):
        assert knock(tmp_path, "GET", "/", auth=("ada", "x"), authorization=words)[0] == 401


def test_uploads_end_where_the_folder_is_full(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "large").write_bytes(b"x" * 1_495_000)
    assert knock(tmp_path, "POST", "/gradio_api/upload", b"x", content_length="5000")[0] == 200
    assert knock(tmp_path, "POST", "/gradio_api/upload", b"x", content_length="5001")[0] == 507
    (tmp_path / "a" / "small").write_bytes(b"x")  # takes a block of the disk
    assert knock(tmp_path, "POST", "/gradio_api/upload", b"x", content_length="1000")[0] == 507
    (tmp_path / "a" / "large").unlink()
    assert knock(tmp_path, "POST", "/gradio_api/upload", b"x", content_length="5001")[0] == 200


def test_empty_folders_of_deleted_files_go(tmp_path):
    for name in ("old", "young", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "x").write_bytes(b"x" * 5000)
    for name in ("old", "full", "."):
        os.utime(tmp_path / name, (0, 0))
    assert occupied(tmp_path) == 5000
    assert sorted(each.name for each in tmp_path.iterdir()) == ["full", "young"]


def test_every_answer_tells_the_browser_to_stay_here(tmp_path):
    for path in ("/", "/nowhere"):
        headers = knock(tmp_path, "GET", path)[2]
        assert b"default-src 'self'" in headers[b"content-security-policy"]
        assert b"http" not in headers[b"content-security-policy"]
        assert headers[b"x-content-type-options"] == b"nosniff"


def test_limits_are_checked():
    with pytest.raises(OptionError, match="megabytes=0"):
        Limits(megabytes=0)
    with pytest.raises(OptionError, match="together > long"):
        Limits(together=4, long=4)


def test_errors_are_ours():
    assert issubclass(StoppedError, LucidcamError)
