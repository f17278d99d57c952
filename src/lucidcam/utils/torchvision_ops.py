"""The operators of detectors in torch alone, for where torchvision's compiled ones do not load (see `lucidcam.utils.optional`)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NMS_ROWS = 1024
"""Boxes that non-maximum suppression compares with all others at a time."""


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: which boxes to keep so that none overlaps one of higher score by more than a threshold.

    Args:
        boxes: `[N, 4]`, xyxy.
        scores: `[N]`.
        iou_threshold: largest intersection over union that is allowed.

    Returns:
        Their numbers, best score first; of equal scores the first comes first.
    """
    order = scores.detach().argsort(descending=True, stable=True)
    left, top, right, bottom = boxes.detach()[order].unbind(1)
    areas = (right - left) * (bottom - top)
    kept = np.ones(len(order), dtype=bool)
    for start in range(0, len(order), NMS_ROWS):
        rows = start + np.flatnonzero(kept[start : start + NMS_ROWS])
        others = start + np.flatnonzero(kept[start:])
        a, b = torch.from_numpy(rows).to(order.device)[:, None], torch.from_numpy(others).to(order.device)
        wide = (torch.minimum(right[a], right[b]) - torch.maximum(left[a], left[b])).clamp_(min=0)
        high = (torch.minimum(bottom[a], bottom[b]) - torch.maximum(top[a], top[b])).clamp_(min=0)
        common = wide.mul_(high)
        over = (common / (areas[a] + areas[b] - common) > iou_threshold).cpu().numpy()
        for i, hidden in enumerate(over):
            if kept[rows[i]]:
                kept[others[i + 1 :]] &= ~hidden[i + 1 :]  # the first of the others are the rows themselves
    return order[torch.from_numpy(kept).to(order.device)]


def roi_align(
    input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Features of regions: bilinear samples on a regular grid in each bin, averaged (He et al., Mask R-CNN, 2017).

    Args:
        input: `[N, C, H, W]`.
        rois: `[K, 5]`, each region's image and xyxy.
        spatial_scale: from the regions' coordinates to the input's.
        pooled_height: bins along a region's height.
        pooled_width: bins along its width.
        sampling_ratio: samples along each side of a bin; 0 or less: as many as the bin has pixels.
        aligned: pixels lie at half-integer coordinates.

    Returns:
        `[K, C, pooled_height, pooled_width]`, differentiable with respect to `input`.
    """
    channels, height, width = input.shape[1:]
    rois = rois.detach().to(input.dtype)
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    sides = corners[:, 2:] - corners[:, :2]
    sides = sides if aligned else sides.clamp(min=1)
    counts = torch.full_like(sides, sampling_ratio, dtype=torch.long)
    if sampling_ratio <= 0:
        counts = (sides / sides.new_tensor([pooled_width, pooled_height])).ceil().clamp(min=0).long()
    pixels = input.permute(0, 2, 3, 1).reshape(-1, channels)
    output = input.new_zeros(len(rois), pooled_height, pooled_width, channels)
    for across, down in torch.unique(counts, dim=0).tolist():
        if not across * down:
            continue
        here = (counts == counts.new_tensor([across, down])).all(1).nonzero()[:, 0]
        x, x_share = _taps(corners[here, 0], sides[here, 0], pooled_width, across, width)
        y, y_share = _taps(corners[here, 1], sides[here, 1], pooled_height, down, height)
        rows = rois[here, 0].long()[:, None, None, None, None] * height + y[:, :, None, :, None]
        places = (rows * width + x[:, None, :, None, :]).flatten(3).flatten(0, 2)
        shares = (y_share[:, :, None, :, None] * x_share[:, None, :, None, :]).flatten(3).flatten(0, 2)
        found = F.embedding_bag(places, pixels, mode="sum", per_sample_weights=shares)
        output = output.index_put((here,), found.reshape(len(here), pooled_height, pooled_width, channels))
    return output.permute(0, 3, 1, 2)


def _taps(start: Tensor, side: Tensor, bins: int, each: int, size: int) -> tuple[Tensor, Tensor]:
    """Which pixels along one axis make the bins of regions `[K]`, and each one's share: `[K, bins, 2 · each]`.

    Samples lie between two pixels; a pixel outside the image and beyond they are 0.
    """
    at = start[:, None] + (torch.arange(bins * each, device=start.device).to(start) + 0.5) * side[:, None] / (bins * each)
    inside = ((at >= -1) & (at <= size)).to(at) / each
    at = at.clamp(0, size - 1)
    low = at.floor()
    pixels = torch.stack([low, (low + 1).clamp(max=size - 1)], dim=-1).long()
    shares = torch.stack([1 - (at - low), at - low], dim=-1) * inside[..., None]
    return pixels.reshape(-1, bins, 2 * each), shares.reshape(-1, bins, 2 * each)
