# SPDX-License-Identifier: Apache-2.0
"""llama.cpp as a provider: its samplers' C functions, from the library that the package llama_cpp brings.

A call fills the array of candidates from the logits and applies the samplers of a configuration, row by row.
The package itself is not imported. Structs and functions: llama.h.
"""

from __future__ import annotations

import ctypes
import functools
from importlib import util
from pathlib import Path

import torch
from torch import Tensor

from . import cases, floors
from .cases import Case
from .provider import COMMON, Calls, Provider


class LlamaCpp(Provider):
    name, title = "llama.cpp", "llama.cpp's samplers (C), candidates filled"
    module, distribution = "llama_cpp", "llama-cpp-python"
    install = "pip install llama-cpp-python (it compiles llama.cpp, for a quarter of an hour)"
    configs, dtypes, one_thread = COMMON, ("float32",), True
    deviations = (
        "its programs apply the temperature last, so that filters see T = 1; here first, as in the law",
        "top-k keeps exactly k, top-p cuts in the order of its sort: which of several ties, the sort decides",
        "T <= 0 keeps the largest logit, and sets all others to -inf",
        "top-p keeps up to the first float32 running sum >= p, over probabilities rounded to float32",
    )

    def missing(self) -> str | None:
        said = super().missing()
        if said is None and library_file() is None:
            said = f"{self.name}: llama_cpp has no lib/libllama: {self.install}"
        if said is None:
            try:
                fill_library()
            except RuntimeError as error:  # no compiler
                said = f"{self.name}: {error}"
        return said

    def calls(self, case: Case, logits: Tensor) -> Calls:
        return [Draws(case.config, logits)]


class TokenData(ctypes.Structure):
    """llama_token_data."""

    _fields_ = (("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float))


class TokenDataArray(ctypes.Structure):
    """llama_token_data_array."""

    _fields_ = (
        ("data", ctypes.POINTER(TokenData)),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    )


def chain(config: str, seed: int = 5) -> list[tuple[str, list]]:
    """Each sampler's C function with its arguments; `dist` draws. One token at least is kept."""
    settings = cases.CONFIGS[config]
    if settings.get("temperature") == 0:
        return [("greedy", [])]
    out: list[tuple[str, list]] = []
    if "temperature" in settings:
        out.append(("temp", [ctypes.c_float(settings["temperature"])]))
    if "top_k" in settings:
        out.append(("top_k", [ctypes.c_int32(settings["top_k"])]))
    for name in ("top_p", "min_p"):
        if name in settings:
            out.append((name, [ctypes.c_float(settings[name]), ctypes.c_size_t(1)]))
    return [*out, ("dist", [ctypes.c_uint32(seed)])]


class Draws:
    """Of all rows of `logits` [B, V] float32; `draw` is of one row: the first, or the one at an address."""

    def __init__(self, config: str, logits: Tensor, samplers: list[tuple[str, list]] | None = None):
        lib = library()
        self.samplers = []
        for name, arguments in chain(config) if samplers is None else samplers:
            make = getattr(lib, f"llama_sampler_init_{name}")
            make.restype = ctypes.c_void_p
            self.samplers.append(ctypes.c_void_p(make(*arguments)))
        self.free = lib.llama_sampler_free
        self.vocab, self.logits = logits.shape[1], logits.contiguous()
        self.rows = [row.data_ptr() for row in self.logits]
        self.work = (TokenData * self.vocab)()
        self.array = TokenDataArray()
        self.array.data = ctypes.cast(self.work, ctypes.POINTER(TokenData))
        self.pointer = ctypes.byref(self.array)
        self.apply, self.fill_from = lib.llama_sampler_apply, fill_library().llama_fill
        self.apply.restype = None

    def __call__(self) -> Tensor:
        return torch.tensor([self.draw(row) for row in self.rows])

    def draw(self, row: int | None = None) -> int:
        self.fill(row)
        for sampler in self.samplers:
            self.apply(sampler, self.pointer)
        return self.array.data[self.array.selected].id

    def fill(self, row: int | None = None) -> None:
        self.fill_from(self.work, self.rows[0] if row is None else row, self.vocab)
        array = self.array
        array.size, array.selected, array.sorted = self.vocab, -1, False

    def __del__(self) -> None:
        for sampler in self.samplers:
            self.free(sampler)


def library_file() -> Path | None:
    spec = util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    found = sorted((Path(spec.origin).parent / "lib").glob("libllama.*"))
    return found[0] if found else None


@functools.cache
def library() -> ctypes.CDLL:
    """libllama, after what it needs."""
    path = library_file()
    if path is None:
        raise RuntimeError("llama: no libllama: see LlamaCpp.missing")
    for name in ("libggml-base", "libggml-cpu", "libggml"):
        for needed in path.parent.glob(f"{name}.*"):
            ctypes.CDLL(str(needed), mode=ctypes.RTLD_GLOBAL)
    lib = ctypes.CDLL(str(path))
    lib.llama_sampler_free.argtypes, lib.llama_sampler_free.restype = [ctypes.c_void_p], None
    return lib


@functools.cache
def fill_library() -> ctypes.CDLL:
    lib = floors.compile_library("llama_fill")
    lib.llama_fill.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    lib.llama_fill.restype = None
    return lib
