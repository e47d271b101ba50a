"""Networks of segmentation-models-pytorch: ``DECODER/ENCODER``, e.g. ``unet/tu-mobilenetv3_small_100``.

An encoder ``tu-NAME`` is timm's network NAME; any other is the library's own (``resnet34``). Nothing is downloaded.

The library's decoders are as wide for every encoder (256 to 16 channels of a U-Net), which in a small network is most
of the work. Here, unless the arguments say otherwise, a decoder follows its encoder, c_s the encoder's channels at
1/s of the input's size, ⌈ ⌉_m rounded up to a multiple of m:

    unet, unetplusplus, manet        ⌈c_16⌉_16, ⌈c_8⌉_16, ⌈c_4⌉_16, ⌈c_2⌉_16, 16     a block is as wide as its skip
    fpn                              pyramid ⌈c_16⌉_32, segmentation ⌈c_16 / 2⌉_32    (its group norm has 32 groups)
    deeplabv3plus, segformer, upernet    ⌈c_16⌉_32
    linknet                          the library's own, which follows the encoder

none of them wider than 256 (the library's widest).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from medfm_compress.compress.networks import timm_networks
from medfm_compress.compress.networks.architecture import Architecture, Wanted
from medfm_compress.compress.networks.similar_names import resembling
from medfm_compress.runtime.errors import MissingDependency, ModelError

IS_DENSE = True
TIMM_ENCODER = "tu-"
HEAD = "segmentation_head."
ENCODER = "encoder."
_WIDEST = 256
# What would download, change what the outputs mean or how large they are, or is not a network's own.
_REFUSED = frozenset({"self", "encoder_weights", "activation", "aux_params", "kwargs", "upsampling"})

Widths = Callable[[Sequence[int]], dict[str, Any]]


def _round_up(width: float, step: int) -> int:
    return min(_WIDEST, step * max(1, -(-int(width) // step)))


def _as_the_skips(channels: Sequence[int]) -> dict[str, Any]:
    """``channels`` of the encoder, input first."""
    return {"decoder_channels": [*(_round_up(width, 16) for width in channels[-2:0:-1]), 16]}


def _pyramid(channels: Sequence[int]) -> dict[str, Any]:
    width = channels[-2]
    return {
        "decoder_pyramid_channels": _round_up(width, 32),
        "decoder_segmentation_channels": _round_up(width / 2, 32),
    }


def _one(argument: str) -> Widths:
    return lambda channels: {argument: _round_up(channels[-2], 32)}


_DECODERS: Mapping[str, tuple[str, Widths]] = MappingProxyType(
    {
        "unet": ("Unet", _as_the_skips),
        "unetplusplus": ("UnetPlusPlus", _as_the_skips),
        "manet": ("MAnet", _as_the_skips),
        "linknet": ("Linknet", lambda _: {}),
        "fpn": ("FPN", _pyramid),
        "deeplabv3plus": ("DeepLabV3Plus", _one("decoder_channels")),
        "segformer": ("Segformer", _one("decoder_segmentation_channels")),
        "upernet": ("UPerNet", _one("decoder_channels")),
    }
)
DECODERS = tuple(_DECODERS)


def check_name(name: str) -> None:
    """Whether there are such a decoder and such an encoder.

    Raises:
        ModelError: there are not; near names are said.
    """
    decoder, slash, encoder = name.partition("/")
    check_decoder(decoder)
    if not slash or not encoder:
        raise ModelError(f"smp:{name} names no encoder; give e.g. smp:{decoder}/tu-mobilenetv3_small_100")
    _check_encoder(encoder)


def check_decoder(decoder: str) -> None:
    """Raises ModelError where there is no such decoder."""
    if decoder not in _DECODERS:
        raise ModelError(f"segmentation-models-pytorch's {decoder!r} is not built; allowed are {', '.join(_DECODERS)}")


def draft(name: str, wanted: Wanted) -> Architecture:
    """The network with as many channels and maps as are wanted, its decoder as wide as its encoder asks for.

    Raises:
        ModelError: an unknown name, or arguments that the network does not take.
    """
    check_name(name)
    decoder, _, encoder = name.partition("/")
    arguments = {"encoder_name": encoder, "in_channels": wanted.channels, "classes": wanted.outputs}
    probe = create(Architecture(library="smp", name=decoder, arguments=arguments | _without_widths(wanted.arguments)))
    widths = _DECODERS[decoder][1](probe.encoder.out_channels)  # type: ignore[union-attr,arg-type]
    return Architecture(library="smp", name=decoder, arguments={**arguments, **widths, **wanted.arguments})


def _without_widths(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that shape the encoder: a decoder of the wanted widths comes after its channels are known."""
    return {name: value for name, value in arguments.items() if name.startswith("encoder_")}


def create(architecture: Architecture) -> nn.Module:
    """Build an untrained module.

    Raises:
        ModelError: an unknown name, or arguments that the network does not take.
        MissingDependency: the library is not installed.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as exc:
        raise MissingDependency(
            f"smp:{architecture.name} needs its library ({exc}): pip install segmentation-models-pytorch"
        ) from None
    check_decoder(architecture.name)
    make = getattr(smp, _DECODERS[architecture.name][0])
    _check_arguments(architecture, inspect.signature(make.__init__).parameters)
    try:
        module: nn.Module = make(**{**architecture.arguments, "encoder_weights": None})
    except ModelError:
        raise
    except Exception as exc:  # noqa: BLE001 -- a constructor raises what it likes
        raise ModelError(
            f"smp:{architecture.name} cannot be built with {architecture.arguments}: {_first_line(exc)}"
        ) from None
    return module


def _check_arguments(architecture: Architecture, known: Mapping[str, Any]) -> None:
    allowed = sorted(known.keys() - _REFUSED)
    for name, value in architecture.arguments.items():
        if name not in allowed and not (name in _REFUSED and value is None):
            raise ModelError(
                f"smp:{architecture.name} takes no argument {name!r} here; allowed are {', '.join(allowed)}"
            )
    _check_encoder(str(architecture.arguments.get("encoder_name", "resnet34")))


def _check_encoder(encoder: str) -> None:
    if encoder.startswith(TIMM_ENCODER):
        if ":" in encoder:  # timm would ask a hub
            raise ModelError(f"encoder {encoder!r} is no timm name; give tu-NAME, and weights as a file")
        timm_networks.check_name(encoder.removeprefix(TIMM_ENCODER))
        return
    from segmentation_models_pytorch.encoders import get_encoder_names

    names = get_encoder_names()
    if encoder not in names:
        near = ", ".join([*resembling(encoder, names), f"{TIMM_ENCODER}NAME for timm's"])
        raise ModelError(f"segmentation-models-pytorch has no encoder {encoder!r}; near it: {near}")


def published(module: nn.Module) -> Mapping[str, Any]:
    """Mean and standard deviation of the timm encoder; ImageNet's for another."""
    configuration = getattr(getattr(module.encoder, "model", None), "pretrained_cfg", None) or {}
    return {name: configuration[name] for name in ("mean", "std", "interpolation") if configuration.get(name)}


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
