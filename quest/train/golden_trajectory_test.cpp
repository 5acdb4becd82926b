#include "quest/train/golden_trajectory.h"

#include <fstream>
#include <functional>
#include <map>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include "quest/base/json_util.h"
#include "quest/base/safetensors.h"
#include "quest/base/testing.h"
#include "quest/ops/gpu.h"
#include "quest/ops/tensor_file.h"

namespace quest::train {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(QUEST_SOURCE_DIR) / "tests" / "golden";

using Tensors = std::map<std::string, at::Tensor>;

// A golden folder with one mode: its file, altered and cut to a few steps, and what it refers to.
class OneMode {
 public:
  OneMode(const std::string& mode, int64_t steps, const std::function<void(Tensors&)>& alter) {
    for (const char* name : {"golden.json", "llama_init.safetensors"}) {
      std::filesystem::copy_file(kGolden / name, folder_ / name);
    }
    const SafetensorsReader in(kGolden / (mode + ".safetensors"));
    Tensors tensors;
    for (const TensorView& view : in.tensors()) tensors[view.name] = ops::to_tensor(view);
    tensors["tokens"] = tensors["tokens"].narrow(0, 0, steps);
    alter(tensors);
    SafetensorsWriter out(folder_ / (mode + ".safetensors"));
    for (auto& [name, tensor] : tensors) {
      tensor = tensor.contiguous();
      out.add(name, ops::dtype_of(tensor.scalar_type()), tensor.sizes().vec(),
              {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()});
    }
    out.finish();
  }

  const std::filesystem::path& path() const { return folder_.path(); }

  std::map<std::string, GoldenCase> run() const {
    std::map<std::string, GoldenCase> cases;
    for (const GoldenCase& c : run_trajectory_golden(path())) {
      cases[c.name.substr(c.name.find('.') + 1)] = c;
    }
    return cases;
  }

 private:
  testing::TemporaryFolder folder_;
};

void unaltered(Tensors&) {}

// All cases but final_norms, which only the full number of steps can reach.
void expect_only_failure(const std::map<std::string, GoldenCase>& cases, const std::string& bad,
                         const std::string& note) {
  for (const char* name : {"loss0", "logits", "gradients", "losses", "grad_norms"}) {
    ASSERT_TRUE(cases.contains(name)) << name;
    const GoldenCase& c = cases.at(name);
    EXPECT_EQ(c.status, name == bad ? GoldenStatus::kFail : GoldenStatus::kPass)
        << c.name << ": " << c.note;
    if (name == bad) {
      EXPECT_NE(c.note.find(note), std::string::npos) << c.note;
    }
  }
}

TEST(GoldenTrajectory, GoodModePasses) {
  const OneMode mode("llama_w4a4", 24, unaltered);
  const auto cases = run_trajectory_golden(mode.path());
  ASSERT_EQ(cases.size(), 6u);
  for (const GoldenCase& c : cases) {
    EXPECT_EQ(c.status, GoldenStatus::kPass) << c.name << ": " << c.note;
    EXPECT_EQ(c.group, "llama");
    EXPECT_TRUE(c.name.starts_with("llama_w4a4.")) << c.name;
    EXPECT_GT(c.values, 0) << c.name;
  }
}

TEST(GoldenTrajectory, PassesOnAGpuOrSaysWhyNot) {
  const std::string reason = ops::gpu_unusable_reason();
  if (!reason.empty()) {
    const OneMode mode("llama_w4a4", 1, unaltered);
    EXPECT_QUEST_ERROR(run_trajectory_golden(mode.path(), at::kCUDA), ErrorKind::kEnvironment,
                       reason);
    GTEST_SKIP() << reason;
  }
  at::globalContext().setAllowTF32CuBLAS(true);
  for (const char* name : {"llama_bf16", "llama_w4a4", "llama_w4a16", "llama_sparse"}) {
    const OneMode mode(name, 24, unaltered);
    const auto cases = run_trajectory_golden(mode.path(), at::kCUDA);
    ASSERT_EQ(cases.size(), 6u) << name;
    for (const GoldenCase& c : cases) {
      EXPECT_EQ(c.status, GoldenStatus::kPass) << c.name << ": " << c.note;
    }
  }
  EXPECT_FALSE(at::globalContext().allowTF32CuBLAS());
}

TEST(GoldenTrajectory, FewStepsPassButForTheFinalNorms) {
  const auto cases = OneMode("llama_w4a4", 2, unaltered).run();
  expect_only_failure(cases, "", "");
  EXPECT_EQ(cases.at("losses").values, 2);
  // Weights after 2 steps are not those after 24: this case, too, can fail.
  EXPECT_EQ(cases.at("final_norms").status, GoldenStatus::kFail);
}

TEST(GoldenTrajectory, OneWrongLossFails) {
  const auto later = OneMode("llama_w4a4", 2, [](Tensors& t) { t["losses"][1] *= 1.008; }).run();
  expect_only_failure(later, "losses", "step 1: ");
  const auto first = OneMode("llama_w4a4", 1, [](Tensors& t) { t["losses"][0] *= 1.00005; }).run();
  EXPECT_EQ(first.at("loss0").status, GoldenStatus::kFail);
  EXPECT_EQ(first.at("losses").status, GoldenStatus::kFail);
  EXPECT_EQ(first.at("gradients").status, GoldenStatus::kPass);
}

TEST(GoldenTrajectory, OneWrongGradientFails) {
  const auto head = OneMode("llama_w4a4", 1, [](Tensors& t) {
                      at::Tensor& values = t["step0.grad_head.transformer.h.1.mlp.w2.weight"];
                      values.view(-1)[100] += values.abs().max() * 0.05;
                    }).run();
  expect_only_failure(head, "gradients", "head of transformer.h.1.mlp.w2.weight");
  const auto norm = OneMode("llama_w4a4", 1, [](Tensors& t) {
                      t["step0.grad_norm.transformer.h.0.attn.c_attn.weight"] *= 1.003;
                    }).run();
  expect_only_failure(norm, "gradients", "norm of transformer.h.0.attn.c_attn.weight");
  const auto total = OneMode("llama_w4a4", 2, [](Tensors& t) { t["grad_norms"][1] *= 1.2; }).run();
  expect_only_failure(total, "grad_norms", "step 1: ");
}

TEST(GoldenTrajectory, WrongLogitsFail) {
  const auto quantized = OneMode("llama_w4a4", 1, [](Tensors& t) {
                           t["step0.logits"].view(-1)[7] += t["step0.logits"].abs().max() * 1e-3;
                         }).run();
  // The FP64 run, where no code flips, tells an error from a flip.
  expect_only_failure(quantized, "logits", "FP64");
  const auto exact = OneMode("llama_bf16", 1, [](Tensors& t) {
                       t["step0.logits"].view(-1)[7] += t["step0.logits"].abs().max() * 1e-4;
                     }).run();
  expect_only_failure(exact, "logits", "logits");
}

TEST(GoldenTrajectory, NotANumberFails) {
  const auto cases = OneMode("llama_w4a4", 1, [](Tensors& t) {
                       t["step0.grad_head.lm_head.weight"].view(-1)[0] =
                           std::numeric_limits<double>::quiet_NaN();
                     }).run();
  expect_only_failure(cases, "gradients", "head of lm_head.weight");
}

TEST(GoldenTrajectory, IncompleteFoldersAreErrors) {
  const auto without = [](const char* name) {
    return OneMode("llama_w4a4", 1, [name](Tensors& t) { t.erase(name); });
  };
  EXPECT_QUEST_ERROR(run_trajectory_golden(without("step0.logits").path()), ErrorKind::kData,
                     "step0.logits");
  EXPECT_QUEST_ERROR(run_trajectory_golden(without("learning_rates").path()), ErrorKind::kData,
                     "learning_rates");
  const OneMode short_losses("llama_w4a4", 2,
                             [](Tensors& t) { t["losses"] = t["losses"].narrow(0, 0, 1); });
  EXPECT_QUEST_ERROR(run_trajectory_golden(short_losses.path()), ErrorKind::kData, "losses");
  const OneMode two_norms("llama_w4a4", 1, [](Tensors& t) {
    t["final_norm.lm_head.weight"] = t["losses"].narrow(0, 0, 2);
  });
  EXPECT_QUEST_ERROR(run_trajectory_golden(two_norms.path()), ErrorKind::kData,
                     "final_norm.lm_head.weight has 2 values");
  const OneMode flat("llama_w4a4", 1, [](Tensors& t) { t["tokens"] = t["tokens"].view(-1); });
  EXPECT_QUEST_ERROR(run_trajectory_golden(flat.path()), ErrorKind::kData, "tokens");

  const OneMode unknown("llama_w4a4", 1, unaltered);
  std::filesystem::rename(unknown.path() / "llama_w4a4.safetensors",
                          unknown.path() / "llama_w9a9.safetensors");
  EXPECT_QUEST_ERROR(run_trajectory_golden(unknown.path()), ErrorKind::kData, "llama_w9a9");

  const OneMode mode("llama_w4a4", 1, unaltered);
  for (const char* key : {"optimizer", "shapes"}) {
    Json json = read_json(kGolden / "golden.json");
    json.erase(key);
    std::ofstream(mode.path() / "golden.json") << json.dump();
    EXPECT_QUEST_ERROR(run_trajectory_golden(mode.path()), ErrorKind::kData, key);
  }
  Json json = read_json(kGolden / "golden.json");
  json["llama_w4a4"].erase("weight");
  std::ofstream(mode.path() / "golden.json") << json.dump();
  EXPECT_QUEST_ERROR(run_trajectory_golden(mode.path()), ErrorKind::kData, "weight");
}

TEST(GoldenTrajectory, AFolderWithoutModesHasNoCases) {
  const testing::TemporaryFolder folder;
  EXPECT_TRUE(run_trajectory_golden(folder.path()).empty());
}

}  // namespace
}  // namespace quest::train
