"""Labels that somebody corrected by hand in the folder of a run stay what they are."""

import re

import pytest
from PIL import Image

import lucidcam
import runs
from lucidcam.errors import OptionError
from lucidcam.registry import exporters

FORMATS = sorted(exporters)
ASKED = {"progress": False, "unit": 2, "optimized": False, "write": ("npz", *FORMATS)}


def run(place, **options):
    return lucidcam.run(runs.colours(), place / "photos", place / "out", **ASKED, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    place = tmp_path_factory.mktemp("done")
    (place / "photos").mkdir()
    for number, image in enumerate(runs.images(3)):
        Image.fromarray(image).save(place / "photos" / f"{number}.png")
    run(place)
    return place


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}


def label_file(place, format_):
    """A file of labels, not the list of what was written."""
    return max((path for path in files_of(place / "out" / format_) if not path.name.startswith(".")), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_corrected_label_is_not_replaced(done, format_):
    path = label_file(done, format_)
    original = path.read_bytes()
    path.write_bytes(original + b" ")
    before = files_of(done / "out")
    with pytest.raises(OptionError, match=re.escape(f"{str(path)!r} was changed since lucidcam wrote it")):
        run(done)
    assert files_of(done / "out") == before
    path.write_bytes(original)


def test_several_are_counted(done):
    originals = {path: path.read_bytes() for path in files_of(done / "out" / "voc") if path.suffix == ".xml"}
    for path, content in originals.items():
        path.write_bytes(content + b" ")
    with pytest.raises(OptionError, match=r"\(and 2 more\) was changed"):
        run(done)
    for path, content in originals.items():
        path.write_bytes(content)


def test_what_is_gone_is_written_again(done):
    before = files_of(done / "out")
    for format_ in FORMATS:
        label_file(done, format_).unlink()
    run(done)
    assert files_of(done / "out") == before


def test_a_restart_replaces_corrections(done):
    path = label_file(done, "voc")
    original = path.read_bytes()
    path.write_bytes(b"mine")
    run(done, restart=True)
    assert path.read_bytes() == original


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"voc": 3}', b"\xff"])
def test_without_the_digests_nothing_is_replaced(done, content):
    path = done / "out" / "exported.json"
    original = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(OptionError, match=r"exported\.json in .* is not as lucidcam wrote it"):
        run(done)
    path.write_bytes(original)
