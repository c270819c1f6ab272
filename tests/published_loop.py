"""The published training loop, written from its description, for tests and benchmarks: the slow twin of `train_run`."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.utils.data import DataLoader, Dataset, random_split

from tests.published_nice import PublishedNice

BATCH, VALIDATION_BATCH, HELD_OUT = 128, 64, 0.1
TEMPERATURE, DECAY, CLIP = 0.04, 0.1, 1.0
PERIOD, LOWEST_RATE = 10, 1e-7  # of the schedule


class Shown(Dataset):
    """One item an image: the repetitions treated and averaged anew each time, the embedding read from its own file.

    Args:
        responses: (images, repetitions, channels, times).
        files: one .npy an image.
        dtype: of the items, and with them of all that follows.
    """

    def __init__(
        self, responses: NDArray[np.float32], files: Sequence[Path], dtype: torch.dtype = torch.float32
    ) -> None:
        self.responses, self.files, self.dtype = responses, files, dtype

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, image: int) -> tuple[Tensor, Tensor]:
        trials = self.responses[image].astype(np.float64)
        norm = np.sqrt((trials**2).sum(axis=-1, keepdims=True))  # of the signal before it is centred
        trials = (trials - trials.mean(axis=-1, keepdims=True)) / norm
        response, embedding = trials.mean(axis=0), np.load(self.files[image])
        return torch.from_numpy(response).to(self.dtype), torch.from_numpy(embedding).to(self.dtype)


def write_embeddings(folder: Path, embeddings: NDArray[np.float64]) -> list[Path]:
    """One .npy an image, float32."""
    folder.mkdir(parents=True)
    files = [folder / f"{image:05d}.npy" for image in range(len(embeddings))]
    for file, embedding in zip(files, embeddings, strict=True):
        np.save(file, embedding.astype(np.float32))
    return files


def treated(vectors: Tensor) -> Tensor:
    centred = vectors - vectors.mean(dim=1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True)


def contrast(brain: Tensor, image: Tensor) -> Tensor:
    """Symmetric InfoNCE at a fixed temperature, both sides centred and of length one."""
    logits, right = treated(brain) @ treated(image).T / TEMPERATURE, torch.arange(len(brain))
    return (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2


def make_optimizer(encoder: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(encoder.parameters(), lr=rate, weight_decay=DECAY)


def train_epoch(encoder: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> float:
    """Take one step a batch; returns the mean loss."""
    encoder.train()
    losses = []
    for responses, embeddings in loader:
        loss = contrast(encoder(responses), embeddings)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def held_out_loss(encoder: nn.Module, loader: DataLoader) -> float:
    encoder.eval()
    losses = [contrast(encoder(responses), embeddings).item() for responses, embeddings in loader]
    return sum(losses) / len(losses)


def published_fit(shown: Shown, *, rate: float, epochs: int, seed: int) -> nn.Module:
    """Train NICE and leave it with the weights of the lowest held-out loss.

    The schedule is handed the held-out loss where it expects the number of the epoch, as published. Their patience of
    30 epochs is left out, as is mixed precision.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    train, held_out = random_split(shown, [1 - HELD_OUT, HELD_OUT], generator)
    loader = DataLoader(train, BATCH, shuffle=True, drop_last=True, generator=generator)
    validation = DataLoader(held_out, VALIDATION_BATCH)
    response, embedding = shown[0]
    encoder = PublishedNice(*response.shape, len(embedding)).to(response.dtype)
    optimizer = make_optimizer(encoder, rate)
    schedule = CosineAnnealingWarmRestarts(optimizer, PERIOD, eta_min=LOWEST_RATE)
    best, weights = float("inf"), encoder.state_dict()
    for _ in range(epochs):
        train_epoch(encoder, loader, optimizer)
        loss = held_out_loss(encoder, validation)
        schedule.step(loss)
        if loss < best:
            best, weights = loss, copy.deepcopy(encoder.state_dict())
    encoder.load_state_dict(weights)
    return encoder


@torch.no_grad()
def published_top1(encoder: nn.Module, shown: Shown) -> float:
    """Share of responses whose own picture is the most similar of all that were shown."""
    encoder.eval()
    responses, embeddings = next(iter(DataLoader(shown, len(shown))))
    named = (treated(encoder(responses)) @ treated(embeddings).T).argmax(dim=1)
    return (named == torch.arange(len(shown))).double().mean().item()
