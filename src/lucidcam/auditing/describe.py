"""Findings in plain words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lucidcam.auditing.trials import Outcome, Trial
from lucidcam.auditing.views import GRID, View
from lucidcam.samples import Mask
from lucidcam.stats.contingency import Estimate
from lucidcam.utils.text import figure, listed

CHANNELS = ("red", "green", "blue")
NOTABLE = 8.0
"""Levels of 255 by which a colour differs to be worth a word."""


def where(regions: Sequence[Mask]) -> str:
    """Places in words.

    >>> corner = np.zeros((GRID, GRID), bool); corner[:3, :4] = True
    >>> where([corner, corner[:, ::-1]])
    'the top left and top right corners'
    """
    found = list(dict.fromkeys(_place(region) for region in regions))
    corners = sorted(each.removesuffix(" corner") for each in found if each.endswith(" corner"))
    rest = [f"the {each}" for each in found if not each.endswith(" corner")]
    if len(corners) == 4:
        rest.insert(0, "all four corners")
    elif corners:
        rest.insert(0, f"the {listed(corners)} corner{'s' if len(corners) > 1 else ''}")
    return listed(rest)


def _place(region: Mask) -> str:
    rows, columns = np.nonzero(region)
    row, column = (int(3 * (each.mean() + 0.5) / GRID) for each in (rows, columns))
    if (row, column) == (1, 1):
        return "middle"
    vertical, horizontal = ("top", "", "bottom")[row], ("left", "", "right")[column]
    if vertical and horizontal:
        return f"{vertical} {horizontal} corner"
    return f"{vertical or horizontal} edge" if _touches(region) else f"{vertical or horizontal} third"


def _touches(region: Mask) -> bool:
    return bool(region[0].any() or region[-1].any() or region[:, 0].any() or region[:, -1].any())


def place(label: str, regions: Sequence[Mask], share: float, alike: bool, trial: Trial) -> str:
    """A class that is recognised by a fixed place."""
    what = "a mark that looks the same in every image, in" if alike else "something off the object, always in"
    seen = f"its maps look there in {share:.0%} of its images" if share < 0.995 else "its maps look there in all of its images"
    return (
        f"“{label}” is recognised by {what} {where(regions)}: {seen}. "
        f"{_taken(trial.take, 'Covering it', 'covering as much elsewhere')}"
        f"{_given(trial.give, label, 'Pasted', 'a piece of another image')}"
    )


def background(label: str, views: Sequence[View], others: Sequence[View], trial: Trial) -> str:
    """A class that is recognised by what is around it."""
    return (
        f"“{label}” is recognised by its background{_colours(views, others)}. "
        f"{_taken(trial.take, 'Taking the background of another class', 'taking that of another image of its own')}"
        f"{_given(trial.give, label, 'Its background', 'another background')}"
    )


def context(label: str, trial: Trial) -> str:
    """A class whose surroundings alone say more than the object alone."""
    whole, alone, removed = (float(each.mean()) for each in (trial.take.before, trial.take.after, trial.take.control))
    return (
        f"“{label}” is recognised by its surroundings more than by itself: the probability is {figure(whole)} in whole images, without "
        f"the object {figure(removed)}, with the object alone {figure(alone)} (difference {_interval(trial.take.effect)}, "
        f"{trial.take.n} images)."
    )


def companion(label: str, beside: str, share: float, trial: Trial) -> str:
    """A class that is recognised by another."""
    return (
        f"“{label}” is recognised by “{beside}”, which is beside it in {share:.0%} of its images. "
        f"{_taken(trial.take, f'Covering “{beside}”', 'covering as much elsewhere')}"
        f"{_given(trial.give, label, f'“{beside}”', 'another piece')}"
    )


def confusion(label: str, beside: str, effect: Estimate, count: int, of: int, trial: Trial) -> str:
    """A class that is taken for another."""
    return (
        f"“{label}” is taken for “{beside}” in {count} of {of} images ({effect.mean:.0%}, 95 % interval {effect.low:.0%} to "
        f"{effect.high:.0%}). {_taken(trial.take, f'Covering what speaks for “{beside}”', 'covering as much elsewhere', beside)}"
    )


def calibration(error: Estimate, gap: Estimate) -> str:
    """Confidence that does not tell how often the network is right."""
    how = "too sure" if gap.low > 0 else "not sure enough" if gap.high < 0 else "too sure here, not sure enough there"
    return (
        f"The network is {how}: confidence and accuracy differ by {figure(error.mean)} on average (expected calibration error, 95 % "
        f"interval {figure(error.low)} to {figure(error.high)}; confidence minus accuracy {figure(gap.mean, signed=True)})."
    )


def _taken(outcome: Outcome, what: str, beside: str, label: str = "") -> str:
    whose = f"the probability of “{label}”" if label else "its probability"
    return (
        f"{what} lowers {whose} from {figure(outcome.before.mean())} to {figure(outcome.after.mean())}, {beside} leaves "
        f"{figure(outcome.control.mean())} (effect {_interval(outcome.effect)}, {outcome.n} images)."
    )


def _given(outcome: Outcome, label: str, what: str, beside: str) -> str:
    if not outcome.n:
        return ""
    return (
        f" {what} in images of other classes takes the probability of “{label}” from {figure(outcome.before.mean())} to "
        f"{figure(outcome.after.mean())}, {beside} to {figure(outcome.control.mean())} (effect {_interval(outcome.effect)})."
    )


def _interval(effect: Estimate) -> str:
    return f"{figure(effect.mean)}, 95 % interval {figure(effect.low)} to {figure(effect.high)}"


def _colours(views: Sequence[View], others: Sequence[View]) -> str:
    """How the colours of a class's contexts differ from those of other classes, in a few words."""
    own, rest = (
        np.mean([view.colours[view.context].mean(0) for view in some if view.context.any()] or [[0.0, 0.0, 0.0]], axis=0)
        for some in (views, others)
    )
    gap = own - rest
    light, tints = float(gap.mean()), gap - gap.mean()
    words = []
    if abs(light) >= NOTABLE:
        words.append("brighter" if light > 0 else "darker")
    strongest = int(np.abs(tints).argmax())
    if abs(tints[strongest]) >= NOTABLE:
        words.append(f"{'more' if tints[strongest] > 0 else 'less'} {CHANNELS[strongest]}")
    means = [f"RGB {', '.join(f'{value:.0f}' for value in each)}" for each in (own, rest)]
    return f", which is {' and '.join(words)} than that of other classes (mean {means[0]} beside {means[1]})" if words else ""
