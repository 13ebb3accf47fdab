#include "calib/calibrate.hpp"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "calib/block_file.hpp"
#include "calib/collect.hpp"
#include "calib/convert_pth.hpp"
#include "calib/linear_algebra.hpp"
#include "calib/networks.hpp"
#include "calib/progress.hpp"
#include "calib/write_model.hpp"
#include "quantsparse/error.hpp"
#include "quantsparse/version.hpp"

namespace quantsparse::calib {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void refuse(const std::string& what) {
    throw Error(ErrorCode::invalid_argument, what);
}

void check_range(const char* name, int value, int lowest, int highest) {
    if (value < lowest || value > highest) {
        refuse(fmt::format("{} {} is out of range; give {} to {}", name, value, lowest, highest));
    }
}

/// Everything the work files depend on: another value means another calibration.
std::string fingerprint_of(const CalibrationOptions& options, const format::ModelBundle& model,
                           const ClipSize& size) {
    const auto file_identity = [](const fs::path& path) {
        return json{fs::weakly_canonical(path).string(), fs::file_size(path),
                    fs::last_write_time(path).time_since_epoch().count()};
    };
    const auto method = method_of(options);
    const auto& learning = options.learning;
    json settings = {{"preset", options.preset},
                     {"rotation", name_of(method.rotation)},
                     {"scale", name_of(method.scale)},
                     {"correct_bias", method.correct_bias}};
    if (method.learns) {
        settings["learning"] = {name_of(method.distill),
                                method.clip_activations,
                                learning.epochs,
                                learning.rate,
                                learning.quantizer_rate,
                                learning.rotation_block,
                                learning.stride,
                                learning.salient_count,
                                learning.lambda_global,
                                learning.lambda_local,
                                learning.balance,
                                static_cast<int>(learning.saliency),
                                static_cast<int>(learning.inputs),
                                static_cast<int>(learning.attention),
                                learning.density};
    }
    return json{{"tool", kVersion},
                {"method", settings},
                {"samples", {training_count(options), clip_count(options)}},
                {"transformer", file_identity(model.transformer->path())},
                {"text_encoder", file_identity(model.text_encoder->path())},
                {"weight_bits", options.weight_bits},
                {"activation_bits", options.activation_bits},
                {"steps", options.steps},
                {"seed", options.seed},
                {"kept_rows", options.kept_rows},
                {"size", {size.width, size.height, size.frames}},
                {"prompts", choose_prompts(options)}}
        // Prompts that are no UTF-8 are refused by the tokenizer, with a better message.
        .dump(-1, ' ', false, json::error_handler_t::replace);
}

/// The calibration as the model file records it.
std::string quantization_record(const CalibrationOptions& options, const ClipSize& size,
                                const std::vector<LinearReport>& reports,
                                const std::vector<BlockReport>& block_reports, double seconds) {
    json record = {{"weight_bits", options.weight_bits},
                   {"activation_bits", options.activation_bits},
                   {"method", options.weight_bits == 16 ? "none" : options.preset},
                   {"tool", fmt::format("quantsparse-calibrate {}", kVersion)}};
    if (options.weight_bits == 16) {
        return record.dump();
    }
    record["granularity"] = {{"weights", "symmetric, per output channel"},
                             {"activations", "symmetric, per token, dynamic"}};
    const auto method = method_of(options);
    record["rotation"] = name_of(method.rotation);
    record["smoothing"] = name_of(method.scale);
    record["bias_correction"] = method.correct_bias;
    record["distillation"] = name_of(method.distill);
    record["high_precision"] = {"patch_embedding", "text_embedding", "time_embedding",
                                "time_projection", "head",           "norms",
                                "biases",          "modulation"};
    json blocks = json::array();
    constexpr std::size_t kPerBlock = 10;
    for (std::size_t start = 0; start + kPerBlock <= reports.size(); start += kPerBlock) {
        json linears = json::array();
        double noise = 0;
        for (std::size_t i = start; i < start + kPerBlock; ++i) {
            const auto& report = reports[i];
            linears.push_back({{"name", report.name},
                               {"weight_snr_db", std::round(report.weight_snr_db * 100) / 100},
                               {"output_snr_db", std::round(report.output_snr_db * 100) / 100},
                               {"alpha", std::round(report.alpha * 10) / 10},
                               {"mean_gamma", std::round(report.mean_gamma * 1000) / 1000}});
            noise += std::pow(10.0, -report.output_snr_db / 10.0) / kPerBlock;
        }
        const auto& errors = block_reports.at(start / kPerBlock).errors;
        blocks.push_back({{"loss", noise},  // mean over the linears of |error|^2 / |output|^2
                          {"own_error", errors.own},
                          {"prefix_error", errors.prefix},
                          {"map_error", errors.full_map},
                          {"linears", linears}});
    }
    record["calibration"] = {
        {"samples", method.learns ? training_count(options) : clip_count(options)},
        {"steps", options.steps},
        {"epochs", method.learns ? options.learning.epochs : 0},
        {"seed", options.seed},
        {"width", size.width},
        {"height", size.height},
        {"frames", size.frames},
        {"tokens", size.tokens},
        {"prompts", choose_prompts(options)},
        {"seconds", std::round(seconds)},
        {"blocks", blocks}};
    return record.dump();
}

/// The three networks in floating point, whatever the source was. Converts .pth files on the way.
format::ModelBundle open_source(const CalibrationOptions& options, bool show_progress) {
    if (!fs::exists(options.model)) {
        throw Error(ErrorCode::io, fmt::format("the model '{}' does not exist; check --model",
                                               options.model.string()));
    }
    if (fs::is_directory(options.model) && !fs::exists(options.model / "model_index.json")) {
        convert_folder(options.model, show_progress);
    }
    auto model = format::open_model(options.model);
    if (model.weight_bits != 16) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' is quantised already ({}); calibrate from the original model",
                                options.model.string(), model.quantization));
    }
    return model;
}

/// Finds out now, not after an hour, that the output can't be written.
void probe_output(const fs::path& output) {
    if (fs::is_directory(output)) {
        throw Error(ErrorCode::io, fmt::format("can't write '{}': it is a folder; give a file name",
                                               output.string()));
    }
    const format::SafetensorsWriter probe(output);
}

fs::path block_path(const fs::path& folder, int block) {
    return folder / fmt::format("block.{}.safetensors", block);
}

/// Takes the work folder away again when a run ends before anything was kept in it.
class EmptyFolderRemover {
  public:
    explicit EmptyFolderRemover(fs::path folder) : folder_(std::move(folder)) {}
    ~EmptyFolderRemover() {
        std::error_code not_empty;
        fs::remove(folder_, not_empty);
    }
    EmptyFolderRemover(const EmptyFolderRemover&) = delete;
    EmptyFolderRemover& operator=(const EmptyFolderRemover&) = delete;

  private:
    fs::path folder_;
};

void remove_work_files(const fs::path& folder, int blocks) {
    std::error_code ignored;
    fs::remove(folder / "activations.safetensors", ignored);
    fs::remove(folder / "samples.safetensors", ignored);
    for (int block = 0; block < blocks; ++block) {
        fs::remove(block_path(folder, block), ignored);
    }
}

}  // namespace

void check_options(const CalibrationOptions& options) {
    if (options.model.empty() || options.output.empty()) {
        refuse("--model and --output are both needed");
    }
    const auto method = method_of(options);
    const int weights = options.weight_bits;
    const int activations = options.activation_bits;
    if (weights != 4 && weights != 6 && weights != 8 && weights != 16) {
        refuse(fmt::format("{}-bit weights are not supported; use 4, 6, 8 or 16", weights));
    }
    if (activations != 6 && activations != 8 && activations != 16) {
        refuse(fmt::format("{}-bit activations are not supported; use 6, 8 or 16", activations));
    }
    if ((weights == 16) != (activations == 16)) {
        refuse(fmt::format("{}-bit weights do not go with {}-bit activations; 16 goes with 16 only",
                           weights, activations));
    }
    check_range("--samples", options.samples, 0, 1000);
    if (method.learns) {
        const auto& learning = options.learning;
        check_range("--epochs", learning.epochs, 1, 10000);
        check_range("--rotation-block", learning.rotation_block, 4, 1024);
        check_range("--stride", learning.stride, 0, 1 << 20);
        check_range("--topk", learning.salient_count, 0, 1 << 20);
        if (!(learning.density > 0 && learning.density <= 1)) {
            refuse(fmt::format("--calib-density {} is out of range; give a share above 0, up to 1",
                               learning.density));
        }
    }
    check_range("--steps", options.steps, 1, 1000);
    check_range("--rows", options.kept_rows, 64, 65536);
    check_range("--threads", options.threads, 0, 4096);
    check_range("--width", options.width, 0, 16384);
    check_range("--height", options.height, 0, 16384);
    check_range("--frames", options.frames, 0, 4097);
}

fs::path work_directory(const CalibrationOptions& options) {
    if (!options.work_directory.empty()) {
        return options.work_directory;
    }
    auto path = options.output;
    path += ".partial";
    return path;
}

namespace {

/// The quantised linears of one block: taken over, searched, or learned.
std::vector<QuantizedLinear> calibrate_block(const format::ModelBundle& model, int block,
                                             const BlockWeights& weights,
                                             const Collected& collected,
                                             const CalibrationOptions& options,
                                             BlockReport& report) {
    auto linears = quantize_block(*model.transformer, block, collected.activations, options);
    const auto method = method_of(options);
    if (!method.learns) {
        return linears;
    }
    LearnableBlock learnable(weights, linears, method, options);
    report.learning = learn_block(model.transformer_config, weights, block, collected.activations,
                                  collected.samples, options, learnable);
    return learnable.fold(block, collected.activations);
}

std::uint64_t peak_memory() {
    struct rusage usage {};
    ::getrusage(RUSAGE_SELF, &usage);
    return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

void print_block(int block, const CalibrationOptions& options, const BlockReport& report) {
    const auto decibel = [](double share) { return -10.0 * std::log10(std::max(share, 1e-20)); };
    const auto& errors = report.errors;
    auto line = fmt::format(
        "block {}: output {:.2f} dB, after the blocks before {:.2f} dB; map error {:.2e}, pooled "
        "{:.2e}, salient {:.2e}",
        block, decibel(errors.own), decibel(errors.prefix), errors.full_map, errors.pooled_map,
        errors.salient_rows);
    if (method_of(options).learns && report.learning.start.output > 0) {
        const auto& learning = report.learning;
        line += fmt::format(
            "; epoch {} of {} took the error down by {:.2f} dB, lambda {:.3g}, "
            "{:.3g}",
            learning.best_epoch, options.learning.epochs,
            decibel(learning.best.output / learning.start.output), learning.lambda_global,
            learning.lambda_local);
    }
    fmt::print(stderr, "{}; {:.1f} s, peak {:.0f} MB\n", line, report.seconds,
               static_cast<double>(report.peak_bytes) / 1e6);
}

/// Collected anew, or taken over from an interrupted run.
Collected collect_or_load(const format::ModelBundle& model, const CalibrationOptions& options,
                          const fs::path& folder, const std::string& fingerprint,
                          bool show_progress, bool* resumed) {
    const fs::path activations_path = folder / "activations.safetensors";
    const fs::path samples_path = folder / "samples.safetensors";
    auto activations =
        CollectedActivations::load(activations_path, fingerprint, model.transformer_config);
    auto samples = SampleSet::load(samples_path, fingerprint);
    *resumed = activations && samples;
    if (*resumed) {
        return {std::move(*activations), std::move(*samples)};
    }
    auto collected = collect(model, options, show_progress);
    collected.activations.save(activations_path, fingerprint);
    collected.samples.save(samples_path, fingerprint);
    return collected;
}

}  // namespace

CalibrationSummary calibrate(const CalibrationOptions& options, bool show_progress) {
    const auto start = std::chrono::steady_clock::now();
    const auto seconds = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    check_options(options);
    const auto model = open_source(options, show_progress);
    probe_output(options.output);
    set_thread_count(core_count(options.threads));
    keep_freed_memory();

    CalibrationSummary summary;
    std::optional<EmptyFolderRemover> remover;
    std::vector<fs::path> block_files;
    std::string record;
    const fs::path folder = work_directory(options);
    const int blocks = model.transformer_config.num_layers;
    if (options.weight_bits == 16) {
        record = quantization_record(options, {}, {}, {}, seconds());
    } else {
        const auto size = choose_clip_size(model, options);
        const auto fingerprint = fingerprint_of(options, model, size);
        std::error_code failure;
        remover.emplace(folder);
        fs::create_directories(folder, failure);
        if (failure) {
            throw Error(ErrorCode::io, fmt::format("can't create the work folder '{}': {}; choose "
                                                   "another with --work-dir",
                                                   folder.string(), failure.message()));
        }
        auto collected = collect_or_load(model, options, folder, fingerprint, show_progress,
                                         &summary.resumed_activations);
        set_thread_count(
            worthwhile_threads(options.threads, size.tokens, model.transformer_config.dim));
        Progress progress("quantising blocks", blocks, show_progress);
        for (int block = 0; block < blocks; ++block) {
            check_cancelled();
            const auto path = block_path(folder, block);
            const double begun = seconds();
            BlockReport report;
            const auto weights =
                load_block_weights(*model.transformer, model.transformer_config, block);
            auto linears = load_block(path, fingerprint);
            if (linears.empty()) {
                linears = calibrate_block(model, block, weights, collected, options, report);
                save_block(path, linears, options.weight_bits, fingerprint);
            } else {
                ++summary.resumed_blocks;
            }
            const QuantizedBlock quantized(linears, options.weight_bits, options.activation_bits);
            report.errors = evaluate_and_advance(model.transformer_config, weights, quantized,
                                                 options.learning, collected.samples);
            report.seconds = seconds() - begun;
            report.peak_bytes = peak_memory();
            if (show_progress) {
                print_block(block, options, report);
            }
            for (const auto& linear : linears) {
                summary.reports.push_back(linear.report);
            }
            summary.blocks.push_back(report);
            block_files.push_back(path);
            progress.advance();
        }
        record = quantization_record(options, size, summary.reports, summary.blocks, seconds());
    }
    write_model(model, options.output, block_files, record, show_progress);

    // Opening it is the last check: what the runtime would refuse must not be called done.
    const auto written = format::open_model(options.output);
    summary.bytes = format::linear_bytes(*written.transformer, written.transformer_config);
    summary.file_bytes = fs::file_size(options.output);
    if (options.weight_bits != 16) {
        remove_work_files(folder, blocks);
    }
    summary.seconds = seconds();
    return summary;
}

}  // namespace quantsparse::calib
