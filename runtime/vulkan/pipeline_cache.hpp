// Compute pipelines made on demand and kept, in memory for the run and on disk between runs.
//
// A pipeline is a shader variant with its specialisation constants and the types of its bindings.
// Bindings are storage or uniform texel buffers of set 0, as many as the caller says; push
// constants are at most 128 bytes. The file on disk is keyed by the driver's own cache UUID and
// version, and anything wrong with it is a miss, never an error.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <shaders/registry.hpp>
#include <string>
#include <tuple>
#include <vector>
#include <vulkan/vulkan_raii.hpp>

namespace quantsparse::vulkan {

struct Pipeline {
    vk::raii::DescriptorSetLayout set_layout{nullptr};
    vk::raii::PipelineLayout layout{nullptr};
    vk::raii::Pipeline pipeline{nullptr};
};

/// KIND-VENDOR-DEVICE-DRIVER-UUID.EXTENSION: says all that makes what is kept of a device stale.
std::string cache_file_name(const char* kind, const vk::PhysicalDeviceProperties& properties,
                            const char* extension);

class PipelineCache {
  public:
    PipelineCache(const vk::raii::PhysicalDevice& physical, const vk::raii::Device& device,
                  std::uint32_t subgroup_size, bool unrolls, const std::filesystem::path& directory,
                  vk::PipelineCreateFlags flags = {});
    ~PipelineCache();  ///< writes the file when pipelines were added

    /// `specialization[i]` is the value of constant id i. The reference stays valid.
    const Pipeline& get(shaders::ShaderId shader, const std::vector<std::uint32_t>& specialization,
                        const std::vector<vk::DescriptorType>& bindings, std::uint32_t push_bytes);

  private:
    void save() const;

    using Key =
        std::tuple<shaders::ShaderId, std::vector<std::uint32_t>, std::vector<vk::DescriptorType>>;
    const vk::raii::Device& device_;
    std::uint32_t subgroup_size_;
    bool unrolls_;  ///< Quirks::leaves_loops_rolled
    vk::PipelineCreateFlags flags_;
    std::filesystem::path file_;
    vk::raii::PipelineCache cache_{nullptr};
    std::map<Key, std::unique_ptr<Pipeline>> pipelines_;
};

}  // namespace quantsparse::vulkan
