"""How good a ViT's [CLS] tokens are without any training: nearest neighbours, as DINO's paper judges them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resattn.attention.vit import vit_input


@torch.no_grad()
def cls_features(vit: nn.Module, images: Tensor) -> Tensor:
    """The [CLS] token after the last block, (B, D) on the CPU, for images uint8 (B, 3, H, W)."""
    device = next(vit.parameters()).device
    return torch.cat([vit(vit_input(vit, part.to(device))).cpu() for part in images.split(500)])


def knn_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, k: int = 20) -> float:
    """Accuracy of the k nearest neighbours by cosine (n, D), each voting with weight exp(similarity / 0.07)."""
    similarity, nearest = (F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T).topk(k, 1)
    votes = torch.zeros(len(queries), int(bank_labels.max()) + 1, device=queries.device)
    votes.scatter_add_(1, bank_labels[nearest], (similarity / 0.07).exp())
    return float((votes.argmax(1) == labels).float().mean())
