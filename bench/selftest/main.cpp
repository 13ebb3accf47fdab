// quantsparse-selftest: runs every reference case in a folder on a device and says which pass.
#include <fmt/format.h>
#include <algorithm>

#include "choice.hpp"
#include "flags.hpp"
#include "quantsparse/version.hpp"
#include "selftest/case.hpp"

namespace {

using namespace quantsparse;
using namespace quantsparse::selftest;

std::vector<Result> run_case(const Case& c, const Settings& settings) {
    const std::string kind = c.kind();
    if (kind == "wan-dit" || kind == "wan-dit-quantised" || kind == "gguf-wan-dit") {
        return run_dit(c, settings);
    }
    if (kind == "gguf") return run_gguf(c);
    if (kind == "fp8-scaled") return run_scaled_weights(c);
    if (kind == "int8-convrot" || kind == "w4a8-int8") return run_integer_weights(c, settings);
    if (kind == "umt5-encoder" || kind == "gguf-umt5") return run_umt5(c, settings);
    if (kind == "lora") return run_adapters(c, settings);
    if (kind == "wan-vae") return run_vae(c, settings);
    if (kind == "scheduler") return run_scheduler(c);
    if (kind == "pipeline") return run_pipeline(c, settings);
    if (kind == "quant-linear") return run_quant_linear(c, settings);
    if (kind == "sparse-attention-blocks") return run_sparse_blocks(c, settings);
    if (kind == "sparse-attention-frames") return run_sparse_frames(c, settings);
    if (kind == "sla-attention") return run_sla(c, settings);
    if (kind == "quant-lowrank") return run_quant_lowrank(c, settings);
    if (kind == "quant-rotation") return run_quant_rotation(c, settings);
    throw Error(ErrorCode::unsupported, fmt::format("unknown kind of case \"{}\"", kind));
}

std::vector<std::filesystem::path> find_cases(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> found;
    std::error_code error;
    if (std::filesystem::exists(folder / "case.json", error)) found.push_back(folder);
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
        if (std::filesystem::exists(entry.path() / "case.json", error))
            found.push_back(entry.path());
    }
    std::sort(found.begin(), found.end());
    return found;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{
        "Runs reference cases on a Vulkan device and compares every output and intermediate."};
    app.footer(
        "Examples:\n"
        "  quantsparse-selftest --cases tests/golden/data\n"
        "  quantsparse-selftest --cases golden --device llvmpipe --validation\n"
        "  quantsparse-selftest --cases golden --storage half --arithmetic portable\n"
        "Exit codes: 0 all passed, 1 one failed or none was found, 2 wrong usage.");
    std::filesystem::path cases = "tests/golden/data";
    DeviceOptions device_options;
    Storage storage = Storage::fp32;
    Settings settings;
    app.add_option("--cases", cases, "Folder of case folders, or one case folder")
        ->capture_default_str();
    app.add_option("--device", device_options.selector, "Device number, UUID or part of its name");
    video::add_choice(app, "--arithmetic", device_options.arithmetic, "Integer products");
    video::add_choice(app, "--storage", storage, "Float weights");
    app.add_flag("--validation", device_options.validation,
                 "Khronos validation with synchronisation checks; a message is a failure");
    app.add_flag("--staging", settings.force_staging,
                 "Transfer through a staging buffer even where memory can be mapped");
    app.set_version_flag("--version", kVersion);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }

    int passed = 0, failed = 0;
    try {
        settings.half = storage == Storage::half;
        device_options.on_validation_message = [](const std::string& text) {
            fmt::print(stderr, "vulkan validation: {}\n", text);
        };
        Device device(device_options);
        settings.device = &device.internal();
        fmt::print("device {} ({}), arithmetic {}, storage {}\n", device.info().name,
                   device.info().driver, word_of(device.arithmetic()), word_of(storage));
        fmt::print("{:<44} {:>10} {:>10}\n", "name", "max_abs", "max_rel");
        for (const auto& folder : find_cases(cases)) {
            const std::string name = folder.filename().string();
            try {
                const Case c(folder);
                for (const Result& result : run_case(c, settings)) {
                    fmt::print("{:<44} {:>10.2e} {:>10.2e} {}{}{}\n", result.name,
                               result.difference.max_abs, result.difference.rel_l2,
                               result.passed ? "PASS" : "FAIL", result.detail.empty() ? "" : ": ",
                               result.detail);
                    ++(result.passed ? passed : failed);
                }
            } catch (const std::exception& error) {
                fmt::print("{:<44} {:>10} {:>10} FAIL: {}\n", name, "-", "-", error.what());
                ++failed;
            }
            std::fflush(stdout);
        }
        if (const int messages = device.validation_message_count()) {
            fmt::print("{} validation messages\n", messages);
            ++failed;
        }
    } catch (const Error& error) {
        fmt::print(stderr, "quantsparse-selftest: {}\n", video::message_with_flag(error));
        return 1;
    }
    if (passed + failed == 0) {
        fmt::print(stderr,
                   "quantsparse-selftest: no case found in {}: name a folder with --cases\n",
                   cases.string());
        return 1;
    }
    fmt::print("{} passed, {} failed\n", passed, failed);
    return failed ? 1 : 0;
}
