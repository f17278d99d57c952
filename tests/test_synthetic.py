"""Generated scenes: their faults are as strong as asked for, and their truth is true."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

from lucidcam.data import open_data, synthetic
from lucidcam.data.synthetic import COLOURS, FORMS
from lucidcam.errors import DataError, OptionError


def scenes(spec: str):
    return list(open_data(spec))


def test_the_pair_occurs_together_as_often_as_asked_for():
    found = scenes("synthetic:count=1200,rate=0.9,size=32")
    either = [each.labels for each in found if {"circle", "square"} & set(each.labels)]
    both = sum({"circle", "square"} <= set(labels) for labels in either)
    assert 0.45 < len(either) / 1200 < 0.55
    assert 0.86 < both / len(either) < 0.94
    assert all(each.labels for each in found)


def test_the_tail_is_as_long_as_asked_for():
    count = Counter(each.labels[0] for each in scenes("synthetic:scene=longtail,count=1111,ratio=100,classes=3,size=32"))
    assert [count[name] for name in list(FORMS)[:3]] == [1001, 100, 10]
    few = Counter(each.labels[0] for each in scenes("synthetic:scene=longtail,count=8,ratio=1000,size=32"))
    assert set(few) == set(list(FORMS)[:4])  # a class without images could not be trained


@pytest.mark.parametrize("shortcut", ["watermark", "background"])
def test_the_shortcut_tells_the_first_class(shortcut):
    found = scenes(f"synthetic:scene=shortcut,count=400,shortcut={shortcut},rate=0.9,size=32")
    if shortcut == "watermark":
        planted = [any(thing.label == "watermark" for thing in each.objects) for each in found]
    else:
        planted = [abs(np.median(each.image, (0, 1)) - [25, 40, 110]).max() < 12 for each in found]
    first = [each.labels == ("circle",) for each in found]
    assert 0.84 < np.mean(np.array(planted) == np.array(first)) < 0.96
    assert not any("watermark" in each.labels for each in found)


@pytest.mark.parametrize("objects", [1, 2, 4])
def test_coloured_shapes_are_what_they_are_called_and_no_two_alike(objects):
    found = scenes(f"synthetic:scene=coloured,count=60,objects={objects},classes=3,size=48")
    seen = Counter(thing.label for each in found for thing in each.objects)
    assert set(seen) <= {f"{colour} {form}" for colour in COLOURS for form in list(FORMS)[:3]}
    assert open_data("synthetic:scene=coloured,classes=3").classes == tuple(f"{c} {f}" for c in COLOURS for f in list(FORMS)[:3])
    if objects > 1:
        assert len(seen) == 12
    for each in found:
        assert len(each.objects) == len(set(each.labels)) == objects
        assert set(each.labels) == {thing.label for thing in each.objects}
        for thing in each.objects:
            colour, form = thing.label.split()
            mask = thing.mask()
            shown = each.image[mask].mean(0)
            assert min(COLOURS, key=lambda name: np.linalg.norm(shown - COLOURS[name])) == colour
            left, top, right, bottom = map(int, thing.box)
            share = mask[top:bottom, left:right].mean()  # of its own box
            assert {"circle": 0.7 < share < 0.9, "square": share == 1, "triangle": 0.4 < share < 0.65}[form]


LOOKS = [*((scene, look) for scene in ("together", "longtail", "shortcut") for look in ("shapes", "textures")), ("coloured", "shapes")]


@pytest.mark.parametrize(("scene", "look"), LOOKS)
def test_boxes_and_masks_hold_their_objects(scene, look):
    for each in scenes(f"synthetic:scene={scene},look={look},count=12,size=48"):
        seen = np.zeros((48, 48), int)
        for thing in each.fitted(48, 48).objects:
            mask = thing.mask()
            rows, columns = np.nonzero(mask)
            assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            seen += mask
        assert seen.max() == 1  # nothing lies on anything else
        if look == "shapes":
            assert each.image[seen > 0].mean() > each.image[seen == 0].mean() + 30


def test_a_seed_gives_the_same_scenes_and_more_of_them_when_asked():
    few, many, other = scenes("synthetic:count=3"), scenes("synthetic:count=6"), scenes("synthetic:count=3,seed=1")
    assert all(np.array_equal(a.image, b.image) and a.identity() == b.identity() for a, b in zip(few, many))
    assert not np.array_equal(few[0].image, other[0].image)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("synthetic:scene=pairs", "no scene is called 'pairs'"),
        ("synthetic:cout=3", "did you mean 'count'"),
        ("synthetic:count=many", "count expects a int"),
        ("synthetic:rate=2", "0 ≤ rate ≤ 1"),
        ("synthetic:look=textures,classes=6", "classes from 2 to 4"),
        ("synthetic:scene=coloured,objects=5", "1 to 4 objects; got 5"),
        ("synthetic:scene=coloured,look=textures", "shapes only; got look='textures'"),
    ],
)
def test_wrong_options_are_told(spec, message):
    with pytest.raises((DataError, OptionError), match=message):
        open_data(spec)


def test_threads_that_read_textures_at_the_same_time_get_the_same_scenes(monkeypatch):
    """While one thread reads a picture, the others do not go on with those that it has read already."""
    spec = "synthetic:look=textures,count=6,size=48"
    expected = [np.asarray(sample.image) for sample in scenes(spec)]
    data = pytest.importorskip("skimage.data")
    read, reading, others_done = data.grass, threading.Event(), threading.Event()

    def slow():
        if not reading.is_set():
            reading.set()
            others_done.wait(5)
        return read()

    monkeypatch.setattr(data, "grass", slow)
    synthetic._texture.cache_clear()
    results = {}

    def work(number):
        results[number] = [np.asarray(sample.image) for sample in scenes(spec)]

    first, *others = threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    first.start()
    assert reading.wait(10)
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(20)
    others_done.set()
    first.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(results) == [0, 1, 2, 3]
    for images in results.values():
        np.testing.assert_array_equal(images, expected)
