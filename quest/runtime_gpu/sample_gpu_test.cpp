// Tokens chosen on a GPU (quest/kernels/cuda/sample.h) against the CPU's sampler. Skipped where no
// GPU can be used.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <ATen/ops/empty_like.h>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/kernels/cuda/sample.h"
#include "quest/runtime/sampler.h"
#include "quest/runtime_gpu/device_bytes_testing.h"

namespace quest {
namespace {

using testing::device_copy;
using testing::device_data;
using testing::host_copy;
using testing::poisoned_device;
namespace gpu = kernels::cuda;

class SampleGpu : public testing::GpuTest {};

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// One row on both sides.
struct Case {
  SamplerSettings settings = {};
  std::vector<float> logits = {};
  std::vector<int32_t> previous = {};
  uint64_t position = 0;

  std::string text() const {
    return fmt::format("V={} temperature={} top_k={} top_p={} min_p={} penalty={} biases={}",
                       logits.size(), settings.temperature, settings.top_k, settings.top_p,
                       settings.min_p, settings.repetition_penalty, settings.logit_bias.size());
  }
};

// -1 where the CPU refuses the logits.
int32_t cpu_token(const Case& c, uint64_t position, const std::vector<int32_t>& previous) {
  try {
    return Sampler(c.settings).sample(c.logits, position, previous);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kNumeric) << c.text();
    return -1;
  }
}

// Rows of one V in device memory.
class DeviceRows {
 public:
  explicit DeviceRows(const std::vector<Case>& cases)
      : count_(static_cast<int64_t>(cases.size())),
        v_(static_cast<int64_t>(cases.front().logits.size())) {
    std::vector<float> logits;
    std::vector<gpu::SampleRow> rows;
    for (const Case& c : cases) {
      logits.insert(logits.end(), c.logits.begin(), c.logits.end());
      logits.insert(logits.end(), static_cast<size_t>(kPadding), 1e9f);  // past the end of a row
      std::vector<gpu::TokenBias> biases;
      for (const auto& [token, bias] : c.settings.logit_bias) biases.push_back({token, bias});
      std::vector<uint32_t> seen(static_cast<size_t>((v_ + 31) / 32));
      for (const int32_t id : c.previous) {
        if (id >= 0 && id < v_) seen[static_cast<size_t>(id / 32)] |= 1u << (id % 32);
      }
      memory_.push_back(device_copy(biases));
      const at::Tensor& bias_memory = memory_.back();
      seen_.push_back(device_copy(seen));
      gpu::SampleRow row;
      row.temperature = c.settings.temperature;
      row.top_p = c.settings.top_p;
      row.min_p = c.settings.min_p;
      row.repetition_penalty = c.settings.repetition_penalty;
      row.top_k = c.settings.top_k;
      row.seed = c.settings.seed;
      row.position = c.position;
      row.biases = static_cast<const gpu::TokenBias*>(bias_memory.data_ptr());
      row.bias_count = static_cast<int64_t>(biases.size());
      row.seen = device_data<uint32_t>(seen_.back());
      rows.push_back(row);
    }
    logits_ = device_copy(logits);
    work_ = at::empty_like(logits_);
    rows_ = device_copy(rows);
    tokens_ = poisoned_device<int32_t>(count_);
  }

  void sample() {
    work_.copy_(logits_);  // biases are added in place
    gpu::sample_rows(device_data<float>(work_), count_, v_, v_ + kPadding,
                     device_data<gpu::SampleRow>(rows_), device_data<int32_t>(tokens_),
                     ops::current_stream());
  }
  std::vector<int32_t> tokens() const { return host_copy<int32_t>(tokens_); }
  uint64_t position(size_t row) const { return host_copy<gpu::SampleRow>(rows_)[row].position; }
  bool is_seen(size_t row, int32_t token) const {
    return (host_copy<uint32_t>(seen_[row])[static_cast<size_t>(token / 32)] >> (token % 32) & 1) !=
           0;
  }

 private:
  static constexpr int64_t kPadding = 3;
  int64_t count_, v_;
  std::vector<at::Tensor> memory_, seen_;
  at::Tensor logits_, work_, rows_, tokens_;
};

// `draws` tokens of each row, one after the other.
void expect_the_cpus_tokens(const std::vector<Case>& cases, int draws) {
  DeviceRows rows(cases);
  std::vector<std::vector<int32_t>> previous;
  for (const Case& c : cases) previous.push_back(c.previous);
  for (int draw = 0; draw < draws; ++draw) {
    rows.sample();
    const std::vector<int32_t> got = rows.tokens();
    for (size_t i = 0; i < cases.size(); ++i) {
      const uint64_t position = cases[i].position + static_cast<uint64_t>(draw);
      const int32_t want = cpu_token(cases[i], position, previous[i]);
      EXPECT_EQ(got[i], want) << cases[i].text() << " draw " << draw;
      EXPECT_EQ(rows.position(i), position + 1);
      if (want < 0) continue;
      EXPECT_TRUE(rows.is_seen(i, want)) << cases[i].text();
      previous[i].push_back(want);
    }
  }
}

std::vector<float> random_logits(int64_t v, int kind, std::mt19937& random) {
  std::normal_distribution<float> draw;
  std::vector<float> logits(static_cast<size_t>(v));
  const float scale = std::pow(10.0f, static_cast<float>(random() % 4) - 1);
  for (float& x : logits) {
    switch (kind) {
      case 0:  // many equal ones, +-0 among them
        x = static_cast<float>(static_cast<int>(random() % 9) - 4) * (random() % 2 ? 1.0f : -0.0f);
        break;
      case 1:  // excluded tokens
        x = random() % 3 == 0 ? draw(random) * scale : -kInfinity;
        break;
      case 2:  // over all exponents
        x = std::ldexp(random() % 2 ? 1.0f : -1.0f, -static_cast<int>(random() % 140));
        break;
      case 3:  // all the same
        x = 1.5f;
        break;
      default:
        x = draw(random) * scale;
    }
  }
  if (kind == 4) logits[random() % logits.size()] = -1e30f;
  return logits;
}

template <class T>
T one_of(std::initializer_list<T> values, std::mt19937& random) {
  return values.begin()[random() % values.size()];
}

Case random_case(int64_t v, std::mt19937& random) {
  Case c;
  c.logits = random_logits(v, static_cast<int>(random() % 8), random);
  c.settings.temperature = one_of({0.0, 0.1, 0.7, 1.0, 1.0, 1.3, 2.0}, random);
  c.settings.top_k =
      one_of<int64_t>({0, 0, 0, 1, 50, 300, 2048, 2500, v / 2, v - 1, v, v + 1}, random);
  c.settings.top_p = one_of({1.0, 1.0, 0.9, 0.95, 0.5, 1e-9, 0.999999, 1 - 1e-12}, random);
  c.settings.min_p = one_of({0.0, 0.0, 0.0, 1e-5, 0.05, 1.0}, random);
  c.settings.repetition_penalty = one_of({1.0, 1.0, 1.1, 0.7, 1e-5}, random);
  c.settings.seed = static_cast<uint64_t>(random()) << 32 | random();
  c.position = random();
  if (random() % 3 == 0) {
    for (int i = 0; i < 9; ++i) {
      const auto token =
          static_cast<int32_t>(random() % static_cast<uint64_t>(std::min<int64_t>(20, v)));
      const float bias = random() % 4 == 0 ? -kInfinity : 0.3f * static_cast<float>(i) - 1;
      c.settings.logit_bias.emplace_back(token, bias);
    }
  }
  for (int i = 0; i < 40; ++i) {
    c.previous.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(2 * v)) - 1);
  }
  return c;
}

TEST_F(SampleGpu, TokensAreTheCpuSamplers) {
  std::mt19937 random(1);
  for (const int64_t v : {1, 7, 261, 2048, 2049, 4097}) {
    std::vector<Case> cases;
    for (int i = 0; i < 64; ++i) cases.push_back(random_case(v, random));
    expect_the_cpus_tokens(cases, 3);
  }
}

TEST_F(SampleGpu, AlsoOfLargeVocabularies) {
  std::mt19937 random(2);
  for (const int64_t v : {32000, 50304, 131072}) {
    std::vector<Case> cases;
    for (int i = 0; i < 12; ++i) cases.push_back(random_case(v, random));
    expect_the_cpus_tokens(cases, 2);
  }
}

// A number between `low` and `high` beside which the CPU's token changes, to the last bit: there
// the draw or top_p lies within a rounding of the edge of a token. `set` gives the number to a
// case.
template <class F>
double edge_between(Case c, double low, double high, const F& set) {
  const auto token_at = [&](double number) {
    set(c.settings, number);
    return cpu_token(c, c.position, {});
  };
  const int32_t first = token_at(low);
  if (token_at(high) == first) return low;
  for (;;) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) return low;
    (token_at(middle) == first ? low : high) = middle;
  }
}

// Only the CPU's order of additions decides these.
TEST_F(SampleGpu, EdgesOfTokens) {
  std::mt19937 random(4);
  std::normal_distribution<float> draw;
  const auto set_temperature = [](SamplerSettings& s, double x) { s.temperature = x; };
  const auto set_top_p = [](SamplerSettings& s, double x) { s.top_p = x; };
  std::vector<Case> cases;
  for (int i = 0; i < 4; ++i) {
    Case c{.settings = {.top_p = i % 2 == 0 ? 1.0 : 0.9, .seed = random()}};
    for (int j = 0; j < 3000; ++j) c.logits.push_back(draw(random));
    double temperature = edge_between(c, 1.0, 1.5, set_temperature);
    c.settings.temperature = 1;
    double top_p = edge_between(c, 0.6, 0.95, set_top_p);
    for (int k = 0; k < 8; ++k) {
      cases.push_back(c);
      cases.back().settings.temperature = temperature;
      temperature = std::nextafter(temperature, k < 2 ? 0.0 : 2.0);
      cases.push_back(c);
      cases.back().settings.top_p = top_p;
      top_p = std::nextafter(top_p, k < 2 ? 0.0 : 2.0);
    }
  }
  expect_the_cpus_tokens(cases, 1);
}

TEST_F(SampleGpu, EqualWeightsThatEndAtTopP) {
  std::vector<Case> cases;
  for (const double top_p : {0.5, 0.25, 0.75}) {
    for (const double temperature : {1.0, 0.3}) {
      Case c;
      c.settings = {.temperature = temperature, .top_p = top_p, .seed = 5};
      for (int i = 0; i < 6000; ++i) c.logits.push_back(i % 3 == 0 ? 2.0f : 1.9f);
      cases.push_back(c);
      std::fill(c.logits.begin(), c.logits.end(), 0.25f);
      cases.push_back(c);
    }
  }
  expect_the_cpus_tokens(cases, 8);
}

TEST_F(SampleGpu, RowsWithoutATokenGiveMinusOne) {
  const std::vector<std::vector<float>> rows = {
      {1, kNan, 3},         {1, kInfinity, 3}, {-kInfinity, -kInfinity, -kInfinity},
      {-kNan, -kNan, kNan}, {1, 2, 3},
  };
  for (const double temperature : {0.0, 1.0}) {
    std::vector<Case> cases;
    for (const auto& logits : rows) {
      Case& c = cases.emplace_back();
      c.settings = {.temperature = temperature, .top_k = 1};
      c.logits = logits;
    }
    DeviceRows device(cases);
    device.sample();
    EXPECT_EQ(device.tokens(), (std::vector<int32_t>{-1, -1, -1, -1, 2}));
  }
}

}  // namespace
}  // namespace quest
