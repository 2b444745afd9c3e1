# SPDX-License-Identifier: Apache-2.0
"""Forty mistakes, each with the test that must tell it by an assertion. run.py makes them one at a time.

Twenty are the mistakes that the plan of the tests names (FROM_THE_PLAN), in the words of this code; twenty
more were chosen beside them, before any test was run on them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    name: str
    stands_for: str
    file: str
    edits: tuple  # (text as it is, text instead), ...
    test: str  # a node id of pytest; without brackets: every case of it
    count: int = 1  # how often each text stands in the file
    kernels: bool = False  # of a CUDA kernel: run by the executor, built for float32 alone


FROM_THE_PLAN = [
    Mutant(
        "less for less-or-equal",
        "u <= p for u < p: a draw that falls on the end of a token's stretch goes to that token",
        "csrc/cpu/passes/multinomial.inl",
        (("if (running > point) break;", "if (running >= point) break;"),),
        "tests/test_endpoints.py::test_with_replacement_at_the_thresholds",
    ),
    Mutant(
        "last partial block dropped",
        "the rest of a row beyond whole blocks is never read",
        "csrc/cpu/passes/row.inl",
        (
            (
                "r.cols = v.cols;\n  r.blocks = (v.cols + kBlock - 1) / kBlock;",
                "r.cols = v.cols > kBlock ? v.cols - v.cols % kBlock : v.cols;\n"
                "  r.blocks = (r.cols + kBlock - 1) / kBlock;",
            ),
        ),
        "tests/test_laws_agree.py::test_single_survivor_at_every_place",
    ),
    Mutant(
        "lane 7 duplicated",
        "a shuffle that gives one lane what belongs to its neighbour",
        "csrc/cpu/simd_avx2.h",
        (
            (
                "static F load(const float* p) { return _mm256_loadu_ps(p); }",
                "static F load(const float* p) {\n"
                "    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(p),\n"
                "                                    _mm256_set_epi32(6, 6, 5, 4, 3, 2, 1, 0));\n  }",
            ),
        ),
        "tests/test_laws_agree.py::test_one_odd_value_at_every_place",
    ),
    Mutant(
        "noise of 24 bits",
        "a uniform number in float32's resolution: tokens far below the best can never win",
        "csrc/core/noise.h",
        (
            (
                "const double v = (double(r64) + 0.5) * 0x1p-64;",
                "const double v = (double(r64 >> 40) + 0.5) * 0x1p-24;",
            ),
        ),
        "tests/test_statistics.py::test_a_tail_token_wins_when_its_noise_is_small_enough",
    ),
    Mutant(
        "remainder for multiplication",
        "r % S for floor(r S / 2^128): biased, and no longer monotone in r",
        "csrc/core/noise.h",
        (("return r1 * s1 + (a >> 64) + (b >> 64) + carry;", "return carry > 3 ? 0 : r % s;"),),
        "tests/test_endpoints.py::test_with_replacement_at_the_ends",
    ),
    Mutant(
        "top-p one token too many at equality",
        "a prefix whose mass is exactly p goes on by one token",
        "csrc/cpu/passes/list.inl",
        (("if (upper >= target) {", "if (upper > target) {"),),
        "tests/test_laws_agree.py::test_sums_are_exact",
    ),
    Mutant(
        "ties to the highest index",
        "equal logits are ordered by descending index",
        "csrc/cpu/passes/list.inl",
        (
            (
                "uint32_t id() const { return ~uint32_t(key); }",
                "uint32_t id() const { return uint32_t(key); }",
            ),
            (
                "return {uint64_t(order_key(x)) << 32 | uint32_t(~id), w};",
                "return {uint64_t(order_key(x)) << 32 | id, w};",
            ),
        ),
        "tests/test_endpoints.py::test_equal_logits_by_index",
    ),
    Mutant(
        "drafts share the target's noise",
        "the draft's domain is the target's, so that both models draw with the same numbers",
        "pyext/fusedraw/_params.py",
        (('"draft": 1 << 4', '"draft": 0'),),
        "tests/test_facade_keys.py::test_domains_are_disjoint",
    ),
    Mutant(
        "seed of 32 bits",
        "the high half of a seed is lost on the way to a key",
        "csrc/core/keys.h",
        (
            (
                "philox4x32_10(uint32_t(seed), uint32_t(seed >> 32), uint32_t(request),",
                "philox4x32_10(uint32_t(seed), 0u, uint32_t(request),",
            ),
        ),
        "tests/test_odd_input_seeds.py::test_seeds_count_mod_2_to_the_64",
    ),
    Mutant(
        "noise by place in the batch",
        "the number of the row enters its noise: another batch, another draw",
        "csrc/cpu/passes/sample.inl",
        (
            (
                "const Noise noise = row_noise(call.keys, row, call.options.domain, call.forced, "
                "call.n_forced);\n",
                "Noise noise = row_noise(call.keys, row, call.options.domain, call.forced, call.n_forced);\n"
                "  noise.offset ^= uint64_t(row);\n",
            ),
        ),
        "tests/test_invariance_batch.py::test_batch_size_position_and_order",
    ),
    Mutant(
        "temperature after top-p",
        "the filters see T = 1, and only the draw the temperature",
        "csrc/cpu/passes/sample.inl",
        (
            (
                "    k = choose_kept(r, plan, pool, scratch);\n",
                "    const WeightRule own = r.rule;\n"
                "    if (!call.options.probs) r.rule = weight_rule(r.rule.m, 1.0f, false);\n"
                "    k = choose_kept(r, plan, pool, scratch);\n"
                "    r.rule = own;\n",
            ),
        ),
        "tests/test_statistics.py::test_law_with_filters[everything]",
    ),
    Mutant(
        "exploring counts what is excluded",
        "the uniform part of a mixture is spread over masked tokens too",
        "csrc/cpu/passes/sample.inl",
        (("support = count_kept(r, Cut{smallest_valid(r), kAllTies});", "support = r.cols;"),),
        "tests/test_mixing.py::test_a_whole_share_is_uniform",
    ),
    Mutant(
        "row offset of 32 bits",
        "row times stride overflows in large batches (wrapped here, lest the process crash)",
        "csrc/cpu/passes/row.inl",
        (
            (
                "const int64_t offset = row * v.row_stride;",
                "const int64_t offset = uint32_t(row * v.row_stride);",
            ),
        ),
        "tests/test_odd_input_memory.py::test_rows_beyond_32_bit_offsets",
    ),
    Mutant(
        "NaN read as minus infinity",
        "a NaN among the logits is skipped instead of said",
        "csrc/cpu/passes/row.inl",
        (("  if (nan) return kNan;\n", ""),),
        "tests/test_bad_input_rows.py::test_bad_row",
    ),
    Mutant(
        "noise by rank",
        "the noise belongs to a token's place among the survivors, not to its id",
        "csrc/cpu/passes/list.inl",
        (("noise_r64(noise, kPurposeToken, l.id[i])", "noise_r64(noise, kPurposeToken, i)"),),
        "tests/test_endpoints.py::test_token_noise_at_its_ends",
    ),
    Mutant(
        "step ignored on replay",
        "a compiled graph that is run again with another step draws the same tokens",
        "pyext/fusedraw/keys.py",
        (
            (
                "return _derive(words[0], torch.arange(rows, device=x.device), _zero(x), words[1], rows)",
                "return _derive(words[0], torch.arange(rows, device=x.device), _zero(x), _zero(x), rows)",
            ),
        ),
        "tests/test_torch_compile.py::test_a_graph_that_is_run_again_goes_by_its_step",
    ),
    Mutant(
        "two roundings for one in AVX2",
        "multiply and add where the law says fused multiply-add, in one instruction set",
        "csrc/cpu/simd_avx2.h",
        (("return _mm256_fmadd_ps(a, b, c);", "return add(mul(a, b), c);"),),
        "tests/test_weights.py::test_all_weights[avx2]",
    ),
    Mutant(
        "trunc for floor in AVX-512",
        "the fraction of a negative number is taken from above",
        "csrc/cpu/simd_avx512.h",
        (
            (
                "_mm512_sub_ps(t, _mm512_roundscale_ps(t, 0x09))",
                "_mm512_sub_ps(t, _mm512_roundscale_ps(t, 0x0b))",
            ),
        ),
        "tests/test_weights.py::test_all_weights[avx512]",
    ),
    Mutant(
        "sum one block short",
        "the last block is missing from the sum that normalises",
        "csrc/cpu/passes/sums.inl",
        (
            (
                "const int64_t end = begin + t.parts.per < r.blocks ? begin + t.parts.per : r.blocks;",
                "const int64_t last = r.blocks > 1 ? r.blocks - 1 : 1;\n"
                "    const int64_t end = begin + t.parts.per < last ? begin + t.parts.per : last;",
            ),
        ),
        "tests/test_laws_agree.py::test_lane_and_block_edges",
    ),
    Mutant(
        "stale workspace",
        "memory kept between calls is not cleared: a mask also allows what an earlier one allowed",
        "csrc/cpu/passes/row.inl",
        (("  memset(out, 0, size_t(words) * 4);\n", ""),),
        "tests/test_invariance_state.py::test_stale_workspace",
    ),
]

CHOSEN_BESIDE = [
    Mutant(
        "coin fires at its threshold",
        "r <= ceil(eps 2^64) for r < it: an exploration of share 0 fires",
        "csrc/core/rules.h",
        (("return u128(r64) < ceil_mul(mix_eps", "return u128(r64) <= ceil_mul(mix_eps"),),
        "tests/test_endpoints.py::test_coin",
    ),
    Mutant(
        "one lane of a wide product in AVX-512",
        "a mask constant lacks its top bit: the last lane's noise is of the wrong half",
        "csrc/cpu/simd_avx512.h",
        (("hi = _mm512_mask_blend_epi32(0xAAAA,", "hi = _mm512_mask_blend_epi32(0x2AAA,"),),
        "tests/test_route.py::test_many_experts",
    ),
    Mutant(
        "every second vector unchecked",
        "of two vectors that are checked for NaN together, one is not looked at, in the portable engine",
        "csrc/cpu/simd_scalar.h",
        (("return a.v[i] == a.v[i] && b.v[i] == b.v[i];", "return a.v[i] == a.v[i];"),),
        "tests/test_laws_agree.py::test_one_odd_value_at_every_place",
    ),
    Mutant(
        "a bound that is none",
        "a lazy search skips blocks that could still win, since their mass is bounded too low",
        "csrc/cpu/passes/race.inl",
        (("V::reduce_add(e) * float(kBlock / V::kLanes) * kGrow", "V::reduce_add(e) * kGrow"),),
        "tests/test_laws_agree.py::test_long_rows",
    ),
    Mutant(
        "one tie too many on the long way",
        "the rare path of top-k, for very many equal tokens, is off by one",
        "csrc/cpu/passes/select.inl",
        (("u128(uint64_t(k - above))", "u128(uint64_t(k - above + 1))"),),
        "tests/test_laws_agree.py::test_long_lists_of_ties",
    ),
    Mutant(
        "an estimate that decides",
        "the error of a rough sum is believed to be smaller than it is, and top-p cuts by it",
        "csrc/cpu/passes/estimate.inl",
        (("kRoughError = 8.2e-5;", "kRoughError = 8.2e-9;"),),
        "tests/test_laws_agree.py::test_top_p_at_the_cut",
    ),
    Mutant(
        "raised tokens go unseen",
        "after a bias the maximum of a block is looked at anew only where values fell",
        "csrc/cpu/passes/edits.inl",
        (
            (
                "stale[b] |= !(y < x && below_maxima(group_max, block_max, b, x)) & !(y == x);",
                "stale[b] |= y < x && !below_maxima(group_max, block_max, b, x);",
            ),
        ),
        "tests/test_processed.py::test_a_raised_token_is_seen",
    ),
    Mutant(
        "XTC keeps the first of equals",
        "of equal top choices the first takes the lead, not the last",
        "csrc/cpu/passes/late_rules.inl",
        (("if (x <= last.hi) last = {x, id};", "if (x < last.hi) last = {x, id};"),),
        "tests/test_processed.py::test_every_kind_of_row",
    ),
    Mutant(
        "recovery from the target",
        "a rejected draft is replaced by a draw from the target's law, not from what the draft left of it",
        "csrc/cpu/passes/verify.inl",
        (
            (
                "sum += each[i] = residual(w[i], f.target->law.sum, v[i], f.draft->law.sum);",
                "sum += each[i] = u128(w[i]) * f.draft->law.sum;",
            ),
        ),
        "tests/test_verify_law.py::test_recovered_tokens_follow_the_residual",
    ),
    Mutant(
        "all positions with one key, on CUDA",
        "each draft of a row is judged with the noise of the first",
        "csrc/cuda/verify.cuh",
        (
            (
                "return position_noise(key.load(0), key.load(1), position, domain,",
                "return position_noise(key.load(0), key.load(1), 0 * position, domain,",
            ),
        ),
        "tests/test_cuda_verify.py::test_fewer_drafts_and_none",
        kernels=True,
    ),
    Mutant(
        "differences from the running sum",
        "of three models and more, logits are compared with what is summed so far, not with the base",
        "csrc/cpu/passes/mixture.inl",
        (("V::fma(c, V::sub(x, V::load(base + j)), so_far)", "V::fma(c, V::sub(x, so_far), so_far)"),),
        "tests/test_mixture.py::test_any_number_of_members",
    ),
    Mutant(
        "equal experts by descending index",
        "where few experts contend, ties between them go to the higher index",
        "csrc/cpu/passes/route.inl",
        (("const int later = all[j].key <= all[i].key;", "const int later = all[j].key < all[i].key;"),),
        "tests/test_route.py::test_ties_go_to_the_lowest_index",
    ),
    Mutant(
        "the entropy's slope left out at the scored token",
        "one element of a gradient lacks one of its two terms",
        "csrc/cpu/passes/token_logprob_grad.inl",
        (("round_to(s.own - entropy_slope(s, x), out[id]);", "round_to(s.own + 0.0f * x, out[id]);"),),
        "tests/test_token_logprob_gradient.py::test_gradient_equals_that_of_the_enumeration",
    ),
    Mutant(
        "masks read as if contiguous",
        "the stride of a mask's rows is taken to be its width",
        "csrc/ops/checks.cpp",
        (
            (
                "m.row_stride = dim == 2 && t.size(0) > 1 ? hold.stride(0) : 0;",
                "m.row_stride = dim == 2 && t.size(0) > 1 ? width : 0;",
            ),
        ),
        "tests/test_invariance_memory.py::test_strides_and_offsets",
    ),
    Mutant(
        "the caller's floating-point mode",
        "subnormals are flushed where the caller flushes them: weights change with the state of a thread",
        "csrc/ops/parallel.h",
        (
            (
                "const auto run = [&](int64_t begin, int64_t end) {\n      FpEnv mode;\n",
                "const auto run = [&](int64_t begin, int64_t end) {\n",
            ),
        ),
        "tests/test_invariance_state.py::test_flushed_subnormals",
    ),
    Mutant(
        "parameters of the first row for all",
        "a batch with one temperature a row is drawn with that of row 0",
        "csrc/ops/checks.cpp",
        (("row_stride = t.size(0) == 1 ? 0 : columns;", "row_stride = t.size(0) == 1 ? 0 : 0 * columns;"),),
        "tests/test_facade_arguments.py::test_one_value_per_row",
    ),
    Mutant(
        "True remembered as 1",
        "a cache of checked parameters takes a bool for the number that it equals",
        "pyext/fusedraw/_params.py",
        (("@functools.lru_cache(maxsize=1024, typed=True)", "@functools.lru_cache(maxsize=1024)"),),
        "tests/test_bad_input_refused.py::test_refused[sample: top_k bool, after 1 was cached]",
    ),
    Mutant(
        "drafts verified without their mask",
        "the draft's law is computed without the mask that its tokens were drawn with",
        "pyext/fusedraw/speculative.py",
        (
            (
                "draft_mask = mask[:, :drafts] if mask.dim() == 3 and mask.shape[1] != 1 else mask",
                "draft_mask = None",
            ),
        ),
        "tests/test_verify_calls.py::test_the_drafts_mask_is_the_targets_where_it_is_left_out",
    ),
    Mutant(
        "edits of half a block, on CUDA",
        "of the counts by which an edited token's value is found, only the first four are read",
        "csrc/cuda/edits.cuh",
        (("(w < 4 ? ranks.w[0] : ranks.w[1]) >> (w % 4 * 8)", "ranks.w[0] >> (w % 4 * 8)"),),
        "tests/test_cuda_processed.py::test_edits_are_those_of_float32[torch.float32]",
        kernels=True,
    ),
    Mutant(
        "half of a mask, on CUDA",
        "the bits of a lane's second piece of a block fall on those of its first",
        "csrc/cuda/row.cuh",
        (("((1u << kRun) - 1)) << (g * kRun);", "((1u << kRun) - 1)) << (g * 0);"),),
        "tests/test_cuda_executor.py::test_masked_out_is_minus_infinity",
        kernels=True,
    ),
]

MUTANTS = {mutant.name: mutant for mutant in (*FROM_THE_PLAN, *CHOSEN_BESIDE)}

# What the test first named for it, or its first form, did not kill: (name, that test, what it lacked).
SURVIVED = (
    (
        "step ignored on replay",
        "tests/test_torch_compile.py::test_compile[seed and step tensors-aot_eager]",
        "it compared a graph with the same call outside it, which shares the mistake",
    ),
    (
        "raised tokens go unseen",
        "tests/test_processed.py::test_edits_are_those_of_float32",
        "with so many edits some other token of the block falls, which has the block looked at anew",
    ),
    (
        "equal experts by descending index",
        "tests/test_route.py::test_ties_go_to_the_lowest_index",
        "it had ties among many experts, which are sorted, and none among few, whose places are counted",
    ),
    (
        "the caller's floating-point mode",
        "tests/test_invariance_state.py::test_flushed_subnormals",
        "it met the mistake as an error of a call that raises, before it compared anything",
    ),
    (
        "drafts verified without their mask",
        "tests/test_verify_calls.py::test_the_draft_takes_after_the_target",
        "of its three rows none is accepted otherwise where the mask is left out",
    ),
)

# Chosen, and replaced since nothing can tell them from the code as it is: (name, why, what took its place).
EQUIVALENT: tuple = ()
