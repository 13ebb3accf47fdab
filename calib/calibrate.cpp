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
#include "calib/progress.hpp"
#include "calib/record.hpp"
#include "calib/registry.hpp"
#include "calib/write_model.hpp"
#include "format/safetensors.hpp"
#include "format/text.hpp"
#include "pipeline/adapters.hpp"
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

void check_bits(const format::LinearBits& bits) {
    const int weights = bits.weights;
    const int activations = bits.activations;
    if (weights != 3 && weights != 4 && weights != 6 && weights != 8 && weights != 16) {
        refuse(fmt::format("{}-bit weights are not supported; use 3, 4, 6, 8 or 16", weights));
    }
    if (activations != 6 && activations != 8 && activations != 16) {
        refuse(fmt::format("{}-bit activations are not supported; use 6, 8 or 16", activations));
    }
    if ((weights == 16) != (activations == 16)) {
        refuse(fmt::format("{}-bit weights do not go with {}-bit activations; 16 goes with 16 only",
                           weights, activations));
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
                     {"rounding", name_of(method.rounding)},
                     {"rotation", name_of(method.rotation)},
                     {"scale", name_of(method.scale)},
                     {"correct_bias", method.correct_bias}};
    if (method.learns) {
        settings["learning"] = {name_of(method.distill),
                                method.clip_activations,
                                learning.epochs,
                                learning.rate.value_or(method.rate),
                                learning.quantizer_rate.value_or(method.quantizer_rate),
                                learned_rotation_block(options),
                                learning.stride,
                                learning.salient_count,
                                learning.lambda_global,
                                learning.lambda_local,
                                learning.balance,
                                static_cast<int>(learning.saliency),
                                static_cast<int>(learning.attention),
                                learning.density};
    }
    if (method.learns || method.rounding != Rounding::nearest) {
        settings["inputs"] = static_cast<int>(block_inputs(options));
    }
    json networks;
    for (const auto& [role, component] : model.components) {
        networks[role] = file_identity(component.checkpoint->path());
    }
    json adapters = json::array();
    for (const auto& adapter : options.adapters) {
        adapters.push_back(
            {file_identity(adapter.file), adapter.strength, static_cast<int>(adapter.target)});
    }
    json group_bits;
    for (const auto& [group, bits] : options.group_bits) {
        group_bits[group] = {bits.weights, bits.activations};
    }
    return json{{"tool", kVersion},
                {"method", settings},
                {"samples", {training_count(options), clip_count(options)}},
                {"networks", networks},
                {"adapters", adapters},
                {"weight_bits", options.weight_bits},
                {"activation_bits", options.activation_bits},
                {"group_bits", group_bits},
                {"steps", options.steps},
                {"seed", options.seed},
                {"kept_rows", options.kept_rows},
                {"guidance", clip_guidance(model, options)},
                {"size", {size.width, size.height, size.frames}},
                {"prompts", choose_prompts(options)}}
        // Prompts that are no UTF-8 are refused by the tokenizer, with a better message.
        .dump(-1, ' ', false, json::error_handler_t::replace);
}

/// The networks in floating point, whatever the source was. Converts .pth files on the way.
format::ModelBundle open_source(const CalibrationOptions& options, bool show_progress) {
    const auto& folder = options.model.model;
    if (!folder.empty() && !fs::exists(folder)) {
        throw Error(ErrorCode::io,
                    fmt::format("the model '{}' does not exist; check --model", folder.string()));
    }
    if (fs::is_directory(folder) && !fs::exists(folder / "model_index.json")) {
        convert_folder(folder, show_progress);
    }
    auto model = format::open_model(options.model);
    if (model.quantization.quantized()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' is quantised already ({}); calibrate from the original model",
                                transformer_of(model).checkpoint->path().string(),
                                model.quantization.name()));
    }
    const auto adapted = pipeline::adapted_model(
        model, pipeline::recipe_of(model.architecture), options.adapters,
        [](const std::string& line) {
            fmt::print(stderr, "quantsparse-calibrate: warning: {}\n", line);
        });
    return *adapted;
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

/// Bits for groups that the transformer doesn't have are a slip of the pen.
void check_groups(const CalibrationOptions& options, const format::Network& network) {
    for (const auto& [name, bits] : options.group_bits) {
        const bool known = std::any_of(
            network.blocks.begin(), network.blocks.end(), [&, &name = name](const auto& block) {
                return std::any_of(
                    block.groups.begin(), block.groups.end(), [&](const auto& group) {
                        return name == group.name || name == block.prefix + group.name;
                    });
            });
        if (!known) {
            std::vector<std::string> names;
            for (const auto& group : network.blocks.front().groups) {
                names.push_back(group.name);
            }
            refuse(fmt::format("there is no group of linears '{}'; this model has {}", name,
                               format::list_names(names)));
        }
    }
}

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
    if ((options.model.model.empty() && options.model.parts.empty()) || options.output.empty()) {
        refuse("--model, or single files such as --transformer, and --output are needed");
    }
    const auto method = method_of(options);
    check_bits({options.weight_bits, options.activation_bits});
    for (const auto& [group, bits] : options.group_bits) {
        check_bits(bits);
    }
    check_range("--samples", options.samples, 0, 1000);
    for (const auto& adapter : options.adapters) {
        if (!(std::fabs(adapter.strength) <= 100)) {
            refuse(fmt::format("--lora '{}' has the strength {}; give -100 to 100",
                               adapter.file.string(), adapter.strength));
        }
    }
    if (method.learns) {
        const auto& learning = options.learning;
        check_range("--epochs", learning.epochs, 1, 10000);
        check_range("--rotation-block", learned_rotation_block(options), 4, 1024);
        check_range("--stride", learning.stride, 0, 1 << 20);
        check_range("--topk", learning.salient_count, 0, 1 << 20);
        if (!(learning.density > 0 && learning.density <= 1)) {
            refuse(fmt::format("--calib-density {} is out of range; give a share above 0, up to 1",
                               learning.density));
        }
    }
    check_range("--steps", options.steps, 1, 1000);
    if (options.guidance != 0 && !(options.guidance >= 1 && options.guidance <= 100)) {
        refuse(
            fmt::format("--guidance-scale {} is out of range; give 1 to 100, or 0 for the "
                        "model's own",
                        options.guidance));
    }
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

/// Calibrates one block after the other.
class BlockCalibrator {
  public:
    BlockCalibrator(const format::Component& transformer, const CalibrationOptions& options,
                    const fs::path& folder, const std::string& fingerprint, double guidance,
                    Collected& collected)
        : transformer_(transformer),
          network_(make_transformer(transformer)),
          options_(options),
          folder_(folder),
          fingerprint_(fingerprint),
          guidance_(guidance),
          collected_(collected) {}

    /// Takes the block over from an interrupted run where it can, and adds it to the summary.
    /// Returns its work file.
    fs::path run(int block, CalibrationSummary& summary);

  private:
    /// Searched, or learned from there.
    std::vector<QuantizedLinear> quantize(int block, const BlockWeights& weights,
                                          const BlockHessians& hessians, BlockReport& report) const;

    const format::Component& transformer_;
    std::unique_ptr<Transformer> network_;
    const CalibrationOptions& options_;
    const fs::path& folder_;
    const std::string& fingerprint_;
    double guidance_;  ///< by which predictions are combined
    Collected& collected_;
};

std::vector<QuantizedLinear> BlockCalibrator::quantize(int block, const BlockWeights& weights,
                                                       const BlockHessians& hessians,
                                                       BlockReport& report) const {
    auto linears = quantize_block(transformer_, block, collected_.activations, hessians, options_);
    const auto method = method_of(options_);
    if (!method.learns) {
        return linears;
    }
    LearnableBlock learnable(weights, linears, method, options_);
    const auto start = learnable.snapshot();
    report.learning = learn_block(*network_, weights, block, collected_.activations,
                                  collected_.samples, options_, learnable);
    auto learned = learnable.fold(block, collected_.activations, hessians);
    if (method.rounding == Rounding::nearest) {
        return learned;
    }
    // Epochs were compared by what rounding to nearest makes of them.
    const auto error_of = [&](const std::vector<QuantizedLinear>& candidate) {
        return held_out_error(*network_, weights, QuantizedBlock(candidate, weights),
                              collected_.samples, options_.threads);
    };
    learnable.restore(start);
    linears = learnable.fold(block, collected_.activations, hessians);
    report.learning.kept_start = error_of(linears) <= error_of(learned);
    return report.learning.kept_start ? linears : learned;
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
        line += learning.kept_start ? "; rounded, the start is better and kept" : "";
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
        CollectedActivations::load(activations_path, fingerprint, transformer_of(model).network);
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

fs::path BlockCalibrator::run(int block, CalibrationSummary& summary) {
    const auto start = std::chrono::steady_clock::now();
    const auto path = block_path(folder_, block);
    BlockReport report;
    const auto weights = load_block_weights(transformer_, block);
    const auto method = method_of(options_);
    const auto inputs = block_inputs(options_);
    auto linears = load_block(path, fingerprint_);
    std::vector<at::Tensor> exact_outputs;
    if (linears.empty()) {
        BlockObservation observed;
        if (method.rounding != Rounding::nearest) {
            const double guidance = method.rounding == Rounding::refined ? guidance_ : 1.0;
            observed = observe_block(*network_, weights, collected_.samples, inputs, guidance,
                                     options_.threads);
        }
        if (inputs == BlockInputs::fp) {
            exact_outputs = std::move(observed.outputs);
        }
        linears = quantize(block, weights, observed.hessians, report);
        save_block(path, linears, fingerprint_);
    } else {
        ++summary.resumed_blocks;
    }
    const QuantizedBlock quantized(linears, weights);
    const NeededStates needed{method.learns || inputs == BlockInputs::fp,
                              inputs == BlockInputs::quantized};
    report.errors = evaluate_and_advance(*network_, weights, quantized, options_.learning, needed,
                                         exact_outputs, options_.threads, collected_.samples);
    report.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    report.peak_bytes = peak_memory();
    report.linears = linears.size();
    for (const auto& linear : linears) {
        summary.reports.push_back(linear.report);
    }
    summary.blocks.push_back(report);
    return path;
}

void create_work_folder(const fs::path& folder) {
    std::error_code failure;
    fs::create_directories(folder, failure);
    if (failure) {
        throw Error(ErrorCode::io, fmt::format("can't create the work folder '{}': {}; choose "
                                               "another with --work-dir",
                                               folder.string(), failure.message()));
    }
}

}  // namespace

CalibrationSummary calibrate(const CalibrationOptions& options, bool show_progress) {
    const auto start = std::chrono::steady_clock::now();
    const auto seconds = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    check_options(options);
    const auto model = open_source(options, show_progress);
    check_groups(options, transformer_of(model).network);
    probe_output(options.output);
    set_thread_count(core_count(options.threads));
    keep_freed_memory();

    CalibrationSummary summary;
    std::optional<EmptyFolderRemover> remover;
    std::vector<fs::path> block_files;
    const fs::path folder = work_directory(options);
    const auto& transformer = transformer_of(model);
    const int blocks = static_cast<int>(transformer.network.blocks.size());
    ClipSize size;
    if (quantization_of(options).quantized()) {
        size = choose_clip_size(model, options);
        const auto fingerprint = fingerprint_of(options, model, size);
        remover.emplace(folder);
        create_work_folder(folder);
        auto collected = collect_or_load(model, options, folder, fingerprint, show_progress,
                                         &summary.resumed_activations);
        summary.drift = collected.samples.drift;
        summary.guidance = clip_guidance(model, options);
        set_thread_count(
            worthwhile_threads(options.threads, size.tokens, transformer.network.geometry.width));
        Progress progress("quantising blocks", blocks, show_progress);
        BlockCalibrator calibrator(transformer, options, folder, fingerprint,
                                   combining_guidance(model, options), collected);
        for (int block = 0; block < blocks; ++block) {
            check_cancelled();
            block_files.push_back(calibrator.run(block, summary));
            if (show_progress) {
                print_block(block, options, summary.blocks.back());
            }
            progress.advance();
        }
    }
    write_model(model, options.output, block_files,
                quantization_record(options, transformer.network, size, summary, seconds()),
                show_progress);

    // Opening it is the last check: what the runtime would refuse must not be called done.
    const auto written = format::open_model(options.output);
    summary.bytes = format::linear_bytes(transformer_of(written));
    summary.file_bytes = fs::file_size(options.output);
    if (quantization_of(options).quantized()) {
        remove_work_files(folder, blocks);
    }
    summary.seconds = seconds();
    return summary;
}

}  // namespace quantsparse::calib
