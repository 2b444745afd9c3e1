# SPDX-License-Identifier: Apache-2.0
"""Where a model's randomness comes from, and which outputs not to trust: outputs under several conditions,
who is to blame where they differ, uncertainty, anomalies, calibration, bias; for people, CI and TensorBoard.

python -m fusedraw audit                           the packaged SmolLM2 and prompts; a few minutes
python -m fusedraw audit MODEL --prompts FILE      a model folder or a .gguf file
python -m fusedraw audit --plan PLAN.yaml          conditions of your own (docs/audit.md)
python -m fusedraw audit --fail-on "sampler_differences>0" "agreement:threads<0.99"

A killed run goes on where it was. Exit status: 0; 1 when something failed (finished results are kept); 2 for
bad input; 3 when a threshold or the drift alarm trips.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._model import ModelUnavailable
from . import plan as plans
from .plan import AuditError, Plan, StorageError

FAILED, BAD_INPUT, TRIPPED, INTERRUPTED, CLOSED_PIPE = 1, 2, 3, 130, 141
FORMATS = ("html", "text", "json")
DEFAULT_OUTPUT = "audit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        metavar="MODEL",
        help="model folder or .gguf file (default: packaged SmolLM2)",
    )
    add("--prompts", type=Path, metavar="FILE", help="one prompt a line, or JSON (default: 12 packaged ones)")
    add("--plan", type=Path, metavar="FILE", help="YAML: base, conditions, max_new_tokens, chat, synonyms")
    add(
        *("--condition", "-c"),
        action="append",
        default=[],
        metavar="NAME:K=V,...",
        help="a condition, instead of the default ones; may be repeated",
    )
    add("--base", metavar="K=V,...", help="settings of the base, e.g. temperature=1,batch=8")
    tokens = f"(default: {plans.DEFAULT_TOKENS})"
    add("--max-new-tokens", type=int, metavar="N", help=f"tokens of an output at most {tokens}")
    add("--raw", action="store_true", help="continue the prompts as they stand, without the chat template")
    add("--reference", type=Path, metavar="FILE", help="texts for calibration (default: the prompts)")
    add("--bias", metavar="FILE", help="paired prompts as YAML, or off (default: packaged ones)")
    add("--embedder", metavar="NAME", help="minilm, or module:function (texts -> vectors): meaning")
    add("--nli", metavar="MODULE:FUNCTION", help="premises, hypotheses -> probability of entailment")
    add("--ensemble", nargs="+", default=[], metavar="MODEL", help="other models: mutual information")
    add("--mc-dropout", type=float, default=0.0, metavar="RATE", help="mutual information over dropout masks")
    add("--redact", action="store_true", help="keep no text and no token ids of prompts and outputs")
    add("--output", type=Path, default=Path(DEFAULT_OUTPUT), metavar="DIR", help="default: %(default)s/")
    add("--fresh", action="store_true", help="remove what --output holds of an earlier audit first")
    add("--report-only", action="store_true", help="report what --output holds; run nothing")
    add("--format", choices=FORMATS, default="html", help="html (and CSV, JSON), or print text or json")
    add("--tensorboard", type=Path, metavar="DIR", help="write figures for TensorBoard too")
    add("--fail-on", nargs="+", default=[], metavar="METRIC<X", help="exit with 3 where one holds")
    add("--history", type=Path, metavar="FILE", help="append this run's figures, alarm on drift (exit 3)")


def main(args: argparse.Namespace) -> int:
    try:
        return run(args)
    except AuditError as error:
        print(f"audit: {error}", file=sys.stderr)
        return getattr(error, "status", FAILED)
    except KeyboardInterrupt:
        print("audit: stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough; nothing more can be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE


def run(args: argparse.Namespace) -> int:
    with bad_input():
        checked = _checked(args)
    paths = _stored(args.output) if args.report_only else _collect(args, checked)
    if paths is None:  # another process makes the report
        return 0
    return _report(args, checked, paths)


class bad_input:
    """AuditErrors within are the caller's, those of the disk apart: exit status 2."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, AuditError) and not isinstance(error, StorageError):
            error.status = BAD_INPUT  # type: ignore[attr-defined]
        return False


@dataclass
class Checked:
    """What the arguments say, checked before a model is loaded."""

    plan: Plan | None = None
    options: Any = None
    gates: Sequence[Any] = ()
    embed: Any = None
    entails: Any = None


def _checked(args: argparse.Namespace) -> Checked:
    from . import gates, models, report, runner, semantic

    checked = Checked()
    lacking = report.missing() if args.format == "html" else None
    if lacking:
        raise AuditError(f"{lacking} (or --format text)")
    checked.gates = gates.parse(args.fail_on)
    if args.history is not None:
        gates.read_history(args.history)
    try:
        if args.embedder is not None:
            minilm = args.embedder == "minilm"
            checked.embed = semantic.minilm() if minilm else semantic.load_callable(args.embedder)
        if args.nli is not None:
            checked.entails = semantic.load_callable(args.nli)
    except (ModelUnavailable, ValueError) as error:
        raise AuditError(str(error)) from None
    if args.redact and (checked.embed or checked.entails):
        raise AuditError("--embedder and --nli need the texts, which --redact does not keep")
    if args.report_only:
        _stored(args.output)
        return checked
    if args.fresh and runner.rank()[1] > 1:  # one could remove what another has begun
        raise AuditError(f"--fresh is for one process: remove {args.output} before you start several")
    if not 0 <= args.mc_dropout < 1:
        raise AuditError(f"--mc-dropout must be in [0, 1), got {args.mc_dropout:g}")
    checked.plan = _plan(args)
    checked.options = _options(args)
    for source in (args.model, *args.ensemble):
        models.check_source(source)
    _check_metrics(checked.gates, [c.name for c in checked.plan.conditions[1:]])
    return checked


def _check_metrics(found, names) -> None:
    from . import anomalies, gates, results

    gates.check_known(found, results.headline_names(names, list(anomalies.RULES)))


def _plan(args: argparse.Namespace) -> Plan:
    given: dict[str, Any] = plans.read_plan(args.plan) if args.plan else {}
    if args.base:
        given["base"] = {**given.get("base", {}), **plans.parse_settings("--base", args.base)}
    if args.condition:
        parsed = [plans.parse_condition(text) for text in args.condition]
        names = [name for name, _ in parsed]
        if len(set(names)) < len(names):
            raise AuditError(f"--condition: {max(names, key=names.count)!r} is there twice")
        given["conditions"] = {**given.get("conditions", {}), **dict(parsed)}
    if args.max_new_tokens is not None:
        given["max_new_tokens"] = args.max_new_tokens
    if args.raw:
        given["chat"] = False
    prompts = plans.read_prompts(args.prompts or plans.DEFAULT_PROMPTS)
    return plans.make_plan(prompts, redact=args.redact, **given)


def _options(args: argparse.Namespace):
    from . import bias, runner

    pairs: Any = None
    if args.bias == "off":
        pairs = ()
    elif args.bias is not None:
        try:
            pairs = bias.read_pairs(args.bias)
        except (OSError, ValueError, TypeError) as error:
            raise AuditError(f"--bias: {error}") from None
    reference = plans.read_prompts(args.reference) if args.reference else None
    return runner.Options(reference, pairs, mc_dropout=args.mc_dropout)


def _stored(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("audit*.sqlite"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise AuditError(f"{folder} holds no audit: expected audit.sqlite there")
    return paths


def _collect(args: argparse.Namespace, checked: Checked) -> list[Path] | None:
    """Run the plan. The files to report on, or None in a process that does not report."""
    from . import models
    from .runner import Runner

    assert checked.plan is not None
    if args.fresh:
        _remove(args.output)
    for name in checked.plan.left_out:
        print(f"audit: condition {name!r} is left out: it is what the base has already", file=sys.stderr)
    print(f"audit: loading {args.model or 'SmolLM2-135M-Instruct'}", file=sys.stderr, flush=True)
    with bad_input():
        loaded = models.load(args.model)
        checked.options.ensemble = [models.load(source) for source in args.ensemble]
        runner = Runner(checked.plan, loaded, args.output, checked.options)
    runner.run()
    return runner.wait_for_others() if runner.number == 0 else None


def _remove(folder: Path) -> None:
    """Stores and scratch of an earlier audit, and nothing else that may lie there."""
    try:
        for path in folder.glob("audit*.sqlite*"):
            path.unlink()
        for path in folder.glob("scratch-*"):
            shutil.rmtree(path)
    except OSError as error:
        raise AuditError(f"{error.filename} cannot be removed: {error.strerror}") from None


def _report(args: argparse.Namespace, checked: Checked, paths: list[Path]) -> int:
    from . import gates, report, results, text

    analysis = results.analyse(paths, embed=checked.embed, entails=checked.entails)
    with bad_input():
        gates.check_known(checked.gates, list(analysis["headline"]))
    try:
        if args.format == "html":
            print(f"audit: {report.write(analysis, args.output)}")
        elif args.format == "json":
            print(json.dumps(analysis, indent=1))
        else:
            print(text.text(analysis))
        if args.tensorboard is not None:
            from . import tensorboard

            tensorboard.write(analysis, args.tensorboard)
    except (OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise AuditError(f"the report cannot be written: {error}; results are kept") from None
    tripped = gates.tripped(checked.gates, analysis["headline"])
    if args.history is not None:
        tripped += [f"drift: {alarm}" for alarm in gates.add_to_history(args.history, analysis["headline"])]
    for line in tripped:
        print(f"audit: {line}", file=sys.stderr)
    return TRIPPED if tripped else 0
