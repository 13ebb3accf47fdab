// quantsparse-bench: what devices there are, what a model needs, how fast a device is.
#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <map>

#include "devices.hpp"
#include "isa.hpp"
#include "kernels.hpp"
#include "model.hpp"
#include "peak.hpp"
#include "quality/quality.hpp"
#include "quantsparse/error.hpp"
#include "quantsparse/version.hpp"
#include "table4.hpp"
#include "vae.hpp"

namespace {

using namespace quantsparse;

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

constexpr const char* kExamples =
    "Examples:\n"
    "  quantsparse-bench devices\n"
    "  quantsparse-bench model --config wan-14b --size 1280x720 --frames 81 --guidance "
    "--attention sparse --memory-limit 16G --plan\n"
    "  quantsparse-bench model --config wan-1.3b --plan --no-device --binding-limit 128M\n"
    "  quantsparse-bench model --config wan-1.3b --tokens 1024 --json block.json\n"
    "  quantsparse-bench model --config wan-1.3b --tokens 8192 --attention sparse --density 0.15\n"
    "  quantsparse-bench table4 --config wan-14b --tokens 4096 --html table4.html\n"
    "  quantsparse-bench kernels --only gemm --tokens 1024 --json kernels.json\n"
    "  quantsparse-bench kernels --only sparse --tokens 8192 --density 0.25\n"
    "  quantsparse-bench quality --table bench/quality/tables/paper.json --html report.html\n"
    "  quantsparse-bench vae -m samples/models/shapes-tiny clips/000 clips/001\n"
    "  quantsparse-bench isa --family navi21 --json isa.json\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// "832x480" to width and height.
void parse_picture_size(const std::string& text, bench::ModelOptions& options) {
    const char* end = text.data() + text.size();
    const auto width = std::from_chars(text.data(), end, options.width);
    const bool cross = width.ec == std::errc() && width.ptr != end && *width.ptr == 'x';
    const auto height = cross ? std::from_chars(width.ptr + 1, end, options.height) : width;
    if (!cross || height.ec != std::errc() || height.ptr != end || options.width <= 0 ||
        options.height <= 0 || options.width > 16384 || options.height > 16384) {
        throw CLI::ValidationError(
            "--size", fmt::format("'{}': write WIDTHxHEIGHT, for example 832x480", text));
    }
}

/// Bytes, with K, M or G for powers of 1024 ("128M", "128MiB").
std::uint64_t parse_bytes(const std::string& option, const std::string& text) {
    std::uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, value);
    std::string unit(result.ptr, end);
    for (const char* suffix : {"iB", "B"}) {
        if (unit.ends_with(suffix)) unit.resize(unit.size() - std::string(suffix).size());
    }
    const int shift = unit.empty()  ? 0
                      : unit == "K" ? 10
                      : unit == "M" ? 20
                      : unit == "G" ? 30
                                    : -1;
    if (result.ec != std::errc() || shift < 0 || value == 0 || value >= 1ull << (63 - shift)) {
        throw CLI::ValidationError(option,
                                   fmt::format("'{}': write a size such as 128M or 2G", text));
    }
    return value << shift;
}

template <typename T>
void add_choice(CLI::App& app, const std::string& name, T& value,
                const std::map<std::string, T>& choices, const std::string& description) {
    app.add_option(name, value, description)->transform(CLI::CheckedTransformer(choices));
}

void add_arithmetic_option(CLI::App& app, DeviceOptions& device) {
    app.add_option_function<std::string>(
           "--arithmetic",
           [&device](const std::string& text) { device.arithmetic = arithmetic_from(text); },
           "Integer products: auto (default), portable, dot or matrix")
        ->check(CLI::IsMember({"auto", "portable", "dot", "matrix"}));
}

/// The flags of quantsparse-video, as far as they change what a step costs.
void add_attention_options(CLI::App& app, AttentionParameters& attention) {
    add_choice<AttentionKind>(app, "--attention", attention.kind,
                              {{"dense", AttentionKind::dense}, {"sparse", AttentionKind::sparse}},
                              "dense (default) or sparse");
    add_choice<AttentionProducts>(app, "--attention-arithmetic", attention.products,
                                  {{"full", AttentionProducts::full},
                                   {"int8-qk", AttentionProducts::int8_qk},
                                   {"int8", AttentionProducts::int8}},
                                  "full (default), int8-qk or int8");
    app.add_option("--density", attention.density, "Share of query-key pairs that is computed")
        ->check(CLI::Range(0.001, 1.0))
        ->capture_default_str();
    app.add_option("--block-size", attention.block_size, "Tokens of a block of the mask")
        ->check(CLI::IsMember({32, 64, 128}));
    add_choice<SsarMode>(app, "--ssar", attention.ssar,
                         {{"off", SsarMode::off},
                          {"none", SsarMode::none},
                          {"first", SsarMode::first},
                          {"second", SsarMode::second},
                          {"third", SsarMode::third},
                          {"svd", SsarMode::svd}},
                         "What is added between refreshes (default svd)");
    app.add_option("--ssar-rank", attention.ssar_rank, "Of svd")
        ->check(CLI::Range(1, 32))
        ->capture_default_str();
    add_choice<ResidualStorage>(app, "--residual", attention.residual,
                                {{"half", ResidualStorage::half},
                                 {"int8", ResidualStorage::int8},
                                 {"int4", ResidualStorage::int4},
                                 {"lowrank", ResidualStorage::low_rank}},
                                "How SSAR keeps residuals (default int8)");
    app.add_option("--refresh-interval", attention.refresh_interval, "Steps of a refresh period")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
}

void add_model_options(CLI::App& app, bench::ModelOptions& options, bool& plan) {
    app.add_option("--config", options.config,
                   "wan-1.3b, wan-14b, a transformer's config.json or a diffusers folder")
        ->capture_default_str();
    app.add_option("--weights", options.weight_bits, "Bits of the block linears; 16: not quantised")
        ->check(CLI::IsMember({4, 6, 8, 16}))
        ->capture_default_str();
    app.add_option("--activations", options.activation_bits, "Bits of their inputs")
        ->check(CLI::IsMember({6, 8}))
        ->capture_default_str();
    app.add_flag_callback(
        "--no-rotation", [&options] { options.rotated = false; },
        "Without the calibrator's channel scale and rotation of the inputs");
    app.add_option_function<std::string>(
           "--storage",
           [&options](const std::string& text) {
               options.storage = text == "half" ? Storage::half : Storage::fp32;
           },
           "Float weights as fp32 (default) or half")
        ->check(CLI::IsMember({"fp32", "half"}));
    app.add_option("--device", options.device.selector, "Device number, UUID or part of its name");
    add_arithmetic_option(app, options.device);
    app.add_option_function<std::string>(
        "--memory-limit",
        [&options](const std::string& text) {
            options.device.memory_limit = parse_bytes("--memory-limit", text);
        },
        "Budget instead of the device's, for example 8G");
    app.add_option_function<std::string>(
        "--binding-limit",
        [&options](const std::string& text) {
            options.binding_limit = parse_bytes("--binding-limit", text);
        },
        "Largest buffer binding instead of the device's, for example 128M");
    app.add_option("--json", options.json, "Write the results here, too");
    add_attention_options(app, options.attention);

    auto* plan_flag = app.add_flag("--plan", plan, "Print what a clip needs and allocate nothing")
                          ->group("Planning");
    const auto planning = [&](CLI::Option* option) { option->needs(plan_flag)->group("Planning"); };
    planning(app.add_option_function<std::string>(
        "--size", [&options](const std::string& text) { parse_picture_size(text, options); },
        "WIDTHxHEIGHT in pixels (default 832x480)"));
    planning(app.add_option("--frames", options.frames, "4n + 1")
                 ->check(CLI::Range(1, 4001))
                 ->capture_default_str());
    planning(
        app.add_flag("--guidance", options.guidance, "Both branches of classifier-free guidance"));
    planning(app.add_flag("--no-device", options.without_device,
                          "Plan for a device of 128 MiB a binding and 2 GiB an allocation"));

    const auto measuring = [&](CLI::Option* option) {
        option->excludes(plan_flag)->group("Measuring blocks");
    };
    measuring(app.add_option("--layers", options.layers, "Blocks of a step; 0: all of the model's")
                  ->check(CLI::Range(0, 1000))
                  ->capture_default_str());
    measuring(app.add_option("--tokens", options.tokens, "Tokens of the latent grid")
                  ->check(CLI::Range(1, 1 << 20))
                  ->capture_default_str());
    measuring(app.add_option("--repeats", options.repeats, "Measured runs, after two of warming up")
                  ->check(CLI::Range(1, 10000))
                  ->capture_default_str());
    measuring(
        app.add_flag("--profile", options.profile, "Time per operation, each submitted alone"));
}

void add_table4_options(CLI::App& app, bench::Table4Options& options) {
    app.add_option("--config", options.config,
                   "wan-1.3b, wan-14b, a transformer's config.json or a diffusers folder")
        ->capture_default_str();
    app.add_option_function<std::string>(
           "--storage",
           [&options](const std::string& text) {
               options.storage = text == "half" ? Storage::half : Storage::fp32;
           },
           "Float weights as half (default, as in the paper) or fp32")
        ->check(CLI::IsMember({"fp32", "half"}));
    app.add_option("--tokens", options.tokens,
                   "Tokens of the largest measured block; half of them are measured, too")
        ->check(CLI::Range(128, 1 << 20))
        ->capture_default_str();
    app.add_option("--clip-tokens", options.clip_tokens,
                   "Tokens of the clip (832x480 with 81 frames: 32760)")
        ->check(CLI::Range(128, 1 << 20))
        ->capture_default_str();
    app.add_option("--steps", options.steps, "Of the clip, each with two guidance branches")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    app.add_option("--density", options.densities,
                   "Of sparse attention; may be given several times")
        ->check(CLI::Range(0.001, 1.0))
        ->capture_default_str();
    app.add_option("--device", options.device.selector, "Device number, UUID or part of its name");
    app.add_option("--repeats", options.repeats, "Measured runs, after two of warming up")
        ->check(CLI::Range(1, 10000))
        ->capture_default_str();
    app.add_option("--json", options.json, "Write the results here, too");
    app.add_option("--html", options.html, "Write a self-contained report with charts here");
}

void add_kernel_options(CLI::App& app, bench::KernelOptions& options) {
    app.add_option("--device", options.device.selector, "Device number, UUID or part of its name");
    add_arithmetic_option(app, options.device);
    app.add_option("--repeats", options.repeats, "Measured runs, after one of warming up")
        ->check(CLI::Range(1, 10000))
        ->capture_default_str();
    app.add_option("--json", options.json, "Write the results here, too");
}

void add_quality_options(CLI::App& app, bench::QualityOptions& options) {
    app.add_option("--table", options.table, "What to compare (bench/quality/tables/*.json)")
        ->required();
    app.add_option("--work-dir", options.work_directory,
                   "Clips, calibrated models and results; a stopped run goes on from there")
        ->default_str("out/quality/<table>");
    app.add_option("--json", options.json, "Write the figures here");
    app.add_option("--html", options.html, "Write a self-contained report here");
    app.add_option("--figures", options.figures, "Charts of bench/replay to put into the report");
    app.add_option("--only", options.only, "Title of a group; may be given several times");
    app.add_option("--prompts", options.prompts, "Only the first of the table's prompts")
        ->check(CLI::PositiveNumber);
    app.add_option("--device", options.device, "Device number, UUID or part of its name");
    app.add_flag("--report-only", options.report_only,
                 "Measure nothing; report what earlier runs have left");
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{
        "Lists Vulkan devices, plans the memory of real models, measures their blocks and their "
        "quality."};
    app.footer(kExamples);
    app.require_subcommand(1);
    app.set_version_flag("--version", kVersion);
    std::filesystem::path devices_json;
    bench::ModelOptions model_options;
    bench::QualityOptions quality_options;
    bool plan = false;
    auto* devices = app.add_subcommand("devices", "All devices, their limits, and the default");
    devices->add_option("--json", devices_json, "Write the list here, too");
    auto* model = app.add_subcommand(
        "model", "Memory plan of a real configuration (--plan), or its blocks measured");
    model->footer(kExamples);
    add_model_options(*model, model_options, plan);
    bench::Table4Options table4_options;
    auto* table4 = app.add_subcommand(
        "table4", "The paper's deployment table: storage, memory and time of a whole clip");
    add_table4_options(*table4, table4_options);
    bench::KernelOptions kernel_options;
    auto* peak = app.add_subcommand("peak", "What the device's arithmetic and memory do at most");
    add_kernel_options(*peak, kernel_options);
    auto* kernels = app.add_subcommand(
        "kernels", "Single kernels at the shapes of real models, as a share of that peak");
    add_kernel_options(*kernels, kernel_options);
    kernels->add_option("--only", kernel_options.only, "Only these kinds")
        ->check(CLI::IsMember(
            {"gemm", "quantize", "norm", "residual", "attention", "sparse", "refresh"}));
    kernels->add_flag("--int8", kernel_options.codes,
                      "Attention in 8 bits (--attention-arithmetic int8-qk, int8) beside it, too");
    kernels->add_option("--tokens", kernel_options.tokens, "Rows of the activations")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    kernels->add_option("--density", kernel_options.density, "Share of pairs of the sparse kind")
        ->check(CLI::Range(0.001, 0.999))
        ->capture_default_str();
    kernels
        ->add_option("--tile", kernel_options.matrix_tile,
                     "Tile of the matrix units' products, by number; -1: as the runtime chooses")
        ->check(CLI::Range(-1, 3));
    kernels->add_option("--html", kernel_options.html, "Write a self-contained report here");
    kernels->add_option("--compare", kernel_options.compare,
                        "An earlier JSON of this command: print how much faster each is now");
    bench::IsaOptions isa_options;
    auto* isa = app.add_subcommand(
        "isa", "What RADV's compiler makes of the kernels for AMD GPUs, without having one");
    isa->add_option("--family", isa_options.families,
                    "As RADV_FORCE_FAMILY takes them; may be given several times")
        ->capture_default_str();
    isa->add_option("--driver", isa_options.driver, "RADV's json file")->capture_default_str();
    isa->add_option("--json", isa_options.json, "Write the results here, too");
    isa->add_option("--compare", isa_options.compare,
                    "An earlier JSON: a kernel that got 5 % worse fails the run");
    isa->add_option("--assembly", isa_options.assembly, "Write every kernel's assembly there");
    bench::VaeOptions vae_options;
    auto* vae = app.add_subcommand(
        "vae", "A model's autoencoder: PSNR of clips after encoding and decoding on the device");
    vae->add_option("-m,--model", vae_options.model, "Diffusers folder or quantised model file")
        ->required();
    vae->add_option("clips", vae_options.clips, "Folders of png pictures, 4n + 1 each")->required();
    vae->add_option("--device", vae_options.device.selector,
                    "Device number, UUID or part of its name");
    vae->add_option("--json", vae_options.json, "Write the results here, too");
    auto* quality = app.add_subcommand(
        "quality",
        "PSNR, SSIM and prompt accuracy of many configurations, as a table and a report");
    add_quality_options(*quality, quality_options);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
        fmt::print(stderr, "quantsparse-bench: {}; see --help\n", error.what());
        return kWrongUsage;
    }
    try {
        if (*quality) {
            if (quality_options.work_directory.empty()) {
                quality_options.work_directory =
                    std::filesystem::path("out/quality") / quality_options.table.stem();
            }
            return bench::run_quality(quality_options) ? 0 : kFailed;
        }
        if (*isa) return bench::run_isa(isa_options) ? 0 : kFailed;
        if (*vae) {
            bench::run_vae(vae_options);
        } else if (*table4) {
            bench::run_table4(table4_options);
        } else if (*peak) {
            bench::run_peak(kernel_options.device, kernel_options.repeats, kernel_options.json);
        } else if (*kernels) {
            bench::run_kernels(kernel_options);
        } else if (*devices) {
            bench::run_devices(devices_json);
        } else if (plan) {
            bench::run_model_plan(model_options);
        } else {
            bench::run_model_block(model_options);
        }
    } catch (const std::exception& error) {
        fmt::print(stderr, "quantsparse-bench: {}\n", error.what());
        return kFailed;
    }
    return 0;
}
