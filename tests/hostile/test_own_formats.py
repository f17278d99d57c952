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
from lucidcam.dissection.channel_names import Names
from lucidcam.errors import DataError, LucidcamError
from lucidcam.evaluation.gallery import read_gallery
from lucidcam.io.storage import Folder, digest_of
from lucidcam.nn.memory import KIND, Memory
from lucidcam.outputs.map_archive import LARGEST
from lucidcam.outputs.npz import check_archive
from lucidcam.pipeline.ledger import Record
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


def array(shape, chunk=None, packed="zstd"):
    """The document of an array in a Zarr group."""
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": packed, "configuration": {"level": 0, "checksum": False}}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk or shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs if packed != "gzip" else [codecs[0], {"name": "gzip", "configuration": {"level": 5}}],
        "attributes": {},
        "storage_transformers": [],
    }


GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
FRAME = b"\x28\xb5\x2f\xfd"
STORES = {
    "an array that no memory holds": {"": array([10**6, 10**6, 4])},
    "three gigabytes of nothing": {"": array([3, 16_000, 16_000])},
    "millions of chunks": {"": array([1, 4000, 4000], [1, 1, 1])},
    "a chunk larger than its array": {"": array([1, 8, 8], [1, 8, 10**9])},
    "many arrays": {"": GROUP, **{f"/{i}": array([10_000, 10_000]) for i in range(4)}},
    "another way to pack": {"": array([1, 8, 8], packed="gzip"), "/c/0/0/0": b"\x1f\x8b"},
    "a frame of gigabytes": {"": array([1, 8, 8]), "/c/0/0/0": FRAME + b"\xa0" + (3 * 10**9).to_bytes(4, "little") + bytes(9)},
    "a frame of terabytes": {"": array([1, 8, 8]), "/c/0/0/0": FRAME + b"\xe0" + (3 * 10**12).to_bytes(8, "little") + bytes(9)},
    "a frame that does not say": {"": array([1, 8, 8]), "/c/0/0/0": FRAME + b"\x00\x58" + bytes(9)},
    "no frame": {"": array([1, 8, 8]), "/c/0/0/0": b"maps"},
    "a frame of something else": {"": array([1, 8, 8]), "/c/0/0/0": FRAME + b"\x20\x04" + bytes(9)},
    "no array": {"": {**GROUP, "node_type": "other"}},
    "negative": {"": array([1, -8, 8])},
}


def kept(folder, files):
    """A run of someone's that has such files, whose digests are right."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    digests = {name: digest_of(content) for name, content in files.items()}
    Record(0, 0, 1, "x", "x", 1, 1, (), digests).write(Folder(folder))
    units = [{"number": 0, "images": 1, "maps": 1}]
    settings = {"write": ["npz" if "maps/000000.npz" in files else "zarr"]}
    (folder / "manifest.json").write_text(json.dumps({"images": 1, "maps": 1, "failed": 0, "settings": settings, "units": units}))
    return lucidcam.Results(folder)


@pytest.mark.parametrize("store", STORES)
def test_a_zarr_store_declares_no_more_than_a_unit_has(tmp_path, store):
    pytest.importorskip("zarr")
    files = {"maps.zarr/zarr.json": json.dumps(GROUP).encode()}
    for name, content in STORES[store].items():
        document = f"maps.zarr/000000{name}" if isinstance(content, bytes) else f"maps.zarr/000000{name}/zarr.json"
        files[document] = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(DataError) as told:
        list(kept(tmp_path, files).maps())
    assert len(str(told.value).splitlines()) == 1


def npy(shape, kind="<f4"):
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100)


@pytest.mark.parametrize("content", [npy((10**6, 10**6, 10**3)), npy((2, 8, -8)), npy((1,), "|O"), npy("(((((", "<f4"), b"", b"PK", None])
def test_an_npz_that_is_none_is_one_line(tmp_path, content):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("maps.npy", content or b"")
    files = {"maps/000000.npz": b"nothing" if content is None else archive.getvalue()}
    with pytest.raises(DataError) as told:
        list(kept(tmp_path, files).maps())
    assert len(str(told.value).splitlines()) == 1
