# SPDX-License-Identifier: Apache-2.0
"""What an audit runs: prompts, a base condition, and conditions that each change something about it.

Everything is checked here, before a model is loaded.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from .._checks import check_choice
from .._params import check_value
from .robustness import PERTURBATIONS, with_synonyms

BASE = "base"
DTYPES = ("float32", "bfloat16", "float16")
# What makes the law of a draw, and what makes its key: two conditions that agree in these draw the same token
# from the same logits. The others act through the logits alone.
LAW = ("temperature", "top_k", "top_p", "min_p", "mix_eps", "mix_support")
KEY = ("seed",)
DEFAULT_PROMPTS = Path(__file__).resolve().parent.parent / "data" / "audit_prompts.txt"
DEFAULT_TOKENS, DEFAULT_SAMPLES = 48, 3
MOST_TOKENS, MOST_BATCH = 4096, 256


class AuditError(Exception):
    """What the caller can mend; the message is one line."""


class StorageError(AuditError):
    """The disk is full or cannot be written; finished results are kept."""


@dataclass(frozen=True)
class Condition:
    """Settings of one way to decode. `batch`: prompts in one forward pass; `samples`: outputs per prompt."""

    name: str
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    mix_eps: float = 0.0
    mix_support: str = "kept"
    seed: int = 1
    batch: int = 4
    threads: int = 0  # 0: all that this process may use
    dtype: str = "float32"
    device: str = "cpu"
    samples: int = 1
    perturb: str = ""

    def settings(self) -> dict[str, Any]:
        """All but the name."""
        return {key: value for key, value in asdict(self).items() if key != "name"}

    def changes(self, base: Condition) -> list[str]:
        """Names of the settings that differ from those of `base`; `samples` changes no output."""
        theirs = base.settings()
        return [k for k, value in self.settings().items() if k != "samples" and value != theirs[k]]

    def law(self) -> dict[str, Any]:
        """Keyword arguments of `fusedraw.sample`."""
        return {name: getattr(self, name) for name in LAW}


_TYPES = {field.name: field.type for field in fields(Condition)}
# Each changes one thing. `seed`: other luck. `batch`, `threads`, `dtype`: the same law and luck, other
# logits. `temperature`, `mix_eps`: another law.
DEFAULT_CONDITIONS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 2},
    "batch": {"batch": 1},
    "threads": {"threads": 1},
    "dtype": {"dtype": "bfloat16"},
    "temperature": {"temperature": 1.2},
    "mix_eps": {"mix_eps": 0.02},
}


@dataclass(frozen=True)
class Plan:
    """An audit as it will run."""

    prompts: tuple[str, ...]
    conditions: tuple[Condition, ...]  # the base first
    max_new_tokens: int = DEFAULT_TOKENS
    redact: bool = False
    chat: bool = True  # prompts are put into the model's chat template, where it has one
    synonyms: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()  # conditions of the default plan that change nothing about this base

    @property
    def base(self) -> Condition:
        return self.conditions[0]

    def identity(self) -> dict[str, Any]:
        """What a stored run must share with this plan to be continued. Prompts are told by a digest."""
        return {
            "conditions": [asdict(condition) for condition in self.conditions],
            "max_new_tokens": self.max_new_tokens,
            "redact": self.redact,
            "chat": self.chat,
            "synonyms": [list(pair) for pair in self.synonyms],
            "prompts": digest("\0".join(self.prompts)),
        }

    def group_size(self) -> int:
        """Prompts that are worked on together: the largest batch."""
        return max(condition.batch for condition in self.conditions)

    def groups(self) -> list[range]:
        size, count = self.group_size(), len(self.prompts)
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def prompt_for(self, condition: Condition, number: int) -> str:
        """The prompt as the condition gives it to the model."""
        text = self.prompts[number]
        if condition.perturb == "synonyms":
            return with_synonyms(text, self.synonyms)
        return PERTURBATIONS[condition.perturb](text) if condition.perturb else text


def digest(text: str | bytes) -> str:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()[:16]


def cores() -> int:
    """Threads that this process may use; a launcher of several processes per machine shares them out."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, found // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def make_plan(
    prompts: Sequence[str],
    *,
    base: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    max_new_tokens: int = DEFAULT_TOKENS,
    redact: bool = False,
    chat: bool = True,
    synonyms: Sequence[Sequence[str]] = (),
) -> Plan:
    """A checked plan.

    Args:
        prompts: texts, at least one.
        base: settings of the base condition, see `Condition`.
        conditions: {name: settings that differ from the base}; None: DEFAULT_CONDITIONS.
        max_new_tokens: tokens per output at most, 1 to 4096.
        redact: keep no text of prompts or outputs.
        chat: put each prompt into the model's chat template, where it has one.
        synonyms: pairs of words for `perturb: synonyms`.

    Raises: AuditError for an unknown name, a value out of range, or what this machine cannot run.
    """
    if not prompts:
        raise AuditError("no prompts: give at least one")
    if not 1 <= _integer("max_new_tokens", max_new_tokens) <= MOST_TOKENS:
        raise AuditError(f"max_new_tokens must be 1 to {MOST_TOKENS}, got {max_new_tokens}")
    pairs = tuple((str(a), str(b)) for a, b in synonyms)
    left_out = []
    settings = {"samples": DEFAULT_SAMPLES, **(base or {})}
    made = [_condition(BASE, settings, Condition(BASE), pairs)]
    for name, changed in (DEFAULT_CONDITIONS if conditions is None else conditions).items():
        if not isinstance(changed, Mapping):
            raise AuditError(f"condition {name!r} must map settings to values, got {changed!r}")
        condition = _condition(str(name), {"samples": 1, **changed}, made[0], pairs)
        if not condition.changes(made[0]):
            if conditions is None:
                left_out.append(condition.name)
                continue
            raise AuditError(f"condition {name!r} changes nothing about the base")
        if condition.name in [known.name for known in made]:
            raise AuditError(f"condition {name!r} is there twice")
        made.append(condition)
    return Plan(tuple(prompts), tuple(made), int(max_new_tokens), redact, chat, pairs, tuple(left_out))


def _condition(name: str, changed: Mapping[str, Any], base: Condition, synonyms) -> Condition:
    where = "the base" if name == BASE else f"condition {name!r}"
    if not name or any(c in name for c in ":,<>=/\\\0") or name != name.strip():
        raise AuditError(f"a condition's name must not be empty or hold : , < > = / or \\, got {name!r}")
    values = {}
    for key, value in changed.items():
        if key not in _TYPES or key == "name":
            close = difflib.get_close_matches(str(key), _TYPES, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            known = ", ".join(k for k in _TYPES if k != "name")
            raise AuditError(f"{where}: no setting is named {key!r}: expected {known}{hint}")
        values[key] = _typed(where, key, value)
    condition = replace(base, name=name, **values)
    if condition.threads == 0:
        condition = replace(condition, threads=cores())
    _check(where, condition, synonyms)
    return condition


def _typed(where: str, key: str, value: Any) -> Any:
    kind = _TYPES[key]
    if kind == "str":
        if not isinstance(value, str):
            raise AuditError(f"{where}: {key} must be a word, got {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise AuditError(f"{where}: {key} must be a number, got {value!r}")
    if kind == "int":
        return _integer(f"{where}: {key}", value)
    return float(value)


def _integer(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise AuditError(f"{what} must be a whole number, got {value!r}")
    return int(value)


def _check(where: str, condition: Condition, synonyms) -> None:
    try:
        for name in LAW[:-1]:
            check_value("audit", name, getattr(condition, name))
        check_choice("audit", "mix_support", condition.mix_support, ("kept", "valid"))
    except (TypeError, ValueError) as error:
        raise AuditError(f"{where}: {str(error).removeprefix('audit: ')}") from None
    for name, most in (("batch", MOST_BATCH), ("samples", 1000), ("threads", cores())):
        value = getattr(condition, name)
        if not 1 <= value <= most:
            this = f"{most}, what this process may use" if name == "threads" else str(most)
            raise AuditError(f"{where}: {name} must be 1 to {this}, got {value}")
    if not 0 <= condition.seed < 2**32:
        raise AuditError(f"{where}: seed must be 0 to 2^32 - 1, got {condition.seed}")
    if condition.dtype not in DTYPES:
        raise AuditError(f"{where}: dtype must be {', '.join(DTYPES)}, got {condition.dtype!r}")
    device_problem = _device_problem(condition.device)
    if device_problem:
        raise AuditError(f"{where}: {device_problem}")
    known = (*PERTURBATIONS, "synonyms")
    if condition.perturb and condition.perturb not in known:
        raise AuditError(f"{where}: perturb must be {', '.join(known)}, got {condition.perturb!r}")
    if condition.perturb == "synonyms" and not synonyms:
        raise AuditError(f"{where}: perturb: synonyms needs a list of synonyms, pairs of words")


def _device_problem(name: str) -> str | None:
    try:
        device = torch.device(name)
    except RuntimeError:
        return f"device must be cpu or cuda, got {name!r}"
    if device.type not in ("cpu", "cuda"):
        return f"device must be cpu or cuda, got {name!r}"
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        return f"device {name}, but torch sees {torch.cuda.device_count()} CUDA devices here"
    return None


# Files


def read_prompts(path: Path) -> list[str]:
    """Prompts of a file: one a line; .jsonl: one object or string a line; .json: a list of them. An object
    has `prompt` (or `text`). Raises AuditError with the line."""
    text = read_text(path)
    if path.suffix == ".json":
        items = _json(path, text)
        if not isinstance(items, list):
            raise AuditError(f"{path}: expected a list of prompts, got {type(items).__name__}")
        prompts = [_prompt(f"{path}, item {n}", item) for n, item in enumerate(items, 1)]
    elif path.suffix == ".jsonl":
        lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        prompts = [_prompt(f"{path}, line {n}", _json(f"{path}, line {n}", line)) for n, line in lines]
    else:
        prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise AuditError(f'{path} holds no prompts: one a line, or JSON with "prompt"')
    return prompts


def _prompt(where: str, item: Any) -> str:
    if isinstance(item, dict):
        item = item.get("prompt", item.get("text"))
    if not isinstance(item, str) or not item.strip():
        raise AuditError(f'{where}: expected a text, or an object with "prompt"')
    return item


def _json(where: Any, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AuditError(f"{where} is not JSON: {error}") from None


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AuditError(f"{path} is not UTF-8: byte {error.start}") from None
    except OSError as error:
        raise AuditError(f"cannot read {path}: {error.strerror or error}") from None


PLAN_KEYS = ("max_new_tokens", "chat", "synonyms", "base", "conditions")


def read_plan(path: Path) -> dict[str, Any]:
    """Arguments of `make_plan` from YAML (or JSON, which is YAML)."""
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise AuditError("a plan in YAML needs PyYAML: pip install pyyaml") from None
    try:
        loaded = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise AuditError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise AuditError(f"{path} must map {', '.join(PLAN_KEYS)}, got {type(loaded).__name__}")
    for key, value in loaded.items():
        if key not in PLAN_KEYS:
            raise AuditError(f"{path}: nothing is named {key!r}: expected {', '.join(PLAN_KEYS)}")
        if key in ("base", "conditions") and not isinstance(value, dict):
            raise AuditError(f"{path}: {key} must be a mapping, got {value!r}")
        if key == "chat" and not isinstance(value, bool):
            raise AuditError(f"{path}: chat must be true or false, got {value!r}")
        if key == "synonyms" and not (
            isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value)
        ):
            raise AuditError(f"{path}: synonyms must be a list of pairs [word, word], got {value!r}")
    return loaded


def parse_condition(text: str) -> tuple[str, dict[str, Any]]:
    """'cold:temperature=0.2,top_k=40' -> ('cold', {'temperature': 0.2, 'top_k': 40})."""
    name, separator, rest = text.partition(":")
    if not separator or not rest:
        raise AuditError(f"--condition takes NAME:setting=value,..., got {text!r}")
    return name, parse_settings("--condition", rest)


def parse_settings(option: str, text: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for part in text.split(","):
        key, separator, value = part.partition("=")
        if not separator:
            raise AuditError(f"{option} takes setting=value,..., got {part!r}")
        out[key.strip()] = _number_or_word(value.strip())
    return out


def _number_or_word(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
