// SPDX-License-Identifier: Apache-2.0
// What the filters keep of a row, as a cut in its order. The list of the largest tokens answers
// where it can; where it cannot, the row is read again until the answer is exact.
#pragma once

#include "plan.cuh"
#include "sums.cuh"

namespace fusedraw::cuda {

// Items: for_each(fn) calls fn(x, id) for every token that the cut keeps, by all threads together.
struct ListItems {
  uint32_t n;
  Cut cut;
  template <typename Fn>
  __device__ void for_each(Fn fn) const {
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n; i += kThreads) {
      const uint64_t e = list_entries().load(int(i));
      if (keeps(cut, entry_value(e), entry_id(e))) fn(entry_value(e), entry_id(e));
    }
  }
};
template <typename T>
struct RowItems {
  const Work<T>& w;
  PostedCut cut;
  template <typename Fn>
  __device__ void for_each(Fn fn) const {
    for_kept(w, cut, [&](float x, int place, int b) { fn(x, int64_t(b) * kBlock + place); });
  }
};

// Whether a list holds all that a cut keeps.
FD_DEVICE bool listed(const List& l, const Cut& cut) { return l.held && cut.lo >= l.lo; }

// The weight of what a cut keeps, all of it on the list.
FD_DEVICE uint64_t mass_on_list(const Cut& cut) {
  const WeightRule rule = posted_rule();
  uint64_t s = 0;  // at most 2560 * 2^43
  ListItems{posted_list().n, cut}.for_each([&](float x, int64_t) { s += weight_at(rule, x); });
  return block_sum(s);
}

// How far a prefix of the order reaches: a count, an amount of weight, a share of all there is.
enum class Goal : uint8_t { kCount, kMass, kShare };

FD_DEVICE uint64_t last_id() { return board().word(kWordCols) - 1; }

// The shortest prefix, in the order, of the tokens that `base` keeps, on the list or in the row,
// whose measure reaches the goal (kMass: what the board's kWordWanted says): first its last value,
// then, among the tokens of that value, the last id. On the board afterwards: kWordAbove + kWordAt,
// its measure.
struct Prefix {
  Cut cut;
  bool reached;
};
template <typename Items>
FD_DEVICE Prefix find_among(const Items& items, const WeightRule& rule, Goal goal, bool ties_all) {
  float x = 0.0f;
#pragma unroll 1
  for (int phase = 0; phase < 2; ++phase) {
    const bool by_id = phase == 1;
    if (by_id) {
      if (threadIdx.x == 0) board().put_wide(kWordBefore, board().wide(kWordAbove));
      __syncthreads();
    }
    const Found found = select_key(
        by_id ? 0 : order_key(items.cut.lo), by_id ? last_id() : order_key(rule.m), 0,
        [&](u128 total) {
          if (!by_id) board().put_wide(kWordTotal, total);
          if (by_id || goal == Goal::kMass) return board().wide(kWordWanted);
          if (goal == Goal::kCount) return u128(board().word(kWordTopK));
          return ceil_mul(top_p_of(), total);
        },
        [&](const BinAdder& add) {
          items.for_each([&](float v, int64_t id) {
            if (by_id && v != x) return;
            add(by_id ? last_id() - uint64_t(id) : uint64_t(order_key(v)),
                goal == Goal::kCount ? 1 : weight_at(rule, v));
          });
        });
    if (!found.reached) return {{0.0f, 0}, false};
    if (by_id) {
      if (threadIdx.x == 0)
        board().put_wide(kWordAbove, board().wide(kWordAbove) + board().wide(kWordBefore));
      __syncthreads();
      return {{x, int64_t(last_id() - found.key)}, true};
    }
    x = from_order_key(uint32_t(found.key));
    if (ties_all) return {{x, kAllTies}, true};
  }
  return {{0.0f, 0}, false};
}
template <typename T>
FD_DEVICE_CALL Prefix prefix_of_list(Cut base, Goal goal, bool ties_all) {
  const Work<T> w = take_work<T>();
  return find_among(ListItems{w.list.n, base}, w.rule, goal, ties_all);
}
template <typename T>
FD_DEVICE Prefix prefix_of_row(Cut base, Goal goal, bool ties_all) {
  const Work<T> w = take_work<T>();
  __syncthreads();
  if (threadIdx.x == 0) board().put(kWordBaseLast, uint64_t(base.last));
  __syncthreads();
  return find_among(RowItems<T>{w, {base.lo, kWordBaseLast}}, w.rule, goal, ties_all);
}

// smallest_with_weight() of the core, 32 keys at a time.
template <typename T>
FD_DEVICE_CALL float lightest_value(uint64_t weight) {
  const WeightRule r = posted_rule();
  if (r.kind == WeightKind::kUniform) return -kFltMax;
  uint64_t low = r.kind == WeightKind::kProbs ? order_key(0.0f) : order_key(-kFltMax);
  uint64_t high = order_key(r.m);
  if (warp_id() == 0) {
#pragma unroll 1
    for (int round = 0; round < 8 && low < high; ++round) {
      const uint64_t step = (high - low) / kLanes + 1;
      uint64_t key = low + uint64_t(lane_id() + 1) * step - 1;
      if (key > high) key = high;
      const uint32_t heavy =
          __ballot_sync(kFullWarp, weight_at(r, from_order_key(uint32_t(key))) >= weight);
      const int first = __ffs(int(heavy)) - 1;  // the last lane always has it
      const uint64_t end = low + uint64_t(first + 1) * step - 1;
      low += uint64_t(first) * step;
      high = end < high ? end : high;
    }
  }
  return from_order_key(uint32_t(block_broadcast(0, high)));
}

// What the filters keep so far, on the board; `whole`: every token with weight.
FD_DEVICE Cut posted_cut() {
  return {float_of(uint32_t(board().word(kWordCut))), int64_t(board().word(kWordCutLast))};
}
FD_DEVICE bool keeps_whole() { return board().word(kWordCut) >> 32 != 0; }
// Both hold barriers.
FD_DEVICE void post_cut(const Cut& cut, bool whole) {
  __syncthreads();
  if (threadIdx.x == 0) {
    board().put(kWordCut, uint64_t(whole) << 32 | bits_of(cut.lo));
    board().put(kWordCutLast, uint64_t(cut.last));
  }
  __syncthreads();
}
FD_DEVICE void narrow(const Cut& cut) {
  const Cut before = posted_cut(), both = stricter(before, cut);
  post_cut(both, keeps_whole() && both.lo == before.lo && both.last == before.last);
}

// What top-k or top-p (by_mass) chooses from: of top-k, and of top-p in the joint order, the whole
// row.
template <typename T>
FD_DEVICE Cut base_cut(bool by_mass) {
  return by_mass && !has_flag(kFlagJoint) ? posted_cut()
                                          : keep_all(posted_row<T>().smallest_valid());
}
// A prefix longer than the list that top-k made does not count where the shorter prefix does.
FD_DEVICE bool ends_in_list(bool by_mass, const Cut& base) {
  const List list = posted_list();
  if (!by_mass) return list.held;
  return listed(list, base) || (list.held && has_flag(kFlagJoint) && has_flag(kFlagTopK));
}

// What kWordStage says while top-k or top-p is under way: about the list as it was before (a second
// pass may make another), and what is still to be done.
enum Stage : uint64_t {
  kEndsInList = 1,
  kOnList = 2,
  kNeedsSum = 4,   // the exact S
  kNeedsPass = 8,  // over the row, for a list and the estimate of S
  kEstimates = 16,
  kExtended = 32,  // the list holds what comes after an earlier one
};
FD_DEVICE bool in_stage(Stage s) { return board().word(kWordStage) & s; }
// Holds barriers.
FD_DEVICE void set_stage(uint64_t on, uint64_t off) {
  __syncthreads();
  if (threadIdx.x == 0) board().put(kWordStage, (board().word(kWordStage) | on) & ~off);
  __syncthreads();
}

FD_DEVICE bool cuts_by_mass() { return board().word(kWordStep) == 2; }

template <typename T>
FD_DEVICE void begin_stage() {
  const bool by_mass = cuts_by_mass();
  const Cut base = base_cut<T>(by_mass);
  const bool ends = ends_in_list(by_mass, base);
  const bool on_list = ends && (!by_mass || listed(posted_list(), base));
  uint64_t stage = 0;
  if (ends) stage |= kEndsInList;
  if (on_list) stage |= kOnList;
  if (!on_list && by_mass) {
    // An estimate is made of logits only, and counts every tie of the base.
    const bool rough = posted_rule().kind == WeightKind::kLogits && base.last == kAllTies;
    stage |= rough ? kEstimates : kNeedsSum;
    if (rough || !posted_list().held) stage |= kNeedsPass;
  }
  if (!on_list && !by_mass && !list_was_tried() && wanted_list(posted_row<T>().cols()) > 0)
    stage |= kNeedsPass;
  __syncthreads();
  if (threadIdx.x == 0) {
    board().put(kWordStage, stage);
    board().put_wide(kWordBelow, 0);
  }
  __syncthreads();
}

// The targets less what an earlier list weighs, which ends where the next begins. False where the
// rest is sure to need more tokens than a list holds.
FD_DEVICE bool extend_list() {
  const List list = posted_list();
  const u128 total = board().wide(kWordTotal), wanted = board().wide(kWordWanted);
  const uint64_t each = weight_at(posted_rule(), list.lo);  // no later token weighs more
  if (wanted - total > u128(each) * kListCapacity * 2) return false;
  __syncthreads();
  if (threadIdx.x == 0) {
    const u128 most = board().wide(kWordMost);
    board().put_wide(kWordWanted, wanted - total);
    board().put_wide(kWordMost, most > total ? most - total : 0);
    board().put_wide(kWordBelow, board().wide(kWordBelow) + total);
    board().put(kWordHi, bits_of(list.lo));
  }
  set_stage(kNeedsPass | kExtended, kEstimates);
  return true;
}

// Cuts by top-k or top-p: on the list, by an estimate of S and then by S itself; or in the row.
template <typename T>
FD_DEVICE void cut_prefix() {
  begin_stage<T>();
#pragma unroll 1
  for (int attempt = 0; attempt < 6; ++attempt) {
    const bool by_mass = cuts_by_mass();
    if (in_stage(kNeedsPass)) {
      uint32_t want = posted_list().held && !in_stage(kExtended) ? 0 : kListWant;
      if (!by_mass) want = wanted_list(posted_row<T>().cols());
      second_pass<T>(base_cut<T>(by_mass).lo, want, in_stage(kEstimates));
      set_stage(0, kNeedsPass);
    }
    if (!posted_list().held) break;
    if (in_stage(kNeedsSum)) {
      const u128 sum = row_sums<T>(posted_rule(), base_cut<T>(true), false).s;
      __syncthreads();
      if (threadIdx.x == 0) {
        board().put_wide(kWordWanted, ceil_mul(top_p_of(), sum) - board().wide(kWordBelow));
        board().put_wide(kWordMost, 0);
      }
      set_stage(0, kNeedsSum);
    }
    const bool by_estimate = by_mass && !in_stage(kOnList);
    const Goal goal = by_estimate ? Goal::kMass : by_mass ? Goal::kShare : Goal::kCount;
    const Prefix p = prefix_of_list<T>(base_cut<T>(by_mass), goal, has_flag(kFlagTiesAll));
    if (!p.reached) {
      if (in_stage(kEndsInList)) return;  // fewer than k tokens, or a longer prefix than top-k's
      if (by_estimate && extend_list()) continue;
      break;
    }
    if (!by_estimate ||
        board().wide(kWordMost) <= board().wide(kWordAbove) + board().wide(kWordAt)) {
      narrow(p.cut);
      if (in_stage(kExtended)) leave_list(List{0, 0.0f, false}, true);
      return;
    }
    set_stage(kNeedsSum, 0);
  }
  const bool by_mass = cuts_by_mass();
  if (in_stage(kExtended)) leave_list(List{0, 0.0f, false}, true);
  const Prefix p = prefix_of_row<T>(base_cut<T>(by_mass), by_mass ? Goal::kShare : Goal::kCount,
                                    has_flag(kFlagTiesAll));
  if (p.reached) narrow(p.cut);
}

template <typename T>
FD_DEVICE void choose_kept() {
  post_cut(keep_all(posted_row<T>().smallest_valid()), true);
  const bool one_token = has_flag(kFlagTopP) && top_p_of() == 0.0f;
  if (has_flag(kFlagGreedy) || one_token) {
    const bool ties = !has_flag(kFlagGreedy) && has_flag(kFlagTiesAll);
    const int64_t last = ties ? kAllTies : first_token<T>();
    narrow(Cut{posted_rule().m, last});
  }
  if (has_flag(kFlagGreedy)) return;
  // Min-p first, top-k, top-p, min-p last. The step is on the board while one of them is at work.
#pragma unroll 1
  for (int step = 0; step < 4; step = int(board().word(kWordStep)) + 1) {
    __syncthreads();
    if (threadIdx.x == 0) board().put(kWordStep, uint64_t(step));
    __syncthreads();
    if (step == 0 || step == 3) {
      const uint64_t least = board().word(step == 0 ? kWordPreWeight : kWordPostWeight);
      if (least > uint64_t(step == 3)) narrow(Cut{lightest_value<T>(least), kAllTies});
    } else if (step == 2 ? has_flag(kFlagTopP) && top_p_of() != 0.0f : has_flag(kFlagTopK)) {
      cut_prefix<T>();
    }
  }
}

}  // namespace fusedraw::cuda
