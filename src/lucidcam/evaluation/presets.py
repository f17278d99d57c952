"""The papers' protocols, and what they published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lucidcam.errors import OptionError, unknown


@dataclass(frozen=True)
class Published:
    """A figure from a paper; never one of ours.

    Attributes:
        paper: where it stands.
        network: what was explained.
        data: on what.
        method: our name for the method; the paper's where we have none.
        metric: our name for the figure.
        value: as printed.
    """

    paper: str
    network: str
    data: str
    method: str
    metric: str
    value: float


@dataclass(frozen=True)
class Preset:
    """A paper's protocol.

    Attributes:
        about: in one line.
        methods: those compared, as for `lucidcam.evaluate`.
        metrics: with the paper's options.
        published: what was printed for it.
    """

    about: str
    methods: tuple[Any, ...]
    metrics: tuple[Any, ...]
    published: tuple[Published, ...]


def preset(name: str) -> Preset:
    """Return a preset.

    Raises:
        OptionError: when there is none of that name.
    """
    if name not in PRESETS:
        raise OptionError(unknown("preset", name, PRESETS))
    return PRESETS[name]


def _printed(paper: str, network: str, data: str, metrics: tuple[str, ...], values: dict[str, tuple[float, ...]]) -> tuple[Published, ...]:
    return tuple(
        Published(paper, network, data, method, metric, value)
        for method, row in values.items()
        for metric, value in zip(metrics, row, strict=True)
    )


_ERRORS = ("localization_error_top1", "localization_error_top5")
_GRADCAM = "Selvaraju 2017"
_VAL = "ILSVRC val"

PRESETS: dict[str, Preset] = {
    "gradcam-paper": Preset(
        about="Grad-CAM (Selvaraju 2017): localisation error at 15 % of the maximum, pointing game, segmentation seeds",
        methods=("gradcam", "contrastive_excitation_backprop", "gradient", "guided_gradcam"),
        metrics=(("localization_error", {"threshold": 0.15}), "pointing_game", ("seed_miou", {"threshold": 0.15})),
        published=(
            *_printed(
                _GRADCAM,
                "VGG-16",
                _VAL,
                _ERRORS,
                {
                    "gradcam": (56.51, 46.41),
                    "cam": (57.20, 45.14),
                    "contrastive_excitation_backprop": (70.92, 63.04),
                    "gradient": (61.12, 51.46),
                },
            ),
            *_printed(_GRADCAM, "AlexNet", _VAL, _ERRORS, {"gradcam": (68.3, 56.6), "contrastive_excitation_backprop": (92.6, 89.2)}),
            *_printed(_GRADCAM, "GoogLeNet", _VAL, _ERRORS, {"gradcam": (60.09, 49.34), "cam": (60.09, 49.34)}),
            *_printed(_GRADCAM, "VGG-16", "VOC 2012 seeds", ("seed_miou",), {"gradcam": (49.6,), "cam": (44.6,)}),
        ),
    ),
    "gradcam++-paper": Preset(
        about="Grad-CAM++ (Chattopadhay 2018): drop and increase with the soft mask, and how often one method wins",
        methods=("gradcam", "gradcam++"),
        metrics=("average_drop", "increase_in_confidence", "win_rate"),
        published=_printed(
            "Chattopadhay 2018",
            "VGG-16",
            _VAL,
            ("average_drop", "increase_in_confidence"),
            {"gradcam++": (36.84, 17.05), "gradcam": (46.56, 13.42)},
        ),
    ),
    "scorecam-paper": Preset(
        about="Score-CAM (Wang 2020): drop and increase with the top half of the pixels, deletion, insertion, energy",
        methods=("scorecam", "gradcam", "gradcam++", "rise"),
        metrics=(
            ("average_drop", {"keep": 0.5}),
            ("increase_in_confidence", {"keep": 0.5}),
            "deletion",
            "insertion",
            ("energy_pointing_game", {"largest": 0.5}),
        ),
        published=(
            *_printed(
                "Wang 2020",
                "VGG-16",
                _VAL,
                ("average_drop", "increase_in_confidence"),
                {"scorecam": (31.5, 30.6), "gradcam": (47.8, 19.6), "gradcam++": (45.5, 18.9), "rise": (47.0, 14.0), "Mask": (63.5, 5.29)},
            ),
            *_printed(
                "Wang 2020",
                "VGG-16",
                _VAL,
                ("insertion", "deletion"),
                {"scorecam": (0.386, 0.077), "gradcam": (0.357, 0.089), "gradcam++": (0.346, 0.082)},
            ),
        ),
    ),
    "wsol": Preset(
        about="Weakly supervised localisation (Choe 2020): MaxBoxAcc, MaxBoxAccV2, and PxAP where there are masks",
        methods=("cam", "gradcam"),
        metrics=("maxboxacc", "maxboxacc_v2", "pxap"),
        published=(
            *_printed("Choe 2020", "ResNet-50", "ImageNet", ("maxboxacc_v2",), {"cam": (63.7,), "centre": (52.5,)}),
            *_printed("Choe 2020", "ResNet-50", "CUB", ("maxboxacc_v2",), {"cam": (63.0,), "centre": (59.7,)}),
            *_printed("Choe 2020", "ResNet-50", "OpenImages", ("pxap",), {"cam": (58.5,), "centre": (45.8,)}),
        ),
    ),
}
