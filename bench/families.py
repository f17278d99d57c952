"""Which layer is explained by default in every family of networks, how it holds its map, and whether that map is in its place.

    python bench/families.py                # writes docs/families.md; a quarter of an hour on one core
    python bench/families.py resnet18 vit   # only prints the networks with one of these words in their names

No weights are needed: an object is pasted at the left, right, top and bottom of an image, and the activations have to change there.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lucidcam
from lucidcam.engine.inputs import Inputs
from lucidcam.engine.run import open_run
from lucidcam.engine.token_layout import settled
from lucidcam.engine.trace import first_tensor
from lucidcam.utils.optional import import_timm, import_torchvision, import_transformers
from report import circumstances, table, write_section

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
SIZE = (128, 192)
CLASSES = 10
SIDES = ((0.5, 0.2), (0.5, 0.8), (0.2, 0.5), (0.8, 0.5))
"""Where the object is pasted: left, right, top, bottom."""

NAMES = """
beit_base_patch16_224 botnet26t_256 cait_xxs24_224 caformer_s18 coat_tiny coatnet_pico_rw_224 convit_tiny convmixer_768_32 convnext_atto
convnextv2_atto crossvit_tiny_240 cs3darknet_s csatv2 davit_tiny deit3_small_patch16_224 deit_tiny_distilled_patch16_224 densenet121 dla34
dm_nfnet_f0 dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientvit_b0 efficientvit_m0
eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 fbnetc_100 focalnet_tiny_srf gcvit_xxtiny gernet_s ghostnet_050 gmixer_12_224 gmlp_ti16_224
halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0 hiera_tiny_224 hrnet_w18_small inception_next_atto inception_resnet_v2 inception_v3
inception_v4 lambda_resnet26t lcnet_050 legacy_seresnet18 legacy_xception levit_128s mambaout_femto maxvit_rmlp_pico_rw_256 mixer_s32_224
mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 mobilevit_xxs mobilevitv2_050 mvitv2_tiny nasnetalarge nest_tiny nextvit_small
pit_ti_224 poolformer_s12 pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resmlp_12_224 resnest14d
resnet18 resnetv2_18 resnext26ts rexnet_100 samvit_base_patch16_224 selecsls42 sequencer2d_s seresnet18 shvit_s1 skresnet18 starnet_s050
swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_ns_224 swinv2_tiny_window8_256 tf_efficientnet_lite0 tiny_vit_5m_224 tinynet_e
tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11_bn visformer_tiny vit_base_patch16_siglip_224 vit_base_patch32_clip_224
vit_relpos_base_patch16_224 vit_small_patch14_reg4_dinov2 vit_small_patch16_dinov3 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224
vitamin_small_224 volo_d1_224 vovnet39a xception41 xcit_nano_12_p16_224
"""
TIMM = NAMES.split()
"""The smallest variant, or one of the smallest, of every file of timm that takes photos of this size and is small enough for two cores."""


@dataclass(frozen=True)
class Network:
    """One network, not built yet."""

    source: str
    name: str
    size: tuple[int, int]
    build: Callable[[], nn.Module]


@dataclass(frozen=True)
class Found:
    """What was found in it.

    Attributes:
        layer: the default layer.
        kind: how that holds its map.
        grid: the map's size.
        prefix: tokens before the patches.
        sides: where, between 0 and 1, the activations change when the object lies at the left, right, top, bottom.
        reference: stages that timm itself gives as `[B, C, h, w]`, and those among them that some layer, as laid out here, equals.
    """

    layer: str
    kind: str
    grid: tuple[int, ...]
    prefix: int
    sides: tuple[float, float, float, float]
    reference: tuple[int, int] | None

    @property
    def in_place(self) -> bool:
        """Whether the change moves with the object, across and down, by a twentieth of the map at least."""
        left, right, top, bottom = self.sides
        return right - left > 0.05 and bottom - top > 0.05


def of_timm(name: str, wanted: tuple[int, int] = SIZE) -> Network:
    """A network of timm at a size that is no square, where its family allows that."""
    timm = import_timm()
    config = timm.get_pretrained_cfg(name)
    own = tuple(config.input_size[1:])

    def build(size: tuple[int, ...] | None) -> nn.Module:
        torch.manual_seed(0)
        options = {} if size is None else {"img_size": size}
        return timm.create_model(name, num_classes=CLASSES, **options).eval()

    for size, given in ((wanted, wanted), (wanted, None), (own, None)):
        try:
            net = build(given)
            with torch.no_grad():
                net(torch.zeros(1, 3, *size))
        except (TypeError, AssertionError, RuntimeError, ValueError):
            continue
        return Network("timm", name, size, lambda net=net: net)
    raise ValueError(f"{name} takes neither {wanted} nor {own}")


def torchvision_families() -> dict[str, str]:
    """The smallest network of each of torchvision's families of classifiers, by the family."""
    models = import_torchvision().models
    smallest: dict[str, tuple[int, str]] = {}
    for name in models.list_models(module=models):
        family = models.get_model_builder(name).__module__.rpartition(".")[2]
        size = min(weights.meta["num_params"] for weights in models.get_model_weights(name))
        smallest[family] = min(smallest.get(family, (size, name)), (size, name))
    found = {family: name for family, (_, name) in smallest.items()}
    return {**found, "swin_transformer_v2": "swin_v2_t"}  # in one file with the first version


def of_torchvision(name: str, wanted: tuple[int, int] = SIZE) -> Network:
    """A network of torchvision."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_torchvision().models.get_model(name, weights=None, num_classes=CLASSES, **options).eval()

    fixed = {"vit": (224, 224), "maxvit": (224, 224)}  # they were built for one size
    return Network("torchvision", name, next((s for part, s in fixed.items() if name.startswith(part)), wanted), build)


def transformers_families() -> dict[str, Callable[[], nn.Module]]:
    """Small random networks of transformers, by the family."""
    hf = import_transformers()
    vit = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 96, "patch_size": 8}
    square = {**vit, "intermediate_size": 64}
    mlp = {**square, "image_size": SIZE}
    swin = {"image_size": SIZE, "embed_dim": 16, "depths": [1, 1, 2], "num_heads": [1, 2, 2], "window_size": 4}
    conv = {"hidden_sizes": [8, 16, 32, 32], "depths": [1, 1, 1, 1]}
    labels = {"num_labels": CLASSES}
    return {
        "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**mlp, **labels)),
        "deit": lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**mlp, **labels)),
        "beit": lambda: hf.BeitForImageClassification(hf.BeitConfig(**square, **labels)),
        "dinov2": lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**vit, **labels)),
        "dinov2_with_registers": lambda: hf.Dinov2WithRegistersForImageClassification(hf.Dinov2WithRegistersConfig(**vit, **labels)),
        "swin": lambda: hf.SwinForImageClassification(hf.SwinConfig(**swin, **labels)),
        "swinv2": lambda: hf.Swinv2ForImageClassification(hf.Swinv2Config(**swin, **labels)),
        "convnext": lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig(**conv, **labels)),
        "convnextv2": lambda: hf.ConvNextV2ForImageClassification(hf.ConvNextV2Config(**conv, **labels)),
        "clip_vision": lambda: hf.CLIPForImageClassification(hf.CLIPConfig(vision_config=square, **labels)),
        "siglip_vision": lambda: hf.SiglipForImageClassification(hf.SiglipConfig(vision_config=square, **labels)),
    }


def of_transformers(family: str, wanted: tuple[int, int] = SIZE) -> Network:
    """A small random network of transformers; the classifier of its kind."""
    torch.manual_seed(0)
    net = transformers_families()[family]().eval()
    size = getattr(getattr(net.config, "vision_config", net.config), "image_size", wanted)
    chosen = wanted if "convnext" in family else (size, size) if isinstance(size, int) else (size[0], size[1])
    return Network("transformers", family, chosen, lambda: net)


def pasted(size: tuple[int, int]) -> Tensor:
    """Five images: faint noise, and the same with an object at each side."""
    generator = torch.Generator().manual_seed(1)
    images = (0.1 * torch.randn(1, 3, *size, generator=generator)).repeat(5, 1, 1, 1)
    height, width = size[0] // 4, size[1] // 4
    thing = 2 * torch.randn(3, height, width, generator=generator)
    for image, (y, x) in zip(images[1:], SIDES, strict=True):
        top, left = round(y * size[0] - height / 2), round(x * size[1] - width / 2)
        image[:, top : top + height, left : left + width] = thing
    return images


def enliven(net: nn.Module, images: Tensor) -> None:
    """Random weights as alive as trained ones: batch statistics are those of the images, normalisations that start at zero do not."""
    generator = torch.Generator().manual_seed(2)
    batch = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for module in net.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 1 and not bool(weight.any()):
            weight.data.copy_(0.5 + torch.rand(weight.shape, generator=generator))
    for module in batch:
        module.momentum, module.training = None, True
        module.reset_running_stats()
    with torch.no_grad():
        net(images)
    for module in batch:
        module.training = False


def examine(network: Network) -> Found:
    """Explain a network at its default layer, and see where its activations change.

    Raises:
        AssertionError: the map is not finite, or not of the layer's size.
    """
    net, images = network.build(), pasted(network.size)
    enliven(net, images)
    maps = lucidcam.attribute(net, images[1:2], "gradcam", target=3)
    with open_run(net, images, 3) as run:
        activations = run.capture().activations[:, 0]
        layer = run.layer
    call = next(c for c in reversed(settled(net, run.inputs).calls) if c.name == layer.name and c.layout is not None)
    assert tuple(maps.shape[1:]) == tuple(activations.shape[2:]) == call.layout.grid, "the map has the layer's size"
    assert bool(torch.isfinite(maps).all()), "the map is finite"
    reference = compared(net, images[1:2]) if hasattr(net, "forward_intermediates") else None
    return Found(layer.name, call.layout.kind, call.layout.grid, call.layout.prefix, centres(activations), reference)


def centres(activations: Tensor) -> tuple[float, float, float, float]:
    """The middle of what changes with the place of the object: x of left and right, y of top and bottom."""
    change = (activations[1:] - activations[:1]).double().norm(dim=1)
    change = change / change.sum((1, 2), keepdim=True)
    change = change - change.amin(0)  # what changes wherever the object lies
    change = change / change.sum((1, 2), keepdim=True)
    rows, columns = change.sum(2), change.sum(1)
    y, x = ((torch.arange(n) + 0.5) / n for n in change.shape[1:])
    return float(columns[0] @ x.double()), float(columns[1] @ x.double()), float(rows[2] @ y.double()), float(rows[3] @ y.double())


def compared(net: nn.Module, image: Tensor) -> tuple[int, int] | None:
    """How many of the stages that timm lays out by itself equal some layer's output as the engine lays it out, and of how many."""
    try:
        with torch.no_grad():
            stages = net.forward_intermediates(image, intermediates_only=True, output_fmt="NCHW", norm=False)
    except (RuntimeError, AttributeError, AssertionError):
        return None
    outputs: list[Any] = []
    names = dict(net.named_modules())
    calls = settled(net, Inputs.of(image)).calls
    handles = [module.register_forward_hook(lambda _, __, output: outputs.append(first_tensor(output))) for module in names.values()]
    with torch.no_grad():
        net(image)
    for handle in handles:
        handle.remove()
    maps = [call.layout.to_maps(output) for call, output in zip(calls, outputs, strict=True) if call.layout is not None]
    return sum(any(_same(found, stage) for found in maps) for stage in stages), len(stages)


def _same(found: Tensor, stage: Tensor) -> bool:
    return found.shape == stage.shape and torch.allclose(found, stage, rtol=1e-4, atol=1e-5 * float(stage.abs().max()))


def judge(of: Callable[..., Network], name: str) -> tuple[Network, Found]:
    """Examine a network; where two or four rows that all see the whole image tell nothing, once more at twice the size."""
    network = of(name)
    found = examine(network)
    if not found.in_place:
        network = of(name, (2 * SIZE[0], 2 * SIZE[1]))
        found = examine(network)
    return network, found


def networks() -> list[tuple[Callable[..., Network], str]]:
    """All networks of the table."""
    return [
        *((of_timm, name) for name in TIMM),
        *((of_torchvision, name) for name in torchvision_families().values()),
        *((of_transformers, family) for family in transformers_families()),
    ]


def row(network: Network, found: Found) -> list[str]:
    """One line of the table."""
    left, right, top, bottom = (f"{side:.2f}" for side in found.sides)
    tokens = f", prefix {found.prefix}" if found.prefix else ""
    same = "" if found.reference is None else f"{found.reference[0]} of {found.reference[1]}"
    cells = [network.name, f"`{found.layer}`", found.kind.replace("_", " ") + tokens, "×".join(map(str, found.grid))]
    return [*cells, "×".join(map(str, network.size)), f"{left} {right}", f"{top} {bottom}", same]


def main() -> None:
    """Examine all networks, or those asked for, and write the page."""
    wanted = sys.argv[1:]
    rows: dict[str, list[list[str]]] = {"timm": [], "torchvision": [], "transformers": []}
    for of, name in networks():
        if wanted and not any(word in name for word in wanted):
            continue
        start = time.perf_counter()
        try:
            network, found = judge(of, name)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            continue
        cells = row(network, found)
        print("" if found.in_place else "NOT IN PLACE", *cells, f"{time.perf_counter() - start:.1f} s", flush=True)
        rows[network.source].append(cells)
    if wanted:
        return
    head = ["network", "default layer", "layout", "grid", "image", "left, right", "top, bottom", "stages equal"]
    parts = [f"### {source}: {len(found)} networks\n\n{table(head, found)}" for source, found in rows.items()]
    write_section(PAGE, "families", "\n\n".join([*parts, circumstances(["torch", "timm", "torchvision", "transformers"])]))


if __name__ == "__main__":
    main()
