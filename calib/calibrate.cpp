#include "calib/calibrate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "calib/collect.hpp"
#include "calib/convert_pth.hpp"
#include "calib/linear_algebra.hpp"
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
    return json{{"tool", kVersion},
                {"transformer", file_identity(model.transformer->path())},
                {"text_encoder", file_identity(model.text_encoder->path())},
                {"weight_bits", options.weight_bits},
                {"activation_bits", options.activation_bits},
                {"rotate", options.rotate},
                {"smooth", options.smooth},
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
                                const std::vector<LinearReport>& reports, double seconds) {
    json record = {{"weight_bits", options.weight_bits},
                   {"activation_bits", options.activation_bits},
                   {"method", options.weight_bits == 16 ? "none" : options.preset},
                   {"tool", fmt::format("quantsparse-calibrate {}", kVersion)}};
    if (options.weight_bits == 16) {
        return record.dump();
    }
    record["granularity"] = {{"weights", "symmetric, per output channel"},
                             {"activations", "symmetric, per token, dynamic"}};
    record["rotation"] = options.rotate ? "hadamard" : "none";
    record["smoothing"] = options.smooth ? "auto" : "none";
    record["bias_correction"] = true;
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
        // The mean over the linears of |error|^2 / |output|^2.
        blocks.push_back({{"loss", noise}, {"linears", linears}});
    }
    record["calibration"] = {{"samples", options.samples},
                             {"steps", options.steps},
                             {"epochs", 0},
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
    for (int block = 0; block < blocks; ++block) {
        fs::remove(block_path(folder, block), ignored);
    }
}

}  // namespace

void check_options(const CalibrationOptions& options) {
    if (options.model.empty() || options.output.empty()) {
        refuse("--model and --output are both needed");
    }
    if (options.preset == "full") {
        throw Error(ErrorCode::unsupported,
                    "the preset 'full' (learned scale, rotation and quantiser) is for a later "
                    "version; use --preset fast");
    }
    if (options.preset != "fast") {
        refuse(fmt::format("unknown preset '{}'; use fast", options.preset));
    }
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
    check_range("--samples", options.samples, 1, 1000);
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

CalibrationSummary calibrate(const CalibrationOptions& options, bool show_progress) {
    const auto start = std::chrono::steady_clock::now();
    const auto seconds = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    check_options(options);
    const auto model = open_source(options, show_progress);
    probe_output(options.output);
    set_thread_count(core_count(options.threads));

    CalibrationSummary summary;
    std::optional<EmptyFolderRemover> remover;
    std::vector<fs::path> block_files;
    std::string record;
    const fs::path folder = work_directory(options);
    const int blocks = model.transformer_config.num_layers;
    if (options.weight_bits == 16) {
        record = quantization_record(options, {}, {}, seconds());
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
        const fs::path activations_path = folder / "activations.safetensors";
        auto activations =
            CollectedActivations::load(activations_path, fingerprint, model.transformer_config);
        summary.resumed_activations = activations.has_value();
        if (!activations) {
            activations = collect_activations(model, options, show_progress);
            activations->save(activations_path, fingerprint);
        }
        Progress progress("quantising blocks", blocks, show_progress);
        for (int block = 0; block < blocks; ++block) {
            check_cancelled();
            const auto path = block_path(folder, block);
            auto reports = load_block_reports(path, fingerprint);
            if (reports.empty()) {
                const auto linears =
                    quantize_block(*model.transformer, block, *activations, options);
                save_block(path, linears, options.weight_bits, fingerprint);
                for (const auto& linear : linears) {
                    reports.push_back(linear.report);
                }
            } else {
                ++summary.resumed_blocks;
            }
            summary.reports.insert(summary.reports.end(), reports.begin(), reports.end());
            block_files.push_back(path);
            progress.advance();
        }
        record = quantization_record(options, size, summary.reports, seconds());
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
