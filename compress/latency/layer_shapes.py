"""What each layer of a network is asked to do at one image: its widths and the size of what it works on.

Read from one forward pass, so that it holds for any network that runs. A layer that no width changes (a pooling, an
activation) is not listed. Widths are those that `units.Member.size` counts; a layer with one width only (a
normalisation, a depthwise convolution, the heads of an attention) has an input width of 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
import torch
from torch import nn

from medfm_compress.compress.networks import inputs
from medfm_compress.compress.networks.attention_layers import Attention

Kind = Literal["conv", "transposed", "depthwise", "linear", "attention", "norm"]
Pair = tuple[int, int]
_ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")
_PACKED = 3  # queries, keys and values, which the export writes as layers of their own


class LayerCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer, and what it works on.

    Attributes:
        kind: ``attention`` is what lies between the packed projection and the output projection; ``norm`` anything
            with one weight a channel.
        inputs: input width; 1 where the layer has one width only.
        outputs: output width; heads of an attention.
        elements: numbers that come out of it.
        batch: images, or windows of one.
        rows: tokens of all images that a linear layer sees; tokens of one image or window for an attention.
        size: height and width in px of what a convolution reads.
        kernel: height and width.
        stride: down and to the right.
        padding: top, left, bottom, right.
        output_padding: of a transposed convolution, down and to the right.
        dilation: down and to the right.
        groups: of a convolution that is not depthwise.
        head_dim: width of one head's value.
        key_dim: width of one head's query and of its key.
        image: the attention's tokens are pixels with their channels in front (CoAtNet), not behind.
        biased: the attention adds a table of positions to its scores.
        activated: what comes out goes straight into an activation function.
        split: the export writes the layer as so many of equal width, on the same input.
        times: how often the network calls it.
    """

    kind: Kind
    inputs: int
    outputs: int
    elements: int = 0
    batch: int = 1
    rows: int = 1
    size: Pair = (1, 1)
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    head_dim: int = 0
    key_dim: int = 0
    image: bool = False
    biased: bool = False
    activated: bool = False
    split: int = 1
    times: int = 1

    def at(self, inputs: int, outputs: int) -> LayerCall:
        """One of the layers that this one is written as, at other widths, as it is timed: called once.

        Args:
            inputs: width, >= 1.
            outputs: width of that one layer, >= 1.
        """
        return msgspec.structs.replace(
            self, inputs=inputs, outputs=outputs, elements=0, activated=False, split=1, times=1
        )


def layer_calls(module: nn.Module, example: torch.Tensor, attentions: Sequence[Attention]) -> dict[str, LayerCall]:
    """Module name → what it is asked to do, in the order of the first calls.

    Args:
        module: run once in evaluation mode; left as it was.
        example: float32 ``[1, channels, height, width]`` on the module's device.
        attentions: those of `heads.find_attentions`.

    A layer that is called several times is counted so, with the sizes of its last call.
    """
    calls: dict[str, LayerCall] = {}
    last = _Last()
    known = {attention.name: attention for attention in attentions}
    packed = {f"{name}.qkv" for name, attention in known.items() if len(set(attention.parts)) == 1}
    hooks = []
    for name, part in module.named_modules():
        describe = partial(_attention, known[name]) if name in known else _description_of(part)
        if describe is not None:
            hooks.append(part.register_forward_hook(_Listener(name, describe, calls, last, split=name in packed)))
        elif type(part).__module__ in _ACTIVATIONS:
            hooks.append(part.register_forward_pre_hook(partial(_activated, calls, last)))
    training = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            module.eval()(inputs.example(module, example))
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in training.items():
            part.training = mode
    return calls


Describe = Callable[[Any, torch.Tensor, torch.Tensor], LayerCall]


class _Last:
    """The layer that was called last, and what came out of it."""

    name: str = ""
    result: torch.Tensor | None = None


def _activated(calls: dict[str, LayerCall], last: _Last, _: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A hook before an activation: says so of the layer that its input comes from."""
    if inputs and inputs[0] is last.result:
        calls[last.name] = msgspec.structs.replace(calls[last.name], activated=True)


class _Listener:
    """A forward hook that writes down what one layer was asked to do."""

    def __init__(self, name: str, describe: Describe, calls: dict[str, LayerCall], last: _Last, *, split: bool) -> None:
        self._name, self._describe, self._calls, self._last = name, describe, calls, last
        self._split = _PACKED if split else 1

    def __call__(self, part: nn.Module, inputs: tuple[Any, ...], result: Any) -> None:
        if not (inputs and isinstance(inputs[0], torch.Tensor) and isinstance(result, torch.Tensor)):
            return
        before = self._calls.get(self._name)
        call = self._describe(part, inputs[0], result)
        times = before.times + 1 if before else 1
        self._calls[self._name] = msgspec.structs.replace(call, elements=result.numel(), split=self._split, times=times)
        self._last.name, self._last.result = self._name, result


def _description_of(part: nn.Module) -> Describe | None:
    if isinstance(part, nn.Conv2d):
        return _conv
    if isinstance(part, nn.ConvTranspose2d):
        return _transposed
    if isinstance(part, nn.Linear):
        return _linear
    weight = getattr(part, "weight", None)
    one_each = isinstance(weight, torch.Tensor) and weight.ndim == 1
    return _norm if one_each and not any(list(child.parameters()) for child in part.children()) else None


def _conv(part: nn.Conv2d, image: torch.Tensor, result: torch.Tensor) -> LayerCall:
    depthwise = part.groups > 1 and part.groups == part.in_channels == part.out_channels
    sizes = [
        _padding(image.shape[2 + i], result.shape[2 + i], part.kernel_size[i], part.stride[i], part.dilation[i])
        for i in range(2)
    ]
    own = [] if isinstance(part.padding, str) else [(int(pad), int(pad)) for pad in part.padding]
    (top, bottom), (left, right) = own if own and _explains(own, part, image, result) else sizes
    return LayerCall(
        kind="depthwise" if depthwise else "conv",
        inputs=1 if depthwise else part.in_channels,
        outputs=part.out_channels,
        batch=image.shape[0],
        size=(image.shape[2], image.shape[3]),
        kernel=(part.kernel_size[0], part.kernel_size[1]),
        stride=(part.stride[0], part.stride[1]),
        padding=(top, left, bottom, right),
        dilation=(part.dilation[0], part.dilation[1]),
        groups=1 if depthwise else part.groups,
    )


def _transposed(part: nn.ConvTranspose2d, image: torch.Tensor, _: torch.Tensor) -> LayerCall:
    down, right = (int(pad) for pad in part.padding)
    return LayerCall(
        kind="transposed",
        inputs=part.in_channels,
        outputs=part.out_channels,
        batch=image.shape[0],
        size=(image.shape[2], image.shape[3]),
        kernel=(part.kernel_size[0], part.kernel_size[1]),
        stride=(part.stride[0], part.stride[1]),
        padding=(down, right, down, right),
        output_padding=(part.output_padding[0], part.output_padding[1]),
        dilation=(part.dilation[0], part.dilation[1]),
        groups=part.groups,
    )


def _explains(own: list[Pair], part: nn.Conv2d, image: torch.Tensor, result: torch.Tensor) -> bool:
    """Whether a convolution's own padding gives the size that came out; else its forward pass pads by itself."""
    for i, (before, after) in enumerate(own):
        covered = part.dilation[i] * (part.kernel_size[i] - 1) + 1
        if (image.shape[2 + i] + before + after - covered) // part.stride[i] + 1 != result.shape[2 + i]:
            return False
    return True


def _padding(before: int, after: int, kernel: int, stride: int, dilation: int) -> Pair:
    """Padding of one axis that gives ``after`` from ``before``, as equal as can be, the end first."""
    total = max((after - 1) * stride + dilation * (kernel - 1) + 1 - before, 0)
    return total // 2, total - total // 2


def _linear(part: nn.Linear, tokens: torch.Tensor, _: torch.Tensor) -> LayerCall:
    rows = tokens.numel() // part.in_features
    return LayerCall(kind="linear", inputs=part.in_features, outputs=part.out_features, rows=rows)


def _norm(part: Any, *_: torch.Tensor) -> LayerCall:
    return LayerCall(kind="norm", inputs=1, outputs=part.weight.numel())


def _attention(attention: Attention, part: Any, tokens: torch.Tensor, _: torch.Tensor) -> LayerCall:
    image = isinstance(getattr(part, "qkv", None), nn.Conv2d)
    positions = tokens.shape[2:] if image else tokens.shape[1:-1]
    return LayerCall(
        kind="attention",
        inputs=1,
        outputs=attention.heads,
        batch=tokens.shape[0],
        rows=math.prod(positions),
        size=(tokens.shape[2], tokens.shape[3]) if image else (1, 1),
        head_dim=attention.head_dim,
        key_dim=attention.parts[0],
        image=image,
        biased=bool(attention.table),
    )
