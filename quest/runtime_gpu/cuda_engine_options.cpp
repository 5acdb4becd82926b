#include "quest/base/error.h"
#include "quest/runtime_gpu/cuda_engine.h"

namespace quest {

CudaKvFormat cuda_kv_format_from_name(std::string_view name) {
  if (name == "bf16") return CudaKvFormat::kBf16;
  if (name == "fp16") return CudaKvFormat::kFp16;
  QUEST_CHECK(name == "int8", ErrorKind::kUsage,
              "the cache's format is \"{}\", allowed: bf16, fp16, int8", name);
  return CudaKvFormat::kInt8;
}

}  // namespace quest
