#include "quest/cli_run/machine_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quest::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

MachineFacts good_machine() {
  MachineFacts facts;
  facts.cpu.usable_cores = 4;
  facts.highest = facts.chosen = IsaLevel::kAvx512;
  facts.memory = {int64_t{16} << 30, int64_t{8} << 30};
  facts.threads = 4;
  facts.has_gnuplot = true;
  return facts;
}

TEST(Advise, HasNothingToSayAboutAGoodMachine) { EXPECT_THAT(advise(good_machine()), IsEmpty()); }

TEST(Advise, NamesEachLackAndItsRemedy) {
  MachineFacts facts = good_machine();
  facts.has_gnuplot = false;
  EXPECT_THAT(advise(facts), ElementsAre(HasSubstr("apt-get install gnuplot-nox")));
  facts = good_machine();
  facts.chosen = IsaLevel::kAvx2;
  EXPECT_THAT(advise(facts), ElementsAre(HasSubstr("kernels at avx2")));
  facts = good_machine();
  facts.highest = facts.chosen = IsaLevel::kScalar;
  EXPECT_THAT(advise(facts), ElementsAre(HasSubstr("AVX2 or better")));
  facts = good_machine();
  facts.threads = 1;
  EXPECT_THAT(advise(facts), ElementsAre(HasSubstr("1 threads on 4 usable cores")));
  facts = good_machine();
  facts.memory.available_bytes = 1 << 20;
  EXPECT_THAT(advise(facts), ElementsAre(HasSubstr("1.05 MB")));
  facts = good_machine();
  facts.has_gpu_driver = true;
  EXPECT_THAT(advise(facts), ElementsAre(HasSubstr("PRESET=cuda")));
  facts.no_gpu_reason = "this build has no GPU kernels";  // said once
  EXPECT_THAT(advise(facts), ElementsAre(HasSubstr("PRESET=cuda")));
  facts.is_built_for_gpu = true;
  facts.no_gpu_reason = "no GPU is visible";
  EXPECT_THAT(advise(facts), ElementsAre("This build has a GPU side, but no GPU is visible."));
  facts.no_gpu_reason.clear();
  EXPECT_THAT(advise(facts), IsEmpty());
  facts = good_machine();  // a CPU's build on a machine without a GPU lacks nothing
  facts.no_gpu_reason = "this build has no GPU kernels";
  EXPECT_THAT(advise(facts), IsEmpty());
  facts = good_machine();
  facts.has_amx_without_os = true;
  EXPECT_THAT(advise(facts), ElementsAre(HasSubstr("Linux 5.16")));
}

TEST(FormatReport, AlignsTheValuesOfASection) {
  EXPECT_EQ(format_report({{"CPU", {{"name", "X"}, {"cores", "2"}}}, {"GPU", {{"none", "-"}}}}),
            "CPU\n  name   X\n  cores  2\n\nGPU\n  none  -\n");
}

TEST(InstructionSets, ListsWhatIsThere) {
  CpuFeatures cpu;
  EXPECT_EQ(instruction_sets(cpu), "none known");
  cpu.avx2 = cpu.fma = cpu.avx512f = cpu.avx512vnni = cpu.amx_int8 = true;
  EXPECT_EQ(instruction_sets(cpu), "AVX2 FMA, AVX-512 (F VNNI), AMX (INT8)");
}

TEST(MachineReport, ReadsThePeakOfMemory) {
  EXPECT_EQ(parse_peak_memory("Name:\tquest-run\nVmPeak:\t  9 kB\nVmHWM:\t  2048 kB\nx"),
            2048 * 1024);
  EXPECT_EQ(parse_peak_memory("Name:\tquest-run\n"), 0);
}

}  // namespace
}  // namespace quest::cli
