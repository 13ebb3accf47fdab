// quantsparse-calibrate: a Wan2.1 checkpoint in, a quantised model file out.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <iterator>
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
    "  quantsparse-calibrate --model Wan2.1-T2V-1.3B --lora style.safetensors:0.8 "
    "--output wan-style.safetensors\n"
    "  quantsparse-calibrate --transformer wan-1.3b-Q8_0.gguf --text-encoder umt5.safetensors \\\n"
    "      --vae wan_2.1_vae.safetensors --output wan-w4a8.safetensors\n"
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
    const fs::path& source = options.model.model;
    if (source.empty()) {
        throw Error(ErrorCode::invalid_argument, "--convert-only needs --model");
    }
    if (!fs::is_directory(source)) {
        auto destination = options.output;
        if (destination.empty()) {
            destination = fs::path(source).replace_extension(".safetensors");
        }
        calib::convert_pth(source, destination, true);
        fmt::print("wrote {}\n", destination.string());
        return;
    }
    const auto written = calib::convert_folder(source, true);
    for (const auto& path : written) {
        fmt::print("wrote {}\n", path.string());
    }
    if (written.empty()) {
        fmt::print("nothing to convert in {}\n", source.string());
    }
}

std::string preset_help() {
    std::string text;
    for (const auto& preset : calib::presets()) {
        text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", preset.name, preset.summary);
    }
    return text;
}

/// An option whose words stand for values; leaves `target` alone when it is not given.
template <typename Target, typename Value>
void add_choice(CLI::App* app, const std::string& name, Target& target,
                const std::vector<std::pair<std::string, Value>>& words, const std::string& help) {
    std::string list;
    for (const auto& [word, value] : words) {
        list += (list.empty() ? "" : ", ") + word;
    }
    app->add_option_function<std::string>(
           name,
           [&target, words, name, list](const std::string& word) {
               for (const auto& [candidate, value] : words) {
                   if (candidate == word) {
                       target = value;
                       return;
                   }
               }
               throw CLI::ValidationError(name, fmt::format("'{}' is not one of {}", word, list));
           },
           fmt::format("{}: {}", list, help))
        ->type_name("WORD");
}

void add_method_options(CLI::App& app, calib::CalibrationOptions& options) {
    using namespace calib;
    auto& method = options.method;
    auto& learning = options.learning;
    auto* group = app.add_option_group("Method", "changes to the preset");
    add_choice<std::optional<Rounding>, Rounding>(
        group, "--rounding", method.rounding,
        {{"nearest", Rounding::nearest}, {"gptq", Rounding::gptq}, {"refined", Rounding::refined}},
        "of the weights: each to the nearest code; each taking back the errors of those before; "
        "the same for inputs as guidance combines them, then each code improved once more");
    add_choice<std::optional<Rotation>, Rotation>(group, "--rotation", method.rotation,
                                                  {{"none", Rotation::none},
                                                   {"hadamard", Rotation::hadamard},
                                                   {"learned", Rotation::learned}},
                                                  "of the linears' inputs");
    add_choice<std::optional<ChannelScale>, ChannelScale>(
        group, "--scale", method.scale,
        {{"none", ChannelScale::none},
         {"smooth", ChannelScale::smooth},
         {"salient", ChannelScale::salient},
         {"search", ChannelScale::search},
         {"learned", ChannelScale::learned}},
        "channel scale: alpha 0.5, the same with maxima as PTQ4DiT weights them, searched per "
        "group, "
        "or learned from there");
    add_choice<std::optional<bool>, bool>(group, "--bias-correction", method.correct_bias,
                                          {{"on", true}, {"off", false}},
                                          "the mean output error goes into the bias");
    auto* learn = app.add_option_group(
        "Learning", "of the presets full, paper, q-vdit, quantvggt and s2q-vdit");
    add_choice<std::optional<Distillation>, Distillation>(
        learn, "--distill", method.distill,
        {{"none", Distillation::none},
         {"global", Distillation::global},
         {"local", Distillation::local},
         {"msad", Distillation::msad}},
        "attention maps that are matched beside the block's output: pooled, salient rows, both");
    learn->add_option("--epochs", learning.epochs)->capture_default_str();
    learn->add_option("--rate", learning.rate,
                      "of channel scale and rotation (default: 0.001 with quantvggt, else 0.005)");
    learn->add_option("--quantizer-rate", learning.quantizer_rate,
                      "of clipping (default: 0.01 with quantvggt, else 0.05)");
    learn->add_option("--rotation-block", learning.rotation_block,
                      "largest block of learned rotations (default: 128 with full, else 64)");
    learn->add_option("--stride", learning.stride,
                      "tokens pooled together (default: so that about 128 remain)");
    learn->add_option("--topk", learning.salient_count, "salient tokens (default: 1.5 %)");
    learn->add_option("--lambda-global", learning.lambda_global,
                      "weight of the pooled map's error (default: balanced)");
    learn->add_option("--lambda-local", learning.lambda_local,
                      "weight of the salient rows' error (default: balanced)");
    learn
        ->add_option("--balance", learning.balance,
                     "what balanced terms are to the output's error at the start")
        ->capture_default_str();
    add_choice<Saliency, Saliency>(
        learn, "--saliency", learning.saliency,
        {{"salient", Saliency::salient}, {"random", Saliency::random}},
        "rows that --distill local takes: of the most attended tokens (default) or any");
    add_choice<std::optional<BlockInputs>, BlockInputs>(
        learn, "--inputs", learning.inputs,
        {{"fp", BlockInputs::fp}, {"quantized", BlockInputs::quantized}},
        "what a block reads while it learns or is rounded with error feedback (default: quantized "
        "where it learns, else fp; fp with quantvggt)");
    add_choice<CalibAttention, CalibAttention>(
        learn, "--calib-attention", learning.attention,
        {{"dense", CalibAttention::dense}, {"sparse", CalibAttention::sparse}},
        "self-attention of the quantised block while it learns (default: dense)");
    learn->add_option("--calib-density", learning.density, "of sparse attention")
        ->capture_default_str();
    add_choice<std::optional<bool>, bool>(
        learn, "--activation-clip", method.clip_activations, {{"on", true}, {"off", false}},
        "a learned factor of 0.7 to 1 on the activations' scale (default: on below 8 bits)");
}

void add_lora_option(CLI::App& app, calib::CalibrationOptions& options) {
    app.add_option_function<std::vector<std::string>>(
           "--lora",
           [&options](const std::vector<std::string>& texts) {
               std::transform(texts.begin(), texts.end(), std::back_inserter(options.adapters),
                              adapter_from);
           },
           "LoRA file that becomes part of the weights before they are quantised, its strength "
           "(default 1), and which transformer of two it is for; may be given several times")
        ->type_name("FILE[:N[:high|low]]")
        ->allow_extra_args(false);
}

/// Activations where nobody says.
int usual_activation_bits(int weight_bits) {
    return weight_bits == 16 ? 16 : weight_bits == 6 ? 6 : 8;
}

/// "ffn_2=8/8"; the calibration checks names and bits.
void read_group_bits(const std::string& text, calib::CalibrationOptions& options) {
    const auto equals = text.find('=');
    format::LinearBits bits{0, 0};
    const char* end = text.data() + text.size();
    const char* begin = text.data() + (equals == std::string::npos ? text.size() : equals + 1);
    auto parsed = std::from_chars(begin, end, bits.weights);
    bits.activations = usual_activation_bits(bits.weights);
    if (parsed.ec == std::errc{} && parsed.ptr != end && *parsed.ptr == '/') {
        parsed = std::from_chars(parsed.ptr + 1, end, bits.activations);
    }
    if (parsed.ec != std::errc{} || parsed.ptr != end) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("--group-bits '{}' can't be read: write GROUP=WEIGHTS/ACTIVATIONS, "
                                "for example ffn_2=8/8",
                                text));
    }
    options.group_bits[text.substr(0, equals)] = bits;
}

void add_model_options(CLI::App& app, calib::CalibrationOptions& options) {
    app.add_option("-m,--model", options.model.model,
                   "folder (diffusers, original, ComfyUI's models), or 16-bit model file");
    const auto add = [&](const char* flags, const char* role, const char* description) {
        const auto take = [&parts = options.model.parts, role](const std::string& file) {
            parts[role] = file;
        };
        app.add_option_function<std::string>(flags, take, description)->type_name("FILE");
    };
    add("--transformer,--diffusion-model", "transformer",
        "its transformer, in the place of the model's or without --model");
    add("--text-encoder", "text_encoder", "its text encoder");
    add("--vae", "vae", "its autoencoder");
    add("--tokenizer", "tokenizer", "its spiece.model; ComfyUI's and GGUF text encoders hold one");
}

int run(int argc, char** argv) {
    calib::CalibrationOptions options;
    std::string prompts;
    std::vector<std::string> group_bits;
    bool converting = false;
    options.activation_bits = 0;

    CLI::App app("Quantises a model on the CPU.");
    app.footer(kExamples);
    app.set_version_flag("--version", std::string("quantsparse-calibrate ") + kVersion);
    add_model_options(app, options);
    app.add_option("-o,--output", options.output, "the model file to write");
    add_lora_option(app, options);
    app.add_option("--preset", options.preset, preset_help())->capture_default_str();
    app.add_option("--weights", options.weight_bits,
                   "bits of the weights: 4, 6, 8, 16; 3 for comparisons")
        ->capture_default_str();
    app.add_option("--activations", options.activation_bits,
                   "bits of the activations: 8, 6, 16 (default: 6 with 6-bit weights, else 8)");
    app.add_option("--group-bits", group_bits,
                   "other bits for groups of linears, for example ffn_2=8/8 or blocks.0.self_o=16: "
                   "weights/activations, 16 leaves a group as it is")
        ->type_name("GROUP=W[/A]");
    app.add_option("--samples", options.samples,
                   "clips generated (default 4); presets that learn: inputs (clip, step, branch) "
                   "learned from (default 20)");
    app.add_option("--steps", options.steps, "denoising steps of each")->capture_default_str();
    app.add_option("--seed", options.seed, "of noise and rotation")->capture_default_str();
    app.add_option("--width", options.width, "of the calibration clips (default: reduced)");
    app.add_option("--height", options.height, "of the calibration clips (default: reduced)");
    app.add_option("--frames", options.frames, "of the calibration clips (default: reduced)");
    app.add_option(
        "--guidance-scale", options.guidance,
        "of the calibration clips, and what --rounding refined rounds for; 1 for a model "
        "made for few steps (default: the model's)");
    app.add_option("--rows", options.kept_rows, "input rows kept per group of linears")
        ->capture_default_str();
    app.add_option("--prompts", prompts, "file with one prompt per line (default: built in)");
    add_method_options(app, options);
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
        options.activation_bits = usual_activation_bits(options.weight_bits);
    }
    for (const auto& text : group_bits) {
        read_group_bits(text, options);
    }
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
