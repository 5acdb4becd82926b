#include "quest/runtime_gpu/bench_layer.h"

#include "quest/ops/no_cuda/missing_gpu.h"

namespace quest {

class LayerBench::Impl {};

LayerBench::LayerBench(const QuantRecipe&, int64_t, int64_t, int64_t) { ops::missing_gpu(); }
LayerBench::~LayerBench() = default;
std::vector<LayerTime> LayerBench::time(int64_t) { ops::missing_gpu(); }

}  // namespace quest
