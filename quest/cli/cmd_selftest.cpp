// quest selftest: everything in a golden folder, with the comparison rules of docs/method.md.
#include <filesystem>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/cli/commands.h"
#include "quest/cli/device_option.h"
#include "quest/kernels/golden_implementations.h"
#include "quest/ops/golden_gpu.h"
#include "quest/ops/golden_learned.h"
#include "quest/ops/gpu.h"
#include "quest/train/golden_trajectory.h"

namespace quest::cli {
namespace {

struct SelftestArguments {
  std::string golden;
  std::string device = "cpu";
};

// The folder in the source tree, or the one that was installed.
std::filesystem::path default_golden_folder() {
  for (const char* folder : {QUEST_GOLDEN_SOURCE, QUEST_GOLDEN_INSTALLED}) {
    if (std::filesystem::exists(folder)) {
      return folder;
    }
  }
  QUEST_THROW(ErrorKind::kIo,
              "the golden folder of the source tree ({}) is gone; name one with --golden",
              QUEST_GOLDEN_SOURCE);
}

const char* status_name(GoldenStatus status) {
  switch (status) {
    case GoldenStatus::kPass:
      return "pass";
    case GoldenStatus::kFail:
      return "FAIL";
    case GoldenStatus::kSkipped:
      return "SKIPPED";
  }
  return "?";
}

struct Tally {
  int64_t passed = 0, failed = 0, skipped = 0;
};

void print_cases(const std::vector<GoldenCase>& cases, Tally& tally) {
  for (const GoldenCase& c : cases) {
    tally.passed += c.status == GoldenStatus::kPass;
    tally.failed += c.status == GoldenStatus::kFail;
    tally.skipped += c.status == GoldenStatus::kSkipped;
    if (c.status == GoldenStatus::kSkipped) {
      fmt::print("{:<36} {:>10} {:>12} {:>8}  {}\n", c.name, "-", "-", status_name(c.status),
                 c.note);
    } else {
      fmt::print("{:<36} {:>10.2e} {:>6}/{:<6} {:>7}  {}\n", c.name, c.max_deviation, c.ties,
                 c.values, status_name(c.status), c.note);
    }
  }
  std::fflush(stdout);
}

void run_selftest(const SelftestArguments& arguments) {
  const at::Device device = use_device(arguments.device);
  const std::filesystem::path folder =
      arguments.golden.empty() ? default_golden_folder() : std::filesystem::path(arguments.golden);
  QUEST_CHECK(std::filesystem::is_directory(folder), ErrorKind::kIo, "{}: no such folder",
              folder.string());
  const bool quantizers = std::filesystem::exists(folder / "quantizers.safetensors");
  if (device.is_cuda()) fmt::print("device {}\n", ops::gpu_description());
  fmt::print("golden folder {}\n{:<36} {:>10} {:>13} {:>7}\n", folder.string(), "case", "deviation",
             "flips/values", "result");
  Tally tally;
  if (quantizers) {
    const auto implementations = device.is_cuda() ? ops::gpu_quantizer_implementations()
                                                  : kernels::quantizer_implementations();
    const std::vector<GoldenCase> learned = ops::run_learned_golden(folder, device);
    print_cases(run_quantizer_golden(folder, implementations, learned), tally);
  }
  print_cases(train::run_trajectory_golden(folder, device), tally);
  QUEST_CHECK(tally.passed + tally.failed + tally.skipped > 0, ErrorKind::kData,
              "{}: neither quantizers.safetensors nor llama_*.safetensors in this folder",
              folder.string());
  fmt::print("{} passed, {} failed, {} skipped\n", tally.passed, tally.failed, tally.skipped);
  QUEST_CHECK(tally.failed == 0, ErrorKind::kNumeric, "{} failed",
              format_count(tally.failed, "golden case"));
}

}  // namespace

void add_selftest_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("selftest", "compare quantizers and training with golden values");
  auto arguments = std::make_shared<SelftestArguments>();
  command->add_option("--golden", arguments->golden,
                      "folder with quantizers.safetensors and llama_*.safetensors (default: ours)");
  add_device_option(*command, arguments->device);
  command->callback([arguments] { run_selftest(*arguments); });
}

}  // namespace quest::cli
