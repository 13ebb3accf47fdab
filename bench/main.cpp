// quantsparse-bench: what devices there are, what a model needs, how fast a device is.
#include <fmt/format.h>
#include <cstdint>
#include <functional>
#include <tuple>

#include "choice.hpp"
#include "devices.hpp"
#include "flags.hpp"
#include "isa.hpp"
#include "kernels.hpp"
#include "model.hpp"
#include "options.hpp"
#include "peak.hpp"
#include "quality/quality.hpp"
#include "quantsparse/version.hpp"
#include "table4.hpp"
#include "vae.hpp"
#include "velocity/velocity.hpp"

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
    "  quantsparse-bench velocity --table bench/quality/tables/velocity.json --prompts 4\n"
    "  quantsparse-bench vae -m samples/models/shapes-tiny clips/000 clips/001\n"
    "  quantsparse-bench isa --family navi21 --json isa.json\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// "128M" to bytes.
void add_size_option(CLI::App& app, const std::string& option, std::uint64_t& bytes,
                     const std::string& description) {
    app.add_option_function<std::string>(
        option,
        [option, &bytes](const std::string& text) {
            bytes = video::parse_size(text, option.substr(2));
        },
        description);
}

void add_device_option(CLI::App& app, DeviceOptions& device) {
    app.add_option("--device", device.selector, "Device number, UUID or part of its name");
}

void add_repeats_option(CLI::App& app, int& repeats, const char* description) {
    app.add_option("--repeats", repeats, description)
        ->check(CLI::Range(1, 10000))
        ->capture_default_str();
}

/// The flags of quantsparse-video, as far as they change what a step costs.
void add_attention_options(CLI::App& app, AttentionParameters& attention) {
    video::add_choice(app, "--attention", attention.kind, "Default: dense");
    video::add_choice(app, "--attention-arithmetic", attention.products, "Default: full");
    app.add_option("--density", attention.density, "Share of query-key pairs that is computed")
        ->capture_default_str();
    app.add_option("--block-size", attention.block_size, "Tokens of a block of the mask");
    video::add_choice(app, "--ssar", attention.ssar,
                      "What is added between refreshes (default svd)");
    app.add_option("--ssar-rank", attention.ssar_rank, "Of svd, 1 to 32")->capture_default_str();
    video::add_choice(app, "--residual", attention.residual,
                      "How SSAR keeps residuals (default int8)");
    app.add_option("--refresh-interval", attention.refresh_interval,
                   "Steps of a refresh period (default 5)");
}

void add_plan_options(CLI::App& app, bench::ModelOptions& options, CLI::Option* plan_flag) {
    const auto planning = [&](CLI::Option* option) { option->needs(plan_flag)->group("Planning"); };
    planning(app.add_option_function<std::string>(
        "--size",
        [&options](const std::string& text) {
            std::tie(options.width, options.height) = video::parse_picture_size(text);
            if (options.width > 16384 || options.height > 16384) {
                throw CLI::ValidationError("--size", "at most 16384 pixels a side");
            }
        },
        "WIDTHxHEIGHT in pixels (default 832x480)"));
    planning(app.add_option("--frames", options.frames, "4n + 1")
                 ->check(CLI::Range(1, 4001))
                 ->capture_default_str());
    planning(
        app.add_flag("--guidance", options.guidance, "Both branches of classifier-free guidance"));
    planning(app.add_flag("--no-device", options.without_device,
                          "Plan for a device of 128 MiB a binding and 2 GiB an allocation"));
}

void add_measuring_options(CLI::App& app, bench::ModelOptions& options, CLI::Option* plan_flag) {
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

void add_model_options(CLI::App& app, bench::ModelOptions& options, bool& plan) {
    app.add_option("--config", options.config,
                   "wan-1.3b, wan-14b, a transformer's config.json or a diffusers folder")
        ->capture_default_str();
    app.add_option("--weights", options.weight_bits, "Bits of the block linears; 16: not quantised")
        ->check(CLI::IsMember({3, 4, 6, 8, 16}))
        ->capture_default_str();
    app.add_option("--activations", options.activation_bits, "Bits of their inputs")
        ->check(CLI::IsMember({6, 8}))
        ->capture_default_str();
    app.add_flag_callback(
        "--no-rotation", [&options] { options.rotated = false; },
        "Without the calibrator's channel scale and rotation of the inputs");
    video::add_choice(app, "--storage", options.storage, "Float weights (default fp32)");
    add_device_option(app, options.device);
    video::add_choice(app, "--arithmetic", options.device.arithmetic,
                      "Integer products (default auto)");
    add_size_option(app, "--memory-limit", options.device.memory_limit,
                    "Budget instead of the device's, for example 8G");
    add_size_option(app, "--binding-limit", options.binding_limit,
                    "Largest buffer binding instead of the device's, for example 128M");
    app.add_option("--json", options.json, "Write the results here, too");
    add_attention_options(app, options.attention);
    auto* plan_flag = app.add_flag("--plan", plan, "Print what a clip needs and allocate nothing")
                          ->group("Planning");
    add_plan_options(app, options, plan_flag);
    add_measuring_options(app, options, plan_flag);
}

void add_table4_options(CLI::App& app, bench::Table4Options& options) {
    app.add_option("--config", options.config,
                   "wan-1.3b, wan-14b, a transformer's config.json or a diffusers folder")
        ->capture_default_str();
    video::add_choice(app, "--storage", options.storage,
                      "Float weights (default half, as in the paper)");
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
    add_device_option(app, options.device);
    add_repeats_option(app, options.repeats, "Measured runs, after two of warming up");
    app.add_option("--json", options.json, "Write the results here, too");
    app.add_option("--html", options.html, "Write a self-contained report with charts here");
}

void add_kernel_options(CLI::App& app, bench::KernelOptions& options) {
    add_device_option(app, options.device);
    video::add_choice(app, "--arithmetic", options.device.arithmetic,
                      "Integer products (default auto)");
    add_repeats_option(app, options.repeats, "Measured runs, after one of warming up");
    app.add_option("--json", options.json, "Write the results here, too");
}

void add_table_options(CLI::App& app, bench::TableOptions& options) {
    app.add_option("--table", options.table, "What to compare (bench/quality/tables/*.json)")
        ->required();
    app.add_option("-m,--model", options.model, "A model's folder or file in place of the table's");
    app.add_option("--prompt-file", options.prompt_file,
                   "A prompt per line, in place of the table's");
    for (const char* flag : {"--size", "--frames", "--steps"}) {
        app.add_option_function<std::string>(
            flag,
            [flag, &options](const std::string& value) {
                options.settings.insert(options.settings.end(), {flag, value});
            },
            "As quantsparse-video takes it, in place of the table's");
    }
    app.add_option("--work-dir", options.work_directory,
                   "References, calibrated models and results; a stopped run goes on from there")
        ->default_str("out/" + app.get_name() + "/<table>");
    app.add_option("--json", options.json, "Write the figures here");
    app.add_option("--html", options.html, "Write a self-contained report here");
    app.add_option("--only", options.only, "Title of a group; may be given several times");
    app.add_option("--prompts", options.prompts, "Only the first so many prompts")
        ->check(CLI::PositiveNumber);
    app.add_option("--device", options.device, "Device number, UUID or part of its name");
    app.add_flag("--plan", options.plan,
                 "Measure nothing; print what device memory and disk the table takes");
    app.add_flag("--report-only", options.report_only,
                 "Measure nothing; report what earlier runs have left");
}

void add_quality_options(CLI::App& app, bench::QualityOptions& options) {
    add_table_options(app, options);
    app.add_option("--figures", options.figures, "Charts of bench/replay to put into the report");
}

void add_single_kernel_options(CLI::App& app, bench::KernelOptions& options) {
    add_kernel_options(app, options);
    app.add_option("--only", options.only, "Only these kinds")
        ->check(CLI::IsMember(
            {"gemm", "quantize", "norm", "residual", "attention", "sparse", "chosen", "refresh"}));
    app.add_flag("--int8", options.codes,
                 "Attention in 8 bits (--attention-arithmetic int8-qk, int8) beside it, too");
    app.add_option("--tokens", options.tokens, "Rows of the activations")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--density", options.density, "Share of pairs of the sparse kind")
        ->check(CLI::Range(0.001, 0.999))
        ->capture_default_str();
    app.add_option("--tile", options.matrix_tile,
                   "Tile of the matrix units' products, by number; -1: as the runtime chooses")
        ->check(CLI::Range(-1, 3));
    app.add_option("--html", options.html, "Write a self-contained report here");
    app.add_option("--compare", options.compare,
                   "An earlier JSON of this command: print how much faster each is now");
}

void add_isa_options(CLI::App& app, bench::IsaOptions& options) {
    app.add_option("--family", options.families,
                   "As RADV_FORCE_FAMILY takes them; may be given several times")
        ->capture_default_str();
    app.add_option("--driver", options.driver, "RADV's json file")->capture_default_str();
    app.add_option("--json", options.json, "Write the results here, too");
    app.add_option("--compare", options.compare,
                   "An earlier JSON: a kernel that got 5 % worse fails the run");
    app.add_option("--assembly", options.assembly, "Write every kernel's assembly there");
}

void add_vae_options(CLI::App& app, bench::VaeOptions& options) {
    app.add_option("-m,--model", options.model, "Diffusers folder or quantised model file")
        ->required();
    app.add_option("clips", options.clips, "Folders of png pictures, 4n + 1 each")->required();
    add_device_option(app, options.device);
    app.add_option("--json", options.json, "Write the results here, too");
}

/// A subcommand and what it runs; the result is whether it succeeded.
struct Command {
    CLI::App* app;
    std::function<bool()> run;
};

struct AllOptions {
    std::filesystem::path devices_json;
    bench::ModelOptions model;
    bool plan = false;
    bench::Table4Options table4;
    bench::KernelOptions kernels;
    bench::IsaOptions isa;
    bench::VaeOptions vae;
    bench::QualityOptions quality;
    bench::TableOptions velocity;
};

bool run_model(const AllOptions& o) {
    check(o.model.attention);
    o.plan ? bench::run_model_plan(o.model) : bench::run_model_block(o.model);
    return true;
}

/// The options with a work directory of their own where none is given.
template <typename Options>
Options with_work_directory(Options options, const char* subcommand) {
    if (options.work_directory.empty()) {
        options.work_directory = std::filesystem::path("out") / subcommand / options.table.stem();
    }
    return options;
}

std::vector<Command> add_commands(CLI::App& app, AllOptions& o) {
    std::vector<Command> commands;
    const auto add = [&](const char* name, const char* description, std::function<bool()> run) {
        commands.push_back({app.add_subcommand(name, description), std::move(run)});
        return commands.back().app;
    };
    const auto always = [](auto run) {  // throws when it fails
        return [run] {
            run();
            return true;
        };
    };
    add("devices", "All devices, their limits, and the default",
        always([&] { bench::run_devices(o.devices_json); }))
        ->add_option("--json", o.devices_json, "Write the list here, too");
    auto* model =
        add("model", "Memory plan of a real configuration (--plan), or its blocks measured",
            [&] { return run_model(o); });
    model->footer(kExamples);
    add_model_options(*model, o.model, o.plan);
    add_table4_options(
        *add("table4", "The paper's deployment table: storage, memory and time of a whole clip",
             always([&] { bench::run_table4(o.table4); })),
        o.table4);
    add_kernel_options(
        *add("peak", "What the device's arithmetic and memory do at most",
             always([&] { bench::run_peak(o.kernels.device, o.kernels.repeats, o.kernels.json); })),
        o.kernels);
    add_single_kernel_options(
        *add("kernels", "Single kernels at the shapes of real models, as a share of that peak",
             always([&] { bench::run_kernels(o.kernels); })),
        o.kernels);
    add_isa_options(
        *add("isa", "What RADV's compiler makes of the kernels for AMD GPUs, without having one",
             [&] { return bench::run_isa(o.isa); }),
        o.isa);
    add_vae_options(
        *add("vae",
             "A model's autoencoder: PSNR of clips after encoding and decoding on the device",
             always([&] { bench::run_vae(o.vae); })),
        o.vae);
    add_quality_options(
        *add("quality",
             "PSNR, SSIM and prompt accuracy of many configurations, as a table and a report",
             [&] { return bench::run_quality(with_work_directory(o.quality, "quality")); }),
        o.quality);
    add_table_options(
        *add("velocity",
             "SNR of the transformer's predictions on given latents, row by row of a table; no "
             "autoencoder runs",
             [&] { return bench::run_velocity(with_work_directory(o.velocity, "velocity")); }),
        o.velocity);
    return commands;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{
        "Lists Vulkan devices, plans the memory of real models, measures their blocks and their "
        "quality."};
    app.footer(kExamples);
    app.require_subcommand(1);
    app.set_version_flag("--version", kVersion);
    AllOptions options;
    const std::vector<Command> commands = add_commands(app, options);
    try {
        app.parse(argc, argv);
        for (const Command& command : commands) {
            if (*command.app) return command.run() ? 0 : kFailed;
        }
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
        fmt::print(stderr, "quantsparse-bench: {}; see --help\n", error.what());
        return kWrongUsage;
    } catch (const Error& error) {
        fmt::print(stderr, "quantsparse-bench: {}\n", video::message_with_flag(error));
        const bool usage = error.code() == ErrorCode::invalid_argument && !error.field().empty();
        return usage ? kWrongUsage : kFailed;
    } catch (const std::exception& error) {
        fmt::print(stderr, "quantsparse-bench: {}\n", error.what());
        return kFailed;
    }
    return 0;
}
