"""Captioning: BLIP, GIT, and any vision encoder with a text decoder (ViT-GPT2)."""

from __future__ import annotations

from typing import Any

from lucidcam.models.hf._repository import Repository, branch
from lucidcam.models.hf._texts import Sentence, WithText, Writes
from lucidcam.tasks import Captions
from lucidcam.types import Model

TYPES = frozenset({"blip", "git", "vision-encoder-decoder"})


def load(repository: Repository, config: Any, auto: str) -> Model:
    """Load a captioning model; its layer is the vision encoder's, whatever the text decoder's tokens look like."""
    module, tokenizer = repository.module(auto, config), repository.words()
    key = "decoder_input_ids" if config.model_type == "vision-encoder-decoder" else "input_ids"
    task = Captions(_sentence(config, tokenizer), WithText(key), Writes(module, tokenizer))
    layer = branch(module, "vision_model", "git.image_encoder", "encoder")
    return Model(module, repository.pictures(config), None, layer, repository.spec, task=task)


def _sentence(config: Any, tokenizer: Any) -> Sentence:
    """How the model begins and ends a sentence when it writes one."""
    if config.model_type == "blip":
        text = config.text_config
        return Sentence(tokenizer, (text.bos_token_id,), (text.sep_token_id,), text.max_position_embeddings)
    if config.model_type == "git":
        return Sentence(tokenizer, (tokenizer.cls_token_id,), (tokenizer.sep_token_id,), config.max_position_embeddings)
    decoder = config.decoder
    start = getattr(config, "decoder_start_token_id", None)
    first = next(id for id in (start, decoder.bos_token_id, tokenizer.cls_token_id, tokenizer.bos_token_id) if id is not None)
    last = next((id for id in (decoder.eos_token_id, tokenizer.sep_token_id, tokenizer.eos_token_id) if id is not None), None)
    return Sentence(tokenizer, (first,), () if last is None else (last,), getattr(decoder, "max_position_embeddings", None))
