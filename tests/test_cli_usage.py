"""The command line's own part: which words are flags and which are paths, what answers a mistyped word, how networks of one's own load."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from commands import run
from lucidcam.cli._usage import Command, expanded, flags_of, in_flags
from lucidcam.cli.program import app

NETWORK = """
from torch import nn

class Network(nn.Module):
    def __init__(self, classes, channels=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))

def build(num_classes=4):
    return Network(num_classes)

def grey():
    return Network(3, channels=1)

def single():
    return Network(1)

def needs_count(num_classes):
    return Network(num_classes)

def raises():
    raise ValueError("no licence\\nsecond line")

def number():
    return 3

constant = 5
"""


def _leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from _leaves(child, (*words, name))
    else:
        yield words, command


TREE = typer.main.get_command(app)
LEAVES = dict(_leaves(TREE))
COMMANDS = [pytest.param(words, id=" ".join(words)) for words in LEAVES]
TAKES_FLAGS_OF_METHODS = {words for words, command in LEAVES.items() if command.context_settings.get("ignore_unknown_options")}
LOADS = {words for words, command in LEAVES.items() if "--architecture" in flags_of(command)}


@pytest.fixture
def err(capsys: pytest.CaptureFixture[str]) -> Any:
    """Read the one line that standard error holds."""

    def line() -> str:
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    return line


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a network's code, weights, labels and photos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "my_network.py").write_text(NETWORK)
    (tmp_path / "broken_network.py").write_text("x = 1 / 0\n")
    (tmp_path / "misspelt_network.py").write_text("def (\n")
    (tmp_path / "labels.txt").write_text("cat\ndog\nowl\nfox\n\n")
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    torch.manual_seed(0)
    for name, build in (("four", lambda: namespace["build"]()), ("six", lambda: namespace["build"](6)), ("grey", namespace["grey"])):
        torch.save(build().state_dict(), tmp_path / f"{name}.pt")
    torch.save(namespace["single"]().state_dict(), tmp_path / "single.pt")
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            _photo(tmp_path / "data" / name / f"{number}.png", seed=number)
    _photo(tmp_path / "photo.png")
    (tmp_path / "empty").mkdir()
    yield tmp_path
    for name in ("my_network", "broken_network", "misspelt_network"):
        sys.modules.pop(name, None)


def _photo(path: Path, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


# ------------------------------------------------------------------------------------------------------------ mistyped flags


def _mistyped(flag: str, known: list[str]) -> list[str]:
    """A letter less, a letter twice, two letters in each other's place; none of them a flag."""
    letters = flag[2:]
    middle = len(letters) // 2
    words = [letters[:-1], letters[:middle] + letters[middle] + letters[middle:], letters[:-2] + letters[:-3:-1]]
    if "-" in letters:
        words.append(letters.replace("-", "_"))
    return [f"--{word}" for word in dict.fromkeys(words) if len(word) > 1 and f"--{word}" not in known]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_mistyped_flag_is_answered_with_flags(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, err: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command = LEAVES[words]
    run(*words, "--help")
    shown = capsys.readouterr().out
    in_help = set(re.findall(r"(?<![\w-])--[\w-]+", shown))
    known = flags_of(command)
    assert set(known) <= in_help
    needed = {("run",): ["x", "--out", "y"]}.get(words, ["x"])
    monkeypatch.setattr("lucidcam.cli.program.app", TREE)  # built once
    accepted = in_help | ({"--counterfactual"} if words in TAKES_FLAGS_OF_METHODS else set())  # of gradcam, the default
    for number, flag in enumerate(known):
        mistyped = _mistyped(flag, known)
        for word in mistyped[number % len(mistyped) :][:1] if mistyped else []:  # every way of mistyping, over the flags
            if words in TAKES_FLAGS_OF_METHODS and _is_method_flag(word):
                continue
            run(*words, *needed, word, code=2)
            answer = err()
            assert f"no option is called '{word}'" in answer
            offered = re.findall(r"'(--[^']+)'", answer.partition("; ")[2]) or re.findall(r"--[\w-]+", answer.partition("known: ")[2])
            assert offered
            assert word not in offered
            assert set(offered) <= accepted, (word, offered)
    for name in (parameter.name for parameter in command.params if parameter.opts[0].startswith("-")):
        python_name = f"--{name.replace('_', '-')}"
        if python_name not in accepted and not _is_method_flag(python_name):
            run(*words, *needed, python_name, code=2)
            answer = err()
            assert not set(re.findall(r"'(--[^']+)'", answer.partition("; ")[2])) - accepted


def _is_method_flag(word: str) -> bool:
    from lucidcam.cli._usage import _method_options

    return word[2:].replace("-", "_").removeprefix("no_") in _method_options()


@pytest.mark.parametrize("words", COMMANDS)
def test_every_help_fits_80_columns(words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run(*words, "--help")
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_ours(words: tuple[str, ...]) -> None:
    assert isinstance(LEAVES[words], Command)


def test_a_python_name_is_answered_with_its_flag(err: Any) -> None:
    run("explain", "x.jpg", "--as-json", code=2)
    answer = err()
    assert "'--json'" in answer
    assert "'--as-json'" not in answer.partition(";")[2]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["explain", "x.jpg", "-json"], "no option is called '-json'; did you mean '--json'"),
        (["explain", "x.jpg", "-out", "y"], "no option is called '-out'; did you mean '--out'"),
        (["evaluate", "x", "-layer", "y"], "no option is called '-layer'; did you mean '--layer'"),
        (["explain", "x.jpg", "--JSON"], "did you mean '--json'"),
        (["explain", "x.jpg", "--countrfactual"], "did you mean '--counterfactual'"),
        (["explain", "x.jpg", "--smoth", "2"], "did you mean '--smooth'"),
        (["explain", "x.jpg", "--method"], "--method needs a value."),
        (["evaluate", "x", "--metric"], "--metric needs a value."),
        (["expain", "x.jpg"], "no command is called 'expain'; did you mean 'explain'"),
        (["train", "gpa"], "no command is called 'gpa'; did you mean 'gap'?"),
        (["study", "mak"], "no command is called 'mak'; did you mean 'make'?"),
        (["--versoin"], "no option is called '--versoin'; did you mean '--version'?"),
        (["run", "x"], "missing option '--out' / '-o' (see lucidcam run --help)."),
        (["channels", "x", "y"], "unexpected extra argument"),
    ],
)
def test_usage_errors_are_one_line(words: list[str], answer: str, err: Any) -> None:
    run(*words, code=2)
    assert answer in err()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["explain", "photo.png", "--threshold", "abc"], "--threshold expects a number; got 'abc'."),
        (["explain", "photo.png", "--threshold=2"], "expected a --threshold between 0 and 1"),
        (["explain", "photo.png", "--batch-size", "0"], "expected --batch-size ≥ 1; got 0."),
        (["explain", "photo.png", "--images-at-once", "0"], "expected --images-at-once ≥ 1; got 0."),
        (["explain", "photo.png", "--method", "rise", "--masks", "0"], "expected --masks ≥ 1"),
        (["explain", "photo.png", "--method", "scorecam", "--tolerance", "-1"], "0 ≤ --tolerance < 1"),
        (["explain", "photo.png", "--fit", "cropp"], "--fit expects crop or squash or whole; got 'cropp'."),
        (["explain", "photo.png", "--model", ""], "--model expects a name or a path"),
        (["explain", "photo.png", "--outputs", "sofmax"], "--outputs expects softmax or sigmoid or probabilities or none; got 'sofmax'."),
        (["explain", "photo.png", "--decision-threshold", "1.5"], "--decision-threshold expects a probability between 0 and 1; got 1.5."),
        (["explain", "photo.png", "--num-classes", "5"], "--num-classes does not go with demo."),
        (["explain", "photo.png", "--labels", "labels.txt"], "--labels does not go with demo."),
        (["explain", "photo.png", "--input-size", "64"], "--input-size: only for checkpoint files"),
        (["explain", "missing.png"], "'missing.png' does not exist"),
        (["explain", "missing.png", "lost.png"], "none of 2 paths can be used; the first: 'missing.png' does not exist"),
        (["explain", "empty"], "'empty' is a folder without images"),
        (["evaluate", "missing"], "the data set 'missing' does not exist"),
        (["evaluate", "empty"], "no images are in 'empty'"),
        (["evaluate", "data", "--limit", "0"], "--limit expects at least 1; got '0'."),
        (["evaluate", "data", "--images", "x"], "--images does not go with folder."),
        (["run", "data", "--out", "r", "--workers", "many"], "--workers expects a whole number; got 'many'."),
        (["run", "data", "--out", "r", "--engine", "slurm"], "--engine expects local or ray; got 'slurm'."),
        (["run", "data", "--out", "r", "--min-area", "2"], "expected --min-area between 0 and 1"),
        (["localize", "data", "--regions", "bigest"], "--regions expects all or largest; got 'bigest'."),
        (["audit", "data", "--images-per-class", "0"], "expected --images-per-class ≥ 16"),
        (["audit", "data", "--target", "foo"], "got --target 'foo'."),
        (["app", "--port", "99999"], "--port expects at most 65535; got '99999'."),
        (["train", "gap", "data", "--epochs", "0"], "--epochs expects at least 1; got '0'."),
        (["explain", "photo.png", "four.pt"], "four.pt is a checkpoint, not data: give it by --model four.pt."),
    ],
)  # fmt: skip
def test_wrong_values_are_named_with_their_flag(words: list[str], answer: str, place: Path, err: Any) -> None:
    run(*words, code=2)
    assert answer in err()


def test_what_is_quoted_stays_as_it_is() -> None:
    command = LEAVES["explain",]
    text = "the network's batch_size is 'batch_size', labels=… and \"batch_size\", pretrained=False, dtype, my_batch_size"
    expected = "the network's --batch-size is 'batch_size', --labels … and \"batch_size\", --untrained, dtype, my_batch_size"
    assert in_flags(text, command) == expected
    assert in_flags("restart it (restart=True, --restart)", LEAVES["run",]) == "restart it (restart=True, --restart)"
    did_you = "no class is called 'ct'; did you mean 3 (cat)?"
    assert in_flags(did_you, LEAVES["explain",], ("--mean", "0")) == did_you


@pytest.mark.parametrize("name", ["a:ok:b", "[red]c", ":cat: [dim] :dog:"])
def test_names_are_printed_as_they_are(name, tmp_path, monkeypatch, capsys):
    """Neither colons nor brackets in them are signs of a terminal's markup."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("no image")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / name).with_suffix(".png").write_text("no image")
    run("explain", "photos", "--method", name, code=2)
    assert f"no method is called {name!r}" in capsys.readouterr().err
    run("explain", "photos", "--out", "out", code=1)
    assert f"{name}.png" in capsys.readouterr().err


def test_no_words_at_all_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    run("evaluate", code=2)
    assert "--metric" in capsys.readouterr().out


def test_a_command_without_groups_is_left_alone() -> None:
    def command(x: int) -> None: ...

    assert expanded(command) is command


# ------------------------------------------------------------------------------------------------------------- words after --


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "--out", "out", "--counterfactual", "--", "-x.png", "photo.png"],
        ["explain", "--out", "out", "--", "photo.png", "--y.png"],
        ["run", "--out", "out", "--target", "1", "--workers", "1", "--", "-data"],
        ["localize", "--target", "1", "--out", "coco:out", "--", "-data"],
        ["discover", "--target", "1", "--out", "out", "--", "-data"],
        ["audit", "--target", "predicted", "--out", "out", "--", "-data"],
        ["evaluate", "--metric", "average_drop", "--baseline", "random", "--resamples", "0", "--out", "out", "--", "-data"],
        ["channels", "--out", "out", "--", "-x.png"],
        ["bench", "--method", "gradcam", "--repeats", "1", "--images", "1", "--no-memory", "--out", "out", "--", "-x.png"],
    ],
    ids=lambda words: " ".join(words[:1] + words[-1:]),
)
def test_what_comes_after_two_dashes_is_a_path(words: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _photo(place / "-x.png")
    _photo(place / "--y.png")
    (place / "data").rename(place / "-data")
    end = words.index("--")
    model = ["--model", "four.pt", "--architecture", "my_network:build", "--input-size", "32"]
    run(*words[:end], *model, *words[end:])
    assert any((place / "out").iterdir())
    if words[0] == "explain":
        images = [Path(entry["image"]).name for entry in json.loads((place / "out" / "explanations.json").read_text())]
        assert images == words[end + 1 :]


# --------------------------------------------------------------------------------------------------- networks of one's own


ENOUGH = {
    ("explain",): ["photo.png", "--out", "out"],
    ("channels",): ["photo.png", "--out", "out"],
    ("concepts",): ["--bank", "data", "--out", "out/names.json"],
    ("evaluate",): ["data", "--metric", "average_drop", "--baseline", "random", "--resamples", "0", "--out", "out"],
    ("audit",): ["data", "--out", "out"],
    ("bench",): ["photo.png", "--method", "gradcam", "--repeats", "1", "--images", "1", "--no-memory", "--out", "out"],
    ("run",): ["data", "--out", "out", "--workers", "2"],
    ("localize",): ["data", "--out", "coco:out"],
    ("discover",): ["data", "--out", "out"],
    ("layers",): [],
    ("train", "memory"): ["data", "--epochs", "1", "--slots", "2", "--out", "out"],
}


@pytest.mark.slow
@pytest.mark.parametrize("words", sorted(LOADS - {("app",)}), ids=" ".join)
def test_every_command_takes_a_function_of_ones_own(words: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "four.pt", "--architecture", "my_network:build", "--labels", "labels.txt", "--input-size", "32x40", "--mean", "0.5"]
    if words == ("concepts",):
        for name in ("cat", "dog"):
            for number in range(2, 20):
                _photo(place / "data" / name / f"{number}.png", seed=number)
    run(*words, *ENOUGH[words], *model)
    shown = capsys.readouterr()
    assert "assumed for four.pt, ImageNet's usual: RGB, scale 1/255, std 0.229,0.224,0.225; --channels, --scale, --std say" in shown.err
    if words == ("layers",):
        assert "6×32×40" in shown.out
    else:
        assert any((place / "out").rglob("*"))


def test_the_app_takes_a_function_of_ones_own(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    served: dict[str, Any] = {}

    class Server:
        url = "http://127.0.0.1:1"

        def wait(self) -> None: ...

    def serve(models: dict[str, Any], *_: Any, **__: Any) -> Server:
        served.update(models)
        return Server()

    monkeypatch.setattr("lucidcam.web.serve", serve)
    run("app", "--model", "four.pt", "--architecture", "my_network:build", "--labels", "labels.txt", "--auth", "name:word")
    run("app", "--architecture", "my_network:build", "--untrained")
    assert list(served) == ["four.pt", "my_network:build (untrained)"]
    assert served["four.pt"].labels == ("cat", "dog", "owl", "fox")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["four.pt"], "'four.pt' holds weights only; say what they are for: --architecture 'timm:NAME'"),
        (["demo", "--architecture", "my_network:build"], "--architecture my_network:build is for a checkpoint file: give"),
        (["demo", "--architecture", "timm:resnet18"], "--untrained for random weights."),
        (["my_network:build"], "my_network:build would be a function"),
        (["four.pt", "--architecture", "my_network"], "expected --architecture 'timm:NAME', 'torchvision:NAME' or 'module:function'"),
        (["four.pt", "--architecture", "my_network:bild"], "no architecture is called 'my_network:bild' (module 'my_network' has no"),
        (["four.pt", "--architecture", "their_network:build"], "no architecture is called 'their_network:build' (No module named"),
        (["four.pt", "--architecture", "broken_network:build"], "the module 'broken_network' of the architecture raised ZeroDivisionError"),
        (["four.pt", "--architecture", "misspelt_network:build"], "the module 'misspelt_network' of the architecture raised SyntaxError"),
        (["four.pt", "--architecture", "my_network:raises"], "the architecture 'my_network:raises' raised ValueError: no licence."),
        (["four.pt", "--architecture", "my_network:needs_count"], "the architecture 'my_network:needs_count' cannot be built"),
        (["four.pt", "--architecture", "my_network:number"], "expected the architecture 'my_network:number' to return a module; got int."),
        (["four.pt", "--architecture", "my_network:constant"], "to be a function that returns a module; got int."),
        (["four.pt", "--architecture", "my_network:single"], "do not fit 'my_network:single'"),
        (["four.pt", "--architecture", "my_network:build", "--mean", "1,2"], "--mean expects one number or 3, one per channel (RGB)"),
        (["four.pt", "--architecture", "my_network:build", "--mean", "a"], "--mean expects one number or 3"),
        (["four.pt", "--architecture", "my_network:build", "--mean", "123,117,104"], "give --scale 1"),
        (["four.pt", "--architecture", "my_network:build", "--std", "0"], "--std expects positive numbers; got '0'."),
        (["four.pt", "--architecture", "my_network:build", "--std", "nan"], "--std expects one number or 3"),
        (["four.pt", "--architecture", "my_network:build", "--scale", "0"], "--scale expects a positive number; got 0."),
        (["four.pt", "--architecture", "my_network:build", "--input-size", "big"], "--input-size expects pixels, HEIGHT or HEIGHTxWIDTH"),
        (["four.pt", "--architecture", "my_network:build", "--labels", "missing.txt"], "--labels missing.txt cannot be read"),
        (["four.pt", "--architecture", "my_network:build", "--labels", "empty"], "--labels empty cannot be read"),
        (["four.pt", "--architecture", "my_network:build", "--channels", "rgb"], "--channels expects RGB or BGR or L; got 'rgb'."),
        (["grey.pt", "--architecture", "my_network:grey", "--channels", "L"], "--channels L needs --mean and --std"),
        (["grey.pt", "--architecture", "my_network:grey", "--channels", "L", "--mean", ".5,.5", "--std", ".5"], "--mean expects one"),
        (["lost.pt", "--architecture", "my_network:build"], "the checkpoint 'lost.pt' does not exist"),
        (["torchvision:resnet18", "--untrained", "--labels", "labels.txt"], "--labels does not go with 'torchvision:resnet18'"),
        (["torchvision:resnet18", "--untrained", "--mean", "0"], "--mean: only for checkpoint files"),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_one_line(words: list[str], answer: str, place: Path, err: Any) -> None:
    run("explain", "photo.png", "--out", "out", "--model", *words, code=2)
    assert answer in err()


def _explained(place: Path, *words: str) -> list[dict[str, Any]]:
    run("explain", "photo.png", "--out", "out", "--method", "gradcam", "--format", "npz", "--target", "all", *words)
    return json.loads((place / "out" / "explanations.json").read_text())


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["four.pt", "--architecture", "my_network:build"], {"mean": (0.485, 0.456, 0.406)}),
        (["four.pt", "--architecture", "my_network:build", "--mean", ".1,.2,.3", "--std", ".5"], {"mean": (0.1, 0.2, 0.3), "std": 0.5}),
        (["four.pt", "--architecture", "my_network:build", "--input-size", "40"], {"size": 40}),
        (["four.pt", "--architecture", "my_network:build", "--input-size", "40x56", "--fit", "squash"],
         {"size": (40, 56), "fit": "squash"}),
        (["four.pt", "--architecture", "my_network:build", "--channels", "BGR", "--scale", "1", "--mean", "104,117,123", "--std", "1"],
         {"channels": "BGR", "scale": 1.0, "mean": (104.0, 117.0, 123.0), "std": 1.0}),
        (["grey.pt", "--architecture", "my_network:grey", "--channels", "L", "--mean", ".5", "--std", ".25"],
         {"channels": "L", "mean": 0.5, "std": 0.25}),
        (["six.pt", "--architecture", "my_network:build", "--input-size", "40"], {"size": 40}),
        (["six.pt", "--architecture", "my_network:needs_count", "--num-classes", "6"], {"num_classes": 6, "mean": (0.485, 0.456, 0.406)}),
    ],
)  # fmt: skip
def test_flags_give_what_the_library_gives(words: list[str], options: dict[str, Any], place: Path) -> None:
    import lucidcam

    entries = _explained(place, "--model", *words)
    model = lucidcam.load(words[0], architecture=words[2], **options)
    expected = lucidcam.explain(model, "photo.png", "gradcam", target="all")
    assert [entry["score"] for entry in entries] == pytest.approx([explanation.score for explanation in expected], abs=1e-6)


def test_labels_and_outputs(place: Path) -> None:
    entries = _explained(place, "--model", "four.pt", "--architecture", "my_network:build", "--labels", "labels.txt", "--input-size", "32")
    assert [entry["label"] for entry in entries] == ["cat", "dog", "owl", "fox"]
    assert sum(entry["probability"] for entry in entries) == pytest.approx(1)
    words = ["--model", "four.pt", "--architecture", "my_network:build", "--input-size", "32", "--outputs", "sigmoid"]
    entries = _explained(place, *words)
    expected = [1 / (1 + np.exp(-entry["score"])) for entry in entries]
    assert [entry["probability"] for entry in entries] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["four.pt", "--architecture", "my_network:build"], "four.pt: 4 classes, outputs: softmax (found by value)"),
        (["four.pt", "--architecture", "my_network:build", "--outputs", "sigmoid"], "four.pt: 4 classes, outputs: sigmoid (stated)"),
        (["four.pt", "--architecture", "my_network:build", "--outputs", "none"], "four.pt: 4 outputs that are no scores of classes"),
        (["single.pt", "--architecture", "my_network:single", "--decision-threshold", "0.3"],
         "single.pt: 2 classes, outputs: sigmoid, by a single output above 0.3 (found by value)"),
    ],
)  # fmt: skip
def test_layers_say_what_outputs_mean(words: list[str], line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("layers", "--model", *words)
    assert " ".join(capsys.readouterr().out.partition("\n\n")[0].split()) == line


@pytest.mark.parametrize(("threshold", "predicted"), [(0.001, 0), (0.999, 1)])
def test_the_threshold_of_a_single_output(threshold: float, predicted: int, place: Path) -> None:
    words = ["--model", "single.pt", "--architecture", "my_network:single", "--input-size", "32", "--decision-threshold", str(threshold)]
    run("explain", "photo.png", "--out", "out", *words)
    [entry] = json.loads((place / "out" / "explanations.json").read_text())
    assert entry["id"] == predicted


@pytest.mark.parametrize(
    "words",
    [["--window", "200", "--level", "300"], ["--level=300", "--window=200"], ["--grey-window", "200,300"]],
    ids=["two flags", "in any order", "one flag"],
)
def test_the_window_of_grey_images(words: list[str], place: Path) -> None:
    import lucidcam

    pixels = np.random.default_rng(0).integers(0, 4096, (48, 64), dtype=np.uint16)
    Image.fromarray(pixels).save(place / "photo.png")
    base = ["--model", "four.pt", "--architecture", "my_network:build", "--input-size", "32"]
    entries = _explained(place, *base, *words)
    model = lucidcam.load("four.pt", architecture="my_network:build", size=32, window=(200, 300))
    expected = [explanation.score for explanation in lucidcam.explain(model, "photo.png", target="all")]
    assert [entry["score"] for entry in entries] == pytest.approx(expected, abs=1e-6)
    assert [entry["score"] for entry in _explained(place, *base)] != pytest.approx(expected, abs=1e-3)


def test_a_window_without_a_level_is_a_methods(place: Path, err: Any) -> None:
    base = ["explain", "photo.png", "--model", "four.pt", "--architecture", "my_network:build", "--input-size", "32", "--out", "out"]
    run(*base, "--method", "occlusion", "--window", "8", "--stride", "8", "--format", "npz")
    with np.load(next((place / "out").glob("*.npz"))) as archive:
        assert len(np.unique(archive["raw"])) <= 16  # patches of 8 in an input of 32


def test_a_level_needs_a_window(place: Path, err: Any) -> None:
    run("explain", "photo.png", "--level", "3", code=2)
    assert "--level goes with --window" in err()
    run("explain", "photo.png", "--level", "3", "--window", "wide", code=2)
    assert "expects a width above 0 and a level" in err()
    run("explain", "photo.png", "--window", "3", code=2)
    assert "--window is an option of occlusion" in err()
    run("explain", "photo.png", "--level", "3", "--window", "2", "--grey-window", "5,1", code=2)
    assert "say the same; give one of the two" in err()
    run("explain", "photo.png", "--window", "2", code=2)
    assert "For grey images give --level, too" in err()


def test_an_untrained_network_of_ones_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _explained(place, "--architecture", "my_network:build", "--untrained", "--num-classes", "5")
    assert len(first) == 5
    assert "assumed for my_network:build" in capsys.readouterr().err
    again = _explained(place, "--model", "my_network:build", "--untrained", "--num-classes", "5")
    assert [entry["score"] for entry in again] == [entry["score"] for entry in first]


def test_json_on_standard_output_is_nothing_but_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("explain", "photo.png", "--json", "--out", "out", "--model", "four.pt", "--architecture", "my_network:build")
    assert len(json.loads(capsys.readouterr().out)) == 1


@pytest.mark.slow
def test_the_module_and_the_script_find_code_in_the_working_folder(place: Path) -> None:
    words = ["layers", "--model", "four.pt", "--architecture", "my_network:build"]
    script = Path(sys.executable).with_name("lucidcam")
    for start in ([sys.executable, "-m", "lucidcam"], [str(script)] if script.is_file() else [sys.executable, "-m", "lucidcam.cli"]):
        found = subprocess.run([*start, *words], capture_output=True, text=True, check=True)
        assert "features ← default" in found.stdout


# ------------------------------------------------------------------------------------------------------ windows of grey values


def _slice(path: Path, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-1000, 3000, (48, 64)).astype(np.int32)
    Image.fromarray(values).save(path)


@pytest.fixture
def slices(place: Path) -> Path:
    """The same folder with grey photos that need a window, in the place of the others."""
    for old in place.rglob("*.png"):
        old.unlink()
    for name in ("cat", "dog"):
        for number in range(20):
            _slice(place / "data" / name / f"{number}.tif", seed=number)
    _slice(place / "photo.tif", seed=0)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("words", sorted(LOADS - {("app",), ("layers",)}), ids=" ".join)
def test_every_command_takes_a_window(words: tuple[str, ...], slices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [{"photo.png": "photo.tif"}.get(word, word) for word in ENOUGH[words]]
    if words == ("run",):
        given = ["1" if word == "2" else word for word in given]  # workers
    model = ["--model", "four.pt", "--architecture", "my_network:build", "--labels", "labels.txt", "--input-size", "32x40"]
    run(*words, *given, *model, "--window", "400", "--level", "40")
    assert "failed" not in capsys.readouterr().err
    assert any((slices / "out").rglob("*"))


def test_a_window_is_what_is_shown_and_trained(slices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import lucidcam

    model = ["--model", "four.pt", "--architecture", "my_network:build", "--input-size", "32x40", "--fit", "squash"]
    run("explain", "photo.tif", *model, "--out", "out", code=1)
    assert "whole numbers from -" in capsys.readouterr().err
    run("train", "gap", "data", "--out", "net", "--untrained", "--size", "32", "--epochs", "1", "--window", "400", "--level", "40")
    values = np.asarray(Image.open("photo.tif"))
    right = np.interp(values, [-160, 240], [0, 255])
    (prepared,) = lucidcam.load("net").prepare("photo.tif")
    assert np.abs(np.asarray(prepared.image)[..., 1] - right).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("command", ["explain", "evaluate", "audit", "run", "localize", "study make", "train memory", "report"])
@pytest.mark.parametrize("others", [["nowhere"], ["--out"], ["nowhere", "--limit", "many"]])
def test_a_mistyped_flag_is_told_before_anything_else(command, others, capsys):
    run(*command.split(), "--modle", "demo", *others, code=2)
    assert capsys.readouterr().err.startswith("error: no option is called '--modle'")


@pytest.mark.parametrize("words", [["--method", "scorecam", "--weigths", "softmax"], ["--method=scorecam", "--weigths=softmax"]])
def test_a_mistyped_option_of_a_method_is_told_before_a_missing_one(words, capsys):
    run("run", "nowhere", *words, code=2)
    assert "did you mean '--weights'" in capsys.readouterr().err


def test_a_value_that_looks_like_a_flag_is_a_value(capsys):
    run("run", "--out", "--modle", "nowhere", code=2)
    assert "'nowhere' does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("search", "answer"),
    [
        ("hf:google/vit", "'hf' has no list of names: hf:google/"),
        ("demo", "'demo' has no list of names: EfficientNet"),
        ("tim:resnet", "did you mean 'timm'?"),
        ("timm:resnet18.a1_in1k", "timm:resnet18 is one; try --model timm:resnet18.a1_in1k"),
        ("torchvision:vgg166", "did you mean 'torchvision:vgg16'"),
        ("zzzzzzzz", "try a shorter part of it"),
    ],
)
def test_a_model_that_is_not_listed_is_answered_with_what_to_write(search, answer, capsys):
    run("models", search, code=2)
    assert answer in capsys.readouterr().err


def test_models_are_listed_by_source_whatever_the_capitals(capsys):
    run("models", "torchvision")
    assert "torchvision:vgg16" in capsys.readouterr().out.split()
    run("models", "torchvision:ResNet18")
    assert capsys.readouterr().out.split() == ["torchvision:resnet18"]
