"""Networks of one shape that step together: one leading axis, the run, on all that they are made of."""

import copy
from collections.abc import Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of AdamW
APART = "log_scale"  # the parameter with a learning rate of its own, no decay, and a largest value:
LARGEST_LOG_SCALE = log(100)  # as in Radford et al. (2021), arXiv:2103.00020


class Stack:
    """R networks with their AdamW, none of which knows of the others.

    All weights of a run are one row of one matrix, so the optimiser, the norm of the gradient and the best weights so
    far are a few operations each, whatever the architecture. A forward pass cuts the rows into the parameters of the
    network; its backward pass puts the gradients together again.

    A single run is R = 1, and is called as the plain module that it is. More are called through `torch.func.vmap`,
    dropout drawn apart for each. On a CPU that gains nothing, as one run fills it.

    Args:
        networks: R modules of the same class and shape, in different states. They are not changed.

    Source: AdamW of Loshchilov and Hutter (2019), arXiv:1711.05101, step by step as in torch.
    """

    def __init__(self, networks: Sequence[nn.Module], device: torch.device | str = "cpu") -> None:
        self.network = copy.deepcopy(networks[0]).to(device)
        named = dict(self.network.named_parameters())
        self.groups = [[name for name in named if name != APART], [name for name in named if name == APART]]
        self.groups = [names for names in self.groups if names]
        self.shapes = {name: value.shape for name, value in named.items()}
        states = [network.state_dict() for network in networks]
        self.weights = [
            torch.stack([torch.cat([state[name].flatten() for name in names]) for state in states])
            .to(device)
            .requires_grad_()
            for names in self.groups
        ]
        self.buffers = {
            name: torch.stack([state[name] for state in states]).to(device) for name, _ in self.network.named_buffers()
        }
        self.first = [torch.zeros_like(weights) for weights in self.weights]
        self.second = [torch.zeros_like(weights) for weights in self.weights]
        self.steps = 0
        self.best = self._copy()

    def __len__(self) -> int:
        return len(self.weights[0])

    def train(self, training: bool = True) -> None:
        self.network.train(training)

    def __call__(self, *inputs: Tensor) -> Any:
        """Call every network on its own inputs, (R, ...) each; returns what they return, with the same leading axis."""
        parameters = self._parameters(self.weights)
        if len(self) == 1:
            state = {name: value[0] for name, value in (parameters | self.buffers).items()}
            outputs = functional_call(self.network, state, tuple(value[0] for value in inputs))
            return tuple(value[None] for value in outputs)

        def one(state: dict[str, Tensor], *arguments: Tensor) -> Any:
            return functional_call(self.network, state, arguments)

        return vmap(one, randomness="different")(parameters | self.buffers, *inputs)

    def step(self, rate: Tensor, decay: float, clip: float, rate_apart: float) -> None:
        """Clip each run's gradient to a norm, take one step of AdamW and forget the gradient.

        Args:
            rate: (R,) learning rate of each run.
            decay: weight decay.
            clip: largest norm of a run's whole gradient.
            rate_apart: learning rate, without decay, of what has its own.
        """
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in BETAS)
        with torch.no_grad():
            gradients = [weights.grad for weights in self.weights]
            norm = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)
            shrink = (clip / (norm + 1e-6)).clamp(max=1)[:, None]
            for place, (weights, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
                apart = self.groups[place] == [APART]
                speed = torch.full_like(rate, rate_apart)[:, None] if apart else rate[:, None]
                gradient.mul_(shrink)
                if not apart:
                    weights.mul_(1 - speed * decay)
                self.first[place].lerp_(gradient, 1 - BETAS[0])
                self.second[place].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                size = self.second[place].sqrt().div_(second**0.5).add_(EPSILON)
                weights.sub_(self.first[place].div(size).mul_(speed / first))
                if apart:
                    weights.clamp_(max=LARGEST_LOG_SCALE)
                weights.grad = None

    def remember(self, better: Tensor) -> None:
        """Keep the present weights of the runs for which ``better``, (R,) bool, is true as their best."""
        for kept, now in zip(self.best, self._copy(), strict=True):
            kept.copy_(torch.where(better.view(-1, *[1] * (now.ndim - 1)), now, kept))

    def state_dict(self, run: int) -> dict[str, Tensor]:
        """The present weights of one run, as its network's ``load_state_dict`` takes them, on the CPU."""
        return self._state_dict(self._copy(), run)

    def best_state(self, run: int) -> dict[str, Tensor]:
        """The same of its best weights so far."""
        return self._state_dict(self.best, run)

    def keep(self, runs: Tensor) -> None:
        """Go on with these rows only."""
        with torch.no_grad():
            self.weights = [weights[runs].requires_grad_() for weights in self.weights]
        self.buffers = {name: value[runs] for name, value in self.buffers.items()}
        self.first, self.second, self.best = (
            [value[runs] for value in values] for values in (self.first, self.second, self.best)
        )

    def state(self, run: int) -> dict[str, Tensor]:
        """Everything that one run needs to go on later, on the CPU."""
        return {name: value[run].detach().cpu() for name, value in self._everything().items()} | {
            "steps": torch.tensor(self.steps)
        }

    def load(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Go on where each run was when `state` was taken, all after the same number of steps."""
        self.steps = int(states[0]["steps"])
        with torch.no_grad():
            for name, value in self._everything().items():
                value.copy_(torch.stack([state[name] for state in states]))

    def _everything(self) -> dict[str, Tensor]:
        groups = {"weights": self.weights, "first": self.first, "second": self.second, "best": self.best}
        named = {f"{key}.{place}": value for key, values in groups.items() for place, value in enumerate(values)}
        return named | {f"buffer.{name}": value for name, value in self.buffers.items()}

    def _parameters(self, weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """Cut rows into parameters with a leading axis; one operation, so that its backward pass is one as well."""
        found = {}
        for names, rows in zip(self.groups, weights, strict=True):
            sizes = [self.shapes[name].numel() for name in names]
            for name, piece in zip(names, rows.split(sizes, dim=1), strict=True):
                found[name] = piece.view(len(rows), *self.shapes[name])
        return found

    def _state_dict(self, values: Sequence[Tensor], run: int) -> dict[str, Tensor]:
        weights, buffers = values[: len(self.weights)], values[len(self.weights) :]
        state = self._parameters(weights) | dict(zip(self.buffers, buffers, strict=True))
        return {name: value[run].detach().cpu().clone() for name, value in state.items()}

    def _copy(self) -> list[Tensor]:
        return [value.detach().clone() for value in (*self.weights, *self.buffers.values())]
