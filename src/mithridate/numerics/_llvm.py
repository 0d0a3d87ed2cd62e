"""Machine code at run time: LLVM as it comes in the wheel of llvmlite, and no compiler on the user's machine.

Text in LLVM's language becomes a function that Python calls without holding the interpreter lock. Where llvmlite is not
installed, `available()` is False and torch does the same work.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

Function = Callable[..., None]


@dataclass(frozen=True)
class Target:
    """The processor that code is made for.

    Attributes:
        cpu: Its name in LLVM.
        features: What it can do, in LLVM's notation.
        vector_bytes: The width of its vector registers.
        half: Whether it converts float16 itself.
    """

    cpu: str
    features: str
    vector_bytes: int
    half: bool


@cache
def _binding() -> ModuleType | None:
    try:
        binding = import_module("llvmlite.binding")
    except ImportError:
        return None
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


def available() -> bool:
    """Tell whether llvmlite is installed."""
    return _binding() is not None


@cache
def target() -> Target:
    """Return this machine's processor."""
    binding = _binding()
    assert binding is not None
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know the features of every platform
        return Target(binding.get_host_cpu_name(), "", 16, half=False)
    width = 64 if features.get("avx512f") else 32 if features.get("avx2") else 16
    half = bool(features.get("f16c") or features.get("neon") or features.get("fullfp16"))
    return Target(binding.get_host_cpu_name(), features.flatten(), width, half)


_LOCK = threading.Lock()
_ENGINES: list[object] = []
"""Code lives as long as its engine."""


def compiled(text: str, name: str, arguments: str) -> Function:
    """Return a function of LLVM text.

    Args:
        text: The module.
        name: Its function, which returns nothing.
        arguments: One letter each: p for an address, i for a 64-bit integer.
    """
    binding = _binding()
    assert binding is not None
    kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int64}
    with _LOCK:
        module = binding.parse_assembly(text)
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=target().cpu, features=target().features, opt=2
        )
        engine = binding.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        _ENGINES.append(engine)
        address = engine.get_function_address(name)
    return ctypes.CFUNCTYPE(None, *[kinds[letter] for letter in arguments])(address)


def addresses(tensors: Sequence[torch.Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Return the addresses of the tensors' first elements, to be kept as long as they are used."""
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Call `work(0)` to `work(count - 1)`, with as many threads as torch uses."""
    workers = max(1, min(torch.get_num_threads(), count))
    failures: list[Exception] = []

    def share(first: int) -> None:
        try:
            for index in range(first, count, workers):
                work(index)
        except (RuntimeError, ValueError, TypeError) as error:
            failures.append(error)

    threads = [threading.Thread(target=share, args=(first,)) for first in range(1, workers)]
    for thread in threads:
        thread.start()
    share(0)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
