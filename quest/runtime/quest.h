/* QuEST from C: packed models on a CPU. Library quest_run (cmake: quest::run).
 *
 *   quest_model* model = quest_open("packed/w4a4", NULL);
 *   if (model == NULL) { fprintf(stderr, "%s\n", quest_last_error()); return 1; }
 *   quest_generate(model, "And God said", NULL, print, NULL);
 *   quest_close(model);
 *
 * Functions that can fail return NULL, a negative number or a status other than QUEST_OK; then
 * quest_last_error() says what was wrong and what to do. No exception leaves the library.
 *
 * Thread rules: one call at a time for each model, from any thread; the last error is one for each
 * thread. Texts are UTF-8, given with their length where they may hold zeros. */
#ifndef QUEST_RUNTIME_QUEST_H
#define QUEST_RUNTIME_QUEST_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define QUEST_API __attribute__((visibility("default")))
#else
#define QUEST_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum quest_status {
  QUEST_OK = 0,
  QUEST_INTERNAL = 1,    /* out of memory, or a mistake of the library */
  QUEST_USAGE = 2,       /* a wrong argument or setting */
  QUEST_DATA = 3,        /* a file's content is not what it must be */
  QUEST_IO = 4,          /* the operating system refused */
  QUEST_ENVIRONMENT = 5, /* a library or instruction set is missing */
  QUEST_NUMERIC = 6      /* the model's values are not finite */
} quest_status;

typedef struct quest_model quest_model; /* weights, tokenizer, threads, caches of its sequences */

typedef struct quest_options {
  int threads;     /* 0: all usable cores */
  int64_t context; /* most tokens of a sequence; 0: the model's */
  int64_t chunk;   /* prompt tokens computed at once; 0: 512 */
  int int8_cache;  /* keys and values in 8 bits instead of 16 */
} quest_options;

typedef struct quest_logit_bias {
  int32_t token;
  float bias; /* added to the token's logit; -INFINITY excludes it */
} quest_logit_bias;

/* Fields are added at the end, and 0 or NULL there means none; compile against the header of the
 * library that is linked. */
typedef struct quest_sampling {
  int64_t max_tokens;        /* to write at most */
  double temperature;        /* 0: always the most probable token */
  int64_t top_k;             /* 0: all */
  double top_p;              /* 1: all */
  double min_p;              /* 0: all */
  double repetition_penalty; /* 1: none */
  uint64_t seed;
  const char* stop;                   /* the text ends before this; NULL: nothing */
  const quest_logit_bias* logit_bias; /* logit_bias_count of them */
  int64_t logit_bias_count;
  const char* const* stops; /* stop_count more texts like `stop`; none may be empty */
  int64_t stop_count;
} quest_sampling;

/* Gets a piece of well-formed UTF-8 (not ended by a zero; length 0 between pieces); 0 ends the
 * text. */
typedef int (*quest_text_sink)(const char* text, size_t length, void* user);

/* "0.1.0" */
QUEST_API const char* quest_version(void);
/* What the last failed call of this thread said; "" if none failed. Valid until the next call. */
QUEST_API const char* quest_last_error(void);

/* Proves and loads a folder; options NULL: all 0. */
QUEST_API quest_model* quest_open(const char* folder, const quest_options* options);
QUEST_API void quest_close(quest_model* model); /* NULL allowed */
QUEST_API int64_t quest_vocabulary_size(const quest_model* model);
QUEST_API int64_t quest_context_length(const quest_model* model);

/* The tokens of a text: writes at most `capacity` of them and returns how many there are; -1 on
 * failure. */
QUEST_API int64_t quest_tokenize(quest_model* model, const char* text, size_t length,
                                 int32_t* tokens, int64_t capacity);
/* The text of tokens: writes at most `capacity` bytes and returns how many there are; -1. */
QUEST_API int64_t quest_detokenize(quest_model* model, const int32_t* tokens, int64_t count,
                                   char* text, int64_t capacity);

/* {200, 1.0, 0, 1.0, 0.0, 1.0, 0, NULL, NULL, 0, NULL, 0} */
QUEST_API quest_sampling quest_default_sampling(void);
/* Writes text that goes on from the prompt; sampling NULL: the default. */
QUEST_API quest_status quest_generate(quest_model* model, const char* prompt,
                                      const quest_sampling* sampling, quest_text_sink sink,
                                      void* user);

/* Token by token. A sequence is a text being read or written. */
QUEST_API int64_t quest_add_sequence(quest_model* model); /* its number, above 0; -1 on failure */
QUEST_API quest_status quest_remove_sequence(quest_model* model, int64_t sequence);
QUEST_API int64_t quest_sequence_length(quest_model* model, int64_t sequence); /* or -1 */
QUEST_API quest_status quest_truncate(quest_model* model, int64_t sequence, int64_t length);
/* Reads tokens; logits (vocabulary size) of what follows the last, or NULL. */
QUEST_API quest_status quest_prefill(quest_model* model, int64_t sequence, const int32_t* tokens,
                                     int64_t count, float* logits);
/* One token for each of `count` different sequences; logits (count, vocabulary size). */
QUEST_API quest_status quest_decode(quest_model* model, const int64_t* sequences,
                                    const int32_t* tokens, int64_t count, float* logits);

#ifdef __cplusplus
}
#endif

#endif /* QUEST_RUNTIME_QUEST_H */
