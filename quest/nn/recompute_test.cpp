#include "quest/nn/recompute.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/nn/llama_model.h"
#include "quest/ops/testing_tensors.h"

namespace quest::nn {
namespace {

LlamaConfig tiny() {
  LlamaConfig c;
  c.vocab_size = 50;
  c.hidden_size = 32;
  c.num_layers = 3;
  c.num_heads = 2;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.intermediate_size = 64;
  c.max_position_embeddings = 16;
  return c;
}

std::vector<at::Tensor> loss_and_gradients(const char* recipe, ComputeType compute,
                                           Recompute recompute) {
  LlamaModel model(tiny(), recipe_from_name(recipe), compute);
  model.init_weights(3);
  model.set_recompute(recompute);
  const at::Tensor tokens = at::arange(32, at::kLong).view({2, 16});
  const at::Tensor loss = model.loss(tokens, tokens.flip(1).contiguous());
  loss.backward();
  std::vector<at::Tensor> out = {loss.detach()};
  for (const NamedParameter& p : model.parameters()) out.push_back(p.tensor.grad());
  return out;
}

TEST(Recompute, ChangesNoBitOfLossAndGradients) {
  for (const char* recipe : {"bf16", "w4a4", "w1a1", "w4a16"}) {
    for (const ComputeType compute : {ComputeType::kFloat32, ComputeType::kBFloat16}) {
      const auto expected = loss_and_gradients(recipe, compute, Recompute::kOff);
      for (const Recompute recompute : {Recompute::kMlp, Recompute::kBlock}) {
        const auto got = loss_and_gradients(recipe, compute, recompute);
        ASSERT_EQ(got.size(), expected.size());
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_TRUE(got[i].defined()) << recipe << " " << i;
          EXPECT_TRUE(at::equal(got[i], expected[i])) << recipe << " tensor " << i;
        }
      }
    }
  }
}

TEST(Recompute, CallsThePartTwiceAndKeepsUndefinedInputs) {
  int calls = 0;
  const at::Tensor x = testing::leaf(testing::normal({3}, 1), at::kDouble);
  const auto f = [&calls](const variable_list& in) {
    ++calls;
    EXPECT_FALSE(in[1].defined());
    return variable_list{in[0] * in[0]};
  };
  const variable_list out = recompute(f, {x, at::Tensor()});
  EXPECT_EQ(calls, 1);
  out[0].sum().backward();
  EXPECT_EQ(calls, 2);
  EXPECT_TRUE(at::equal(x.grad(), 2 * x.detach()));
  const at::NoGradGuard no_grad;
  recompute(f, {x, at::Tensor()});
  EXPECT_EQ(calls, 3);
}

TEST(Recompute, NamesAreChecked) {
  EXPECT_EQ(recompute_from_name("mlp"), Recompute::kMlp);
  EXPECT_THROW(recompute_from_name("all"), Error);
}

}  // namespace
}  // namespace quest::nn
