r"""Fit what is left of a layer's weights to the outputs that the whole layer had, in closed form, without labels.

A linear layer or convolution gives  y = W x + b,  x its inputs (for a convolution the patch under the kernel). With
mean m and covariance C of x over the cases, and inputs K kept, G gone, the weights that come nearest to y in the mean
square are those of the linear regression of x_G on x_K,

    W' = W_K + W_G C_GK (C_KK + λ I)^-1          b' = b + W m - W' m_K

with λ a hundredth of the mean variance. Where a layer has no bias, moments about zero take the place of C, and b' falls
away. With P = (C + λ I)^-1 the product C_GK (C_KK + λ I)^-1 is also −(P_GG)^-1 P_GK (OBS), which is quick where little
is gone: P is computed once a layer. A channel that others can stand in for costs nothing then. (He et al. 2017,
"Channel Pruning for Accelerating Very Deep Neural Networks", eq. 3 without the choice of channels; Hassibi & Stork
1993, OBS.)

Normalisations that follow the cut have running statistics of the whole network; `recalibrate` measures them anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfm_compress.compress.pruning.apply import Cut
from medfm_compress.compress.pruning.channel_groups import ChannelGroup
from medfm_compress.compress.pruning.importance import Batch

DAMPING = 0.01
MAX_INPUTS = 4608  # a square matrix of them in float32 takes 85 MB
_ROWS_A_CASE = 16  # positions of a map or tokens that are looked at


class _Moments:
    """Of a layer's inputs, before it was cut.

    Attributes:
        weight: of the whole layer, ``[outputs, inputs, kernel]``.
        mean: ``[inputs * kernel]``.
        damped: ``[inputs * kernel, inputs * kernel]``, C + λ I.
    """

    def __init__(self, weight: Tensor, second: Tensor, mean: Tensor, *, centred: bool) -> None:
        self.weight, self.mean = weight, mean
        self.damped = second - torch.outer(mean, mean) if centred else second
        diagonal = self.damped.diagonal()
        diagonal.add_(DAMPING * diagonal.mean() + torch.finfo(second.dtype).tiny)
        self._inverse: Tensor | None = None

    def stand_in(self, kept: Tensor, lost: Tensor) -> Tensor | None:
        """Coefficients float32 ``[kept, lost]`` of the regression of what is lost on what is kept; None if it fails."""
        if len(lost) > len(kept):
            factor, failed = torch.linalg.cholesky_ex(self.damped[kept][:, kept].double())
            return None if failed else torch.cholesky_solve(self.damped[kept][:, lost].double(), factor).float()
        inverse = self._inverted()
        if inverse is None:
            return None
        factor, failed = torch.linalg.cholesky_ex(inverse[lost][:, lost].double())
        return None if failed else -torch.cholesky_solve(inverse[lost][:, kept].double(), factor).T.float()

    def _inverted(self) -> Tensor | None:
        if self._inverse is None:
            factor, failed = torch.linalg.cholesky_ex(self.damped.double())
            self._inverse = torch.empty(0) if failed else torch.cholesky_inverse(factor).float()
        return self._inverse if self._inverse.numel() else None


class Reconstruction:
    """Moments of the inputs of every layer that groups cut at its inputs."""

    def __init__(self, module: nn.Module, groups: Sequence[ChannelGroup], batches: Iterable[Batch]) -> None:
        """Gather them on ``batches`` of cases; ``module`` is in evaluation mode and not changed."""
        names = {member.layer for group in groups for member in group.members if member.side == "in"}
        layers = {name: part for name in sorted(names) if _fits(part := module.get_submodule(name))}
        sums = {name: _Sums(part) for name, part in layers.items()}
        hooks = [layers[name].register_forward_pre_hook(sums[name]) for name in layers]
        device = next(module.parameters()).device
        try:
            with torch.no_grad():
                for images, _ in batches:
                    module(images.to(device))
        finally:
            for hook in hooks:
                hook.remove()
        self._moments = {name: total.moments() for name, total in sums.items() if total.rows}

    @torch.no_grad()
    def repair(self, module: nn.Module, cut: Cut) -> None:
        """Fit the layers of ``module`` that ``cut`` took inputs from, in place; their tensors are replaced."""
        for (name, side), gone in cut.items():
            if side == "in" and name in self._moments and _has(module, name):
                self._fit(module.get_submodule(name), self._moments[name], gone, cut.get((name, "out"), ()))

    def _fit(self, part: nn.Module, moments: _Moments, gone: Sequence[int], outputs_gone: Sequence[int]) -> None:
        outputs, inputs, kernel = moments.weight.shape
        rows = _others(outputs, outputs_gone)
        kept, lost = (_spread(channels, kernel) for channels in (_others(inputs, gone), torch.tensor(gone)))
        bias = getattr(part, "bias", None)
        weight = moments.weight[rows].flatten(1)
        stand_in = moments.stand_in(kept, lost)
        if stand_in is None:
            return
        fitted = weight[:, kept] + weight[:, lost] @ stand_in.T
        old: nn.Parameter = part.weight  # type: ignore[assignment]
        part.weight = nn.Parameter(fitted.reshape(old.shape).to(old), old.requires_grad)
        if bias is not None:
            shift = weight @ moments.mean - fitted @ moments.mean[kept]
            part.bias = nn.Parameter(bias + shift.to(bias), bias.requires_grad)


class _Sums:
    """A forward pre-hook that adds up the first two moments of a layer's inputs."""

    def __init__(self, part: nn.Module) -> None:
        self.part, self.rows = part, 0
        self.second = self.mean = torch.zeros(())

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = _rows(self.part, inputs[0].detach().float())
        self.second = self.second + rows.T @ rows if self.rows == 0 else self.second.addmm_(rows.T, rows)
        self.mean = self.mean + rows.sum(0)
        self.rows += len(rows)

    def moments(self) -> _Moments:
        weight: Tensor = self.part.weight.detach()  # type: ignore[operator]
        shaped = weight.flatten(2) if weight.ndim > 2 else weight[:, :, None]
        centred = getattr(self.part, "bias", None) is not None
        return _Moments(shaped, self.second / self.rows, self.mean / self.rows, centred=centred)


def _fits(part: nn.Module) -> bool:
    if isinstance(part, nn.Linear):
        return part.in_features <= MAX_INPUTS
    if not isinstance(part, nn.Conv2d) or part.groups != 1 or isinstance(part.padding, str):
        return False
    return part.padding_mode == "zeros" and part.in_channels * part.kernel_size[0] * part.kernel_size[1] <= MAX_INPUTS


def _has(module: nn.Module, name: str) -> bool:
    """Whether the layer is still there: it may lie in a block that was dropped."""
    try:
        module.get_submodule(name)
    except AttributeError:
        return False
    return True


def _rows(part: nn.Module, x: Tensor) -> Tensor:
    """What the layer multiplies, one row an output position ``[n, inputs * kernel]``; at most so many a case."""
    if isinstance(part, nn.Conv2d):
        padding: tuple[int, int] = part.padding  # type: ignore[assignment]
        patches = functional.unfold(x, part.kernel_size, part.dilation, padding, part.stride)
        x = patches.transpose(1, 2)
    x = x.reshape(len(x), -1, x.shape[-1])
    every = -(-x.shape[1] // _ROWS_A_CASE)
    return x[:, ::every].flatten(0, 1)


def _others(count: int, gone: Sequence[int]) -> Tensor:
    without = set(gone)
    return torch.tensor([i for i in range(count) if i not in without])


def _spread(channels: Tensor, kernel: int) -> Tensor:
    """Positions of ``channels`` where each takes ``kernel`` of them."""
    return (channels[:, None] * kernel + torch.arange(kernel)).flatten()


def recalibrate(module: nn.Module, batches: Iterable[Batch]) -> None:
    """Measure the running statistics of every BatchNorm anew, in place; a network without any is left as it is.

    (Li et al. 2020, "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning".)
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    device = next(module.parameters()).device
    try:
        with torch.no_grad():
            for images, _ in batches:
                module(images.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
