// sample.h. A block chooses the token of a row.
//
// Everything is made of one search, crossing(): of a set of tokens in an order (by value, or by id
// where the CPU does not sort), the first token at which the running sum of a mass (1, or the
// token's weight) reaches a goal. The k-th largest, the edge of top_p and the draw are each such a
// search. It histograms the set into bins that follow the order, finds the bin that the sum crosses
// in, and sorts that bin, or histograms it again if it is large.
#include <cmath>

#include <climits>

#include "quest/base/philox_body.h"
#include "quest/base/portable_exp.h"
#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/sample.h"

namespace quest::kernels::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2 * kThreads;  // two of each thread; also the most tokens sorted at once
constexpr int kFew = 256;            // tokens whose weights one thread adds at once
constexpr unsigned kAllLanes = 0xffffffffu;

using Key = unsigned long long;  // as atomics know it

// Larger for a larger value; equal for equal ones (-0 equals 0). Not for NaN.
__device__ Key key_of(double value) {
  const auto bits = static_cast<Key>(__double_as_longlong(value + 0.0));
  return bits ^ ((bits >> 63) != 0 ? ~0ull : 1ull << 63);
}
__device__ double value_of(Key key) {
  return __longlong_as_double(
      static_cast<long long>(key ^ ((key >> 63) != 0 ? 1ull << 63 : ~0ull)));
}

// A token's place in the order of the draw: largest key first, of equal ones the lowest id.
struct Place {
  Key key;
  int id;
};
__device__ bool is_before(const Place& a, const Place& b) {
  return a.key != b.key ? a.key > b.key : a.id < b.id;
}
__device__ Place front() { return {~0ull, -1}; }  // before all
__device__ Place back() { return {0, INT_MAX}; }  // behind all
constexpr Key kOneKey = 1ull << 63;               // of all tokens where the order is that of ids

// The tokens behind `from`, up to and with `to`.
struct Set {
  Place from, to;
  bool weighed;  // mass: the weight, 0 below least_weight; else 1
  double least_weight;
};

// A row as all threads see it.
struct Row {
  const float* logits;
  int v;
  const uint32_t* seen;  // null: no penalty
  double penalty, temperature;
  double largest;  // value
  Key high, low;   // largest and least key of the tokens that count
  int candidates;  // tokens whose logit is not -inf
  int count;       // those whose value is not, either: they have weights
  bool by_id;
};

struct Shared {
  double mass[kBins];
  Key keys[kBins];
  union {
    uint32_t count[kBins];
    int32_t ids[kBins];
  };
  double warp_sums[kWarps];
  Row row;
  double before, here;  // first_reaching()
  Key high, low;
  double total;
  int found, gathered;
};
// At file scope, so that functions that are not inlined know its address space.
__shared__ Shared shared;

__device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ int warp() { return static_cast<int>(threadIdx.x) / 32; }

// -inf for a token that cannot be chosen.
__device__ double value_at(const Row& row, int i) {
  double value = row.logits[i];
  if (row.seen != nullptr && (row.seen[i / 32] >> (i % 32) & 1) != 0) {
    value = value > 0 ? value / row.penalty : value * row.penalty;
  }
  return value;
}
__device__ double weight_of(const Row& row, double value) {
  const double x = value - row.largest;
  return portable::exp_body(row.temperature == 1 ? x : x / row.temperature);
}
__device__ double mass_of(const Row& row, const Set& set, double value) {
  if (!set.weighed) return 1;
  const double weight = weight_of(row, value);
  return weight < set.least_weight ? 0 : weight;
}

// How a range of places is divided into bins: places of one key by their ids, those of several by
// their keys, in equal parts of the values or of the keys' bits. Values spread best, but only bits
// always come to an end.
struct Split {
  Key high, low;         // keys
  int first_id, end_id;  // a multiple of 32; one past the last
  double scale;          // bins per unit of value; 0: shift instead
  int shift;
};
__device__ Split split_of(Key high, Key low, int first_id, int end_id, bool by_value) {
  Split split{high, low, first_id, end_id, 0, 0};
  if (high == low) {
    split.shift = 5;  // a warp's neighbours share a bin
    while ((end_id - 1 - first_id) >> split.shift >= kBins) ++split.shift;
    return split;
  }
  if (by_value) {
    const double scale = kBins / (value_of(high) - value_of(low));
    if (scale > 1e-30 && scale < 1e30) split.scale = scale;
  }
  const int bits = 64 - __clzll(static_cast<long long>(high - low));
  split.shift = bits > 11 ? bits - 11 : 0;  // kBins = 2^11
  return split;
}
__device__ int bin_of(const Split& split, const Place& place) {
  if (split.high == split.low) return (place.id - split.first_id) >> split.shift;
  if (split.scale == 0) return static_cast<int>((split.high - place.key) >> split.shift);
  const double bin = (value_of(split.high) - value_of(place.key)) * split.scale;
  return bin < kBins - 1 ? static_cast<int>(bin) : kBins - 1;
}

// visit(whether thread's token is of the set within the split, its place, its value), by all
// threads together.
template <class F>
__device__ void over_members(const Row& row, const Set& set, const Split& split, const F& visit) {
  const int end = min(split.end_id, row.v);
  for (int first = split.first_id; first < end; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    bool is_member = false;
    Place place{0, i};
    double value = 0;
    if (i < end) {
      value = value_at(row, i);
      place.key = row.by_id ? kOneKey : key_of(value);
      is_member = value > -INFINITY && place.key <= split.high && place.key >= split.low &&
                  is_before(set.from, place) && !is_before(set.to, place);
    }
    visit(is_member, place, value);
  }
}

__device__ double warp_sum(double value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// shared.mass and shared.count of the bins. Tokens of a warp that share one are added first.
__device__ void fill_bins(const Set& set, const Split& split) {
  const Row& row = shared.row;
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) {
    shared.mass[i] = 0;
    shared.count[i] = 0;
  }
  __syncthreads();
  over_members(row, set, split, [&](bool is_member, const Place& place, double value) {
    const unsigned members = __ballot_sync(kAllLanes, is_member);
    if (members == 0) return;
    const int bin = is_member ? bin_of(split, place) : 0;
    const double mass = is_member && set.weighed ? mass_of(row, set, value) : 0;
    const int shared_bin = __shfl_sync(kAllLanes, bin, __ffs(static_cast<int>(members)) - 1);
    if (__all_sync(kAllLanes, !is_member || bin == shared_bin)) {
      const double sum = set.weighed ? warp_sum(mass) : 0;
      if (lane() == 0) {
        if (set.weighed) atomicAdd(&shared.mass[shared_bin], sum);
        atomicAdd(&shared.count[shared_bin], static_cast<uint32_t>(__popc(members)));
      }
    } else if (is_member) {
      if (set.weighed) atomicAdd(&shared.mass[bin], mass);
      atomicAdd(&shared.count[bin], 1u);
    }
  });
  __syncthreads();
}

// Running sums of the masses of all threads' two bins, from `base` on: `before` the first of the
// thread's is exactly `after` the previous thread's second.
struct Sums {
  double before, middle, after;
};
__device__ Sums running_sums(double first, double second, double base) {
  double sum = first + second;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const double other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane() >= step) sum += other;
  }
  if (lane() == 31) shared.warp_sums[warp()] = sum;
  __syncthreads();
  double start = base;
  for (int w = 0; w < warp(); ++w) start += shared.warp_sums[w];
  const double previous = __shfl_up_sync(kAllLanes, sum, 1);
  const double before = lane() == 0 ? start : start + previous;
  __syncthreads();  // warp_sums may be written again
  return {before, before + first, start + sum};
}

// The first bin whose sum reaches the goal, shared.before and shared.here the sums before and with
// it; kBins if none does.
__device__ int first_reaching(const Sums& sums, double goal) {
  const int own = 2 * static_cast<int>(threadIdx.x);
  if (own == 0) shared.found = kBins;
  __syncthreads();
  if (own == 0 || sums.before < goal) {
    if (sums.middle >= goal) {
      atomicMin(&shared.found, own);
    } else if (sums.after >= goal) {
      atomicMin(&shared.found, own + 1);
    }
  }
  __syncthreads();
  const int found = shared.found;
  if (found == own || found == own + 1) {
    shared.before = found == own ? sums.before : sums.middle;
    shared.here = found == own ? sums.middle : sums.after;
  }
  __syncthreads();
  return found;
}

// Sorts the first `count` of shared.keys and ids, at most kBins, by their places.
__device__ void sort_places(int count) {
  const int t = static_cast<int>(threadIdx.x);
  int size = 2;
  while (size < count) size *= 2;
  for (int i = count + t; i < size; i += kThreads) {
    shared.keys[i] = back().key;
    shared.ids[i] = back().id;
  }
  for (int run = 2; run <= size; run *= 2) {  // Batcher's bitonic sort
    for (int step = run / 2; step > 0; step /= 2) {
      __syncthreads();
      if (t >= size / 2) continue;
      const int i = 2 * t - (t & (step - 1)), j = i + step;
      const Place a{shared.keys[i], shared.ids[i]}, b{shared.keys[j], shared.ids[j]};
      if ((i & run) == 0 ? is_before(b, a) : is_before(a, b)) {
        shared.keys[i] = b.key, shared.ids[i] = b.id;
        shared.keys[j] = a.key, shared.ids[j] = a.id;
      }
    }
  }
  __syncthreads();
}

// The members of a bin (-1: all of the split), at most kBins, sorted into shared.keys and ids.
// Returns how many.
__device__ int gather_sorted(const Set& set, const Split& split, int bin) {
  if (threadIdx.x == 0) shared.gathered = 0;
  __syncthreads();
  over_members(shared.row, set, split, [&](bool is_member, const Place& place, double) {
    if (!is_member || (bin >= 0 && bin_of(split, place) != bin)) return;
    const int at = atomicAdd(&shared.gathered, 1);
    shared.keys[at] = place.key;
    shared.ids[at] = place.id;
  });
  __syncthreads();
  const int count = shared.gathered;
  sort_places(count);
  return count;
}

// What is left of a split within one of its bins.
__device__ Split narrowed(const Set& set, const Split& split, int bin) {
  if (split.high == split.low) {
    const int first = split.first_id + (bin << split.shift);
    return split_of(split.high, split.low, first, min(split.end_id, first + (1 << split.shift)),
                    false);
  }
  if (threadIdx.x == 0) {
    shared.high = 0;
    shared.low = ~0ull;
  }
  __syncthreads();
  over_members(shared.row, set, split, [&](bool is_member, const Place& place, double) {
    if (!is_member || bin_of(split, place) != bin) return;
    if (place.key > shared.high) atomicMax(&shared.high, place.key);
    if (place.key < shared.low) atomicMin(&shared.low, place.key);
  });
  __syncthreads();
  return split_of(shared.high, shared.low, 0, shared.row.v, false);
}

__device__ Split whole(const Row& row) {
  return row.by_id ? split_of(kOneKey, kOneKey, 0, row.v, true)
                   : split_of(row.high, row.low, 0, row.v, true);
}

struct Crossing {
  Place place;
  bool is_sure;  // that the CPU's sums cross there too; always for a mass of 1
};

// The first place of the set at which the running sum of the mass reaches the goal; of a set that
// is weighed, the goal is a fraction of its total.
__device__ __noinline__ Crossing crossing(const Set& set, double goal) {
  const Row& row = shared.row;
  const int own = 2 * static_cast<int>(threadIdx.x);
  Split split = whole(row);
  double base = 0, margin = 0;
  int bin = 0;
  for (bool is_first = true;; is_first = false) {
    fill_bins(set, split);
    const double first = set.weighed ? shared.mass[own] : shared.count[own];
    const double second = set.weighed ? shared.mass[own + 1] : shared.count[own + 1];
    const Sums sums = running_sums(first, second, base);
    if (is_first && set.weighed) {
      if (threadIdx.x == kThreads - 1) shared.total = sums.after;
      __syncthreads();
      // A sum of n numbers from 0 on is off by at most n 2^-53 of it, in any order. The CPU's and
      // ours meet in the total, the sums and, of the CPU, the rest that it subtracts from: below
      // 4 n 2^-53 of the total and some roundings more. Twice that.
      margin = (row.count + 16) * 0x1p-50 * shared.total;
      goal *= shared.total;
    }
    bin = first_reaching(sums, goal);
    if (bin == kBins) return {back(), false};
    base = shared.before;
    const auto count = static_cast<int>(shared.count[bin]);
    __syncthreads();  // count's memory becomes that of ids
    if (count <= kBins) break;
    split = narrowed(set, split, bin);
  }
  const int count = gather_sorted(set, split, bin);
  double mass[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    mass[i] = own + i < count ? mass_of(row, set, value_at(row, shared.ids[own + i])) : 0;
  }
  const int found = first_reaching(running_sums(mass[0], mass[1], base), goal);
  Crossing result{back(), false};
  if (found < count) {
    result.place = {shared.keys[found], shared.ids[found]};
    const bool far_below = shared.before == 0 || goal - shared.before >= margin;
    result.is_sure = !set.weighed || (far_below && shared.here - goal >= margin);
  }
  __syncthreads();
  return result;
}

// The set up to `last`, `size` tokens, in its order and in pieces of kBins: visit(how many) has the
// weights of a piece in shared.mass and its ids in shared.ids, until it returns false or `wanted`
// tokens were shown. is_loaded: shared still holds the only piece.
template <class F>
__device__ void over_sorted(const Place& last, int size, int wanted, bool& is_loaded,
                            const F& visit) {
  const Row& row = shared.row;
  Set set{front(), last, false, 0};
  for (int done = 0; done < wanted; done += kBins) {
    set.to = last;
    if (done + kBins < size) set.to = crossing(set, kBins).place;
    if (!is_loaded) {
      const int count = gather_sorted(set, whole(row), -1);
      for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
        shared.mass[i] = weight_of(row, value_at(row, shared.ids[i]));
      }
    }
    __syncthreads();
    is_loaded = size <= kBins;
    const bool goes_on = visit(min(kBins, wanted - done));
    __syncthreads();
    if (!goes_on) return;
    set.from = set.to;
  }
}

// The token that the CPU draws, by its sums: one thread adds, in its order.
__device__ __noinline__ int draw_in_order(const Place& last, int size, double top_p, double min_p,
                                          double draw) {
  bool is_loaded = false;
  const bool adds = threadIdx.x == 0;
  const auto total_of = [&](int wanted, double least) {
    double total = 0;
    over_sorted(last, size, wanted, is_loaded, [&](int count) {
      for (int i = 0; adds && i < count; ++i) {
        const double weight = shared.mass[i];
        if (!(weight < least)) total += weight;
      }
      return true;
    });
    return total;  // of thread 0
  };
  // Whether thread 0 goes on, and its number, in every thread.
  const auto tell = [&](bool goes_on, int number) {
    if (adds) {
      shared.found = goes_on ? 1 : 0;
      shared.gathered = number;
    }
    __syncthreads();
    return shared.found != 0;
  };
  int kept = size;
  if (top_p < 1) {
    const double goal = top_p * total_of(size, 0);
    double sum = 0;
    kept = 0;
    over_sorted(last, size, size, is_loaded, [&](int count) {
      int i = 0;
      for (; adds && i < count && sum < goal; ++i) sum += shared.mass[i];
      kept += i;
      return tell(i == count, kept);
    });
    kept = shared.gathered;
    __syncthreads();
  }
  double rest = draw * total_of(kept, min_p);
  int token = -1;
  over_sorted(last, size, kept, is_loaded, [&](int count) {
    bool goes_on = true;
    for (int i = 0; adds && goes_on && i < count; ++i) {
      const double weight = shared.mass[i];
      if (weight < min_p || weight == 0) continue;
      token = shared.ids[i];
      rest -= weight;
      goes_on = !(rest < 0);
    }
    return tell(goes_on, token);
  });
  token = shared.gathered;
  __syncthreads();
  return token;
}

// Of a row with candidates and a temperature.
__device__ int draw_token(const SampleRow& settings, double draw) {
  const Row& row = shared.row;
  if (!(fabs(row.largest) < INFINITY)) return -1;
  Place last = back();
  int size = row.count;
  if (settings.top_k > 0 && settings.top_k < size) {
    size = static_cast<int>(settings.top_k);
    last = crossing({front(), last, false, 0}, size).place;
  }
  const double top_p = settings.top_p, min_p = settings.min_p;
  if (size > kFew) {
    Crossing found{last, true};
    if (top_p < 1) found = crossing({front(), last, true, 0}, top_p);
    if (found.is_sure) found = crossing({front(), found.place, true, min_p}, draw);
    if (found.is_sure) return found.place.id;
  }
  return draw_in_order(last, size, top_p, min_p, draw);
}

// Several biases of one token are added in their order, by the thread of the first.
__device__ void add_biases(const SampleRow& settings, int v, float* logits) {
  const auto count = static_cast<int>(settings.bias_count);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const int token = settings.biases[i].token;
    bool is_first = token >= 0 && token < v;
    for (int j = 0; is_first && j < i; ++j) is_first = settings.biases[j].token != token;
    if (!is_first) continue;
    float logit = logits[token];
    for (int j = i; j < count; ++j) {
      if (settings.biases[j].token == token) logit += settings.biases[j].bias;
    }
    logits[token] = logit;
  }
}

// Fills the rest of shared.row. Returns the first token of the largest value, -1 for a row from
// which none can be chosen.
__device__ int survey() {
  const Row& row = shared.row;
  if (threadIdx.x == 0) {
    shared.high = 0;
    shared.low = ~0ull;
    shared.found = INT_MAX;
    shared.gathered = 0;
    shared.row.count = 0;
  }
  __syncthreads();
  Key high = 0, low = ~0ull;
  int best = INT_MAX, candidates = 0, count = 0, is_bad = 0;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < row.v; i += kThreads) {
    const float logit = row.logits[i];
    is_bad |= logit < INFINITY ? 0 : 1;
    if (!(logit > -INFINITY)) continue;
    ++candidates;
    const double value = value_at(row, i);
    const Key key = key_of(value);
    if (key > high) {
      high = key;
      best = i;
    }
    if (!(value > -INFINITY)) continue;
    ++count;
    low = key < low ? key : low;
  }
  Key warp_high = high;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const Key other_high = __shfl_xor_sync(kAllLanes, warp_high, step);
    const Key other_low = __shfl_xor_sync(kAllLanes, low, step);
    warp_high = other_high > warp_high ? other_high : warp_high;
    low = other_low < low ? other_low : low;
    candidates += __shfl_xor_sync(kAllLanes, candidates, step);
    count += __shfl_xor_sync(kAllLanes, count, step);
  }
  if (lane() == 0) {
    atomicMax(&shared.high, warp_high);
    atomicMin(&shared.low, low);
    atomicAdd(&shared.gathered, candidates);
    atomicAdd(&shared.row.count, count);
  }
  is_bad = __syncthreads_or(is_bad);
  if (best != INT_MAX && high == shared.high) atomicMin(&shared.found, best);
  __syncthreads();
  const int first = shared.found, all = shared.gathered;
  if (threadIdx.x == 0) {
    shared.row.candidates = all;
    shared.row.high = shared.high;
    shared.row.low = shared.low;
    shared.row.largest = value_of(shared.high);
  }
  __syncthreads();
  return is_bad != 0 || all == 0 ? -1 : first;
}

__global__ void __launch_bounds__(kThreads)
    sample(float* logits, int v, int64_t ld, SampleRow* rows, int32_t* out) {
  let_next_start();
  wait_for_previous();
  const SampleRow settings = rows[blockIdx.x];
  float* row = logits + blockIdx.x * ld;
  add_biases(settings, v, row);
  if (threadIdx.x == 0) {
    shared.row.logits = row;
    shared.row.v = v;
    shared.row.seen = settings.repetition_penalty == 1 ? nullptr : settings.seen;
    shared.row.penalty = settings.repetition_penalty;
    shared.row.temperature = settings.temperature;
  }
  __syncthreads();
  int token = survey();
  if (token >= 0 && settings.temperature != 0) {
    if (threadIdx.x == 0) {
      const bool cuts = settings.top_k > 0 && settings.top_k < shared.row.candidates;
      shared.row.by_id = !cuts && !(settings.top_p < 1);
    }
    __syncthreads();
    token = draw_token(settings, philox::uniform(settings.seed, 0, settings.position));
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  out[blockIdx.x] = token;
  rows[blockIdx.x].position = settings.position + 1;
  if (token >= 0 && settings.seen != nullptr) settings.seen[token / 32] |= 1u << (token % 32);
}

}  // namespace

void sample_rows(float* logits, int64_t m, int64_t v, int64_t ld, SampleRow* rows, int32_t* out,
                 Stream stream) {
  if (m == 0) return;
  launch_dependent("sample_rows", sample, dim3(static_cast<unsigned>(m)), dim3(kThreads), 0, stream,
                   logits, static_cast<int>(v), ld, rows, out);
}

}  // namespace quest::kernels::cuda
