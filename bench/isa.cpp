#include "isa.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "kernel_cases.hpp"
#include "pipeline/stages.hpp"
#include "quantsparse/error.hpp"
#include "report.hpp"
#include "vulkan/pipeline_cache.hpp"

namespace quantsparse::bench {
namespace {

/// What the driver says of one kernel.
struct KernelCode {
    std::map<std::string, std::uint64_t> statistics;
    std::string assembly;
};

/// Instructions of a loop by class.
struct Mix {
    int vector = 0;
    int dot = 0;
    int matrix = 0;       ///< v_wmma
    int packed_half = 0;  ///< v_pk_*_f16
    int fused = 0;        ///< multiply-adds in fp32, a dual one counts twice
    int memory = 0;       ///< global, buffer, scratch and LDS
    int all = 0;
};

bool begins(const std::string& text, const char* with) {
    return text.rfind(with, 0) == 0;
}

void count(const std::string& line, Mix& mix) {
    std::istringstream words(line);
    std::string word;
    bool first = true;
    while (words >> word && word[0] != ';') {
        // A dual instruction names its second half after "::".
        const bool mnemonic = first || begins(word, "v_dual_");
        if (!mnemonic) continue;
        if (first) ++mix.all;
        first = false;
        if (begins(word, "v_")) ++mix.vector;
        if (begins(word, "v_dot4")) ++mix.dot;
        if (begins(word, "v_wmma")) ++mix.matrix;
        if (begins(word, "v_pk_") && word.find("f16") != std::string::npos) ++mix.packed_half;
        if (word.find("fma") != std::string::npos || word.find("v_mad") == 0) ++mix.fused;
        for (const char* kind : {"global_", "buffer_", "scratch_", "ds_", "flat_", "image_"}) {
            if (begins(word, kind)) {
                ++mix.memory;
                break;
            }
        }
    }
}

/// The innermost loop with the most products, or the longest where there are none: from a block's
/// label to the last branch back to it.
Mix hot_loop(const std::string& assembly) {
    std::istringstream lines(assembly);
    std::string line;
    std::vector<std::string> code;
    std::map<std::string, std::size_t> labels;
    std::map<std::size_t, std::size_t> loops;  // first line to one past the last
    while (std::getline(lines, line)) {
        const std::size_t begin = line.find_first_not_of(" \t");
        if (begin == std::string::npos) continue;
        line = line.substr(begin);
        if (begins(line, "BB") && line.find(':') != std::string::npos) {
            labels[line.substr(0, line.find(':'))] = code.size();
            continue;
        }
        code.push_back(line);
        const std::size_t target = line.find(" BB");
        if (begins(line, "s_") && line.find("branch") != std::string::npos &&
            target != std::string::npos) {
            const std::string name =
                line.substr(target + 1, line.find_first_of(" \t;", target + 1) - target - 1);
            const auto label = labels.find(name);
            if (label != labels.end()) loops[label->second] = code.size();
        }
    }
    Mix best;
    for (const auto& [first, last] : loops) {
        const auto inside = [&, begin = first, end = last](const auto& other) {
            return other.first > begin && other.second < end;
        };
        if (std::any_of(loops.begin(), loops.end(), inside)) continue;
        Mix mix;
        for (std::size_t i = first; i < last; ++i) count(code[i], mix);
        const auto products = [](const Mix& m) {
            return m.dot + m.matrix + m.packed_half + m.fused;
        };
        if (products(mix) > products(best) ||
            (products(mix) == products(best) && mix.all > best.all)) {
            best = mix;
        }
    }
    return best;
}

KernelCode inspect(const vulkan::Device& device, const vulkan::Pipeline& pipeline) {
    KernelCode code;
    const auto& logical = device.logical();
    const auto executables =
        logical.getPipelineExecutablePropertiesKHR(vk::PipelineInfoKHR(*pipeline.pipeline));
    for (std::uint32_t i = 0; i < executables.size(); ++i) {
        const vk::PipelineExecutableInfoKHR info(*pipeline.pipeline, i);
        for (const auto& statistic : logical.getPipelineExecutableStatisticsKHR(info)) {
            if (statistic.format == vk::PipelineExecutableStatisticFormatKHR::eUint64) {
                code.statistics[statistic.name.data()] = statistic.value.u64;
            }
        }
        // Twice: sizes, then texts.
        auto texts = logical.getPipelineExecutableInternalRepresentationsKHR(info);
        std::vector<std::string> stores;
        for (const auto& text : texts) stores.emplace_back(text.dataSize, '\0');
        for (std::size_t t = 0; t < texts.size(); ++t) texts[t].pData = stores[t].data();
        std::uint32_t found = static_cast<std::uint32_t>(texts.size());
        const VkPipelineExecutableInfoKHR& raw = info;
        logical.getDispatcher()->vkGetPipelineExecutableInternalRepresentationsKHR(
            static_cast<VkDevice>(*logical), &raw, &found,
            reinterpret_cast<VkPipelineExecutableInternalRepresentationKHR*>(texts.data()));
        for (std::size_t t = 0; t < texts.size(); ++t) {
            if (std::string(texts[t].name.data()).find("ssembly") != std::string::npos) {
                code.assembly = stores[t].c_str();
            }
        }
    }
    return code;
}

std::string kernel_name(const program::Operation& operation) {
    std::string name = shaders::shader_code(operation.shader).name;
    for (const std::uint32_t constant : operation.specialization) {
        name += fmt::format(".{}", constant);
    }
    return name;
}

/// Of the earlier run, or nothing.
const Json* earlier_kernel(const Json& earlier, const std::string& family,
                           const std::string& name) {
    if (!earlier.contains(family)) return nullptr;
    for (const Json& kernel : earlier[family]) {
        if (kernel.value("name", "") == name) return &kernel;
    }
    return nullptr;
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
    for (const KernelCase& c : kernel_cases({1024}, 0.25, pipeline::device_limits(device))) {
        program::Program program(pipeline::device_limits(device));
        c.build(program);
        for (const program::Operation& operation : program.operations()) {
            const std::string name = kernel_name(operation);
            if (!seen.insert(name).second) continue;
            std::vector<vk::DescriptorType> types;
            for (const auto& binding : operation.bindings) {
                types.push_back(binding.texels ? vk::DescriptorType::eUniformTexelBuffer
                                               : vk::DescriptorType::eStorageBuffer);
            }
            const auto& pipeline =
                device.pipelines().get(operation.shader, operation.specialization, types,
                                       static_cast<std::uint32_t>(operation.push.size()));
            KernelCode code = inspect(device, pipeline);
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
            kernels.push_back({{"name", name},
                               {"case", c.name},
                               {"vgprs", s["VGPRs"]},
                               {"spilled_vgprs", spills},
                               {"spilled_sgprs", s["Spilled SGPRs"]},
                               {"waves", s["Subgroups per SIMD"]},
                               {"lds_bytes", s["LDS size"]},
                               {"latency", s["Latency"]},
                               {"inverse_throughput", s["Inverse Throughput"]},
                               {"hot_loop",
                                {{"instructions", mix.all},
                                 {"vector", mix.vector},
                                 {"dot4", mix.dot},
                                 {"wmma", mix.matrix},
                                 {"packed_half", mix.packed_half},
                                 {"fma", mix.fused},
                                 {"memory", mix.memory}}}});
            if (!options.assembly.empty()) {
                std::filesystem::create_directories(options.assembly / family);
                write_text(options.assembly / family / (name + ".s"), code.assembly);
            }
        }
    }
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
