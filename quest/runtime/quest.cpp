#include "quest/runtime/quest.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "quest/base/error.h"
#include "quest/base/version.h"
#include "quest/runtime/cpu_engine.h"
#include "quest/runtime/generator.h"

using namespace quest;

struct quest_model {
  quest_model(const char* folder, const EngineOptions& options)
      : engine(PackedModel(folder, true, options.threads,
                           fastest_access(std::filesystem::path(folder) / "model.safetensors")),
               options),
        tokenizer(load_tokenizer(engine.model().folder())),
        generator(engine, *tokenizer) {}

  CpuEngine engine;
  std::unique_ptr<Tokenizer> tokenizer;
  Generator generator;
};

namespace {

std::string& last_error() {
  static thread_local std::string text;
  return text;
}

quest_status fail(quest_status status, const char* text) noexcept {
  try {
    last_error() = text;
  } catch (...) {  // no memory for the message
    last_error().clear();
  }
  return status;
}

// Runs f; what it throws becomes a status and the last error.
template <class Function>
quest_status guarded(const Function& f) noexcept {
  try {
    f();
    return QUEST_OK;
  } catch (const Error& error) {
    return fail(static_cast<quest_status>(exit_code(error.kind())), error.what());
  } catch (const std::bad_alloc&) {
    return fail(QUEST_INTERNAL, "out of memory");
  } catch (const std::exception& error) {
    return fail(QUEST_INTERNAL, error.what());
  } catch (...) {
    return fail(QUEST_INTERNAL, "unknown error");
  }
}

// The same for functions that return a number: -1 on failure.
template <class Function>
int64_t guarded_number(const Function& f) noexcept {
  int64_t result = -1;
  const quest_status status = guarded([&] { result = f(); });
  return status == QUEST_OK ? result : -1;
}

void check_pointer(const void* pointer, const char* name) {
  QUEST_CHECK(pointer != nullptr, ErrorKind::kUsage, "{} is NULL", name);
}

void check_count(int64_t count) {
  QUEST_CHECK(count >= 0, ErrorKind::kUsage, "the count is {}", count);
}

// What is wrong in the lists is found here; a token that is not the model's, by the generator.
void read_lists(const quest_sampling& s, GenerationSettings& settings) {
  check_count(s.logit_bias_count);
  check_count(s.stop_count);
  if (s.logit_bias_count > 0) check_pointer(s.logit_bias, "logit_bias");
  if (s.stop_count > 0) check_pointer(s.stops, "stops");
  for (int64_t i = 0; i < s.logit_bias_count; ++i) {
    settings.sampler.logit_bias.emplace_back(s.logit_bias[i].token, s.logit_bias[i].bias);
  }
  if (s.stop != nullptr) settings.stop.emplace_back(s.stop);
  for (int64_t i = 0; i < s.stop_count; ++i) {
    check_pointer(s.stops[i], "a text of stops");
    settings.stop.emplace_back(s.stops[i]);
  }
  for (const std::string& stop : settings.stop) {
    QUEST_CHECK(!stop.empty(), ErrorKind::kUsage, "a stop text is empty: leave it out");
  }
}

}  // namespace

extern "C" {

const char* quest_version(void) {
  static const std::string version = version_number();
  return version.c_str();
}

const char* quest_last_error(void) { return last_error().c_str(); }

quest_model* quest_open(const char* folder, const quest_options* options) {
  quest_model* model = nullptr;
  guarded([&] {
    check_pointer(folder, "folder");
    EngineOptions engine;
    if (options != nullptr) {
      engine.threads = options->threads;
      engine.context = options->context;
      if (options->chunk != 0) engine.chunk = options->chunk;
      if (options->int8_cache != 0) engine.kv = KvFormat::kInt8;
    }
    model = new quest_model(folder, engine);
  });
  return model;
}

void quest_close(quest_model* model) { delete model; }

int64_t quest_vocabulary_size(const quest_model* model) {
  return guarded_number([&] {
    check_pointer(model, "model");
    return model->engine.config().vocab_size;
  });
}

int64_t quest_context_length(const quest_model* model) {
  return guarded_number([&] {
    check_pointer(model, "model");
    return model->engine.context_length();
  });
}

int64_t quest_tokenize(quest_model* model, const char* text, size_t length, int32_t* tokens,
                       int64_t capacity) {
  return guarded_number([&] {
    check_pointer(model, "model");
    check_count(capacity);
    if (length > 0) check_pointer(text, "text");
    if (capacity > 0) check_pointer(tokens, "tokens");
    const auto ids = model->tokenizer->encode({text, length});
    const auto count = static_cast<int64_t>(ids.size());
    std::copy_n(ids.begin(), std::min(count, capacity), tokens);
    return count;
  });
}

int64_t quest_detokenize(quest_model* model, const int32_t* tokens, int64_t count, char* text,
                         int64_t capacity) {
  return guarded_number([&] {
    check_pointer(model, "model");
    check_count(count);
    check_count(capacity);
    if (count > 0) check_pointer(tokens, "tokens");
    if (capacity > 0) check_pointer(text, "text");
    const std::string whole = model->tokenizer->decode({tokens, static_cast<size_t>(count)});
    const auto bytes = static_cast<int64_t>(whole.size());
    std::copy_n(whole.begin(), std::min(bytes, capacity), text);
    return bytes;
  });
}

quest_sampling quest_default_sampling(void) {
  const GenerationSettings settings;
  const SamplerSettings& s = settings.sampler;
  quest_sampling sampling = {};
  sampling.max_tokens = settings.max_tokens;
  sampling.temperature = s.temperature;
  sampling.top_k = s.top_k;
  sampling.top_p = s.top_p;
  sampling.min_p = s.min_p;
  sampling.repetition_penalty = s.repetition_penalty;
  sampling.seed = s.seed;
  return sampling;
}

quest_status quest_generate(quest_model* model, const char* prompt, const quest_sampling* sampling,
                            quest_text_sink sink, void* user) {
  return guarded([&] {
    check_pointer(model, "model");
    check_pointer(prompt, "prompt");
    check_pointer(reinterpret_cast<const void*>(sink), "sink");
    const quest_sampling s = sampling == nullptr ? quest_default_sampling() : *sampling;
    GenerationSettings settings;
    settings.max_tokens = s.max_tokens;
    settings.sampler.temperature = s.temperature;
    settings.sampler.top_k = s.top_k;
    settings.sampler.top_p = s.top_p;
    settings.sampler.min_p = s.min_p;
    settings.sampler.repetition_penalty = s.repetition_penalty;
    settings.sampler.seed = s.seed;
    read_lists(s, settings);
    model->generator.generate(
        encode_prompt(*model->tokenizer, prompt), settings, [&](std::string_view text) {
          return sink(text.data() == nullptr ? "" : text.data(), text.size(), user) != 0;
        });
  });
}

int64_t quest_add_sequence(quest_model* model) {
  return guarded_number([&] {
    check_pointer(model, "model");
    return model->engine.add_sequence();
  });
}

quest_status quest_remove_sequence(quest_model* model, int64_t sequence) {
  return guarded([&] {
    check_pointer(model, "model");
    model->engine.remove_sequence(sequence);
  });
}

int64_t quest_sequence_length(quest_model* model, int64_t sequence) {
  return guarded_number([&] {
    check_pointer(model, "model");
    return model->engine.length(sequence);
  });
}

quest_status quest_truncate(quest_model* model, int64_t sequence, int64_t length) {
  return guarded([&] {
    check_pointer(model, "model");
    model->engine.truncate(sequence, length);
  });
}

quest_status quest_prefill(quest_model* model, int64_t sequence, const int32_t* tokens,
                           int64_t count, float* logits) {
  return guarded([&] {
    check_pointer(model, "model");
    check_count(count);
    if (count > 0) check_pointer(tokens, "tokens");
    const auto vocabulary = static_cast<size_t>(model->engine.config().vocab_size);
    model->engine.prefill(
        sequence, {tokens, static_cast<size_t>(count)},
        logits == nullptr ? std::span<float>() : std::span<float>(logits, vocabulary));
  });
}

quest_status quest_decode(quest_model* model, const int64_t* sequences, const int32_t* tokens,
                          int64_t count, float* logits) {
  return guarded([&] {
    check_pointer(model, "model");
    check_pointer(logits, "logits");
    check_count(count);
    if (count > 0) check_pointer(sequences, "sequences");
    if (count > 0) check_pointer(tokens, "tokens");
    const auto n = static_cast<size_t>(count);
    const auto vocabulary = static_cast<size_t>(model->engine.config().vocab_size);
    model->engine.decode({sequences, n}, {tokens, n}, {logits, n * vocabulary});
  });
}

}  // extern "C"
