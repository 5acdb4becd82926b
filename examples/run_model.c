/* Writes text with a packed model, in plain C:
 *
 *   run_model packed/w4a4 "And God said" 100 */
#include <stdio.h>
#include <stdlib.h>

#include "quest/runtime/quest.h"

static int print(const char* text, size_t length, void* user) {
  (void)user;
  fwrite(text, 1, length, stdout);
  fflush(stdout);
  return 1; /* go on */
}

int main(int argc, char** argv) {
  quest_options options = {0};
  quest_sampling sampling = quest_default_sampling();
  quest_model* model = NULL;
  quest_status status = QUEST_OK;
  if (argc != 4) {
    fprintf(stderr, "usage: run_model FOLDER PROMPT TOKENS\n");
    return QUEST_USAGE;
  }
  model = quest_open(argv[1], &options);
  if (model == NULL) {
    fprintf(stderr, "run_model: %s\n", quest_last_error());
    return QUEST_IO;
  }
  sampling.max_tokens = atol(argv[3]);
  sampling.temperature = 0;
  printf("%s", argv[2]);
  status = quest_generate(model, argv[2], &sampling, print, NULL);
  printf("\n");
  if (status != QUEST_OK) fprintf(stderr, "run_model: %s\n", quest_last_error());
  quest_close(model);
  return status;
}
