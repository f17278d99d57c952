"""What was done is compared before it is gone on with: files, code, attributes, hooks, caches; and processes may be killed at any time."""

import copy
import functools
import json
import os
import random
import shutil
import signal
import sys
import types
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lucidcam
import runs
from lucidcam.errors import DataError, LucidcamError, OptionError
from lucidcam.evaluation.journal import Journal, Part
from lucidcam.io.storage import SETTINGS
from lucidcam.pipeline import crew
from lucidcam.samples import Sample
from lucidcam.utils.behaviour import behaviour
from lucidcam.utils.fingerprint import fingerprint, steady

QUIET = {"progress": False}
ASKED = {**QUIET, "unit": 2, "optimized": False, "write": ("npz", "voc"), "metrics": "sparseness"}


def photos(folder, count=5):
    folder.mkdir()
    for i, image in enumerate(runs.images(count)):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run that came to its end: its photos and its folder."""
    place = tmp_path_factory.mktemp("done")
    root = photos(place / "photos")
    (root / "5.png").write_bytes(b"no picture")
    lucidcam.run(runs.colours(), root, place / "out", **ASKED)
    return place


def flipped(path):
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 4
    path.write_bytes(content)


def leading_elsewhere(path):
    target = path.parent.parent.parent / "mine.txt"
    target.write_text("mine")
    path.unlink()
    path.symlink_to(target)


def replaced_by(make):
    def replace(path):
        path.unlink()
        make(path)

    return replace


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "emptied": lambda path: path.write_bytes(b""),
    "a bit": flipped,
    "gone": lambda path: path.unlink(),
    "a folder": replaced_by(os.mkdir),
    "a link": leading_elsewhere,
    "a loop": replaced_by(lambda path: path.symlink_to(path.name)),
    "a pipe": replaced_by(os.mkfifo),
    "a device": replaced_by(lambda path: path.symlink_to("/dev/zero")),
}
DAMAGED = ("maps/000000.npz", "index/000001.parquet", "labels/000002.jsonl", "metrics/000000.npz", "failures.jsonl", "images.csv")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_again(done, tmp_path, damage):
    out = tmp_path / "out"
    shutil.copytree(done / "out", out)
    before = runs.digests(out)
    for name in (*DAMAGED, *(() if damage == "gone" else ("units/000001.json",))):
        DAMAGES[damage](out / name)
    results = lucidcam.run(runs.colours(), done / "photos", out, **ASKED)
    assert runs.digests(out) == before
    assert "maps/000000.npz" in results.repairs[0]
    if damage == "a link":
        assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not lucidcam.run(runs.colours(), done / "photos", out, **ASKED).repairs


def test_damage_is_told_when_results_are_read(done, tmp_path):
    shutil.copytree(done / "out", tmp_path / "out")
    for name in ("maps/000000.npz", "index/000001.parquet"):
        flipped(tmp_path / "out" / name)
    results = lucidcam.Results(tmp_path / "out")
    with pytest.raises(DataError, match=r"maps/000000\.npz .* not as it was written"):
        results.map(0)
    with pytest.raises(DataError, match=r"index/000001\.parquet"):
        list(results.rows())
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json"):
        lucidcam.Results(tmp_path / "out")


@pytest.mark.parametrize("asked", [{}, {"retry_failed": True}, {"restart": True}], ids=str)
def test_settings_that_are_gone_or_changed_end_it(done, tmp_path, asked):
    shutil.copytree(done / "out", tmp_path / "out")
    settings = tmp_path / "out" / SETTINGS
    content = json.loads(settings.read_text())
    content["images_at_once"] += 1
    settings.write_text(json.dumps(content))
    if not asked.get("restart"):
        with pytest.raises(OptionError, match="not as lucidcam wrote it"):
            lucidcam.run(runs.colours(), done / "photos", tmp_path / "out", **ASKED, **asked)
    settings.unlink()
    before = runs.digests(tmp_path / "out")
    with pytest.raises(OptionError, match=r"no settings\.json"):
        lucidcam.run(runs.colours(), done / "photos", tmp_path / "out", **ASKED, **asked)
    assert runs.digests(tmp_path / "out") == before


def test_failed_files_that_were_mended_are_tried_again(tmp_path):
    root = photos(tmp_path / "photos", 4)
    good = (root / "2.png").read_bytes()
    (root / "2.png").write_bytes(good[: len(good) // 2])
    asked = {**ASKED, "write": ("npz",)}
    assert lucidcam.run(runs.colours(), root, tmp_path / "out", **asked).manifest["failed"] == 1
    (root / "2.png").write_bytes(good)
    with pytest.raises(DataError, match="--retry-failed"):
        lucidcam.run(runs.colours(), root, tmp_path / "out", **asked)
    results = lucidcam.run(runs.colours(), root, tmp_path / "out", retry_failed=True, **asked)
    assert (results.manifest["failed"], results.manifest["images"]) == (0, 4)
    (root / "3.png").write_bytes(good)  # one that did not fail
    with pytest.raises(DataError, match="data changed"):
        lucidcam.run(runs.colours(), root, tmp_path / "out", retry_failed=True, **asked)


SOURCE = """
import threading, time, uuid, functools, enum
import numpy as np, torch
from torch import nn

FACTOR = {factor}
TABLE = {{"b": 2, "a": {entry}}}

class Scale:
    def __init__(self, value):
        self.value, self.made = value, time.time()
    def apply(self, x):
        return x * self.value + {offset}

def helper(x, by={default}):
    return x * by * {constant}

class Net(nn.Module):
    weight = {of_class}

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, dilation={dilation})
        nn.init.ones_(self.layer.weight), nn.init.zeros_(self.layer.bias)
        self.gain, self.listed, self.scale = {attribute}, [1, {item}], Scale({inner})
        self.array = np.array([1.0, {array}])
        self.register_buffer("passing", torch.tensor({buffer}), persistent=False)
        self.hidden = [nn.Linear(1, 1)]
        nn.init.constant_(self.hidden[0].weight, {hidden}), nn.init.zeros_(self.hidden[0].bias)
        cell = {cell}
        self.function = lambda x: x + cell
        self.part = functools.partial(torch.mul, other={part})
        self.words = frozenset({words})
        self.lock, self.born, self.id, self.thing = threading.Lock(), time.time(), uuid.uuid4(), object()
        self.calls, self.cache, self.seen, self.last = 0, {{}}, [], None
        self.draw = torch.Generator()

    @property
    def twice(self):
        return {property} * self.gain

    @torch.no_grad()
    def beside(self, x):
        return x * {decorated}

    def forward(self, x):
        '''Documentation does not count.'''
        with self.lock:
            self.calls += 1
            self.last = x
            self.cache[x.shape] = self.calls
            self.seen.append(x.shape)
        assert self.thing is not None
        def nested(y):
            return y * {nested}
        x = self.part(self.function(nested(helper(self.layer(x) * self.weight))))
        x = self.scale.apply(x) * self.twice * FACTOR * TABLE["a"] + self.passing + self.array.sum() + sum(self.listed)
        x = x + len(self.words & {{"a"}}) + self.hidden[0](x.mean().reshape(1)) + self.beside(x)
        return x.mean((2, 3)) + 0 * torch.rand(1, generator=self.draw)
"""
VALUES = {
    **{"factor": 2.0, "entry": 2.0, "offset": 2.0, "default": 2.0, "constant": 2.0, "of_class": 2.0, "attribute": 2.0, "item": 2.0},
    **{
        "inner": 2.0,
        "array": 2.0,
        "buffer": 2.0,
        "hidden": 2.0,
        "cell": 2.0,
        "part": 2.0,
        "property": 2.0,
        "decorated": 2.0,
        "nested": 2.0,
    },
    **{"dilation": 1, "words": {"a", "b", "c"}},
}


def net(**values):
    """A network whose code is written anew, as in another process."""
    module = types.ModuleType("nets_of_mine")
    exec(compile(SOURCE.format(**{**VALUES, **values}), "nets_of_mine.py", "exec"), vars(module))
    return module.Net()


@pytest.mark.parametrize("name", VALUES)
def test_another_value_anywhere_is_another_network(name):
    other = {"dilation": 2, "words": {"a", "x"}}.get(name, 3.0)
    assert behaviour(net()) != behaviour(net(**{name: other}))


HOOKS = {
    "forward": lambda module: module.layer.register_forward_hook(lambda m, args, out: out * 2),
    "before": lambda module: module.layer.register_forward_pre_hook(lambda m, args: None),
    "parametrization": lambda module: nn.utils.parametrizations.weight_norm(module.layer),
    "method": lambda module: setattr(module, "forward", types.MethodType(lambda self, x: x.mean((2, 3)), module)),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_and_exchanged_methods_are_another_network(kind):
    module = net()
    HOOKS[kind](module)
    assert behaviour(module) != behaviour(net())
    again = net()
    HOOKS[kind](again)
    assert behaviour(module) == behaviour(again)


def test_what_passes_is_not_counted():
    """Neither what a network notes while it runs, nor what hooks keep, nor another process."""
    module, kept, last = net(), [], {}
    module.layer.register_forward_hook(lambda m, args, out: kept.append(out))
    module.layer.register_forward_hook(lambda m, args, out: last.update(out=out))
    before = behaviour(module)
    module(torch.rand(1, 3, 8, 8))
    assert behaviour(module) == before
    assert behaviour(net()) == behaviour(net())


def test_preprocessing_is_told_by_what_it_does():
    def scaled(by):
        return lambda image: image * by

    assert steady(scaled(2)) == steady(scaled(2)) != steady(scaled(3))
    assert steady(functools.partial(max, 2)) != steady(functools.partial(max, 3))
    assert steady(np.arange(2000)) != steady(np.arange(2000)[::-1].copy())
    assert " at 0x" not in steady(object())


@pytest.mark.parametrize("what", ["run", "evaluate"])
def test_another_network_of_the_same_weights_does_not_go_on(tmp_path, what):
    def model(**values):
        return lucidcam.wrap(net(**values), runs.colours().preprocess, runs.LABELS, layer="layer")

    def work(model):
        if what == "run":
            return lucidcam.run(model, runs.images(2), tmp_path / "out", optimized=False, **QUIET)
        return lucidcam.evaluate(model, runs.images(2), "gradcam", "sparseness", baselines=(), out=tmp_path / "out", resamples=0, **QUIET)

    work(model())
    work(model())
    with pytest.raises(OptionError, match="other settings"):
        work(model(nested=3.0))


def test_a_cache_of_what_is_no_more_is_set_aside(tmp_path, monkeypatch):
    """A change that no description shows is found by computing one batch again."""
    layer = nn.Conv2d(3, 3, 3)
    module = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = lucidcam.wrap(module.eval(), runs.colours().preprocess, runs.LABELS, layer="1")
    monkeypatch.setattr("lucidcam.pipeline.worker.architecture", lambda _: "the same")
    asked = {**QUIET, "optimized": False, "images_at_once": 2, "method": "layercam"}
    lucidcam.run(model, runs.images(6), tmp_path / "one", cache=tmp_path / "cache", **asked)
    layer.register_forward_hook(lambda m, args, out: out * 2)
    kept = runs.digests(tmp_path / "cache")
    two = lucidcam.run(model, runs.images(6), tmp_path / "two", cache=tmp_path / "cache", **asked)
    plain = lucidcam.run(model, runs.images(6), tmp_path / "plain", **asked)
    assert all(np.array_equal(a, b) for a, b in zip(two.maps(), plain.maps(), strict=True))
    assert any("without the cache" in note for note in two.manifest["notes"])
    assert runs.digests(tmp_path / "cache") == kept


def test_a_flipped_bit_in_a_cache_is_not_read(tmp_path):
    asked = {**QUIET, "cache": tmp_path / "cache", "optimized": False}
    one = lucidcam.run(runs.colours(), runs.images(4), tmp_path / "one", **asked)
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2 :: 4] = bytes(len(content[len(content) // 2 :: 4]))
        path.write_bytes(content)
    two = lucidcam.run(runs.colours(), runs.images(4), tmp_path / "two", **asked)
    assert list(two.rows()) == list(one.rows())


def test_every_damaged_byte_of_an_evaluation_is_seen(tmp_path):
    with Journal(tmp_path, {}) as journal:
        journal.write("images", 0, ["a"], Part(("a",)))
        path = tmp_path / "parts" / "images-000000.npz"
        content = path.read_bytes()
        for i in range(0, len(content), 3):
            path.write_bytes(content[:i] + bytes([content[i] ^ 16]) + content[i + 1 :])
            assert journal.read("images", 0, ["a"]) is None
        path.unlink()
        os.mkfifo(path)
        assert journal.read("images", 0, ["a"]) is None
        path.unlink()
        journal.damaged.clear()
        assert journal.read("images", 0, ["a"]) is None
        assert not journal.damaged


class Fleeting:
    """A worker's process that ends before it is ready, as often as it is said."""

    def __init__(self, exitcode):
        self.exitcode = exitcode

    def join(self):
        pass

    def terminate(self):
        pass


@pytest.mark.parametrize(("codes", "told"), [((-9, -9), None), ((-9, -11, -9), "killed before they were ready"), ((1,), "importable")])
def test_workers_that_end_before_they_are_ready(monkeypatch, codes, told):
    """Those that are killed are replaced, a few times; an error of their own comes again, and ends it."""
    import multiprocessing
    import threading

    left = list(codes)

    def start(job):
        ours, theirs = multiprocessing.Pipe()
        if left:
            theirs.close()
            return crew._Member(Fleeting(left.pop(0)), ours)

        def work():
            with suppress(EOFError, OSError):
                theirs.send(("ready", None))
                while theirs.recv() is not None:
                    theirs.send(("record", "record"))
            theirs.close()

        threading.Thread(target=work).start()
        return crew._Member(Fleeting(0), ours)

    monkeypatch.setattr(crew, "_start", start)
    units = [types.SimpleNamespace(number=i) for i in range(3)]
    if told is None:
        assert list(crew.crew([None, None], iter(units), lambda _: None)) == ["record"] * 3
    else:
        with pytest.raises(LucidcamError, match=told):
            list(crew.crew([None, None], iter(units), lambda _: None))


class Killing:
    """An image that ends the process that reads it."""

    def __init__(self, name, end):
        self.name, self.end = name, end

    def read(self):
        self.end()
        return b""

    def identity(self):
        return self.name


ENDS = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "a fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(0),
    "aborted": os.abort,
}


@pytest.mark.skipif(sys.platform != "linux", reason="images are tried in forks on Linux alone")
def test_images_that_kill_their_reader_are_failures(tmp_path):
    root = photos(tmp_path / "photos", 3)
    images = [*sorted(root.glob("*.png")), *(Sample(Deadly(name), name) for name in ENDS), *runs.images(2)]
    images[0], images[3] = images[3], images[0]
    results = lucidcam.run(runs.colours(), images, tmp_path / "out", unit=4, optimized=False, **QUIET)
    assert [each["image"] for each in results.failures()] == list(ENDS)
    assert all("died" in each["error"] for each in results.failures())
    assert results.manifest["images"] == 5


class Deadly(Killing):
    """Travels to another process by its name alone."""

    def __init__(self, name):
        super().__init__(name, lambda: ENDS[name]())

    def __reduce__(self):
        return Deadly, (self.name,)


def test_a_preprocessing_that_kills_is_survived_too(tmp_path):
    def to_tensor(image):
        if image.size == (31, 31):
            os._exit(1)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    model = lucidcam.wrap(runs.Colours(), to_tensor, runs.LABELS, layer="seen", frame="whole")
    images = [*runs.images(2), np.zeros((31, 31, 3), np.uint8)]
    results = lucidcam.run(model, images, tmp_path / "out", optimized=False, **QUIET)
    assert [each["sample"] for each in results.failures()] == [2]


@pytest.mark.parametrize("options", [{}, {"with_kwargs": True}, {"prepend": True}])
def test_the_number_that_torch_gives_a_hook_does_not_count(options):
    def look(module, *values):
        return None

    texts = []
    for others in range(3):
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        for _ in range(others):  # each takes a number
            network.register_forward_pre_hook(look).remove()
        network[0].register_forward_pre_hook(look, **options)
        network[1].register_forward_hook(look, **options)
        texts.append(behaviour(network))
    assert len(set(texts)) == 1


def in_other_order(network):
    """The same numbers in the same memory: neither the sum nor torch's count of changes tells."""
    weight = network[0].weight.data
    weight.copy_(weight.flip(0))


def at_another_place(network):
    network[0].weight.data = network[0].weight.data.flip(0)


def at_the_same_address(network):
    values = network[0].weight.detach().flip(0)
    array = network[0].weight.detach().numpy()
    network[0].weight = None
    array[:] = values.numpy()
    network[0].weight = nn.Parameter(torch.from_numpy(array))


@pytest.mark.parametrize("change", [in_other_order, at_another_place, at_the_same_address])
@pytest.mark.parametrize("channels", [2, 64])
def test_weights_in_another_order_have_another_fingerprint(change, channels):
    network = nn.Sequential(nn.Conv2d(channels, 8, 3, bias=False))
    network[0].weight.data = torch.arange(network[0].weight.numel()).remainder(251).float().reshape(network[0].weight.shape)
    before = fingerprint(network)
    assert fingerprint(network) == before
    change(network)
    assert fingerprint(network) == fingerprint(copy.deepcopy(network)) != before
