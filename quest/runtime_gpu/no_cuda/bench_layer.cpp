#include "quest/runtime_gpu/bench_layer.h"

#include "quest/base/error.h"
#include "quest/ops/gpu.h"

namespace quest {

class LayerBench::Impl {};

namespace {
[[noreturn]] void missing() {
  QUEST_THROW(ErrorKind::kEnvironment, "{}", ops::gpu_unusable_reason());
}
}  // namespace

LayerBench::LayerBench(const QuantRecipe&, int64_t, int64_t, int64_t) { missing(); }
LayerBench::~LayerBench() = default;
std::vector<LayerTime> LayerBench::time(int64_t) { missing(); }

}  // namespace quest
