"""What a saved explanation says of where it comes from, and that it is never said wrongly."""

from __future__ import annotations

import copy
import functools
import gc
import json
import pickle
import platform
import weakref
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lucidcam
from commands import run
from lucidcam.imaging import provenance
from lucidcam.imaging.preprocess import Clips, Preprocess
from lucidcam.imaging.provenance import CHANGED, GONE, UNFOLLOWED, UNREADABLE, Weights, described
from lucidcam.methods.settings import Settings
from lucidcam.outputs.html.explanation import page
from nets import FunctionalGAP, Tokens, build
from test_engine import METHODS, few, suited

LABELS = ("red", "green", "blue", "grey", "black")


def model(kind: type[nn.Module] = FunctionalGAP, layer: str | None = None) -> lucidcam.Model:
    return lucidcam.wrap(build(kind), Preprocess(size=(20, 28)), LABELS, layer=layer, name="small")


def photo(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 60, 3), np.uint8))


def told(explanation: lucidcam.Explanation, **options: Any) -> dict[str, Any]:
    """What the explanation says, through JSON, where all numbers are finite."""
    return json.loads(json.dumps(explanation.to_dict(**options), allow_nan=False))


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_every_method_is_named(method: str) -> None:
    kind, layer = suited(method)
    network = model(kind, layer)
    options = few(method, network.module, torch.rand(1, 3, 20, 28).double(), layer)
    (found,) = lucidcam.explain(network, photo(), method, 2, seed=3, **options)
    seen = told(found)
    own = {each.name for each in fields(lucidcam.methods()[method])}
    general = {each.name for each in fields(Settings)} - {"progress", "images_at_once"}
    assert own | general <= set(seen["options"])
    assert seen["options"] == {**seen["options"], "seed": 3, **{key: described(value) for key, value in options.items()}}
    assert seen["method"] == method
    assert (seen["target"], seen["id"]) == (2, 2)
    assert seen["model"]["name"] == "small"
    assert seen["model"]["fingerprint"] == network.fingerprint()
    assert seen["versions"] == {"lucidcam": lucidcam.__version__, "torch": str(torch.__version__), "python": platform.python_version()}


def a_score(outputs: torch.Tensor) -> torch.Tensor:
    return outputs[:, 0]


class Scorer:
    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, 1]

    def score(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, 1]


@pytest.mark.parametrize(
    ("target", "asked", "against"),
    [
        (None, "predicted", None),
        ("green", 1, None),
        (torch.tensor(1), 1, None),
        ([0, "blue"], [0, 2], None),
        ("all", "all", None),
        ("top2", "top2", None),
        (lucidcam.Contrast("red", "blue"), {"type": "Contrast", "target": 0, "against": 2}, (2, "blue")),
        (lucidcam.Probability("red"), {"type": "Probability", "target": 0}, None),
        (
            lucidcam.Several([0, lucidcam.Contrast(1, 2)]),
            {"type": "Several", "targets": [0, {"type": "Contrast", "target": 1, "against": 2}]},
            None,
        ),
        (a_score, {"type": "Function", "function": f"{__name__}.a_score"}, None),
        (Scorer(), {"type": "Function", "function": f"{__name__}.Scorer"}, None),
        (Scorer().score, {"type": "Function", "function": f"{__name__}.Scorer.score"}, None),
        (
            functools.partial(a_score),
            {"type": "Function", "function": {"type": "partial", "function": f"{__name__}.a_score", "args": [], "keywords": {}}},
            None,
        ),
    ],
    ids=lambda each: "",
)  # fmt: skip
def test_the_target_is_named_as_asked(target: Any, asked: Any, against: tuple[int, str] | None) -> None:
    for found in lucidcam.explain(model(), photo(), target=target):
        seen = told(found)
        assert seen["target"] == asked
        assert seen.get("against") == (None if against is None else {"id": against[0], "label": against[1]})
        if isinstance(asked, list):
            assert seen["id"] in asked


def test_a_contrast_with_the_predicted_class_names_that_of_each_image() -> None:
    network = model()
    photos = [photo(seed) for seed in range(3)]
    predicted = [each.target for each in lucidcam.explain(network, photos)]
    other = next(i for i in range(5) if i not in predicted)
    found = lucidcam.explain(network, photos, target=lucidcam.Contrast(other, None))
    assert [told(each)["against"]["id"] for each in found] == predicted
    assert [told(each)["target"]["against"] for each in found] == [None] * 3


def test_images_that_are_asked_different_things_say_their_own() -> None:
    found = lucidcam.explain(model(), [photo(0), photo(1), photo(2)], target=[3, [1, 2], None])
    assert [(told(each)["target"], each.target) for each in found[:3]] == [(3, 3), ([1, 2], 1), ([1, 2], 2)]
    assert told(found[3])["target"] == "predicted"


@pytest.mark.parametrize("threshold", [0.6, 0.9])
@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_boxes_of_files_follow_the_threshold_that_they_name(tmp_path: Path, suffix: str, threshold: float) -> None:
    (found,) = lucidcam.explain(model(), photo(), "gradient", target=1)
    path = found.save(tmp_path / f"map.{suffix}", threshold=threshold)
    if suffix == "json":
        seen = json.loads(path.read_text())
    else:
        with np.load(path, allow_pickle=False) as archive:
            seen = json.loads(str(archive["info"]))
            np.testing.assert_array_equal(archive["map"], found.map)
    boxes = [list(box) for box in found.boxes(threshold)]
    assert boxes
    assert boxes != [list(box) for box in found.boxes(0.2)]
    assert (seen["threshold"], seen["box"], seen["boxes"]) == (threshold, boxes[0], boxes)
    assert seen == told(found, threshold=threshold)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    (found,) = lucidcam.explain(model(), photo())
    with pytest.raises(lucidcam.LucidcamError, match="threshold"):
        found.to_dict(threshold)


def test_the_part_of_the_photo_that_the_network_saw_is_named() -> None:
    network = lucidcam.wrap(build(FunctionalGAP), Preprocess(size=(20, 20), resize=30), LABELS)
    (found,) = lucidcam.explain(network, photo())
    assert told(found)["input"] == {"box": [20.0, 5.0, 40.0, 25.0]}
    mirrored = replace(found, frame=replace(found.frame, mirrored=True))
    assert told(mirrored)["input"] == {"box": [20.0, 5.0, 40.0, 25.0], "mirrored": True}


def test_a_clip_and_its_frames_say_where_they_come_from() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    network = lucidcam.wrap(net.eval(), Clips(still=Preprocess(size=(16, 16)), count=4), ["bright", "dark"], name="clips")
    (found,) = lucidcam.explain(network, [photo(seed) for seed in range(6)], target="dark")
    for each in (found, *found.film):
        seen = told(each)
        assert (seen["target"], seen["frame"], seen["model"]["name"]) == (1, each.time, "clips")
        assert seen["model"]["fingerprint"] == network.fingerprint()


def step(net: nn.Module) -> None:
    with torch.no_grad():
        net.conv2.weight.add_(1.0)


def through_data(net: nn.Module) -> None:
    net.conv2.weight.data.mul_(2.0)


def through_numpy(net: nn.Module) -> None:
    net.norm.running_mean.numpy()[...] += 1


def load(net: nn.Module) -> None:
    net.load_state_dict(build(FunctionalGAP, seed=9).state_dict())


def exchange(net: nn.Module) -> None:
    net.conv2 = build(FunctionalGAP, seed=9).conv2


def exchange_data(net: nn.Module) -> None:
    net.fc.weight.data = net.fc.weight.data + 1


def retype(net: nn.Module) -> None:
    net.float()


@pytest.mark.parametrize("change", [step, through_data, through_numpy, load, exchange, exchange_data, retype])
def test_the_fingerprint_is_that_of_the_weights_at_the_time_of_the_map(change: Callable[[nn.Module], None]) -> None:
    network = model()
    before, kept = lucidcam.explain(network, photo())[0], lucidcam.explain(network, photo())[0]
    first = network.fingerprint()
    change(network.module)
    after = lucidcam.explain(network, photo())[0]
    assert told(before)["model"]["fingerprint"] is None
    assert told(before)["model"]["fingerprint_unknown"] == CHANGED
    assert told(kept)["model"]["fingerprint"] is None
    assert told(after)["model"]["fingerprint"] == network.fingerprint() != first
    step(network.module)
    assert told(after)["model"]["fingerprint"] != network.fingerprint()  # it was asked for in time


def test_a_map_between_two_exchanges_of_the_weights_is_not_taken_for_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Averaged weights are put in place through `.data`, and taken out again."""
    network = model()
    lucidcam.explain(network, photo())
    usual = network.module.conv2.weight.detach().clone()
    network.module.conv2.weight.data.copy_(usual * 0.5)
    (averaged,) = lucidcam.explain(network, photo())
    network.module.conv2.weight.data.copy_(usual)
    assert told(averaged)["model"]["fingerprint"] is None


@pytest.mark.parametrize("noted", [True, False])
def test_changes_past_the_version_on_an_accelerator_are_seen_by_the_norm(monkeypatch: pytest.MonkeyPatch, noted: bool) -> None:
    """There no values can be compared: an accelerator is stood for by tensors of which `TensorState` notes no values."""
    monkeypatch.setattr(provenance, "ON_HOST", () if noted else ("cpu", "meta"))
    monkeypatch.setattr("lucidcam.utils.tensor_state.SMALL", 0)
    monkeypatch.setattr("lucidcam.utils.tensor_state.LENGTH", 0)
    network = model()
    (found,) = lucidcam.explain(network, photo())
    network.module.conv2.weight.data.mul_(1.5)
    assert (told(found)["model"]["fingerprint"] is None) == noted
    (after,) = lucidcam.explain(network, photo())
    assert not noted or told(after)["model"]["fingerprint"] == network.fingerprint()


def test_a_fingerprint_is_computed_when_it_is_asked_for_and_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[nn.Module] = []
    real = provenance.fingerprint

    def counted(module: nn.Module) -> str:
        calls.append(module)
        return real(module)

    monkeypatch.setattr(provenance, "fingerprint", counted)
    network = model()
    found = [each for seed in range(4) for each in lucidcam.explain(network, photo(seed))]
    found[0].save(tmp_path / "map.png")
    assert not calls
    for i, each in enumerate(found):
        each.save(tmp_path / f"{i}.json")
        each.save(tmp_path / f"{i}.npz")
    assert len(calls) == 1


def test_an_explanation_keeps_no_network_and_says_when_it_is_gone() -> None:
    network = model()
    asked, late = lucidcam.explain(network, photo(0))[0], lucidcam.explain(model(), photo(0))[0]
    fingerprint = told(asked)["model"]["fingerprint"]
    alive = weakref.ref(network.module)
    del network
    gc.collect()
    assert alive() is None
    assert told(asked)["model"]["fingerprint"] == fingerprint
    assert told(late)["model"] == {**told(late)["model"], "fingerprint": None, "fingerprint_unknown": GONE}


class Unreadable(FunctionalGAP):
    def state_dict(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError("of the user's own")


def test_weights_that_cannot_be_read_are_explained_and_told() -> None:
    (found,) = lucidcam.explain(model(Unreadable), photo())
    assert told(found)["model"]["fingerprint_unknown"] == UNREADABLE


@pytest.mark.filterwarnings("ignore")  # torch has moved quantisation elsewhere
@pytest.mark.parametrize("program", ["script", "freeze", "trace", "export", "compile", "optimize"])
def test_programs_and_copies_have_fingerprints(program: str) -> None:
    net, x = build(FunctionalGAP, dtype=torch.float32), torch.rand(1, 3, 20, 28)
    made: dict[str, Callable[[], nn.Module]] = {
        "script": lambda: torch.jit.script(net),
        "freeze": lambda: torch.jit.freeze(torch.jit.script(net)),
        "trace": lambda: torch.jit.trace(net, x),
        "export": lambda: torch.export.export(net, (x,)).module(),
        "compile": lambda: torch.compile(net, backend="eager"),
        "optimize": lambda: lucidcam.optimize(net, x),
    }
    network = made[program]()
    noted = Weights.of(network)
    network(x)
    assert Weights.of(network) is noted
    assert noted.fingerprint == provenance.fingerprint(network)
    assert program in ("freeze", "compile") or noted.fingerprint == provenance.fingerprint(net)


@pytest.mark.filterwarnings("ignore")  # torch has moved quantisation elsewhere
def test_weights_that_are_copied_when_they_are_read_have_no_fingerprint() -> None:
    network = torch.ao.quantization.quantize_dynamic(build(FunctionalGAP, dtype=torch.float32), {nn.Linear})
    (found,) = lucidcam.explain(lucidcam.wrap(network, Preprocess(size=(20, 28)), LABELS), photo(), "eigencam", 1)
    assert told(found)["model"]["fingerprint_unknown"] == UNFOLLOWED


@pytest.mark.parametrize(
    "again", [lambda each: pickle.loads(pickle.dumps(each)), copy.deepcopy, copy.copy, lambda each: replace(each, name="x")]
)
def test_copies_and_pickles_say_the_same_without_the_network(again: Callable[[Any], Any]) -> None:
    network = model()
    (found,) = lucidcam.explain(network, photo(), target=lucidcam.Contrast(0, 1))
    copied = again(found)
    fingerprint = network.fingerprint()
    expected = {**told(found), "image": copied.name}
    assert told(copied) == expected
    assert len(pickle.dumps(found)) < 30_000 + found.raw.nbytes
    step(network.module)
    assert told(copied)["model"]["fingerprint"] == fingerprint


def test_explanations_of_earlier_versions_and_by_hand_go_on(tmp_path: Path) -> None:
    (found,) = lucidcam.explain(model(), photo())
    by_hand = replace(found, provenance=None)
    old = pickle.loads(pickle.dumps(found))
    del old.__dict__["provenance"]
    for each in (by_hand, old):
        assert not {"model", "options", "target", "versions"} & set(told(each))
        each.save(tmp_path / "map.npz")
        each.save(tmp_path / "map.html")
    lucidcam.report([found, by_hand], tmp_path / "report.html")


def test_the_page_of_an_explanation_says_where_it_comes_from() -> None:
    (found,) = lucidcam.explain(model(), photo(), target="blue")
    facts = {
        key: value
        for section in page(found, threshold=0.3).sections
        for part in section.parts
        for key, value in getattr(part, "facts", {}).items()
    }
    assert facts["threshold"] == 0.3
    assert facts["model: fingerprint"] == told(found)["model"]["fingerprint"]
    assert facts["options: seed"] == 0


def test_streams_of_many_images_do_not_note_it_for_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run's manifest says it once."""
    monkeypatch.setattr(Weights, "of", lambda module: pytest.fail("noted"))
    for i in range(3):
        photo(i).save(tmp_path / f"{i}.png")
    results = lucidcam.run(model(), tmp_path, out=tmp_path / "out", progress=False)
    assert set(results.manifest["versions"]) == {"lucidcam", "torch", "python"}
    assert not {"options", "versions"} & set(next(iter(results.rows())))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("inf"), "inf"),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        (torch.zeros(100, 2), "float32 [100, 2]"),
        (torch.zeros(2, device="meta"), "float32 [2]"),
        (torch.zeros(2, 2).to_sparse(), "float32 [2, 2]"),
        ({"a": (1, Path("x"))}, {"a": [1, "x"]}),
        ({2, 1}, [1, 2]),
        (Image.new("L", (3, 2)), "picture L 3 × 2"),
        (torch.float16, "torch.float16"),
        (nn.ReLU(), "torch.nn.modules.activation.ReLU"),
        (Tokens, "nets.Tokens"),
        (len, "builtins.len"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, (Image.Image, torch.Tensor)) else str(each),
)
def test_values_are_written_as_json_has_them(value: Any, text: Any) -> None:
    assert json.loads(json.dumps(described(value), allow_nan=False)) == text


def test_a_value_within_itself_is_written_to_a_depth() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "…" in json.dumps(described(loop), ensure_ascii=False)


def test_the_command_line_names_threshold_and_origin(tmp_path: Path) -> None:
    photo().resize((120, 60)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    run("explain", tmp_path / "a.png", "--threshold", 0.7, "--format", "json", "--format", "npz", "--target", "7", "--out", out)
    (entry,) = json.loads((out / "explanations.json").read_text())
    seen = json.loads(Path(entry["files"][0]).read_text())
    assert entry == {**seen, "files": entry["files"]}
    assert (seen["threshold"], seen["target"], seen["model"]["name"]) == (0.7, 7, "demo")
    with np.load(entry["files"][1]) as archive:
        assert json.loads(str(archive["info"])) == seen
    lucidcam.report(out, tmp_path / "report.html")
