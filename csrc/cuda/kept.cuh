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
    for (uint32_t i = uint32_t(thread_id()); i < n; i += kThreads) {
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
      if (thread_id() == 0) board().put_wide(kWordBefore, board().wide(kWordAbove));
      __syncthreads();
    }
    const Found found = select_key(
        by_id ? 0 : order_key(items.cut.lo), by_id ? last_id() : order_key(rule.m),
        [&](u128 total) {
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
      if (thread_id() == 0)
        board().put_wide(kWordAbove, board().wide(kWordAbove) + board().wide(kWordBefore));
      __syncthreads();
      return {{x, int64_t(last_id() - found.key)}, true};
    }
    x = from_order_key(uint32_t(found.key));
    if (ties_all) return {{x, kAllTies}, true};
  }
  return {{0.0f, 0}, false};
}
// The same for at most kThreads listed tokens, one a thread: each adds up what comes before it.
FD_DEVICE Prefix rank_listed(uint32_t n, const Cut& base, const WeightRule& rule, Goal goal,
                             bool ties_all) {
  const uint32_t t = uint32_t(thread_id());
  const Shared<uint64_t> entries = list_entries(), measures = bins().high;
  uint64_t mine = 0, measure = 0;
  if (t < n) {
    mine = entries.load(int(t));
    if (keeps(base, entry_value(mine), entry_id(mine)))
      measure = goal == Goal::kCount ? 1 : weight_at(rule, entry_value(mine));
    measures.store(int(t), measure);
  }
  u128 wanted = goal == Goal::kShare   ? ceil_mul(top_p_of(), block_sum(measure))
                : goal == Goal::kCount ? u128(board().word(kWordTopK))
                                       : board().wide(kWordWanted);
  __syncthreads();
  // All tokens of a value end together where ties do.
  constexpr uint64_t kIds = ~uint32_t{0};
  const uint64_t end = ties_all ? mine | kIds : mine, begin = ties_all ? mine & ~kIds : mine;
  uint64_t before = 0, through = 0;
  if (measure > 0) {
#pragma unroll 1
    for (uint32_t i = 0; i < n; ++i) {
      const uint64_t entry = entries.load(int(i)), amount = measures.load(int(i));
      if (entry < begin) before += amount;
      if (entry <= end) through += amount;
    }
  }
  const bool ends = before < wanted && through >= wanted;
  const uint32_t last = block_max(ends ? t + 1 : 0);
  if (last == 0) return {{0.0f, 0}, false};
  if (t + 1 == last) {
    board().put_wide(kWordAbove, through);
    board().put_wide(kWordAt, 0);
  }
  __syncthreads();
  const uint64_t entry = entries.load(int(last) - 1);
  return {{entry_value(entry), ties_all ? kAllTies : entry_id(entry)}, true};
}
FD_DEVICE_CALL Prefix prefix_of_list(Cut base, Goal goal, bool ties_all) {
  const uint32_t n = posted_list().n;
  const WeightRule rule = posted_rule();
  if (n <= kThreads) return rank_listed(n, base, rule, goal, ties_all);
  return find_among(ListItems{n, base}, rule, goal, ties_all);
}
template <typename T>
FD_DEVICE Prefix prefix_of_row(Cut base, Goal goal, bool ties_all) {
  const Work<T> w = take_work<T>();
  __syncthreads();
  if (thread_id() == 0) board().put(kWordBaseLast, uint64_t(base.last));
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
  if (thread_id() == 0) {
    board().put(kWordCut, uint64_t(whole) << 32 | bits_of(cut.lo));
    board().put(kWordCutLast, uint64_t(cut.last));
  }
  __syncthreads();
}
FD_DEVICE void narrow(const Cut& cut) {
  const Cut before = posted_cut(), both = stricter(before, cut);
  post_cut(both, keeps_whole() && both.lo == before.lo && both.last == before.last);
}

// Where what there is to choose from begins.
constexpr int kWordBase = kWordSum;  // of rows with rules; by-products use the word later
template <typename T>
FD_DEVICE float base_value() {
  if constexpr (kEdited<T>) return float_of(uint32_t(board().word(kWordBase)));
  return posted_row<T>().smallest_valid();
}
// What top-k or top-p (by_mass) chooses from: of top-k, and of top-p in the joint order, the whole
// row.
template <typename T>
FD_DEVICE Cut base_cut(bool by_mass) {
  return by_mass && !has_flag(kFlagJoint) ? posted_cut() : keep_all(base_value<T>());
}
// What kWordStage says while top-k or top-p is under way: what a list means, and what is still to
// be done.
enum Stage : uint64_t {
  kOnList = 1,      // the list holds all that there is to choose from
  kEndsInList = 2,  // a prefix that is longer than the list does not count
  kNeedsPass = 4,   // over the row: for the estimate of S, or group keys
  kEstimates = 8,
  kNeedsSum = 16,  // the exact S
  kNeedsList = 32,
  kNoList = 64,   // more tokens than one holds
  kLonger = 128,  // the list was too short
};
FD_DEVICE bool in_stage(Stage s) { return board().word(kWordStage) & s; }
// Holds barriers.
FD_DEVICE void set_stage(uint64_t on, uint64_t off) {
  __syncthreads();
  if (thread_id() == 0) board().put(kWordStage, (board().word(kWordStage) | on) & ~off);
  __syncthreads();
}

FD_DEVICE bool cuts_by_mass() { return board().word(kWordStep) == 2; }

template <typename T>
FD_DEVICE void begin_stage() {
  const bool by_mass = cuts_by_mass();
  const Cut base = base_cut<T>(by_mass);
  const List list = posted_list();
  uint64_t stage = 0;
  if (by_mass && !listed(list, base)) {
    // An estimate is made of logits only, and counts every tie of the base.
    const bool rough = posted_rule().kind == WeightKind::kLogits && base.last == kAllTies;
    stage |= rough ? kEstimates | kNeedsPass : kNeedsSum;
    // In the joint order the shorter prefix counts, and that of top-k is on the list.
    stage |= list.held && has_flag(kFlagJoint) && has_flag(kFlagTopK) ? kEndsInList : kNeedsList;
  } else if (list.held) {
    stage |= kOnList | kEndsInList;
  } else {
    stage |= kNeedsList;
  }
  if ((stage & kNeedsList) && !posted_groups().any()) stage |= kNeedsPass;
  if (!by_mass && wanted_list(posted_row<T>().cols()) == 0) stage = kNoList;
  __syncthreads();
  if (thread_id() == 0) {
    board().put(kWordStage, stage);
    post_pass(base.lo, stage & kEstimates);
    board().put(kWordMore, bits_of(0.5f));
  }
  __syncthreads();
}

// The exact target of top-p.
template <typename T>
FD_DEVICE void post_target() {
  const u128 sum = row_sums<T>(posted_rule(), base_cut<T>(true), false).s;
  __syncthreads();
  if (thread_id() == 0) {
    const u128 wanted = ceil_mul(top_p_of(), sum);
    board().put_wide(kWordWanted, wanted);
    board().put_wide(kWordMost, wanted);
  }
  __syncthreads();
}

// A value that tokens of top-p's share of the weight are likely to reach, at or above least. A
// guess from n groups: that their maxima are to their weights what they are on the whole, with a
// part `more` of the rest added.
FD_DEVICE float value_of_share(int n, float least, float more) {
  constexpr int kUnit = 24;  // 4096 groups of 2^19 units each add up to less than 2^32
  static_assert(uint64_t{kMaxGroups} << (kWeightBits - kUnit) < uint64_t{1} << 32, "units");
  const WeightRule rule = posted_rule();
  // Below this a group weighs less than a unit, of logits.
  const float light = rule.m - 0.7f * float(kWeightBits - kUnit + 1) * temperature_of();
  const float from = rule.kind == WeightKind::kLogits && light > least ? light : least;
  const auto units_of = [&](uint32_t key) {
    const float x = value_of_group_key(key);
    return x < from ? 0u : uint32_t(weight_at(rule, x) >> kUnit);
  };
  const uint32_t lowest = group_key(from), top = group_key(rule.m);
  uint64_t units = 0;
#pragma unroll 1
  for (int i = thread_id(); i < n; i += kThreads) {
    const uint32_t key = group_keys().load(i);
    if (key >= lowest && key <= top) units += units_of(key);
  }
  const float share = top_p_of() + (1.0f - top_p_of()) * more;
  const uint32_t wanted = uint32_t(share * float(block_sum(units)));
  const uint32_t key = key_threshold(
      n, lowest, top, wanted == 0 ? 1 : wanted,
      [](int i) { return uint32_t(group_keys().load(i)); }, units_of);
  return key == 0 ? least : larger(value_of_group_key(key), least);
}

// Gathers the list that top-k or top-p asks for, where the groups say what it must hold.
template <typename T>
FD_DEVICE void make_list() {
  const bool by_mass = cuts_by_mass();
  const Work<T> w = take_work<T>();
  const Groups groups = posted_groups();
  const int n = groups.any() ? groups.of_blocks(w.row.blocks) : 0;
  const float least = base_cut<T>(by_mass).lo;
  const float lo =
      by_mass ? value_of_share(n, least, float_of(uint32_t(board().word(kWordMore))))
              : value_of_count(n, least, group_key(w.rule.m), uint32_t(board().word(kWordTopK)));
  // Few tokens are listed without being asked for.
  const bool few = w.row.cols() <= kListCapacity || w.row.masked();
  List list;
  if (w.row.cols() < kMaxListed && (few || lo > least))
    list = gather(w.row, w.maxima, groups, lo, 0, w.row.blocks);
  leave_list(list);
}

// Where values are spread over many: the row's weight in 256 bins of equal width in x, then a list
// of the tokens of the bin in which the prefix ends. Not reached: there are too many of them.
template <typename T>
FD_DEVICE Prefix prefix_by_bins() {
  const Work<T> w = take_work<T>();
  const Cut base = base_cut<T>(true);
  __syncthreads();
  if (thread_id() == 0) board().put(kWordBaseLast, uint64_t(base.last));
  __syncthreads();
  const PostedCut cut{base.lo, kWordBaseLast};
  // A nucleus ends above (1 - p) S / V, of which this is about the weight; any width would do.
  const float total = float(to_double(board().wide(kWordMost))) / larger(top_p_of(), 0x1p-20f);
  const float light = (1.0f - top_p_of()) * total / float(w.row.cols());
  const float heaviest = float(uint64_t{1} << kWeightBits);
  const float least = lightest_value<T>(uint64_t(light < heaviest ? light : heaviest) | 1);
  const float lo = least > base.lo ? least : base.lo;
  const float scale = 255.0f / larger(w.rule.m - lo, 0x1p-100f);
  const auto bin_of = [&](float x) {
    const float b = (w.rule.m - x) * scale;
    return b < 255.0f ? 255 - int(b) : 0;  // the largest first, as select_key goes
  };
  const Found found = select_key(
      0, 255, [](u128 total) { return ceil_mul(top_p_of(), total); },
      [&](const BinAdder& add) {
        // Most tokens lie in the last bin, and would wait there for one another: by warps.
        uint64_t rest = 0;
        for_kept(
            w, cut,
            [&](float x, int, int) {
              const uint64_t weight = weight_at(w.rule, x);
              if (const int bin = bin_of(x); bin > 0)
                add(uint64_t(bin), weight);
              else
                rest += weight;
            },
            [&] {
              rest = warp_sum(rest);
              if (lane_id() == 0) add(0, rest);
              rest = 0;
            });
      });
  if (!found.reached) return {{0.0f, 0}, false};
  if (thread_id() == 0) counter().store(0, 0);
  __syncthreads();
  for_kept(w, cut, [&](float x, int place, int b) {
    if (bin_of(x) != int(found.key)) return;
    const uint32_t at = counter().add(0, 1);
    if (at < kListCapacity) list_entries().store(int(at), entry_of(x, int64_t(b) * kBlock + place));
  });
  __syncthreads();
  const uint32_t n = counter().load(0);
  if (n > kListCapacity || w.row.cols() >= kMaxListed) return {{0.0f, 0}, false};
  leave_list(List{n, 0.0f, false});
  return prefix_of_list(base, Goal::kMass, has_flag(kFlagTiesAll));
}

// After a list that was too short for top-p: a guess for the next. What the list leaves out of S
// shrinks as what the groups leave out does, and a fifth more.
constexpr uint32_t kTooMany = kListCapacity * 5 / 8;  // then the next would hardly fit
FD_DEVICE void ask_for_more() {
  const Cut base = keep_all(posted_list().lo);
  const float mass = float(mass_on_list(base)) * top_p_of();
  const float left_out = 1.0f - mass / float(to_double(board().wide(kWordMost)));
  const float before = 1.0f - float_of(uint32_t(board().word(kWordMore)));
  const float more = 1.0f - before * (1.0f - top_p_of()) / larger(left_out, 0x1p-20f) * 0.8f;
  __syncthreads();
  if (thread_id() == 0) board().put(kWordMore, bits_of(larger(more, 0.6f)));
  set_stage(kNeedsList | kLonger, 0);
}

// Cuts by top-k or top-p: on a list, by an estimate of S and then by S itself; or in the row.
template <typename T>
FD_DEVICE void cut_prefix() {
  begin_stage<T>();
#pragma unroll 1
  for (int list = 0; list < 3; ++list) {  // a list, a longer one, the exact target
    if (in_stage(kNeedsPass)) second_pass<T>();
    if (in_stage(kNeedsSum)) post_target<T>();
    if (in_stage(kNeedsList)) make_list<T>();
    set_stage(0, kNeedsPass | kNeedsList);
    if (in_stage(kNoList) || !posted_list().held) break;
    const bool by_mass = cuts_by_mass(), by_target = by_mass && !in_stage(kOnList);
    const Goal goal = by_target ? Goal::kMass : by_mass ? Goal::kShare : Goal::kCount;
    const Prefix p = prefix_of_list(base_cut<T>(by_mass), goal, has_flag(kFlagTiesAll));
    if (!p.reached) {
      if (in_stage(kEndsInList)) return;  // fewer than k tokens, or a longer prefix than top-k's
      if (!by_mass || in_stage(kLonger) || posted_list().n > kTooMany) break;
      ask_for_more();
      continue;
    }
    if (!by_target || in_stage(kNeedsSum) ||
        board().wide(kWordMost) <= board().wide(kWordAbove) + board().wide(kWordAt)) {
      narrow(p.cut);
      return;
    }
    set_stage(kNeedsSum, 0);
  }
  const bool by_mass = cuts_by_mass();
  leave_list(List{});
  Prefix p{};
  if (by_mass) p = prefix_by_bins<T>();
  if (!p.reached)
    p = prefix_of_row<T>(base_cut<T>(by_mass), by_mass ? Goal::kShare : Goal::kCount,
                         has_flag(kFlagTiesAll));
  if (p.reached) narrow(p.cut);
}

template <typename T>
FD_DEVICE void choose_kept() {
  const float base = base_value<T>();
  post_cut(keep_all(base), base == posted_row<T>().smallest_valid());
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
    if (thread_id() == 0) board().put(kWordStep, uint64_t(step));
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
