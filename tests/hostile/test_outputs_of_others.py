"""What commands write where files of the user's lie: none is replaced that lucidcam did not write, and none that is read."""

import json
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

import lucidcam
import runs
from commands import run as command
from lucidcam.auditing.findings import check_place as check_audit
from lucidcam.benchmark.result import check_place as check_costs
from lucidcam.dissection.channel_names import check_names_file
from lucidcam.dissection.sheets import check_writable as check_sheets
from lucidcam.errors import OptionError
from lucidcam.io.ownership import LIST, OwnedFiles, append_line, remove_owned
from lucidcam.localization.discover import check_place as check_regions
from lucidcam.outputs.html import Page, Section, Text
from lucidcam.outputs.html import write as write_page
from lucidcam.reports import check as check_report

MINE = "mine"

CHECKS = {
    "audit.json": check_audit,
    "finding-3.png": check_audit,
    "evidence/1-1-1.png": check_audit,
    "clusters/2-1-1.png": check_audit,
    "regions.json": check_regions,
    "overview-2.png": check_regions,
    "classes/cat.png": check_regions,
    "costs.json": check_costs,
    "costs.csv": check_costs,
    "costs.png": check_costs,
    "channels.png": lambda folder: check_sheets(folder, "channels"),
    "words.json": lambda folder: check_sheets(folder, "words"),
}


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(runs.images(1)[0]).save(path)
    return path


@pytest.fixture
def explanation(photo):
    return lucidcam.explain(runs.colours(), photo, "occlusion", progress=False)[0]


@pytest.mark.parametrize("name", CHECKS)
def test_a_file_of_the_users_is_told_of_before_any_work(tmp_path, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text(MINE)
    with pytest.raises(OptionError, match="is there, and was not written by lucidcam"):
        CHECKS[name](out)
    assert (out / name).read_text() == MINE
    (out / name).unlink()
    CHECKS[name](out)
    append_line(out / LIST, name)
    (out / name).write_text("ours")
    CHECKS[name](out)


@pytest.fixture
def quick(monkeypatch):
    """Commands take a tiny network for the demo."""
    monkeypatch.setattr(lucidcam, "load", lambda *_, **__: runs.colours())


def made_of(photo, out):
    """The names of what `explain` writes of a photo, the picture first."""
    command("explain", photo, "--method", "occlusion", "--out", out)
    return (out / LIST).read_text().split("\n")[:-1]


def test_explain_replaces_its_own_and_nothing_else(photo, quick, tmp_path):
    out = tmp_path / "out"
    names = made_of(photo, out)
    assert made_of(photo, out) == names
    assert names[1:] == ["explanations.json"]
    before = (out / names[0]).read_bytes()
    command("explain", photo, out / names[0], "--method", "occlusion", "--out", out, code=2)  # it is read
    assert (out / names[0]).read_bytes() == before
    for name in names:
        other = tmp_path / f"with {name}"
        other.mkdir()
        (other / name).write_text(MINE)
        command("explain", photo, "--method", "occlusion", "--out", other, code=2)
        assert (other / name).read_text() == MINE


@pytest.mark.slow
def test_a_report_replaces_only_reports(tmp_path):
    report = lucidcam.evaluate(runs.colours(), runs.images(2), "occlusion", "sparseness", baselines=[], progress=False)
    (tmp_path / "images.csv").write_text(MINE)
    with pytest.raises(OptionError, match=r"images\.csv' is there"):
        report.save(tmp_path)
    assert (tmp_path / "images.csv").read_text() == MINE
    assert not (tmp_path / "results.json").exists()
    report.save(tmp_path / "new")
    report.save(tmp_path / "new")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "npz", "json"])
def test_an_explanation_is_never_written_over_its_photo(explanation, photo, tmp_path, suffix):
    link = tmp_path / f"link.{suffix}"
    link.symlink_to(photo)
    before = photo.read_bytes()
    for path in (link, tmp_path / "." / f"link.{suffix}"):
        with pytest.raises(OptionError, match="would be replaced"):
            explanation.save(path)
    if suffix in ("png", "gif"):
        with pytest.raises(OptionError, match="would be replaced"):
            lucidcam.animate([explanation], tmp_path / f"link.{'gif' if suffix == 'gif' else 'png'}")
    assert photo.read_bytes() == before
    explanation.save(tmp_path / f"other.{suffix}")


@pytest.mark.parametrize("content", ["<!DOCTYPE html><html>mine</html>", MINE, "\0"])
def test_a_page_replaces_only_pages_of_lucidcams(explanation, tmp_path, content):
    path = tmp_path / "page.html"
    page = Page("t", "l", (Section("s", (Text("x"),)),))
    path.write_text(content)
    writers = (lambda: write_page(page, path), lambda: explanation.save(path), lambda: check_report(path))
    for write in writers:
        with pytest.raises(OptionError, match="is there, and is not what lucidcam writes"):
            write()
    assert path.read_text() == content
    path.write_text("")
    write_page(page, path)
    write_page(page, path)
    check_report(path)


@pytest.mark.parametrize("check", [check_names_file, lambda path: check_sheets(path, "channels"), lambda path: check_sheets(path, "words")])
def test_a_document_replaces_only_documents_of_its_kind(tmp_path, check):
    path = tmp_path / "package.json"
    path.write_text('{"name": "mine"}')
    with pytest.raises(OptionError, match="is there, and is not what"):
        check(path)
    path.unlink()
    check(path)


LEADS_OUT = {
    "folder": lambda out, home: (out / "classes").symlink_to(home),
    "file": lambda out, home: ((out / "classes").mkdir(), (out / "classes" / "cat.png").symlink_to(home / "cat.png")),
    "list": lambda out, home: ((out / LIST).unlink(), (out / LIST).symlink_to(home / "cat.png")),
}


@pytest.mark.parametrize("link", LEADS_OUT)
@pytest.mark.parametrize("step", ["write", "remove"])
def test_links_in_a_folder_are_not_followed(tmp_path, link, step):
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    (home / "cat.png").write_text(MINE)
    (out / LIST).write_text("classes/cat.png\n../home/cat.png\n/etc/x\n\0\n")
    LEADS_OUT[link](out, home)
    if step == "remove":
        remove_owned(out)
    else:
        with suppress(OptionError):
            OwnedFiles(out).path("classes/cat.png").write_text("ours")
        with suppress(OptionError):
            OwnedFiles(out).path("new.png").write_text("ours")
    assert (home / "cat.png").read_text() == MINE
    assert [each.name for each in home.iterdir()] == ["cat.png"]


def test_names_of_the_list_are_text_of_any_kind(tmp_path):
    (tmp_path / LIST).write_bytes(b"\xff\xfe\n")
    assert OwnedFiles(tmp_path).path("a.png") == tmp_path / "a.png"
    (tmp_path / LIST).write_text("x" * 5000 + "\n" + "a/" * 3000 + "\n")
    remove_owned(tmp_path)


def test_what_is_in_a_folder_of_photos_stays(quick, tmp_path):
    """An output folder that is the folder of the photos."""
    for i, image in enumerate(runs.images(2)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "explanations.json").write_text("[]")
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    for name in ("explain", "evaluate", "run", "localize"):
        command(name, tmp_path, "--method", "occlusion", "--out", f"coco:{tmp_path}" if name == "localize" else tmp_path, code=2)
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_the_photo_of_channels_stays(tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    command("channels", tmp_path / "photo.png", "--out", tmp_path / "photo.png", code=2)
    assert (tmp_path / "photo.png").read_bytes() == before


def test_errors_are_of_lucidcams(tmp_path):
    for name in ("a\0b", "x" * 300, "\udcff"):
        with suppress(OptionError):
            OwnedFiles(tmp_path / name).path("a.png")


def test_json_of_results_is_json(explanation, tmp_path):
    path = explanation.save(tmp_path / "a.json")
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
