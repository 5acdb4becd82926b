// How far a mistyped name is from a real one, to say which one was meant.
#pragma once

#include <cstddef>
#include <string_view>

namespace quest {

// The fewest letters to insert, to leave out or to replace that make one of the other.
size_t edit_distance(std::string_view a, std::string_view b);

// The same, but leaving out later words of a name counts as one: "btach" is 3 from "batch_size"
// and 4 from "steps".
size_t name_distance(std::string_view given, std::string_view name);

// The name without the tables before it: "optimizer.lr" gives "lr".
std::string_view last_part(std::string_view key);

// name_distance of dotted names. A right name in a wrong table, or in none, is nearer than all of
// its letters tell: "lr" is 2 from "optimizer.lr".
size_t key_distance(std::string_view given, std::string_view key);

}  // namespace quest
