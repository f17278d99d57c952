"""The bias-reducing memory of M-CAM (Kim & Ro, "M-CAM: Visual Explanation of Challenging Conditioned Dataset …", BMVC 2021)."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lucidcam.engine.foreign import totals
from lucidcam.errors import ModelError, OptionError, first_line, unknown
from lucidcam.io.storage import parsed_json, write_whole
from lucidcam.reprs import OneLineRepr

Loss = Literal["bce", "cross_entropy"]
Read = Literal["query", "places"]
KIND = "lucidcam memory"
FILE = "memory.safetensors"
SHORTEST = 1e-12
"""Shorter vectors have no direction; their cosines are 0."""

RIDGE = 1e-3
"""Of the mean variance, added to each: directions without any variance are not blown up."""


@dataclass(frozen=True)
class Losses(OneLineRepr):
    """The parts of the training loss, each a scalar.

    Attributes:
        classifier: of the value read with the label and of the one read with the image.
        sparse: mean squared difference of the two values.
        address: divergence of the two image addresses from the label's.
    """

    classifier: Tensor
    sparse: Tensor
    address: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum."""
        return self.classifier + self.sparse + self.address


@dataclass(frozen=True)
class Belongs(OneLineRepr):
    """What a memory was trained on and belongs to.

    Attributes:
        encoder: fingerprint of the network (`lucidcam.utils.fingerprint.fingerprint`).
        name: what the network was called.
        layer: dotted name of the layer whose activations are the features.
        labels: the memory's classes in words.
        ids: for each of them the network's class id.
    """

    encoder: str
    name: str
    layer: str
    labels: tuple[str, ...]
    ids: tuple[int, ...]


class Memory(nn.Module):
    """Slots that hold what each class's features look like: key, value and spatial memory, a label encoder and a classifier.

    `f` are the spatial features of a frozen encoder, `q` their global average. Addresses are softmaxes over slots of cosine similarities:
    `p` of `q` and the keys, `p'` of the encoded label and the values, `p_s` of `f` and the spatial slots. `v = p V` is read for an image,
    `v_t = p' V` for its label, and `z = fc([v, q])` are class scores.

    Two things go beyond the paper, and are off by default. `read="places"`: each place of the features has an address of its own,
    `p = mean_u p(u)`, so that `z` is a mean over places and says where its evidence lies (`evidence`). `whiten`: features are centred and
    decorrelated before, `f' = A (f − μ)` with `A = cov(q)^(−1/2)`: those of a network after a ReLU all point the same way, so that
    cosines hardly differ, and what sets two classes apart that always occur together is small beside what they share.

    Args:
        slots: N.
        channels: c, of the features.
        grid: (h, w) of the features.
        classes: how many.
        temperature: of the softmaxes; 1 in the paper. Cosines lie in [−1, 1], so that at 1 no slot gets more than e² times another.
        read: "query" (the paper) or "places".
        belongs: what it belongs to; needed for saving.

    Attributes:
        key: K `[N, c]`.
        value: V `[N, c]`.
        spatial: S `[N, c, h, w]`.
        label_encoder: G, an MLP from (multi-)hot labels to `[c]`; for training only.
        classifier: fc, from `[v, q]` to class scores.
        mean: μ `[c]`; zeros unless `whiten` was called.
        whitening: A `[c, c]`; the identity unless `whiten` was called.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(
        self,
        slots: int,
        channels: int,
        grid: tuple[int, ...],
        classes: int,
        temperature: float = 1.0,
        read: Read = "query",
        belongs: Belongs | None = None,
    ) -> None:
        super().__init__()
        if slots < 1 or channels < 1 or classes < 1 or not temperature > 0:
            given = f"{slots}, {channels}, {classes}, {temperature}"
            raise OptionError(f"expected slots, channels and classes ≥ 1, temperature > 0; got {given}.")
        if read not in get_args(Read):
            raise OptionError(unknown("way to read", str(read), get_args(Read)))
        self.temperature = float(temperature)
        self.read: Read = read
        self.belongs = belongs
        self.key = nn.Parameter(torch.randn(slots, channels))
        self.value = nn.Parameter(torch.randn(slots, channels))
        self.spatial = nn.Parameter(torch.randn(slots, channels, *grid))
        self.label_encoder = nn.Sequential(nn.Linear(classes, channels), nn.ReLU(), nn.Linear(channels, channels))
        self.classifier = nn.Linear(2 * channels, classes)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("whitening", torch.eye(channels))

    def __repr__(self) -> str:
        return f"Memory(slots={self.slots}, classes={self.classifier.out_features}, read={self.read!r})"

    @property
    def slots(self) -> int:
        """N."""
        return len(self.key)

    # ------------------------------------------------------------------------------------------------------------- features

    def whiten(self, queries: Tensor) -> None:
        """From now on centre and decorrelate features as these queries `[n, c]` of training images say."""
        values, vectors = torch.linalg.eigh(torch.cov(queries.double().t()))
        scale = (values.clamp(min=0) + RIDGE * values.mean()).rsqrt()
        self.mean.copy_(queries.mean(0))
        self.whitening.copy_(vectors * scale @ vectors.t())

    def prepared(self, features: Tensor) -> Tensor:
        """Features `[B, c, h, w]` as the memory takes them: detached, and whitened where it was told how."""
        places = features.detach().flatten(2) - self.mean[:, None]
        return (self.whitening @ places).reshape(features.shape)

    # ------------------------------------------------------------------------------------------------------------ addresses

    def log_addresses(self, features: Tensor) -> Tensor:
        """Logarithms of the addresses `[B, P, N]` of prepared features: of the query alone, or of each place."""
        return self._log_softmax(cosines(self._read_at(features), self.key))

    def log_address(self, features: Tensor) -> Tensor:
        """Logarithm of the address `p` `[B, N]` of prepared features: `softmax_i cos(q, K_i)`, or its mean over places."""
        places = self.log_addresses(features)
        return places.logsumexp(1) - math.log(places.shape[1])

    def log_label_address(self, labels: Tensor) -> Tensor:
        """Logarithm of the address `p'` `[B, N]` of (multi-)hot labels `[B, classes]`: `softmax_i cos(G(y), V_i)`."""
        return self._log_softmax(cosines(self.label_encoder(labels), self.value))

    def log_spatial_address(self, features: Tensor) -> Tensor:
        """Logarithm of the address `p_s` `[B, N]` of prepared features: `softmax_i cos(f, S_i)` over all their numbers."""
        return self._log_softmax(cosines(features.flatten(1), self.spatial.flatten(1)))

    def forward(self, features: Tensor) -> Tensor:
        """Class scores `z` `[B, classes]` of features `[B, c, h, w]`."""
        return self._scores(self.prepared(features))

    # ------------------------------------------------------------------------------------------------------------- training

    def losses(self, features: Tensor, labels: Tensor, loss: Loss = "bce", weight: Tensor | None = None) -> Losses:
        """The training losses (section 3.2 of the paper): `L = L_classifier + L_sparse + L_address`.

        Args:
            features: `[B, c, h, w]`; no gradient flows to them.
            labels: (multi-)hot `[B, classes]`.
            loss: "bce", or "cross_entropy" for one label per image.
            weight: `[classes]`; of each class's positives for "bce", of each class for "cross_entropy".
        """
        features = self.prepared(features)
        query = features.flatten(2).mean(-1)
        image, label, spatial = self.log_address(features), self.log_label_address(labels), self.log_spatial_address(features)
        read, taught = image.exp() @ self.value, label.exp() @ self.value

        def classified(value: Tensor) -> Tensor:
            scores = self.classifier(torch.cat([value, query], dim=-1))
            if loss == "cross_entropy":
                return F.cross_entropy(scores, labels, weight=weight)
            return F.binary_cross_entropy_with_logits(scores, labels, pos_weight=weight)

        return Losses(
            classifier=classified(taught) + classified(read),
            sparse=F.mse_loss(read, taught),
            address=_divergence(label, spatial) + _divergence(label, image),
        )

    # ----------------------------------------------------------------------------------------------------------- explaining

    def search(self, features: Tensor, noise: Tensor) -> Tensor:
        """Which slot each class needs (section 3.3): the one whose key, replaced by noise, lowers the class's score most.

        Args:
            features: `[B, c, h, w]`.
            noise: `[draws, N, c]`, drawn from N(0, 1); scores are averaged over draws.

        Returns:
            Slots `[B, classes]`.
        """
        # Replacing one key changes one term of the softmax's sums: all N scores follow from sums over the other slots, without a loop.
        # Those sums are made from both ends, since subtracting a slot that has nearly all the weight would leave rounding errors.
        asked = self._read_at(self.prepared(features)).double()
        own = cosines(asked, self.key.double()) / self.temperature  # [B, P, N]
        other = torch.einsum("bpc,dnc->dbpn", F.normalize(asked, dim=-1), F.normalize(noise.double(), dim=-1)) / self.temperature
        top = torch.maximum(own.amax(-1, keepdim=True), other.amax((0, 3)).unsqueeze(-1))
        e, changed = (own - top).exp(), (other - top).exp()
        spoken = (self.value @ self.classifier.weight[:, : self.value.shape[1]].t()).double()  # what a slot says of a class [N, classes]
        words = _others(e.unsqueeze(-1) * spoken, -2) + changed.unsqueeze(-1) * spoken
        scores = words / (_others(e, -1) + changed).unsqueeze(-1)  # [draws, B, P, N, classes], but for what q adds to all alike
        return scores.mean((0, 2)).argmin(1)

    def slot_weights(self, features: Tensor, slots: Tensor) -> Tensor:
        """Channel weights by likeness to a slot: `w_k = exp cos(f_k, S_{n,k})` over the positions of channel k.

        Args:
            features: `[B, c, h, w]`.
            slots: `[B, T]`.

        Returns:
            `[B, T, c]`, between 1/e and e.
        """
        prepared, spatial = self.prepared(features).flatten(2), self._spatial_for(features)
        likeness = torch.stack([F.cosine_similarity(prepared, spatial[column].flatten(2), dim=-1) for column in slots.t()], dim=1)
        return likeness.exp()

    def gradients(self, features: Tensor, classes: Tensor) -> Tensor:
        """Gradients of class scores with respect to the features, through addresses, values and classifier.

        Args:
            features: `[B, c, h, w]`.
            classes: which, `[B, T]`.

        Returns:
            `[B, T, c, h, w]`.
        """
        with torch.enable_grad():
            asked = self.prepared(features).requires_grad_()
            scores = totals(self._scores(asked).gather(1, classes))
            found = torch.stack([torch.autograd.grad(score, asked, retain_graph=True)[0] for score in scores], dim=1)
        return torch.einsum("ij,bti...->btj...", self.whitening, found)

    def evidence(self, features: Tensor) -> Tensor:
        """What each place adds to each class score `[B, classes, h, w]`: `M_c(u) = a_c · p(u) V + b_c · f'_u` with `fc = [a, b]`.

        Its mean over places and the bias are the class score: `mean_u M_c(u) + bias_c = z_c`.

        Raises:
            OptionError: the memory does not read places.
        """
        if self.read != "places":
            raise OptionError('the evidence of each place needs a memory that reads places: train one with read="places" (--read places).')
        prepared = self.prepared(features)
        places = prepared.flatten(2).transpose(1, 2)
        values = self.log_addresses(prepared).exp() @ self.value
        found = F.linear(torch.cat([values, places], dim=-1), self.classifier.weight)
        return found.transpose(1, 2).reshape(len(features), -1, *features.shape[2:])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the memory, and what it belongs to, as one safetensors file.

        Raises:
            OptionError: it does not say what it belongs to.
            DataError: it cannot be written.
        """
        if self.belongs is None:
            raise OptionError("a memory is saved with what it belongs to: set memory.belongs.")
        told = {"kind": KIND, "temperature": str(self.temperature), "read": self.read, "belongs": json.dumps(asdict(self.belongs))}
        write_whole(Path(path), save({name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}, told))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Memory:
        """Read a memory that `save` wrote, or the one in a folder of `lucidcam train memory`.

        Raises:
            ModelError: the file is missing, damaged or no memory.
        """
        path = Path(path).expanduser()
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise ModelError(f"the memory {str(path)!r} does not exist; `lucidcam train memory` writes one.")
        try:
            with safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise ModelError(f"the memory {str(path)!r} cannot be read ({error}); copy it again, or train it anew.") from error
        if told.get("kind") != KIND:
            raise ModelError(f"{str(path)!r} is no memory of `lucidcam train memory`; is it a network's checkpoint (--model)?")
        try:
            given: dict[str, Any] = parsed_json(told["belongs"])
            belongs = Belongs(**{**given, "labels": tuple(given["labels"]), "ids": tuple(given["ids"])})
            slots, channels, *grid = tensors["spatial"].shape
            memory = cls(slots, channels, tuple(grid), len(belongs.labels), float(told["temperature"]), told["read"], belongs)
            memory.load_state_dict(tensors)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"the memory {str(path)!r} is damaged ({type(error).__name__}: {first_line(error)}); train it anew.") from None
        return memory.eval()

    def _scores(self, prepared: Tensor) -> Tensor:
        value = self.log_address(prepared).exp() @ self.value
        found: Tensor = self.classifier(torch.cat([value, prepared.flatten(2).mean(-1)], dim=-1))
        return found

    def _read_at(self, prepared: Tensor) -> Tensor:
        """What is compared with the keys `[B, P, c]`: the query alone, or each place."""
        places = prepared.flatten(2).transpose(1, 2)
        return places if self.read == "places" else places.mean(1, keepdim=True)

    def _spatial_for(self, features: Tensor) -> Tensor:
        """S in the features' grid."""
        spatial: Tensor = self.spatial
        if features.shape[2:] != spatial.shape[2:]:
            spatial = F.interpolate(spatial, features.shape[2:], mode="bilinear", align_corners=False)
        return spatial

    def _log_softmax(self, cosines: Tensor) -> Tensor:
        return (cosines / self.temperature).log_softmax(-1)


def cosines(x: Tensor, slots: Tensor) -> Tensor:
    """Cosine similarities `[..., N]` of `[..., d]` and `[N, d]`."""
    lengths = x.norm(dim=-1, keepdim=True).clamp(min=SHORTEST) * slots.norm(dim=-1).clamp(min=SHORTEST)
    found: Tensor = x @ slots.t() / lengths  # after the product: no copies of long features
    return found


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of logarithms, averaged over images."""
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


def _others(x: Tensor, dim: int) -> Tensor:
    """For each entry along an axis the sum of all the others."""
    before = x.cumsum(dim).roll(1, dim)
    after = x.flip(dim).cumsum(dim).roll(1, dim).flip(dim)
    before.select(dim, 0).zero_()
    after.select(dim, -1).zero_()
    return before + after
