#include "isa_code.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "vulkan/pipeline_cache.hpp"

namespace quantsparse::bench {
namespace {

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

/// Lines without labels, and loops from a first line to one past the last.
struct Code {
    std::vector<std::string> lines;
    std::map<std::size_t, std::size_t> loops;
};

Code read_code(const std::string& assembly) {
    std::istringstream text(assembly);
    std::string line;
    Code code;
    std::map<std::string, std::size_t> labels;
    while (std::getline(text, line)) {
        const std::size_t begin = line.find_first_not_of(" \t");
        if (begin == std::string::npos) continue;
        line = line.substr(begin);
        if (begins(line, "BB") && line.find(':') != std::string::npos) {
            labels[line.substr(0, line.find(':'))] = code.lines.size();
            continue;
        }
        code.lines.push_back(line);
        const std::size_t target = line.find(" BB");
        if (begins(line, "s_") && line.find("branch") != std::string::npos &&
            target != std::string::npos) {
            const std::string name =
                line.substr(target + 1, line.find_first_of(" \t;", target + 1) - target - 1);
            const auto label = labels.find(name);
            if (label != labels.end()) code.loops[label->second] = code.lines.size();
        }
    }
    return code;
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

}  // namespace

std::string kernel_name(const program::Operation& operation) {
    std::string name = shaders::shader_code(operation.shader).name;
    for (const std::uint32_t constant : operation.specialization) {
        name += fmt::format(".{}", constant);
    }
    return name;
}

KernelCode compile(vulkan::Device& device, const program::Operation& operation) {
    std::vector<vk::DescriptorType> types;
    for (const auto& binding : operation.bindings) {
        types.push_back(binding.texels ? vk::DescriptorType::eUniformTexelBuffer
                                       : vk::DescriptorType::eStorageBuffer);
    }
    return inspect(device,
                   device.pipelines().get(operation.shader, operation.specialization, types,
                                          static_cast<std::uint32_t>(operation.push.size())));
}

std::vector<Mix> innermost_loops(const std::string& assembly) {
    const Code code = read_code(assembly);
    std::vector<Mix> mixes;
    for (const auto& [first, last] : code.loops) {
        const auto inside = [&, begin = first, end = last](const auto& other) {
            return other.first > begin && other.second < end;
        };
        if (std::any_of(code.loops.begin(), code.loops.end(), inside)) continue;
        Mix& mix = mixes.emplace_back();
        for (std::size_t i = first; i < last; ++i) count(code.lines[i], mix);
    }
    return mixes;
}

Mix hot_loop(const std::string& assembly) {
    Mix best;
    for (const Mix& mix : innermost_loops(assembly)) {
        if (mix.products() > best.products() ||
            (mix.products() == best.products() && mix.all > best.all)) {
            best = mix;
        }
    }
    return best;
}

double assumed_products(const std::string& assembly) {
    constexpr double kTurns = 8;
    const Code code = read_code(assembly);
    double sum = 0;
    for (std::size_t i = 0; i < code.lines.size(); ++i) {
        Mix mix;
        count(code.lines[i], mix);
        double turns = 1;
        for (const auto& [first, last] : code.loops) {
            if (i >= first && i < last) turns *= kTurns;
        }
        sum += turns * (8 * mix.dot + 2 * mix.fused + 4 * mix.packed_half);
    }
    return sum;
}

}  // namespace quantsparse::bench
