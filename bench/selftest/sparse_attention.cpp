// Block-sparse attention: explicit lists, one for each head; masks given by rules over frames and
// places, with text tokens in front; and lists with the linear branch of SLA beside them.
#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "attention/block_mask.hpp"
#include "kernels/linear_attention.hpp"
#include "models/matrix_upload.hpp"
#include "pipeline/stage.hpp"
#include "quantsparse/error.hpp"
#include "selftest/case.hpp"

namespace quantsparse::selftest {
namespace {

using kernels::BlockList;
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

/// [heads, tokens, head_dim], as the cases have it, from rows that hold all heads.
std::vector<float> head_major(const std::vector<float>& rows, const HeadMatrix& q, int stride) {
    std::vector<float> result;
    for (int h = 0; h < q.heads; ++h) {
        for (int t = 0; t < q.tokens; ++t) {
            const auto begin =
                rows.begin() + static_cast<std::ptrdiff_t>(t) * stride + h * q.head_dim;
            result.insert(result.end(), begin, begin + q.head_dim);
        }
    }
    return result;
}

/// q, k and v of a case, attention over them and its output.
class AttentionRun {
  public:
    AttentionRun(const Case& c, const Settings& settings, int heads, int queries, int keys,
                 int head_dim)
        : settings_(settings),
          program(pipeline::device_limits(*settings.device)),
          q_(kernels::add_head_matrix(program, "q", heads, queries, head_dim,
                                      Lifetime::persistent)),
          k_(kernels::add_head_matrix(program, "k", heads, keys, head_dim, Lifetime::persistent)),
          v_(kernels::add_head_matrix(program, "v", heads, keys, head_dim, Lifetime::persistent)),
          out_(kernels::add_matrix(program, "out", queries, heads * head_dim,
                                   Lifetime::persistent)) {
        options_.scale = c.json.at("config").at("softmax_scale");
    }

    /// `blocks` nullptr: dense. `write` fills the list; operands are [heads, tokens, head_dim].
    template <typename WriteList>
    std::vector<float> run(const BlockList* blocks, const WriteList& write,
                           const std::vector<float>& q, const std::vector<float>& k,
                           const std::vector<float>& v) {
        options_.blocks = blocks;
        kernels::attention(program, "attention", q_, k_, v_, out_, options_);
        if (projection) {
            kernels::add_linear_attention(program, "linear", q_, k_, v_, *projection, out_);
        }
        program::Executor executor(*settings_.device, program, false, settings_.force_staging);
        for (const auto& [matrix, values] : {std::pair{&q_, &q}, {&k_, &k}, {&v_, &v}}) {
            const auto stored = padded(*matrix, *values);
            executor.write_values(matrix->tensor, std::span<const float>(stored));
        }
        write(executor);
        executor.run(0);
        return head_major(
            executor.read_values<float>(out_.tensor, static_cast<std::size_t>(out_.rows) *
                                                         static_cast<std::size_t>(out_.stride)),
            q_, out_.stride);
    }

  private:
    const Settings& settings_;

  public:
    program::Program program;
    std::optional<kernels::FloatWeight> projection;  ///< of a linear branch

  private:
    HeadMatrix q_, k_, v_;
    kernels::Matrix out_;
    kernels::AttentionOptions options_;
};

/// A list of each head, whose blocks are all computed whole.
class WholeBlocks {
  public:
    WholeBlocks(program::Program& program, int heads, int queries, int block,
                std::vector<std::uint32_t> row_ptr, std::vector<std::uint32_t> columns)
        : row_ptr_(std::move(row_ptr)), columns_(std::move(columns)) {
        if (block != 32 && block != 64 && block != 128) {
            throw Error(ErrorCode::unsupported, fmt::format("blocks of {} tokens", block));
        }
        const auto add = [&](const char* name, std::size_t count) {
            return program.add(name, count * 4, Lifetime::persistent);
        };
        list.lists = heads;
        list.block = block;
        list.query_blocks = static_cast<int>(row_ptr_.size()) / heads - 1;
        list.row_ptr = add("row_ptr", row_ptr_.size());
        list.columns = add("columns", columns_.size());
        list.sight = add("sight", static_cast<std::size_t>(1 + queries) * 2);  // not used
    }
    void write(program::Executor& executor) const {
        executor.write_values(list.row_ptr, std::span<const std::uint32_t>(row_ptr_));
        executor.write_values(list.columns, std::span<const std::uint32_t>(columns_));
        executor.clear(list.sight);
    }

    BlockList list;

  private:
    std::vector<std::uint32_t> row_ptr_, columns_;
};

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

/// Which keys a rule over frames and places lets each query see, and the order of tokens in which
/// those are ranges: the text and the sink's frames, then the video frame by frame or place by
/// place.
struct RuleMask {
    attention::Sight sight;
    std::vector<int> order;  ///< token of the case at each position
};

RuleMask rule_mask(const nlohmann::json& run, const nlohmann::json& config) {
    const int text = config.at("text_tokens"), frames = config.at("frames"),
              places = config.at("tokens_per_frame");
    const int window = run.at("window"), sink = run.at("sink_frames");
    const bool spatial = run.at("head_kind") == "spatial";
    const int shown = spatial ? 0 : sink;  // frames that go before the others
    RuleMask mask;
    const auto add = [&](int frame, int place, int begin, int end) {
        mask.order.push_back(text + frame * places + place);
        mask.sight.ranges.push_back({begin, end});
    };
    const int tokens = text + frames * places;
    for (int t = 0; t < text; ++t) {
        mask.order.push_back(t);
        mask.sight.ranges.push_back({0, tokens});
    }
    mask.sight.prefix = text + sink * places;
    mask.sight.suffix = tokens;
    const auto along_time = [&](int place, int frame) {
        const int first = text + shown * places, length = frames - shown;
        add(frame, place, first + std::max(0, place - window) * length,
            first + std::min(places, place + window + 1) * length);
    };
    if (spatial) {
        for (int f = 0; f < frames; ++f) {
            for (int p = 0; p < places; ++p) {
                add(f, p, text + std::max(0, f - window) * places,
                    text + std::min(frames, f + window + 1) * places);
            }
        }
        return mask;
    }
    for (int f = 0; f < shown; ++f) {
        for (int p = 0; p < places; ++p) along_time(p, f);
    }
    for (int p = 0; p < places; ++p) {
        for (int f = shown; f < frames; ++f) along_time(p, f);
    }
    return mask;
}

/// Rows of one head in another order: result[position] = values[order[position]], or back.
std::vector<float> reordered(const std::vector<float>& values, const std::vector<int>& order,
                             int head_dim, bool back) {
    std::vector<float> result(values.size());
    for (std::size_t position = 0; position < order.size(); ++position) {
        const auto token = static_cast<std::size_t>(order[position]);
        const std::size_t from = back ? position : token, to = back ? token : position;
        std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(from) * head_dim, head_dim,
                    result.begin() + static_cast<std::ptrdiff_t>(to) * head_dim);
    }
    return result;
}

/// Rows of `query_block` queries as so many of `key_block` each, which our lists have.
WholeBlocks blocks_of_map(const Case& c, const nlohmann::json& run, program::Program& program) {
    const int tokens = run.at("tokens"), key_block = run.at("key_block");
    const int query_block = run.at("query_block");
    const auto map = c.integers(run.at("id").get<std::string>() + ".map");
    const auto shape = c.shape(run.at("id").get<std::string>() + ".map");
    std::vector<std::uint32_t> row_ptr, columns;
    for (int head = 0; head < shape[0]; ++head) {
        for (int first = 0; first < tokens; first += key_block) {
            row_ptr.push_back(static_cast<std::uint32_t>(columns.size()));
            const int row = head * shape[1] + first / query_block;
            for (int column = 0; column < shape[2]; ++column) {
                if (map[static_cast<std::size_t>(row * shape[2] + column)]) {
                    columns.push_back(static_cast<std::uint32_t>(column));
                }
            }
        }
        row_ptr.push_back(static_cast<std::uint32_t>(columns.size()));
    }
    return {program, shape[0], tokens, key_block, std::move(row_ptr), std::move(columns)};
}

}  // namespace

std::vector<Result> run_sparse_blocks(const Case& c, const Settings& settings) {
    const auto& config = c.json.at("config");
    const int heads = config.at("num_heads"), head_dim = config.at("head_dim");
    const int queries = config.at("query_tokens"), keys = config.at("key_tokens");
    const int block_rows = config.at("block_rows");
    std::vector<Result> results;
    for (const auto& run : c.json.at("runs")) {
        const std::string id = run.at("id");
        const auto columns = c.integers(id + ".col_idx");
        AttentionRun calls(c, settings, heads, queries, keys, head_dim);
        const WholeBlocks blocks(calls.program, heads, queries, config.at("block"),
                                 row_pointers(c.integers(id + ".row_ptr"), heads, block_rows),
                                 {columns.begin(), columns.end()});
        const auto ours = calls.run(
            &blocks.list, [&](program::Executor& executor) { blocks.write(executor); },
            c.floats("in.q"), c.floats("in.k"), c.floats("in.v"));
        RunReport report(c.name + "/" + id, settings.tolerance(c.json.at("tolerance")));
        report.output("out", ours, c.floats(id + ".out"));
        results.push_back(report.result());
    }
    return results;
}

std::vector<Result> run_sla(const Case& c, const Settings& settings) {
    const auto& config = c.json.at("config");
    const int heads = config.at("num_heads"), head_dim = config.at("head_dim");
    std::vector<Result> results;
    for (const auto& run : c.json.at("runs")) {
        const std::string id = run.at("id");
        const int tokens = run.at("tokens");
        AttentionRun calls(c, settings, heads, tokens, tokens, head_dim);
        const WholeBlocks blocks = blocks_of_map(c, run, calls.program);
        calls.projection = kernels::add_float_weight(calls.program, "proj_l", head_dim, head_dim,
                                                     false, true, Lifetime::persistent);
        const auto weight = c.floats(id + ".proj_l.weight"), bias = c.floats(id + ".proj_l.bias");
        const auto ours = calls.run(
            &blocks.list,
            [&](program::Executor& executor) {
                blocks.write(executor);
                models::write_matrix(executor, *calls.projection,
                                     models::rows_of(std::span(weight), head_dim, head_dim));
                executor.write_values(calls.projection->bias, std::span<const float>(bias));
            },
            c.floats(id + ".q"), c.floats(id + ".k"), c.floats(id + ".v"));
        RunReport report(c.name + "/" + id, settings.tolerance(c.json.at("tolerance")));
        report.output("out", ours, c.floats(id + ".out"));
        results.push_back(report.result());
    }
    return results;
}

std::vector<Result> run_sparse_frames(const Case& c, const Settings& settings) {
    const auto& config = c.json.at("config");
    const int heads = config.at("num_heads"), head_dim = config.at("head_dim");
    const int tokens = config.at("tokens");
    if (heads != 1) throw Error(ErrorCode::unsupported, "rules over frames with several heads");
    constexpr int kBlock = 32;
    std::vector<Result> results;
    for (const auto& run : c.json.at("runs")) {
        AttentionRun calls(c, settings, heads, tokens, tokens, head_dim);
        RunReport report(c.name + "/" + run.at("id").get<std::string>(),
                         settings.tolerance(c.json.at("tolerance")));
        std::vector<float> ours;
        if (run.at("head_kind") == "dense") {
            ours = calls.run(
                nullptr, [](program::Executor&) {}, c.floats("in.q"), c.floats("in.k"),
                c.floats("in.v"));
        } else {
            const RuleMask rule = rule_mask(run, config);
            const attention::BlockMask mask = attention::make_block_mask(rule.sight, kBlock);
            report.require(std::abs(mask.token_density -
                                    run.at("kept_pairs").get<double>() / tokens / tokens) < 1e-9,
                           "the rule keeps other pairs than the case counts");
            const BlockList list = attention::declare_block_list(calls.program, "mask", mask);
            const auto operand = [&](const char* name) {
                return reordered(c.floats(name), rule.order, head_dim, false);
            };
            ours = reordered(calls.run(
                                 &list,
                                 [&](program::Executor& executor) {
                                     attention::write_block_list(executor, list, mask);
                                 },
                                 operand("in.q"), operand("in.k"), operand("in.v")),
                             rule.order, head_dim, true);
        }
        report.output("out", ours, c.floats(run.at("id").get<std::string>() + ".out"));
        results.push_back(report.result());
    }
    return results;
}

}  // namespace quantsparse::selftest
