"""What visitors can do on the page: checked, computed by `studio` and its neighbours, told in words where it cannot be done."""

from __future__ import annotations

import html
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from lucidcam.errors import InputError, LucidcamError, OptionError, unknown
from lucidcam.explanation import Explanation
from lucidcam.picture_files import save_picture
from lucidcam.progress import Listener
from lucidcam.web import judging, pixels, questions, showing, wording
from lucidcam.web.photos import MILLION, Upload
from lucidcam.web.room import occupied
from lucidcam.web.studio import Seen, Served, StoppedError, Studio, in_full

TELL_EVERY = 0.2
"""Seconds between two messages of how far a computation is."""

BLANK = (gr.update(choices=[], value=[]), None, "", "", "")
"""What the page shows without a photo: no classes, no picture, no words."""

log = logging.getLogger("lucidcam.web")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(eq=False)
class Visits:
    """What visitors have under way, so that each may stop what is theirs."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _under_way: dict[str, set[threading.Event]] = field(default_factory=dict)

    @contextmanager
    def work(self, request: gr.Request | None, progress: gr.Progress, told: str) -> Iterator[Listener]:
        """A piece of work of one visitor; gives what to tell how far it is."""
        who, stop = _who(request), threading.Event()
        last = 0.0

        def tell(share: float | None) -> None:
            nonlocal last
            if stop.is_set():
                raise StoppedError("stopped.")
            now = time.monotonic()
            if share is not None and now - last > TELL_EVERY:
                last = now
                progress(share, desc=told)

        with self._lock:
            self._under_way.setdefault(who, set()).add(stop)
        try:
            yield tell
        finally:
            with self._lock:
                mine = self._under_way[who]
                mine.discard(stop)
                if not mine:
                    del self._under_way[who]

    def stop(self, request: gr.Request) -> None:
        """End what a visitor has under way."""
        with self._lock:
            for each in self._under_way.get(_who(request), ()):
                each.set()


def _who(request: gr.Request | None) -> str:
    return str(getattr(request, "session_hash", None) or "")


def readable(action: F) -> F:
    """Turn our own errors into a message on the page; any other is told in the server's log alone."""

    @wraps(action)
    def act(*values: Any, **named: Any) -> Any:
        try:
            return action(*values, **named)
        except LucidcamError as error:
            text = html.escape(str(error), quote=False)
            raise gr.Error(
                text[:1].upper() + text[1:], title="Stopped" if isinstance(error, StoppedError) else "Not possible", print_exception=False
            ) from None
        except gr.Error:
            raise
        except Exception:
            log.exception("%s failed", action.__name__)
            raise gr.Error("This went wrong on the server; its log tells why.", print_exception=False) from None

    return act  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Asked:
    """A question, checked."""

    served: Served
    seen: Seen
    layer: float
    methods: tuple[str, ...]
    options: dict[str, dict[str, Any]]
    targets: tuple[Any, ...]

    @property
    def count(self) -> int:
        """How many maps it asks for."""
        return len(self.methods) * len(self.targets)


class Actions:
    """What visitors can do: one method per action, each also an endpoint of the same name.

    Args:
        studio: the models.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.visits = Visits()

    def ask(
        self,
        photo: Upload | None,
        model: str,
        layer: float,
        methods: Sequence[str],
        classes: Sequence[str],
        others: str,
        against: str,
        options: str,
    ) -> Asked:
        """Check a question; no class at all means the likeliest one."""
        served = self.studio.model(model)
        if photo is None:
            raise InputError("expected a photo; got none: give one, or take an example.")
        for method in methods or ():
            if method not in served.methods:
                raise OptionError(unknown("method", str(method)[:80], served.methods))
        asked = tuple(dict.fromkeys(methods or ["gradcam"]))
        chosen = questions.options(options or "", asked)
        served.place(layer)
        seen = self.studio.see(photo, served)
        ids = questions.targets(served.model, classes or [], others or "", "")
        if not ids:
            classes = [str(self.studio.top(seen, served, 1)[0].id)]
        found = Asked(served, seen, layer, asked, chosen, tuple(questions.targets(served.model, classes, others or "", against or "")))
        if found.count > self.studio.limits.maps:
            raise OptionError(
                f"expected at most {self.studio.limits.maps} maps side by side; got {found.count}: choose fewer methods or classes."
            )
        return found

    def maps(self, asked: Asked, tell: Listener) -> list[Explanation]:
        """The maps that a question asks for, method by method."""
        found: list[Explanation] = []
        for number, method in enumerate(asked.methods):

            def told(share: float | None, number: int = number) -> None:
                tell(None if share is None else (number + share) / len(asked.methods))

            found += self.studio.explain(asked.seen, asked.served, asked.layer, method, asked.options[method], asked.targets, told)
        return found

    def one(self, asked: Asked, which: float, tell: Listener) -> tuple[Explanation, Any]:
        """One of those maps, by its number, with its target."""
        row, column = divmod(questions.whole(which, "the number of a map", asked.count), len(asked.targets))
        method, target = asked.methods[row], asked.targets[column]
        return self.studio.explain(asked.seen, asked.served, asked.layer, method, asked.options[method], [target], tell)[0], target

    # ----------------------------------------------------------------------------------------------------------- actions

    @readable
    def look(
        self,
        photo: Upload | None,
        model: str,
        layer: float,
        methods: list[str],
        options: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio is told that progress is wanted
    ) -> tuple[Any, Any, str, str, str]:
        """A photo's likeliest classes, and the map of the first."""
        if photo is None:
            return BLANK
        served = self.studio.model(model)
        scores = self.studio.top(self.studio.see(photo, served), served)
        asked = self.ask(photo, model, layer, methods, [str(scores[0].id)], "", "", options)
        with self.visits.work(request, progress, "explaining") as tell:
            found = self.maps(asked, tell)
        names = [(f"{each.label.split(',')[0]} {100 * each.probability:.1f} %", str(each.id)) for each in scores]
        return (
            gr.CheckboxGroup(choices=names, value=[str(scores[0].id)]),
            showing.viewed(found, 1),
            wording.note(asked.served.place(asked.layer)),
            "",
            "",
        )

    @readable
    def explain(
        self,
        photo: Upload | None,
        model: str,
        layer: float,
        methods: list[str],
        classes: list[str],
        others: str,
        against: str,
        options: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, str]:
        """The maps of every chosen method and class, side by side."""
        if photo is None:
            return None, ""
        asked = self.ask(photo, model, layer, methods, classes, others, against, options)
        with self.visits.work(request, progress, "explaining") as tell:
            found = self.maps(asked, tell)
        columns = len(asked.targets) if len(asked.targets) > 1 else min(len(asked.methods), 3)
        return showing.viewed(found, min(columns, 4)), wording.note(asked.served.place(asked.layer))

    @readable
    def pixel(
        self,
        photo: Upload | None,
        model: str,
        layer: float,
        methods: list[str],
        classes: list[str],
        others: str,
        against: str,
        options: str,
        which: float,
        x: float,
        y: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, dict[str, Any]]:
        """One place of a map, x and y as shares of the photo's width and height: its value, and the channels behind it."""
        asked = self.ask(photo, model, layer, methods, classes, others, against, options)
        with self.visits.work(request, progress, "explaining") as tell:
            one, target = self.one(asked, which, tell)
            at, activations = pixels.pixel(asked.served.model, asked.seen.prepared, one, target, x * one.frame.width, y * one.frame.height)
        return wording.place(at, activations, one), asdict(at)

    @readable
    def metrics(
        self,
        photo: Upload | None,
        model: str,
        layer: float,
        methods: list[str],
        classes: list[str],
        others: str,
        against: str,
        options: str,
        which: float,
        steps: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, list[dict[str, Any]]]:
        """How far one map can be believed: average drop, increase in confidence, deletion and insertion."""
        asked = self.ask(photo, model, layer, methods, classes, others, against, options)
        if not 1 <= steps <= 224:
            raise OptionError(f"expected 1 to 224 points of a curve; got {steps:g}.")
        with self.visits.work(request, progress, "judging") as tell:
            one, _ = self.one(asked, which, tell)
            with self.studio.turn(asked.served, True, tell) as (quiet, told):
                found = judging.judge(quiet, asked.seen.prepared, one, told, int(steps))
        return wording.verdict(found, one), [asdict(each) for each in found]

    @readable
    def save(
        self,
        photo: Upload | None,
        model: str,
        layer: float,
        methods: list[str],
        classes: list[str],
        others: str,
        against: str,
        options: str,
        which: float,
        format: str,
        colormap: str,
        opacity: float,
        threshold: float,
        boxes: bool,
        hide: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        """One map with all of the photo's pixels, as a picture (png), an array (npz) or numbers and words (json)."""
        asked = self.ask(photo, model, layer, methods, classes, others, against, options)
        if format not in ("png", "npz", "json"):
            raise OptionError(unknown("format", str(format)[:80], ("png", "npz", "json")))
        if colormap not in showing.COLORMAPS:
            raise OptionError(unknown("colormap", str(colormap)[:80], showing.COLORMAPS))
        assert photo is not None
        with self.visits.work(request, progress, "writing") as tell:
            one, _ = self.one(asked, which, tell)
        full = in_full(one, self.studio.photo(photo, asked.served), asked.served.model)
        files = Path(gr.utils.get_upload_folder())
        if occupied(files) > self.studio.limits.room * MILLION:
            raise OptionError("there is no more room for files on the server; try again in an hour.")
        folder = Path(tempfile.mkdtemp(prefix="made-", dir=files))
        path = folder / f"{wording.stem(full)}.{format}"
        if format == "png":
            save_picture(showing.picture(full, colormap, opacity, threshold, boxes, hide), path)
        else:
            full.save(path)
        return str(path)

    @readable
    def model(self, model: str, photo: Upload | None, request: gr.Request) -> tuple[Any, ...]:
        """Another model: its layers and methods, and what it makes of the photo."""
        served = self.studio.model(model)
        seen = self.look(photo, model, served.default, ["gradcam"], "", request)
        return (
            gr.Slider(maximum=len(served.places) - 1, value=served.default),
            gr.Dropdown(choices=list(served.methods), value=["gradcam"]),
            *seen,
        )

    @readable
    def layers(self, model: str) -> list[dict[str, Any]]:
        """A model's layers in execution order: the name, channels and grid of each number."""
        return [asdict(place) for place in self.studio.model(model).places]

    def stop(self, request: gr.Request) -> None:
        """End what this visitor has under way."""
        self.visits.stop(request)
