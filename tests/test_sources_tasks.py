"""Models that do more than classify, of tiny random weights: what loads is right, and gradients at the cut are the whole graph's."""

from __future__ import annotations

import pickle
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import lucidcam
from lucidcam.engine.run import open_run
from lucidcam.errors import LucidcamError, ModelError, OptionError, TargetError
from lucidcam.imaging.preprocess import Preprocess, Probed
from lucidcam.models import load, names, wrap
from lucidcam.targets import Caption, Detection, Prompt, Question, Segmentation
from lucidcam.tasks import Captions, Detections, OpenQuestions, Prompts, Questions, Segments
from lucidcam.utils.optional import import_torchvision, import_transformers

PHOTO = Image.fromarray(data.chelsea()).resize((64, 48))
OTHER = Image.fromarray(data.astronaut()).resize((64, 48))
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
WORDS = [*SPECIAL, "a", "photo", "of", "red", "blue", "circle", "square", "left", "right", "what", "is", "the", "cat", "dog", "?", ",", "."]
WORDS += ["un", "##der", "##neath", "on", "mat"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "initializer_range": 0.1}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 40, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
ANIMALS = {"id2label": {0: "cat", 1: "dog", 2: "cow"}, "label2id": {"cat": 0, "dog": 1, "cow": 2}}
DETR = {
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 9},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, **ANIMALS},
}
RT_DETR = {
    **{"encoder_hidden_dim": 16, "encoder_in_channels": [16, 16, 32], "feat_strides": [8, 16, 32], "encoder_ffn_dim": 16, "num_queries": 9},
    **{"encoder_attention_heads": 2, "d_model": 16, "decoder_in_channels": [16, 16, 16], "decoder_ffn_dim": 16, "num_feature_levels": 3},
    **{"decoder_n_points": 2, "decoder_layers": 2, "decoder_attention_heads": 2, "num_denoising": 0, "initializer_range": 0.3, **ANIMALS},
}


def tokenizer(T):
    """A tiny BERT-like tokenizer."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    inner = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    inner.decoder = decoders.WordPiece()
    special = {f"{word.strip('[]').lower()}_token": word for word in SPECIAL[:5]}
    return T.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=40, **special)


def backbone(T, *stages):
    return T.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1] * 4, layer_type="basic", out_features=[f"stage{i}" for i in stages]
    )


def made(T):
    """Of each kind: its network, image processor, and whether it reads texts."""
    square = {"height": 32, "width": 32}
    blip = T.BlipConfig(
        text_config={**TEXT, "bos_token_id": 5, "sep_token_id": 3, "encoder_hidden_size": 16}, vision_config=VISION, projection_dim=8
    )
    clip = T.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square)
    detr = T.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    resnet = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "backbone_config": backbone(T, 4)}
    pyramid = {**resnet, "backbone_config": backbone(T, 2, 3, 4)}
    rt = T.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1] * 4, layer_type="basic", out_features=[*_stages(2)]
    )
    swin = T.SwinConfig(image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=2, out_features=[*_stages(1)])
    convnext = T.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, out_features=[*_stages(1)])
    dense = T.SegformerImageProcessor(size={"height": 64, "width": 64})
    vit = {**SMALL, "num_hidden_layers": 4, "image_size": 64, "patch_size": 16, **ANIMALS}
    return {
        "blip": lambda: (T.BlipForConditionalGeneration(blip), T.BlipImageProcessor(size=square), True),
        "git": lambda: (T.GitForCausalLM(T.GitConfig(vision_config=VISION, **TEXT)), clip, True),
        "vit-bert": lambda: (_vit_bert(T), T.ViTImageProcessor(size=square), True),
        "blip-vqa": lambda: (T.BlipForQuestionAnswering(blip), T.BlipImageProcessor(size=square), True),
        "vilt": lambda: (
            T.ViltForQuestionAnswering(T.ViltConfig(**{**TEXT, **ANIMALS}, image_size=64, patch_size=16)),
            T.ViltImageProcessor(size={"shortest_edge": 64}, size_divisor=32),
            True,
        ),
        "clip": lambda: (
            T.CLIPModel(T.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)),
            clip,
            True,
        ),
        "chinese-clip": lambda: (
            T.ChineseCLIPModel(T.ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)),
            clip,
            True,
        ),
        "siglip": lambda: (
            T.SiglipModel(T.SiglipConfig(text_config=TEXT, vision_config=VISION)),
            T.SiglipImageProcessor(size=square),
            True,
        ),
        "detr": lambda: (T.DetrForObjectDetection(T.DetrConfig(**resnet, **DETR)), detr, False),
        "table": lambda: (T.TableTransformerForObjectDetection(T.TableTransformerConfig(**resnet, **DETR)), detr, False),
        "conditional": lambda: (T.ConditionalDetrForObjectDetection(T.ConditionalDetrConfig(**resnet, **DETR)), detr, False),
        "deformable": lambda: (
            T.DeformableDetrForObjectDetection(T.DeformableDetrConfig(**pyramid, num_feature_levels=3, **DETR)),
            detr,
            False,
        ),
        "rt-detr": lambda: (
            T.RTDetrForObjectDetection(T.RTDetrConfig(backbone_config=rt, **RT_DETR)),
            T.RTDetrImageProcessor(size={"height": 96, "width": 96}),
            False,
        ),
        "segformer": lambda: (
            T.SegformerForSemanticSegmentation(
                T.SegformerConfig(
                    depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, **ANIMALS
                )
            ),
            dense,
            False,
        ),
        "mask2former": lambda: (
            T.Mask2FormerForUniversalSegmentation(
                T.Mask2FormerConfig(
                    backbone_config=swin, hidden_dim=32, feature_size=32, mask_feature_size=32, encoder_layers=1, decoder_layers=2,
                    num_attention_heads=2, encoder_feedforward_dim=16, dim_feedforward=16, num_queries=5, **ANIMALS,
                )
            ),
            T.Mask2FormerImageProcessor(size={"height": 64, "width": 64}),
            False,
        ),
        "upernet": lambda: (
            T.UperNetForSemanticSegmentation(
                T.UperNetConfig(
                    backbone_config=convnext, hidden_size=16, auxiliary_in_channels=16, auxiliary_channels=8, pool_scales=[1, 2], **ANIMALS
                )
            ),
            dense,
            False,
        ),
        "dpt": lambda: (
            T.DPTForSemanticSegmentation(
                T.DPTConfig(**vit, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16)
            ),
            dense,
            False,
        ),
        "beit": lambda: (
            T.BeitForSemanticSegmentation(T.BeitConfig(**vit, out_indices=[0, 1, 2, 3], pool_scales=[1, 2], auxiliary_channels=8)),
            T.BeitImageProcessor(size={"height": 72, "width": 72}, crop_size={"height": 64, "width": 64}, do_center_crop=True),
            False,
        ),
        "yolos": lambda: (
            T.YolosForObjectDetection(T.YolosConfig(**{**VISION, "image_size": [64, 64]}, num_detection_tokens=9, **ANIMALS)), detr, False
        ),
    }  # fmt: skip


def _stages(first):
    return (f"stage{i}" for i in range(first, 5))


def _vit_bert(T):
    decoder = T.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True)
    module = T.VisionEncoderDecoderModel(encoder=T.ViTModel(T.ViTConfig(**VISION)), decoder=T.BertLMHeadModel(decoder))
    module.config.decoder_start_token_id, module.config.pad_token_id = 2, 0
    module.decoder.cls.predictions.bias.data[: len(SPECIAL)] = -10  # it has something to say
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a kind, written when it is first asked for."""
    T = import_transformers()
    kinds, known = made(T), {}

    def of(kind):
        if kind not in known:
            torch.manual_seed(0)
            known[kind] = tmp_path_factory.mktemp(kind)
            module, processor, reads = kinds[kind]()
            module.save_pretrained(known[kind])
            processor.save_pretrained(known[kind])
            if reads:
                tokenizer(T).save_pretrained(known[kind])
        return known[kind]

    return of


def score_of(kind, model, outputs):
    """What `ASKED` asks for, read from a module's outputs by other means."""
    logits = outputs if isinstance(outputs, torch.Tensor) else getattr(outputs, "logits", None)
    if kind in ("blip", "git", "vit-bert", "blip-vqa"):
        # "a red circle underneath": begin, a, red, circle, un, ##der, ##neath, end. "a circle": begin, a, circle, end.
        ids = {4: 23, 5: 24, 6: 25} if kind != "blip-vqa" else {1: 6, 2: 11}
        said = logits[0, -8 if kind != "blip-vqa" else -4 :].log_softmax(-1)
        return sum(said[place - 1, id] for place, id in ids.items())
    if kind == "vilt":
        return logits[0, 1]
    if kind in ("clip", "siglip", "chinese-clip"):
        text = model.task.encode(["a dog"])[0]
        return model.module.model.logit_scale.exp() * torch.nn.functional.cosine_similarity(logits[0], text, dim=0)
    if kind in ("detr", "table", "conditional", "deformable", "rt-detr"):
        sure = (logits.softmax(-1) if kind in ("detr", "table") else logits.sigmoid())[0, :, 1]
        return logits[0, sure.argmax(), 1]
    if kind == "mask2former":
        classes, masks = outputs.class_queries_logits[0].softmax(-1), outputs.masks_queries_logits[0].sigmoid()
        logits = sum(classes[q, :3, None, None] * masks[q] for q in range(5))[None]
    first = int(logits[0].argmax(0).flatten().mode().values)
    return logits[0, first][logits[0].argmax(0) == first].sum()


WRITTEN = Caption("a red circle underneath", "underneath")
ASKED = {
    "blip": (Captions, WRITTEN, "underneath"),
    "git": (Captions, WRITTEN, "underneath"),
    "vit-bert": (Captions, WRITTEN, "underneath"),
    "blip-vqa": (OpenQuestions, Question("what is left?", "a circle"), "what is left? a circle"),
    "vilt": (Questions, Question("what is left?", "dog"), "what is left? dog"),
    "clip": (Prompts, Prompt("a dog"), "a dog"),
    "chinese-clip": (Prompts, Prompt("a dog"), "a dog"),
    "siglip": (Prompts, Prompt("a dog"), "a dog"),
    "detr": (Detections, "dog", "dog at"),
    "table": (Detections, "dog", "dog at"),
    "conditional": (Detections, "dog", "dog at"),
    "deformable": (Detections, "dog", "dog at"),
    "rt-detr": (Detections, "dog", "dog at"),
    "segformer": (Segments, None, ""),
    "mask2former": (Segments, None, ""),
    "upernet": (Segments, None, ""),
    "dpt": (Segments, None, ""),
    "beit": (Segments, None, ""),
}


def inputs_of(model, target):
    """What explain gives the module, and the target on its outputs."""
    images = model.prepare(PHOTO)[0].tensor[None].to(model.dtype)
    target = model.task.target(target, model)
    if hasattr(target, "placed"):
        target = target.placed(model.prepare(PHOTO)[0].frame, tuple(images.shape[2:]))
    return model.task.ask(images, target, model)


def whole_graph(model, inputs, name, score):
    """The gradient of a score at a layer by a plain call, an ordinary hook and plain autograd.

    The image comes twice: for a single one torch (2.13, CPU) gets batch normalisation wrong where tokens are made of its output (RT-DETR).
    """
    kept = []
    inputs = {key: torch.cat([value, value]) for key, value in inputs.items()} if isinstance(inputs, dict) else torch.cat([inputs, inputs])

    def keep(module, args, output):
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = model.module.get_submodule(name).register_forward_hook(keep)
    try:
        outputs = model.module(**inputs) if isinstance(inputs, dict) else model.module(inputs)
    finally:
        handle.remove()
    return torch.autograd.grad(score(outputs), kept[-1])[0][:1].detach(), score(outputs).detach()


@contextmanager
def patches_in_order():
    """ViLT draws the order of its patches anew in every pass, which changes no answer, but every map: here they keep their own."""
    drawn = torch.multinomial
    torch.multinomial = lambda weights, count, *_, **__: torch.arange(count)
    try:
        yield
    finally:
        torch.multinomial = drawn


def as_maps(tensor, grid):
    """A layer's output `[1, …]` as `[1, C, h, w]`: channels first, or the last h·w tokens."""
    if tensor.ndim == 4:
        return tensor if tuple(tensor.shape[2:]) == grid else tensor.permute(0, 3, 1, 2)
    return tensor[:, -grid[0] * grid[1] :].transpose(1, 2).reshape(1, -1, *grid)


def state(module):
    hooks = sum(len(child._forward_hooks) + len(child._forward_pre_hooks) for child in module.modules())
    parameters = {name: (p.requires_grad, p.grad, p.detach().clone()) for name, p in module.named_parameters()}
    return hooks, [child.training for child in module.modules()], parameters


def assert_same(before, after):
    assert before[:2] == after[:2]
    for name, (requires, grad, value) in before[2].items():
        now = after[2][name]
        assert (requires, grad) == now[:2]
        assert torch.equal(value, now[2])


# ---------------------------------------------------------------- transformers, task by task


@pytest.mark.parametrize("kind", ASKED)
def test_gradients_at_the_cut_are_the_whole_graphs(folder, kind):
    task, target, _ = ASKED[kind]
    model = load(f"hf:{folder(kind)}", dtype="float64")
    assert isinstance(model.task, task)
    inputs, asked = inputs_of(model, target)
    with open_run(model.module, inputs, asked, model.layer) as run:
        found, name, score = run.capture(gradients=True).gradients[:, 0], run.layer.name, run.clean_scores()[0, 0]
    with patches_in_order():
        expected, plain = whole_graph(model, inputs, name, lambda outputs: score_of(kind, model, outputs))
    expected = as_maps(expected, tuple(found.shape[2:]))
    assert float(score) == pytest.approx(float(plain), rel=1e-9)
    assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
    assert float(expected.abs().max()) > 0
    assert "text" not in name
    assert "decoder" not in name.removeprefix("decode_head")


@pytest.mark.parametrize("kind", [kind for kind in ASKED if kind not in ("chinese-clip", "table", "conditional", "dpt")])
def test_from_photo_to_explanation_by_gradients_and_by_masks(folder, kind):
    _, target, words = ASKED[kind]
    model = load(f"hf:{folder(kind)}")
    (cam,) = lucidcam.explain(model, PHOTO, "hirescam", target)
    before = state(model.module)  # transformers adds hooks of its own in a network's first pass
    (rise,) = lucidcam.explain(model, PHOTO, "rise", target, masks=6, batch_size=4)
    (score,) = lucidcam.explain(model, PHOTO, "scorecam", target, top_channels=3, batch_size=4)
    for found in (cam, rise, score):
        assert found.map.shape == (48, 64)
        assert found.label.startswith(words)
        assert bool(torch.isfinite(torch.as_tensor(found.map)).all())
        assert found.score == pytest.approx(cam.score, rel=1e-4, abs=1e-5)
    assert float(cam.raw.abs().max()) > 1e-6  # and not what rounding leaves of weights that are nearly zero
    assert_same(before, state(model.module))


@pytest.mark.parametrize("kind", ASKED)
def test_photos_together_give_what_they_give_alone(folder, kind):
    model, target = load(f"hf:{folder(kind)}", dtype="float64"), ASKED[kind][1]
    with patches_in_order():
        alone = [lucidcam.explain(model, photo, "hirescam", target)[0] for photo in (PHOTO, OTHER)]
        together = lucidcam.explain(model, [PHOTO, OTHER], "hirescam", target)
    for one, both in zip(alone, together, strict=True):
        assert both.label == one.label
        assert both.score == pytest.approx(one.score, rel=1e-9)
        assert float((both.raw - one.raw).abs().max()) <= 1e-6 * float(one.raw.abs().max())  # raw maps are float32
    first, second = (each.raw for each in alone)
    assert float((first - second).abs().max()) > 0.1 * float(first.abs().max())  # a photo that is taken for the other would be seen


@pytest.mark.parametrize("kind", ["blip", "git", "vit-bert", "blip-vqa"])
def test_models_write_for_themselves(folder, kind):
    model = load(f"hf:{folder(kind)}")
    images = model.prepare(PHOTO)[0].tensor[None]
    write = [model.task.write(images, "what is left?") if kind == "blip-vqa" else model.task.write(images) for _ in range(2)]
    assert write[0] == write[1]
    assert write[0]
    before = state(model.module)
    (found,) = lucidcam.explain(model, PHOTO, target="what is left?" if kind == "blip-vqa" else None)
    assert write[0] in found.label
    assert_same(before, state(model.module))


# ---------------------------------------------------------------- the networks behind them


def test_blip_says_what_transformers_does(folder):
    T = import_transformers()
    ids, question = torch.tensor([[5, 6, 11, 3]]), torch.tensor([[2, 15, 16, 13, 20, 3]])
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model, theirs = load(f"hf:{folder('blip-vqa')}"), T.BlipForQuestionAnswering.from_pretrained(folder("blip-vqa")).eval()
    with torch.no_grad():
        loss = theirs(pixel_values=images, input_ids=question, labels=ids).loss
        logits = model.module(images, question, ids)
    assert float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])) == pytest.approx(float(loss), rel=1e-5)
    assert model.task.encode("a circle").ids == tuple(ids[0].tolist())
    assert torch.equal(model.task.inputs(images, "what is left?", ids[0])["input_ids"], question)


def test_words_know_their_tokens(folder):
    written = load(f"hf:{folder('blip')}").task.encode("A red cat, underneath!")
    assert [word for word, _ in written.words] == ["A", "red", "cat,", "underneath!"]
    assert [[WORDS[written.ids[i]] for i in places] for _, places in written.words] == [
        ["a"],
        ["red"],
        ["cat", ","],
        ["un", "##der", "##neath", "[UNK]"],
    ]
    assert (WORDS[written.ids[0]], WORDS[written.ids[-1]]) == ("[DEC]", "[SEP]")


@pytest.mark.parametrize("kind", ["clip", "siglip", "chinese-clip"])
def test_similarities_are_transformers_own(folder, kind):
    T = import_transformers()
    texts, path = ["a photo of a cat", "a photo of a dog", "a photo of a mat"], folder(kind)
    theirs = T.AutoModel.from_pretrained(path).eval()
    if kind == "siglip":
        torch.nn.init.constant_(theirs.logit_bias, -1.5)
        theirs.save_pretrained(path)
    tokens = tokenizer(T)(texts, padding="max_length" if kind == "siglip" else "longest", max_length=40, return_tensors="pt")
    tokens.pop("token_type_ids", None)
    model, classifier = load(f"hf:{path}"), load(f"hf:{path}", labels=["cat", "dog", "mat"])
    images = torch.stack([model.prepare(PHOTO)[0].tensor, torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))])
    with torch.no_grad():
        expected = theirs(pixel_values=images, **tokens).logits_per_image
        found = classifier.module(images)
        embeddings = torch.nn.functional.normalize(model.module(images), dim=1)
        cosines = embeddings @ torch.nn.functional.normalize(model.task.encode(texts), dim=1).T
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.allclose(cosines * model.task.scale + (-1.5 if kind == "siglip" else 0), expected, atol=1e-4, rtol=1e-4)
    assert (classifier.task, classifier.labels) == (None, ("cat", "dog", "mat"))
    (one,) = lucidcam.explain(classifier, PHOTO, target="dog")
    single = float(expected[0].sigmoid()[1]) if kind == "siglip" else float(expected[0].softmax(0)[1])
    assert (one.label, one.probability) == ("dog", pytest.approx(single, rel=1e-3))
    several = lucidcam.explain(model, PHOTO, target=["a photo of a cat", "a photo of a mat"])
    assert [each.label for each in several] == ["a photo of a cat", "a photo of a mat"]
    other = load(f"hf:{path}", labels=["cat"], prompt="the {}")
    assert torch.equal(other.module.texts, torch.nn.functional.normalize(model.task.encode(["the cat"]), dim=1))


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("kind", "photo", "shape"),
    [
        ("detr", (640, 480), (64, 96)),
        ("detr", (300, 900), (128, 32)),
        ("vilt", (640, 480), (64, 96)),
        ("rt-detr", (640, 480), (96, 96)),
        ("segformer", (300, 500), (64, 64)),
        ("beit", (300, 500), (64, 64)),
    ],
)
def test_networks_that_tell_places_see_the_whole_photo(folder, kind, photo, shape):
    model = load(f"hf:{folder(kind)}")
    pixels = np.zeros((photo[1], photo[0], 3), dtype=np.uint8)
    pixels[:, photo[0] // 4 :] = 255
    (prepared,) = model.prepare(pixels)
    assert isinstance(model.preprocess, Preprocess)
    assert tuple(prepared.tensor.shape[1:]) == shape
    assert prepared.frame.box == (0, 0, *photo)
    probed = Probed(model.preprocess).frame(photo).box
    assert probed == pytest.approx((0, 0, *photo), abs=max(photo) / 30)
    bright = prepared.tensor[0, shape[0] // 2] > prepared.tensor[0].mean()
    assert int(bright.long().argmax()) == pytest.approx(shape[1] / 4, abs=1)


def test_boxes_are_asked_for_and_told_in_the_photos_pixels(folder):
    model = load(f"hf:{folder('rt-detr')}")
    inputs, _ = inputs_of(model, None)
    with torch.no_grad():
        outputs = model.module(inputs)
    x, y, w, h = (outputs.pred_boxes[0, 4] * torch.tensor([64, 48, 64, 48])).tolist()
    box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    (found,) = lucidcam.explain(model, PHOTO, target=Detection(box=box, label="cow"))
    assert found.label == f"cow at {','.join(str(round(side)) for side in box)}"
    assert found.score == pytest.approx(float(outputs.logits[0, 4, 2]), rel=1e-4)


# ---------------------------------------------------------------- choosing the task, and refusals


def refused(error, *args, **options):
    with pytest.raises(error) as caught:
        load(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_task_is_the_architectures_or_the_one_asked_for(folder):
    for word in ("captioning", "caption", "Image-to-Text"):
        assert isinstance(load(f"hf:{folder('blip')}", task=word).task, Captions)
    assert isinstance(load(f"hf:{folder('clip')}", task="zero-shot-image-classification").task, Prompts)
    assert load(f"hf:{folder('clip')}", task="classification", labels=["a", "b"]).labels == ("a", "b")
    random = load(f"hf:{folder('segformer')}", task="classify", pretrained=False)
    assert (random.task, type(random.module).__name__) == (None, "SegformerForImageClassification")


def test_refusals_to_load(folder, tmp_path):
    clip, blip = f"hf:{folder('clip')}", f"hf:{folder('blip')}"
    assert "did you mean 'captioning'" in refused(OptionError, blip, task="captoning")
    assert "not known for object detection, but for captioning, question answering" in refused(ModelError, blip, task="detection")
    assert "labels=… makes a classifier" in refused(OptionError, blip, task="captioning", labels=["a"])
    assert "one {} where the label belongs" in refused(OptionError, clip, labels=["a"], prompt="a photo")
    assert "labels as a list of texts" in refused(OptionError, clip, labels="cat")
    assert "which would be random" in refused(ModelError, f"hf:{folder('segformer')}", task="classification")
    assert "which would be random" in refused(ModelError, clip, task="classification")
    assert "YolosConfig, which is not known here" in refused(ModelError, f"hf:{folder('yolos')}")
    assert "'colour'" in refused(OptionError, blip, colour=3)
    import_transformers().AutoModel.from_pretrained(folder("clip")).save_pretrained(tmp_path)
    assert "give tokenizer=" in refused(ModelError, f"hf:{tmp_path}")
    assert "no image processor" in refused(ModelError, f"hf:{tmp_path}", tokenizer=str(folder("clip")))
    given = load(f"hf:{tmp_path}", tokenizer=str(folder("clip")), preprocess=Preprocess(size=(32, 32), resize=32))
    assert isinstance(given.task, Prompts)


@pytest.mark.parametrize(
    ("kind", "target", "part"),
    [
        ("blip", 3, "does captioning: give Caption("),
        ("blip", Question("what?"), "does captioning: give Caption("),
        ("blip", Caption("a red cat", "dog"), "has no word 'dog'"),
        ("blip", "a " * 50, "52 tokens; the model takes 40"),
        ("blip-vqa", None, "does question answering: give Question("),
        ("blip-vqa", Question("a " * 50), "52 tokens; the model takes 40"),
        ("vilt", Question("what?", "mouse"), "no class is called 'mouse'"),
        ("vilt", Question("a " * 50), "52 tokens; the model takes 40"),
        ("clip", None, "does image-text similarity: give a text"),
        ("clip", "a " * 50, "52 tokens; the model takes 40"),
        ("detr", Prompt("a cat"), "does object detection: give a label"),
        ("detr", "mouse", "no class is called 'mouse'"),
        ("segformer", Caption("a cat"), "does semantic segmentation: give a label"),
    ],
)
def test_refusals_to_explain_say_what_the_model_does(folder, kind, target, part):
    with pytest.raises(TargetError) as caught:
        lucidcam.explain(load(f"hf:{folder(kind)}"), PHOTO, target=target)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- torchvision

TINY = {"num_classes": 3, "min_size": 96, "max_size": 160}
DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": {**TINY, "box_score_thresh": 0.0, "rpn_pre_nms_top_n_test": 60, "rpn_post_nms_top_n_test": 20},
    "fcos_resnet50_fpn": {**TINY, "score_thresh": 0.0, "topk_candidates": 50, "detections_per_img": 10},
    "ssdlite320_mobilenet_v3_large": {"num_classes": 3, "score_thresh": 0.0, "topk_candidates": 50},
}


@pytest.fixture(scope="module")
def detectors():
    known = {}

    def of(name):
        if name not in known:
            torch.manual_seed(0)
            known[name] = load(f"torchvision:{name}", pretrained=False, dtype="float64", **DETECTORS[name])
        return known[name]

    return of


def _best(outputs):
    return outputs[0]["scores"][outputs[0]["scores"].argmax()]


@pytest.mark.parametrize("name", DETECTORS)
def test_torchvision_detectors(detectors, name):
    model = detectors(name)
    before = state(model.module)
    inputs, asked = inputs_of(model, None)
    with open_run(model.module, inputs, asked, model.layer) as run:
        found, layer, score = run.capture(gradients=True).gradients[:, 0], run.layer.name, run.clean_scores()[0, 0]
    expected, plain = whole_graph(model, inputs, layer, _best)
    assert float(score) == pytest.approx(float(plain), rel=1e-9)
    assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
    assert float(expected.abs().max()) > 0
    (cam,) = lucidcam.explain(model, PHOTO, "gradcam")
    (rise,) = lucidcam.explain(model, PHOTO, "rise", masks=4, batch_size=2)
    assert cam.map.shape == rise.map.shape == (48, 64)
    assert cam.label == rise.label
    assert_same(before, state(model.module))


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size", [(640, 480), (500, 333), (1200, 300), (200, 900)])
def test_torchvision_detectors_neither_resize_nor_pad_by_themselves(detectors, name, size):
    model = detectors(name)
    image = Image.fromarray(data.chelsea()).resize(size)
    (prepared,) = model.prepare(image)
    inner = model.module.transform
    with torch.no_grad():
        images, _ = inner(prepared.tensor.double()[None])
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (inner.image_mean, inner.image_std))
    assert prepared.frame.box == (0, 0, *size)
    assert images.tensors.shape[1:] == prepared.tensor.shape
    assert float((images.tensors[0] - (prepared.tensor.double() - mean) / std).abs().max()) < 1e-12


@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvision_segmenters(name):
    torch.manual_seed(0)
    model = load(f"torchvision:{name}", pretrained=False, dtype="float64", num_classes=4)
    images = torch.randn(1, 3, 48, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with open_run(model.module, images, Segmentation(2, region=torch.ones(48, 64)), model.layer) as run:
        found, layer = run.capture(gradients=True).gradients[:, 0], run.layer.name
    expected, _ = whole_graph(model, images, layer, lambda outputs: outputs["out"][0, 2].sum())
    assert layer.startswith("backbone.")
    assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
    (prepared,) = model.prepare(Image.new("RGB", (640, 480)))
    assert prepared.frame.box == (0, 0, 640, 480)
    assert [side % 16 for side in prepared.tensor.shape[1:]] == [0, 0]


def test_torchvision_tells_labels_tasks_and_names():
    model = load("torchvision:ssdlite320_mobilenet_v3_large", pretrained=False)
    assert (len(model.labels), model.labels[1], type(model.task)) == (91, "person", Detections)
    segmenter = load("torchvision:lraspp_mobilenet_v3_large", pretrained=False)
    assert (segmenter.labels[8], type(segmenter.task)) == ("cat", Segments)
    assert load("torchvision:fcn_resnet50", pretrained=False).preprocess.size == (520, 520)  # as evaluated: it has a stride of 8
    assert {"torchvision:maskrcnn_resnet50_fpn", "torchvision:fcn_resnet50", "torchvision:resnet18"} <= set(names("torchvision:"))
    assert "did you mean 'fcn_resnet50' or 'fcos_resnet50_fpn'" in refused(OptionError, "torchvision:fcos_resnet50")
    assert "does object detection" in _message(lambda: lucidcam.explain(model, PHOTO, target=Caption("a cat")))


def _message(call):
    with pytest.raises(LucidcamError) as caught:
        call()
    return str(caught.value)


# ---------------------------------------------------------------- torchvision's operators, where the compiled ones are missing


def naive_nms(boxes, scores, threshold):
    def iou(a, b):
        common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)

    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("count", [0, 1, 7, 300])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_nms_is_the_naive_one(count, threshold, monkeypatch):
    monkeypatch.setattr("lucidcam.utils.torchvision_ops.NMS_ROWS", 64)
    generator = torch.Generator().manual_seed(count)
    boxes = torch.rand(count, 4, generator=generator, dtype=torch.float64) * 50
    boxes[:, 2:] += boxes[:, :2]
    scores = (torch.rand(count, generator=generator, dtype=torch.float64) * 40).round() / 40  # with ties
    found = import_torchvision().ops.nms(boxes, scores.requires_grad_(), threshold)
    assert found.tolist() == naive_nms(boxes.tolist(), scores.tolist(), threshold)
    assert found.dtype == torch.int64


def naive_roi_align(image, box, scale, height, width, ratio, aligned):
    """One region of `[C, H, W]`, sample by sample."""
    left, top, right, bottom = (side * scale - (0.5 if aligned else 0) for side in box)
    wide, high = right - left, bottom - top
    if not aligned:
        wide, high = max(wide, 1), max(high, 1)
    across, down = (ratio, ratio) if ratio > 0 else (int(np.ceil(wide / width)), int(np.ceil(high / height)))

    def at(y, x):
        if not (-1 <= y <= image.shape[1] and -1 <= x <= image.shape[2]):
            return torch.zeros(len(image), dtype=image.dtype)
        y, x = min(max(y, 0), image.shape[1] - 1), min(max(x, 0), image.shape[2] - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, image.shape[1] - 1), min(x0 + 1, image.shape[2] - 1)
        upper = image[:, y0, x0] * (x0 + 1 - x) + image[:, y0, x1] * (x - x0)
        lower = image[:, y1, x0] * (x0 + 1 - x) + image[:, y1, x1] * (x - x0)
        return upper * (y0 + 1 - y) + lower * (y - y0)

    rows = []
    for i in range(height):
        for j in range(width):
            samples = [
                at(top + high / height * (i + (a + 0.5) / down), left + wide / width * (j + (b + 0.5) / across))
                for a in range(down)
                for b in range(across)
            ]
            rows.append(sum(samples) / max(1, down * across) if samples else torch.zeros(len(image), dtype=image.dtype))
    return torch.stack(rows, 1).unflatten(1, (height, width))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 1, 2])
def test_roi_align_and_its_gradient_are_the_naive_ones(ratio, aligned):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 2, 7, 9, dtype=torch.float64, generator=generator, requires_grad=True)
    boxes = torch.tensor([[1.0, 2, 9, 11], [0, 0, 17, 13], [-9, -9, 30, 30], [5, 5, 5.2, 5.1], [14, 10, 18, 14]], dtype=torch.float64)
    which = [0, 1, 0, 1, 1]
    rois = torch.cat([torch.tensor(which, dtype=torch.float64)[:, None], boxes], dim=1)
    found = import_torchvision().ops.roi_align(images, rois, (3, 2), 0.5, ratio, aligned)
    expected = torch.stack(
        [naive_roi_align(images[i], box, 0.5, 3, 2, ratio, aligned) for i, box in zip(which, boxes.tolist(), strict=True)]
    )
    assert float((found - expected).detach().abs().max()) < 1e-12
    weights = torch.randn(found.shape, dtype=torch.float64, generator=generator)
    grads = [torch.autograd.grad((each * weights).sum(), images)[0] for each in (found, expected)]
    assert float((grads[0] - grads[1]).abs().max()) < 1e-12
    assert import_torchvision().ops.roi_align(images, rois[:0], (3, 2), 0.5, ratio, aligned).shape == (0, 2, 3, 2)


def test_compiled_operators_are_left_alone(monkeypatch):
    from lucidcam.utils import optional

    library = import_torchvision()
    boxes, regions = (sys.modules[f"torchvision.ops.{name}"] for name in ("boxes", "roi_align"))
    checks = object()
    monkeypatch.setattr(library.extension, "_has_ops", lambda: True)
    monkeypatch.setattr(boxes, "_assert_has_ops", checks)
    monkeypatch.setattr(regions, "_has_ops", checks)
    monkeypatch.setattr(optional, "_declare_operators", lambda: pytest.fail("declared anew"))
    assert import_torchvision() is library
    assert boxes._assert_has_ops is checks
    assert regions._has_ops is checks


def test_a_task_of_ones_own_network_needs_no_library():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 1))
    model = wrap(module, Preprocess(size=(48, 64), resize=48, fit="squash"), ["cat", "dog", "cow"], layer="0", task=Segments())
    (found,) = lucidcam.explain(model, PHOTO, target=Segmentation("dog", region=np.ones((48, 64))))
    assert found.label == "dog in the region"


def test_models_with_tasks_go_to_other_processes(folder):
    for kind in ("blip-vqa", "clip", "vilt"):
        model = load(f"hf:{folder(kind)}")
        copy = pickle.loads(pickle.dumps(model))
        first, second = (lucidcam.explain(each, PHOTO, "rise", ASKED[kind][1], masks=3)[0] for each in (model, copy))
        assert torch.equal(torch.as_tensor(first.raw), torch.as_tensor(second.raw))
