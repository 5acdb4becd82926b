// kv_cache.h: formats without a transform go 8 (or, for odd sizes, 1) pairs to a thread; int8 takes
// a block for each row and key-value head.
#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/kv_cache.cuh"

namespace quest::kernels::cuda::deploy {
namespace {

constexpr int kHeadThreads = 128;  // of the blocks that transform heads
constexpr int kHeadsAtOnce = 8;    // query heads in their shared memory

template <int kWide, class D>
__device__ void load_n(const D* p, float (&v)[kWide]) {
  if constexpr (kWide == kLane) {
    load8(p, v);
  } else {
    v[0] = to_float(*p);
  }
}
template <int kWide, class D>
__device__ void store_n(D* p, const float (&v)[kWide]) {
  if constexpr (kWide == kLane) {
    store8(p, v);
  } else {
    *p = from_float<D>(v[0]);
  }
}
template <KvFormat kFormat, int kWide>
__device__ void store_cached(uint8_t* row, int d, const float (&v)[kWide]) {
  using Type = typename Cached<kFormat>::Type;
  Type codes[kWide];
#pragma unroll
  for (int i = 0; i < kWide; ++i) codes[i] = Cached<kFormat>::encode(v[i], 1.0f);
  if constexpr (kWide == kLane) {
    uint4 raw;
    memcpy(&raw, codes, sizeof(raw));
    *reinterpret_cast<uint4*>(row + d * sizeof(Type)) = raw;
  } else {
    reinterpret_cast<Type*>(row)[d] = codes[0];
  }
}

__device__ inline void round_n(float (&)[1], float) {}
__device__ inline void round_n(float (&v)[1], __nv_bfloat16) {
  v[0] = __bfloat162float(__float2bfloat16_rn(v[0]));
}
__device__ inline void round_n(float (&v)[kLane], float) {}
__device__ inline void round_n(float (&v)[kLane], __nv_bfloat16 one) { round8(v, one); }

// bf16 and fp16. A thread has kWide pairs (i, i + D/2) of one head of one row; v has pairs too, but
// they are not turned.
template <KvFormat kFormat, int kWide, class D>
__global__ void append_rows(DeviceCache cache, D* qkv, int heads, const float* cos,
                            const float* sin, KvRows rows) {
  let_next_start();
  wait_for_previous();
  const int half = cache.dim / 2, all = heads + 2 * cache.kv_heads;
  const uint32_t per_head = static_cast<uint32_t>(half / kWide);
  uint32_t index = blockIdx.x * static_cast<uint32_t>(kFlatThreads) + threadIdx.x;
  if (index >= rows.rows * all * per_head) return;
  const int i = static_cast<int>(index % per_head) * kWide;
  index /= per_head;
  const int head = static_cast<int>(index % static_cast<uint32_t>(all));
  const int64_t row = index / static_cast<uint32_t>(all);
  const int position = rows.position[row];
  D* p = qkv + (row * all + head) * cache.dim + i;
  float first[kWide], second[kWide];
  load_n(p, first);
  load_n(p + half, second);
  if (head < heads + cache.kv_heads) {
    float c[kWide], s[kWide];
    load_n(cos + static_cast<int64_t>(position) * half + i, c);
    load_n(sin + static_cast<int64_t>(position) * half + i, s);
#pragma unroll
    for (int j = 0; j < kWide; ++j) turn(first[j], second[j], c[j], s[j]);
    round_n(first, D{});
    round_n(second, D{});
    store_n(p, first);
    store_n(p + half, second);
    if (head < heads) return;
  }
  const bool is_value = head >= heads + cache.kv_heads;
  const int kv_head = is_value ? head - heads - cache.kv_heads : head - heads;
  uint8_t* part = cache.head(rows.slot[row], position, kv_head) + (is_value ? cache.part_bytes : 0);
  uint8_t* at = part + position % kPagePositions * cache.dim *
                           static_cast<int>(sizeof(typename Cached<kFormat>::Type));
  store_cached<kFormat>(at, i, first);
  store_cached<kFormat>(at, i + half, second);
}

// `count` heads of x, turned into `to` (shared memory) and rounded to D; written back where
// `in_place`.
template <class D>
__device__ void turn_heads(D* x, int count, int half, const float* cos, const float* sin, float* to,
                           bool in_place) {
  for (int index = threadIdx.x; index < count * half; index += blockDim.x) {
    const int head = index / half, i = index % half;
    const int at = head * 2 * half + i;
    float first[1] = {to_float(x[at])}, second[1] = {to_float(x[at + half])};
    turn(first[0], second[0], cos[i], sin[i]);
    round_n(first, D{});
    round_n(second, D{});
    to[at] = first[0];
    to[at + half] = second[0];
    if (in_place) {
      x[at] = from_float<D>(first[0]);
      x[at + half] = from_float<D>(second[0]);
    }
  }
}

// int8: block (row, kv head).
template <class D>
__global__ void __launch_bounds__(kHeadThreads)
    append_transformed(DeviceCache cache, D* qkv, int heads, const float* cos, const float* sin,
                       KvRows rows) {
  __shared__ __align__(16) float x[kHeadsAtOnce * 256];
  let_next_start();
  wait_for_previous();
  constexpr bool kFloat = std::is_same_v<D, float>;  // the transformed values go back
  const int dim = cache.dim, half = dim / 2, all = heads + 2 * cache.kv_heads;
  const int group = heads / cache.kv_heads, kv_head = blockIdx.y;
  const int64_t row = blockIdx.x;
  const int position = rows.position[row];
  cos += static_cast<int64_t>(position) * half;
  sin += static_cast<int64_t>(position) * half;
  D* q = qkv + row * all * dim + kv_head * group * dim;
  for (int first = 0; first < group; first += kHeadsAtOnce) {
    const int count = min(kHeadsAtOnce, group - first), values = count * dim;
    D* mine = q + first * dim;
    turn_heads(mine, count, half, cos, sin, x, !kFloat);
    __syncthreads();
    if constexpr (kFloat) {
      transform_heads(cache, x, values);
      __syncthreads();
      for (int i = threadIdx.x; i < values; i += kHeadThreads) mine[i] = x[i];
    }
    __syncthreads();
  }
  D* k = qkv + (row * all + heads + kv_head) * dim;
  D* v = k + cache.kv_heads * dim;
  turn_heads(k, 1, half, cos, sin, x, !kFloat);
  for (int i = threadIdx.x; i < dim; i += kHeadThreads) x[dim + i] = to_float(v[i]);
  __syncthreads();
  transform_heads(cache, x, 2 * dim);
  __syncthreads();
  if constexpr (kFloat) {
    for (int i = threadIdx.x; i < dim; i += kHeadThreads) {
      k[i] = x[i];
      v[i] = x[dim + i];
    }
  }
  const int warp = threadIdx.x / 32;
  if (warp >= 2) return;  // a warp for K, one for V
  const CacheUnit unit = cache_unit(x + warp * dim, dim);
  uint8_t* head = cache.head(rows.slot[row], position, kv_head);
  const int slot = position % kPagePositions;
  auto* codes = reinterpret_cast<int8_t*>(head + warp * cache.part_bytes) + slot * dim;
  for (int i = threadIdx.x % 32; i < dim; i += 32) {
    codes[i] = Cached<KvFormat::kInt8>::encode(x[warp * dim + i], unit.scale);
  }
  if (threadIdx.x % 32 == 0) cache.units(head)[warp * kPagePositions + slot] = unit.unit;
}

// A thread has kWide values of K and V of one position and head.
template <KvFormat kFormat, int kWide, class D>
__global__ void gather(DeviceCache cache, int slot, int64_t n, D* k, D* v) {
  using Type = typename Cached<kFormat>::Type;
  let_next_start();
  wait_for_previous();
  const uint32_t per_head = static_cast<uint32_t>(cache.dim / kWide);
  const int64_t at = blockIdx.x * static_cast<int64_t>(kFlatThreads) + threadIdx.x;
  const bool exists = at < n * cache.kv_heads * per_head;
  float values[2][kWide] = {};
  if (exists) {
    const int d = static_cast<int>(at % per_head) * kWide;
    const int head = static_cast<int>(at / per_head % cache.kv_heads);
    const int position = static_cast<int>(at / per_head / cache.kv_heads);
    uint8_t* base = cache.head(slot, position, head);
    const int row = position % kPagePositions;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const Type* p =
          reinterpret_cast<const Type*>(base + part * cache.part_bytes) + row * cache.dim + d;
      if constexpr (kWide == kLane) {
        Cached<kFormat>::decode8(*reinterpret_cast<const typename Cached<kFormat>::Raw8*>(p),
                                 values[part]);
      } else {
        values[part][0] = Cached<kFormat>::decode(*p);
      }
      if constexpr (kFormat == KvFormat::kInt8) {
        const float unit = cache.units(base)[part * kPagePositions + row];
#pragma unroll
        for (int i = 0; i < kWide; ++i) values[part][i] *= unit;
      }
    }
  }
  if constexpr (kFormat == KvFormat::kInt8) {
    butterfly(values[0], cache.block, cache.norm);
    butterfly(values[1], cache.block, cache.norm);
  }
  if (!exists) return;
  store_n(k + at * kWide, values[0]);
  store_n(v + at * kWide, values[1]);
}

}  // namespace

template <class T>
void rope_append(const KvCacheView& cache, int64_t layer, T* qkv, int64_t heads, const float* cos,
                 const float* sin, const KvRows& rows, Stream stream) {
  if (rows.rows == 0) return;
  const DeviceCache d = device_cache(cache, layer);
  const int count = static_cast<int>(heads);
  if (d.int8) {
    launch_dependent("rope_append", &append_transformed<device_t<T>>,
                     dim3(static_cast<unsigned>(rows.rows), static_cast<unsigned>(d.kv_heads)),
                     dim3(kHeadThreads), 0, stream, d, dev(qkv), count, cos, sin, rows);
    return;
  }
  const int64_t pairs = rows.rows * (heads + 2 * d.kv_heads) * (d.dim / 2);
  const auto run = [&](auto format, auto wide) {
    launch_dependent("rope_append",
                     &append_rows<decltype(format)::value, decltype(wide)::value, device_t<T>>,
                     dim3(blocks_for(pairs / wide)), dim3(kFlatThreads), 0, stream, d, dev(qkv),
                     count, cos, sin, rows);
  };
  const auto with_width = [&](auto format) {
    if (d.dim % 16 == 0) {
      run(format, std::integral_constant<int, kLane>{});
    } else {
      run(format, std::integral_constant<int, 1>{});
    }
  };
  if (cache.layout.format == KvFormat::kBf16) {
    with_width(std::integral_constant<KvFormat, KvFormat::kBf16>{});
  } else {
    with_width(std::integral_constant<KvFormat, KvFormat::kFp16>{});
  }
}

template <class T>
void gather_kv(const KvCacheView& cache, int64_t layer, int64_t slot, int64_t n, T* k, T* v,
               Stream stream) {
  if (n == 0) return;
  const DeviceCache d = device_cache(cache, layer);
  const int64_t values = n * d.kv_heads * d.dim;
  const auto run = [&](auto format, auto wide) {
    launch_dependent("gather_kv",
                     &gather<decltype(format)::value, decltype(wide)::value, device_t<T>>,
                     dim3(blocks_for(values / wide)), dim3(kFlatThreads), 0, stream, d,
                     static_cast<int>(slot), n, dev(k), dev(v));
  };
  with_format(cache.layout.format, [&](auto format) {
    if constexpr (decltype(format)::value != KvFormat::kInt8) {
      if (d.dim % kLane != 0) {
        run(format, std::integral_constant<int, 1>{});
        return;
      }
    }
    run(format, std::integral_constant<int, kLane>{});
  });
}

#define QUEST_INSTANTIATE(T)                                                           \
  template void rope_append<T>(const KvCacheView&, int64_t, T*, int64_t, const float*, \
                               const float*, const KvRows&, Stream);                   \
  template void gather_kv<T>(const KvCacheView&, int64_t, int64_t, int64_t, T*, T*, Stream);
QUEST_INSTANTIATE(float)
QUEST_INSTANTIATE(bfloat16)

}  // namespace quest::kernels::cuda::deploy
