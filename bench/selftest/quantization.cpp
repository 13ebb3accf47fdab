// Quantised linears and rotations: codes and accumulators exactly, outputs within tolerance.
#include <fmt/format.h>
#include <cmath>

#include "format/bit_packing.hpp"
#include "kernels/copy.hpp"
#include "kernels/quantized_matmul.hpp"
#include "pipeline/stage.hpp"
#include "selftest/case.hpp"
#include "selftest/matrices.hpp"

namespace quantsparse::selftest {
namespace {

using kernels::Matrix;
using program::Lifetime;

std::vector<float> pad4(std::vector<float> values) {
    values.resize((values.size() + 3) / 4 * 4, 0.0f);
    return values;
}

std::vector<std::int8_t> as_codes(const std::vector<std::int32_t>& values) {
    return {values.begin(), values.end()};
}

/// y = x W^T + b in floating point on the device.
std::vector<float> float_linear(const Settings& settings, const std::vector<float>& x, int rows,
                                int k, const std::vector<float>& weight, int n,
                                const std::vector<float>& bias) {
    program::Program program(pipeline::device_limits(*settings.device));
    const Matrix in = kernels::add_matrix(program, "x", rows, k, Lifetime::persistent);
    const Matrix out = kernels::add_matrix(program, "y", rows, n, Lifetime::persistent);
    const auto w = kernels::add_float_weight(program, "w", n, k, false, true);
    kernels::matmul(program, "linear", in, w, out);
    program::Executor executor(*settings.device, program, false, settings.force_staging);
    write_matrix(executor, in, x);
    const std::size_t stride = static_cast<std::size_t>(kernels::round_up(n, 4));
    std::vector<float> transposed(static_cast<std::size_t>(k) * stride, 0.0f);
    for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j) {
        for (std::size_t i = 0; i < static_cast<std::size_t>(k); ++i) {
            transposed[i * stride + j] = weight[j * static_cast<std::size_t>(k) + i];
        }
    }
    executor.write_values(w.panels.front().tensor, std::span<const float>(transposed));
    executor.write_values(
        w.bias, std::span<const float>(
                    pad4(bias.empty() ? std::vector<float>(static_cast<std::size_t>(n)) : bias)));
    executor.run(0);
    return read_matrix<float>(executor, out);
}

}  // namespace

std::vector<Result> run_quant_linear(const Case& c, const Settings& settings) {
    const auto& config = c.json.at("config");
    const int m = config.at("tokens"), k = config.at("in_features"), n = config.at("out_features");
    const auto& output = c.json.at("tolerance").at("out fp32");
    const Tolerance tolerance{output.at("rel_l2"), output.at("max_abs")};
    const auto x = c.floats("in.x"), bias = c.floats("in.bias");

    std::vector<Result> results;
    for (const auto& run : c.json.at("runs")) {
        const std::string id = run.at("id");
        const int weight_bits = run.at("weight_bits");
        const std::string w = fmt::format("w{}", weight_bits);
        RunReport report(c.name + "/" + id, tolerance);
        if (run.at("activation_bits").is_null()) {
            report.output("out", float_linear(settings, x, m, k, c.floats(w + ".dequant"), n, bias),
                          c.floats(id + ".out"));
            results.push_back(report.result());
            continue;
        }
        const int activation_bits = run.at("activation_bits");
        const std::string a = fmt::format("a{}", activation_bits);

        program::Program program(pipeline::device_limits(*settings.device));
        const Matrix in = kernels::add_matrix(program, "x", m, k, Lifetime::persistent);
        const Matrix out = kernels::add_matrix(program, "y", m, n, Lifetime::persistent);
        const Matrix sums =
            kernels::add_matrix(program, "accumulators", m, n, Lifetime::persistent);
        const Matrix codes =
            kernels::add_matrix(program, "codes", m, format::packed_k(k) / 4, Lifetime::persistent);
        const Matrix scales = kernels::add_matrix(program, "scales", 1, m, Lifetime::persistent);
        const auto weight = kernels::add_quantized_weight(program, "w", n, k, weight_bits, true);
        const auto rows = kernels::quantize_rows(program, "quantize", in, {}, activation_bits);
        kernels::keep_bits(program, rows.words, codes.tensor, m * format::packed_k(k) / 4);
        kernels::keep_bits(program, rows.scales, scales.tensor, m);
        kernels::matmul(program, "accumulate", rows, weight, sums, {}, true);
        kernels::matmul(program, "linear", rows, weight, out);
        program::Executor executor(*settings.device, program, false, settings.force_staging);
        write_matrix(executor, in, x);
        const auto reference_codes = as_codes(c.integers(w + ".codes"));
        const auto words = format::pack_weight_codes(reference_codes, n, k, weight_bits);
        executor.write_values(weight.words, std::span<const std::uint32_t>(words));
        executor.write_values(weight.scale, std::span<const float>(pad4(c.floats(w + ".scale"))));
        executor.write_values(weight.bias, std::span<const float>(pad4(bias)));
        executor.run(0);

        const auto ours = format::quantize_weight(c.floats("in.weight"), n, k, weight_bits);
        report.require(ours.codes == reference_codes, "weight codes differ");
        const auto activation_words = executor.read_values<std::uint32_t>(
            codes.tensor,
            static_cast<std::size_t>(m) * static_cast<std::size_t>(format::packed_k(k) / 4));
        report.require(format::unpack_activation_codes(activation_words, m, k) ==
                           as_codes(c.integers(a + ".codes")),
                       "activation codes differ");
        const auto our_scales =
            executor.read_values<float>(scales.tensor, static_cast<std::size_t>(m));
        const auto reference_scales = c.floats(a + ".scale");
        for (std::size_t i = 0; i < our_scales.size(); ++i) {
            // An all-zero row has scale 0 in the reference and 1 here; its codes are zeros in both.
            report.require(reference_scales[i] == 0 ||
                               std::abs(our_scales[i] / reference_scales[i] - 1) <= 2e-7f,
                           "activation scales differ");
        }
        report.require(read_matrix<std::int32_t>(executor, sums) == c.integers(id + ".acc"),
                       "accumulators differ");
        report.output("out", read_matrix<float>(executor, out), c.floats(id + ".out"));
        results.push_back(report.result());
    }
    return results;
}

std::vector<Result> run_quant_rotation(const Case& c, const Settings& settings) {
    const int m = c.json.at("config").at("tokens"), n = c.json.at("config").at("out_features");
    std::vector<Result> results;
    for (const auto& run : c.json.at("runs")) {
        const std::string id = run.at("id").get<std::string>() + ".";
        const int k = run.at("in_features");
        RunReport report(c.name + "/" + run.at("id").get<std::string>(),
                         settings.tolerance(c.json.at("tolerance")));
        const auto x = c.floats(id + "in.x"), weight = c.floats(id + "in.weight");
        const auto rotation = c.floats(id + "in.R");
        std::vector<float> transposed(rotation.size());  // x R = linear with weight R^T
        for (std::size_t i = 0; i < rotation.size(); ++i) {
            const std::size_t row = i / static_cast<std::size_t>(k),
                              column = i % static_cast<std::size_t>(k);
            transposed[column * static_cast<std::size_t>(k) + row] = rotation[i];
        }
        const auto x_rotated = float_linear(settings, x, m, k, transposed, k, {});
        const auto weight_rotated = float_linear(settings, weight, n, k, transposed, k, {});
        report.output("x_rotated", x_rotated, c.floats(id + "out.x_rotated"));
        report.output("weight_rotated", weight_rotated, c.floats(id + "out.weight_rotated"));
        report.output("y", float_linear(settings, x_rotated, m, k, weight_rotated, n, {}),
                      c.floats(id + "out.y"));

        if (run.at("rotation") == "hadamard") {
            // The quantiser's own butterflies: its codes times its scales are within half a step of
            // x R.
            program::Program program(pipeline::device_limits(*settings.device));
            const Matrix in = kernels::add_matrix(program, "x", m, k, Lifetime::persistent);
            const Matrix codes = kernels::add_matrix(program, "codes", m, format::packed_k(k) / 4,
                                                     Lifetime::persistent);
            const Matrix scales =
                kernels::add_matrix(program, "scales", 1, m, Lifetime::persistent);
            kernels::InputTransform transform;
            transform.multiplier =
                program.add("signs", static_cast<std::uint64_t>(k) * 4, Lifetime::constant);
            transform.rotation_block = run.at("hadamard_block");
            const auto rows = kernels::quantize_rows(program, "quantize", in, transform, 8);
            kernels::keep_bits(program, rows.words, codes.tensor, m * format::packed_k(k) / 4);
            kernels::keep_bits(program, rows.scales, scales.tensor, m);
            program::Executor executor(*settings.device, program, false, settings.force_staging);
            write_matrix(executor, in, x);
            executor.write_values(transform.multiplier,
                                  std::span<const float>(c.floats(id + "in.signs")));
            executor.run(0);
            const auto words = executor.read_values<std::uint32_t>(
                codes.tensor,
                static_cast<std::size_t>(m) * static_cast<std::size_t>(format::packed_k(k) / 4));
            const auto ints = format::unpack_activation_codes(words, m, k);
            const auto scale =
                executor.read_values<float>(scales.tensor, static_cast<std::size_t>(m));
            const auto reference = c.floats(id + "out.x_rotated");
            bool close = true;
            for (std::size_t i = 0; i < reference.size(); ++i) {
                const float s = scale[i / static_cast<std::size_t>(k)];
                close &= std::abs(s * static_cast<float>(ints[i]) - reference[i]) <= 0.501f * s;
            }
            report.require(close, "the quantiser's rotation differs");
        }
        results.push_back(report.result());
    }
    return results;
}

}  // namespace quantsparse::selftest
