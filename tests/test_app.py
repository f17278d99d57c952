"""The web app's plain parts: photos, room for them, questions, maps, pixels, verdicts, pictures. No server."""

from __future__ import annotations

import base64
import errno
import io
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lucidcam
from lucidcam.errors import InputError, LucidcamError, ModelError, OptionError, TargetError
from lucidcam.imaging import maps
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.types import Frame
from lucidcam.web import map_metrics, payload, pixels, service, validation
from lucidcam.web.cache import Shelf
from lucidcam.web.errors import NoRoomError, PhotoGoneError, StoppedError, TooBusyError, WeightsChangedError
from lucidcam.web.examples import Example, examples
from lucidcam.web.fields import Fields, parsed
from lucidcam.web.limits import Limits
from lucidcam.web.service import Studio, in_full, scaled, twin
from lucidcam.web.store import BLOCK, Arriving, Store, Upload
from web_nets import LABELS, bomb, channels_last, photo, png, tiny, transformer


def nothing(_: float | None) -> None:
    """Whoever is told and does nothing."""


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.of({"tiny": tiny()})


@pytest.fixture
def stored():
    """A store with limits of one's own, closed at the end."""
    made = []

    def make(clock=time.monotonic, **limits: float) -> Store:
        made.append(Store(Limits(**limits), clock))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def upload(stored):
    store = stored()

    def add(content: bytes, name: str = "photo.png") -> Upload:
        return store.add(content, name)

    return add


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
    found = studio.photo(upload(encoded(format), "holiday.gif"), nothing)  # the name says something else, and does not matter
    assert found.whole.mode == "RGB"
    assert found.size == (96, 72)


@pytest.mark.parametrize(
    ("content", "told"),
    [
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
        studio.photo(upload(content, "../../etc/cat.png"), nothing)
    assert time.monotonic() - began < 1
    assert "/" not in str(refused.value).replace("./", "")  # no folder of the server, nor of the visitor
    assert "cat.png" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_large_photos_are_shown_small(studio, upload):
    found = studio.photo(upload(png(photo(1, (2000, 1000)))), nothing)
    assert found.size == found.whole.size == (2000, 1000)
    assert found.shown.size == (768, 384)


@pytest.mark.parametrize("fit", ["crop", "whole"])
def test_slender_photos_stay_small_for_a_usual_network(upload, fit):
    usual = replace(tiny(), preprocess=Preprocess(size=(224, 224), resize=256, fit=fit))
    studio = Studio.of({"usual": usual})
    served = studio.model("usual")
    assert max(studio.see(upload(png(Image.new("RGB", (4000, 200)))), served, nothing).prepared.tensor.shape) <= 20 * 256
    began = time.monotonic()
    with pytest.raises(InputError, match="one side more than 20 times the other"):
        studio.see(upload(png(Image.new("RGB", (60_000, 2)))), served, nothing)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat.png", "cat.png"),
        ("../../etc/cat.png", "cat.png"),
        ("C:\\photos\\cat.png", "cat.png"),
        ("two\nlines\x1b[31m\u202e.png", "two\\nlines\\x1b[31m\\u202e.png"),
        ("x" * 5000, "x" * 80),
        ("", "photo"),
        ("/", "photo"),
        ("\ud800", "\\ud800"),
    ],
)
def test_names_of_photos_are_only_shown(studio, upload, name, shown):
    assert studio.photo(upload(png(photo(1)), name), nothing).name == shown


def test_a_photo_is_upright(studio, upload):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert studio.photo(upload(encoded("JPEG", exif=exif)), nothing).size == (72, 96)


def test_shelf_keeps_what_was_used_last():
    shelf: Shelf[int] = Shelf(2)
    shelf.put("a", 1)
    shelf.put("b", 2)
    assert shelf.get("a") == 1
    shelf.put("c", 3)
    assert (shelf.get("a"), shelf.get("b"), shelf.get("c"), len(shelf)) == (1, None, 3, 2)


# ------------------------------------------------------------------------------------------------------------------- store


def test_photos_lie_in_files_without_a_name(upload):
    descriptor = Path(f"/proc/self/fd/{upload(b'abc')._file.fileno()}")
    if not descriptor.parent.exists():
        pytest.skip("this system does not tell what files are called")
    assert str(descriptor.readlink()).endswith(" (deleted)")


def test_photos_are_found_by_their_id_alone(stored):
    store = stored()
    one, other = store.add(b"abc", "a.png"), store.add(b"abc", "a.png")
    assert one.id != other.id
    assert one.digest == other.digest
    assert len({store.add(b"x", "x").id for _ in range(100)}) == 100
    assert len(base64.urlsafe_b64decode(one.id + "==")) == 16  # 128 bits
    assert store.get(one.id).read() == b"abc"
    for wrong in ("", "x", one.id[:-1], one.id + "x", one.id.swapcase(), one.digest, "/etc/passwd", "a.png", "0"):
        with pytest.raises(PhotoGoneError, match="the photo is no longer on the server") as told:
            store.get(wrong)
        assert str(told.value) == "the photo is no longer on the server; give it again."
    store.remove(one.id)
    store.remove(one.id)
    store.remove("x")
    with pytest.raises(PhotoGoneError):
        store.get(one.id)
    with pytest.raises(PhotoGoneError):
        one.read()
    assert store.get(other.id).read() == b"abc"


@pytest.mark.parametrize(
    ("length", "told"), [(0, "is empty"), (-5, "is empty"), (1_000_001, "at most 1 MB; this one has 1.0 MB"), (10**15, "1 MB")]
)
def test_lengths_are_refused_before_anything_comes(stored, length, told):
    store = stored(megabytes=1)
    with pytest.raises(InputError, match=told), store.arriving(length):
        pytest.fail("it was let in")
    assert store.occupied == 0


def test_more_than_was_promised_is_refused(stored):
    store = stored()
    with store.arriving(10) as arriving:
        arriving.write(b"x" * 6)
        with pytest.raises(InputError, match="of 10 bytes, as the request said; more came"):
            arriving.write(b"x" * 6)
    assert (store.occupied, arriving._file.closed) == (0, True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_what_does_not_come_whole_leaves_nothing(stored, error):
    store = stored()
    coming = store.arriving(10_000)
    arriving = coming.__enter__()
    arriving.write(b"x" * 10)
    assert store.occupied == 10_000
    raised = error()
    assert not coming.__exit__(type(raised), raised, None)
    assert (store.occupied, len(store), arriving._file.closed) == (0, 0, True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EIO])
@pytest.mark.parametrize("when", ["opened", "written", "flushed"])
def test_a_full_disk_is_told_and_takes_no_room(stored, monkeypatch, number, when):
    class Full(io.BytesIO):
        def write(self, part):
            if when == "written":
                raise OSError(number, "no")
            return super().write(part)

        def flush(self):
            if when == "flushed":
                raise OSError(number, "no")

    def opened():
        if when == "opened":
            raise OSError(number, "no")
        return Full()

    store = stored()
    monkeypatch.setattr("lucidcam.web.store.Arriving", lambda *given: Arriving(*given, _file=opened()))
    with pytest.raises(OSError if number == errno.EIO else NoRoomError):
        store.add(b"abc", "a.png")
    assert (store.occupied, store._uploads, len(store)) == (0, 0, 0)


def test_small_files_count_with_what_they_take_on_a_disk(stored):
    store = stored(room=1, megabytes=1)
    kept = [store.add(b"x", "x") for _ in range(300)]
    assert store.occupied == len(store) * BLOCK <= 1_000_000
    assert len(store) == 1_000_000 // BLOCK
    assert store.get(kept[-1].id)


def test_so_many_photos_and_no_more(stored):
    store = stored(photos=3)
    kept = [store.add(b"x", "x") for _ in range(5)]
    assert len(store) == 3
    for each in kept[:2]:
        with pytest.raises(PhotoGoneError):
            store.get(each.id)


def test_those_go_first_that_were_not_asked_about_for_longest(stored):
    store = stored(photos=3)
    one, two, three = (store.add(b"x", "x") for _ in range(3))
    store.get(one.id)
    store.add(b"x", "x")
    assert store.get(one.id)
    assert store.get(three.id)
    with pytest.raises(PhotoGoneError):
        store.get(two.id)
    assert two._file.closed


def test_photos_go_when_nobody_asks_about_them(stored):
    now = [0.0]
    store = stored(lambda: now[0], kept=60)
    one, two = store.add(b"x", "x"), store.add(b"x", "x")
    now[0] = 50
    store.get(two.id)
    now[0] = 100
    with pytest.raises(PhotoGoneError):
        store.get(one.id)
    assert store.get(two.id)
    now[0] = 161
    store.sweep()
    assert (len(store), two._file.closed) == (0, True)


def test_eight_uploads_at_once_with_room_for_two(stored):
    store = stored(room=2, megabytes=1)
    held = [store.arriving(1_000_000) for _ in range(8)]
    inside = []
    for each in held:
        try:
            inside.append((each, each.__enter__()))
        except NoRoomError as error:
            assert "try again in a minute" in str(error)  # noqa: PT017
    assert len(inside) == 2
    assert store.occupied == 2_000_000
    for each, arriving in inside:
        arriving.write(b"x" * 1_000_000)
        store.keep(arriving, "x")
        each.__exit__(None, None, None)
        assert store.occupied == 2_000_000
    newer = [store.add(b"y" * 1_000_000, "y") for _ in range(8)]  # push the older ones out
    assert (len(store), store.occupied) == (2, 2_000_000)
    assert [each.id for each in newer[-2:]] == list(store._photos)


def test_there_is_never_more_than_the_room_whatever_visitors_do(stored):
    store = stored(room=2, megabytes=1, photos=20, kept=0.02)
    most, files, refused = [0], [], []
    watching = threading.Event()

    def on_the_disk() -> int:
        return sum(each.room if each.room else each.length for each in list(files) if not each._file.closed)

    def watch() -> None:
        while not watching.is_set():
            most[0] = max(most[0], store.occupied)
            assert len(store) <= 20

    def visit(seed: int) -> None:
        draw = random.Random(seed)
        mine: list[str] = []
        for _ in range(60):
            try:
                with store.arriving(draw.choice([1, 5000, 300_000, 1_000_000, 2_000_000])) as arriving:
                    files.append(arriving)
                    for _ in range(draw.randrange(1, 4)):
                        arriving.write(b"x" * (arriving.limit // 3))
                    if draw.random() < 0.3:
                        raise ValueError
                    mine.append(store.keep(arriving, "x").id)
            except (LucidcamError, ValueError) as error:
                refused.append(type(error).__name__)
            action = draw.random()
            if mine and action < 0.3:
                store.remove(draw.choice(mine))
            elif mine and action < 0.7:
                try:
                    store.get(draw.choice(mine)).read()
                except PhotoGoneError:
                    refused.append("gone")

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(visit, seed) for seed in range(8)]:
            job.result(60)
    watching.set()
    watcher.join(5)
    assert 0 < most[0] <= 2_000_000
    assert {"NoRoomError", "ValueError", "gone"} <= set(refused)
    assert (store._coming, store._uploads) == (0, 0)
    kept = [upload for upload, _ in store._photos.values()]
    assert store.occupied == sum(max(BLOCK, each.length) for each in kept)
    assert sum(not each._file.closed for each in files) == len(kept)
    assert on_the_disk() == sum(each.length for each in kept)
    store.close()
    assert (store.occupied, len(store), any(not each._file.closed for each in files)) == (0, 0, False)


def test_an_upload_that_was_kept_counts_once(stored):
    store = stored(room=2, megabytes=1)
    first = store.add(b"x" * 900_000, "x")
    with store.arriving(600_000) as arriving:
        arriving.write(b"x" * 600_000)
        store.keep(arriving, "x")
        assert store.occupied == 1_500_000
        store.add(b"x" * 400_000, "x")  # as another visitor would, at this very moment
    assert store.get(first.id)
    assert store.occupied == 1_900_000


# --------------------------------------------------------------------------------------------------------------- questions


def test_fields_are_of_the_kind_that_is_expected():
    given = Fields({"a": "x", "b": 2, "c": True, "d": [1, "y"], "e": {"f": 1}, "g": None}, "abcdefgh")
    assert (given.text("a"), given.text("g", "z"), given.text("h", "z")) == ("x", "z", "z")
    assert (given.number("b", None, 0, 5), given.whole("b", 1, 0, 5), given.number("h", 0.5, 0, 1)) == (2.0, 2, 0.5)
    assert (given.flag("c", False), given.flag("h", True)) == (True, True)
    assert (given.several("d", 2), given.several("h", 2), given.class_name("b"), given.class_name("h")) == ([1, "y"], [], 2, None)
    assert (given.mapping("e"), given.mapping("h")) == ({"f": 1}, {})
    wrong = [
        lambda: given.text("b"),
        lambda: given.text("h"),
        lambda: given.text("a", longest=0),
        lambda: given.number("c", 0, 0, 5),
        lambda: given.number("b", 0, 0, 1),
        lambda: given.number("a", 0, 0, 1),
        lambda: given.flag("b", True),
        lambda: given.flag("g", True),
        lambda: given.several("a", 2),
        lambda: given.several("d", 1),
        lambda: given.class_name("c"),
        lambda: given.class_name("d"),
        lambda: given.mapping("d"),
        lambda: Fields({"a": 1}, "b"),
        lambda: Fields([1], "b"),
        lambda: Fields("a", "a"),
    ]
    for each in wrong:
        with pytest.raises(OptionError, match=r"expected|is called"):
            each()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"nothing",
        b"NaN",
        b'{"a": Infinity}',
        b"[-Infinity]",
        b"9" * 5000,
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"[1] 2",
        b"'a'",
    ],
)
def test_what_is_no_json_is_told_in_one_line(body):
    with pytest.raises(OptionError, match=r"^expected JSON\.$"):
        parsed(body)


def ask(studio: Studio, **changes: object) -> validation.Question:
    return validation.read({"photo": "p", **changes}, studio, nothing)


def test_a_question_is_what_was_asked(studio):
    found = ask(studio)
    assert (found.photo, found.served.name, found.layer, found.methods, found.classes, found.against) == (
        "p",
        "tiny",
        "5",
        ("gradcam",),
        (),
        None,
    )
    assert found.weights == studio.model("tiny").model.fingerprint()
    found = ask(studio, layer="3", methods=["rise", "layercam", "rise"], classes=["blue", 0, "2", "red"], options={"rise": {"masks": 10}})
    assert (found.layer, found.methods, found.classes) == ("3", ("rise", "layercam"), (2, 0))
    assert found.options == {"rise": {"masks": 10}, "layercam": {}}
    again = validation.read(json.loads(json.dumps(found.to_dict())), studio, nothing)
    assert again.to_dict() == found.to_dict()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"photo": None}, "expected a text as photo"),
        ({"photo": 5}, "expected a text as photo; got 5"),
        ({"photo": {"path": "/etc/passwd"}}, "expected a text as photo; got an object of 1"),
        ({"photo": "x" * 101}, "at most 100 letters as photo; got 101"),
        ({"path": "/etc/passwd"}, "no field of a question is called 'path'"),
        ({"model": "torchvision:resnet18"}, "no model is called"),
        ({"model": ["tiny"]}, "expected a text as model; got a list of 1"),
        ({"layer": "77"}, "no layer is called '77'"),
        ({"layer": 5}, "expected a text as layer; got 5"),
        ({"layer": "../5"}, "no layer is called"),
        ({"weights": "0"}, "the weights of tiny are others"),
        ({"methods": ["mcam"]}, "no method is called 'mcam'"),
        ({"methods": ["rollout"]}, "no method is called 'rollout'"),
        ({"methods": "gradcam"}, "expected a list as methods"),
        ({"methods": [["gradcam"]]}, "expected texts"),
        ({"classes": [99]}, "out of range"),
        ({"classes": [-1]}, "out of range"),
        ({"classes": [10**400]}, "a huge number"),
        ({"classes": [True]}, "expected texts of at most 100 letters and ids"),
        ({"classes": [0.5]}, "expected texts of at most 100 letters and ids"),
        ({"classes": ["gren"]}, "did you mean"),
        ({"classes": [""]}, "got empty text"),
        ({"classes": ["x" * 101]}, "expected texts of at most 100 letters"),
        ({"classes": ["x"] * 13}, "at most 12 entries in classes; got 13"),
        (
            {"classes": [0, 1, 2, 3, 4], "methods": ["gradcam", "layercam", "hirescam"]},
            "at most 12 maps side by side; got 3 methods × 5 classes",
        ),
        ({"classes": [0], "against": "red"}, "rather than itself"),
        ({"against": ["red"]}, "expected texts"),
        ({"options": [1]}, "expected a JSON object as options"),
        ({"options": {"gradcam": 1}}, "expected the options of gradcam as a JSON object"),
        ({"options": {"gradcam": {"x": 1}}}, "no option is called 'x'"),
    ],
)
def test_what_cannot_be_asked_is_told_in_words(studio, changes, told):
    with pytest.raises(LucidcamError, match=told) as refused:
        ask(studio, **changes)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_labels_are_counted_before_they_are_looked_up(studio, monkeypatch):
    looked_up = []
    monkeypatch.setattr(type(studio.model("tiny").model), "find_label", lambda self, word: looked_up.append(word) or 0)
    for changes in ({"classes": ["red"] * 13}, {"classes": ["red"] * 7, "methods": ["gradcam", "layercam"]}, {"classes": ["red"] * 2_000}):
        with pytest.raises(OptionError, match="at most 12"):
            ask(studio, **changes)
    assert looked_up == []


def test_looking_labels_up_can_be_stopped(studio):
    told = []

    def tell(share: float | None) -> None:
        told.append(share)
        if len(told) == 3:
            raise StoppedError("stopped.")

    with pytest.raises(StoppedError):
        validation.read({"photo": "p", "classes": ["red"] * 12}, studio, tell)
    assert len(told) == 3


def test_the_question_of_one_map_asks_for_one(studio):
    assert validation.read_one({"photo": "p", "classes": [1]}, studio, nothing).classes == (1,)
    for changes in ({"classes": []}, {"classes": [0, 1]}, {"classes": [0], "methods": ["gradcam", "layercam"]}):
        with pytest.raises(OptionError, match="question of one map"):
            validation.read_one({"photo": "p", **changes}, studio, nothing)


def test_every_method_of_the_app_has_options_that_can_be_shown():
    for name in lucidcam.methods():
        if name not in service.READS_SERVER_FILES:
            for each in validation.choices(name):
                assert each.checked(each.default) == each.default, (name, each)


def test_options_are_bounded():
    assert validation.options({"scorecam": {"budget": 64, "baseline": "0.5"}}, ["scorecam"]) == {
        "scorecam": {"budget": 64, "baseline": 0.5}
    }
    assert validation.options({"scorecam": {"budget": 64.0}}, ["scorecam"]) == {"scorecam": {"budget": 64}}
    assert validation.options({}, ["gradcam"]) == {"gradcam": {}}
    assert validation.options({"gradcam": None}, ["gradcam"]) == {"gradcam": {}}
    assert validation.options({"rise": {"masks": 10}}, ["gradcam"]) == {"gradcam": {}}  # of a method that is not asked for


@pytest.mark.parametrize(
    ("method", "given", "told"),
    [
        ("rise", {"masks": 1_000_000}, "masks between 0 and 8000"),
        ("rise", {"masks": 10**400}, "masks between 0 and 8000 here; got a huge number"),
        ("rise", {"masks": float("inf")}, "masks"),
        ("rise", {"masks": 1.5}, "masks"),
        ("rise", {"masks": True}, "masks"),
        ("rise", {"masks": None}, "got nothing"),
        ("rise", {"masks": "many"}, "masks"),
        ("rise", {"masks": "x" * 60_000}, "a short text as masks"),
        ("rise", {"mask": 10}, "no option is called 'mask'; did you mean 'masks'"),
        ("rise", {"x" * 60_000: 10}, "no option is called"),
        ("rise", {"baseline": "1e999"}, "finite as baseline"),
        ("rise", {"baseline": "nan"}, "finite as baseline"),
        ("rise", {"baseline": "-inf"}, "finite as baseline"),
        ("rise", {"baseline": float("inf")}, "finite as baseline"),
        ("rise", {"baseline": "x" * 21}, "a short text as baseline; got 21 letters"),
        ("rise", {"baseline": ["/etc/passwd"]}, "got a list of 1"),
        ("scorecam", {"weights": "x"}, "weights is called 'x'"),
        ("scorecam", {"weights": "x" * 99}, "weights is called"),
        ("scorecam", {"weights": {"a": 1}}, "got an object of 1"),
        ("scorecam", {"weights": []}, "got a list of 0"),
        ("gradcam", {"counterfactual": 3}, "counterfactual expects bool"),
        ("gradcam", {"counterfactual": [[[]]]}, "got a list of 1"),
    ],
)
def test_options_outside_their_bounds_are_told(method, given, told):
    with pytest.raises(OptionError, match=told) as refused:
        validation.options({method: given}, [method])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_no_method_reads_a_file_of_the_server(studio):
    for name, kind in lucidcam.methods().items():
        if any("Path" in str(each.type) for each in fields(kind)):
            assert name in service.READS_SERVER_FILES
            assert name not in studio.model("tiny").methods


def test_classes_are_found_by_id_and_label(studio):
    assert ask(studio, classes=["2", 0, " green ", 2]).targets == [2, 0, 1]
    assert ask(studio, classes=[2], against="red").targets == [lucidcam.Contrast(2, 0)]
    assert ask(studio, classes=[2, 0], against="red").targets == [lucidcam.Contrast(2, 0)]
    assert ask(studio, classes=[2, 0], against="").targets == [2, 0]


# ------------------------------------------------------------------------------------------------------------------ studio


def test_maps_are_those_of_explain(studio, upload):
    image = photo(3, (96, 72))
    served = studio.model("tiny")
    seen = studio.see(upload(png(image)), served, nothing)
    for method in ("gradcam", "layercam", "gradient", "excitation_backprop", "rise"):
        options = {"masks": 20} if method == "rise" else {}
        found = studio.explain(seen, served, served.default.name, method, options, [1, 4], nothing)
        expected = lucidcam.explain(served.model, image, method, [1, 4], progress=False, **options)
        for got, wanted in zip(found, expected, strict=True):
            assert torch.equal(got.raw, wanted.raw), method
            np.testing.assert_allclose(got.heatmap, wanted.heatmap, atol=1e-6)
            assert (got.label, got.score, got.probability, got.layer) == (wanted.label, wanted.score, wanted.probability, wanted.layer)


def test_what_is_known_is_not_made_again_and_nothing_is_mixed(studio, upload, monkeypatch):
    served = studio.model("tiny")
    seen = [studio.see(upload(png(photo(i))), served, nothing) for i in (10, 11)]
    made = [studio.explain(each, served, served.default.name, "gradcam", {}, [0, 1], nothing) for each in seen]
    assert not torch.equal(made[0][0].raw, made[1][0].raw)
    monkeypatch.setattr("lucidcam.web.service.explain", None)  # may not be called
    again = studio.explain(seen[0], served, served.default.name, "gradcam", {}, [1, 0], nothing)
    assert torch.equal(again[0].raw, made[0][1].raw)
    assert torch.equal(again[1].raw, made[0][0].raw)


def test_layers_come_in_order_and_change_the_map(studio, upload):
    served = studio.model("tiny")
    assert [place.name for place in served.places] == ["0", "1", "2", "3", "4", "5"]
    assert served.default.name == "5"
    assert (served.places[0].channels, served.places[0].grid) == (8, (24, 24))
    seen = studio.see(upload(png(photo(5))), served, nothing)
    shapes = [studio.explain(seen, served, i, "gradcam", {}, [0], nothing)[0].raw.shape for i in ("0", "5")]
    assert shapes == [(24, 24), (12, 12)]
    for wrong in ("6", "-1", "x", "", "5.", "0.weight", "x" * 5000):
        with pytest.raises(OptionError, match="no layer is called"):
            studio.explain(seen, served, wrong, "gradcam", {}, [0], nothing)


@pytest.mark.parametrize("model", [transformer(), channels_last()], ids=["tokens", "channels last"])
def test_channels_are_counted_where_the_layer_has_them(upload, model):
    studio = Studio.of({"net": model})
    served = studio.model("net")
    assert {place.channels for place in served.places if "wide" not in place.name} == {12}
    assert {place.channels for place in served.places if "wide" in place.name} == {20}
    seen = studio.see(upload(png(photo(5))), served, nothing)
    (one,) = studio.explain(seen, served, served.default.name, "hirescam", {}, [0], nothing)
    at, activations = pixels.pixel(served.model, seen.prepared, one, 0, 48, 36, count=99)
    assert at.note == ""
    assert len(at.channels) == len(activations) == served.default.channels


def test_the_likeliest_classes(studio, upload):
    served = studio.model("tiny")
    seen = studio.see(upload(png(photo(6))), served, nothing)
    with torch.no_grad():
        shares = served.model.module(seen.prepared.tensor[None]).softmax(1)[0]
    found = studio.top(seen, served)
    assert [each.id for each in found] == shares.topk(5).indices.tolist()
    assert found[0].label == LABELS[found[0].id]
    assert found[0].is_probability
    assert found[0].value == pytest.approx(float(shares.max()), rel=1e-5)


def test_only_models_named_at_start(studio):
    for name in ("demo", "torchvision:resnet18", "/etc/passwd", "", "TINY", "x" * 5000):
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
    seen = studio.see(upload(png(photo(7))), served, nothing)
    shares: list[float] = []

    def tell(share: float | None) -> None:
        if share is not None:
            shares.append(share)
            if share > 0.3:
                raise StoppedError("stopped.")

    with pytest.raises(StoppedError):
        studio.explain(seen, served, served.default.name, "rise", {"masks": 1000}, [0], tell)
    assert 0.3 < shares[-1] < 0.6
    assert shares == sorted(shares)
    assert len(studio.explain(seen, served, served.default.name, "rise", {"masks": 30}, [0], nothing)) == 1  # the next finds all as it was


def test_quick_work_passes_long_work(studio, upload):
    served = studio.model("tiny")
    seen = studio.see(upload(png(photo(8))), served, nothing)
    under_way, go_on = threading.Event(), threading.Event()

    def tell(share: float | None) -> None:
        under_way.set()
        go_on.wait(20)

    long = threading.Thread(target=studio.explain, args=(seen, served, served.default.name, "rise", {"masks": 40}, [0], tell))
    long.start()
    try:
        assert under_way.wait(20)
        assert studio.explain(seen, served, served.default.name, "gradcam", {}, [0], nothing)
    finally:
        go_on.set()
        long.join(20)


def test_so_many_long_computations_and_no_more(upload):
    studio = Studio.of({"tiny": tiny()}, Limits(long=1))
    served = studio.model("tiny")
    with studio.turn(served, True, nothing), pytest.raises(TooBusyError, match="try again in a minute"), studio.turn(served, True, nothing):
        pass
    with studio.turn(served, True, nothing):
        pass


def test_who_waits_for_a_turn_can_leave(studio):
    served = studio.model("tiny")

    def leave(_: float | None) -> None:
        raise StoppedError("stopped.")

    with studio.turn(served, True, nothing):
        with pytest.raises(StoppedError), studio.turn(served, True, leave):
            pass
        with studio.turn(served, False, leave):  # quick ones do not wait
            pass
    with studio.turn(served, True, nothing):
        pass


@pytest.mark.parametrize("how", ["in place", "loaded", "exchanged", "another layer"])
def test_weights_that_change_change_the_maps(upload, how):
    model = tiny()
    studio = Studio.of({"tiny": model})
    served, given = studio.model("tiny"), upload(png(photo(9)))
    seen = studio.see(given, served, nothing)
    options = {"gradcam": {}, "rise": {"masks": 20}}
    before = {method: studio.explain(seen, served, "5", method, options[method], [0], nothing)[0] for method in options}
    top = studio.top(seen, served)
    question = ask(studio, classes=[0]).to_dict()
    net, other = model.module, tiny(7).module
    with torch.no_grad():
        if how == "in place":
            for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
                mine.copy_(theirs)
        elif how == "loaded":
            net.load_state_dict(other.state_dict())
        elif how == "exchanged":
            for mine, theirs in zip(net, other, strict=True):
                for name, value in theirs.named_parameters():
                    setattr(mine, name, value)
        else:
            for number, layer in enumerate(other):
                net[number] = layer
    for method, old in before.items():
        (found,) = studio.explain(seen, served, "5", method, options[method], [0], nothing)
        (expected,) = lucidcam.explain(tiny(7), photo(9), method, 0, progress=False, **options[method])
        assert torch.equal(found.raw, expected.raw), method
        assert not torch.equal(found.raw, old.raw)
    assert studio.top(seen, served) != top
    with pytest.raises(WeightsChangedError, match="the weights of tiny are others than when this map was made; explain the photo again"):
        validation.read_one(question, studio, nothing)
    assert ask(studio, classes=[0]).weights != question["weights"]


@pytest.mark.parametrize("method", ["gradcam", "rise"])
@pytest.mark.parametrize("is_put_back", [True, False])
def test_weights_that_change_while_a_map_is_made(upload, monkeypatch, method, is_put_back):
    """Also where they are exchanged for the pass alone, as averages of weights are in trainings."""
    model = tiny()
    studio, options = Studio.of({"tiny": model}), {"masks": 20} if method == "rise" else {}
    served = studio.model("tiny")
    seen, other = studio.see(upload(png(photo(9))), served, nothing), tiny(7).module.state_dict()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    explain = lucidcam.web.service.explain

    def with_other_weights(*given, **named):
        model.module.load_state_dict(other)
        found = explain(*given, **named)
        if is_put_back:
            model.module.load_state_dict(before)
        return found

    monkeypatch.setattr("lucidcam.web.service.explain", with_other_weights)
    with pytest.raises(WeightsChangedError, match="the weights of tiny changed meanwhile; ask again"):
        studio.explain(seen, served, "5", method, options, [0], nothing)
    monkeypatch.undo()
    model.module.load_state_dict(before)
    (found,) = studio.explain(seen, served, "5", method, options, [0], nothing)
    (expected,) = lucidcam.explain(tiny(), photo(9), method, 0, progress=False, **options)
    assert torch.equal(found.raw, expected.raw)


def test_who_waits_for_a_turn_to_save_can_leave(studio, upload):
    served, given, _, one = seen_map(studio, upload)

    def leave(_: float | None) -> None:
        raise StoppedError("stopped.")

    is_writing, goes_on, written = threading.Event(), threading.Event(), []

    def write(full):
        is_writing.set()
        goes_on.wait(20)
        written.append(full.image.size)
        return b"x"

    with ThreadPoolExecutor(1) as visitor:
        first = visitor.submit(studio.save, one, given, served, write, nothing)
        try:
            assert is_writing.wait(20)
            with pytest.raises(StoppedError):
                studio.save(one, given, served, write, leave)
            assert studio.photo(given, nothing).size == (96, 72)  # saving holds up nobody who looks
        finally:
            goes_on.set()
        assert first.result(20) == b"x"
    assert studio.save(one, given, served, write, nothing) == b"x"
    assert written == [(96, 72)] * 2


def test_maps_that_are_kept_hold_no_photo(studio, upload):
    served = studio.model("tiny")
    seen = studio.see(upload(png(photo(19, (1500, 1000)))), served, nothing)
    (one,) = studio.explain(seen, served, "5", "gradcam", {}, [0], nothing)
    (again,) = studio.explain(seen, served, "5", "gradcam", {}, [0], nothing)
    assert one.image is again.image is seen.prepared.image
    assert all(each.image.size == (1, 1) for each in studio._maps._things.values())


def test_models_do_not_get_each_others_maps(upload):
    studio = Studio.of({"tiny": tiny(), "other": tiny(1)})
    given = upload(png(photo(9)))
    for name, seed in (("tiny", 0), ("other", 1), ("tiny", 0)):
        served = studio.model(name)
        (found,) = studio.explain(studio.see(given, served, nothing), served, "5", "gradcam", {}, [0], nothing)
        (expected,) = lucidcam.explain(tiny(seed), photo(9), "gradcam", 0)
        assert torch.equal(found.raw, expected.raw)
        assert (found.score, found.provenance.model["name"]) == (expected.score, name)


def test_frames_are_scaled():
    found = scaled(Frame(200, 100, (50.0, 0.0, 150.0, 100.0)), (100, 50))
    assert found == Frame(100, 50, (25.0, 0.0, 75.0, 50.0))


# ----------------------------------------------------------------------------------------------------------------- showing


def seen_map(studio, upload, number=12, method="gradcam", target=0, size=(96, 72)):
    served = studio.model("tiny")
    given = upload(png(photo(number, size)))
    seen = studio.see(given, served, nothing)
    return served, given, seen, studio.explain(seen, served, served.default.name, method, {}, [target], nothing)[0]


def decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_what_the_page_is_sent(studio, upload):
    _, _, _, one = seen_map(studio, upload)
    question = {"photo": "p", "classes": [0]}
    value = payload.viewed([one], [question])
    assert json.loads(json.dumps(value)) == value
    assert (value["width"], value["height"]) == (96, 72)
    assert value["box"] == [12, 0, 84, 72]  # the square in the middle
    (told,) = value["maps"]
    levels = np.asarray(decoded(told["levels"]))
    np.testing.assert_allclose(levels / 255, one.heatmap, atol=0.5 / 255 + 1e-6)
    assert decoded(value["picture"]).size == (96, 72)
    assert (told["question"], told["probability"], told["id"], told["label"]) == (question, one.probability, 0, "red")
    assert (told["grid"], told["maximum"]) == ([12, 12], float(one.raw.max()))


def test_palettes_are_those_of_matplotlib():
    import matplotlib

    for name, digits in payload.palettes().items():
        table = np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(256, 3)
        np.testing.assert_array_equal(table, (matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).round())


def test_downloads_have_all_pixels(studio, upload):
    served, given, _, one = seen_map(studio, upload, size=(1000, 750))
    assert one.image.size == (768, 576)
    full = in_full(one, studio.photo(given, nothing), served.model)
    (expected,) = lucidcam.explain(served.model, photo(12, (1000, 750)), "gradcam", 0)
    np.testing.assert_array_equal(full.map, expected.map)
    assert full.boxes(0.3) == expected.boxes(0.3)
    plain = payload.picture(full, "viridis", 0.4, 0.3, boxes=False, hide=False)
    np.testing.assert_array_equal(plain, expected.overlay("viridis", 0.4))
    hidden = np.asarray(payload.picture(full, "viridis", 0.4, 0.3, boxes=False, hide=True))
    inside = maps.threshold(full.heatmap, 0.3)
    np.testing.assert_array_equal(hidden[~inside], np.asarray(full.image)[~inside])
    np.testing.assert_array_equal(hidden[inside], np.asarray(plain)[inside])


def test_examples_are_photos(studio, upload):
    pytest.importorskip("skimage")
    found = examples()
    assert found
    for name, each in found.items():
        assert isinstance(each, Example)
        assert studio.photo(upload(each.content, f"{name}.jpg"), nothing).size[0] > 200
        assert max(Image.open(io.BytesIO(each.small)).size) <= 160


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
    seen = studio.see(upload(png(photo(14))), served, nothing)
    (one,) = studio.explain(seen, served, served.default.name, "gradcam", {"counterfactual": True}, [0], nothing)
    assert "these options" in pixels.pixel(served.model, seen.prepared, one, 0, 48, 36)[0].note


# ---------------------------------------------------------------------------------------------------------------- verdicts


def test_verdicts_are_those_of_the_metrics(studio, upload):
    served, _, seen, one = seen_map(studio, upload, 16, target=3)
    shares: list[float] = []
    found = {each.name: each for each in map_metrics.judge(served.model, seen.prepared, one, lambda share: shares.append(share or 0.0), 12)}
    inputs, raw = seen.prepared.tensor[None], one.raw[None]
    black = map_metrics.black(served.model).tolist()
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
        map_metrics.judge(served.model, seen.prepared, one, nothing)


# ------------------------------------------------------------------------------------------------------------------ limits


def test_limits_are_checked():
    with pytest.raises(OptionError, match="megabytes=0"):
        Limits(megabytes=0)
    with pytest.raises(OptionError, match="kept=nan"):
        Limits(kept=float("nan"))
    with pytest.raises(OptionError, match="together > long"):
        Limits(together=4, long=4)
    with pytest.raises(OptionError, match="room for one file at least"):
        Limits(room=1, megabytes=2)


def test_errors_are_ours():
    for kind in (StoppedError, TooBusyError, NoRoomError, PhotoGoneError):
        assert issubclass(kind, LucidcamError)
