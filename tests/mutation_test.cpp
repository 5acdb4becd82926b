// Files that are nearly right: valid small ones with bytes flipped, overwritten, cut out, doubled
// or cut off, through the same entry points as the fuzz targets (fuzz/), which need clang. Under
// the sanitizers each mutant is a proof that damage is refused, not stumbled over.
#include "fuzz/entry_points.h"
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "quest/base/philox.h"

namespace quest {
namespace {

// Deterministic: mutant i of a seed is always the same.
std::string mutant(const std::string& seed, uint64_t i) {
  const Philox random(i, 77);
  std::string out = seed;
  uint64_t draw = 0;
  const auto below = [&](size_t n) {
    return static_cast<size_t>(random.below(draw++, std::max<size_t>(n, 1)));
  };
  // Headers are where the decisions are: half of the changes hit the first bytes.
  const auto place = [&] {
    return below(2) == 0 ? below(std::min<size_t>(out.size(), 700)) : below(out.size());
  };
  const size_t changes = 1 + below(3);
  for (size_t c = 0; c < changes && !out.empty(); ++c) {
    const size_t at = place();
    const size_t length = 1 + below(std::min<size_t>(out.size() - at, 40));
    switch (below(6)) {
      case 0:
        out[at] = static_cast<char>(out[at] ^ (1 << below(8)));
        break;
      case 1:
        out[at] = static_cast<char>(below(256));
        break;
      case 2:
        out.erase(at, length);
        break;
      case 3:
        out.insert(at, out.substr(at, length));
        break;
      case 4:
        out.resize(at);
        break;
      default:  // a digit for a digit: sizes, offsets and shapes that are still numbers
        for (size_t k = at; k < out.size(); ++k) {
          if (out[k] < '0' || out[k] > '9') continue;
          out[k] = static_cast<char>('0' + below(10));
          break;
        }
    }
  }
  return out;
}

class Mutation : public ::testing::TestWithParam<fuzz::Target> {};

TEST_P(Mutation, DamageIsRefusedOrHarmless) {
  const fuzz::Target& target = GetParam();
  const std::vector<std::string> seeds = target.seeds();
  int64_t accepted = 0, tried = 0;
  for (const std::string& seed : seeds) {
    ASSERT_TRUE(target.run(seed)) << target.name;
    const uint64_t mutants = 1600 / seeds.size();
    for (uint64_t i = 0; i < mutants; ++i) {
      ++tried;
      accepted += target.run(mutant(seed, i));
    }
  }
  EXPECT_LT(accepted, tried) << "no mutant was refused";
}

TEST_P(Mutation, TheCorpusIsReadOrRefused) {
  const std::filesystem::path folder =
      std::filesystem::path(QUEST_SOURCE_DIR) / "fuzz" / "corpus" / GetParam().name;
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there";
  int files = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    GetParam().run(read_file(file.path()));
    ++files;
  }
  EXPECT_GT(files, 0);
}

INSTANTIATE_TEST_SUITE_P(EntryPoints, Mutation, ::testing::ValuesIn(fuzz::targets()),
                         [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace quest
