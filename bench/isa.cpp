#include "isa.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>

#include "isa_code.hpp"
#include "isa_prediction.hpp"
#include "kernel_cases.hpp"
#include "pipeline/stage.hpp"
#include "quantsparse/error.hpp"
#include "report.hpp"

namespace quantsparse::bench {
namespace {

/// Of the earlier run, or nothing.
const Json* earlier_kernel(const Json& earlier, const std::string& family,
                           const std::string& name) {
    if (!earlier.contains(family)) return nullptr;
    for (const Json& kernel : earlier[family]) {
        if (kernel.value("name", "") == name) return &kernel;
    }
    return nullptr;
}

Json mix_json(const Mix& mix) {
    return {{"instructions", mix.all}, {"vector", mix.vector},           {"dot4", mix.dot},
            {"wmma", mix.matrix},      {"packed_half", mix.packed_half}, {"fma", mix.fused},
            {"memory", mix.memory}};
}

/// Attention's two products, scores before values, each a loop of its own: what part of their
/// vector instructions are dot4. Other loops have few products.
Json attention_products(const std::string& assembly) {
    constexpr int kFewest = 32;
    Json products = Json::array();
    for (const Mix& mix : innermost_loops(assembly)) {
        if (mix.products() < kFewest) continue;
        fmt::print("{:<52}{} vector instructions a turn, {:.0f} % dot4, {:.0f} % fma\n",
                   products.empty() ? "  scores" : "  values", mix.vector,
                   100.0 * mix.dot / mix.vector, 100.0 * mix.fused / mix.vector);
        products.push_back(mix_json(mix));
    }
    return products;
}

/// The cases, and those measured beside them that are other kernels.
std::vector<KernelCase> inspected_cases(const program::Limits& limits) {
    std::vector<KernelCase> cases;
    for (KernelCase& c : kernel_cases({1024}, 0.25, limits)) {
        cases.push_back(c);
        for (const auto& other : c.in_codes) cases.push_back(*other);
    }
    return cases;
}

/// Every distinct kernel of the cases on one family. Returns how many are at fault.
int inspect_family(const IsaOptions& options, const std::string& family, const Json& earlier,
                   Json& document) {
    setenv("RADV_FORCE_FAMILY", family.c_str(), 1);
    vulkan::Device device(DeviceOptions{}, true);
    const std::string& driver = device.capabilities().info.driver;
    document["driver"] = driver;
    Json& kernels = document["families"][family] = Json::array();
    // Another version of the compiler: its figures say nothing of our changes.
    const bool comparable = earlier.value("driver", "") == driver;
    if (!earlier.empty() && !comparable)
        fmt::print("not compared: the file is of another driver\n");
    const Json before_all = comparable ? earlier.at("families") : Json::object();
    fmt::print("{}: {}, {}\n", family, device.capabilities().info.name,
               device.capabilities().info.driver);
    fmt::print("{:<52}{:>6}{:>7}{:>6}{:>7}{:>8}{:>7}{:>7}{:>7}{:>9}{:>9}\n", "kernel", "VGPRs",
               "spills", "waves", "LDS", "vector", "dot4", "f16x2", "fma", "latency", "1/thrpt");
    std::set<std::string> seen;
    int faults = 0;
    for (const KernelCase& c : inspected_cases(pipeline::device_limits(device))) {
        program::Program program(pipeline::device_limits(device));
        c.build(program);
        for (const program::Operation& operation : program.operations()) {
            const std::string name = kernel_name(operation);
            if (!seen.insert(name).second) continue;
            KernelCode code = compile(device, operation);
            const Mix mix = hot_loop(code.assembly);
            auto& s = code.statistics;
            const std::uint64_t spills = s["Spilled VGPRs"];
            const auto share = [&](int part) {
                return fmt::format("{:.0f} %", 100.0 * part / std::max(1, mix.vector));
            };
            fmt::print("{:<52}{:>6}{:>7}{:>6}{:>7}{:>8}{:>7}{:>7}{:>7}{:>9}{:>9}\n", name,
                       s["VGPRs"], spills, s["Subgroups per SIMD"], s["LDS size"], mix.vector,
                       share(mix.dot), share(mix.packed_half), share(mix.fused), s["Latency"],
                       s["Inverse Throughput"]);
            const Json* before = earlier_kernel(before_all, family, name);
            const auto was = [&](const char* what) {
                return before ? before->value(what, std::uint64_t{0}) : 0;
            };
            if (spills > was("spilled_vgprs")) {
                fmt::print("  spills {} registers, {} before\n", spills, was("spilled_vgprs"));
                ++faults;
            }
            if (before && s["Inverse Throughput"] * 100 > was("inverse_throughput") * 105) {
                fmt::print("  slower than before: inverse throughput {} was {}\n",
                           s["Inverse Throughput"], was("inverse_throughput"));
                ++faults;
            }
            Json& entry = kernels.emplace_back(Json{{"name", name},
                                                    {"case", c.name},
                                                    {"vgprs", s["VGPRs"]},
                                                    {"spilled_vgprs", spills},
                                                    {"spilled_sgprs", s["Spilled SGPRs"]},
                                                    {"waves", s["Subgroups per SIMD"]},
                                                    {"lds_bytes", s["LDS size"]},
                                                    {"latency", s["Latency"]},
                                                    {"inverse_throughput", s["Inverse Throughput"]},
                                                    {"hot_loop", mix_json(mix)}});
            if (name.starts_with("attention"))
                entry["products"] = attention_products(code.assembly);
            if (!options.assembly.empty()) {
                std::filesystem::create_directories(options.assembly / family);
                write_text(options.assembly / family / (name + ".s"), code.assembly);
            }
        }
    }
    document["predictions"][family] = predict_steps(device, family);
    return faults;
}

}  // namespace

bool run_isa(const IsaOptions& options) {
    if (!std::filesystem::exists(options.driver)) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("no RADV at '{}': install mesa-vulkan-drivers or name its file with "
                        "--driver",
                        options.driver.string()));
    }
    Json earlier = Json::object();
    if (!options.compare.empty()) {
        std::ifstream in(options.compare);
        earlier = Json::parse(in, nullptr, false);
        if (!earlier.is_object() || !earlier.contains("families")) {
            throw Error(ErrorCode::bad_file,
                        fmt::format("'{}' is no output of quantsparse-bench isa",
                                    options.compare.string()));
        }
    }
    setenv("VK_DRIVER_FILES", options.driver.c_str(), 1);
    setenv("VK_ICD_FILENAMES", options.driver.c_str(), 1);
    setenv("MESA_SHADER_CACHE_DISABLE", "true", 1);
    Json document{{"command", "quantsparse-bench isa"}};
    int faults = 0;
    for (const std::string& family : options.families) {
        faults += inspect_family(options, family, earlier, document);
    }
    if (!options.json.empty()) write_json(options.json, document);
    if (faults) fmt::print("{} kernels spill more registers or are slower than before\n", faults);
    return faults == 0;
}

}  // namespace quantsparse::bench
