// Logical device and queue. This folder knows Vulkan and nothing of models; everything
// above it uses Program (program/program.hpp) instead.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vulkan/vulkan_raii.hpp>

#include "quantsparse/device.hpp"
#include "quantsparse/tuning.hpp"
#include "vulkan/capabilities.hpp"
#include "vulkan/instance.hpp"

namespace quantsparse::vulkan {

class PipelineCache;

class Device {
  public:
    /// `inspect`: pipelines keep the driver's statistics and assembly where it gives them
    /// (VK_KHR_pipeline_executable_properties), and none are taken from the disk.
    explicit Device(const DeviceOptions& options, bool inspect = false);
    ~Device();
    Device(const Device&) = delete;

    const Capabilities& capabilities() const { return capabilities_; }
    Arithmetic arithmetic() const { return arithmetic_; }
    /// What tune() found; nothing where it did not run or is to be ignored. Its tiles are of its
    /// own tier.
    const std::optional<Tuning>& tuning() const { return tuning_; }
    /// Where it is kept; empty when there is no cache directory.
    const std::filesystem::path& tuning_file() const { return tuning_file_; }
    /// Bytes the next allocations may take: the option's limit, else the driver's budget, else the
    /// heap.
    std::uint64_t memory_budget() const;
    int validation_messages() const { return validation_.count; }

    const vk::raii::PhysicalDevice& physical() const { return physical_; }
    const vk::raii::Device& logical() const { return device_; }
    const vk::raii::Queue& queue() const { return queue_; }
    PipelineCache& pipelines() { return *pipelines_; }

    /// For copies beside the computation: a second queue of the same family, where there is one.
    const vk::raii::Queue& transfer_queue() const {
        return *transfer_queue_ ? transfer_queue_ : queue_;
    }

    /// Submits; wait() blocks until it is done. Throw Error(device) naming `operation` when the
    /// device is lost.
    void submit(const vk::raii::CommandBuffer& commands, const char* operation);
    void wait(const char* operation);
    /// Submits and waits. Throws Error(device) naming `operation` when the device is lost.
    void submit_and_wait(const vk::raii::CommandBuffer& commands, const char* operation);

  private:
    void create_logical_device(bool inspect);
    Arithmetic chosen_arithmetic(const DeviceOptions& options) const;
    /// The tier where it may be chosen without being asked for, else `automatic`.
    Arithmetic offered(Arithmetic tier, const DeviceOptions& options) const;

    ValidationLog validation_;
    Instance instance_;
    vk::raii::PhysicalDevice physical_{nullptr};
    Capabilities capabilities_;
    Arithmetic arithmetic_ = Arithmetic::portable;
    std::filesystem::path tuning_file_;
    std::optional<Tuning> tuning_;
    std::uint64_t memory_limit_ = 0;
    vk::raii::Device device_{nullptr};
    vk::raii::Queue queue_{nullptr};
    vk::raii::Queue transfer_queue_{nullptr};
    vk::raii::Fence fence_{nullptr};
    std::unique_ptr<PipelineCache> pipelines_;
};

}  // namespace quantsparse::vulkan
