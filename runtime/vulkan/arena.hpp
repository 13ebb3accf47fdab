// Device memory in a few large blocks, each one buffer; tensors are ranges of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>
#include <vulkan/vulkan_raii.hpp>

#include "vulkan/device.hpp"

namespace quantsparse::vulkan {

/// Blocks of storage memory and the way data gets in and out of them: mapped where the device
/// allows it, through a staging buffer elsewhere.
class Arena {
  public:
    /// In memory of the device, or in the host's where the device can copy from.
    enum class Home { device, host };

    /// Allocates one block per entry. Throws Error(out_of_memory). `force_staging` takes the path
    /// of a discrete GPU on any device, for the tests.
    Arena(Device& device, std::span<const std::uint64_t> block_bytes, Home home = Home::device,
          bool force_staging = false);

    vk::Buffer buffer(std::size_t block) const { return *blocks_[block].buffer; }
    void write(std::size_t block, std::uint64_t offset, std::span<const std::byte> data);
    void read(std::size_t block, std::uint64_t offset, std::span<std::byte> data);
    void clear(std::size_t block, std::uint64_t offset, std::uint64_t bytes);

    static constexpr std::uint64_t kStagingBytes = 16 << 20;

  private:
    struct Block {
        vk::raii::DeviceMemory memory{nullptr};
        vk::raii::Buffer buffer{nullptr};
        std::byte* mapped = nullptr;
    };
    Block allocate(std::uint64_t bytes, vk::BufferUsageFlags usage,
                   vk::MemoryPropertyFlags required, vk::MemoryPropertyFlags preferred);
    void ensure_staging();
    template <typename Record>
    void run(Record record);

    Device& device_;
    bool force_staging_;
    std::vector<Block> blocks_;
    Block staging_;
    vk::raii::CommandPool pool_{nullptr};
};

}  // namespace quantsparse::vulkan
