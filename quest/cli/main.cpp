// quest: from raw text to a trained low-bit Llama.
#include "quest/cli/quest_main.h"

int main(int argc, char** argv) { return quest::cli::quest_main(argc, argv); }
