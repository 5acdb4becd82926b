#include "quest/text/sentencepiece_encoder.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <queue>

#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/text/utf8.h"

namespace quest {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
constexpr float kUnknownPenalty = 10.0f;  // of unigram models, below the least probable piece

// Bytes of the character at the front, by its first byte alone; the text may end within it.
size_t character_length(std::string_view text) {
  const auto byte = static_cast<unsigned char>(text[0]);
  const size_t length = byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  return std::min(length, text.size());
}

}  // namespace

PieceTrie::PieceTrie(std::vector<std::pair<std::string_view, int32_t>> entries) {
  std::sort(entries.begin(), entries.end());
  struct Range {
    size_t begin, end, depth;
  };
  // Breadth first: the children of a node follow each other, in the order of their bytes.
  std::vector<Range> ranges = {{0, entries.size(), 0}};
  nodes_.emplace_back();
  labels_.push_back(0);
  for (size_t at = 0; at < ranges.size(); ++at) {
    auto [begin, end, depth] = ranges[at];
    Node node{.first_child = static_cast<int32_t>(ranges.size())};
    if (begin < end && entries[begin].first.size() == depth) node.value = entries[begin++].second;
    while (begin < end) {
      const char byte = entries[begin].first[depth];
      size_t next = begin + 1;
      while (next < end && entries[next].first[depth] == byte) ++next;
      ranges.push_back({begin, next, depth + 1});
      nodes_.emplace_back();
      labels_.push_back(static_cast<uint8_t>(byte));
      ++node.children;
      begin = next;
    }
    nodes_[at] = node;
  }
}

int32_t PieceTrie::child(int32_t node, char byte) const {
  const Node& parent = nodes_[static_cast<size_t>(node)];
  const auto begin = labels_.begin() + parent.first_child, end = begin + parent.children;
  const auto found = std::lower_bound(begin, end, static_cast<uint8_t>(byte));
  if (found == end || *found != static_cast<uint8_t>(byte)) return -1;
  return static_cast<int32_t>(found - labels_.begin());
}

size_t PieceTrie::longest_prefix(std::string_view text) const {
  size_t longest = 0;
  int32_t node = kRoot;
  for (size_t i = 0; i < text.size(); ++i) {
    node = child(node, text[i]);
    if (node < 0) break;
    if (value(node) >= 0) longest = i + 1;
  }
  return longest;
}

SentencePieceEncoder::SentencePieceEncoder(SentencePieceModel model, const std::string& name)
    : model_(std::move(model)) {
  list_pieces(name);
  list_bytes(name);
  std::vector<std::pair<std::string_view, int32_t>> user_defined;
  min_score_ = std::numeric_limits<float>::max();
  max_score_ = std::numeric_limits<float>::min();  // as SentencePiece has it: above every ln p
  for (const auto& [text, id] : pieces_) {
    const SentencePieceModel::Piece& p = piece(id);
    if (p.type == PieceType::kUserDefined) user_defined.emplace_back(text, id);
    if (p.type != PieceType::kNormal) continue;
    min_score_ = std::min(min_score_, p.score);
    max_score_ = std::max(max_score_, p.score);
  }
  user_defined_ = PieceTrie(std::move(user_defined));
  if (model_.model_type == "unigram") unigram_ = PieceTrie({pieces_.begin(), pieces_.end()});
  if (!model_.normalization_table.empty()) {
    const std::string_view table = model_.normalization_table;  // proven by the parser
    uint32_t bytes = 0;
    std::memcpy(&bytes, table.data(), sizeof(bytes));
    rules_.resize(bytes / sizeof(uint32_t));
    std::memcpy(rules_.data(), table.data() + sizeof(bytes), bytes);
    replacements_ = table.substr(sizeof(bytes) + bytes);
  }
}

void SentencePieceEncoder::list_pieces(const std::string& name) {
  QUEST_CHECK(model_.pieces.size() < (size_t{1} << 31), ErrorKind::kData, "{} has {} pieces", name,
              model_.pieces.size());
  for (size_t i = 0; i < model_.pieces.size(); ++i) {
    const SentencePieceModel::Piece& p = model_.pieces[i];
    const auto id = static_cast<int32_t>(i);
    const bool in_text = p.type == PieceType::kNormal || p.type == PieceType::kUserDefined ||
                         p.type == PieceType::kUnused;
    QUEST_CHECK((in_text ? pieces_ : reserved_).emplace(p.text, id).second, ErrorKind::kData,
                "{} is damaged: the piece '{}' is listed twice", name, p.text);
    if (p.type != PieceType::kUnknown) continue;
    QUEST_CHECK(unknown_id_ < 0, ErrorKind::kData,
                "{} is damaged: pieces {} and {} are both the unknown token", name, unknown_id_,
                id);
    unknown_id_ = id;
  }
  QUEST_CHECK(unknown_id_ >= 0, ErrorKind::kData, "{} is damaged: it has no unknown token", name);
  QUEST_CHECK(!pieces_.empty(), ErrorKind::kData, "{} is damaged: it has no pieces of text", name);
}

void SentencePieceEncoder::list_bytes(const std::string& name) {
  size_t found = 0;
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const auto at = reserved_.find(fmt::format("<0x{:02X}>", byte));
    if (at == reserved_.end() || piece(at->second).type != PieceType::kByte) continue;
    byte_ids_[byte] = at->second;
    ++found;
  }
  const auto listed =
      static_cast<size_t>(std::count_if(model_.pieces.begin(), model_.pieces.end(),
                                        [](const auto& p) { return p.type == PieceType::kByte; }));
  QUEST_CHECK(
      listed == found && found == (model_.byte_fallback ? byte_ids_.size() : 0), ErrorKind::kData,
      "{} is damaged: it lists {} byte pieces, {} of them <0x00> to <0xFF>; with "
      "byte_fallback {} there must be {}",
      name, listed, found, model_.byte_fallback ? "on" : "off", model_.byte_fallback ? 256 : 0);
}

std::optional<int32_t> SentencePieceEncoder::control_id(const std::string& name) const {
  const auto at = reserved_.find(name);
  const bool is_control = at != reserved_.end() && piece(at->second).type == PieceType::kControl;
  return is_control ? std::optional(at->second) : std::nullopt;
}

int32_t SentencePieceEncoder::id_of(std::string_view text) const {
  const auto at = pieces_.find(text);
  return at == pieces_.end() ? unknown_id_ : at->second;
}

// Collects ids: bytes of unknown pieces, or one unknown token for several in a row.
class SentencePieceEncoder::Ids {
 public:
  explicit Ids(const SentencePieceEncoder& encoder) : encoder_(encoder) {}

  void add(std::string_view text, int32_t id) {
    const bool is_unknown = id == encoder_.unknown_id_;
    if (is_unknown && encoder_.model_.byte_fallback) {
      for (const char byte : text) {
        ids.push_back(encoder_.byte_ids_[static_cast<unsigned char>(byte)]);
      }
    } else if (!is_unknown || !after_unknown_) {
      ids.push_back(id);
    }
    after_unknown_ = is_unknown;
  }

  std::vector<int32_t> ids;

 private:
  const SentencePieceEncoder& encoder_;
  bool after_unknown_ = false;
};

std::vector<int32_t> SentencePieceEncoder::encode(std::string_view text) const {
  const std::string normalized = normalize(text);
  QUEST_CHECK(normalized.size() < size_t{1} << 31, ErrorKind::kUsage,
              "cannot tokenize {} bytes at once: they are {} when normalized; cut the text into "
              "parts",
              text.size(), normalized.size());
  Ids ids(*this);
  if (normalized.empty()) return {};
  if (model_.model_type == "bpe") {
    encode_bpe(normalized, ids);
  } else if (model_.model_type == "unigram") {
    encode_unigram(normalized, ids);
  } else if (model_.model_type == "word") {
    encode_words(normalized, ids);
  } else {
    encode_characters(normalized, ids);
  }
  return std::move(ids.ids);
}

std::pair<std::string_view, size_t> SentencePieceEncoder::normalize_front(
    std::string_view text) const {
  if (const size_t length = user_defined_.longest_prefix(text); length > 0) {
    return {text.substr(0, length), length};
  }
  if (!rules_.empty()) {
    // A walk in the double array (see verify_normalization_table).
    const auto offset = [](uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); };
    size_t node = offset(rules_[0]), length = 0, value = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      node ^= byte;
      const uint32_t unit = rules_[node];
      if ((unit & 0x800000FFu) != byte) break;
      node ^= offset(unit);
      if ((unit >> 8) & 1) {
        length = i + 1;
        value = rules_[node] & 0x7FFFFFFFu;
      }
    }
    if (length > 0) return {replacements_.data() + value, length};  // ends with a zero
  }
  const auto length = static_cast<size_t>(utf8_character_length(text));
  if (length == 0) return {kReplacement, 1};
  return {text.substr(0, length), length};
}

std::string SentencePieceEncoder::normalize(std::string_view text) const {
  const bool trims = model_.remove_extra_whitespaces;
  while (trims && !text.empty()) {
    const auto [front, bytes] = normalize_front(text);
    if (front != " ") break;
    text.remove_prefix(bytes);
  }
  std::string out;
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 2);
  if (model_.add_dummy_prefix) out += kSpaceMark;
  bool after_space = trims;
  while (!text.empty()) {
    auto [front, bytes] = normalize_front(text);
    while (after_space && front.starts_with(' ')) front.remove_prefix(1);
    for (const char c : front) {
      if (c == ' ') {
        out += kSpaceMark;
      } else {
        out += c;
      }
    }
    if (!front.empty()) after_space = trims && front.ends_with(' ');
    text.remove_prefix(bytes);
  }
  while (trims && out.ends_with(kSpaceMark)) out.resize(out.size() - kSpaceMark.size());
  return out;
}

size_t SentencePieceEncoder::symbol_length(std::string_view text, bool& is_user_defined) const {
  const size_t length = user_defined_.longest_prefix(text);
  is_user_defined = length > 0;
  return is_user_defined ? length : character_length(text);
}

// Characters, of which the pair whose piece has the highest score (the first of equal ones) becomes
// one symbol, again and again.
void SentencePieceEncoder::encode_bpe(std::string_view text, Ids& ids) const {
  struct Symbol {
    int32_t before, after;  // its neighbours; -1: none
    bool is_fixed;          // user-defined: takes part in no merge
    std::string_view text;  // empty: merged into the one before
  };
  struct Pair {
    float score;
    int32_t left, right;
    size_t size;  // bytes of both; other ones mean that it is out of date
    bool operator<(const Pair& other) const {
      return score < other.score || (score == other.score && left > other.left);
    }
  };
  std::vector<Symbol> symbols;
  const auto symbol = [&](int32_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
  while (!text.empty()) {
    const auto index = static_cast<int32_t>(symbols.size());
    bool is_fixed = false;
    const size_t length = symbol_length(text, is_fixed);
    symbols.push_back({index - 1, index + 1, is_fixed, text.substr(0, length)});
    text.remove_prefix(length);
  }
  symbols.back().after = -1;

  std::priority_queue<Pair> pairs;
  // Pieces that are only steps on the way to longer ones, and what they were made of.
  std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>> parts;
  const auto add_pair = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0 || symbol(left).is_fixed || symbol(right).is_fixed) return;
    const std::string_view a = symbol(left).text, b = symbol(right).text;
    const std::string_view both(a.data(), a.size() + b.size());
    const auto found = pieces_.find(both);
    if (found == pieces_.end()) return;
    pairs.push({piece(found->second).score, left, right, both.size()});
    if (piece(found->second).type == PieceType::kUnused) parts[both] = {a, b};
  };
  for (int32_t i = 1; i < static_cast<int32_t>(symbols.size()); ++i) add_pair(i - 1, i);
  while (!pairs.empty()) {
    const Pair best = pairs.top();
    pairs.pop();
    Symbol &left = symbol(best.left), &right = symbol(best.right);
    if (left.text.empty() || right.text.empty() ||
        left.text.size() + right.text.size() != best.size) {
      continue;
    }
    left.text = {left.text.data(), best.size};
    left.after = right.after;
    if (right.after >= 0) symbol(right.after).before = best.left;
    right.text = {};
    add_pair(left.before, best.left);
    add_pair(best.left, left.after);
  }

  std::vector<std::string_view> rest;
  for (int32_t i = 0; i >= 0; i = symbol(i).after) {
    rest.push_back(symbol(i).text);
    while (!rest.empty()) {
      const std::string_view last = rest.back();
      rest.pop_back();
      const int32_t id = id_of(last);
      const auto found = piece(id).type == PieceType::kUnused ? parts.find(last) : parts.end();
      if (found == parts.end()) {
        ids.add(last, id);
      } else {
        rest.push_back(found->second.second);
        rest.push_back(found->second.first);
      }
    }
  }
}

// Viterbi: the pieces whose scores have the largest sum.
void SentencePieceEncoder::encode_unigram(std::string_view text, Ids& ids) const {
  struct End {
    float score = 0;     // of the best way to here
    int32_t begin = -1;  // of its last piece; -1: no way yet
    int32_t id = -1;
  };
  std::vector<End> ends(text.size() + 1);
  const auto offer = [&](size_t begin, size_t end, double score, int32_t id) {
    End& target = ends[end];
    if (target.begin >= 0 && !(score > target.score)) return;
    target = {static_cast<float>(score), static_cast<int32_t>(begin), id};
  };
  const float unknown_score = min_score_ - kUnknownPenalty;
  for (size_t begin = 0; begin < text.size();) {
    const float before = ends[begin].score;
    const size_t character = character_length(text.substr(begin));
    bool has_character = false;
    int32_t node = PieceTrie::kRoot;
    for (size_t at = begin; at < text.size();) {
      node = unigram_.child(node, text[at++]);
      if (node < 0) break;
      const int32_t id = unigram_.value(node);
      if (id < 0 || piece(id).type == PieceType::kUnused) continue;
      const size_t length = at - begin;
      // A user-defined piece is always taken.
      const double score = piece(id).type == PieceType::kUserDefined
                               ? static_cast<float>(length) * max_score_ - 0.1
                               : piece(id).score;
      offer(begin, at, score + before, id);
      if (length == character) has_character = true;
    }
    if (!has_character) {
      offer(begin, begin + character, unknown_score + before, unknown_id_);
    }
    begin += character;
  }
  std::vector<size_t> path;  // ends of pieces, the last first
  for (size_t end = text.size(); end > 0; end = static_cast<size_t>(ends[end].begin)) {
    path.push_back(end);
  }
  for (auto end = path.rbegin(); end != path.rend(); ++end) {
    const auto begin = static_cast<size_t>(ends[*end].begin);
    ids.add(text.substr(begin, *end - begin), ends[*end].id);
  }
}

void SentencePieceEncoder::encode_words(std::string_view text, Ids& ids) const {
  while (!text.empty()) {
    const size_t end = std::min(text.find(kSpaceMark, 1), text.size());
    ids.add(text.substr(0, end), id_of(text.substr(0, end)));
    text.remove_prefix(end);
  }
}

void SentencePieceEncoder::encode_characters(std::string_view text, Ids& ids) const {
  while (!text.empty()) {
    bool is_user_defined = false;
    const size_t length = symbol_length(text, is_user_defined);
    ids.add(text.substr(0, length), id_of(text.substr(0, length)));
    text.remove_prefix(length);
  }
}

}  // namespace quest
