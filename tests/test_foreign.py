"""Networks that are no plain eager modules: every method gives the eager network's map, or refuses in one line of our own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import lucidcam
from in_turn import in_turn
from lucidcam.errors import LayerError, ModelError, TargetError
from lucidcam.imaging.preprocess import Preprocess
from lucidcam.registry import methods
from nets import Tokens, build

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of each of its own older formats

FEW: dict[str, Any] = {"samples": 2}
OPTIONS: dict[str, dict[str, Any]] = {"rise": {"masks": 30}, "sscam": FEW, "iscam": {"steps": 2}, "smoothgradcam++": FEW}
EVERY = sorted(set(methods) - {"mcam"})
NEED_NOTHING = ("occlusion", "rise")
"""They need the scores alone, so that they work on whatever runs."""

AT_A_LAYER = ("eigencam", "scorecam", "sscam", "iscam", "ablationcam")
"""They need a layer's activations, but no gradient."""


def eager() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        for part, scale in ((net[0], 2), (net[2], 1), (net[6], 2)):
            part.weight[1:4] = scale * part.weight[1:4].abs()  # there is evidence for class 1
    return net


def images(count: int = 2, side: int = 12) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(count))


class Parts(nn.Module):
    """An eager network with one part of another kind."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Numpy(nn.Module):
    """Runs elsewhere, as a session of onnxruntime does: tensors leave torch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = [eager()]

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.inner[0](torch.from_numpy(x.numpy())).detach().numpy())


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.net, self.reentrant = eager(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2:](checkpoint(self.net[:2], x, use_reentrant=self.reentrant))


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = eager()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_sequential(list(self.net), 3, x, use_reentrant=True)


class Quiet(nn.Module):
    """Turns gradients off by itself."""

    def __init__(self, context: Callable[[], Any]) -> None:
        super().__init__()
        self.net, self.context = eager(), context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            return self.net(x)


class Functional(nn.Module):
    """Calls a network with weights of its own, as code with functional state does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = eager()

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.functional_call(self.net, dict(self.net.named_parameters()), (x,))


class Ensemble(nn.Module):
    """The mean of two networks under vmap: their layers hold tensors of the transform."""

    def __init__(self) -> None:
        super().__init__()
        self.net = eager()
        self.weights = {key: torch.stack([value, value]) for key, value in self.net.state_dict().items()}

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda weights: torch.func.functional_call(self.net, weights, (x,)))(self.weights).mean(0)


class Compiles(nn.Module):
    """Calls a function that was compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.net = eager()
        self.call = torch.compile(self._features, backend="aot_eager")

    def _features(self, x: Tensor) -> Tensor:
        return self.net[:4](x)

    def forward(self, x: Tensor) -> Tensor:
        return self.net[4:](self.call(x))


class Untraceable(nn.Module):
    """Traced for two images, it knows no other number."""

    def __init__(self) -> None:
        super().__init__()
        self.net = eager()

    def forward(self, x: Tensor) -> Tensor:
        return self.net[6](self.net[:5](x).view(len(x), 6))


def static_int8() -> nn.Module:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = torch.backends.quantized.supported_engines[-1]
    ready = prepare_fx(eager(), get_default_qconfig_mapping(torch.backends.quantized.engine), images())
    ready(images())
    return convert_fx(ready)


def dynamic_int8() -> nn.Module:
    torch.backends.quantized.engine = torch.backends.quantized.supported_engines[-1]
    return torch.ao.quantization.quantize_dynamic(eager(), {nn.Linear}, torch.qint8)


def reloaded(module: torch.jit.ScriptModule) -> nn.Module:
    import io

    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def in_place() -> nn.Module:
    net = eager()
    net.compile(backend="eager")
    return net


SCRIPTS: dict[str, Callable[[], nn.Module]] = {
    "scripted": lambda: torch.jit.script(eager()),
    "scripted, in training mode": lambda: torch.jit.script(eager().train()),
    "saved and loaded": lambda: reloaded(torch.jit.script(eager())),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(eager())),
    "optimised for inference": lambda: torch.jit.optimize_for_inference(torch.jit.script(eager())),
    "traced": lambda: torch.jit.trace(eager(), images()),
    "traced for two": lambda: torch.jit.trace(Untraceable(), images()),
    "exported": lambda: torch.export.export(eager(), (images(),)).module(),
    "exported, any number": lambda: torch.export.export(eager(), (images(),), dynamic_shapes=({0: torch.export.Dim("n")},)).module(),
    "numpy": Numpy,
    "under vmap": Ensemble,
    "in a wrapper": lambda: nn.Sequential(torch.jit.script(eager())),
}
"""Networks whose layers nobody sees."""

OPEN: dict[str, Callable[[], nn.Module]] = {
    "scripted body": lambda: Parts(torch.jit.script(eager()[:4]), eager()[6]),
    "scripted head": lambda: Parts(eager()[:4], torch.jit.script(eager()[6])),
    "unflattened": lambda: torch.export.unflatten(torch.export.export(eager(), (images(),))),
    "unflattened, any number": lambda: torch.export.unflatten(
        torch.export.export(eager(), (images(),), dynamic_shapes=({0: torch.export.Dim("n")},))
    ),
    "symbolic": lambda: torch.fx.symbolic_trace(eager()),
    "reentrant checkpoint": lambda: Checkpointed(True),
    "checkpoint": lambda: Checkpointed(False),
    "checkpointed sequence": Sequence,
    "no_grad": lambda: Quiet(torch.no_grad),
    "inference_mode": lambda: Quiet(torch.inference_mode),
    "functional state": Functional,
    "compiled": lambda: torch.compile(eager(), backend="eager"),
    "compiled in place": in_place,
    "a compiled function": Compiles,
    "frozen parameters": lambda: eager().requires_grad_(False),
}
"""Networks whose layers are seen."""

QUANTISED: dict[str, Callable[[], nn.Module]] = {"static int8": static_int8, "dynamic int8": dynamic_int8}

OPAQUE_RULES = ("scripted body", "scripted head", "unflattened", "unflattened, any number")
"""In these, the operations of a rule are out of its sight."""


def explain(module: nn.Module, method: str, **options: Any) -> Tensor:
    return lucidcam.attribute(module, images(), method, target=1, **OPTIONS.get(method, {}), **options)


@cache
@cache
def expected(method: str) -> Tensor | None:
    """The eager network's maps; none where the method is for other networks."""
    try:
        return explain(eager(), method)
    except lucidcam.LucidcamError:
        return None


def state_of(module: nn.Module) -> list[tuple[str, object, int]]:
    """What must come back as it was."""
    return [(name, getattr(child, "training", None), len(child._forward_hooks)) for name, child in module.named_modules()]


def mapped(module: nn.Module, method: str) -> Tensor | None:
    """The method's maps, or None where it refuses, in one line; the module comes back as it was."""
    before = state_of(module)
    refusal = ""
    try:
        found = explain(module, method)
    except lucidcam.LucidcamError as error:
        refusal, found = str(error), None
    assert "\n" not in refusal
    assert len(refusal) < 500
    assert before == state_of(module)
    return found


def answered(module: nn.Module, method: str, loose: float = 1e-5) -> bool:
    """Whether a method gives the eager network's map."""
    found = mapped(module, method)
    if found is None:
        return False
    wanted = expected(method)
    assert wanted is not None
    torch.testing.assert_close(found, wanted, rtol=loose, atol=loose * float(wanted.abs().max()))
    return True


@pytest.mark.parametrize(("kind", "method"), in_turn(SCRIPTS, EVERY, 3))
def test_networks_without_layers_to_see(kind: str, method: str) -> None:
    works = answered(SCRIPTS[kind](), method, 1e-4)
    if method in NEED_NOTHING:
        assert works
    if method == "gradient" and kind not in ("numpy", "optimised for inference"):
        assert works
    if method in (*AT_A_LAYER, "gradcam", "cam"):
        assert not works


@pytest.mark.parametrize(("kind", "method"), in_turn(OPEN, EVERY, 3))
def test_networks_whose_layers_are_seen(kind: str, method: str) -> None:
    works = answered(OPEN[kind](), method)
    if expected(method) is not None and not (kind in OPAQUE_RULES and ("backprop" in method or "deconv" in method or "guided" in method)):
        assert works or (method == "cam" and kind in ("scripted head", "unflattened", "unflattened, any number"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("method", EVERY)
def test_quantised_networks(kind: str, method: str) -> None:
    """What needs no gradient works, on the quantised network's own numbers; the rest is refused."""
    found = mapped(QUANTISED[kind](), method)
    assert (found is not None) == (method in (*NEED_NOTHING, *AT_A_LAYER))
    if found is None:
        return
    wanted = expected(method)
    assert wanted is not None
    assert found.shape == wanted.shape
    if method != "occlusion":  # what a patch hides is less than a step of the quantised scores
        pair = torch.stack([found.flatten(), wanted.flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.9


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_networks_by_hand(kind: str) -> None:
    module, x = QUANTISED[kind](), images(1)  # dynamic quantisation scales a batch as one
    clean = module(x)[:, 1].detach()
    total, seen = torch.zeros(1, 12, 12), torch.zeros(12, 12)
    for top in range(0, 10, 2):
        for left in range(0, 10, 2):
            hidden = x.clone()
            hidden[:, :, top : top + 4, left : left + 4] = 0
            total[:, top : top + 4, left : left + 4] += (clean - module(hidden)[:, 1])[:, None, None]
            seen[top : top + 4, left : left + 4] += 1
    torch.testing.assert_close(lucidcam.attribute(module, x, "occlusion", target=1, window=4, stride=2, batch_size=1), total / seen)

    layer = module.get_submodule("2" if kind == "static int8" else "3")
    kept: list[Tensor] = []
    with torch.no_grad():
        handle = layer.register_forward_hook(lambda _, __, output: kept.append(output))
        module(x)
        handle.remove()
        activations = kept[0].dequantize()
        drops = torch.zeros(1, 6)
        for k in range(6):
            off = activations.clone()
            off[:, k] = 0
            output = off
            if kept[0].is_quantized:
                output = torch.quantize_per_tensor(off, kept[0].q_scale(), kept[0].q_zero_point(), kept[0].dtype)
            handle = layer.register_forward_hook(lambda *_, output=output: output)
            drops[:, k] = (clean - module(x)[:, 1]) / clean
            handle.remove()
    ablation = torch.einsum("bk,bkhw->bhw", drops, activations).relu()
    torch.testing.assert_close(lucidcam.attribute(module, x, "ablationcam", target=1, batch_size=1), ablation, atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------- checkpoints


def test_checkpoints_of_other_threads_stay_what_they_are() -> None:
    """A thread that trains with checkpoints meanwhile keeps them: its gradients are right, and what it checkpoints runs twice."""
    from lucidcam.engine.session import session

    runs: list[int] = []

    def part(x: Tensor) -> Tensor:
        runs.append(1)
        return x.sin()

    def train() -> None:
        for reentrant in (True, False):
            x = torch.tensor([0.5], requires_grad=True)
            checkpoint(part, x * 2, use_reentrant=reentrant).sum().backward()
            torch.testing.assert_close(x.grad, 2 * torch.cos(2 * x.detach()))

    import torch.utils.checkpoint as place

    before = place.CheckpointFunction, place._checkpoint_without_reentrant_generator
    with session(eager()), ThreadPoolExecutor(1) as pool:
        pool.submit(train).result()
        with session(eager()):  # a second model
            pass
        assert len(runs) == 4
        checkpoint(part, torch.ones(1, requires_grad=True), use_reentrant=True)
        assert len(runs) == 5
    assert before == (place.CheckpointFunction, place._checkpoint_without_reentrant_generator)


@pytest.mark.parametrize("method", ["gradcam", "gradient", "guided_backprop", "excitation_backprop", "layercam"])
@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:densenet121"])
def test_networks_that_checkpoint_themselves(name: str, method: str) -> None:
    torch.manual_seed(0)
    module = lucidcam.load(name, pretrained=False).module.eval()
    x = images(1, 64)
    try:
        wanted = lucidcam.attribute(module, x, method, target=1)
    except lucidcam.LucidcamError:
        wanted = None
    if name.startswith("timm"):
        module.set_grad_checkpointing(True)
    else:
        for part in module.modules():
            if hasattr(part, "memory_efficient"):
                part.memory_efficient = True
    if wanted is None:
        with pytest.raises(lucidcam.LucidcamError):
            lucidcam.attribute(module, x, method, target=1)
    else:
        torch.testing.assert_close(lucidcam.attribute(module, x, method, target=1), wanted)


def test_transformers_that_checkpoint_themselves() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8)
    module = ViTForImageClassification(config).train()
    wanted = lucidcam.attribute(module, images(1, 32), "attention_relevance", target=1)
    module.gradient_checkpointing_enable()
    torch.testing.assert_close(lucidcam.attribute(module, images(1, 32), "attention_relevance", target=1), wanted)
    assert module.training


# ---------------------------------------------------------------- decoding in place


class Decoder(nn.Module):
    """A detector that decodes its boxes in place, in one of the ways that are in use, or not in place."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features, self.head, self.how = nn.Sequential(nn.Conv2d(3, 8, 3, 8, 1), nn.SiLU()), nn.Conv2d(8, 9, 1), how

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        raw = self.head(self.features(x)).permute(0, 2, 3, 1)
        return getattr(self, self.how)(raw).flatten(1, 2), [raw]

    def plainly(self, raw: Tensor) -> Tensor:
        y = raw.sigmoid()
        return torch.cat([y[..., :2] * 16, (y[..., 2:4] * 2) ** 2, y[..., 4:]], -1)

    def by_slices(self, raw: Tensor) -> Tensor:
        y = raw.sigmoid()
        y[..., :2] = y[..., :2] * 2 * 8
        y[..., 2:4] = (y[..., 2:4] * 2) ** 2
        return y

    def by_parts(self, raw: Tensor) -> Tensor:
        y = raw.sigmoid()
        xy, wh, _ = y.split((2, 2, 5), -1)
        xy.mul_(16)
        wh.mul_(2).pow_(2)
        return y

    def by_rows(self, raw: Tensor) -> Tensor:
        y = raw.clone().sigmoid_()
        for row in y.unbind(0):
            row[..., :2] *= 16
            row[..., 2:4].mul_(2).pow_(2)
        return y

    def without_gradients(self, raw: Tensor) -> Tensor:
        with torch.no_grad():
            return self.by_slices(raw)


def objectness(outputs: Any) -> Tensor:
    return (outputs[0][..., 4] * outputs[0][..., 5] * outputs[0][..., 2]).amax(1)


@pytest.mark.parametrize("how", ["by_slices", "by_parts", "by_rows", "without_gradients"])
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "gradient", "eigengradcam", "scorecam", "ablationcam", "eigencam"])
def test_boxes_decoded_in_place(how: str, method: str) -> None:
    x = images(2, 32).double()
    layer = None if method == "gradient" else "features"
    target = None if method == "eigencam" else objectness
    found = lucidcam.attribute(Decoder(how).double(), x, method, target=target, layer=layer)
    wanted = lucidcam.attribute(Decoder("plainly").double(), x, method, target=target, layer=layer)
    torch.testing.assert_close(found, wanted)
    assert bool(found.any())


def test_several_targets_of_boxes_decoded_in_place() -> None:
    x = images(2, 32).double()
    pairs = [lucidcam.attribute(Decoder(how).double(), x, "hirescam", target=lambda o: o[0].amax(1)) for how in ("by_parts", "plainly")]
    assert pairs[0].shape == (2, 9, 4, 4)
    torch.testing.assert_close(*pairs)


# ---------------------------------------------------------------- outputs without class scores


@pytest.mark.parametrize("method", ["eigencam", "rollout"])
def test_methods_that_need_no_target(method: str) -> None:
    assert not methods[method].needs_target
    for outputs in (lambda y: {"boxes": y, "count": 3}, lambda y: (y, [y]), lambda y: y[:, :, None, None].expand(-1, -1, 4, 4)):
        if method == "rollout":
            net, x = Returning(build(Tokens), outputs), torch.rand(2, 3, 16, 20).double()
            wanted = lucidcam.attribute(build(Tokens), x, method)
        else:
            net, x = Returning(eager(), outputs), images()
            wanted = lucidcam.attribute(eager(), x, method)
        torch.testing.assert_close(lucidcam.attribute(net, x, method), wanted)
        with pytest.raises(lucidcam.LucidcamError):
            lucidcam.attribute(net, x, "gradcam")


class Returning(nn.Module):
    def __init__(self, net: nn.Module, outputs: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.outputs = net, outputs

    def forward(self, x: Tensor) -> Any:
        return self.outputs(self.net(x))


def test_an_explanation_without_a_target(tmp_path: Path) -> None:
    model = lucidcam.wrap(Returning(eager(), lambda y: {"boxes": y}), Preprocess(size=(16, 16)), labels=["a", "b", "c"])
    (found,) = lucidcam.explain(model, torch.rand(3, 20, 30), "eigencam")
    assert (found.target, found.label, found.probability) == (None, "no class", None)
    assert math.isnan(found.score)
    assert found.to_dict()["score"] is None
    assert json.loads(found.save(tmp_path / "found.json").read_text())["label"] == "no class"
    found.save(tmp_path / "found.html")
    with pytest.raises(TargetError):
        lucidcam.explain(model, torch.rand(3, 20, 30), "gradcam")
    usual = lucidcam.wrap(eager(), Preprocess(size=(16, 16)), labels=["a", "b", "c"])
    (found,) = lucidcam.explain(usual, torch.rand(3, 20, 30), "eigencam")
    assert found.target is not None
    assert found.probability is not None


# ---------------------------------------------------------------- weights that are not there


def test_weights_that_are_not_there() -> None:
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    with torch.device("meta"):
        empty = eager()
    for module, told in ((lazy, "has no shape yet"), (empty, "meta device"), (nn.Sequential(nn.LazyBatchNorm2d()), "no shape yet")):
        for method in ("gradcam", "occlusion", "gradient"):
            with pytest.raises(ModelError, match=told):
                lucidcam.attribute(module, images(), method, target=1)
        with pytest.raises(ModelError, match=told):
            lucidcam.layers(module, images())
    assert isinstance(lazy[0], nn.LazyConv2d)
    with pytest.raises(lucidcam.LucidcamError, match="meta"):
        lucidcam.attribute(eager(), images().to("meta"))


def test_a_network_that_builds_itself() -> None:
    class Builds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = eager()[:6], None

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            self.head = self.head or nn.Linear(x.shape[1], 3)
            return self.head(x)

    module = Builds().eval()
    with pytest.raises(ModelError, match="built 'head'"):
        lucidcam.attribute(module, images(), "occlusion")
    assert lucidcam.attribute(module, images(), "gradcam").shape == (2, 10, 10)


def test_a_network_whose_forward_adds_a_parameter() -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.scale = eager()[:6], eager()[6], None

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            if self.scale is None:
                self.scale = nn.Parameter(torch.randn(6))
            return self.head(x * self.scale)

    for method in ("gradcam", "scorecam", "gradient", "excitation_backprop", "occlusion", "rollout"):
        module = Scales().eval()
        with pytest.raises(ModelError, match=r"built 'scale'|no attention"):
            lucidcam.attribute(module, images(), method, target=1)
    assert lucidcam.attribute(module, images(), "gradcam").shape == (2, 10, 10)


@pytest.mark.parametrize("container", [nn.Module(), nn.ModuleDict({"net": eager()}), nn.ModuleList([eager()])])
def test_a_module_without_a_forward(container: nn.Module) -> None:
    for method in EVERY:
        with pytest.raises(ModelError, match=r"has no forward of its own"):
            lucidcam.attribute(container, images(), method)
    container.forward = eager().forward  # type: ignore[method-assign]
    assert lucidcam.attribute(container, images(), "occlusion").shape == (2, 12, 12)


def test_sharded_networks_are_refused(tmp_path: Path) -> None:
    from torch.distributed.fsdp import FSDPModule

    class Sharded(FSDPModule, nn.Sequential):
        pass

    module = eager()
    module[0].__class__ = type("FSDPConv2d", (FSDPModule, nn.Conv2d), {})
    with pytest.raises(ModelError, match="sharded over processes"):
        lucidcam.attribute(module, images())


def test_what_is_no_module() -> None:
    program = torch.export.export(eager(), (images(),))
    for call in (lambda thing: lucidcam.attribute(thing, images()), lucidcam.wrap):
        with pytest.raises(ModelError, match=r"torch\.export\.unflatten"):
            call(program)
        with pytest.raises(ModelError, match="in the forward of a module of your own"):
            call(lambda x: x)
        with pytest.raises(ModelError, match=r"model\.module"):
            call(lucidcam.wrap(eager()))
        with pytest.raises(ModelError, match=r"lucidcam\.load"):
            call("resnet18")


# ---------------------------------------------------------------- programs made for a number of images


def test_photos_for_a_program_of_a_fixed_number() -> None:
    photos = [torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    wanted = lucidcam.explain(lucidcam.wrap(eager(), Preprocess(size=(12, 12))), photos, "occlusion", 1)
    for count in (1, 2):
        program = torch.export.export(eager(), (images(count),))
        for module in (program.module(), torch.export.unflatten(program)):
            found = lucidcam.explain(lucidcam.wrap(module, Preprocess(size=(12, 12))), photos, "occlusion", 1)
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one.raw, other.raw, atol=1e-5, rtol=1e-4)
        with pytest.raises(ModelError, match=f"exported for {count} images at a time; got 3"):
            lucidcam.attribute(program.module(), images(3), "occlusion")


@pytest.mark.parametrize("kind", ["script", "trace", "export", "one", "function"])
def test_a_single_images_gradient_below_a_batch_normalisation(kind: str) -> None:
    class ToTokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.see, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
            nn.init.uniform_(self.norm.weight)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.norm(self.see(x)).flatten(2).transpose(1, 2)
            return (self.head(tokens) * tokens.mean(-1, keepdim=True)).mean(1)

    class Functions(ToTokens):
        def forward(self, x: Tensor) -> Tensor:
            norm = self.norm
            seen = nn.functional.batch_norm(self.see(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)
            tokens = seen.flatten(2).transpose(1, 2)
            return (self.head(tokens) * tokens.mean(-1, keepdim=True)).mean(1)

    net, x = ToTokens().double().eval(), images(2).double()
    module = {
        "script": lambda: torch.jit.script(net),
        "trace": lambda: torch.jit.trace(net, x),
        "export": lambda: torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("n")},)).module(),
        "one": lambda: torch.export.export(net, (x[:1],)).module(),
        "function": lambda: Functions().double().eval(),
    }[kind]()
    wanted = lucidcam.attribute(net, x, "gradient", target=1)[:1]
    for _ in range(3):
        torch.testing.assert_close(lucidcam.attribute(module, x[:1], "gradient", target=1), wanted)


class Counted(nn.Module):
    """Its code holds the number of images that it takes at a time."""

    def __init__(self, how: str, count: int) -> None:
        super().__init__()
        self.net, self.how, self.count = eager(), how, count

    def forward(self, x: Tensor) -> Tensor:
        h = self.net[:4](x)
        if self.how == "view":
            return self.net[6](h.view(self.count, 6, -1).mean(2))
        if self.how == "state":
            return self.net[6](h.mean((2, 3)) + torch.zeros(self.count, 6))
        if self.how == "squeeze":
            h = h.mean((2, 3)).squeeze()
            return self.net[6](torch.cat([h[:, :3], h[:, 3:]], 1))
        if len(x) != self.count:
            raise KeyError(len(x))
        return self.net(x)


@pytest.mark.parametrize(("how", "count"), [("view", 2), ("state", 1), ("squeeze", 2), ("raise", 1)])
def test_code_that_holds_the_number_of_images(how: str, count: int) -> None:
    """Masked images and replaced activations go through it as many at a time; a pass over a single one is not needed."""
    works = 0
    for method in EVERY:
        try:
            found = lucidcam.attribute(Counted(how, count), images()[:count], method, target=1, **OPTIONS.get(method, {}))
        except lucidcam.LucidcamError:
            assert expected(method) is None or (method == "cam" and count == 2)
            continue
        wanted = lucidcam.attribute(eager(), images()[:count], method, target=1, **OPTIONS.get(method, {}))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
        works += 1
    assert works >= 20


def test_axes_of_clips_that_come_in_a_fixed_number() -> None:
    class Clips(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.net, self.count = eager(), count

        def forward(self, x: Tensor) -> Tensor:
            return self.net[5:](self.net[:5](x.flatten(0, 1))).view(self.count, 5, 3).mean(1)

    clips = torch.rand(2, 5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    for method in ("gradient", "occlusion", "gradcam", "ablationcam"):
        found, wanted = (lucidcam.attribute(Clips(count), clips, method, target=1) for count in (2, -1))
        assert found.shape == ((2, 5, 10, 10) if "cam" in method else (2, 5, 12, 12))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- networks that change what they are given


IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "subtracts": lambda x: x.sub_(0.5),
    "a view": lambda x: x.view(-1).mul_(0.5).view(x.shape),
    "one channel": lambda x: (x[:, 0].mul_(2), x)[1],
    "an index": lambda x: (x.__setitem__((slice(None), 0), 0), x)[1],
    "data": lambda x: (x.data.sub_(0.5), x)[1],
    "only what is not scaled": lambda x: x.div_(2) if x.max() > 1 else x,
    "as an array": lambda x: (x.detach().numpy().__isub__(0.25), x)[1],
}


class Prepares(nn.Module):
    """Normalises its images by itself."""

    def __init__(self, prepare: Callable[[Tensor], Tensor], copies: bool) -> None:
        super().__init__()
        self.net, self.prepare, self.copies = eager(), prepare, copies

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.prepare(x.clone() if self.copies else x))


@pytest.mark.parametrize("how", IN_PLACE)
def test_images_that_a_network_changes_stay_what_they_are(how: str) -> None:
    """Every method with every other way."""
    for method in EVERY[list(IN_PLACE).index(how) % 2 :: 2]:
        if expected(method) is None:
            continue
        x = images()
        options = {"target": 1, **OPTIONS.get(method, {})}
        found = lucidcam.attribute(Prepares(IN_PLACE[how], False), x, method, **options)
        assert torch.equal(x, images())
        wanted = lucidcam.attribute(Prepares(IN_PLACE[how], True), x, method, **options)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


# ---------------------------------------------------------------- messages


def test_an_error_of_the_users_own_passes_unchanged() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("mine")

    for method in EVERY:
        with pytest.raises(KeyError, match="mine"):
            lucidcam.attribute(Broken(), images(), method)

    def target(outputs: Tensor) -> Tensor:
        raise IndexError("also mine")

    for method in ("gradcam", "gradient", "occlusion", "scorecam"):
        with pytest.raises(IndexError, match="also mine"):
            lucidcam.attribute(eager(), images(), method, target=target)


def test_a_gradient_that_is_missing_in_part_is_no_gradient() -> None:
    """A branch of quantised operations has no derivative: autograd would warn, and give the other branch's alone."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.other = eager()[:6], eager()[6], dynamic_int8()[6]

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.one(x) + self.other(x)

    for method in ("gradcam", "gradient", "guided_backprop", "layercam"):
        with pytest.raises(ModelError, match="no derivative"):
            lucidcam.attribute(
                Both(), images(), method, target=1, **({} if method in ("gradient", "guided_backprop") else {"layer": "body.3"})
            )


def test_larger_inputs_are_named_only_where_they_help() -> None:
    deep = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), nn.ReLU()) for _ in range(4)], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(LayerError, match=r"\(inputs of size \[4, 4\] would give one\)"):
        lucidcam.attribute(deep, images(1, 2))
    assert lucidcam.attribute(deep, images(1, 4)).shape == (1, 2, 2)
    flat = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    for module in (flat, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))):
        module(images(1, 8))
        with pytest.raises(LayerError) as refused:
            lucidcam.attribute(module, images(1, 8))
        assert "would give one" not in str(refused.value)
        assert "larger" not in str(refused.value)


def test_a_layer_inside_a_program() -> None:
    scripted = Parts(torch.jit.script(eager()[:4]), eager()[6])
    with pytest.raises(LayerError, match=r"lies inside 'body', which is TorchScript"):
        lucidcam.attribute(scripted, images(), layer="body.1")
    with pytest.raises(LayerError, match=r"runs inside a transform of torch\.func"):
        lucidcam.attribute(Ensemble(), images(), layer="net.3")


# ---------------------------------------------------------------- maps that are zero


def noted(net: nn.Module, method: str, target: Any = 1, **options: Any) -> str:
    (found,) = lucidcam.explain(lucidcam.wrap(net, Preprocess(size=(12, 12))), torch.rand(3, 20, 30), method, target, **options)
    assert found.to_dict().get("note", "") == found.note
    return found.note


def test_maps_that_are_zero_say_so() -> None:
    against = eager()
    with torch.no_grad():
        against[6].weight[1] *= -1
    dead = eager()
    with torch.no_grad():
        dead[2].bias -= 1000
    blind = eager()
    with torch.no_grad():
        blind[6].weight.zero_()
    assert noted(eager(), "gradcam") == ""
    assert noted(against, "gradcam").startswith("the map is zero everywhere: nothing at the layer speaks for the target")
    assert "counterfactual" in noted(against, "gradcam")
    assert noted(against, "gradcam", counterfactual=True) == ""
    assert noted(against, "hirescam").startswith("the map is nowhere positive")
    assert "activations are zero" in noted(dead, "eigencam")
    assert "activations are zero" in noted(dead, "gradcam", layer="3") or "gradient" in noted(dead, "gradcam", layer="3")
    assert "gradient at the layer is zero" in noted(blind, "gradcam")
    assert noted(blind, "gradient").startswith("the map is zero everywhere")
    assert noted(blind, "occlusion").startswith("the map is zero everywhere")
    assert noted(eager(), "rise", masks=20) == ""
