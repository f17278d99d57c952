"""What a file of a run or an evaluation declares is compared with what it may be, before it is unpacked; lines end where lines end."""

import base64
import io
import zipfile
import zlib

import numpy as np
import pytest

from lucidcam.data._files import lines_of
from lucidcam.errors import DataError
from lucidcam.evaluation.journal import Part
from lucidcam.outputs import npz
from lucidcam.pipeline.index import decoded
from lucidcam.pipeline.labels import _mask


def packed(content: bytes) -> str:
    return base64.b85encode(zlib.compress(content, 9)).decode()


@pytest.mark.parametrize(
    ("content", "size"), [(bytes(50_000_000), (40, 30)), (b"", (40, 30)), (bytes(149), (40, 30)), (b"", (10**6, 10**6))]
)
def test_masks_of_a_run_have_the_size_of_its_photos(content, size):
    with pytest.raises(DataError, match="pixels"):
        _mask(packed(content), size)


def test_masks_of_a_run_are_read():
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    assert np.array_equal(_mask(packed(np.packbits(mask).tobytes()), (7, 5)), mask)


def test_parts_of_an_evaluation_declare_what_fits(monkeypatch):
    monkeypatch.setattr(npz, "LARGEST", 10_000)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("told.npy", bytes(100_000))
    with pytest.raises(DataError, match="declares 100000 bytes"):
        Part.decoded(content.getvalue())


def test_an_index_declares_no_more_than_a_unit_has():
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    content = io.BytesIO()
    parquet.write_table(arrow.table({"label": arrow.array(np.zeros(2**20 + 1, np.int8))}), content)
    assert len(content.getvalue()) < 10_000
    with pytest.raises(DataError, match="one declares 1,048,577"):
        decoded([content.getvalue()])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_names_may_hold_what_unicode_takes_for_an_end_of_a_line(tmp_path, end):
    names = ["a\u2028b.jpg,1", "c\x85d.jpg,2", "e\x0bf\x1cg.jpg,3"]
    (tmp_path / "list.txt").write_bytes(end.join([*names[:1], "", *names[1:], ""]).encode())
    assert list(lines_of(tmp_path / "list.txt")) == [(1, names[0]), (3, names[1]), (4, names[2])]
