// The program's front door: what a mistyped command and a full output say, and their exit codes;
// what flags make of each other; export, inspect and verify.
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/json_util.h"
#include "quest/base/testing_command.h"
#include "quest/convert/testing_checkpoint.h"
#include "quest/model/llama_config.h"
#include "quest/ops/gpu.h"
#include "quest/packed/testing_packed.h"
#include "quest/text/testing_text.h"

namespace {

// Runs `quest ARGUMENTS` in a shell and collects its stderr; stdout goes to `output`.
quest::testing::CommandResult run(const std::string& arguments,
                                  const std::string& output = "/dev/null") {
  return quest::testing::run_command("\"" QUEST_PROGRAM "\" " + arguments + " >" + output);
}

TEST(Program, NamesTheCommandThatItDoesNotKnow) {
  for (const char* arguments : {"frob", "tokenizer frob"}) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_NE(outcome.errors.find("'frob'"), std::string::npos) << outcome.errors;
  }
}

TEST(Program, NamesTheNearestFlag) {
  const auto errors = [](const std::string& arguments) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    return outcome.errors;
  };
  const std::string dotted = errors("train --modl.hidden_size 72");
  EXPECT_NE(dotted.find("'--modl.hidden_size' is no known"), std::string::npos) << dotted;
  EXPECT_NE(dotted.find("the nearest is '--model.hidden_size'"), std::string::npos) << dotted;
  const std::string shorter = errors("train --qaunt=w4a4");
  EXPECT_NE(shorter.find("the nearest is '--quant'"), std::string::npos) << shorter;
  // Also where something else is missing; and nothing is said of what is like no flag.
  const std::string required = errors("generate --max-tokns");
  EXPECT_NE(required.find("the nearest is '--max-tokens'"), std::string::npos) << required;
  const std::string unlike = errors("train --zzzzzzzz 3");
  EXPECT_EQ(unlike.find("the nearest"), std::string::npos) << unlike;
}

TEST(Program, GenerateSaysWhyItEnded) {
  const quest::testing::TemporaryFolder folder;
  quest::testing::write_checkpoint(folder / "m", quest::testing::small_llama(),
                                   quest::recipe_from_name("w4a4"));
  const std::string command = "\"" QUEST_PROGRAM "\" generate " + (folder / "m").string() +
                              " --prompt In --ignore-end --seed 3 --max-tokens ";
  for (const auto& [tokens, reason] : {std::pair{"4", "; end: as many tokens as asked for\n"},
                                       {"100000", "; end: the context is full\n"}}) {
    const auto outcome = quest::testing::run_command(command + tokens + " 2>&1");
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_TRUE(outcome.output.ends_with(reason)) << outcome.output;
    // The log's line is a line of its own, after the text.
    const size_t last = outcome.output.rfind('\n', outcome.output.size() - 2);
    EXPECT_EQ(outcome.output.substr(last + 1, 1), "[") << outcome.output;
  }
}

TEST(Program, OneIsSingular) {
  const quest::testing::TemporaryFolder folder;
  const auto printed = [&](const std::string& arguments) {
    EXPECT_EQ(run(arguments, (folder / "out").string()).code, 0) << arguments;
    return quest::read_file(folder / "out");
  };
  EXPECT_EQ(printed("tokenizer encode bytes a"), "      97  <0x61>\n1 token, 1 byte\n");
  const std::string text = folder.write("a.txt", "In the beginning").string();
  const std::string data = printed("data " + text + " --tokenizer bytes --validation-fraction 0 " +
                                   "--out " + (folder / "data").string());
  EXPECT_NE(data.find(": 1 document of 1 file, tokenizer bytes of 257 tokens\n"), std::string::npos)
      << data;
}

TEST(Program, AFullOutputIsAnError) {
  EXPECT_EQ(run("tokenizer inspect bytes").code, 0);
  for (const char* arguments : {"tokenizer inspect bytes", "tokenizer inspect bytes --count 257"}) {
    const auto outcome = run(arguments, "/dev/full");
    EXPECT_EQ(outcome.code, 4) << outcome.errors;
    EXPECT_NE(outcome.errors.find("No space left on device"), std::string::npos) << outcome.errors;
  }
}

// The printed configuration is the run's: what --init gives is in it, and no link that may move.
TEST(Program, InitIsPartOfThePrintedConfiguration) {
  namespace fs = std::filesystem;
  const quest::testing::TemporaryFolder folder;
  folder.write("source/config.json",
               quest::llama_config_json({}, quest::recipe_from_name("w2a2"), "float32"));
  fs::create_directory_symlink("source", folder / "newest");
  const std::string init = "train --steps 1 --print-config --init " + (folder / "newest").string();
  const auto printed = [&](const std::string& arguments) {
    const auto outcome = run(arguments, (folder / "out").string());
    EXPECT_EQ(outcome.code, 0) << outcome.errors;
    return quest::read_file(folder / "out");
  };
  const std::string taken = printed(init);
  EXPECT_NE(taken.find("/source\"\n"), std::string::npos) << taken;
  EXPECT_EQ(taken.find("/newest"), std::string::npos) << taken;
  EXPECT_NE(taken.find("\nrecipe = \"w2a2\"\n"), std::string::npos) << taken;
  EXPECT_NE(printed(init + " --quant bf16").find("\nrecipe = \"bf16\"\n"), std::string::npos);
  EXPECT_EQ(run(init + "-missing").code, 4);
}

// From a checkpoint to a packed model that is proven, and to a folder for transformers.
TEST(Program, ExportsInspectsAndVerifies) {
  namespace fs = std::filesystem;
  const quest::testing::TemporaryFolder folder;
  quest::testing::write_checkpoint(folder / "run/final", quest::testing::small_llama(),
                                   quest::recipe_from_name("w4a4"));
  const std::string run_folder = (folder / "run").string(), packed = (folder / "p").string();
  const std::string text = folder.write("a.txt", quest::testing::kSampleText).string();
  const auto printed = [&](const std::string& arguments) {
    const auto outcome = run(arguments, (folder / "out").string());
    EXPECT_EQ(outcome.code, 0) << arguments << ": " << outcome.errors;
    return quest::read_file(folder / "out");
  };
  const auto has = [](const std::string& output, const std::string& part) {
    return output.find(part) != std::string::npos;
  };
  const std::string exported =
      printed("export " + run_folder + " --out " + packed + " --head bf16");
  EXPECT_TRUE(has(exported, "head           bf16 (261 x 144)")) << exported;
  EXPECT_TRUE(has(exported, "not yet: quest verify")) << exported;
  const std::string inspected = printed("inspect --tensors " + packed);
  EXPECT_TRUE(has(inspected, std::to_string(fs::file_size(folder / "p/model.safetensors"))));
  EXPECT_TRUE(has(inspected, "model.layers.1.mlp.down_proj.codes")) << inspected;

  const std::string verify = "verify " + packed + " --against " + run_folder;
  const std::string verified =
      printed(verify + " --text " + text + " --prompt-tokens 20 --greedy-tokens 4");
  EXPECT_TRUE(has(verified, "from training in fp32 with the packed tables: ")) << verified;
  EXPECT_TRUE(has(verified, "passed")) << verified;
  const quest::Json json = quest::read_json(folder / "p/verify.json");
  EXPECT_EQ(json["result"], "passed");
  EXPECT_EQ(json["checksum"], quest::PackedModel(folder / "p").checksum());
  // Tables are training's own; what the engine adds is roundings, which a short text sees as
  // noise.
  const quest::Json& perplexity = json["perplexity"];
  EXPECT_EQ(perplexity["tables"]["relative"], 0.0);
  EXPECT_NE(perplexity["verdict"], "beyond");
  EXPECT_EQ(perplexity["tolerance"], 0.001);
  EXPECT_NEAR(perplexity["packed"].get<double>() / perplexity["training_fp32"].get<double>(), 1,
              0.02);
  EXPECT_TRUE(has(printed("inspect " + packed), "verified       passed"));

  // Another training of the same shape: neither kept as verified nor verified.
  quest::testing::write_checkpoint(folder / "other/final", quest::testing::small_llama(),
                                   quest::recipe_from_name("w4a4"), /*seed=*/7);
  const std::string other = (folder / "other").string();
  printed("inspect " + packed + " --against " + run_folder);
  const auto stale = run("inspect " + packed + " --against " + other);
  EXPECT_EQ(stale.code, 3) << stale.errors;
  EXPECT_TRUE(has(stale.errors, "was made from weights")) << stale.errors;
  const std::string shortly = " --prompt-tokens 1 --greedy-tokens 0";
  const auto wrong = run("verify " + packed + " --against " + other + shortly);
  EXPECT_EQ(wrong.code, 3) << wrong.errors;
  EXPECT_TRUE(has(wrong.errors, "the first: the packed model was made from weights"))
      << wrong.errors;
  const auto unproven = run("inspect " + packed + " --against " + run_folder);
  EXPECT_EQ(unproven.code, 3) << unproven.errors;
  EXPECT_TRUE(has(unproven.errors, "(verify.json: failed)")) << unproven.errors;
  const auto warned = run("run eval " + packed + " " + text);
  EXPECT_EQ(warned.code, 0) << warned.errors;
  EXPECT_TRUE(has(warned.errors, "`quest verify` failed for this model")) << warned.errors;
  printed(verify + shortly);
  const auto proven = run("run eval " + packed + " " + text);
  EXPECT_FALSE(has(proven.errors, "verify")) << proven.errors;

  // Smaller tables lose, by more than a tolerance that is as good as none.
  EXPECT_EQ(
      run("export " + run_folder + " --out " + (folder / "i8").string() + " --embedding int8").code,
      0);
  const auto coarse = run("verify " + (folder / "i8").string() + " --against " + run_folder +
                          " --text " + text + " --tolerance 1e-6 --prompt-tokens 5");
  const quest::Json judged = quest::read_json(folder / "i8/verify.json");
  EXPECT_NE(judged["perplexity"]["verdict"], "within");
  EXPECT_EQ(coarse.code, judged["perplexity"]["verdict"] == "beyond" ? 3 : 0) << coarse.errors;
  EXPECT_EQ(judged["result"], coarse.code == 0 ? "passed" : "failed");
  EXPECT_TRUE(has(coarse.errors, "perplexity of the packed and the trained model differs by"))
      << coarse.errors;

  // A code that is changed, with the checksum made to fit: only verify can know.
  quest::testing::forge_packed_model(folder / "p", [](auto& header, std::string& data) {
    const auto at = header.at("model.layers.0.mlp.down_proj.codes").at("data_offsets").at(0);
    data[at.template get<size_t>()] ^= 1;
  });
  fs::remove(folder / "p/checksums.json");
  EXPECT_TRUE(has(printed("inspect " + packed), "verify.json is of another file"));
  const auto failed = run(verify + shortly);
  EXPECT_EQ(failed.code, 3) << failed.errors;
  EXPECT_TRUE(has(failed.errors, "down_proj.codes: 1 of")) << failed.errors;

  const std::string hf =
      printed("export " + run_folder + " --format hf --out " + (folder / "h").string());
  EXPECT_TRUE(has(hf, "model.layers.1.self_attn.v_proj.weight")) << hf;
  EXPECT_TRUE(has(printed("eval " + (folder / "h").string() + " " + text), "perplexity"));
  EXPECT_EQ(run("export " + run_folder + " --out " + run_folder).code, 2);
  EXPECT_EQ(run("export " + run_folder + " --format hf --head int4 --out x").code, 2);
  EXPECT_EQ(run("eval " + packed + " " + text).code, 3);  // packed: for quest-run
}

TEST(Program, PrintsPlansAndTrainsNothing) {
  const quest::testing::TemporaryFolder folder;
  const std::string text = folder.write("a.txt", quest::testing::kSampleText).string();
  const std::string data = (folder / "data").string(), runs = (folder / "runs").string();
  EXPECT_EQ(run("data " + text + " --tokenizer bytes --validation-fraction 0 --out " + data).code,
            0);
  const auto outcome =
      run("train --print-plans --steps 1 --sequence-length 16 --quant w4a4 --data " + data +
              " --run.folder " + runs,
          (folder / "out").string());
  EXPECT_EQ(outcome.code, 0) << outcome.errors;
  const std::string printed = quest::read_file(folder / "out");
  EXPECT_TRUE(printed.starts_with("device       cpu, bf16\nqkv_proj     1920 x 640: ")) << printed;
  EXPECT_FALSE(std::filesystem::exists(runs));
}

// On a machine with a GPU that this build can use: the CPU's result. Elsewhere: why not.
TEST(Program, ComputesOnAGpuOrSaysWhyNot) {
  const quest::testing::TemporaryFolder folder;
  quest::testing::write_checkpoint(folder / "m", quest::testing::small_llama(),
                                   quest::recipe_from_name("w4a4"));
  const std::string model = (folder / "m").string(), json = (folder / "e.json").string();
  const std::string text = folder.write("a.txt", quest::testing::kSampleText).string();
  const std::string eval = "eval " + model + " " + text + " --compute fp32 --json " + json;
  EXPECT_EQ(run("doctor", (folder / "doctor").string()).code, 0);
  const std::string doctor = quest::read_file(folder / "doctor");
  const std::string generate = "generate " + model + " --prompt In --max-tokens 4 --ignore-end";
  const std::string reason = quest::ops::gpu_unusable_reason();
  EXPECT_NE(doctor.find(reason.empty() ? "compute capability" : reason), std::string::npos)
      << doctor;
  if (!reason.empty()) {
    for (const std::string& command : {eval, generate, std::string("selftest")}) {
      const auto outcome = run(command + " --device cuda");
      EXPECT_EQ(outcome.code, quest::exit_code(quest::ErrorKind::kEnvironment)) << command;
      EXPECT_NE(outcome.errors.find(reason), std::string::npos) << outcome.errors;
    }
    GTEST_SKIP() << reason;
  }
  const auto perplexity = [&](const std::string& device) {
    const auto outcome = run(eval + " --device " + device);
    EXPECT_EQ(outcome.code, 0) << outcome.errors;
    const quest::Json result = quest::read_json(folder / "e.json");
    EXPECT_EQ(result["device"], device);
    return result["perplexity"].get<double>();
  };
  EXPECT_NEAR(perplexity("cuda") / perplexity("cpu"), 1, 0.02);
  for (const std::string& command : {generate, std::string("selftest")}) {
    const auto outcome = run(command + " --device cuda", (folder / "out").string());
    EXPECT_EQ(outcome.code, 0) << outcome.errors << quest::read_file(folder / "out");
  }
}

}  // namespace
