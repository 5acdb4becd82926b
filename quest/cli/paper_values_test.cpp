#include "quest/cli/paper_values.h"

#include <gtest/gtest.h>

#include "quest/base/testing.h"

namespace quest::cli {
namespace {

plot::PaperData paper() { return plot::read_paper_data(QUEST_SOURCE_DIR "/data/paper"); }

TEST(PaperValues, AreThoseOfThe30mModel) {
  const auto losses = paper_values("fig3", paper());
  EXPECT_DOUBLE_EQ(losses.at("w2a2").value, 3.57404);
  EXPECT_DOUBLE_EQ(losses.at("w1a1_lsq").value, 3.99);
  EXPECT_EQ(losses.count("w2a2_nohadamard_ste") + losses.count("bf16 rounded to w2a2"), 0u);
  const auto cosines = paper_values("fig2", paper());
  EXPECT_NEAR(cosines.at("w4a4").value, 0.918, 5e-4);
  EXPECT_NEAR(cosines.at("w4a4_nohadamard").value, 0.258, 5e-4);
  EXPECT_NEAR(cosines.at("w4a4_nohadamard_ste").value, 0.199, 5e-4);
  const auto shares = paper_values("fig8", paper());
  EXPECT_NEAR(shares.at("w8a8").value, 0.0113, 1e-3) << "percent";
  EXPECT_TRUE(paper_values("fig10", paper()).empty());
}

// Tolerances that pass the paper's own spread, but not one method for another.
TEST(PaperValues, TolerancesTellMethodsApart) {
  const auto within = [](double value, const Expected& e) {
    return differences({{"x", value}}, {{"x", e}}).empty();
  };
  const plot::PaperData data = paper();
  const auto cosines = paper_values("fig2", data);
  EXPECT_TRUE(within(0.85, cosines.at("w4a4")));
  EXPECT_FALSE(within(cosines.at("w4a4_nohadamard").value, cosines.at("w4a4")));
  EXPECT_FALSE(within(cosines.at("w4a4").value, cosines.at("w4a4_nohadamard_ste")));
  const auto shares = paper_values("fig8", data);
  for (const auto& [step, share] :
       plot::number_pairs(data.figure("figure8_masked_fraction_w8a8").at("hadamard"), "hadamard")) {
    EXPECT_TRUE(step < 5500 || within(100 * share, shares.at("w8a8"))) << step;
  }
  EXPECT_FALSE(within(shares.at("w8a8").value, shares.at("w8a8_nohadamard")));
  const auto losses = paper_values("fig3", data);
  EXPECT_FALSE(within(losses.at("w1a1").value, losses.at("w2a2")));
  EXPECT_FALSE(within(3.2, losses.at("w2a2"))) << "another text";
}

TEST(PaperValues, AFileWithoutThemIsRefused) {
  plot::PaperData data = paper();
  data.figures["figure3_val_loss_by_bits"]["30M"].erase("lsq");
  EXPECT_QUEST_ERROR(paper_values("fig3", data), ErrorKind::kData, "30M: no lsq");
  data.figures["figure2_gradient_cosine"]["ste"] = 1;
  EXPECT_QUEST_ERROR(paper_values("fig2", data), ErrorKind::kData, "ste is no list");
  data.figures["figure8_masked_fraction_w8a8"]["hadamard"] = Json::object();
  EXPECT_QUEST_ERROR(paper_values("fig8", data), ErrorKind::kData, "hadamard is empty");
}

}  // namespace
}  // namespace quest::cli
