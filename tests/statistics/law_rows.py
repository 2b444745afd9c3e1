# SPDX-License-Identifier: Apache-2.0
"""C1: the law without filters. C2: with filters, mixing, speculative decoding and multinomial."""

import laws
import torch
from engines import INF, make_mode, make_params, op
from tasks import Case, RowCase

SIZES = (2, 7, 64, 257, 4099, 32_000, 151_936)
LAWS = ("uniform", "zipf", "normal", "wide", "two spikes", "tied")
WITH_A_HEAD = (257, 4099, 32_000, 151_936, 200_001)


def plain():
    for size in SIZES:
        for law in LAWS:
            yield plain_case(law, size)
    for size in WITH_A_HEAD:
        yield plain_case("head", size)


def plain_case(law, size):
    cpu, cuda = (10_000_000, 40_000_000) if size <= 4099 else (2_000_000, 10_000_000)
    return RowCase("C1", f"{law}, V = {size:,}", laws.logits(law, size), cpu, cuda)


# Filters, each and in pairs; `wide` rows where the mass is wanted in few tokens.
FILTERS = {
    "top_k": {"top_k": 9},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.02},
    "mixing": {"mix_eps": 0.3},
    "top_k and top_p": {"top_k": 40, "top_p": 0.8},
    "top_k and min_p": {"top_k": 60, "min_p": 0.05},
    "top_p and min_p": {"top_p": 0.95, "min_p": 0.02},
    "top_k and mixing": {"top_k": 30, "mix_eps": 0.2},
    "top_p and mixing": {"top_p": 0.9, "mix_eps": 0.2},
    "min_p and mixing": {"min_p": 0.05, "mix_eps": 0.2},
    "joint": {"top_k": 40, "top_p": 0.8, "filter_order": "joint"},
    "min_p_first": {"min_p": 0.05, "top_p": 0.9, "filter_order": "min_p_first"},
    "all filters": {"top_k": 50, "top_p": 0.95, "min_p": 0.01, "temperature": 1.3},
    "ties kept, top_k": {"top_k": 20, "ties": "all"},
    "ties kept, top_p": {"top_p": 0.7, "ties": "all"},
    "mixing over valid, filters": {"mix_eps": 0.25, "top_k": 30, "top_p": 0.9, "mix_support": "valid"},
    "mixing over valid, greedy": {"mix_eps": 0.5, "mix_support": "valid", "temperature": 0.0},
    "infinite temperature": {"temperature": INF, "top_k": 300},
}


# Of a `wide` row these keep one to three tokens: a `normal` one, too.
KEEP_FEW = ("top_p", "top_k and top_p", "top_p and min_p", "top_p and mixing")


def filtered_row(name, size=400, law=None):
    law = law or ("tied" if "ties" in name else "wide" if "top_p" in name else "normal")
    x = laws.logits(law, size).float()
    x[5::50] = -INF
    return x


def filtered():
    for name, options in FILTERS.items():
        yield filtered_case(f"{name}, V = 400", filtered_row(name), options)
    for name in KEEP_FEW:
        yield filtered_case(f"{name}, normal, V = 400", filtered_row(name, law="normal"), FILTERS[name])
    for name in ("top_k and top_p", "top_p and min_p", "min_p"):
        yield filtered_case(f"{name}, V = 4,099", filtered_row(name, 4099), FILTERS[name], 1_000_000)
    for name in ("top_k", "top_p", "top_p and mixing"):
        p = torch.softmax(filtered_row(name), -1) * 2.5
        yield filtered_case(f"{name}, probabilities, V = 400", p, FILTERS[name], probs=True)
    yield WithReplacement("normal", 257)
    yield WithReplacement("zipf", 4099)
    yield WithReplacement("wide", 32_000)
    yield from (WithoutReplacement(size, n) for size, n in ((4, 2), (5, 3), (6, 4)))
    yield from (Verify(name, *of) for name, of in VERIFY.items())
    yield VerifyLong()
    yield from (Members(how) for how in ("arithmetic", "geometric"))


def filtered_case(name, x, options, cpu=2_000_000, probs=False):
    values, mode = laws.split_options(options)
    mode |= make_mode(probs=probs)
    case = RowCase(
        "C2", name, x, cpu, 20_000_000, mode=mode, law=lambda: laws.law_of(x.tolist(), probs, **options)
    )
    case.params, case.slow = values, 8.0
    return case


class Multinomial(Case):
    slow = 4.0

    def __init__(self, name, p, per_row, replacement, cpu, cuda):
        super().__init__("C2", name, len(p), cpu, cuda)
        self.probs, self.per_row, self.replacement = p, per_row, replacement

    def draws_of(self, indices, seed):
        """[rows, per_row]"""
        keys = self.keys(indices, seed)
        p = self.probs.to(indices.device).expand(len(keys), -1)
        return op.multinomial(p, keys, self.per_row, self.replacement, 0)[0]


class WithReplacement(Multinomial):
    """64 draws of a row."""

    def __init__(self, law, size):
        p = torch.softmax(laws.logits(law, size), -1)
        name = f"multinomial with replacement, {law}, V = {size:,}"
        super().__init__(name, p, 64, True, 10_000_000, 40_000_000)

    def law(self):
        return laws.law_of(self.probs.tolist(), probs=True)

    def codes(self, indices, seed):
        rows = indices[indices % 64 == 0] // 64
        return self.draws_of(rows, seed).flatten()

    def piece(self, device):
        return max(super().piece(device), 64)


class WithoutReplacement(Multinomial):
    """Every ordered outcome."""

    def __init__(self, size, n):
        p = torch.arange(1.0, size + 1) / 7
        name = f"multinomial without replacement, {n} of {size}"
        super().__init__(name, p, n, False, 2_000_000, 20_000_000)

    def law(self):
        return laws.ordered_law(laws.law_of(self.probs.tolist(), probs=True), self.per_row)

    def binnings(self):
        return {"ordered outcomes": torch.arange(self.size**self.per_row)}

    def codes(self, indices, seed):
        places = self.size ** torch.arange(self.per_row, device=indices.device)
        return (self.draws_of(indices, seed) * places).sum(1)


VERIFY = {  # options of the target, of the draft
    "plain": ({}, {}),
    "temperatures": ({"temperature": 0.7}, {"temperature": 1.8}),
    "target cut": ({"top_k": 6}, {}),
    "both cut": ({"temperature": 0.9, "top_p": 0.8}, {"temperature": 1.2, "top_k": 9}),
    "min_p": ({"min_p": 0.1}, {"min_p": 0.2}),
}
DRAFT = make_mode(domain=1)


class Members(Case):
    """One token from the mean of several models' laws, or of their logits."""

    slow, weights = 8.0, (0.5, 0.2, 0.3)

    def __init__(self, how, size=400):
        super().__init__(
            "C2", f"{how} mixture of {len(self.weights)} models, V = {size}", size, 2_000_000, 20_000_000
        )
        self.how = ("arithmetic", "geometric").index(how)
        g = torch.Generator().manual_seed(size)
        self.members = torch.randn(len(self.weights), size, generator=g) * 2

    def law(self):
        """Of the integer weights of each model; the mean of logits in float64, 10^-6 beside the law's."""
        if self.how == 0:
            parts = zip(self.weights, self.members, strict=True)
            return sum(weight * laws.plain_law(x) for weight, x in parts)
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return torch.softmax((weights[:, None] * self.members.double()).sum(0), -1)

    def codes(self, indices, seed):
        keys = self.keys(indices, seed)
        members = [x.to(keys.device).expand(len(keys), -1) for x in self.members]
        weights = torch.tensor([self.weights], dtype=torch.float64)
        return op.mixture(members, weights, make_params(), keys, None, self.how, 0, 0)[0]


class Verify(Case):
    """One draft of a draft model, verified: draft and emitted token jointly."""

    slow = 6.0

    def __init__(self, name, of_target, of_draft, size=16):
        super().__init__("C2", f"verify, {name}, V = {size:,}", size, 2_000_000, 20_000_000)
        self.of_target, self.of_draft = of_target, of_draft
        g = torch.Generator().manual_seed(size)
        self.target = torch.randn(2, size, generator=g)
        self.draft = self.target[:1] + 0.7 * torch.randn(1, size, generator=g)

    def both_laws(self):
        p = laws.law_of(self.target[0].tolist(), **self.of_target)
        return p, laws.law_of(self.draft[0].tolist(), **self.of_draft)

    def law(self):
        return laws.joint_law(*self.both_laws()).flatten()

    def binnings(self):
        return {"draft and token": torch.arange(self.size**2)}

    def drawn(self, indices, seed):
        """(drafts, emitted tokens)"""
        keys, device = self.keys(indices, seed), indices.device
        rows, params = len(keys), [make_params(**o).to(device) for o in (self.of_draft, self.of_target)]
        draft, target = self.draft.to(device), self.target.to(device)
        drafts = op.sample(draft.expand(rows, -1), params[0], keys, None, DRAFT, 0, 0)[0]
        x = draft.expand(rows, 1, -1), target.expand(rows, 2, -1)
        ids = op.verify(drafts[:, None], *x, *params, keys, None, None, None, 0, False)[0]
        return drafts, ids[:, 0]

    def codes(self, indices, seed):
        drafts, ids = self.drawn(indices, seed)
        return torch.where(ids < 0, -1, drafts * self.size + ids)


class VerifyLong(Verify):
    """The emitted token alone, in every binning."""

    slow = 12.0

    def __init__(self):
        super().__init__("cut, token alone", {"top_k": 200, "top_p": 0.95}, {"top_k": 300}, 4099)

    def law(self):
        return self.both_laws()[0]

    def binnings(self):
        return Case.binnings(self)

    def codes(self, indices, seed):
        return self.drawn(indices, seed)[1]
