#include "options.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <random>

#include "quantsparse/error.hpp"
#include "quantsparse/version.hpp"

namespace quantsparse::video {
namespace {

constexpr int kWrongUsage = 2;

constexpr const char* kExamples = R"(Examples:
  quantsparse-video -m samples/models/shapes-tiny \
      -p "a red circle moves left on a black background" -o clip.mp4
  quantsparse-video -m model-w4a8.safetensors -p "..." --size 832x480 --frames 81 -o clip.mp4
  quantsparse-video -m MODEL -p "..." -o - | ffplay -
  quantsparse-video -m MODEL --size 832x480 --frames 81 --plan
  quantsparse-video --list-devices
  quantsparse-video --tune --device 0

Exit codes: 0 done, 1 failed, 2 wrong usage.)";

[[noreturn]] void wrong_usage(const std::string& message) {
    throw Error(ErrorCode::invalid_argument, message);
}

// "832x480" → width and height.
void parse_picture_size(const std::string& text, GenerationParameters& generation) {
    const std::size_t cross = text.find_first_of("xX*");
    const auto number = [&](std::size_t from, std::size_t to) {
        int value = 0;
        const auto result = std::from_chars(text.data() + from, text.data() + to, value);
        return result.ec == std::errc() && result.ptr == text.data() + to ? value : 0;
    };
    if (cross != std::string::npos) {
        generation.width = number(0, cross);
        generation.height = number(cross + 1, text.size());
    }
    if (generation.width <= 0 || generation.height <= 0) {
        wrong_usage(fmt::format("--size '{}': write WIDTHxHEIGHT, for example 832x480", text));
    }
}

std::uint64_t parse_seed(const std::string& text) {
    if (text == "random" || text == "-1") {
        std::random_device device;
        return std::uint64_t{device()};
    }
    std::uint64_t seed = 0;
    const char* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, seed);
    if (text.empty() || result.ec != std::errc() || result.ptr != end) {
        wrong_usage(
            fmt::format("--seed '{}': use a number from 0 to 18446744073709551615, or "
                        "'random'",
                        text));
    }
    return seed;
}

std::string read_prompt(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (!file) {
        throw Error(ErrorCode::io,
                    fmt::format("cannot read the prompt file '{}': check the path", path));
    }
    return text;
}

void require_positive(const CLI::Option* option, double value, const char* advice) {
    if (option->count() > 0 && !(value > 0)) {
        wrong_usage(fmt::format("{} is {}: {}", option->get_name(), value, advice));
    }
}

template <typename T>
CLI::Option* add_choice(CLI::App& app, const std::string& names, T& value,
                        const std::map<std::string, T>& choices, const std::string& description) {
    std::string listed;
    for (const auto& [name, unused] : choices) {
        listed += (listed.empty() ? "" : "|") + name;
    }
    return app
        .add_option_function<std::string>(
            names,
            [&value, choices, names, listed](const std::string& text) {
                const auto found = choices.find(text);
                if (found == choices.end()) {
                    throw CLI::ValidationError(
                        names.substr(0, names.find(',')),
                        fmt::format("'{}' is not known: use {}", text, listed));
                }
                value = found->second;
            },
            description)
        ->type_name(listed);
}

}  // namespace

std::uint64_t parse_size(const std::string& text) {
    double value = 0;
    const char* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, value);
    std::string unit(result.ptr, end);
    if (unit.size() > 1 && (unit.ends_with("iB") || unit.ends_with("ib"))) {
        unit.resize(unit.size() - 2);
    } else if (unit.ends_with('B') || unit.ends_with('b')) {
        unit.pop_back();
    }
    static const std::map<std::string, double> kUnits = {
        {"", 1},       {"k", 0x1p10}, {"K", 0x1p10}, {"m", 0x1p20}, {"M", 0x1p20},
        {"g", 0x1p30}, {"G", 0x1p30}, {"t", 0x1p40}, {"T", 0x1p40}};
    const auto factor = kUnits.find(unit);
    const bool valid = result.ec == std::errc() && factor != kUnits.end() && value > 0 &&
                       value * factor->second < 0x1p63;
    if (!valid) {
        wrong_usage(fmt::format("'{}' is not a size: write for example 512M or 4G", text));
    }
    return static_cast<std::uint64_t>(value * factor->second);
}

ParseResult parse_options(int argc, char** argv) {
    Options options;
    GenerationParameters& generation = options.generation;
    CLI::App app("Generates video from text on any Vulkan device.", "quantsparse-video");
    app.footer(kExamples);
    app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    app.get_formatter()->column_width(34);
    app.set_version_flag("--version", fmt::format("quantsparse-video {}", kVersion));
    std::string size, seed, prompt_file, memory_limit, profile;
    std::optional<std::string> prompt;

    const char* group = "What to make";
    app.add_option("-m,--model", options.model, "diffusers folder or quantised model file")
        ->type_name("PATH")
        ->group(group);
    app.add_option("-p,--prompt", prompt, "what the clip shows")->type_name("TEXT")->group(group);
    app.add_option("--prompt-file", prompt_file, "read the prompt from a file")
        ->type_name("FILE")
        ->group(group);
    app.add_option("-n,--negative-prompt", generation.negative_prompt, "what it must not show")
        ->type_name("TEXT")
        ->group(group);
    app.add_option("-o,--output", options.outputs,
                   "where to: .mp4 .webm .gif .y4m .png, DIR/ for pictures, - for y4m to a pipe; "
                   "may be given several times")
        ->type_name("FILE")
        ->group(group)
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);

    group = "Picture";
    auto* width = app.add_option("-W,--width", generation.width, "pixels; default: the model's")
                      ->group(group);
    auto* height = app.add_option("-H,--height", generation.height, "pixels; default: the model's")
                       ->group(group);
    app.add_option("--size", size, "both at once, as 832x480")->type_name("WxH")->group(group);
    auto* frames = app.add_option("--frames,--video-frames", generation.frames,
                                  "4n+1 frames; default: the model's")
                       ->group(group);
    auto* fps =
        app.add_option("--fps", options.fps, "frames a second; default: the model's")->group(group);
    app.add_option("--seed,-s", seed, "0 or more, or 'random'; default 0")
        ->type_name("N")
        ->group(group);

    group = "Sampling";
    auto* steps = app.add_option("--steps", generation.steps, "denoising steps")->group(group);
    add_choice<Sampler>(app, "--sampler,--sampling-method", generation.sampler,
                        {{"unipc", Sampler::unipc},
                         {"dpm++", Sampler::dpmpp},
                         {"dpmpp", Sampler::dpmpp},
                         {"euler", Sampler::euler}},
                        "default: unipc")
        ->group(group);
    auto* guidance = app.add_option("--guidance-scale,--cfg-scale", generation.guidance_scale,
                                    "1 switches guidance off and halves the time")
                         ->group(group);
    auto* shift = app.add_option("--flow-shift", generation.flow_shift,
                                 "higher spends more steps on the layout")
                      ->group(group);
    auto* step_cache =
        app.add_option("--step-cache,--teacache", generation.step_cache,
                       "reuse the transformer's result while it is expected to change by less "
                       "than this in all (TeaCache), for example 0.08; default 0: never")
            ->type_name("T")
            ->group(group);

    group = "Attention";
    AttentionParameters& attention = generation.attention;
    add_choice<AttentionKind>(app, "--attention", attention.kind,
                              {{"dense", AttentionKind::dense}, {"sparse", AttentionKind::sparse}},
                              "default: dense")
        ->group(group);
    add_choice<AttentionProducts>(
        app, "--attention-arithmetic", attention.products,
        {{"full", AttentionProducts::full},
         {"int8-qk", AttentionProducts::int8_qk},
         {"int8", AttentionProducts::int8}},
        "int8-qk multiplies queries and keys in 8 bits, int8 probabilities and values too "
        "(SageAttention); for devices without matrix units whose dot products of bytes are faster "
        "than fp32; default: full")
        ->group(group);
    auto* density = app.add_option("--density", attention.density,
                                   "share of query-key pairs that is computed; default 0.25")
                        ->group(group);
    auto* block =
        app.add_option("--block-size", attention.block_size,
                       "tokens of a block of the mask; default 64, on CPU drivers 32, with "
                       "matrix units 128 from 4,096 tokens on")
            ->group(group);
    add_choice<MaskMode>(app, "--mask", attention.mask,
                         {{"exact", MaskMode::exact}, {"svg", MaskMode::svg}},
                         "exact counts the first frame into the density; default: exact")
        ->group(group);
    add_choice<MaskGranularity>(
        app, "--mask-granularity", attention.granularity,
        {{"token", MaskGranularity::token}, {"block", MaskGranularity::block}},
        "block computes blocks on the mask's edge whole; default: token")
        ->group(group);
    add_choice<Sink>(app, "--sink", attention.sink,
                     {{"none", Sink::none}, {"frame", Sink::frame}, {"frame0", Sink::frame0}},
                     "what every query sees: frame is the first frame, for temporal heads as many "
                     "first places, frame0 the first frame for all; default: frame")
        ->group(group);
    add_choice<SsarMode>(app, "--ssar", attention.ssar,
                         {{"off", SsarMode::off},
                          {"none", SsarMode::none},
                          {"first", SsarMode::first},
                          {"second", SsarMode::second},
                          {"third", SsarMode::third},
                          {"svd", SsarMode::svd}},
                         "what is added to sparse attention between refreshes; default: svd")
        ->group(group);
    auto* rank = app.add_option("--ssar-rank", attention.ssar_rank, "of svd, 1 to 32; default 16")
                     ->group(group);
    add_choice<SsarSpan>(app, "--ssar-span", attention.ssar_span,
                         {{"refs", SsarSpan::references}, {"adjacent", SsarSpan::adjacent}},
                         "which residuals are compared; default: refs")
        ->group(group);
    add_choice<SsarGain>(
        app, "--ssar-gain", attention.ssar_gain,
        {{"one", SsarGain::one}, {"linear", SsarGain::linear}, {"sigma", SsarGain::sigma}},
        "how the difference grows from step to step; default: linear, the paper has one")
        ->group(group);
    add_choice<ResidualStorage>(app, "--residual", attention.residual,
                                {{"half", ResidualStorage::half},
                                 {"int8", ResidualStorage::int8},
                                 {"int4", ResidualStorage::int4},
                                 {"lowrank", ResidualStorage::low_rank}},
                                "how residuals are kept; default: int8")
        ->group(group);
    auto* refresh = app.add_option("--refresh-interval", attention.refresh_interval,
                                   "steps from one dense step to the next; default 5")
                        ->group(group);
    auto* dense_steps =
        app.add_option("--dense-steps", attention.dense_steps,
                       "first steps computed densely; default 0, with --ssar off 20 % of the steps")
            ->group(group);
    auto* dense_layers = app.add_option("--dense-layers", attention.dense_layers,
                                        "first layers computed densely; default 1")
                             ->group(group);

    group = "Device";
    app.add_option("-d,--device", options.device.selector, "number, UUID or part of the name")
        ->type_name("N|NAME")
        ->group(group);
    app.add_flag("--list-devices", options.list_devices, "show the devices, then stop")
        ->group(group);
    app.add_flag("--tune", options.tune,
                 "measure which products and tiles are fastest on the device, keep that for all "
                 "later runs, then stop")
        ->group(group);
    add_choice<Arithmetic>(app, "--arithmetic", options.device.arithmetic,
                           {{"auto", Arithmetic::automatic},
                            {"portable", Arithmetic::portable},
                            {"dot", Arithmetic::dot},
                            {"matrix", Arithmetic::matrix}},
                           "how integer products are formed; default: auto, the fastest, which is "
                           "measured once a device")
        ->group(group);
    app.add_option("--memory-limit,--max-vram", memory_limit,
                   "use no more than this, as 4G; the rest is streamed from host memory")
        ->type_name("SIZE")
        ->group(group);
    add_choice<Storage>(app, "--storage", options.pipeline.storage,
                        {{"fp32", Storage::fp32}, {"half", Storage::half}},
                        "of weights that are not quantised")
        ->group(group);
    app.add_flag("--validation", options.device.validation,
                 "Khronos validation layers; a message is a failure")
        ->group(group);

    group = "Output";
    app.add_option("--format", options.format, "instead of the extension: mp4 webm gif y4m png")
        ->type_name("NAME")
        ->group(group);
    auto* crf = app.add_option("--crf", options.crf, "quality of mp4 and webm, 0 (best) to 63")
                    ->group(group);
    app.add_option("--preview", options.preview, "a rough .png picture, replaced as it goes")
        ->type_name("FILE")
        ->group(group);
    auto* interval = app.add_option("--preview-interval", options.preview_interval,
                                    "steps between previews; default 5")
                         ->group(group);
    app.add_option("--save-latents", options.latents, "final latents, .npy or .safetensors")
        ->type_name("FILE")
        ->group(group);

    group = "Report";
    app.add_flag("--plan", options.plan, "print the memory each stage needs, then stop")
        ->group(group);
    app.add_flag("--json", options.json, "--plan and --list-devices as JSON")->group(group);
    auto* profile_option =
        app.add_option("--profile", profile, "time per operation; --profile=FILE.json keeps it")
            ->expected(0, 1)
            ->type_name("[=FILE]")
            ->group(group);
    add_choice<ProgressStyle>(app, "--progress", options.progress,
                              {{"auto", ProgressStyle::automatic},
                               {"bar", ProgressStyle::bar},
                               {"lines", ProgressStyle::lines},
                               {"json", ProgressStyle::json},
                               {"none", ProgressStyle::none}},
                              "on standard error")
        ->group(group);
    app.add_flag("-q,--quiet", options.quiet, "nothing but errors")->group(group);

    try {
        app.parse(argc, argv);
        if (options.list_devices || options.tune) {
            return {options, std::nullopt};
        }
        if (options.model.empty()) {
            wrong_usage("no model: use -m PATH (a diffusers folder or a quantised model file)");
        }
        if (!prompt_file.empty() && prompt) {
            wrong_usage("--prompt and --prompt-file exclude each other: keep one");
        }
        if (!size.empty() && width->count() + height->count() > 0) {
            wrong_usage("--size and --width, --height exclude each other: keep one");
        }
        if (!size.empty()) {
            parse_picture_size(size, generation);
        }
        const char* picture_advice = "it must be greater than 0, or left out for the model's own";
        require_positive(width, generation.width, picture_advice);
        require_positive(height, generation.height, picture_advice);
        require_positive(frames, generation.frames, picture_advice);
        require_positive(fps, options.fps, "it must be greater than 0, at most 1000");
        require_positive(steps, generation.steps, "it must be from 1 to 1000");
        require_positive(interval, options.preview_interval, "it must be 1 or more");
        require_positive(shift, generation.flow_shift,
                         "it must be greater than 0, usually 3 to 12");
        require_positive(density, attention.density, "it must be more than 0, at most 1");
        require_positive(block, attention.block_size, "it must be greater than 0");
        require_positive(rank, attention.ssar_rank, "it must be from 1 to 32");
        require_positive(refresh, attention.refresh_interval, "it must be 1 or more");
        for (const auto& [option, value] : {std::pair{dense_steps, attention.dense_steps},
                                            {dense_layers, attention.dense_layers}}) {
            if (option->count() > 0 && value < 0) {
                wrong_usage(
                    fmt::format("{} is {}: it must be 0 or more", option->get_name(), value));
            }
        }
        if (generation.steps > 1000) {
            wrong_usage(fmt::format("--steps is {}: it must be from 1 to 1000", generation.steps));
        }
        if (!(options.fps <= 1000)) {
            wrong_usage(fmt::format("--fps is {}: it must be at most 1000", options.fps));
        }
        if (crf->count() > 0 && (options.crf < 0 || options.crf > 63)) {
            wrong_usage(fmt::format("--crf is {}: it must be from 0 to 63", options.crf));
        }
        if (guidance->count() > 0 &&
            !(generation.guidance_scale >= 0 && std::isfinite(generation.guidance_scale))) {
            wrong_usage(fmt::format("--guidance-scale is {}: it must be 0 or more",
                                    generation.guidance_scale));
        }
        if (step_cache->count() > 0 &&
            !(generation.step_cache >= 0 && generation.step_cache <= 100)) {
            wrong_usage(
                fmt::format("--step-cache is {}: it must be 0 (off) or more, usually 0.05 "
                            "to 0.3",
                            generation.step_cache));
        }
        if (!seed.empty()) {
            generation.seed = parse_seed(seed);
        }
        if (!memory_limit.empty()) {
            options.device.memory_limit = parse_size(memory_limit);
        }
        if (profile_option->count() > 0) {
            options.pipeline.profile = true;
            options.profile_file = profile;
        }
        if (!options.preview.empty() && options.preview.extension() != ".png") {
            wrong_usage(fmt::format("--preview '{}': use a name that ends in .png",
                                    options.preview.string()));
        }
        generation.prompt = !prompt_file.empty() ? read_prompt(prompt_file) : prompt.value_or("");
        if (!options.plan) {
            if (generation.prompt.find_first_not_of(" \t\r\n") == std::string::npos) {
                wrong_usage("the prompt is empty: say what the clip shows with -p TEXT");
            }
            if (options.outputs.empty()) {
                wrong_usage("no output: say where the clip goes with -o FILE");
            }
        }
    } catch (const CLI::Success& success) {  // --help, --version
        return {options, app.exit(success)};
    } catch (const CLI::Error& error) {
        std::string message = error.what();
        std::replace(message.begin(), message.end(), '\n', ' ');
        fmt::print(stderr, "quantsparse-video: {} (see --help)\n", message);
        return {options, kWrongUsage};
    }
    return {options, std::nullopt};
}

}  // namespace quantsparse::video
