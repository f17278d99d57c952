"""The bias-reducing memory of M-CAM (Kim & Ro, "M-CAM: Visual Explanation of Challenging Conditioned Dataset …", BMVC 2021)."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lucidcam.errors import ModelError, OptionError

Loss = Literal["bce", "cross_entropy"]
KIND = "lucidcam memory"


@dataclass(frozen=True)
class Losses:
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
class Belongs:
    """What a memory was trained on and belongs to.

    Attributes:
        encoder: fingerprint of the network (`lucidcam.types.fingerprint`).
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

    Args:
        slots: N.
        channels: c, of the features.
        grid: (h, w) of the features.
        classes: how many.
        temperature: of the softmaxes; 1 in the paper. Cosines lie in [−1, 1], so that at 1 no slot gets more than e² times another.
        belongs: what it belongs to; needed for saving.

    Attributes:
        key: K `[N, c]`.
        value: V `[N, c]`.
        spatial: S `[N, c, h, w]`.
        label_encoder: G, an MLP from (multi-)hot labels to `[c]`; for training only.
        classifier: fc, from `[v, q]` to class scores.
    """

    def __init__(
        self,
        slots: int,
        channels: int,
        grid: tuple[int, ...],
        classes: int,
        temperature: float = 1.0,
        belongs: Belongs | None = None,
    ) -> None:
        super().__init__()
        if slots < 1 or channels < 1 or classes < 1 or not temperature > 0:
            given = f"{slots}, {channels}, {classes}, {temperature}"
            raise OptionError(f"expected slots, channels and classes ≥ 1, temperature > 0; got {given}.")
        self.temperature = float(temperature)
        self.belongs = belongs
        self.key = nn.Parameter(torch.randn(slots, channels))
        self.value = nn.Parameter(torch.randn(slots, channels))
        self.spatial = nn.Parameter(torch.randn(slots, channels, *grid))
        self.label_encoder = nn.Sequential(nn.Linear(classes, channels), nn.ReLU(), nn.Linear(channels, channels))
        self.classifier = nn.Linear(2 * channels, classes)

    @property
    def slots(self) -> int:
        """N."""
        return len(self.key)

    def address(self, query: Tensor) -> Tensor:
        """Address `p` `[B, N]` of queries `[B, c]`: `softmax_i cos(q, K_i)`."""
        return self._softmax(cosines(query, self.key))

    def label_address(self, labels: Tensor) -> Tensor:
        """Address `p'` `[B, N]` of (multi-)hot labels `[B, classes]`: `softmax_i cos(G(y), V_i)`."""
        return self._softmax(cosines(self.label_encoder(labels), self.value))

    def spatial_address(self, features: Tensor) -> Tensor:
        """Address `p_s` `[B, N]` of features `[B, c, h, w]`: `softmax_i cos(f, S_i)` over all their numbers."""
        return self._softmax(cosines(features.flatten(1), self.spatial.flatten(1)))

    def scores(self, query: Tensor) -> Tensor:
        """Class scores `z` `[B, classes]` of queries `[B, c]`."""
        return self._classified(self.address(query) @ self.value, query)

    def forward(self, features: Tensor) -> Tensor:
        """Class scores `[B, classes]` of features `[B, c, h, w]`."""
        return self.scores(features.flatten(2).mean(-1))

    def losses(self, features: Tensor, labels: Tensor, loss: Loss = "bce", weight: Tensor | None = None) -> Losses:
        """The training losses (section 3.2 of the paper): `L = L_classifier + L_sparse + L_address`.

        Args:
            features: `[B, c, h, w]`; no gradient flows to them.
            labels: (multi-)hot `[B, classes]`.
            loss: "bce", or "cross_entropy" for one label per image.
            weight: of each class `[classes]`.
        """
        features = features.detach()
        query = features.flatten(2).mean(-1)
        image, label, spatial = self.address(query), self.label_address(labels), self.spatial_address(features)
        read, taught = image @ self.value, label @ self.value

        def classified(value: Tensor) -> Tensor:
            scores = self._classified(value, query)
            if loss == "cross_entropy":
                return F.cross_entropy(scores, labels, weight=weight)
            return F.binary_cross_entropy_with_logits(scores, labels, pos_weight=weight)

        return Losses(
            classifier=classified(taught) + classified(read),
            sparse=F.mse_loss(read, taught),
            address=_divergence(label, spatial) + _divergence(label, image),
        )

    def search(self, query: Tensor, noise: Tensor) -> Tensor:
        """Which slot each class needs (section 3.3): the one whose key, replaced by noise, lowers the class's score most.

        Args:
            query: `[B, c]`.
            noise: `[draws, N, c]`, drawn from N(0, 1); scores are averaged over draws.

        Returns:
            Slots `[B, classes]`.
        """
        # Replacing one key changes one term of the softmax's sum: all N scores follow from sums over slots, without a loop.
        own = cosines(query, self.key)
        other = F.normalize(query, dim=-1) @ F.normalize(noise, dim=-1).transpose(-1, -2)  # [draws, B, N]
        largest = torch.maximum(own.amax(-1, keepdim=True), other.amax((0, 2)).unsqueeze(-1))
        e, changed = ((x - largest).div(self.temperature).exp() for x in (own, other))
        spoken = self.value @ self.classifier.weight[:, : self.value.shape[1]].t()  # what each slot says of each class [N, classes]
        total = (e @ spoken).unsqueeze(1) + (changed - e).unsqueeze(-1) * spoken
        scores = total / (e.sum(-1, keepdim=True) + changed - e).unsqueeze(-1)  # [draws, B, N, classes], but for what q adds to all alike
        return scores.mean(0).argmin(1)

    def slot_weights(self, features: Tensor, slots: Tensor) -> Tensor:
        """Channel weights by likeness to a slot: `w_k = exp cos(f_k, S_{n,k})` over the positions of channel k.

        Args:
            features: `[B, c, h, w]`.
            slots: `[B, T]`.

        Returns:
            `[B, T, c]`, between 1/e and e.
        """
        spatial: Tensor = self.spatial
        if features.shape[2:] != spatial.shape[2:]:
            spatial = F.interpolate(spatial, features.shape[2:], mode="bilinear", align_corners=False)
        likeness = torch.stack([F.cosine_similarity(features.flatten(2), spatial[column].flatten(2), dim=-1) for column in slots.t()], 1)
        return likeness.exp()

    def class_weights(self, query: Tensor) -> Tensor:
        """Gradient of each class score with respect to the query, `[B, classes, c]`: through addresses, values and classifier."""
        with torch.enable_grad():
            asked = query.detach().requires_grad_()
            scores = self.scores(asked).sum(0)
            return torch.stack([torch.autograd.grad(score, asked, retain_graph=True)[0] for score in scores], dim=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the memory, and what it belongs to, as one safetensors file.

        Raises:
            OptionError: it does not say what it belongs to.
        """
        if self.belongs is None:
            raise OptionError("a memory is saved with what it belongs to: set memory.belongs.")
        told = {"kind": KIND, "temperature": str(self.temperature), "belongs": json.dumps(asdict(self.belongs))}
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}, Path(path), told)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Memory:
        """Read a memory that `save` wrote.

        Raises:
            ModelError: the file is missing, damaged or no memory.
        """
        path = Path(path).expanduser()
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
        given: dict[str, Any] = json.loads(told["belongs"])
        belongs = Belongs(**{**given, "labels": tuple(given["labels"]), "ids": tuple(given["ids"])})
        slots, channels, *grid = tensors["spatial"].shape
        memory = cls(slots, channels, tuple(grid), len(belongs.labels), float(told["temperature"]), belongs)
        memory.load_state_dict(tensors)
        return memory.eval()

    def _softmax(self, cosines: Tensor) -> Tensor:
        return (cosines / self.temperature).softmax(-1)

    def _classified(self, value: Tensor, query: Tensor) -> Tensor:
        found: Tensor = self.classifier(torch.cat([value, query], dim=-1))
        return found


def cosines(x: Tensor, slots: Tensor) -> Tensor:
    """Cosine similarities `[B, N]` of `[B, d]` and `[N, d]`."""
    return F.normalize(x, dim=-1) @ F.normalize(slots, dim=-1).t()


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q), averaged over images."""
    return F.kl_div(q.clamp(min=1e-12).log(), p, reduction="batchmean")
