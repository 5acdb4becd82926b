#include "quest/convert/replaceable.h"

#include <optional>

#include "quest/base/error.h"
#include "quest/model/llama_config.h"

namespace quest::convert {

namespace fs = std::filesystem;
namespace {

bool is_packed(const fs::path& folder) {
  try {
    std::optional<PackedSettings> settings;
    load_llama_config(folder / "config.json", nullptr, &settings);
    return settings.has_value();
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

void check_replaceable(const fs::path& out, FolderKind kind) {
  if (!fs::exists(out)) return;
  const bool replaceable =
      fs::is_directory(out) &&
      (fs::is_empty(out) ||
       (kind == FolderKind::kPacked ? is_packed(out) : fs::exists(out / kHfMarkName)));
  QUEST_CHECK(replaceable, ErrorKind::kUsage,
              "{} exists and is no {}: it is not replaced; name another folder", out.string(),
              kind == FolderKind::kPacked ? "packed model" : "folder that `quest export` made");
}

}  // namespace quest::convert
