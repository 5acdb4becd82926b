#include "quest/train/evaluation.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "quest/base/error.h"
#include "quest/eval/perplexity.h"
#include "quest/train/model_scorer.h"

namespace quest::train {
namespace {

constexpr int64_t kWindowsAtOnce = 1024;  // bounds the memory for tokens

}  // namespace

Evaluation evaluate(nn::LlamaModel& model, const TokenFile& file, const EvaluationOptions& options,
                    ProcessGroup& group) {
  const int64_t available = file.token_count();
  QUEST_CHECK(available >= 2, ErrorKind::kData, "{} has {} tokens: too few to evaluate on",
              file.path().string(), available);
  const int64_t length = options.sequence_length;
  const int64_t targets =
      options.tokens > 0 ? std::min(options.tokens, available - 1) : available - 1;
  const int64_t windows = (targets + length - 1) / length;
  const int64_t end = windows * (group.rank() + 1) / group.size();

  ModelScorer scorer(model, options.batch);
  double nats = 0;
  int64_t scored = 0;
  for (int64_t w = windows * group.rank() / group.size(); w < end; w += kWindowsAtOnce) {
    const int64_t first = w * length;
    const int64_t last = std::min(std::min(end, w + kWindowsAtOnce) * length, targets);
    std::vector<int32_t> tokens(static_cast<size_t>(last - first + 1));
    file.read(first, tokens);
    PerplexityOptions settings;
    settings.context_length = length;
    const PerplexityResult result = perplexity(scorer, tokens, settings);
    nats += result.total_nats;
    scored += result.tokens;
  }
  nats = group.all_reduce_sum(nats);
  Evaluation out;
  out.tokens = static_cast<int64_t>(group.all_reduce_sum(static_cast<double>(scored)));
  out.loss = nats / static_cast<double>(out.tokens);
  out.perplexity = std::exp(out.loss);
  if (targets == available - 1 && file.text_bytes() > 0) {
    out.bits_per_byte = nats / std::numbers::ln2 / static_cast<double>(file.text_bytes());
  }
  return out;
}

}  // namespace quest::train
