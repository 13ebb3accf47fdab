// quantsparse-calibrate: a Wan2.1 checkpoint in, a quantised model file out.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>

#include "calib/calibrate.hpp"
#include "calib/convert_pth.hpp"
#include "calib/progress.hpp"
#include "quantsparse/error.hpp"
#include "quantsparse/version.hpp"

namespace {

using namespace quantsparse;
namespace fs = std::filesystem;

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

constexpr const char* kExamples =
    "Examples:\n"
    "  quantsparse-calibrate --model Wan2.1-T2V-1.3B-Diffusers --output wan-1.3b-w4a8.safetensors\n"
    "  quantsparse-calibrate --model Wan2.1-T2V-1.3B --weights 6 --activations 6 "
    "--output wan-w6a6.safetensors\n"
    "  quantsparse-calibrate --model Wan2.1-T2V-1.3B --convert-only\n"
    "An interrupted run goes on where it stopped when the same command is given again.\n"
    "Exit codes: 0 done, 1 failed or cancelled, 2 wrong usage.";

/// One prompt per line; empty lines and lines that begin with # are skipped.
std::vector<std::string> read_prompts(const fs::path& path) {
    std::ifstream stream(path);
    if (!stream) {
        throw Error(ErrorCode::io,
                    fmt::format("can't read the prompts '{}'; check --prompts", path.string()));
    }
    std::vector<std::string> prompts;
    for (std::string line; std::getline(stream, line);) {
        if (!line.empty() && line.back() == '\r') {
            line.pop_back();
        }
        if (!line.empty() && line.front() != '#') {
            prompts.push_back(line);
        }
    }
    if (prompts.empty()) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' holds no prompts; write one per line", path.string()));
    }
    return prompts;
}

/// Mean and worst signal-to-noise ratio of each kind of linear over the blocks.
void print_reports(const std::vector<calib::LinearReport>& reports) {
    struct Sum {
        int count = 0;
        double weight = 0, output = 0, worst = 1e9;
        std::string worst_name;
    };
    std::map<std::string, Sum> kinds;
    std::vector<std::string> order;
    for (const auto& report : reports) {
        const auto kind = report.name.substr(report.name.find('.', 7) + 1);
        if (kinds.find(kind) == kinds.end()) {
            order.push_back(kind);
        }
        auto& sum = kinds[kind];
        ++sum.count;
        sum.weight += report.weight_snr_db;
        sum.output += report.output_snr_db;
        if (report.output_snr_db < sum.worst) {
            sum.worst = report.output_snr_db;
            sum.worst_name = report.name;
        }
    }
    fmt::print("{:<14} {:>10} {:>10} {:>10}\n", "linear", "weight dB", "output dB", "worst dB");
    for (const auto& kind : order) {
        const auto& sum = kinds[kind];
        fmt::print("{:<14} {:>10.1f} {:>10.1f} {:>10.1f}  {}\n", kind, sum.weight / sum.count,
                   sum.output / sum.count, sum.worst, sum.worst_name);
    }
}

void print_summary(const calib::CalibrationOptions& options,
                   const calib::CalibrationSummary& summary) {
    if (!summary.reports.empty()) {
        print_reports(summary.reports);
    }
    constexpr double kMega = 1e6;
    fmt::print(
        "linears: {:.2f} MB, {:.1f} % of {:.2f} MB in bf16; scales and rotations of their "
        "inputs: {:.2f} MB\n",
        static_cast<double>(summary.bytes.stored) / kMega,
        100.0 * static_cast<double>(summary.bytes.stored) / static_cast<double>(summary.bytes.bf16),
        static_cast<double>(summary.bytes.bf16) / kMega,
        static_cast<double>(summary.bytes.input_vectors) / kMega);
    if (summary.resumed_activations) {
        fmt::print("resumed: activations and {} blocks of an interrupted run\n",
                   summary.resumed_blocks);
    }
    fmt::print("wrote {} ({:.2f} MB) in {:.0f} s\n", options.output.string(),
               static_cast<double>(summary.file_bytes) / kMega, summary.seconds);
}

void convert_only(const calib::CalibrationOptions& options) {
    if (!fs::is_directory(options.model)) {
        auto destination = options.output;
        if (destination.empty()) {
            destination = fs::path(options.model).replace_extension(".safetensors");
        }
        calib::convert_pth(options.model, destination, true);
        fmt::print("wrote {}\n", destination.string());
        return;
    }
    const auto written = calib::convert_folder(options.model, true);
    for (const auto& path : written) {
        fmt::print("wrote {}\n", path.string());
    }
    if (written.empty()) {
        fmt::print("nothing to convert in {}\n", options.model.string());
    }
}

int run(int argc, char** argv) {
    calib::CalibrationOptions options;
    std::string rotation = "hadamard";
    std::string smoothing = "auto";
    std::string prompts;
    bool converting = false;
    options.activation_bits = 0;

    CLI::App app("Quantises a Wan2.1 text-to-video model on the CPU.");
    app.footer(kExamples);
    app.set_version_flag("--version", std::string("quantsparse-calibrate ") + kVersion);
    app.add_option("-m,--model", options.model,
                   "diffusers folder, original Wan2.1 folder, or 16-bit model file")
        ->required();
    app.add_option("-o,--output", options.output, "the model file to write");
    app.add_option("--preset", options.preset, "fast: smoothing, Hadamard, MSE clipping")
        ->capture_default_str();
    app.add_option("--weights", options.weight_bits, "bits of the weights: 4, 6, 8, 16")
        ->capture_default_str();
    app.add_option("--activations", options.activation_bits,
                   "bits of the activations: 8, 6, 16 (default: 6 with 6-bit weights, else 8)");
    app.add_option("--samples", options.samples, "clips generated for calibration")
        ->capture_default_str();
    app.add_option("--steps", options.steps, "denoising steps of each")->capture_default_str();
    app.add_option("--seed", options.seed, "of noise and rotation")->capture_default_str();
    app.add_option("--width", options.width, "of the calibration clips (default: reduced)");
    app.add_option("--height", options.height, "of the calibration clips (default: reduced)");
    app.add_option("--frames", options.frames, "of the calibration clips (default: reduced)");
    app.add_option("--rows", options.kept_rows, "input rows kept per group of linears")
        ->capture_default_str();
    app.add_option("--prompts", prompts, "file with one prompt per line (default: built in)");
    app.add_option("--rotation", rotation, "none or hadamard")
        ->check(CLI::IsMember({"none", "hadamard"}))
        ->capture_default_str();
    app.add_option("--smooth", smoothing, "none or auto")
        ->check(CLI::IsMember({"none", "auto"}))
        ->capture_default_str();
    app.add_option("--threads", options.threads, "0: all cores")->capture_default_str();
    app.add_option("--work-dir", options.work_directory,
                   "unfinished work, for going on later (default: OUTPUT.partial)");
    app.add_flag("--convert-only", converting,
                 "only turn the .pth files of the model folder into safetensors");
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& success) {  // --help, --version
        return app.exit(success);
    } catch (const CLI::ParseError& error) {
        fmt::print(stderr, "quantsparse-calibrate: {} (see --help)\n", error.what());
        return kWrongUsage;
    }
    calib::install_signal_handlers();
    if (converting) {
        convert_only(options);
        return 0;
    }
    if (options.activation_bits == 0) {
        options.activation_bits = options.weight_bits == 16 ? 16 : options.weight_bits == 6 ? 6 : 8;
    }
    options.rotate = rotation == "hadamard";
    options.smooth = smoothing == "auto";
    if (!prompts.empty()) {
        options.prompts = read_prompts(prompts);
    }
    try {
        print_summary(options, calib::calibrate(options, true));
    } catch (const calib::Cancelled&) {
        const auto folder = calib::work_directory(options);
        const bool resumable = fs::exists(folder);
        fmt::print(
            stderr, "quantsparse-calibrate: cancelled; no output was written{}\n",
            resumable ? fmt::format(", the same command goes on from '{}'", folder.string()) : "");
        return kFailed;
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const Error& error) {
        fmt::print(stderr, "quantsparse-calibrate: {}\n", error.what());
        return error.code() == ErrorCode::invalid_argument ? kWrongUsage : kFailed;
    } catch (const calib::Cancelled&) {
        fmt::print(stderr, "quantsparse-calibrate: cancelled; no output was written\n");
    } catch (const std::exception& error) {
        fmt::print(stderr, "quantsparse-calibrate: internal failure: {}\n", error.what());
    }
    return kFailed;
}
