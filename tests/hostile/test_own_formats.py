"""Results that come from strangers: what lucidcam wrote itself, damaged or made up, is one line, and leads nowhere."""

import io
import json
import tracemalloc
import zipfile

import numpy as np
import pytest

import lucidcam
import runs
from lucidcam.auditing.findings import read as read_audit
from lucidcam.dissection.names import Names
from lucidcam.errors import DataError, LucidcamError
from lucidcam.evaluation.gallery import read_gallery
from lucidcam.nn.memory import KIND, Memory
from lucidcam.outputs.npz import LARGEST, check_archive
from lucidcam.study.plan import PLAN, VERSION
from lucidcam.study.plan import read as read_plan

JUNK = {
    "nothing": b"",
    "cut": b"{",
    "no text": b"\xff",
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 5_000,
    "digits": b"9" * 5000,
    "null": b"null",
    "list": b"[]",
    "list of null": b"[null]",
    "object": b"{}",
    "text": b'"x"',
}


def audit(folder, content):
    (folder / "audit.json").write_bytes(content)
    return lambda: read_audit(folder)


def names(folder, content):
    (folder / "names.json").write_bytes(content)
    return lambda: Names.load(folder / "names.json")


def study(folder, content):
    (folder / PLAN).write_bytes(content)
    return lambda: read_plan(folder)


def explanations(folder, content):
    (folder / "explanations.json").write_bytes(content)
    return lambda: lucidcam.report(folder, folder / "r.html")


def results(folder, content):
    (folder / "results.json").write_bytes(content)
    return lambda: lucidcam.report(folder, folder / "r.html")


def manifest(folder, content):
    (folder / "manifest.json").write_bytes(content)
    return lambda: lucidcam.report(folder, folder / "r.html")


@pytest.mark.parametrize("read", [audit, names, study, results, manifest])
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_junk_is_one_line(tmp_path, read, junk):
    with pytest.raises(LucidcamError) as told:
        read(tmp_path, junk)()
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 1000


@pytest.mark.parametrize("junk", [name for name in JUNK if name != "list"])
def test_junk_as_explanations_is_one_line(tmp_path, junk):
    with pytest.raises(LucidcamError) as told:
        explanations(tmp_path, JUNK[junk])()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [None, 1, [], {}, True])
@pytest.mark.parametrize("field", ["method", "image", "metric", "shown", "photo", "picture"])
def test_a_shot_of_the_wrong_kind_is_one_line(tmp_path, field, value):
    shot = dict.fromkeys(("method", "group", "image", "metric", "against", "shown", "photo", "picture"), "x")
    (tmp_path / "shots.json").write_text(json.dumps([{**shot, "value": 1.0, "theirs": None, "labels": [], field: value}]))
    with pytest.raises(DataError, match="cannot be read as the gallery"):
        read_gallery(tmp_path)


WRONG = {
    "rows": [{"method": "a", "metric": "none", "mean": 1, "low": 0, "high": 1, "n": 1}],
    "settings": None,
    "metrics": [],
    "comparisons": [{"a": 1}],
    "curves": 3,
    "names": None,
}


@pytest.mark.slow
@pytest.mark.parametrize("field", WRONG)
def test_what_is_come_upon_only_while_drawing_is_one_line(tmp_path, field):
    lucidcam.evaluate(runs.colours(), runs.images(2), "occlusion", "sparseness", baselines=[], out=tmp_path, progress=False)
    document = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**document, field: WRONG[field]}))
    try:
        lucidcam.report(tmp_path, tmp_path / "r.html")
    except DataError as error:
        problem = str(error)
        assert "\n" not in problem


ITEM = {"id": "a", "kind": "trust", "image": "i", "condition": "c", "pictures": ["a.jpg", "b.jpg"]}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.jpg", "..\\x.jpg", "a\0.jpg", None, 1, ["x"]])
def test_the_pictures_of_a_study_lie_in_its_folder(tmp_path, name):
    plan = {"version": VERSION, "blocks": [], "items": [{**ITEM, "pictures": [name, "b.jpg"]}]}
    (tmp_path / PLAN).write_text(json.dumps(plan))
    with pytest.raises(LucidcamError, match="is damaged"):
        read_plan(tmp_path)


def test_an_archive_is_measured_before_it_is_unpacked():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("maps.npy", "w", force_zip64=True) as member:
        member.write(b"\0" * 10_000)
    packed = bytearray(content.getvalue())
    at = packed.rindex(b"PK\1\2")
    packed[at + 24 : at + 28] = (LARGEST + 1).to_bytes(4, "little")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="declares"):
            check_archive(io.BytesIO(bytes(packed)), "maps/000000.npz")
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    content = io.BytesIO()
    np.savez(content, maps=np.zeros((2, 3, 3), np.float32))
    content.seek(0)
    check_archive(content, "maps/000000.npz")
    assert content.tell() == 0


@pytest.mark.parametrize("belongs", ["{", "[" * 50_000, "{}", "null", '{"labels": 3, "ids": []}'])
def test_a_damaged_memory_is_one_line(tmp_path, belongs):
    import torch
    from safetensors.torch import save

    told = {"kind": KIND, "temperature": "x", "read": "query", "belongs": belongs}
    (tmp_path / "m.safetensors").write_bytes(save({"spatial": torch.zeros(2, 3, 4, 4)}, told))
    with pytest.raises(LucidcamError, match="is damaged") as told_:
        Memory.load(tmp_path / "m.safetensors")
    assert "\n" not in str(told_.value)
