"""Visual question answering: BLIP, which writes answers, and ViLT, which chooses among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lucidcam.models.hf._repository import Repository, classes
from lucidcam.models.hf._texts import Ids, Sentence, Writes
from lucidcam.tasks import OpenQuestions, Questions
from lucidcam.types import Model

TYPES = frozenset({"blip", "vilt"})


def load(repository: Repository, config: Any, auto: str) -> Model:
    """Load a model that answers questions."""
    module, tokenizer = repository.module(auto, config), repository.words()
    pictures = repository.pictures(config)
    if config.model_type == "vilt":
        asked = Asked(Ids(tokenizer, config.max_position_embeddings))
        # an answer is as good as the share of people who gave it, so that several may hold: each was trained by itself
        return Model(module.eval(), pictures, classes(config), None, repository.spec, task=Questions(asked), outputs="sigmoid")
    text = config.text_config
    ids = Ids(tokenizer, text.max_position_embeddings)
    answer = Sentence(tokenizer, (text.bos_token_id,), (text.sep_token_id,), text.max_position_embeddings)
    task = OpenQuestions(answer, Answering(ids), Answers(Writes(module, tokenizer), ids))
    return Model(Blip(module).eval(), pictures, None, "vision_model.*", repository.spec, task=task)


class Blip(nn.Module):
    """BLIP's network for questions, which by itself returns no logits, with its submodules under their own names.

    Args:
        model: transformers' `BlipForQuestionAnswering`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.text_encoder = model.text_encoder
        self.text_decoder = model.text_decoder

    def forward(self, pixel_values: Tensor, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Return logits `[B, L, V]`.

        Args:
            pixel_values: images `[B, 3, h, w]`.
            input_ids: the question's tokens `[B, Q]`.
            decoder_input_ids: the answer's tokens `[B, L]`.
        """
        image = self.vision_model(pixel_values=pixel_values)[0]
        question = self.text_encoder(input_ids=input_ids, encoder_hidden_states=image)[0]
        found: Tensor = self.text_decoder(input_ids=decoder_input_ids, encoder_hidden_states=question, use_cache=False).logits
        return found


@dataclass(frozen=True)
class Asked:
    """The inputs of a network that chooses an answer: images and the question's tokens, the same for all.

    Attributes:
        ids: from the question to its tokens.
    """

    ids: Ids

    def __call__(self, images: Tensor, question: str) -> dict[str, Tensor]:
        """Return the keyword arguments for images `[B, C, h, w]`."""
        return {"pixel_values": images, "input_ids": self.ids(question).to(images.device).expand(len(images), -1)}


@dataclass(frozen=True)
class Answering:
    """The inputs of a network that writes an answer: images, the question's tokens and the answer's.

    Attributes:
        ids: from the question to its tokens.
    """

    ids: Ids

    def __call__(self, images: Tensor, question: str, answer: Tensor) -> dict[str, Tensor]:
        """Return the keyword arguments for images `[B, C, h, w]` and the answer's ids `[L]`."""
        return {**Asked(self.ids)(images, question), "decoder_input_ids": answer.expand(len(images), -1)}


@dataclass(frozen=True)
class Answers:
    """The answer that a model writes.

    Attributes:
        write: from image and question to text.
        ids: from the question to its tokens.
    """

    write: Writes
    ids: Ids

    def __call__(self, images: Tensor, question: str) -> str:
        """Return the answer for one image `[1, C, h, w]`."""
        return self.write(images, input_ids=self.ids(question).to(images.device))
