"""Places that cannot be written to are refused at once, in one line, by every command that works long and then writes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lucidcam
from commands import run
from lucidcam.errors import OptionError
from lucidcam.io.storage import check_writable, check_writable_file

COMMANDS = {
    "explain": ["explain", "photos/a/0.png", "--out", "{}"],
    "explain, page": ["explain", "photos/a/0.png", "--out", "fine", "--report", "{}.html"],
    "channels": ["channels", "photos/a/0.png", "--out", "{}"],
    "channels, picture": ["channels", "photos/a/0.png", "--out", "{}.png"],
    "channels, json": ["channels", "photos/a/0.png", "--out", "{}.json"],
    "concepts": ["concepts", "--out", "{}"],
    "discover": ["discover", "photos", "--out", "{}"],
    "audit": ["audit", "photos", "--out", "{}"],
    "audit, page": ["audit", "photos", "--report", "{}.html"],
    "evaluate": ["evaluate", "photos", "--out", "{}"],
    "evaluate, page": ["evaluate", "photos", "--report", "{}.html"],
    "run": ["run", "photos", "--out", "{}"],
    "run, page": ["run", "photos", "--out", "fine", "--report", "{}.html"],
    "localize": ["localize", "photos", "--out", "coco:{}"],
    "localize, several": ["localize", "photos", "--out", "voc:fine", "--out", "masks:{}"],
    "bench": ["bench", "photos/a/0.png", "--out", "{}"],
    "train gap": ["train", "gap", "photos", "--out", "{}"],
    "train memory": ["train", "memory", "photos", "--model", "demo", "--out", "{}"],
    "study make": ["study", "make", "study.toml", "--out", "{}"],
    "study report": ["study", "report", "study", "--out", "{}.html"],
    "report": ["report", "results", "--out", "{}.html"],
}

STUDY = """
title = "A study"
consent = "Yes."
participants = 4
[data]
path = "photos"
[models.demo]
[which_class]
items = 2
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with photos and a file, in which no model is ever loaded."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)).save(folder / "0.png")
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "study.toml").write_text(STUDY)

    def loaded(*_: object, **__: object) -> None:
        pytest.fail("the place is checked before the model is loaded")

    monkeypatch.setattr(lucidcam, "load", loaded)
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("place", ["file/deep/er", "x" * 300])
def test_every_command_refuses_it_before_any_work(words, place, here, capsys):
    before = sorted(here.rglob("*"))
    run(*(word.format(place) for word in words), code=2)
    told = capsys.readouterr()
    lines = told.err.strip().splitlines()
    assert len(lines) == 1
    assert "cannot write to" in lines[0]
    assert not told.out
    made = {path.relative_to(here).parts[0] for path in here.rglob("*") if path not in before}
    assert made <= {"fine"}


PHOTO = "photos/a/0.png"
BLOCKED = {
    "names.json": ["concepts", "--out", "names.json"],
    "o.png": ["channels", PHOTO, "--out", "o.png"],
    "o/channels.png": ["channels", PHOTO, "--out", "o"],
    "o/regions.json": ["discover", "photos", "--out", "o"],
    "o/audit.json": ["audit", "photos", "--out", "o"],
    "o.html": ["explain", PHOTO, "--report", "o.html"],
}


@pytest.mark.parametrize(("file", "words"), BLOCKED.items(), ids=BLOCKED)
def test_a_folder_where_a_file_is_to_be_is_refused(words, file, here, capsys):
    (here / file).mkdir(parents=True)
    run(*words, code=2)
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "cannot write to" in line
    assert "folder" in line or "directory" in line


@pytest.mark.parametrize("command", ["discover photos", "audit photos", "run photos", "explain photos", f"channels {PHOTO}"])
def test_a_file_where_a_folder_is_to_be_is_refused(command, here, capsys):
    run(*command.split(), "--out", "file", code=2)
    assert "cannot write to" in capsys.readouterr().err
    assert (here / "file").read_text() == "in the way"


def test_functions_refuse_it_as_commands_do(here):
    model = lucidcam.wrap(torch.nn.Identity(), lambda _: pytest.fail("no image is prepared"))
    data = [np.zeros((24, 24, 3), np.uint8)]
    for call in (
        lambda: lucidcam.audit(model, data, out="file/x"),
        lambda: lucidcam.discover(model, data, out="file/x"),
        lambda: lucidcam.evaluate(model, data, out="file/x"),
        lambda: lucidcam.run(model, data, "file/x"),
        lambda: lucidcam.report("nothing", "file/x.html"),
    ):
        with pytest.raises(OptionError, match="cannot write to"):
            call()


def test_what_is_made_to_find_out_is_taken_away_again(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept.txt").write_text("as it was")
    for place in ("there", "new", "new/er", "there/in"):
        check_writable(tmp_path / place, "kept.txt", "other.txt")
        check_writable_file(tmp_path / place / "file.json")
    check_writable("memory://anywhere")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["there", "there/kept.txt"]
    assert (tmp_path / "there" / "kept.txt").read_text() == "as it was"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OptionError, match="cannot write to"):
            check_writable(tmp_path / "new")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("place", ["", "..", "/", "folder/", "null\0character", "null\0character/x.json"])
def test_what_is_no_name_of_a_file_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="cannot write to"):
        check_writable_file(place)


def test_addresses_and_homes_are_not_mistaken(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    check_writable("~/results")
    assert not list(Path(tmp_path).iterdir())
