"""Names and words as sentences, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from lucidcam.dissection import sheets
from lucidcam.utils.text import short

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from lucidcam.dissection.channel_names import Names
    from lucidcam.dissection.concept_explanation import Word, Words

FAINTEST = 0.001
"""Share of the evidence that a word needs to be in a sentence."""

BY_CHANCE = "by chance"
"""Beside a word that does not stand out from chance."""

NONE = "no word stands out from chance"
"""Where none does."""

LISTED = 40
"""Rows of a table of names."""


def sentence(found: Words) -> str:
    """What speaks for the class and against it; of words that do not stand out from chance that is said in the same sentence."""
    label = short(found.label)
    because = _listed(found, found.because) or "nothing that this bank has a name for"
    against = _listed(found, found.against)
    rest = f" {found.unnamed:.0%} of the evidence has no name in this bank." if found.unnamed else ""
    return f"{label} {titled(found, 'because')}: {because}{f'; against: {against}' if against else ''}.{rest}"


def titled(found: Words, side: str) -> str:
    """A side's title; where no word of the image stands out from chance, that is part of it."""
    return f"{side} ({NONE})" if found.words and not found.stands_out else side


def _listed(found: Words, words: Sequence[Word]) -> str:
    named = [word for word in words if abs(word.share) >= FAINTEST]
    beside = [f", {BY_CHANCE}" if found.stands_out and not word.stands_out else "" for word in named]
    return ", ".join(f"{word.concept} ({percent(abs(word.share))}{chance})" for word, chance in zip(named, beside, strict=True))


def called(word: Word) -> str:
    """A word, with the remark that it does not stand out from chance where it does not."""
    return word.concept if word.stands_out else f"{word.concept} ({BY_CHANCE})"


def percent(share: float) -> str:
    """A share in words: small ones with a digit more."""
    return f"{share:.0%}" if abs(share) >= 0.095 else f"{share:.1%}"


def words_table(found: Words) -> Group:
    """Both sides, and what is not named."""
    from rich.console import Group
    from rich.text import Text

    seen = "" if found.probability is None else f", probability {found.probability:.2f}"
    parts: list[Any] = [Text(f"{found.label.split(',')[0]}: score {found.score:.2f}{seen}", "bold"), Text("")]
    for title, side in (("because", found.because), ("against", found.against)):
        if side:
            parts += [_side(titled(found, title), side), Text("")]
    if not found.words:
        parts.append(Text("No evidence is in a channel that has a name."))
    else:
        parts.append(Text("by chance: how often any word has so much when names are shuffled (below 0.05 it stands out);", "dim"))
        parts.append(Text("sure: AUC of the names, lower end.", "dim"))
    parts.append(Text(f"{found.unnamed:.0%} of the evidence has no name in this bank ({found.names.bank})."))
    return Group(*parts)


def _side(title: str, words: Sequence[Word]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, min_width=20, overflow="fold")
    for name in ("evidence", "by chance", "sure", "channels"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("first of them", overflow="fold")
    for word in words:
        first = ", ".join(map(str, word.channels[:4]))
        table.add_row(called(word), f"{word.share:+.1%}", f"{word.chance:.3f}", f"{word.confidence:.2f}", str(len(word.channels)), first)
    return table


def words_picture(found: Words) -> Image.Image:
    """The photo, and the map of each word over it; of words against the class what speaks against it."""
    rows = []
    for title, side, sign in (("because", found.because, 1), ("against", found.against, -1)):
        cells = [
            (called(word), sheets.cell(sheets.over(found.image, found.frame, sign * found.map(word.concept)), _numbers(word)))
            for word in side
        ]
        if cells:
            rows.append((titled(found, title), cells))
    rest = sheets.cell(sheets.over(found.image, found.frame, found.nameless), [f"{found.unnamed:.0%} of the evidence", "without a name"])
    rows.append(("the rest", [("unnamed channels, for", rest)]))
    return sheets.rows(rows, short(found.label))


def _numbers(word: Word) -> list[str]:
    plural = "s" if len(word.channels) > 1 else ""
    chance = f"by chance {word.chance:.3f}: {'stands out' if word.stands_out else 'does not stand out'}"
    return [f"{word.share:+.1%} of the evidence", chance, f"{len(word.channels)} channel{plural}, name sure {word.confidence:.2f}"]


def names_table(names: Names) -> Group:
    """Each concept with how many channels it names, and the surest of them."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("concept", overflow="fold")
    for name in ("channels", "surest", "AUC", "95 %", "IoU"):
        table.add_column(name, justify="right", no_wrap=True)
    counts = names.counts
    for concept in list(counts)[:LISTED]:
        mine = names.called(concept)
        if not mine:
            table.add_row(concept, "0", "", "", "", "")
            continue
        best = mine[0].meanings[0]
        overlap = "–" if best.iou is None else f"{best.iou:.2f}"
        table.add_row(concept, str(len(mine)), str(mine[0].channel), f"{best.auc:.3f}", f"{best.low:.2f}–{best.high:.2f}", overlap)
    parts: list[Any] = [table]
    if len(counts) > LISTED:
        parts.append(Text(f"… and {len(counts) - LISTED} more concepts", "dim"))
    line = f"{len(names.named)} of {len(names)} channels of {names.layer} have a name: held-out AUC ≥ {names.least:g}, hardly by chance."
    if not names.named:
        line = f"No concept stands out from chance for any of the {len(names)} channels of {names.layer} (held-out AUC ≥ {names.least:g})."
    return Group(*parts, Text(""), Text(line))
