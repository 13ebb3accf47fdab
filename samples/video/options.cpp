#include "options.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <map>
#include <random>
#include <tuple>

#include "choice.hpp"
#include "prompt_text.hpp"
#include "quantsparse/names.hpp"
#include "quantsparse/version.hpp"
#include "values.hpp"

namespace quantsparse {

template <>
std::span<const Word<video::ProgressStyle>> words_of() {
    using video::ProgressStyle;
    static constexpr Word<ProgressStyle> kWords[] = {{"auto", ProgressStyle::automatic},
                                                     {"bar", ProgressStyle::bar},
                                                     {"lines", ProgressStyle::lines},
                                                     {"json", ProgressStyle::json},
                                                     {"none", ProgressStyle::none}};
    return kWords;
}

}  // namespace quantsparse

namespace quantsparse::video {
namespace {

constexpr int kWrongUsage = 2;

constexpr const char* kExamples = R"(Examples:
  quantsparse-video -m samples/models/shapes-tiny \
      -p "a red circle moves left on a black background" -o clip.mp4
  quantsparse-video -m model-w4a8.safetensors -p "..." --size 832x480 --frames 81 -o clip.mp4
  quantsparse-video -m DISTILLED-MODEL -p "..." --few-steps lightx2v-4 -o clip.mp4
  quantsparse-video -m MODEL -p "..." -o - | ffplay -
  quantsparse-video -m MODEL --size 832x480 --frames 81 --plan
  quantsparse-video --list-devices
  quantsparse-video --tune --device 0

Exit codes: 0 done, 1 failed, 2 wrong usage.)";

[[noreturn]] void wrong_usage(const std::string& message) {
    throw Error(ErrorCode::invalid_argument, message);
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

struct PartFlag {
    const char* name;
    const char* role;
    const char* description;
};
constexpr PartFlag kParts[] = {
    {"--transformer", "transformer", "its transformer, in the place of the model's or without -m"},
    {"--diffusion-model", "transformer", "the same, as stable-diffusion.cpp calls it"},
    {"--text-encoder", "text_encoder", "its text encoder"},
    {"--vae", "vae", "its autoencoder"},
    {"--tokenizer", "tokenizer", "its spiece.model; ComfyUI's and GGUF text encoders hold one"},
};

// What is read after parsing.
struct Texts {
    std::map<std::string, std::string> parts;  ///< files by flag
    std::string size, fps, seed, sigmas, timesteps, refresh, refresh_steps, prompt_file,
        memory_limit, profile;
    std::optional<std::string> prompt;
    std::vector<std::string> loras;
};

class CommandLine {
  public:
    explicit CommandLine(Options& options) : options_(options) {
        app_.footer(kExamples);
        app_.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
        app_.get_formatter()->column_width(34);
        app_.set_version_flag("--version", fmt::format("quantsparse-video {}", kVersion));
        add_content();
        add_picture();
        add_sampling();
        add_attention();
        add_correction();
        add_device();
        add_output();
    }

    CLI::App& app() { return app_; }
    /// Checks and reads what parsing alone does not. Throws Error.
    void finish();

  private:
    void add_content();
    void add_picture();
    void add_sampling();
    void add_attention();
    void add_correction();
    void add_device();
    void add_output();

    void check_exclusive() const;
    void check_output() const;

    template <typename T>
    CLI::Option* add(const char* names, T& value, const std::string& description,
                     const char* type = nullptr) {
        CLI::Option* option = app_.add_option(names, value, description)->group(group_);
        return type ? option->type_name(type) : option;
    }
    CLI::Option* flag(const char* names, bool& value, const char* description) {
        return app_.add_flag(names, value, description)->group(group_);
    }
    template <typename Value>
    void choice(const char* names, Value& value, const char* description) {
        add_choice(app_, names, value, description)->group(group_);
    }
    bool given(const char* name) const { return app_.count(name) > 0; }

    CLI::App app_{"Generates video from text on any Vulkan device.", "quantsparse-video"};
    Options& options_;
    Texts texts_;
    const char* group_ = "";
};

void CommandLine::add_content() {
    group_ = "What to make";
    add("-m,--model", options_.model.model,
        "folder (diffusers, original, ComfyUI's models), or file of quantsparse-calibrate", "PATH");
    for (const auto& [name, role, description] : kParts) {
        add(name, texts_.parts[name], description, "PATH");
    }
    add("-p,--prompt", texts_.prompt, "what the clip shows", "TEXT");
    add("--prompt-file", texts_.prompt_file, "read the prompt from a file", "FILE");
    add("-n,--negative-prompt", options_.generation.conditioning.negative_prompt,
        "what it must not show", "TEXT");
    add("--lora", texts_.loras,
        "LoRA file, its strength (default 1), and which transformer of two it is for; may be given "
        "several times",
        "FILE[:N[:high|low]]")
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    add("-o,--output", options_.outputs,
        "where to: .mp4 .webm .gif .y4m .png, DIR/ for pictures, - for y4m to a pipe; may be given "
        "several times",
        "FILE")
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void CommandLine::add_picture() {
    group_ = "Picture";
    GenerationParameters& generation = options_.generation;
    add("-W,--width", generation.width, "pixels; default: the model's");
    add("-H,--height", generation.height, "pixels; default: the model's");
    add("--size", texts_.size, "both at once, as 832x480", "WxH");
    add("--frames,--video-frames", generation.frames, "4n+1 frames; default: the model's");
    add("--fps", texts_.fps, "frames per second, as 24 or 24000/1001; default: the model's", "N");
    add("--seed,-s", texts_.seed, "0 or more, or 'random'; default 0", "N");
    choice("--rng", generation.rng,
           "torch: the noise that diffusers and ComfyUI begin with for the seed; default: philox");
}

void CommandLine::add_sampling() {
    group_ = "Sampling";
    GenerationParameters& generation = options_.generation;
    add("--steps", generation.steps, "denoising steps");
    choice("--sampler,--sampling-method", generation.sampler,
           "lcm, dmd and rcm are for models distilled to few steps, ddim for models trained on "
           "betas (not Wan); default: the model's, usually unipc; with a list of levels euler");
    choice("--few-steps", generation.few_steps,
           "sampler, list, shift and guidance scale 1 of a distilled model at once");
    add("--sigmas", texts_.sigmas,
        "noise levels of the steps, falling from 1, before the flow shift (--flow-shift 1 leaves "
        "them)",
        "S,S,...");
    add("--timesteps", texts_.timesteps, "the same as timesteps, falling from 1000", "T,T,...");
    add("--guidance-scale,--cfg-scale", generation.guidance_scale,
        "1 or less switches guidance off and halves the time");
    add("--flow-shift", generation.flow_shift, "higher spends more steps on the layout");
    add("--step-cache,--teacache", generation.step_cache,
        "reuse the transformer's result while it is expected to change by less than this in all "
        "(TeaCache), for example 0.08; default 0: never",
        "T");
}

void CommandLine::add_attention() {
    group_ = "Attention";
    AttentionParameters& attention = options_.generation.attention;
    choice("--attention", attention.kind,
           "default: dense; of transformers that were trained with it sla, and nothing else");
    choice("--attention-arithmetic", attention.products,
           "int8-qk multiplies queries and keys in 8 bits, int8 probabilities and values too "
           "(SageAttention); for devices without matrix units whose dot products of bytes are "
           "faster than fp32; default: full");
    add("--density", attention.density,
        "share of query-key pairs that is computed; default 0.25, of sla 0.1");
    add("--block-size", attention.block_size,
        "tokens of a block of the mask; default 64, on CPU drivers 32, with matrix units 128 from "
        "4,096 tokens on");
    choice(
        "--mask", attention.mask,
        "exact counts the first frame into the density of the band; topk chooses blocks for each "
        "head by their mean queries and keys, jenga along a curve and with what touches them; "
        "default: exact");
    add("--mask-file", attention.mask_file,
        "lists of blocks for each layer and head instead of a mask (docs/method.md 4.10)", "FILE");
    add("--top-p", attention.top_p,
        "of topk: more blocks, until they hold this share of their row's softmax; default 0: off, "
        "of "
        "jenga 0.9");
    choice(
        "--block-order", attention.block_order,
        "of topk: how tokens are cut into blocks; tiles, and pieces of a Hilbert curve, are near "
        "in space and time; default: frames, of jenga curve");
    choice("--tail", attention.tail,
           "of topk: what stands for the blocks that are left out; pooled: their mean keys and "
           "values; default: none");
    choice("--mask-granularity", attention.granularity,
           "block computes blocks on the mask's edge whole; default: token");
    choice("--sink", attention.sink,
           "keys every query sees: none; frame: the first frame (temporal heads: as many first "
           "places); frame0: the first frame in all heads; default: frame");
    add("--dense-steps", attention.dense_steps,
        "first steps computed densely; default 0, with --ssar off 20 % of the steps");
    add("--dense-layers", attention.dense_layers, "first layers computed densely; default 1");
}

void CommandLine::add_correction() {
    AttentionParameters& attention = options_.generation.attention;
    choice("--ssar", attention.ssar,
           "what is added to sparse attention between refreshes; default: svd, below 8 steps "
           "first");
    add("--ssar-rank", attention.ssar_rank, "of svd, 1 to 32; default 16");
    choice("--ssar-span", attention.ssar_span, "which residuals are compared; default: refs");
    choice("--ssar-gain", attention.ssar_gain,
           "how the difference grows from step to step; default: linear, the paper has one");
    choice("--residual", attention.residual, "how residuals are kept; default: int8");
    add("--refresh", texts_.refresh,
        "dense steps that renew the residual stand where they help most; auto=N: so many; default: "
        "auto, a fifth of the steps, two for 4 to 8",
        "auto[=N]");
    add("--refresh-steps", texts_.refresh_steps, "which steps they are, from 0 on", "N,N,...");
    add("--refresh-interval", attention.refresh_interval,
        "or every so many steps; the paper has 5");
}

void CommandLine::add_device() {
    group_ = "Device";
    DeviceOptions& device = options_.device;
    add("-d,--device", device.selector, "number, UUID or part of the name", "N|NAME");
    flag("--list-devices", options_.list_devices, "show the devices, then stop");
    flag("--tune", options_.tune,
         "measure which products and tiles are fastest on the device, keep that for all later "
         "runs, then stop");
    choice("--arithmetic", device.arithmetic,
           "how integer products are formed; default: auto, the fastest, which is measured once a "
           "device");
    add("--memory-limit,--max-vram", texts_.memory_limit,
        "use no more than this, as 4G; the rest is streamed from host memory", "SIZE");
    choice("--storage", options_.pipeline.storage, "of weights that are not quantised");
    add("--weights", options_.pipeline.requantize,
        "8: round the transformer's weights to so many bits while loading", "BITS");
    flag("--validation", device.validation, "Khronos validation layers; a message is a failure");
}

void CommandLine::add_output() {
    group_ = "Output";
    add("--format", options_.format, "instead of the extension: mp4 webm gif y4m png", "NAME");
    add("--crf", options_.crf, "quality of mp4 and webm, 0 (best) to 63");
    add("--preview", options_.preview, "a rough .png picture, replaced as it goes", "FILE");
    add("--preview-interval", options_.preview_interval, "steps between previews; default 5");
    add("--save-latents", options_.latents, "final latents, .npy or .safetensors", "FILE");

    group_ = "Report";
    flag("--plan", options_.plan, "print the memory each stage needs, then stop");
    flag("--json", options_.json, "--plan and --list-devices as JSON");
    add("--profile", texts_.profile, "time per operation; --profile=FILE.json keeps it", "[=FILE]")
        ->expected(0, 1);
    choice("--progress", options_.progress, "on standard error");
    flag("-q,--quiet", options_.quiet, "nothing but errors");
}

// Two flags that say the same.
void CommandLine::check_exclusive() const {
    if (given("--prompt-file") && given("--prompt")) {
        wrong_usage("--prompt and --prompt-file exclude each other: keep one");
    }
    if (given("--size") && (given("--width") || given("--height"))) {
        wrong_usage("--size and --width, --height exclude each other: keep one");
    }
    if (given("--refresh") + given("--refresh-steps") + given("--refresh-interval") > 1) {
        wrong_usage(
            "--refresh, --refresh-steps and --refresh-interval exclude each other: keep one");
    }
}

void CommandLine::check_output() const {
    if (given("--crf") && (options_.crf < 0 || options_.crf > 63)) {
        wrong_usage(fmt::format("--crf is {}: it must be from 0 to 63", options_.crf));
    }
    if (given("--preview-interval") && options_.preview_interval < 1) {
        wrong_usage(fmt::format("--preview-interval is {}: it must be 1 or more",
                                options_.preview_interval));
    }
    if (!options_.preview.empty() && options_.preview.extension() != ".png") {
        wrong_usage(
            fmt::format("--preview '{}': use a name that ends in .png", options_.preview.string()));
    }
}

void CommandLine::finish() {
    GenerationParameters& generation = options_.generation;
    if (options_.list_devices || options_.tune) return;
    for (const auto& [name, role, description] : kParts) {
        if (!given(name)) continue;
        const std::filesystem::path path = texts_.parts[name];
        if (!std::filesystem::exists(path)) {
            wrong_usage(fmt::format("{}: '{}' does not exist", name, path.string()));
        }
        options_.model.parts[role] = path;
    }
    if (options_.model.model.empty() && options_.model.parts.empty()) {
        wrong_usage("no model: use -m PATH (a diffusers folder or a quantised model file)");
    }
    check_exclusive();
    if (!texts_.size.empty()) {
        const auto [width, height] = parse_picture_size(texts_.size);
        generation.width = width;
        generation.height = height;
    }
    if (given("--sigmas")) generation.sigmas = parse_numbers(texts_.sigmas, "sigmas");
    if (given("--timesteps")) generation.timesteps = parse_numbers(texts_.timesteps, "timesteps");
    if (given("--refresh")) {
        generation.attention.refreshes = parse_refreshes(texts_.refresh);
    }
    if (given("--refresh-steps")) {
        generation.attention.refresh_steps = parse_steps(texts_.refresh_steps, "refresh_steps");
    }
    for (const std::string& lora : texts_.loras) {
        const Adapter adapter = adapter_from(lora);
        if (!std::filesystem::exists(adapter.file)) {
            wrong_usage(fmt::format("--lora: '{}' does not exist", adapter.file.string()));
        }
        generation.conditioning.adapters.push_back(adapter);
    }
    check(generation);
    check_output();
    if (given("--fps")) options_.fps = parse_frame_rate(texts_.fps);
    if (!texts_.seed.empty()) generation.seed = parse_seed(texts_.seed);
    if (!texts_.memory_limit.empty()) {
        options_.device.memory_limit = parse_size(texts_.memory_limit, "memory_limit");
    }
    if (given("--profile")) {
        options_.pipeline.profile = true;
        options_.profile_file = texts_.profile;
    }
    generation.conditioning.prompt =
        !texts_.prompt_file.empty() ? read_prompt(texts_.prompt_file) : texts_.prompt.value_or("");
    options_.warnings = foreign_syntax("prompt", generation.conditioning.prompt);
    for (auto& warning :
         foreign_syntax("negative prompt", generation.conditioning.negative_prompt)) {
        options_.warnings.push_back(std::move(warning));
    }
    if (options_.plan) return;
    if (generation.conditioning.prompt.find_first_not_of(" \t\r\n") == std::string::npos) {
        wrong_usage("the prompt is empty: say what the clip shows with -p TEXT");
    }
    if (options_.outputs.empty()) {
        wrong_usage("no output: say where the clip goes with -o FILE");
    }
}

/// What is left when all options have taken their values.
std::string unexpected(const std::vector<std::string>& words) {
    for (const std::string& word : words) {
        if (word.starts_with('-')) return fmt::format("this version has no option {}", word);
    }
    return fmt::format("'{}' belongs to no option", words.empty() ? "" : words.front());
}

}  // namespace

std::pair<int, int> parse_picture_size(const std::string& text) {
    const std::size_t cross = text.find_first_of("xX*");
    const auto number = [&](std::size_t from, std::size_t to) {
        int value = 0;
        const auto result = std::from_chars(text.data() + from, text.data() + to, value);
        return result.ec == std::errc() && result.ptr == text.data() + to ? value : 0;
    };
    const int width = cross == std::string::npos ? 0 : number(0, cross);
    const int height = cross == std::string::npos ? 0 : number(cross + 1, text.size());
    if (width <= 0 || height <= 0) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("'{}': write WIDTHxHEIGHT, for example 832x480", text), "size");
    }
    return {width, height};
}

std::uint64_t parse_size(const std::string& text, const std::string& field) {
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
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("'{}' is not a size: write for example 512M or 4G", text), field);
    }
    return static_cast<std::uint64_t>(value * factor->second);
}

ParseResult parse_options(int argc, char** argv) {
    Options options;
    CommandLine line(options);
    try {
        line.app().parse(argc, argv);
        line.finish();
    } catch (const CLI::Success& success) {  // --help, --version
        return {options, line.app().exit(success)};
    } catch (const CLI::ExtrasError&) {
        fmt::print(stderr, "quantsparse-video: {} (see --help)\n",
                   unexpected(line.app().remaining()));
        return {options, kWrongUsage};
    } catch (const CLI::Error& error) {
        std::string message = error.what();
        std::replace(message.begin(), message.end(), '\n', ' ');
        fmt::print(stderr, "quantsparse-video: {} (see --help)\n", message);
        return {options, kWrongUsage};
    }
    return {options, std::nullopt};
}

}  // namespace quantsparse::video
