"""Networks by name: built-in ones and those of other packages and files."""

import importlib

from torch import nn

from mithridate.models.names import Kind, parse_name


def build_net(name: str, *, num_classes: int, channels: int, size: int) -> nn.Module:
    """Build the network `name` without its normalisation, drawing from torch's default generator."""
    parsed = parse_name(name)
    if parsed.kind is not Kind.BUILT_IN:
        raise NotImplementedError(name)
    method = importlib.import_module(f"mithridate.models.{parsed.source}").METHOD
    width = {} if parsed.width is None else {"width": parsed.width}
    net: nn.Module = method(num_classes=num_classes, channels=channels, size=size, **width)
    return net
