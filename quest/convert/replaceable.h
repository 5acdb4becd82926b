// What a command that writes a folder may replace.
#pragma once

#include <filesystem>

namespace quest::convert {

enum class FolderKind { kPacked, kHf };

// Throws kUsage if something stands at `out` that is neither an empty folder nor of the kind that
// is to be written: a packed model, or a Hugging Face folder that export_hf made (it holds
// "quest_export.json").
void check_replaceable(const std::filesystem::path& out, FolderKind kind);

inline constexpr const char* kHfMarkName = "quest_export.json";

}  // namespace quest::convert
