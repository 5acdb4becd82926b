#include "quest/kernels/cuda/kv_cache.h"

#include "quest/base/error.h"
#include "quest/kernels/cuda/attention_decode.h"

namespace quest::kernels::cuda::deploy {

void check_layout(const KvLayout& layout) {
  const int64_t dim = layout.head_dim;
  QUEST_CHECK(dim >= 2 && dim <= 256 && dim % 2 == 0, ErrorKind::kUsage,
              "a head of {} values does not fit the GPU's cache: even sizes up to 256 do", dim);
  QUEST_CHECK(layout.format != KvFormat::kInt8 || dim % 16 == 0, ErrorKind::kUsage,
              "an int8 cache rotates keys and values, but the head size {} is no multiple of 16: "
              "use fp16 or bf16",
              dim);
}

bool attend_split_supports(const KvLayout& layout) {
  return layout.head_dim % (layout.format == KvFormat::kInt8 ? 16 : 8) == 0 &&
         layout.head_dim >= 8 && layout.head_dim <= 256;
}

bool attend_rotates(const KvLayout& layout) {
  return attend_split_supports(layout) && layout.head_dim % 128 == 0;
}

void check_attend_out(const KvLayout& layout, const AttendOut& out) {
  if (out.signs == nullptr) return;
  QUEST_CHECK(attend_rotates(layout), ErrorKind::kUsage,
              "attention rotates heads of 128 or 256 values, not of {}", layout.head_dim);
  QUEST_CHECK(out.block == 1 || (out.block >= 16 && out.block <= 128 && 128 % out.block == 0),
              ErrorKind::kUsage,
              "there are Hadamard blocks of 16, 32, 64 and 128 values, not of {}", out.block);
}

void check_attend(const KvLayout& layout, int64_t heads) {
  check_layout(layout);
  QUEST_CHECK(heads >= layout.kv_heads && heads % layout.kv_heads == 0, ErrorKind::kUsage,
              "{} query heads cannot share {} key-value heads evenly", heads, layout.kv_heads);
}

void check_split(const KvLayout& layout, int64_t heads, const KvRows& rows, const SplitPlan& plan) {
  check_attend(layout, heads);
  QUEST_CHECK(attend_split_supports(layout), ErrorKind::kUsage,
              "the fast attention takes heads of a multiple of {} values, not {}",
              layout.format == KvFormat::kInt8 ? 16 : 8, layout.head_dim);
  QUEST_CHECK(rows.rows <= 65535, ErrorKind::kUsage,
              "the fast attention takes up to 65535 rows at once, not {}", rows.rows);
  QUEST_CHECK(plan.pieces >= 1 &&
                  (plan.pieces == 1 || (plan.workspace != nullptr && rows.rows <= plan.max_rows)),
              ErrorKind::kUsage, "{} rows in {} pieces need a workspace: there is {} for {} rows",
              rows.rows, plan.pieces, plan.workspace == nullptr ? "none" : "one", plan.max_rows);
}

}  // namespace quest::kernels::cuda::deploy
