#include "quest/text/sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "quest/base/error.h"
#include "quest/text/utf8.h"

namespace quest {
namespace {

struct Field {
  uint64_t number = 0;
  uint64_t value = 0;           // of a varint or fixed field
  std::string_view bytes = {};  // of a length-delimited field
  int wire_type = 0;
};

constexpr int kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5;

// Reads the fields of one protocol buffer message.
class MessageReader {
 public:
  MessageReader(std::string_view message, const std::string& name) : rest_(message), name_(name) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const uint64_t tag = varint();
    field = Field{.number = tag >> 3, .wire_type = static_cast<int>(tag & 7)};
    if (field.number == 0) damaged("a field without a number");
    switch (field.wire_type) {
      case kVarint:
        field.value = varint();
        return true;
      case kFixed64:
        std::memcpy(&field.value, take(8).data(), 8);
        return true;
      case kLengthDelimited:
        field.bytes = take(varint());
        return true;
      case kFixed32: {
        uint32_t value = 0;
        std::memcpy(&value, take(4).data(), 4);
        field.value = value;
        return true;
      }
      default:
        damaged("a field of unknown wire type");
    }
  }

 private:
  [[noreturn]] void damaged(std::string_view what) const {
    QUEST_THROW(ErrorKind::kData, "{} is no SentencePiece model, or is damaged: it holds {}", name_,
                what);
  }
  std::string_view take(uint64_t count) {
    if (count > rest_.size()) damaged("a field that ends beyond its message (truncated?)");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    damaged("a number of more than 64 bits");
  }

  std::string_view rest_;
  const std::string& name_;
};

void expect_wire_type(const Field& field, int wire_type, const std::string& name) {
  QUEST_CHECK(field.wire_type == wire_type, ErrorKind::kData,
              "{} is no SentencePiece model, or is damaged: field {} has wire type {}, expected {}",
              name, field.number, field.wire_type, wire_type);
}

SentencePieceModel::Piece parse_piece(std::string_view message, size_t id,
                                      const std::string& name) {
  SentencePieceModel::Piece piece;
  float score = 0;
  uint64_t type = 1;
  MessageReader reader(message, name);
  for (Field field; reader.next(field);) {
    if (field.number == 1) {
      expect_wire_type(field, kLengthDelimited, name);
      piece.text = field.bytes;
    } else if (field.number == 2) {
      expect_wire_type(field, kFixed32, name);
      score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    } else if (field.number == 3) {
      expect_wire_type(field, kVarint, name);
      type = field.value;
    }
  }
  QUEST_CHECK(!piece.text.empty() && is_valid_utf8(piece.text) &&
                  piece.text.find('\0') == std::string::npos,
              ErrorKind::kData, "{} is damaged: piece {} is empty or no UTF-8 text", name, id);
  QUEST_CHECK(std::isfinite(score), ErrorKind::kData, "{} is damaged: piece {} has the score {}",
              name, id, score);
  QUEST_CHECK(type >= 1 && type <= 6, ErrorKind::kData,
              "{} is damaged: piece {} has the unknown type {}", name, id, type);
  piece.type = static_cast<PieceType>(type);
  return piece;
}

void parse_trainer_spec(std::string_view message, const std::string& name,
                        SentencePieceModel& model) {
  static constexpr const char* kTypes[] = {"unigram", "bpe", "word", "char"};
  MessageReader reader(message, name);
  for (Field field; reader.next(field);) {
    if (field.number == 3) {
      expect_wire_type(field, kVarint, name);
      QUEST_CHECK(field.value >= 1 && field.value <= 4, ErrorKind::kData,
                  "{} is damaged or too new: unknown model type {}", name, field.value);
      model.model_type = kTypes[field.value - 1];
    } else if (field.number == 24) {
      expect_wire_type(field, kVarint, name);
      QUEST_CHECK(
          field.value == 0, ErrorKind::kData,
          "{} puts spaces behind words (treat_whitespace_as_suffix), which is not supported", name);
    } else if (field.number == 44) {
      expect_wire_type(field, kLengthDelimited, name);
      model.unknown_surface = field.bytes;
    }
  }
}

// The table: a 4-byte size, a double-array trie of 4-byte units, then zero-terminated replacement
// texts. A walk from unit p goes to (p xor offset(p)) xor (next byte of the text) without a check
// of bounds; a leaf's value is an offset into the texts.
void verify_normalization_table(std::string_view table, const std::string& name) {
  const auto damaged = [&](std::string_view what) {
    QUEST_THROW(ErrorKind::kData, "{} is damaged: its normalization table {}", name, what);
  };
  uint32_t trie_bytes = 0;
  if (table.size() <= sizeof(trie_bytes)) damaged("is too short");
  std::memcpy(&trie_bytes, table.data(), sizeof(trie_bytes));
  table.remove_prefix(sizeof(trie_bytes));
  if (trie_bytes == 0 || trie_bytes >= table.size() || trie_bytes % 4 != 0) {
    damaged("has a wrong size");
  }
  const std::string_view texts = table.substr(trie_bytes);
  if (texts.back() != '\0') damaged("does not end with a text");

  std::vector<uint32_t> units(trie_bytes / 4);
  std::memcpy(units.data(), table.data(), trie_bytes);
  for (size_t p = 0; p < units.size(); ++p) {
    const uint32_t unit = units[p];
    if (unit >> 31) continue;  // a leaf's value; checked from the unit that leads to it
    const size_t base = p ^ ((unit >> 10) << ((unit & (1u << 9)) >> 6));
    if ((base | 0xFF) >= units.size()) damaged("points outside itself");
    const bool has_leaf = (unit >> 8) & 1;
    if (has_leaf && (units[base] & 0x7FFFFFFFu) >= texts.size())
      damaged("points outside its texts");
  }
}

void parse_normalizer_spec(std::string_view message, const std::string& name,
                           SentencePieceModel& model) {
  MessageReader reader(message, name);
  for (Field field; reader.next(field);) {
    if (field.number == 2) {
      expect_wire_type(field, kLengthDelimited, name);
      if (!field.bytes.empty()) verify_normalization_table(field.bytes, name);
    } else if (field.number >= 3 && field.number <= 5) {
      expect_wire_type(field, kVarint, name);
      const bool on = field.value != 0;
      if (field.number == 3) model.add_dummy_prefix = on;
      if (field.number == 4) model.remove_extra_whitespaces = on;
      QUEST_CHECK(field.number != 5 || on, ErrorKind::kData,
                  "{} does not mark spaces (escape_whitespaces is off), which is not supported",
                  name);
    }
  }
}

void refuse_denormalizer(std::string_view message, const std::string& name) {
  MessageReader reader(message, name);
  for (Field field; reader.next(field);) {
    QUEST_CHECK(field.number != 2 || field.bytes.empty(), ErrorKind::kData,
                "{} rewrites decoded text (denormalizer_spec), which is not supported", name);
  }
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view serialized, const std::string& name) {
  SentencePieceModel model;
  bool has_trainer_spec = false;
  MessageReader reader(serialized, name);
  for (Field field; reader.next(field);) {
    if (field.number > 5) continue;
    expect_wire_type(field, kLengthDelimited, name);
    if (field.number == 1) {
      model.pieces.push_back(parse_piece(field.bytes, model.pieces.size(), name));
    } else if (field.number == 2) {
      model.model_type = "unigram";  // the format's default
      has_trainer_spec = true;
      parse_trainer_spec(field.bytes, name, model);
    } else if (field.number == 3) {
      parse_normalizer_spec(field.bytes, name, model);
    } else if (field.number == 5) {
      refuse_denormalizer(field.bytes, name);
    }
  }
  QUEST_CHECK(
      !model.pieces.empty() && has_trainer_spec, ErrorKind::kData,
      "{} is no SentencePiece model, or is truncated: it has {} pieces and {}trainer settings",
      name, model.pieces.size(), has_trainer_spec ? "" : "no ");
  return model;
}

}  // namespace quest
