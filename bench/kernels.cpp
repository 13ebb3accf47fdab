#include "kernels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <memory>

#include "attention/block_mask.hpp"
#include "html_report.hpp"
#include "kernels/attention.hpp"
#include "kernels/quantized_matmul.hpp"
#include "kernels/rows.hpp"
#include "measure.hpp"
#include "peak.hpp"
#include "pipeline/stages.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

using kernels::Matrix;
using program::Lifetime;
using program::Program;

/// One kernel at one shape: what to build, which of its operations is timed, how much it does.
struct Case {
    std::string kind;
    std::string name;
    std::function<void(Program&)> build;
    std::string operation;
    double operations = 0;
    double bytes = 0;                                           ///< read and written at least
    std::function<void(program::Executor&)> prepare = nullptr;  ///< after operands hold noise
    std::string dense;         ///< of sparse attention: the case that it is compared with
    double block_density = 0;  ///< and the share of that one's work that it does
};

struct Shape {
    const char* model;
    int k, n;
};
constexpr Shape kShapes[] = {
    {"wan-1.3b", 1536, 1536}, {"wan-1.3b", 1536, 8960}, {"wan-1.3b", 8960, 1536},
    {"wan-14b", 5120, 5120},  {"wan-14b", 5120, 13824}, {"wan-14b", 13824, 5120},
    {"hunyuan", 3072, 3072},  {"hunyuan", 3072, 12288}, {"hunyuan", 12288, 3072},
};

Case quantized_gemm(const Shape& shape, int tokens, int weight_bits, int activation_bits) {
    Case c;
    c.kind = "gemm";
    c.name = fmt::format("W{}A{} gemm {} {}x{}x{}", weight_bits, activation_bits, shape.model,
                         tokens, shape.k, shape.n);
    c.operation = "gemm";
    c.operations = 2.0 * tokens * shape.k * shape.n;
    c.bytes =
        1.0 * tokens * shape.k + shape.k / 8.0 * weight_bits * shape.n + 4.0 * tokens * shape.n;
    c.build = [=](Program& program) {
        const Matrix x = kernels::add_matrix(program, "x", tokens, shape.k, Lifetime::persistent);
        const Matrix y = kernels::add_matrix(program, "y", tokens, shape.n, Lifetime::persistent);
        const auto weight =
            kernels::add_quantized_weight(program, "weight", shape.n, shape.k, weight_bits, true);
        const auto rows = kernels::quantize_rows(program, "quantize", x, {}, activation_bits);
        kernels::matmul(program, "gemm", rows, weight, y);
    };
    return c;
}

Case float_gemm(const Shape& shape, int tokens) {
    Case c;
    c.kind = "gemm";
    c.name = fmt::format("fp32 gemm {} {}x{}x{}", shape.model, tokens, shape.k, shape.n);
    c.operation = "gemm";
    c.operations = 2.0 * tokens * shape.k * shape.n;
    c.bytes = 4.0 * tokens * (shape.k + shape.n) + 4.0 * shape.k * shape.n;
    c.build = [=](Program& program) {
        const Matrix x = kernels::add_matrix(program, "x", tokens, shape.k, Lifetime::persistent);
        const Matrix y = kernels::add_matrix(program, "y", tokens, shape.n, Lifetime::persistent);
        const auto weight =
            kernels::add_float_weight(program, "weight", shape.n, shape.k, false, true);
        kernels::matmul(program, "gemm", x, weight, y);
    };
    return c;
}

Case quantize(int tokens, int k, int rotation_block) {
    Case c;
    c.kind = "quantize";
    c.name = fmt::format("quantize rows {}x{}{}", tokens, k,
                         rotation_block ? fmt::format(", Hadamard {}", rotation_block) : "");
    c.operation = "quantize";
    c.bytes = 5.0 * tokens * k;
    c.build = [=](Program& program) {
        const Matrix x = kernels::add_matrix(program, "x", tokens, k, Lifetime::persistent);
        kernels::InputTransform transform;
        transform.rotation_block = rotation_block;
        kernels::quantize_rows(program, "quantize", x, transform, 8);
    };
    return c;
}

Case normalize(int tokens, int k) {
    Case c;
    c.kind = "norm";
    c.name = fmt::format("layer norm {}x{}", tokens, k);
    c.operation = "norm";
    c.bytes = 8.0 * tokens * k;
    c.build = [=](Program& program) {
        const Matrix x = kernels::add_matrix(program, "x", tokens, k, Lifetime::persistent);
        const Matrix y = kernels::add_matrix(program, "y", tokens, k, Lifetime::persistent);
        kernels::normalize_rows(program, "norm", x, y, {});
    };
    return c;
}

Case dense_attention(int tokens, int heads, int head_dim) {
    Case c;
    c.kind = "attention";
    c.name = fmt::format("attention {} heads x {}, {} tokens", heads, head_dim, tokens);
    c.operation = "attention";
    c.operations = 4.0 * tokens * tokens * heads * head_dim;
    c.bytes = 16.0 * tokens * heads * head_dim;
    c.build = [=](Program& program) {
        const auto add = [&](const char* name) {
            return kernels::add_head_matrix(program, name, heads, tokens, head_dim,
                                            Lifetime::persistent);
        };
        const Matrix out =
            kernels::add_matrix(program, "out", tokens, heads * head_dim, Lifetime::persistent);
        kernels::AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
        const auto q = add("q"), k = add("k"), v = add("v");
        kernels::attention(program, "attention", q, k, v, out, options);
    };
    return c;
}

/// All of what sparse attention costs, or of what it replaces: the split of q, k and v into heads
/// (in each head's order), the choice of the heads' types, and attention.
Case attention_path(int tokens, int heads, int head_dim, double density) {
    constexpr int kFrames = 8;
    const int places = tokens / kFrames;
    tokens = kFrames * places;
    const auto name = [&](const std::string& what) {
        return fmt::format("{} attention path {} heads x {}, {} tokens", what, heads, head_dim,
                           tokens);
    };
    const bool sparse = density < 1;
    Case c;
    c.kind = "sparse";
    c.name = name(sparse ? fmt::format("{:.0f} %", 100 * density) : "dense");
    c.operations = 4.0 * tokens * tokens * heads * head_dim;
    c.bytes = 40.0 * tokens * heads * head_dim;
    const auto mask = std::make_shared<attention::BlockMask>();
    const auto list = std::make_shared<kernels::BlockList>();
    const auto types = std::make_shared<program::Tensor>();
    if (sparse) {
        *mask = attention::make_block_mask(
            attention::band_sight(
                tokens, attention::band_width(tokens, places, density, MaskMode::exact), places),
            64);
        c.dense = name("dense");
        c.block_density = mask->block_density;
        c.operations *= mask->block_density;
        c.prepare = [=](program::Executor& executor) {
            std::vector<std::uint32_t> values(executor.program().bytes_of(*types) / 4);
            for (std::size_t h = 0; h < values.size(); ++h) values[h] = h % 2;
            executor.write_values(*types, std::span<const std::uint32_t>(values));
            attention::write_block_list(executor, *list, *mask);
        };
    }
    c.build = [=](Program& program) {
        std::vector<Matrix> rows;
        for (const char* matrix : {"q", "k", "v"}) {
            rows.push_back(kernels::add_matrix(program, matrix, tokens, heads * head_dim,
                                               Lifetime::persistent));
        }
        const Matrix out =
            kernels::add_matrix(program, "out", tokens, heads * head_dim, Lifetime::persistent);
        kernels::AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
        const auto split = [&](const kernels::TokenOrder& order) {
            std::vector<kernels::HeadMatrix> operands;
            for (const Matrix& m : rows) {
                operands.push_back(
                    kernels::add_head_matrix(program, "heads", heads, tokens, head_dim));
                kernels::HeadTransform transform;
                transform.order = order;
                kernels::split_heads(program, "split", m, operands.back(), transform);
            }
            return operands;
        };
        if (sparse) {
            *types =
                program.add("types", static_cast<std::uint64_t>(heads) * 4, Lifetime::persistent);
            *list = attention::declare_block_list(program, "list", *mask);
            const program::Tensor decided =
                program.add("decided", static_cast<std::uint64_t>(heads) * 4);
            const auto by_frame = split({});
            kernels::profile_heads(program, "profile", by_frame[0], by_frame[1], by_frame[2],
                                   options.scale, *list, kFrames, decided);
            options.order = {*types, kFrames, places};
            options.blocks = list.get();
        }
        const auto operands = split(options.order);
        kernels::attention(program, "attention", operands[0], operands[1], operands[2], out,
                           options);
    };
    return c;
}

std::vector<Case> all_cases(const KernelOptions& options) {
    std::vector<Case> cases;
    const std::vector<int>& tokens = options.tokens;
    for (const int m : tokens) {
        for (const Shape& shape : kShapes) {
            cases.push_back(quantized_gemm(shape, m, 4, 8));
        }
        cases.push_back(quantized_gemm(kShapes[0], m, 6, 6));
        cases.push_back(quantized_gemm(kShapes[0], m, 8, 8));
        cases.push_back(float_gemm(kShapes[0], m));
        for (const int k : {1536, 8960}) {
            cases.push_back(quantize(m, k, 0));
            cases.push_back(quantize(m, k, 128));
        }
        cases.push_back(normalize(m, 1536));
        cases.push_back(dense_attention(m, 12, 128));
        cases.push_back(dense_attention(m, 3, 64));
        cases.push_back(attention_path(m, 2, 128, 1));
        cases.push_back(attention_path(m, 2, 128, options.density));
    }
    return cases;
}

/// Fastest time of each kernel in an earlier JSON of this command.
std::map<std::string, double> earlier_times(const std::filesystem::path& file) {
    std::map<std::string, double> times;
    if (file.empty()) return times;
    std::ifstream in(file);
    const Json json = Json::parse(in, nullptr, false);
    if (!json.is_object() || !json.contains("kernels")) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' is no output of quantsparse-bench kernels", file.string()));
    }
    for (const Json& entry : json.at("kernels")) {
        times[entry.at("name").get<std::string>()] = entry.at("min_ms").get<double>();
    }
    return times;
}

Timing time_case(Device& device, const Case& c, int repeats) {
    Program program(pipeline::device_limits(device.internal()));
    c.build(program);
    program::Executor executor(device.internal(), program, true);
    for (std::uint32_t id = 0; id < program.tensors().size(); ++id) {
        if (program.tensors()[id].lifetime != Lifetime::transient) {
            fill_with_noise(executor, {id});
        }
    }
    if (c.prepare) c.prepare(executor);
    return time_phase(executor, repeats, c.operation);
}

}  // namespace

void run_kernels(const KernelOptions& options) {
    const auto earlier = earlier_times(options.compare);
    Device device(options.device);
    const Peaks peaks = measure_peaks(device, options.repeats);
    fmt::print("device {} ({}), arithmetic {}, best peak {:.1f} GOP/s\n", device.info().name,
               device.info().driver, arithmetic_name(device.arithmetic()),
               peaks.best_operations * 1e-9);
    fmt::print("{:<50}{:>10}{:>10}{:>9}{:>8}{:>8}{}\n", "kernel", "min ms", "median", "GOP/s",
               "GB/s", "share", earlier.empty() ? "" : "   earlier");
    HtmlReport html("Kernels on " + device.info().name);
    std::vector<Bar> bars;
    Json document = device_json(device);
    document["best_peak_operations_a_second"] = peaks.best_operations;
    std::map<std::string, double> fastest;
    for (const Case& c : all_cases(options)) {
        if (!options.only.empty() &&
            std::find(options.only.begin(), options.only.end(), c.kind) == options.only.end()) {
            continue;
        }
        const Timing timing = time_case(device, c, options.repeats);
        const double rate = c.operations / timing.min_ms * 1e3;
        const double share = rate / peaks.best_operations;
        const double bandwidth = c.bytes / timing.min_ms * 1e3;
        const auto before = earlier.find(c.name);
        fastest[c.name] = timing.min_ms;
        fmt::print("{:<50}{:>10.2f}{:>10.2f}{:>9.1f}{:>8.2f}{:>7.2f}{}\n", c.name, timing.min_ms,
                   timing.median_ms, rate * 1e-9, bandwidth * 1e-9, share,
                   before == earlier.end()
                       ? std::string()
                       : fmt::format("   x{:.2f}", before->second / timing.min_ms));
        Json entry = timing_json(timing);
        if (!c.dense.empty()) {
            const double ratio = timing.min_ms / fastest.at(c.dense);
            fmt::print("{:<50}{:.3f} of the dense time, {:.2f} x the block density {:.4f}\n", "",
                       ratio, ratio / c.block_density, c.block_density);
            entry["of_dense_time"] = ratio;
            entry["block_density"] = c.block_density;
            entry["of_block_density"] = ratio / c.block_density;
        }
        entry["name"] = c.name;
        entry["kind"] = c.kind;
        if (c.operations > 0) {
            entry["operations_a_second"] = rate;
            entry["share_of_peak"] = share;
            bars.push_back({c.name, share,
                            fmt::format("{:.1f} GOP/s, {:.2f} of the peak", rate * 1e-9, share)});
        }
        entry["bytes_a_second"] = bandwidth;
        document["kernels"].push_back(entry);
    }
    if (!options.json.empty()) write_json(options.json, document);
    if (!options.html.empty()) {
        html.paragraph(
            fmt::format("{}, {} arithmetic; shortest of {} runs; the peak is the best of "
                        "quantsparse-bench peak in the same run, {:.1f} GOP/s.",
                        device.info().driver, arithmetic_name(device.arithmetic()), options.repeats,
                        peaks.best_operations * 1e-9));
        html.bar_chart("Share of the arithmetic peak", bars);
        html.write(options.html);
    }
}

}  // namespace quantsparse::bench
