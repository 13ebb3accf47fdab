#include "vulkan/pipeline_cache.hpp"

#include <unistd.h>

#include <fmt/format.h>
#include <fstream>
#include <iterator>

#include "quantsparse/error.hpp"
#include "vulkan/unroll.hpp"

namespace quantsparse::vulkan {
namespace {

std::vector<char> read_file(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace

std::string cache_file_name(const char* kind, const vk::PhysicalDeviceProperties& properties,
                            const char* extension) {
    std::string uuid;
    for (const auto byte : properties.pipelineCacheUUID) uuid += fmt::format("{:02x}", byte);
    return fmt::format("{}-{:04x}-{:04x}-{:08x}-{}.{}", kind, properties.vendorID,
                       properties.deviceID, properties.driverVersion, uuid, extension);
}

PipelineCache::PipelineCache(const vk::raii::PhysicalDevice& physical,
                             const vk::raii::Device& device, std::uint32_t subgroup_size,
                             bool unrolls, const std::filesystem::path& directory,
                             vk::PipelineCreateFlags flags)
    : device_(device), subgroup_size_(subgroup_size), unrolls_(unrolls), flags_(flags) {
    std::vector<char> data;
    if (!directory.empty()) {
        file_ = directory / cache_file_name("pipelines", physical.getProperties(), "bin");
        data = read_file(file_);
    }
    try {
        cache_ = vk::raii::PipelineCache(device_,
                                         vk::PipelineCacheCreateInfo({}, data.size(), data.data()));
    } catch (const vk::SystemError&) {
        cache_ = vk::raii::PipelineCache(device_, vk::PipelineCacheCreateInfo());
    }
}

PipelineCache::~PipelineCache() {
    if (!file_.empty() && !pipelines_.empty()) save();
}

void PipelineCache::save() const {
    // Beside, then renamed: two processes at once leave one whole file. Failure costs only time
    // later.
    try {
        const auto data = cache_.getData();
        std::error_code ignored;
        if (std::filesystem::file_size(file_, ignored) == data.size()) return;
        std::filesystem::create_directories(file_.parent_path(), ignored);
        const std::filesystem::path temporary =
            file_.string() + fmt::format(".{}.tmp", static_cast<long>(::getpid()));
        {
            std::ofstream out(temporary, std::ios::binary);
            out.write(reinterpret_cast<const char*>(data.data()),
                      static_cast<std::streamsize>(data.size()));
            if (!out) {
                std::filesystem::remove(temporary, ignored);
                return;
            }
        }
        std::filesystem::rename(temporary, file_, ignored);
        if (ignored) std::filesystem::remove(temporary, ignored);
    } catch (const std::exception&) {
    }
}

const Pipeline& PipelineCache::get(shaders::ShaderId shader,
                                   const std::vector<std::uint32_t>& specialization,
                                   const std::vector<vk::DescriptorType>& types,
                                   std::uint32_t push_bytes) {
    auto& slot = pipelines_[{shader, specialization, types}];
    if (slot) return *slot;
    const shaders::ShaderCode code = shaders::shader_code(shader);
    try {
        auto made = std::make_unique<Pipeline>();
        std::vector<vk::DescriptorSetLayoutBinding> bindings;
        for (std::uint32_t i = 0; i < types.size(); ++i) {
            bindings.emplace_back(i, types[i], 1, vk::ShaderStageFlagBits::eCompute);
        }
        made->set_layout =
            vk::raii::DescriptorSetLayout(device_, vk::DescriptorSetLayoutCreateInfo({}, bindings));
        const vk::PushConstantRange push(vk::ShaderStageFlagBits::eCompute, 0, push_bytes);
        made->layout = vk::raii::PipelineLayout(
            device_, vk::PipelineLayoutCreateInfo({}, *made->set_layout, push));
        const std::vector<std::uint32_t> flat =
            unrolls_ ? unrolled(code.words, specialization) : std::vector<std::uint32_t>{};
        const std::span<const std::uint32_t> words = flat.empty() ? code.words : flat;
        const vk::raii::ShaderModule module(
            device_, vk::ShaderModuleCreateInfo({}, words.size_bytes(), words.data()));
        std::vector<vk::SpecializationMapEntry> entries;
        for (std::uint32_t i = 0; i < specialization.size(); ++i) {
            entries.emplace_back(i, i * 4, 4);
        }
        const vk::SpecializationInfo constants(static_cast<std::uint32_t>(entries.size()),
                                               entries.data(), specialization.size() * 4,
                                               specialization.data());
        vk::PipelineShaderStageCreateInfo stage({}, vk::ShaderStageFlagBits::eCompute, *module,
                                                "main", &constants);
        const vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo size(subgroup_size_);
        if (code.full_subgroups) {
            stage.pNext = &size;
            stage.flags = vk::PipelineShaderStageCreateFlagBits::eRequireFullSubgroups;
        }
        // Dispatches are sliced with vkCmdDispatchBase to bound the length of a submission.
        made->pipeline = vk::raii::Pipeline(
            device_, cache_,
            vk::ComputePipelineCreateInfo(flags_ | vk::PipelineCreateFlagBits::eDispatchBase, stage,
                                          *made->layout));
        slot = std::move(made);
    } catch (const vk::SystemError& error) {
        throw Error(ErrorCode::device, fmt::format("the driver could not compile kernel {}: {}",
                                                   code.name, error.what()));
    }
    return *slot;
}

}  // namespace quantsparse::vulkan
