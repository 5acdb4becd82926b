// QUEST_LANE: how functions on lanes are declared. Always inlined, so that none of them exists as a
// symbol that the linker could merge with another instruction-set level's.
#pragma once

#define QUEST_LANE static inline __attribute__((always_inline))
