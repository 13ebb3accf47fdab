// Checkpoints of others in 8 and 4 bits: weights as they are widened, codes and accumulators
// exactly, outputs within tolerance.
#include <fmt/format.h>
#include <cmath>

#include "format/bit_packing.hpp"
#include "format/networks/registry.hpp"
#include "kernels/copy.hpp"
#include "kernels/quantized_matmul.hpp"
#include "pipeline/stage.hpp"
#include "selftest/case.hpp"
#include "selftest/matrices.hpp"

namespace quantsparse::selftest {
namespace {

using kernels::Matrix;
using program::Lifetime;

std::vector<float> floats_or_zeros(const format::Checkpoint& checkpoint, const std::string& name,
                                   int count) {
    const auto* view = checkpoint.find(name);
    auto values = view != nullptr ? format::to_float(*view) : std::vector<float>();
    values.resize(static_cast<std::size_t>((count + 3) / 4 * 4), 0.0f);
    return values;
}

/// An integer linear as the runtime runs it, on the case's input.
void run_native(const Case& c, const Settings& settings, const format::Checkpoint& checkpoint,
                const std::string& layer, int rotation, RunReport& report) {
    const auto shape = c.shape(layer + ".in.x");
    const int m = shape[0], k = shape[1];
    const int n = static_cast<int>(checkpoint.at(layer + ".weight").shape[0]);
    std::vector<std::uint32_t> words(format::packed_word_count(n, k, 8));
    format::read_bytes(checkpoint.at(layer + ".codes"),
                       std::as_writable_bytes(std::span<std::uint32_t>(words)));
    const std::string basis = rotation != 0 ? ".equivalent." : ".mid.";
    if (c.has(layer + ".equivalent.weight_codes")) {
        const auto codes = format::unpack_weight_codes(words, n, k, 8);
        report.require(std::vector<std::int32_t>(codes.begin(), codes.end()) ==
                           c.integers(layer + ".equivalent.weight_codes"),
                       layer + ": weight codes differ");
    }

    program::Program program(pipeline::device_limits(*settings.device));
    const Matrix in = kernels::add_matrix(program, "x", m, k, Lifetime::persistent);
    const Matrix out = kernels::add_matrix(program, "y", m, n, Lifetime::persistent);
    const Matrix sums = kernels::add_matrix(program, "accumulators", m, n, Lifetime::persistent);
    const Matrix codes =
        kernels::add_matrix(program, "codes", m, format::packed_k(k) / 4, Lifetime::persistent);
    const auto weight = kernels::add_quantized_weight(program, "w", n, k, 8, true);
    kernels::InputTransform transform;
    if (rotation != 0) {
        transform.multiplier =
            program.add("signs", static_cast<std::uint64_t>(k) * 4, Lifetime::constant);
        transform.rotation_block = rotation;
    }
    const auto rows = kernels::quantize_rows(program, "quantize", in, transform, 8);
    kernels::keep_bits(program, rows.words, codes.tensor, m * format::packed_k(k) / 4);
    kernels::matmul(program, "accumulate", rows, weight, sums, {}, true);
    kernels::matmul(program, "linear", rows, weight, out);
    program::Executor executor(*settings.device, program, false, settings.force_staging);
    write_matrix(executor, in, c.floats(layer + ".in.x"));
    executor.write_values(weight.words, std::span<const std::uint32_t>(words));
    executor.write_values(weight.scale,
                          std::span<const float>(floats_or_zeros(checkpoint, layer + ".scale", n)));
    executor.write_values(weight.bias,
                          std::span<const float>(floats_or_zeros(checkpoint, layer + ".bias", n)));
    if (rotation != 0) {
        executor.write_values(transform.multiplier, std::span<const float>(floats_or_zeros(
                                                        checkpoint, layer + ".rotation_signs", k)));
    }
    executor.run(0);
    const auto activation_words = executor.read_values<std::uint32_t>(
        codes.tensor,
        static_cast<std::size_t>(m) * static_cast<std::size_t>(format::packed_k(k) / 4));
    const auto ours = format::unpack_activation_codes(activation_words, m, k);
    report.require(std::vector<std::int32_t>(ours.begin(), ours.end()) ==
                       c.integers(layer + basis + "x_codes"),
                   layer + ": activation codes differ");
    report.require(read_matrix<std::int32_t>(executor, sums) == c.integers(layer + ".mid.acc"),
                   layer + ": accumulators differ");
    report.output(layer + ".y", read_matrix<float>(executor, out), c.floats(layer + ".out.y"));
}

/// The NaN of F8 stay NaN; they are taken out of both before the comparison.
void compare_values(RunReport& report, const std::string& name, std::vector<float> ours,
                    std::vector<float> reference) {
    bool same = ours.size() == reference.size();
    for (std::size_t i = 0; same && i < ours.size(); ++i) {
        same = std::isnan(ours[i]) == std::isnan(reference[i]);
        if (std::isnan(ours[i])) ours[i] = reference[i] = 0;
    }
    report.require(same, name + " is NaN elsewhere");
    report.output(name, ours, reference);
}

Tolerance exact_tolerance(const Case& c) {
    const auto& fp32 = c.json.at("tolerance").at("fp32");
    return {fp32.at("rel_l2"), fp32.at("max_abs")};
}

}  // namespace

std::vector<Result> run_scaled_weights(const Case& c) {
    std::vector<Result> results;
    for (const auto& [variant, about] : c.json.at("variants").items()) {
        RunReport report(c.name + "/" + variant, exact_tolerance(c));
        const auto checkpoint = format::Checkpoint::open(
            c.folder / about.at("file").get<std::string>(), format::network_kind("wan-dit"));
        for (const auto& [layer, shape] : c.json.at("layers").items()) {
            compare_values(report, layer, format::to_float(checkpoint.at(layer + ".weight")),
                           c.floats(fmt::format("{}.out.{}.weight", variant, layer)));
        }
        results.push_back(report.result());
    }
    return results;
}

std::vector<Result> run_integer_weights(const Case& c, const Settings& settings) {
    std::vector<Result> results;
    const auto checkpoint = format::Checkpoint::open(c.weights(), format::network_kind("wan-dit"));
    for (const auto& [layer, about] : c.json.at("layers").items()) {
        RunReport report(c.name + "/" + layer, exact_tolerance(c));
        report.output(layer, format::to_float(checkpoint.at(layer + ".weight")),
                      c.floats(layer + ".out.weight"));
        if (const int* rotation = checkpoint.native(layer)) {
            run_native(c, settings, checkpoint, layer, *rotation, report);
        } else {
            report.require(about.value("mode", "") == "asym", layer + " is not run as integers");
        }
        results.push_back(report.result());
    }
    return results;
}

}  // namespace quantsparse::selftest
