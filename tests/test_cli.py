"""The command line, as a user meets it: the embedded model, real photos, bad files among good ones, mistyped names."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from commands import run
from lucidcam.cli import main


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(data.chelsea()).save(folder / "cat.png")
    Image.fromarray(data.coffee()).save(folder / "cup.jpg")
    return folder


def test_explain_a_folder(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run("explain", photos, "--method", "gradcam", "--method", "guided_gradcam", "--format", "png", "--format", "npz", "--out", tmp_path)
    entries = json.loads((tmp_path / "explanations.json").read_text())
    assert len(entries) == 4
    for entry in entries:
        assert {"image", "label", "id", "score", "probability", "method", "layer", "files", "box"} <= set(entry)
        picture, archive = map(Path, entry["files"])
        with Image.open(picture) as shown:
            assert shown.size == tuple(entry["size"])
        assert archived(archive, "map").shape == tuple(entry["size"][::-1])
        left, top, right, bottom = entry["box"]
        assert 0 <= left < right <= entry["size"][0]
        assert 0 <= top < bottom <= entry["size"][1]
    assert entries[0]["id"] in (281, 282, 285)
    assert entries[2]["label"] == "espresso"
    shown = capsys.readouterr().out
    assert "guided_gradcam" in shown
    *lines, folder = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert folder == str(tmp_path)


def archived(path: Path, name: str) -> np.ndarray:
    with np.load(path) as archive:
        return archive[name]


def test_bad_files_among_good_ones(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.png").write_bytes((photos / "cat.png").read_bytes())
    (folder / "good2.jpg").write_bytes((photos / "cup.jpg").read_bytes())
    (folder / "empty.jpg").touch()
    (folder / "cut.jpg").write_bytes((photos / "cup.jpg").read_bytes()[:-4000])
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "bomb.png").write_bytes(header_bomb())
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    out = tmp_path / "out"
    run("explain", folder, tmp_path / "missing.jpg", "--out", out, code=1)
    entries = json.loads((out / "explanations.json").read_text())
    assert sorted(Path(entry["image"]).name for entry in entries) == ["good.png", "good2.jpg"]
    failures = json.loads((out / "failures.json").read_text())
    assert len(failures) == 6
    told = capsys.readouterr().err
    for name in ("empty.jpg", "cut.jpg", "text.jpg", "bomb.png", "dot.png", "missing.jpg"):
        assert told.count(name) >= 1
    assert "Traceback" not in told


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "PA", "GIF", "L", "RGBA"])
def test_every_kind_of_picture(mode: str, tmp_path: Path) -> None:
    cat = Image.fromarray(data.chelsea())
    path = tmp_path / "cat.png"
    if mode == "CMYK":
        path = path.with_suffix(".jpg")
        cat.convert("CMYK").save(path)
    elif mode == "I;16":
        Image.fromarray(np.asarray(cat.convert("L")).astype(np.uint16) * 257).save(path)
    elif mode == "PA":
        cat.quantize(64).save(path, transparency=3)
    elif mode == "GIF":
        path = path.with_suffix(".gif")
        cat.save(path, save_all=True, append_images=[cat.rotate(90)])
    else:
        cat.convert(mode).save(path)
    run("explain", path, "--out", tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert entry["id"] in range(281, 288) or mode in ("PA", "L", "I;16")
    assert entry["size"] == [451, 300]


def header_bomb() -> bytes:
    """A PNG whose header promises 20000 × 20000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_targets(photos: Path, tmp_path: Path) -> None:
    run("explain", photos / "cat.png", "--target", "tabby", "-t", "282", "--target", "Egyptian cat", "--out", tmp_path / "a")
    assert [e["id"] for e in json.loads((tmp_path / "a/explanations.json").read_text())] == [281, 282, 285]
    run("explain", photos / "cat.png", "--target", "top3", "--out", tmp_path / "b")
    entries = json.loads((tmp_path / "b/explanations.json").read_text())
    assert [e["probability"] for e in entries] == sorted((e["probability"] for e in entries), reverse=True)
    run("explain", photos / "cat.png", "--target", "tabby", "--against", "espresso", "--out", tmp_path / "c")
    (entry,) = json.loads((tmp_path / "c/explanations.json").read_text())
    assert entry["label"] == "tabby rather than espresso"
    run("explain", photos / "cat.png", "--probability", "--out", tmp_path / "d")
    (entry,) = json.loads((tmp_path / "d/explanations.json").read_text())
    assert entry["score"] == pytest.approx(entry["probability"], rel=1e-4)


def test_flags_of_methods(photos: Path, tmp_path: Path) -> None:
    for i, words in enumerate((["--counterfactual"], ["--counterfactual=true"], ["--no-counterfactual"])):
        run("explain", photos / "cat.png", *words, "--format", "npz", "--out", tmp_path / str(i))
    maps = [archived(next((tmp_path / str(i)).glob("*.npz")), "raw") for i in range(3)]
    np.testing.assert_allclose(maps[0], maps[1])
    assert np.abs(maps[0] - maps[2]).max() > 0
    layers = ["--layer", "blocks.4", "--layer", "bn2", "--fusion", "max", "--smooth", "2"]
    run("explain", photos / "cat.png", *layers, "--json", "--out", tmp_path / "fused")
    assert json.loads((tmp_path / "fused/explanations.json").read_text())[0]["layer"] == "blocks.4+bn2"


def test_json_on_standard_output(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("explain", photos / "cat.png", "--json", "--out", tmp_path)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "explanations.json").read_text())


def test_standard_input(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((photos / "cup.jpg").read_bytes())))
    run("explain", "-", "--out", tmp_path)
    (entry,) = json.loads((tmp_path / "explanations.json").read_text())
    assert (entry["image"], entry["label"]) == ("standard input", "espresso")


def test_same_names_in_two_folders_do_not_overwrite_each_other(photos: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cat.png").write_bytes((photos / "cat.png").read_bytes())
    run("explain", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_optimized(photos: Path, tmp_path: Path) -> None:
    run("explain", photos / "cat.png", "--format", "npz", "--out", tmp_path / "plain")
    run("explain", photos / "cat.png", "--optimize", "--format", "npz", "--out", tmp_path / "fast")
    plain, fast = (archived(next((tmp_path / name).glob("*.npz")), "raw") for name in ("plain", "fast"))
    np.testing.assert_allclose(plain, fast, atol=1e-3 * plain.max())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "gradcan"], "no method is called 'gradcan'; did you mean 'gradcam'"),
        (["--layer", "blocks.44"], "no layer is called 'blocks.44'; did you mean"),
        (["--target", "tabi cat"], "tabby"),
        (["--target", "1000"], "class id 1000 is out of range"),
        (["--metod", "cam"], "no option is called '--metod'; did you mean '--method'"),
        (["--weihgts", "softmax", "--method", "scorecam"], "did you mean '--weights'"),
        (
            ["--method", "scorecam", "--weights", "sofmax"],
            "softmax or probability; got 'sofmax'; did you mean 'softmax'?",
        ),
        (["--method", "rise", "--masks", "many"], "--masks expects a whole number; got 'many'"),
        (["--masks", "5"], "--masks is an option of rise, none of which was asked for"),
        (["--smooth"], "--smooth needs a value"),
        (["--colormap", "trubo"], "no colormap is called 'trubo'; did you mean 'turbo'"),
        (["--target", "top0"], "top-k needs k ≥ 1; got 0"),
        (["--target", "tabby", "--target", "top2"], "'top2' cannot be combined with other targets"),
        (["--target", "tabby", "--target", "282", "--against", "espresso"], "--against needs one --target"),
        (["--alpha", "2"], "alpha between 0"),
        (["--threshold", "-1"], "threshold between 0 and 1"),
        (["--format", "pgn"], "no output format is called 'pgn'; did you mean 'png'"),
        (["--model", "timm:resnet5"], "resnet50"),
        (["--model", "tim:resnet50"], "no model source is called 'tim'; did you mean 'timm'"),
        (["--device", "gpu"], "no device is called 'gpu'"),
        (["--dtype", "float31"], "float31"),
        (["--against", "espreso", "--target", "tabby"], "espresso"),
    ],
)
def test_usage_errors_name_the_nearest(
    words: list[str], message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("explain", photos / "cat.png", "--out", tmp_path, *words, code=2)
    told = capsys.readouterr().err
    assert message in " ".join(told.split())
    assert "Traceback" not in told
    assert not (tmp_path / "explanations.json").exists()


def test_no_paths_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    run("explain", "--method", "gradcam", code=2)
    run("explan", code=2)
    assert "explain" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["explain", "methods", "models", "layers"])
def test_help_fits_80_columns(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run(command, "--help")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80


def test_listings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import lucidcam

    monkeypatch.setenv("COLUMNS", "80")
    run("methods")
    shown = capsys.readouterr().out
    assert all(name in shown for name in lucidcam.methods())
    run("methods", "scorecam")
    shown = capsys.readouterr().out
    assert "--weights" in shown
    assert "increase" in shown
    run("methods", "scorcam", code=2)
    run("models")
    assert "timm" in capsys.readouterr().out
    run("models", "timm:resnet50")
    assert "timm:resnet50" in capsys.readouterr().out.split()
    run("layers")
    shown = capsys.readouterr().out
    assert "bn2 ← default" in shown
    assert "Identity" not in shown
    run("layers", "--model", "torchvision:resnet18", "--untrained")
    assert "layer4 ← default" in capsys.readouterr().out


def test_version_and_script() -> None:
    import lucidcam

    found = subprocess.run([sys.executable, "-m", "lucidcam.cli", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == lucidcam.__version__


def test_unwritable_output(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    run("explain", photos / "cat.png", "--out", tmp_path / "file", code=2)
    assert "cannot write to" in capsys.readouterr().err


def test_an_interrupted_run_keeps_what_was_written(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lucidcam

    real, calls = lucidcam.explain, []

    def interrupted(*words: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*words, **options)

    monkeypatch.setattr(lucidcam, "explain", interrupted)
    old = sys.argv
    sys.argv = ["lucidcam", "explain", str(photos), "--out", str(tmp_path)]
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            main()
    finally:
        sys.argv = old
    assert len(json.loads((tmp_path / "explanations.json").read_text())) == 1
