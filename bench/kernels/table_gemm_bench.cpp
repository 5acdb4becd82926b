// table_gemm with the head of the 800M model (32000 x 2048): bytes of the table per second for
// M = 1, by one thread and by two, and multiplications plus additions per second for M = 64.
//
//   table_gemm_bench --benchmark_filter='avx512vnni/int8/M1/'
#include "ceilings.h"
#include <chrono>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "quest/base/thread_pool.h"
#include "quest/kernels/packed_gemm_testing.h"
#include "quest/kernels/table_gemm.h"

namespace quest::bench {
namespace {

using kernels::TableForm;
using kernels::TableWeight;
using testing::AlignedBytes;

void run_case(benchmark::State& state, IsaLevel level, TableForm form, int64_t m, int threads) {
  constexpr int64_t kRows = 32000, kColumns = 2048;
  const int64_t bytes = kRows * kColumns *
                        (form == TableForm::kBf16   ? 4
                         : form == TableForm::kInt8 ? 2
                                                    : 1) /
                        2;
  const AlignedBytes codes(bytes);
  for (int64_t i = 0; i < bytes; ++i) codes.data()[i] = static_cast<uint8_t>(i * 37 % 61);
  const std::vector<float> row_units(kRows, 0.01f);
  const std::vector<bfloat16> group_units(kRows * kColumns / kTileBlock, bfloat16(0.01f));
  TableWeight table;
  table.form = form;
  table.rows = kRows;
  table.columns = kColumns;
  table.weight = reinterpret_cast<const bfloat16*>(codes.data());
  table.codes = codes.data();
  table.row_units = row_units.data();
  table.group_units = group_units.data();
  const std::vector<float> x(static_cast<size_t>(m * kColumns), 0.5f);
  AlignedBytes prepared(kernels::table_activation_bytes(table, m, level));
  kernels::prepare_table_activations(table, x.data(), kColumns, m, prepared.data(), level);
  std::vector<float> out(static_cast<size_t>(m * kRows));
  ThreadPool pool(threads);
  const int64_t part = (kRows / threads + 15) / 16 * 16;
  double best = 1e30;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    pool.parallel_for(threads, [&](int64_t i) {
      kernels::table_gemm(table, prepared.data(), m, 0, m, i * part,
                          std::min((i + 1) * part, kRows), out.data(), kRows, level);
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::min(best, elapsed.count());
  }
  state.SetLabel(kernels::table_plan_text(table, m, level));
  state.counters["GB/s"] = static_cast<double>(bytes) / best * 1e-9;
  state.counters["GOP/s"] = 2.0 * static_cast<double>(m * kRows * kColumns) / best * 1e-9;
}

void register_all() {
  const std::pair<TableForm, const char*> forms[] = {
      {TableForm::kInt8, "int8"}, {TableForm::kInt4, "int4"}, {TableForm::kBf16, "bf16"}};
  for_each_level(IsaLevel::kAmx, [&](IsaLevel level, const std::string& name) {
    if (level == IsaLevel::kScalar) return;
    for (const auto& [form, form_name] : forms) {
      for (const int64_t m : {1, 4, 64}) {
        for (const int threads : {1, 2}) {
          add(name + "/" + form_name + "/M" + std::to_string(m) + "/threads" +
                  std::to_string(threads),
              [=, form = form](auto& state) { run_case(state, level, form, m, threads); });
        }
      }
    }
  });
}

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  return quest::bench::run(argc, argv, quest::bench::register_all);
}
