// Tokens per second of llama.cpp on one GGUF file: the peer of bench/decode_cpu and
// bench/prefill_cpu.
//
//   peer_llama MODEL.gguf --threads 2 --prompt-tokens 512 --tokens 64 --repeats 3
//
// The same work as `quest-run bench --depth 0`: reading a prompt into an empty context, then
// writing greedily after an empty context; one untimed round of both comes first. Prints one JSON
// object; what llama.cpp logs goes to standard error with --verbose, and its lines about buffers,
// which tell whether weights were repacked and whether AMX is in use, always into the JSON. Exit
// code: 0, 1 for a failure, 2 for a wrong command line.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <llama.h>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#ifndef PEER_VERSION
#define PEER_VERSION "unknown"
#endif

namespace {

struct Arguments {
  std::string model, flash = "auto", load = "auto";
  int threads = 1, prompt = 512, tokens = 64, repeats = 3;
  bool repack = true, verbose = false;
};

struct LogLines {
  bool verbose = false;
  std::string current;  // a line may come in pieces
  std::vector<std::string> buffers;
};

void keep_log(ggml_log_level, const char* text, void* data) {
  LogLines& log = *static_cast<LogLines*>(data);
  if (log.verbose) std::fputs(text, stderr);
  for (const char* c = text; *c != '\0'; ++c) {
    if (*c != '\n') {
      log.current += *c;
      continue;
    }
    if (log.current.find("buffer size") != std::string::npos) log.buffers.push_back(log.current);
    log.current.clear();
  }
}

[[noreturn]] void usage(const std::string& problem) {
  std::fprintf(
      stderr,
      "peer_llama: %s\n"
      "usage: peer_llama MODEL.gguf [--threads N] [--prompt-tokens N] [--tokens N] [--repeats N]\n"
      "                  [--flash auto|on|off] [--load auto|mmap|none] [--no-repack] [--verbose]\n"
      "0 prompt tokens or 0 tokens leave out that part.\n",
      problem.c_str());
  std::exit(2);
}

int number(const char* name, const char* text, int least) {
  char* end = nullptr;
  const long value = text == nullptr ? -1 : std::strtol(text, &end, 10);
  if (text == nullptr || end == text || *end != '\0' || value < least || value > 1'000'000) {
    usage(std::string(name) + " needs a whole number from " + std::to_string(least));
  }
  return static_cast<int>(value);
}

Arguments parse(int count, char** words) {
  Arguments a;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const char* next = i + 1 < count ? words[i + 1] : nullptr;
    if (word == "--threads") {
      a.threads = number("--threads", next, 1), ++i;
    } else if (word == "--prompt-tokens") {
      a.prompt = number("--prompt-tokens", next, 0), ++i;
    } else if (word == "--tokens") {
      a.tokens = number("--tokens", next, 0), ++i;
    } else if (word == "--repeats") {
      a.repeats = number("--repeats", next, 1), ++i;
    } else if ((word == "--flash" || word == "--load") && next != nullptr) {
      (word == "--flash" ? a.flash : a.load) = next, ++i;
    } else if (word == "--no-repack") {
      a.repack = false;
    } else if (word == "--verbose") {
      a.verbose = true;
    } else if (word.starts_with("-") || !a.model.empty()) {
      usage("unknown argument " + word);
    } else {
      a.model = word;
    }
  }
  if (a.model.empty()) usage("name a GGUF file");
  if (a.prompt == 0 && a.tokens == 0) usage("nothing to measure");
  return a;
}

template <class T>
T one_of(const std::string& name, std::initializer_list<std::pair<const char*, T>> values) {
  for (const auto& [known, value] : values) {
    if (name == known) return value;
  }
  usage("unknown value " + name);
}

llama_model* load(const Arguments& a) {
  llama_model_params params = llama_model_default_params();
  params.load_mode = one_of<llama_load_mode>(a.load, {{"auto", LLAMA_LOAD_MODE_AUTO},
                                                      {"mmap", LLAMA_LOAD_MODE_MMAP},
                                                      {"none", LLAMA_LOAD_MODE_NONE}});
  params.use_extra_bufts = a.repack;
  llama_model* model = llama_model_load_from_file(a.model.c_str(), params);
  if (model == nullptr) throw std::runtime_error("cannot load " + a.model);
  return model;
}

llama_context* context_of(llama_model* model, const Arguments& a) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(std::max(a.prompt, a.tokens) + 1);
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(std::max(512, a.prompt));
  params.n_threads = params.n_threads_batch = a.threads;
  params.flash_attn_type =
      one_of<llama_flash_attn_type>(a.flash, {{"auto", LLAMA_FLASH_ATTN_TYPE_AUTO},
                                              {"on", LLAMA_FLASH_ATTN_TYPE_ENABLED},
                                              {"off", LLAMA_FLASH_ATTN_TYPE_DISABLED}});
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) throw std::runtime_error("cannot create a context");
  return context;
}

void feed(llama_context* context, llama_token* tokens, int count) {
  if (llama_decode(context, llama_batch_get_one(tokens, count)) != 0)
    throw std::runtime_error("llama_decode failed");
  llama_synchronize(context);
}

void forget(llama_context* context) { llama_memory_clear(llama_get_memory(context), false); }

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Tokens per second of reading `prompt` into an empty context.
double read_speed(llama_context* context, std::vector<llama_token>& prompt) {
  forget(context);
  const auto start = std::chrono::steady_clock::now();
  feed(context, prompt.data(), static_cast<int>(prompt.size()));
  return static_cast<double>(prompt.size()) / seconds_since(start);
}

// Tokens per second of writing `count` tokens greedily after an empty context.
double write_speed(llama_context* context, llama_token first, int vocabulary, int count) {
  forget(context);
  llama_token token = first;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) {
    feed(context, &token, 1);
    const float* logits = llama_get_logits_ith(context, -1);
    token = static_cast<llama_token>(std::max_element(logits, logits + vocabulary) - logits);
  }
  return count / seconds_since(start);
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return result + "\"";
}

std::string joined(const std::vector<std::string>& words) {
  std::string result;
  for (const std::string& word : words) result += (result.empty() ? "" : ", ") + word;
  return "[" + result + "]";
}

std::string speeds(const char* name, std::vector<double> values) {
  if (values.empty()) return "";
  std::vector<std::string> words;
  for (const double value : values) words.push_back(std::to_string(value));
  std::sort(values.begin(), values.end());
  return "\"" + std::string(name) +
         "_tokens_per_second\": " + std::to_string(values[values.size() / 2]) + ", \"" + name +
         "_repeats\": " + joined(words) + ", ";
}

void run(const Arguments& a, LogLines& log) {
  llama_model* model = load(a);
  llama_context* context = context_of(model, a);
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  std::mt19937 random(1);
  std::vector<llama_token> prompt(static_cast<size_t>(std::max(a.prompt, 1)));
  for (llama_token& token : prompt)
    token = static_cast<llama_token>(random() % static_cast<unsigned>(vocabulary));
  std::vector<double> prefill, decode;
  for (int repeat = -1; repeat < a.repeats; ++repeat) {
    if (a.prompt > 0) {
      const double speed = read_speed(context, prompt);
      if (repeat >= 0) prefill.push_back(speed);
    }
    if (a.tokens > 0) {
      const double speed = write_speed(context, prompt.front(), vocabulary,
                                       repeat < 0 ? std::min(a.tokens, 8) : a.tokens);
      if (repeat >= 0) decode.push_back(speed);
    }
  }
  std::vector<std::string> buffers;
  for (const std::string& line : log.buffers) buffers.push_back(quoted(line));
  std::printf(
      "{\"model\": %s, \"threads\": %d, \"prompt\": %d, \"tokens\": %d, %s%s\"model_bytes\": %llu, "
      "\"flash\": %s, "
      "\"load\": %s, \"version\": %s, \"system_info\": %s, \"buffers\": %s}\n",
      quoted(a.model).c_str(), a.threads, a.prompt, a.tokens, speeds("prefill", prefill).c_str(),
      speeds("decode", decode).c_str(), static_cast<unsigned long long>(llama_model_size(model)),
      quoted(a.flash).c_str(), quoted(a.load).c_str(), quoted(PEER_VERSION).c_str(),
      quoted(llama_print_system_info()).c_str(), joined(buffers).c_str());
  llama_free(context);
  llama_model_free(model);
}

}  // namespace

int main(int count, char** words) {
  const Arguments a = parse(count, words);
  LogLines log{.verbose = a.verbose, .current = {}, .buffers = {}};
  llama_log_set(keep_log, &log);
  llama_backend_init();
  try {
    run(a, log);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "peer_llama: %s (more with --verbose)\n", error.what());
    return 1;
  }
  llama_backend_free();
  return 0;
}
