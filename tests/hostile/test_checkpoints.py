"""Checkpoints of anyone's: what they declare is not made, and what they hold is a network's weights or one line."""

import json
import struct
import tarfile
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lucidcam
from lucidcam.errors import ModelError


def network(num_classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def load(path):
    return lucidcam.load(str(path), architecture=network)


def refused(path, words):
    with pytest.raises(ModelError) as told:
        load(path)
    assert len(str(told.value).splitlines()) == 1
    assert words in str(told.value)


@pytest.fixture
def good():
    return network(5).state_dict()


def deflated(path):
    """The members of an archive, compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def overlapping(path):
    """An archive whose list has one member many times over."""
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        for _ in range(200):
            archive.filelist.append(largest)
        archive._didModify = True


@pytest.mark.parametrize("change", [deflated, overlapping])
def test_an_archive_is_measured_before_it_is_unpacked(tmp_path, good, change, monkeypatch):
    path = tmp_path / "weights.pt"
    torch.save({**good, "more": torch.zeros(10_000)}, path)
    change(path)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpacked"))
    refused(path, "would be unpacked to")


def test_a_tar_is_not_unpacked_to_the_disk(tmp_path, monkeypatch):
    """torch would make the links in it, and change what they lead to."""
    path, mine = tmp_path / "weights.pt", tmp_path / "mine.txt"
    mine.write_text("mine")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        link = tarfile.TarInfo("storages")
        link.type, link.linkname, link.mode = tarfile.LNKTYPE, str(mine), 0o777
        tar.addfile(link)
    before = mine.stat()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpacked"))
    refused(path, "is a tar")
    assert mine.stat() == before


def flipped(path, number):
    """One bit of the content of an archive's entry is another."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.infolist()[number]
    content = bytearray(path.read_bytes())
    name_length, extra_length = struct.unpack_from("<HH", content, entry.header_offset + 26)
    content[entry.header_offset + 30 + name_length + extra_length + entry.file_size // 2] ^= 64
    path.write_bytes(content)
    return entry.filename


@pytest.mark.parametrize("number", range(8))
def test_a_flipped_bit_is_seen(tmp_path, good, number):
    path = tmp_path / "weights.pt"
    torch.save(good, path)
    name = flipped(path, number)
    refused(path, f"its entry {name!r} is not what its checksum says")


def test_an_archive_without_checksums_is_read(tmp_path, good):
    path = tmp_path / "weights.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(good, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load(path).module[0].weight, good["0.weight"])


def in_itself(weights):
    own = {}
    own["model"] = own
    return own


def deep(weights):
    found = dict(weights)
    for _ in range(100):
        found = {"model": found}
    return found


def many_ways(weights):
    """2^40 ways lead to the tensors."""
    found = dict(weights)
    for _ in range(40):
        found = {"model": found, "net": found}
    return found


@pytest.mark.parametrize("nest", [in_itself, deep, many_ways])
def test_dictionaries_in_dictionaries_are_looked_at_once(tmp_path, good, nest):
    torch.save(nest(good), tmp_path / "weights.pt")
    refused(tmp_path / "weights.pt", "expected named tensors")


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.zeros(5, 4), 0.1, 0, torch.qint8)


def nested():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)])


KINDS = {
    "meta": lambda: torch.zeros(5, 4, device="meta"),
    "sparse": lambda: torch.zeros(5, 4).to_sparse(),
    "quantised": quantised,
    "nested": nested,
    "complex": lambda: torch.ones(5, 4, dtype=torch.complex64),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_other_kinds_are_one_line(tmp_path, good, kind):
    torch.save({**good, "4.weight": KINDS[kind]()}, tmp_path / "weights.pt")
    refused(tmp_path / "weights.pt", kind)


MANY = 10**9


@pytest.mark.parametrize(
    "head",
    [
        {"4.weight": torch.zeros(1, 4).expand(MANY, 4), "4.bias": torch.zeros(1).expand(MANY)},
        {"4.weight": torch.zeros(1, 4).expand(MANY, 4), "4.bias": torch.zeros(3)},
        {"4.weight": torch.zeros(3, 4), "4.bias": torch.zeros(1).expand(MANY)},
        {"4.weight": torch.zeros(3, 4), "4.bias": torch.zeros(10**6, dtype=torch.int8)},
    ],
    ids=["expanded", "expanded weight", "expanded bias", "bias alone"],
)
def test_a_head_is_no_larger_than_the_file(tmp_path, good, head):
    """The number of classes is read from the checkpoint; what it only declares is not made."""
    path = tmp_path / "weights.pt"
    torch.save({**good, **head}, path)
    built = []

    def counted(num_classes: int = 3) -> nn.Module:
        built.append(num_classes)
        return network(min(num_classes, 10))

    with pytest.raises(ModelError, match="of another shape"):
        lucidcam.load(str(path), architecture=counted)
    assert built == [3]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_head_that_is_there_is_built(tmp_path, good, suffix):
    (torch.save if suffix == ".pt" else save_file)(good, tmp_path / f"weights{suffix}")
    assert load(tmp_path / f"weights{suffix}").module[4].out_features == 5


def header(content):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


HEADERS = {
    "longer than any file": struct.pack("<Q", 2**62) + b"{" + b" " * 100,
    "as long as the file": struct.pack("<Q", 50_000_000) + b"{" + b" " * 100,
    "enormous tensor": header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}),
    "tensor beyond the end": header({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}),
    "negative": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
    "overlapping": header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "abc"}),
    "deep": header(b'{"a":' * 100_000),
    "no object": header([1, 2, 3]),
    "long number": header(b'{"a":' + b"1" * 100_000 + b"}"),
    "empty tensor": header({"4.weight": {"dtype": "F32", "shape": [2**31, 0], "data_offsets": [0, 0]}}),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_safetensors_declare_what_is_there(tmp_path, case):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(HEADERS[case])
    refused(path, str(path))
