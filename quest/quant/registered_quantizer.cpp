#include "quest/quant/registered_quantizer.h"

#include <algorithm>
#include <deque>

#include "quest/base/error.h"
#include "quest/quant/quant_spec.h"

namespace quest {
namespace {

// Deques: entries are pointed to and must not move.
std::deque<RegisteredQuantizer>& quantizers() {
  static std::deque<RegisteredQuantizer> all;
  return all;
}

std::deque<RegisteredRecipe>& recipes() {
  static std::deque<RegisteredRecipe> all;
  return all;
}

bool is_word(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  };
  return !name.empty() && std::all_of(name.begin(), name.end(), allowed);
}

bool is_name(std::string_view name) {
  return is_word(name) && !(name.back() >= '0' && name.back() <= '9');
}

bool is_recipe(std::string_view name) {
  try {
    recipe_from_name(name);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// Words that specs and recipes are made of already.
bool is_taken(std::string_view name) {
  for (const std::string_view format : {"int", "gauss", "bf", "w", "a"}) {
    if (name == format) return true;
  }
  for (const std::string_view suffix :
       {"hadamard", "nohadamard", "halfgap", "converged", "trust", "clip", "ste"}) {
    if (name == suffix || name.ends_with(fmt::format("_{}", suffix))) return true;
  }
  return is_grid_name(name) || find_registered_quantizer(name) != nullptr;
}

}  // namespace

const RegisteredQuantizer* register_quantizer_name(RegisteredQuantizer entry) {
  QUEST_CHECK(is_name(entry.name), ErrorKind::kUsage,
              "quantizer \"{}\" cannot be registered: a name is lower-case letters, digits and _, "
              "with no digit at its end",
              entry.name);
  QUEST_CHECK(!is_taken(entry.name), ErrorKind::kUsage,
              "quantizer \"{}\" cannot be registered: the name is taken", entry.name);
  QUEST_CHECK(entry.min_bits >= 1 && entry.min_bits <= entry.max_bits && entry.max_bits <= 8,
              ErrorKind::kUsage, "quantizer \"{}\": bits {} to {} are not within 1 to 8",
              entry.name, entry.min_bits, entry.max_bits);
  QUEST_CHECK(entry.for_weights || entry.for_activations, ErrorKind::kUsage,
              "quantizer \"{}\" is for neither weights nor activations", entry.name);
  quantizers().push_back(std::move(entry));
  return &quantizers().back();
}

const RegisteredQuantizer* find_registered_quantizer(std::string_view name) {
  for (const RegisteredQuantizer& q : quantizers()) {
    if (q.name == name) return &q;
  }
  return nullptr;
}

std::vector<const RegisteredQuantizer*> registered_quantizers() {
  std::vector<const RegisteredQuantizer*> all;
  for (const RegisteredQuantizer& q : quantizers()) all.push_back(&q);
  return all;
}

void register_recipe(RegisteredRecipe recipe) {
  QUEST_CHECK(is_word(recipe.name) && !recipe.name.ends_with("_hadamard"), ErrorKind::kUsage,
              "recipe \"{}\" cannot be registered: a name is lower-case letters, digits and _, "
              "without _hadamard at its end",
              recipe.name);
  QUEST_CHECK(!is_recipe(recipe.name), ErrorKind::kUsage,
              "recipe \"{}\" cannot be registered: the name is taken", recipe.name);
  validate(QuantRecipe{recipe.name, spec_from_string(recipe.weight),
                       spec_from_string(recipe.activation)});
  recipes().push_back(std::move(recipe));
}

std::vector<const RegisteredRecipe*> registered_recipes() {
  std::vector<const RegisteredRecipe*> all;
  for (const RegisteredRecipe& r : recipes()) all.push_back(&r);
  return all;
}

}  // namespace quest
