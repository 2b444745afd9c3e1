# SPDX-License-Identifier: Apache-2.0
"""The text of docs/scaling.md around the tables of scaling_tables.py."""

from __future__ import annotations

import textwrap

import cuda_devices as devices
import scaling_model as model
import scaling_tables as tables
from fusedraw.bench import cases

WIDTH = 120

HEAD = """\
# Scaling, on paper

What a draw costs per token for V up to a million, what it would cost on 1 to 8 tensor-parallel ranks, and
from where on it is felt in a decode step. Made by `python benchmarks/scaling.py` from counts; a test holds
this page against it.

The first row of every table says where its figures are from:

- **counted**: by executing the CUDA kernels on the CPU ([cuda.md](cuda.md)), each draw checked for the CPU
  engine's token;
- **measured**: on one H100 ([evidence-device.md](evidence-device.md)), medians of replayed graphs;
- **stated**: a rate from the public source beside it;
- **derived**: computed here from the above, or from the law. No device has confirmed it.

**Sharded sampling is not implemented.** The package samples rows that a device holds as a whole: with
tensor parallelism, rows that were gathered before. Sections 2 and 3 say what the law permits beyond that
and what it would cost.

## Rates
"""

RATES = (
    (
        "memory",
        f"{model.H100.bytes_per_us / 1e6:.2f} TB/s",
        "[NVIDIA's H100 page](https://www.nvidia.com/en-us/data-center/h100/), SXM",
    ),
    ("multiprocessors, clock", f"{model.H100.sms}, {model.H100.ghz} GHz", "`cuda_devices.py`; boost clock"),
    (
        "NVLink, into one device",
        f"{model.NVLINK_BYTES_PER_US / 1e3:.0f} GB/s",
        "[what an application gets](https://github.com/NVIDIA/nccl/issues/1442) in each direction; the data "
        "sheet's 900 GB/s are both directions on the wire",
    ),
    (
        "an exchange of few bytes",
        f"{model.EXCHANGE_US:.0f} us (5 to 20)",
        "H100: [about 6 us](https://github.com/NVIDIA/nccl/issues/1259) for an all-reduce of up to 64 KB on "
        "two, in a graph; [10.9 to 20.2 us](https://github.com/NVIDIA/Megatron-LM/pull/5596) for an "
        "all-gather of 2 MiB on eight",
    ),
    (
        "a launch in a graph",
        f"{devices.LAUNCH_US} us",
        "an assumption of `cuda_devices.py`; [on the order of microseconds]"
        "(https://modal.com/gpu-glossary/host-software/cuda-graph) outside of graphs",
    ),
    (
        "bfloat16, dense",
        f"{model.FLOP_PER_US / 1e6:.0f} TFLOP/s",
        "NVIDIA's H100 page: 1979 with sparsity, half of that without",
    ),
)

SEEN = """\
An all-gather is taken to need the latency and the bytes that a device takes in at that rate. Beside what
others measured:
"""

ONE = """\
## 1. One rank

### Bytes

Times its own length, that a row moves: sectors of 32 bytes that requests touch, read and written, every
request counted, caches aside. Means over {} rows; below 128 rows a call / from 128 rows on.
"""

LINES = """\
Bytes of a row as a line in V, from V = {} on, by least squares of the relative distances, over all rows
that took the usual way. Slope in lengths of a row; *off*: the largest distance of a row from the line.
"""

WHY = """\
So bytes are linear in V, to within {} % of every single row. What a row is off the line is, for small V,
the few blocks that are read again, whose number depends on the draw and not on V; above V = 262144, from
128 rows on, block maxima and spreads that no longer fit shared memory; below 128 rows with top-k, the lists
of a row's parts.

Top-p is linear only as long as the nucleus fits a list (at most 1664 tokens). How many of the {} rows took
the usual way, and what the others moved:
"""

AFTER_WAYS = """\
Real-like rows of V far above the model's own 49152 have a stretched tail, so their nuclei grow with V;
those of peaked rows (a power law) hardly do. What a trained model of that V does, only such a model can
tell.
"""

INSTRUCTIONS = """\
### Instructions

Warp instructions times 32 per token of the row, one launch for many rows, bfloat16: of the machine code for
sm_{}, as executed for `results/cuda_report.json` (its sources have the digest {}, those of the bytes above
{}). The last columns lie on the line through the first two.
"""

TIME = """\
### Time

Microseconds of a call, bfloat16, real-like rows, and what bounds the longest launch (`latency`: of a thread
block on its own). The formula is that of `make cuda-report`: of bytes at full bandwidth, issue, and latency
the slowest, and {} us a launch. Rows of top-p that took another way count with their bytes, their
instructions in proportion.
"""

CHECK = """\
What an H100 measured at V = {} beside it, in microseconds. Replayed rows are warm, so those of B = 1 and 32
came from the L2 cache; the bytes of the rows alone, from memory at full bandwidth: {}.
"""

AFTER_CHECK = """\
The device takes {} times what the paper says; greedy at B = 256 reaches {} % of the bandwidth. The paper
knows nothing of barriers, bank conflicts, atomics and the ends of loops, of which lists (top-k) have most.
For top-p only B = 1 is compared: the larger batches were measured with a kernel that has been changed
since. **From here on every time is the paper's times the largest ratio of its configuration**, at every V
and B: derived, and scaled by a measurement at one V. Differences of a few microseconds say nothing.
"""

RANKS = """\
## 2. Several ranks

The head of a tensor-parallel model leaves each of R ranks V/R of a row's logits. The usual way, and the one
that works with this package, is to gather the logits on one rank or on all and to sample there (so does
[vLLM's
LogitsProcessor](https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/layers/logits_processor.py),
which for greedy also has the exchange of one pair a rank). One thing is simpler with this law: a draw is a
function of the logits, the parameters and the key, so all ranks draw the same token, and no id is sent
back.

What the law permits beyond that ([law.md](law.md), sections 2 to 8; a test plays the exchanges below on the
reference and asks for the token of the whole row):
"""

ALONE = (
    (
        "status",
        "yes, of its tokens",
        "the first that holds in the law's order: BAD_PARAM, NAN, POS_INF, EMPTY if all are",
    ),
    ("maximum m, first token of the order", "yes, of its tokens", "the larger x, then the lower id"),
    ("noise E(BLOCK, b), E(TOKEN, i), the coin", "yes, of any token", "nothing: functions of key and id"),
    ("weights w", "no", "after m: w is rounded relative to the global maximum"),
    ("sums S, G, H, S_b", "after m", "added: integers, so the order does not matter"),
    ("first k of the order", "its own first k", "k candidates from each rank, the first k of all"),
    ("min-p", "after m", "nothing: a threshold on w"),
    ("where top-p ends", "no", "S, and the mass above a value on all ranks"),
    (
        "winner of the race over blocks",
        "after m and K",
        "least E(b) / S_b, then the lower b: a minimum over ranks",
    ),
    ("winner within the block", "the block's rank", "nothing"),
    ("`rank` of the drawn token", "after the draw", "counts are added: an exchange more"),
)

MERGE = """\
Three conditions:

- Shards end at multiples of 256 tokens, the blocks of the race. V = 128256 on 8 ranks is 501 blocks, so 63
  at most a rank (16128 tokens where an even share has 16032).
- m comes first. Sums relative to a local maximum, scaled afterwards by exp(m_r - m) as an online softmax
  does, round differently, so they are another law. This is what costs T alone its second exchange.
- Ties go to the lower id, so records carry ids. `ties = "all"` can make a candidate list longer than k and
  then needs another exchange; it is not counted here.

### Exchanges

Bytes that each rank gives for a row, bfloat16, in brackets float32 where it differs. A record of the race
is {} bytes (quotient 8, id 4, x 4), a sum {}, a maximum with status {}, a candidate x and id. Every
exchange is an all-gather, so all ranks know the same afterwards and no further one is needed to agree.
"""

TOP_P = """\
- **top-k, alone or before top-p** (`filter_order = "sequential"`): after one exchange every rank holds all
  of K, so m, the cut of top-p and min-p within it, the race and `logp` follow without another.
- **top-p alone**: the ranks offer their first {c} / R tokens, which gives m; then S. The offers are
  complete down to the highest of the ranks' last ones. If the nucleus ends there or above, every rank holds
  all of K; with tokens scattered over the shards that is so up to about {c} of them, a little more than the
  list of the kernel holds. Else ("long") exact masses of {b} bins of the order key, 8 bits at a time, lead
  to the value where the prefix ends: two levels for 16-bit logits, four for float32. The last one also says
  how many equal tokens each rank holds (mass over weight), hence which ids stay; then the race.
- **mix_eps**: every rank knows the coin, and with `mix_support = "kept"` the set; nothing is added.
- **logp, entropy**: the sums ride with the record of the race.
- A batch of different rows needs as many exchanges as its most demanding row.

### Bytes

Bytes that each rank takes in for a row, bfloat16:
"""

WHICH = """\
### Time on several ranks

Microseconds of gather and sampling / of sharded sampling, {} us an exchange; top-p with nuclei that the
offers hold. Sharded, a rank is taken to need what `sample` needs for V/R tokens, and a launch more for each
exchange. What kernels for shards would really need, nobody has tried.
"""

FROM = """\
From which B on sharded sampling is the faster one, up to {}, for exchanges of {} us:
"""

AFTER_FROM = """\
With few rows a gather is one exchange of little data, and T alone would need two: there the usual way is
the right one, most of all on two ranks or where an exchange is slow. Top-k needs one exchange in any case,
and then works on a share of the row. With many rows the logits themselves are what costs: at B = 256, V =
{v} and R = 8, of {all_} us with T the gather is {gather}.
"""

STEP = """\
## 3. Beside a decode step

The step is bounded from below: its weights (bfloat16) are read once, or its products take 2 operations a
parameter and row at full rate, whichever is longer, over R ranks; no attention, no KV cache, no all-reduce
of the layers, so **a real step is longer and the share smaller than here**. The weights are those of Llama
3.1 by its `config.json`, the head with V tokens. 70B is given for 4 and 8 ranks of 80 GB. Share: time of
gather and sampling over that of the step, in percent. *Sharded* is not implemented.
"""

CROSSING = """\
From which B on it is more than 1 % / 5 % of the step (powers of two up to {}; -: not up to there):
"""

AFTER_CROSSING = """\
On one rank, at V = {v}, T takes {one} % of an 8B model's step at B = 256. On 8 ranks it is {eight} %: the
step is an eighth, and the gather has come on top. That is the case for which sharding would pay: {sharded}
%. The bound leaves out attention and the layers' own exchanges: two in each of {layers} layers are {own} us
at {latency} us each, beside the {step} us of the bound itself, and bring {eight} % down to {real} %.
"""

LAUNCHES = """\
## 4. Launches

Kernels of one call of `sample`, all configurations alike; none of them waits for the host, so a graph holds
them all:
"""

AFTER_LAUNCHES = """\
`kept` is two more, and a sync. On paper a launch is {} us in a graph, so {} of the {} us that T takes at B
= 1, V = {}. What the H100 said of calls that were queued one by one against the same calls replayed from a
graph (measured; microseconds more, B = {}):
"""

SHARDED_LAUNCHES = """\
Gathered and then sampled, a step has one or two launches beside the gather's own. Sharded (derived), each
exchange is a kernel between two of sampling; exchanges and samplings: {}. Outside of a graph, Python would
have to queue each of them.
"""

LAST = """\
## What this page does not show

- Any time on more than one device: NVLink and exchange times are others' figures, rounded.
- Overlap: a gather can hide behind the head's product, sampling behind the next step's first layers.
- Other V and B on a device: ratios are of one V, {} rows of one kind, bfloat16.
- The cost of gathering into the layout that `sample` reads, and of padding a head to multiples of 256
  tokens a rank.
- More than one node.
"""


def wrapped(text: str) -> str:
    """Paragraphs and list items anew, now that figures stand in them; headings and tables as they are."""
    out: list[str] = []
    for line in text.split("\n"):
        goes_on = out and out[-1] and not out[-1].startswith(("#", "|"))
        if line and goes_on and not line.startswith(("- ", "#", "|")):
            out[-1] += " " + line.strip()
        else:
            out.append(line)
    return "\n".join(line if line.startswith(("#", "|")) else fill(line) for line in out)


def fill(line: str) -> str:
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(
        line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def page(stored: dict, report: dict, bench: dict) -> str:
    counts = model.Counts(stored)
    times = model.Times(counts, report, bench)
    vocab, most = model.MEASURED_VOCAB, model.MEASURED_BATCHES[-1]
    ratios = tables.ratios(times)
    floor = {b: b * vocab * 2 / model.H100.bytes_per_us for b in model.MEASURED_BATCHES}
    greedy = floor[most] / times.measured["greedy", most]["fusedraw"]["graph"][1]
    plans = {config: model.plan(config).exchanges for config in ("greedy", "T", "top-k")}
    text = [
        HEAD,
        tables.rows_of(["stated", "", "source"], RATES, left=3),
        SEEN,
        tables.seen(),
        ONE.format(counts.row_count),
        tables.moved(counts),
        LINES.format(model.FITTED_FROM),
        tables.lines(counts),
        WHY.format(tables.percent(tables.worst_residual(counts)), counts.row_count),
        tables.ways(counts),
        AFTER_WAYS,
        INSTRUCTIONS.format(model.ARCH, report["sources"], stored["sources"]),
        tables.instructions(times),
        TIME.format(devices.LAUNCH_US),
        tables.paper(times),
        CHECK.format(vocab, ", ".join(f"B = {b}: {us:.2g}" for b, us in floor.items())),
        tables.check(times),
        AFTER_CHECK.format(f"{min(ratios):.1f} to {max(ratios):.1f}", f"{100 * greedy:.0f}"),
        RANKS,
        tables.rows_of(["derived: quantity", "a rank alone", "brought together by"], ALONE, left=3),
        MERGE.format(model.RECORD, model.SUM, model.HEAD),
        tables.exchanges(),
        TOP_P.format(c=model.CANDIDATES, b=model.BINS),
        tables.taken_in(),
        WHICH.format(f"{model.EXCHANGE_US:.0f}"),
        tables.both_ways(times),
        FROM.format(tables.BATCHES[-1], " / ".join(f"{us:.0f}" for us in model.EXCHANGE_SPREAD_US)),
        tables.winning(times),
        AFTER_FROM.format(
            v=vocab,
            all_=f"{model.gathered_us(times, 'T', 256, vocab, 8):.0f}",
            gather=f"{model.exchange_us(256 * vocab * 2 / 8, 8, model.EXCHANGE_US):.0f}",
        ),
        STEP,
        tables.shares(times),
        CROSSING.format(tables.BATCHES[-1]),
        tables.crossings(times),
        AFTER_CROSSING.format(**beside_8b(times, vocab, 256)),
        LAUNCHES,
        tables.launches(counts),
        AFTER_LAUNCHES.format(
            devices.LAUNCH_US,
            f"{2 * devices.LAUNCH_US:g}",
            tables.us(times.paper_us("T", 1, vocab)),
            vocab,
            ", ".join(map(str, model.MEASURED_BATCHES)),
        ),
        tables.queued(times),
        SHARDED_LAUNCHES.format(", ".join(f"{cases.TITLES[c]} {n} and {n + 1}" for c, n in plans.items())),
        LAST.format(counts.row_count),
    ]
    return "\n".join(wrapped(part.rstrip("\n")) + "\n" for part in text)


def beside_8b(times: model.Times, vocab: int, batch: int) -> dict[str, str]:
    of = model.MODELS[0]
    step = of.step_us(batch, vocab, 8)
    own = 2 * of.layers * model.EXCHANGE_US
    gathered = model.gathered_us(times, "T", batch, vocab, 8)
    return {
        "v": str(vocab),
        "one": tables.percent(model.gathered_us(times, "T", batch, vocab, 1) / of.step_us(batch, vocab, 1)),
        "eight": tables.percent(gathered / step),
        "sharded": tables.percent(model.sharded_us(times, "T", batch, vocab, 8) / step),
        "layers": str(of.layers),
        "own": f"{own:.0f}",
        "latency": f"{model.EXCHANGE_US:.0f}",
        "step": f"{step:.0f}",
        "real": tables.percent(gathered / (step + own)),
    }
