// Block-sparse attention with explicit lists, one for each head.
#include <fmt/format.h>
#include <algorithm>

#include "kernels/attention.hpp"
#include "pipeline/stages.hpp"
#include "quantsparse/error.hpp"
#include "selftest/case.hpp"

namespace quantsparse::selftest {
namespace {

using kernels::HeadMatrix;
using program::Lifetime;

std::vector<float> padded(const HeadMatrix& m, const std::vector<float>& values) {
    std::vector<float> out(m.head_bytes() / 4 * static_cast<std::size_t>(m.heads), 0.0f);
    for (int row = 0; row < m.heads * m.tokens; ++row) {
        const std::ptrdiff_t from = static_cast<std::ptrdiff_t>(row) * m.head_dim;
        const std::ptrdiff_t to =
            (static_cast<std::ptrdiff_t>(row / m.tokens) * m.token_stride + row % m.tokens) *
            m.padded_dim;
        std::copy_n(values.begin() + from, m.head_dim, out.begin() + to);
    }
    return out;
}

/// The case counts entries of all heads in one row; here each head has its own, with an end.
std::vector<std::uint32_t> row_pointers(const std::vector<std::int32_t>& joined, int heads,
                                        int block_rows) {
    std::vector<std::uint32_t> result;
    for (int h = 0; h < heads; ++h) {
        for (int row = 0; row <= block_rows; ++row) {
            result.push_back(
                static_cast<std::uint32_t>(joined[static_cast<std::size_t>(h * block_rows + row)]));
        }
    }
    return result;
}

}  // namespace

std::vector<Result> run_sparse_blocks(const Case& c, const Settings& settings) {
    const auto& config = c.json.at("config");
    const int heads = config.at("num_heads"), head_dim = config.at("head_dim");
    const int queries = config.at("query_tokens"), keys = config.at("key_tokens");
    const int block_rows = config.at("block_rows"), block = config.at("block");
    if (block != 32 && block != 64 && block != 128) {
        throw Error(ErrorCode::unsupported, fmt::format("blocks of {} tokens", block));
    }
    std::vector<Result> results;
    for (const auto& run : c.json.at("runs")) {
        const std::string id = run.at("id");
        const auto row_ptr = row_pointers(c.integers(id + ".row_ptr"), heads, block_rows);
        const auto column_values = c.integers(id + ".col_idx");
        const std::vector<std::uint32_t> columns(column_values.begin(), column_values.end());

        program::Program program(pipeline::device_limits(*settings.device));
        const auto operand = [&](const char* name, int tokens) {
            return kernels::add_head_matrix(program, name, heads, tokens, head_dim,
                                            Lifetime::persistent);
        };
        const HeadMatrix q = operand("q", queries), k = operand("k", keys), v = operand("v", keys);
        const kernels::Matrix out =
            kernels::add_matrix(program, "out", queries, heads * head_dim, Lifetime::persistent);
        kernels::BlockList list;
        list.lists = heads;
        list.block = block;
        list.query_blocks = block_rows;
        list.row_ptr = program.add("row_ptr", row_ptr.size() * 4, Lifetime::persistent);
        list.columns = program.add("columns", columns.size() * 4, Lifetime::persistent);
        list.predicate = program.add("predicate", 16, Lifetime::persistent);
        kernels::AttentionOptions options;
        options.scale = config.at("softmax_scale");
        options.blocks = &list;
        kernels::attention(program, "attention", q, k, v, out, options);

        program::Executor executor(*settings.device, program, false, settings.force_staging);
        for (const auto& [matrix, name] : {std::pair{&q, "in.q"}, {&k, "in.k"}, {&v, "in.v"}}) {
            const auto values = padded(*matrix, c.floats(name));
            executor.write_values(matrix->tensor, std::span<const float>(values));
        }
        executor.write_values(list.row_ptr, std::span<const std::uint32_t>(row_ptr));
        executor.write_values(list.columns, std::span<const std::uint32_t>(columns));
        executor.clear(list.predicate);
        executor.run(0);

        const auto rows = executor.read_values<float>(
            out.tensor, static_cast<std::size_t>(queries) * static_cast<std::size_t>(out.stride));
        std::vector<float> ours;  // [heads, tokens, head_dim], as the case has it
        for (int h = 0; h < heads; ++h) {
            for (int t = 0; t < queries; ++t) {
                const auto begin =
                    rows.begin() + static_cast<std::ptrdiff_t>(t) * out.stride + h * head_dim;
                ours.insert(ours.end(), begin, begin + head_dim);
            }
        }
        RunReport report(c.name + "/" + id, settings.tolerance(c.json.at("tolerance")));
        report.output("out", ours, c.floats(id + ".out"));
        results.push_back(report.result());
    }
    return results;
}

}  // namespace quantsparse::selftest
