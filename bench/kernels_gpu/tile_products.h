// The product of codes by each of its tiles, over the shapes of linear layers.
#pragma once

namespace quest::bench {

// Prints a line for each layer of the 800M and the 7B model and each number of rows; and how much
// longer the tiles that are chosen take than the best.
void run_tile_products();

}  // namespace quest::bench
