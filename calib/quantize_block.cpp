#include "calib/quantize_block.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "calib/linear_algebra.hpp"
#include "calib/progress.hpp"
#include "calib/quantizers.hpp"
#include "calib/rotation.hpp"
#include "calib/smoothing.hpp"
#include "format/bit_packing.hpp"
#include "format/model_file.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

using format::DType;

std::vector<float> finite_values(const format::Checkpoint& checkpoint, const std::string& name) {
    auto values = format::to_float(checkpoint.at(name));
    for (const float value : values) {
        if (!std::isfinite(value)) {
            throw Error(ErrorCode::non_finite,
                        fmt::format("tensor '{}' of '{}' holds NaN or infinity; the checkpoint is "
                                    "damaged, download it again",
                                    name, checkpoint.path().string()));
        }
    }
    return values;
}

double mean_of(const std::vector<float>& values) {
    double sum = 0;
    for (const float value : values) {
        sum += value;
    }
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

/// What the linears of a group share.
struct GroupContext {
    std::span<const float> rows;            ///< kept input rows
    std::span<const float> quantized_rows;  ///< the same as the runtime would quantise them
    const SmoothingChoice& choice;
    const std::vector<float>& signs;
    int bits = 4;
    bool correct_bias = true;
};

/// Mean over the rows of rows weight^T, [n], summed in a fixed order: matrix libraries divide their
/// sums by the number of threads, and the same command must give the same file on any of them.
std::vector<float> mean_output(std::span<const float> rows, std::span<const float> weight, int n,
                               int k) {
    const auto columns = static_cast<std::size_t>(k);
    std::vector<double> mean(columns, 0.0);
    for (std::size_t i = 0; i < rows.size(); ++i) mean[i % columns] += rows[i];
    const double count = static_cast<double>(rows.size() / columns);
    std::vector<float> result;
    for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j) {
        double sum = 0;
        for (std::size_t i = 0; i < columns; ++i) sum += mean[i] * weight[j * columns + i];
        result.push_back(static_cast<float>(sum / count));
    }
    return result;
}

QuantizedLinear quantize_linear(const std::string& name, std::span<const float> weight,
                                std::vector<float> bias, const GroupContext& group) {
    QuantizedLinear linear;
    const int k = static_cast<int>(group.choice.scale.size());
    const int n = static_cast<int>(bias.size());
    const int rows = static_cast<int>(group.rows.size()) / k;
    const auto transformed = transform_weight(weight, k, group.choice.scale, group.signs);
    const auto grid = clip_grid(group.bits);
    const auto gamma = search_clipping(transformed, n, k, group.bits, grid);
    const auto quantized = format::quantize_weight(transformed, n, k, group.bits, gamma);
    const auto dequantized = fake_quantize_weight(transformed, n, k, group.bits, gamma);
    const auto target = multiply_transposed(group.rows, weight, rows, n, k);
    auto output = multiply_transposed(group.quantized_rows, dequantized, rows, n, k);
    if (group.correct_bias) {
        const auto shift = mean_shift(mean_output(group.rows, weight, n, k),
                                      mean_output(group.quantized_rows, dequantized, n, k), n);
        for (std::size_t i = 0; i < output.size(); ++i) {
            output[i] += shift[i % shift.size()];
        }
        for (std::size_t i = 0; i < bias.size(); ++i) {
            bias[i] += shift[i];
        }
    }
    linear.name = name;
    linear.out_features = n;
    linear.in_features = k;
    linear.codes = format::pack_weight_codes(quantized.codes, n, k, group.bits);
    linear.scale = quantized.scale;
    linear.bias = std::move(bias);
    linear.channel_scale = group.choice.scale;
    linear.rotation_signs = group.signs;
    linear.report = {name, signal_to_noise_db(transformed, dequantized),
                     signal_to_noise_db(target, output), group.choice.alpha, mean_of(gamma)};
    return linear;
}

}  // namespace

std::vector<QuantizedLinear> quantize_block(const format::Checkpoint& transformer, int block,
                                            const CollectedActivations& activations,
                                            const CalibrationOptions& options) {
    std::vector<QuantizedLinear> result;
    for (const auto which : kInputGroups) {
        check_cancelled();
        const auto& group = activations.group(block, which);
        const auto names = linears_of(which, block);
        std::vector<std::vector<float>> weights;
        for (const auto& name : names) {
            weights.push_back(finite_values(transformer, name + ".weight"));
        }
        std::vector<float> signs;
        if (options.rotate) {
            signs = rotation_signs(options.seed, block, which, group.width);
        }
        const GroupProblem problem{&group, &weights, signs, options.weight_bits,
                                   options.activation_bits};
        const auto choice = choose_smoothing(problem, options.smooth);
        const auto quantized_rows =
            fake_quantize_rows(transform_rows(group.rows, group.width, choice.scale, signs),
                               group.row_count(), group.width, options.activation_bits);
        // Few prompts give too few different text rows to tell a mean by: measured, it costs 0.2
        // dB.
        const bool correct_bias = which != InputGroup::cross_kv;
        const GroupContext context{group.rows, quantized_rows,      choice,
                                   signs,      options.weight_bits, correct_bias};
        for (std::size_t i = 0; i < names.size(); ++i) {
            check_cancelled();
            result.push_back(quantize_linear(
                names[i], weights[i], finite_values(transformer, names[i] + ".bias"), context));
        }
    }
    return result;
}

void save_block(const std::filesystem::path& path, const std::vector<QuantizedLinear>& linears,
                int bits, const std::string& fingerprint) {
    format::SafetensorsWriter writer(path);
    auto reports = nlohmann::json::array();
    for (const auto& linear : linears) {
        reports.push_back({{"name", linear.report.name},
                           {"weight_snr_db", linear.report.weight_snr_db},
                           {"output_snr_db", linear.report.output_snr_db},
                           {"alpha", linear.report.alpha},
                           {"mean_gamma", linear.report.mean_gamma}});
        writer.declare(linear.name + ".codes", DType::u32,
                       format::codes_shape(linear.out_features, linear.in_features, bits));
        writer.declare(linear.name + ".scale", DType::f32, {linear.out_features});
        writer.declare(linear.name + ".bias", DType::f32, {linear.out_features});
        writer.declare(linear.name + ".channel_scale", DType::f32, {linear.in_features});
        if (!linear.rotation_signs.empty()) {
            writer.declare(linear.name + ".rotation_signs", DType::f32, {linear.in_features});
        }
    }
    writer.set_metadata("fingerprint", fingerprint);
    writer.set_metadata("reports", reports.dump());
    for (const auto& linear : linears) {
        const auto write = [&](const char* part, auto span) {
            writer.write(linear.name + part, std::as_bytes(span));
        };
        write(".codes", std::span(linear.codes));
        write(".scale", std::span(linear.scale));
        write(".bias", std::span(linear.bias));
        write(".channel_scale", std::span(linear.channel_scale));
        write(".rotation_signs", std::span(linear.rotation_signs));
    }
    writer.finish();
}

std::vector<LinearReport> load_block_reports(const std::filesystem::path& path,
                                             const std::string& fingerprint) {
    if (!std::filesystem::exists(path)) {
        return {};
    }
    try {
        const format::SafetensorsFile file(path);
        if (file.metadata().at("fingerprint") != fingerprint) {
            return {};
        }
        std::vector<LinearReport> reports;
        for (const auto& entry : nlohmann::json::parse(file.metadata().at("reports"))) {
            reports.push_back({entry.at("name"), entry.at("weight_snr_db"),
                               entry.at("output_snr_db"), entry.at("alpha"),
                               entry.at("mean_gamma")});
        }
        return reports;
    } catch (const std::exception&) {
        return {};  // half of an older run: the block is done anew
    }
}

}  // namespace quantsparse::calib
