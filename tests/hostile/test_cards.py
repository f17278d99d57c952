"""A card is a file of anyone's: whatever it holds, it runs nothing, reads no other file and ends in a network or one line of ours."""

import copy
import importlib
import json
import random
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

import lucidcam
from lucidcam.errors import LucidcamError, ModelError
from lucidcam.models._card import KIND, Card

CALLS: list[tuple] = []
"""What `tempting` was called with."""


def tempting(*args, **kwargs):
    CALLS.append((args, kwargs))
    return lucidcam.load("gap:small", pretrained=False, num_classes=2).module


@pytest.fixture(scope="module")
def content():
    """The card of a network that can be loaded."""
    return {
        "kind": KIND,
        "weights": "model.safetensors",
        "architecture": "gap:small",
        "options": {"num_classes": 2, "pooling": "gap", "channels": "default"},
        "labels": ["cat", "dog"],
        "layer": "features",
        "preprocess": {"size": [64, 64], "resize": 64},
    }


@pytest.fixture(scope="module")
def weights():
    module = lucidcam.load("gap:small", pretrained=False, num_classes=2).module
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def laid(folder: Path, weights, content, beside=False) -> Path:
    """Write a network, as a folder or as a file of weights with a card beside it."""
    save_file(weights, folder / "model.safetensors")
    (folder / "model.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "model.safetensors" if beside else folder


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    "architecture",
    [
        "os:system",
        "subprocess:run",
        "builtins:exec",
        f"{__name__}:tempting",
        "gap:os:system",
        f"gap:{__name__}:tempting",
        "gap:gap:small",
        "gap:file:other.pt",
        "gap:demo:",
        "file:other.pt",
        "demo:",
        "timm:local-dir:/etc",
        "timm:hf-hub:someone/something",
        "gap:timm:hf_hub:someone/something",
        "torchvision:resnet18\n",
        ":resnet18",
        "timm:",
        "lucidcam",
        "",
        7,
        ["timm:resnet18"],
        {"timm": "resnet18"},
        True,
    ],
)
def test_a_card_names_no_function_and_no_file(tmp_path, weights, content, architecture, beside, monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda name, *rest: pytest.fail(f"{name} was imported"))
    CALLS.clear()
    marker = tmp_path / "marker"
    path = laid(tmp_path, weights, {**content, "architecture": architecture, "options": {"command": f"touch {marker}"}}, beside)
    with pytest.raises(ModelError, match="architecture") as caught:
        lucidcam.load(path)
    assert "\n" not in str(caught.value)
    assert not CALLS
    assert not marker.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_path": "other.pt"},
        {"pretrained_cfg": {"file": "other.pt"}},
        {"weights": "DEFAULT"},
        {"pretrained": True},
        {"trust_remote_code": True},
        {"cache_dir": "/"},
        {"num_classes": 10**12},
        {"num_classes": -1},
        {"num_classes": True},
        {"num_classes": 3},
        {"size": 10**6},
        {"channels": 10**9},
        {"channels": "a:b"},
        {"at": ["features"]},
        {"pooling": {"gap": 1}},
        {"": 1},
    ],
)
@pytest.mark.parametrize("architecture", ["gap:small", "timm:resnet18", "torchvision:resnet18", "gap:timm:resnet18"])
def test_a_card_gives_no_option_but_sizes(tmp_path, weights, content, architecture, options):
    with pytest.raises(ModelError, match=r"option|classes"):
        lucidcam.load(laid(tmp_path, weights, {**content, "architecture": architecture, "options": options}))


def test_the_user_may_name_a_function(tmp_path, weights, content):
    path = laid(tmp_path, weights, {**content, "architecture": None, "options": {}})
    CALLS.clear()
    assert lucidcam.load(path, architecture=f"{__name__}:tempting").labels == ("cat", "dog")
    assert CALLS
    assert lucidcam.load(path, architecture=tempting).name == tmp_path.name


@pytest.mark.parametrize("change", [{}, {"options": {"num_classes": 2}}, {"architecture": "gap:small", "layer": None}])
def test_a_good_card_is_used(tmp_path, weights, content, change):
    assert lucidcam.load(laid(tmp_path, weights, {**content, **change})).labels == ("cat", "dog")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"kind": ' * 50_000, "9" * 5_000, '{"a": ' + "9" * 5_000 + "}", "\x00", "\ud800".encode("utf-8", "surrogatepass")],
    ids=["lists", "objects", "integer", "member", "zero", "surrogate"],
)
def test_damaged_text_is_one_line(tmp_path, weights, text):
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError) as caught:
        lucidcam.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_card_of_fifty_megabytes_is_not_read(tmp_path, weights, content):
    path = laid(tmp_path, weights, content)
    with (path / "model.json").open("ab") as file:
        file.truncate(50_000_000)
    with pytest.raises(ModelError, match="50000000 bytes"):
        lucidcam.load(path)


ODD = (
    None, True, 0, -1, 10**12, 1e300, "", "x" * 1000, "\u2028\n", "os:system", f"{__name__}:tempting", [], [[]], {}, {"a": {}}, ["a", "b"],
    [1, 2], [0, 0], "../..", "/etc/passwd", "softmax", "L", [0.5], [10**9, 10**9], float("nan"), float("inf"),
)  # fmt: skip


@pytest.mark.parametrize("seed", range(120))
def test_any_content_gives_a_network_or_one_line(tmp_path, weights, content, seed, monkeypatch):
    """Members are dropped, exchanged and put in at random, at any depth."""
    modules = set(sys.modules)
    random_ = random.Random(seed)
    changed = json.loads(json.dumps(content))
    for _ in range(random_.randint(1, 3)):
        place = changed
        while random_.random() < 0.5:
            inner = [value for value in place.values() if isinstance(value, dict)]
            if not inner:
                break
            place = random_.choice(inner)
        names = [*place, *Card.__dataclass_fields__, "command", "checkpoint_path", "size", "resize", "std", "window", "fit"]
        name = random_.choice(names)
        if random_.random() < 0.15:
            place.pop(name, None)
        elif name != "kind":
            place[name] = copy.deepcopy(random_.choice(ODD))
    CALLS.clear()
    problem = ""
    try:
        model = lucidcam.load(laid(tmp_path, weights, changed))
        assert model.labels is None or all(isinstance(label, str) for label in model.labels)
        repr(model)
    except LucidcamError as error:
        problem = str(error)
    assert "\n" not in problem
    assert len(problem) < 1000
    assert not CALLS
    assert not {name for name in set(sys.modules) - modules if not name.startswith(("lucidcam", "torch", "timm", "numpy", "transformers"))}
