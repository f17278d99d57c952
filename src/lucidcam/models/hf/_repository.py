"""A repository of the Hugging Face hub, or a folder: its configuration, weights, image processor and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lucidcam.errors import ModelError, OptionError, first_line
from lucidcam.imaging.preprocess import Preprocess, Probed
from lucidcam.models.hf._pictures import preprocessing
from lucidcam.utils.optional import impatient_downloads
from lucidcam.utils.rollback import closes_scopes

WHERE = ("revision", "subfolder", "cache_dir", "token")


@dataclass(frozen=True)
class Repository:
    """Where a model comes from. Code that lies there is never run.

    Attributes:
        transformers: the library.
        name: the repository, or the folder.
        pretrained: False: random weights.
        options: of `from_pretrained`.
        preprocess: instead of the repository's image processor.
        tokenizer: another repository or folder whose tokenizer is to be used; None: this one's.
    """

    transformers: Any
    name: str
    pretrained: bool
    options: Mapping[str, Any]
    preprocess: Any = None
    tokenizer: str | None = None
    where: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", {key: self.options[key] for key in WHERE if key in self.options})

    @property
    def spec(self) -> str:
        """What was written to load it."""
        return f"hf:{self.name}"

    def config(self) -> Any:
        """Its configuration.

        Raises:
            ModelError: it cannot be read.
        """
        return self._got(lambda: self.transformers.AutoConfig.from_pretrained(self.name, trust_remote_code=False, **self.where))

    def module(self, auto: str, config: Any) -> nn.Module:
        """The network, in evaluation mode.

        Args:
            auto: which of transformers' `AutoModelFor…` reads it.
            config: its configuration.

        Raises:
            ModelError: the weights cannot be read, or do not fill the network.
            OptionError: for an unknown option.
        """
        kind = getattr(self.transformers, auto)
        if not self.pretrained:
            rest = {key: value for key, value in self.options.items() if key not in self.where}
            module: nn.Module = self._got(lambda: kind.from_config(config, trust_remote_code=False, **rest))
            return module.eval()
        options = {**self.options, "output_loading_info": True}
        module, found = self._got(lambda: kind.from_pretrained(self.name, config=config, trust_remote_code=False, **options))
        own = {name for name, _ in module.named_parameters()}
        missing = sorted(own & set(found["missing_keys"]))
        if missing:
            shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            raise ModelError(
                f"'{self.spec}' has no weights for {len(missing)} parameters of {type(module).__name__} ({shown}), which would be random: "
                "it was trained for something else; choose another task=…, or pretrained=False for random weights."
            )
        return module.eval()

    @closes_scopes
    def pictures(self, config: Any, everything: bool = False) -> Any:
        """From photo to input: what the user gave, or the repository's image processor; see `preprocessing`.

        Raises:
            ModelError: there is no image processor.
        """
        if self.preprocess is not None:
            return self.preprocess if callable(getattr(self.preprocess, "frame", None)) else Probed(self.preprocess)
        try:
            with impatient_downloads():
                processor = self.transformers.AutoImageProcessor.from_pretrained(self.name, trust_remote_code=False, **self.where)
        except (OSError, ValueError) as error:
            reason = first_line(error).rstrip(".")
            raise ModelError(
                f"'{self.spec}' has no image processor ({reason}); give preprocess=lucidcam.imaging.preprocess.Preprocess(…)."
            ) from error
        found: Preprocess | Probed = preprocessing(processor, config, everything)
        return found

    @closes_scopes
    def words(self) -> Any:
        """Its tokenizer.

        Raises:
            ModelError: there is none, or one that cannot tell which words its tokens belong to.
        """
        name, where = (self.tokenizer, {}) if self.tokenizer else (self.name, self.where)
        try:
            with impatient_downloads():
                found = self.transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)
        except Exception as error:  # whatever a tokenizer's files lack
            raise ModelError(
                f"{f'hf:{name}'!r} has no tokenizer ({first_line(error).rstrip('.')}); give tokenizer='REPO', the repository that it was "
                "trained from, say."
            ) from error
        if len(found) <= len(found.all_special_tokens):  # what transformers 5 makes of a folder without a vocabulary
            raise ModelError(f"{f'hf:{name}'!r} has no tokenizer; give tokenizer='REPO', the repository that it was trained from, say.")
        if not getattr(found, "is_fast", False):
            raise ModelError(f"the tokenizer of {f'hf:{name}'!r} does not tell which words its tokens are of: it needs a tokenizer.json.")
        return found

    @closes_scopes
    def _got(self, read: Any) -> Any:
        try:
            with impatient_downloads():
                return read()
        except TypeError as error:
            raise OptionError(f"'{self.spec}': {first_line(error)}.") from error
        except Exception as error:
            raise ModelError(
                f"'{self.spec}' could not be loaded: {first_line(error).rstrip('.')}; check the name and the network, or download it and "
                "give its folder."
            ) from error


def classes(config: Any) -> tuple[str, ...] | None:
    """The classes in words that a configuration tells, by id."""
    words = {int(id): str(label) for id, label in (getattr(config, "id2label", None) or {}).items()}
    return tuple(words.get(id, f"class {id}") for id in range(max(words) + 1)) if words else None


def branch(module: nn.Module, *names: str) -> str | None:
    """The default layer within the first of these branches that a network has; None: of the whole network."""
    found = {name for name, _ in module.named_modules()}
    return next((f"{name}.*" for name in names if name in found), None)
