// Packed folders that are damaged or forged: each is refused, with the file and the tensor.
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "quest/base/json_util.h"
#include "quest/base/philox.h"
#include "quest/packed/packed_model.h"
#include "quest/packed/testing_packed.h"

namespace quest {
namespace {

namespace fs = std::filesystem;
using quest::testing::forge_packed_model;
using quest::testing::TemporaryFolder;
using quest::testing::write_small_packed_model;
using OrderedJson = nlohmann::ordered_json;

class HostileModel : public ::testing::Test {
 protected:
  // A fresh model, changed by `edit`, is refused with this text.
  template <class Edit>
  void refuses(const char* recipe, Edit&& edit, std::string_view text) {
    write_small_packed_model(path(), recipe);
    forge_packed_model(path(), edit);
    EXPECT_QUEST_ERROR(PackedModel{path()}, ErrorKind::kData, text);
  }
  void refuses_config(const std::function<void(Json&)>& edit, std::string_view text) {
    write_small_packed_model(path(), "w4a4");
    Json json = read_json(path() / "config.json");
    edit(json);
    write_file_atomically(path() / "config.json", json.dump());
    EXPECT_QUEST_ERROR(PackedModel{path()}, ErrorKind::kData, text);
  }
  fs::path path() const { return folder_ / "m"; }

  TemporaryFolder folder_;
};

// Where a tensor's bytes begin in the data.
size_t offset_of(const OrderedJson& header, const std::string& name) {
  return header.at(name).at("data_offsets").at(0).get<size_t>();
}

TEST_F(HostileModel, ForgingNothingIsAccepted) {
  write_small_packed_model(path(), "w4a4");
  forge_packed_model(path(), [](OrderedJson&, std::string&) {});
  EXPECT_NO_THROW(PackedModel{path()});
}

TEST_F(HostileModel, EveryTruncationIsRefused) {
  write_small_packed_model(path(), "w1a1");
  const std::string whole = read_file(path() / "model.safetensors");
  const Philox random(1);
  for (uint64_t i = 0; i < 200; ++i) {
    const size_t size = i < 100 ? i * 3 : random.below(i, whole.size());
    write_file_atomically(path() / "model.safetensors", std::string_view(whole).substr(0, size));
    EXPECT_QUEST_ERROR(PackedModel{path()}, ErrorKind::kData, "model.safetensors");
  }
  write_file_atomically(path() / "model.safetensors", whole + '\0');
  EXPECT_QUEST_ERROR(PackedModel{path()}, ErrorKind::kData, "model.safetensors");
}

TEST_F(HostileModel, EveryFlippedBitIsRefused) {
  write_small_packed_model(path(), "w4a8");
  const std::string whole = read_file(path() / "model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  const Philox random(2);
  for (uint64_t i = 0; i < 600; ++i) {
    const size_t at = random.below(2 * i, i < 300 ? 8 + header : whole.size());
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << random.below(2 * i + 1, 8)));
    write_file_atomically(path() / "model.safetensors", damaged);
    EXPECT_THROW(PackedModel{path()}, Error) << "byte " << at;
  }
  write_file_atomically(path() / "model.safetensors", whole);
  EXPECT_NO_THROW(PackedModel{path()});
}

TEST_F(HostileModel, OneChangedCodeIsNamedByTheChecksum) {
  write_small_packed_model(path(), "w4a4");
  std::string file = read_file(path() / "model.safetensors");
  file[file.size() - 3000] = static_cast<char>(file[file.size() - 3000] ^ 4);
  write_file_atomically(path() / "model.safetensors", file);
  EXPECT_QUEST_ERROR(PackedModel{path()}, ErrorKind::kData, "checksum");
  EXPECT_NO_THROW(PackedModel(path(), /*check_values=*/false));
}

TEST_F(HostileModel, TensorsThatAreNotThoseOfTheShape) {
  refuses(
      "w4a4",
      [](OrderedJson& header, std::string&) {
        header["model.layers.0.mlp.down_proj.kodes"] = header["model.layers.0.mlp.down_proj.codes"];
        header.erase("model.layers.0.mlp.down_proj.codes");
      },
      "no tensor \"model.layers.0.mlp.down_proj.codes\"");
  refuses(
      "w4a4",
      [](OrderedJson& header, std::string& data) {
        header["extra"] = {
            {"dtype", "U8"}, {"shape", {64}}, {"data_offsets", {data.size(), data.size() + 64}}};
        data.append(64, '\0');
      },
      "tensor extra is none");
  refuses(
      "w4a4",
      [](OrderedJson& header, std::string&) { header["model.norm.weight"]["dtype"] = "I32"; },
      "model.norm.weight is I32");
  refuses(
      "w4a4",
      [](OrderedJson& header, std::string&) {
        header["model.norm.weight"]["shape"] = {12, 12};
      },
      "model.norm.weight is F32 (12, 12)");
  // Two tensors of equal shape that have changed places.
  refuses(
      "w4a4",
      [](OrderedJson& header, std::string&) {
        std::swap(header["model.layers.0.mlp.down_proj.codes"]["data_offsets"],
                  header["model.layers.1.mlp.down_proj.codes"]["data_offsets"]);
      },
      "not in its place");
}

TEST_F(HostileModel, ATensorThatIsNotAligned) {
  refuses(
      "w4a4",
      [](OrderedJson& header, std::string& data) {
        // 16 bytes before all others; the hole is an empty tensor's place no more.
        for (auto& [name, entry] : header.items()) {
          if (name == "__metadata__") continue;
          for (auto& offset : entry["data_offsets"]) offset = offset.get<size_t>() + 16;
        }
        header["aa"] = {{"dtype", "U8"}, {"shape", {16}}, {"data_offsets", {0, 16}}};
        data.insert(0, 16, '\0');
      },
      "number 0 in the file is aa");
  // The header's length alone moves everything.
  write_small_packed_model(path(), "w4a4");
  std::string file = read_file(path() / "model.safetensors");
  uint64_t size = 0;
  std::memcpy(&size, file.data(), 8);
  file.insert(8 + size, 8, ' ');
  size += 8;
  std::memcpy(file.data(), &size, 8);
  write_file_atomically(path() / "model.safetensors", file);
  EXPECT_QUEST_ERROR(PackedModel{path()}, ErrorKind::kData, "no multiple of 64");
}

TEST_F(HostileModel, ValuesThatTheGridDoesNotHave) {
  const std::string name = "model.layers.1.self_attn.o_proj";
  for (const char* recipe : {"ternary", "fp4"}) {
    refuses(
        recipe,
        [&](OrderedJson& header, std::string& data) {
          data[offset_of(header, name + ".codes") + 70] = '\xff';
        },
        name + ".codes: byte 70");
  }
  refuses(
      "int4_4of8",
      [&](OrderedJson& header, std::string& data) {
        data[offset_of(header, name + ".pairs")] = '\x55';  // pairs 1 and 1
      },
      "no 4:8 pattern");
}

TEST_F(HostileModel, ValuesPastTheEnd) {
  // Down projection: N = 144 rows, K = 208 columns: in its last block, columns 208 to 223 are none.
  refuses(
      "w4a4",
      [&](OrderedJson& header, std::string& data) {
        const std::string name = "model.layers.0.mlp.down_proj.codes";
        data[offset_of(header, name) + 6 * 256 + 4 * 64 - 1] = '\x10';
      },
      "past the last row or column");
  refuses(
      "w4a4",
      [&](OrderedJson& header, std::string& data) {
        const OrderedJson& offsets = header.at("lm_head.codes").at("data_offsets");
        data[offsets.at(1).get<size_t>() - 1] = 1;
      },
      "lm_head.codes: values past");
}

TEST_F(HostileModel, UnitsSumsAndNormsThatAreNoNumbersOfTheirKind) {
  const auto put = [](std::string name, auto value) {
    return [=](OrderedJson& header, std::string& data) {
      std::memcpy(data.data() + offset_of(header, name), &value, sizeof(value));
    };
  };
  const std::string layer = "model.layers.0.self_attn.qkv_proj";
  refuses("w4a8", put(layer + ".units", -1.0f), layer + ".units: unit 0 is -1");
  refuses("w4a8", put(layer + ".units", std::numeric_limits<float>::quiet_NaN()), "finite");
  refuses("w4a8", put(layer + ".units", std::numeric_limits<float>::infinity()), "finite");
  refuses("w4a8", put(layer + ".value_sums", int32_t{-1}), "value_sums: row 0 is -1");
  refuses("w4a8", put(layer + ".value_sums", int32_t{144 * 15 + 1}), "cannot sum to");
  refuses("w4a8", put("model.norm.weight", std::numeric_limits<float>::infinity()), "value 0");
  refuses("w4a8", put("lm_head.units", -0.5f), "lm_head.units");
  refuses("bf16", put(layer + ".weight", uint16_t{0x7fc0}), layer + ".weight");
  refuses("w4a4", put("padding.0", char{1}), "padding.0 holds more than zeros");
}

TEST_F(HostileModel, MetadataThatSaysSomethingElse) {
  const auto set = [](std::string key, std::string value) {
    return [=](OrderedJson& header, std::string&) { header["__metadata__"][key] = value; };
  };
  refuses("w4a4", set("format", "pt"), "'pt'");
  refuses("w4a4", set("version", "2"), "version");
  refuses("w4a4", set("weight", "int3.hadamard.trust"), "int3.hadamard.trust");
  refuses("w4a4", set("head", "int4"), "head");
  refuses(
      "w4a4", [](OrderedJson& header, std::string&) { header["__metadata__"].erase("format"); },
      "no 'format'");
  refuses(
      "w4a4", [](OrderedJson& header, std::string&) { header.erase("__metadata__"); },
      "no 'format'");
  write_small_packed_model(path(), "w4a4");
  std::string file = read_file(path() / "model.safetensors");
  const std::string key = "\"checksum\":\"";
  file.replace(file.find(key) + key.size(), 4, "ZZZZ");
  write_file_atomically(path() / "model.safetensors", file);
  EXPECT_QUEST_ERROR(PackedModel{path()}, ErrorKind::kData, "no 32 digits");
}

TEST_F(HostileModel, ConfigThatAsksForTheImpossible) {
  const auto set = [](std::string key, Json value) {
    return [=](Json& json) { json[key] = value; };
  };
  refuses_config(set("num_hidden_layers", 2'000'000'000), "blocks");
  refuses_config(set("num_hidden_layers", 3), "model.layers.2");
  refuses_config(set("num_hidden_layers", 1), "not in its place");
  refuses_config(set("vocab_size", 2'147'483'647), "model.embed_tokens.codes");
  refuses_config(set("intermediate_size", 2'147'483'632), "larger than a packed model");
  refuses_config(
      [](Json& json) {
        json["num_attention_heads"] = json["num_key_value_heads"] = 2'000'000'000;
        json["head_dim"] = 2'000'000'000;
      },
      "larger than a packed model");
  refuses_config(set("quantization_config", nullptr), "no packed model");
  refuses_config([](Json& json) { json["quantization_config"]["packed"] = false; },
                 "no packed model");
  refuses_config([](Json& json) { json["quantization_config"]["packed_version"] = 2; },
                 "version 2");
  refuses_config([](Json& json) { json["quantization_config"]["embedding"] = "int2"; }, "int2");
  refuses_config([](Json& json) { json["quantization_config"]["embedding"] = "bf16"; },
                 "embedding");
  refuses_config([](Json& json) { json["quantization_config"].erase("head"); }, "head");
}

TEST_F(HostileModel, MissingFiles) {
  write_small_packed_model(path(), "w4a4");
  fs::remove(path() / "model.safetensors");
  EXPECT_QUEST_ERROR(PackedModel{path()}, ErrorKind::kIo, "model.safetensors");
  fs::remove(path() / "config.json");
  EXPECT_QUEST_ERROR(PackedModel{path()}, ErrorKind::kIo, "config.json");
}

}  // namespace
}  // namespace quest
