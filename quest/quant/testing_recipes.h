// Names of recipes to test with: for every pattern that the program lists (recipe_names()) some
// names that fit it, so that a recipe registered later is tested without being named. Tests only;
// header only.
//
//   for (const std::string& name : testing::recipes_of_all_patterns()) ...
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "quest/base/error.h"
#include "quest/quant/quant_spec.h"
#include "quest/quant/registered_quantizer.h"

namespace quest::testing {

inline bool is_recipe(const std::string& name) {
  try {
    recipe_from_name(name);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// The pattern with every `what` in it replaced.
inline std::string with(std::string pattern, std::string_view what, std::string_view text) {
  for (size_t at = pattern.find(what); at != std::string::npos; at = pattern.find(what)) {
    pattern.replace(at, what.size(), text);
  }
  return pattern;
}

// For each pattern (the last one, "<those>_hadamard", too) the recipes that it gives at 1, 2, 4 and
// 8 bits, inputs of as many bits or of 8; "<any>" is w1a1 and w4a4. Never empty for a pattern that
// means something.
inline std::vector<std::string> recipes_of(const std::string& pattern) {
  std::vector<std::string> names;
  const auto add = [&](const std::string& name) {
    const bool is_new = std::find(names.begin(), names.end(), name) == names.end();
    if (is_new && is_recipe(name)) names.push_back(name);
  };
  if (pattern == "<those>_hadamard") {
    for (const RecipeHelp& help : recipe_names()) {
      if (help.pattern == pattern) continue;
      for (const std::string& name : recipes_of(help.pattern)) {
        const QuantRecipe recipe = recipe_from_name(name);
        const bool registered =
            recipe.weight.registered != nullptr || recipe.activation.registered != nullptr;
        if (registered) add(name + "_hadamard");
      }
    }
    return names;
  }
  for (const char* any : {"w1a1", "w4a4"}) {
    for (const char* bits : {"1", "2", "4", "8"}) {
      for (const char* input_bits : {bits, "8"}) {
        add(with(with(with(pattern, "<any>", any), "<b>", bits), "<c>", input_bits));
      }
    }
  }
  return names;
}

inline std::vector<std::string> recipes_of_all_patterns() {
  std::vector<std::string> names;
  for (const RecipeHelp& help : recipe_names()) {
    for (std::string& name : recipes_of(help.pattern)) names.push_back(std::move(name));
  }
  return names;
}

}  // namespace quest::testing
