# SPDX-License-Identifier: Apache-2.0
"""What the operations beside sample refuse: multinomial and its stand-in, mixture, verify, route."""

import fusedraw
import torch
from engines import make_keys
from input_cases import INF, NAN, B, probs

from .rows import Refused, refusing

I32, I64 = torch.int32, torch.int64

of = refusing("multinomial", fusedraw.multinomial, input=probs(), num_samples=3, seed=1)
shared = torch.rand(16).view(2, 8)
MULTINOMIAL = [
    of(ValueError, "num_samples must be >= 1, got 0", num_samples=0),
    of(TypeError, "num_samples must be an int", num_samples=1.0),
    of(TypeError, "num_samples must be an int", num_samples=True),
    of(ValueError, "num_samples", num_samples=71),
    of(TypeError, "replacement must be a bool", replacement=1),
    of(ValueError, "multinomial: input", input=torch.ones(1, 2, 3)),
    of(ValueError, "multinomial: input", input=torch.tensor(1.0)),
    of(TypeError, "multinomial: input must be .* got int64", input=torch.ones(2, 3, dtype=I64)),
    of(TypeError, "dense", input=probs().to_sparse()),
    of(ValueError, "at least one token", input=torch.ones(2, 0)),
    of(ValueError, r"out must be int64 \[4, 3\].* got float32", out=torch.zeros(B, 3)),
    of(ValueError, r"got int64 \[4, 2\]", out=torch.zeros(B, 2, dtype=I64)),
    of(TypeError, "out must be a torch.Tensor", out=[]),
    of(ValueError, "on cpu", out=torch.zeros(B, 3, dtype=I64, device="meta")),
    of(
        *(ValueError, "must not share memory", "out= a view of the memory of input"),
        input=shared,
        num_samples=2,
        out=shared.view(I64)[:, :2],
    ),
    of(ValueError, "check must be", check="no"),
]


def replaced(*arguments):
    with fusedraw.replacing_torch_multinomial(seed=1):
        return torch.multinomial(*arguments)


P = probs()
name = "replacing_torch_multinomial"
of = refusing(name, fusedraw.replacing_torch_multinomial)
REPLACING = [
    of(ValueError, f"{name}: give one of seed and generator", seed=1, generator=torch.Generator()),
    of(TypeError, f"{name}: seed must be an int, got float", seed=1.0),
    of(TypeError, f"{name}: seed must be an int, got bool", seed=True),
    of(TypeError, f"{name}: generator must be", generator=3),
    Refused(
        name, "decorates the number 3", lambda: fusedraw.replacing_torch_multinomial()(3), TypeError, name
    ),
    *[
        Refused(name, f"in the block, {what}", lambda given=given: replaced(*given), error, "^multinomial")
        for what, given, error in (
            ("weights: a list", ([0.5, 0.5], 1), TypeError),
            ("num_samples=1.0", (P, 1.0), TypeError),
            ("num_samples=None", (P, None), TypeError),
            ("replacement=1", (P, 1, 1), TypeError),
            ("weights int64", (torch.ones(3, dtype=I64), 1), RuntimeError),
            ("weights 3-D", (torch.ones(1, 2, 3), 1), RuntimeError),
            ("num_samples=0", (P, 0), RuntimeError),
            ("num_samples=71 of 70, without replacement", (P, 71), RuntimeError),
            ("weights sparse", (P.to_sparse(), 1), RuntimeError),
        )
    ],
]

X = torch.zeros(2, 8)
CFG = {"mode": "cfg", "strength": 1}
of = refusing("mixture", fusedraw.mixture, members=[X, X])
MIXTURE = [
    of(ValueError, "one V .the same vocabulary.*V = 8.*V = 9", members=[X, torch.zeros(2, 9)]),
    of(ValueError, "one shape", members=[X, torch.zeros(3, 8)]),
    of(ValueError, "one shape", members=[X, torch.zeros(8)]),
    of(TypeError, "one dtype, got float32.*bfloat16", members=[X, X.bfloat16()]),
    of(ValueError, "1 to 32, got 0", members=[]),
    of(ValueError, "1 to 32, got 33", members=[X] * 33),
    of(TypeError, "tensor or a sequence of tensors, got int", members=3),
    of(TypeError, r"members\[1\] must be a torch.Tensor", members=[X, 1.0]),
    of(TypeError, "float64", members=[X.double()] * 2),
    of(ValueError, "shape", members=torch.zeros(2, 2, 2, 8)),
    of(ValueError, "'arithmetic', 'geometric'.*got 'mean'", mode="mean"),
    of(TypeError, "mode must be a str", mode=1),
    of(ValueError, "weights must be 2, one a member, got 1", weights=[1.0]),
    of(ValueError, "finite and >= 0, got -0.5", weights=[1.0, -0.5]),
    of(ValueError, "finite and >= 0, got nan", weights=[NAN, 1.0]),
    of(ValueError, "finite and >= 0, got inf", weights=[INF, 1.0]),
    of(ValueError, "some weight must be > 0", weights=[0, 0.0]),
    of(TypeError, "weights must hold numbers, got bool", weights=[True, 1]),
    of(TypeError, "sequence of numbers or a tensor, got str", weights="ab"),
    of(ValueError, r"\[2\] or \[2, 2\]", weights=torch.ones(3, 2)),
    of(TypeError, "weights tensor must be", weights=torch.ones(2, dtype=I64)),
    of(ValueError, "takes a strength and no", weights=[1, 1], **CFG),
    of(ValueError, "needs a strength", mode="cfg"),
    of(ValueError, "finite, got nan", mode="cfg", strength=NAN),
    of(TypeError, "number or a tensor, got str", mode="cfg", strength="1"),
    of(ValueError, "strength is for other modes", strength=1),
    of(ValueError, "length 1 or 2", mode="cfg", strength=torch.ones(3)),
    of(ValueError, "takes two members, got 3", members=[X] * 3, **CFG),
    of(ValueError, "plausibility is for mode 'contrastive'", plausibility=0.1, **CFG),
    of(ValueError, r"plausibility must be in \[0, 1\]", mode="contrastive", strength=1, plausibility=1.5),
    of(ValueError, "among status.*got 'margin'", returns=("rank", "margin")),
    of(
        *(ValueError, "mutual_information needs mode 'arithmetic'"),
        mode="geometric",
        returns="mutual_information",
    ),
    of(ValueError, "mean_entropy needs mode", returns="mean_entropy", **CFG),
    of(ValueError, "top_p must be in", top_p=2.0),
    of(ValueError, "bool mask must be", mask=torch.ones(3, dtype=torch.bool)),
    of(ValueError, r"keys must be \[2, 2\]", keys=torch.zeros(3, 2, dtype=I64)),
    of(ValueError, "one of keys, seed", keys=make_keys(2), seed=1),
]

generator = torch.Generator().manual_seed(3)
TARGET = torch.randn(3, 3, 8, generator=generator)
DRAFT = TARGET[:, :2] + 0.5 * torch.randn(3, 2, 8, generator=generator)
IDS = DRAFT.argmax(-1)
of = refusing("verify", fusedraw.verify, draft_ids=IDS, draft_logits=DRAFT, target_logits=TARGET)
VERIFY = [
    of(TypeError, "draft_ids must be a torch.Tensor, got list", draft_ids=[[1, 2]]),
    of(TypeError, "draft_ids must be int64 or int32, got float32", draft_ids=IDS.float()),
    of(ValueError, r"draft_ids must be \[3, 2\], got shape \[3, 1\]", draft_ids=IDS[:, :1]),
    of(ValueError, "draft_ids must be on cpu like the rest, got meta", draft_ids=IDS.to("meta")),
    of(TypeError, "target_logits must be a torch.Tensor, got list", target_logits=[1.0]),
    of(TypeError, "target_logits must be float32, bfloat16 or float16", target_logits=TARGET.double()),
    of(ValueError, r"target_logits must be \[B, G \+ 1, V\]", target_logits=TARGET[:, 0, 0]),
    of(ValueError, r"target_logits must be \[B, G \+ 1, V\]", target_logits=TARGET[:, :0]),
    of(ValueError, r"target_logits must have 1 to 2\^33 tokens", target_logits=TARGET[:, :, :0]),
    of(ValueError, r"draft_logits must be .* = \[3, 1, 8\]", target_logits=TARGET[:, :2]),
    of(TypeError, "target_logits must be dense", target_logits=TARGET.to_sparse()),
    of(ValueError, r"draft_logits must be .* got shape \[3, 2, 7\]", draft_logits=DRAFT[:, :, :7]),
    of(TypeError, "draft_logits must be float32, .* got int32", draft_logits=DRAFT.int()),
    of(ValueError, "draft_logits must be on cpu", draft_logits=DRAFT.to("meta")),
    of(ValueError, ": temperature must be >= 0, got -1", temperature=-1),
    of(TypeError, "temperature must be a number or a tensor, got NoneType", temperature=None),
    of(ValueError, ": draft_temperature must be >= 0, got -1", draft_temperature=-1),
    of(ValueError, r": top_p must be in \[0, 1\], got 1.5", top_p=1.5),
    of(ValueError, r": draft_top_p must be in \[0, 1\], got nan", draft_top_p=NAN),
    of(TypeError, "top_k must be an int", top_k=1.5),
    of(ValueError, "draft_top_k must be >= 1", draft_top_k=-2),
    of(TypeError, "min_p must be a number", min_p="a"),
    of(ValueError, "draft_min_p must have length 1 or 3", draft_min_p=torch.zeros(2)),
    of(TypeError, "draft_min_p tensor must be", draft_min_p=torch.zeros(3, dtype=torch.bool)),
    of(ValueError, "temperature must be on cpu", temperature=torch.ones(3, device="meta")),
    of(ValueError, "filter_order must be 'sequential', 'joint' or 'min_p_first'", filter_order="any"),
    of(TypeError, "draft_filter_order must be a str, got int", draft_filter_order=1),
    of(ValueError, "draft_ties must be 'index' or 'all'", draft_ties="none"),
    of(ValueError, r"bool mask must be \[8\], \[3, 8\] or \[3, 3, 8\]", mask=torch.ones(7).bool()),
    of(ValueError, r"bool mask must be .* got shape \[3, 2, 8\]", mask=torch.ones(3, 2, 8).bool()),
    of(TypeError, "mask must be bool or int32, got float32", mask=torch.ones(8)),
    of(TypeError, "mask must be a torch.Tensor, got list", mask=[True] * 8),
    of(ValueError, r"bool draft_mask must be .* or \[3, 2, 8\]", draft_mask=torch.ones(3, 3, 8).bool()),
    of(ValueError, r"int32 draft_mask must be \[1\], \[3, 1\] or", draft_mask=torch.ones(2).int()),
    of(TypeError, "n_draft must be a torch.Tensor, got int", n_draft=2),
    of(ValueError, r"n_draft must be \[3\], got shape \[2\]", n_draft=torch.ones(2, dtype=I64)),
    of(TypeError, "n_draft must be int64 or int32, got float32", n_draft=torch.ones(3)),
    of(ValueError, r"keys must be \[3, 2\]", keys=make_keys(2)),
    of(ValueError, "one of keys, seed and generator", keys=make_keys(3), seed=1),
    of(ValueError, "step needs seed", step=3),
    of(ValueError, "returns must be among .* got 'entropy'", returns=("logp", "entropy")),
    of(TypeError, "returns must be a tuple of names", returns=1),
    of(ValueError, "check must be 'raise' or 'status'", check="never"),
    of(TypeError, "unexpected keyword argument 'mix_eps'", mix_eps=0.5),
]

X = torch.zeros(3, 8)
COIN = {"mix_eps": 0.5}
of = refusing("route", fusedraw.route, logits=X, k=2)
ROUTE = [
    of(ValueError, "k must be between 1 and the number of experts, 8, got 9", k=9),
    of(ValueError, "k must be between 1 .* got 0", k=0),
    of(TypeError, "k must be an int, got float", k=2.0),
    of(TypeError, "k must be an int, got bool", k=True),
    of(TypeError, "logits must be a torch.Tensor", logits=[1.0]),
    of(TypeError, "logits must be float32, bfloat16 or float16, got float64", logits=X.double()),
    of(ValueError, r"logits must be \[V\] or \[B, V\], got shape \[1, 3, 8\]", logits=X[None]),
    of(ValueError, "at most 4096 experts, got 4097", logits=torch.zeros(1, 4097)),
    of(ValueError, "noise must be 'none', 'gumbel' or 'jitter', got 'normal'", noise="normal"),
    of(ValueError, "score must be 'softmax' or 'sigmoid'", score="tanh"),
    of(TypeError, "renormalise must be a bool, got int", renormalise=1),
    of(ValueError, r"mix_eps must be in \[0, 1\], got 1.5", mix_eps=1.5),
    of(ValueError, r"mix_eps must be in \[0, 1\], got nan", mix_eps=NAN),
    of(TypeError, "mix_eps must be a number or a tensor", mix_eps=None),
    of(ValueError, "mix_eps must have length 1 or 3", mix_eps=torch.zeros(2)),
    of(ValueError, r"jitter must be in \[0, 1\]", noise="jitter", jitter=-0.1),
    of(ValueError, "temperature needs noise='gumbel'", temperature=0.5),
    of(ValueError, "temperature must be >= 0", noise="gumbel", temperature=-1),
    of(ValueError, r"bias must be \[8\], one per expert, got shape \[7\]", bias=torch.zeros(7)),
    of(ValueError, "bias needs noise='none', got 'gumbel'", bias=torch.zeros(8), noise="gumbel"),
    of(ValueError, r"replay_ids must be \[3, 2\]", replay_ids=torch.zeros(3, 3, dtype=I64)),
    of(TypeError, "replay_ids must be int64 or int32, got float32", replay_ids=torch.zeros(3, 2)),
    of(ValueError, r"keys must be \[3, 2\]", keys=torch.zeros(2, 2, dtype=I64), **COIN),
    of(ValueError, "one of keys, seed and generator", keys=make_keys(3), seed=1, **COIN),
    of(ValueError, "check must be 'raise' or 'status'", check="never"),
]

REFUSED = [*MULTINOMIAL, *REPLACING, *MIXTURE, *VERIFY, *ROUTE]
