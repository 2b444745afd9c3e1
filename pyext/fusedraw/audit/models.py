# SPDX-License-Identifier: Apache-2.0
"""Models under audit, offline: a folder of Hugging Face's, a GGUF file, or the packaged SmolLM2.

Logits and ids only: tokens in, one row of logits per prompt out, drawn from by fusedraw.transformers.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import _model
from .plan import AuditError

EMBEDDED = "embedded"
# Ends of a turn that a tokenizer may have besides its eos_token.
ENDS_OF_TURN = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>")
_HEAD = 1 << 20  # bytes of a weight file that its digest reads at either end


@dataclass
class Loaded:
    """A model, its tokenizer, and copies of it in other dtypes, made when first asked for."""

    name: str
    kind: str  # huggingface, gguf, embedded
    tokenizer: Any
    digest: str
    _copies: dict[tuple[str, str], Any] = field(default_factory=dict)

    def model(self, dtype: str = "float32", device: str = "cpu") -> Any:
        """In eval mode. Another dtype or device is a copy, which stays: conditions come in turn."""
        if (dtype, device) not in self._copies:
            first = next(iter(self._copies.values()))
            made = copy.deepcopy(first) if first.device.type == "cpu" else first
            self._copies[dtype, device] = made.to(device=device, dtype=getattr(torch, dtype)).eval()
        return self._copies[dtype, device]

    @property
    def vocab(self) -> int:
        return int(self.model().config.get_text_config().vocab_size)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model().parameters())

    @property
    def context(self) -> int:
        return int(getattr(self.model().config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)

    def ids_of(self, text: str, chat: bool) -> list[int]:
        """Token ids of a prompt, in the chat template where there is one and `chat` asks for it."""
        if chat and getattr(self.tokenizer, "chat_template", None):
            message = [{"role": "user", "content": text}]
            text = self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.tokenizer(text)["input_ids"]

    def text_of(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def pieces_of(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; what is not a whole character is shown as such."""
        return [self.tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids]

    def ends(self) -> list[int]:
        """Ids that end an output."""
        own = self.model().generation_config.eos_token_id
        found = set(own if isinstance(own, list) else [] if own is None else [own])
        if self.tokenizer.eos_token_id is not None:
            found.add(self.tokenizer.eos_token_id)
        vocabulary = self.tokenizer.get_vocab()
        found |= {vocabulary[token] for token in ENDS_OF_TURN if token in vocabulary}
        return sorted(int(i) for i in found)

    def pad(self) -> int:
        if self.tokenizer.pad_token_id is not None:
            return int(self.tokenizer.pad_token_id)
        return (self.ends() or [0])[0]

    def logits_of(self, prompts: Sequence[Sequence[int]], dtype="float32", device="cpu") -> torch.Tensor:
        """[N, V] float32 on the CPU: the row after the last token of each prompt."""
        ids, attended = self.padded(prompts)
        positions = (attended.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            out = self.model(dtype, device)(
                input_ids=ids.to(device),
                attention_mask=attended.to(device),
                position_ids=positions.to(device),
                logits_to_keep=1,
            )
        return out.logits[:, -1].float().cpu()

    def logits_along(self, ids: Sequence[int]) -> torch.Tensor:
        """[n, V] float32: row i is the law of what follows ids[: i + 1]."""
        with torch.inference_mode():
            return self.model()(input_ids=torch.tensor([list(ids)])).logits[0].float()

    def padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, attention mask), int64 [N, width], padded on the left."""
        return _model.padded(prompts, self.pad())


def missing() -> str | None:
    """None, or what is missing to load any model and what to type."""
    absent = [name for name in ("transformers",) if not _model.is_installed(name)]
    return f"{', '.join(absent)} is missing: pip install transformers accelerate" if absent else None


def check_source(source: str | None) -> None:
    """AuditError if no model can be there; nothing is loaded."""
    if source is None:
        lacking = _model.missing_for_model()
        if lacking:
            lacking = lacking.replace("(or run the demo with --no-model)", "(or name a model)")
            raise AuditError(lacking)
        return
    if missing():
        raise AuditError(str(missing()))
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise AuditError(f"{source} holds no config.json: expected a model folder of Hugging Face's")
    elif path.suffix == ".gguf":
        if not path.is_file():
            raise AuditError(f"{source} does not exist")
        if path.open("rb").read(4) != b"GGUF":
            raise AuditError(f"{source} is not a GGUF file: its first bytes are not GGUF")
        if not _model.is_installed("gguf"):
            raise AuditError("a GGUF file needs gguf: pip install gguf accelerate")
    else:
        raise AuditError(f"{source} is neither a model folder nor a .gguf file (nothing is downloaded)")


def load(source: str | None) -> Loaded:
    """Read the model in float32, offline. `source`: a folder, a .gguf file, or None for SmolLM2-135M.

    Raises: AuditError where it cannot be read; the message names the file and the reason.
    """
    check_source(source)
    path = _model.find_gguf() if source is None else Path(source)
    name = _model.MODEL_NAME if source is None else path.name.removesuffix(".gguf")
    kind = EMBEDDED if source is None else "gguf" if path.is_file() else "huggingface"
    try:
        tokenizer, model = _read(path)
    except AuditError:
        raise
    except (
        Exception
    ) as error:  # what a broken file raises is anybody's: struct.error, KeyError, safetensors' own
        first = (str(error).strip().splitlines() or [""])[0]
        raise AuditError(f"{path} cannot be read: {type(error).__name__}: {first}"[:400]) from error
    _keep_own_settings_out(model)
    loaded = Loaded(name, kind, tokenizer, _digest(path))
    loaded._copies["float32", "cpu"] = model
    return loaded


def _read(path: Path) -> tuple[Any, Any]:
    transformers = _model.offline_transformers()
    gguf = {"gguf_file": path.name} if path.is_file() else {}
    folder = str(path.parent if path.is_file() else path)
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **gguf)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, **gguf
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise AuditError(f"{path} is an encoder-decoder model: expected a decoder")
    return tokenizer, model.eval()


def _keep_own_settings_out(model: Any) -> None:
    """The audit's conditions say how to draw; what the model's authors recommend would mix in."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=own.eos_token_id, bos_token_id=own.bos_token_id, pad_token_id=own.pad_token_id
    )


def _digest(path: Path) -> str:
    """Of names, sizes and either end of each file: enough to notice another model, without reading it all."""
    files = [path] if path.is_file() else sorted(p for p in _weights(path))
    state = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        state.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            state.update(stream.read(_HEAD))
            stream.seek(max(0, size - _HEAD))
            state.update(stream.read(_HEAD))
    return state.hexdigest()[:16]


def _weights(folder: Path) -> Iterator[Path]:
    for pattern in ("config.json", "*.safetensors", "*.bin", "tokenizer.json"):
        yield from folder.glob(pattern)
