#include "vulkan/arena.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cstring>

#include "quantsparse/error.hpp"

namespace quantsparse::vulkan {
namespace {

using Memory = vk::MemoryPropertyFlagBits;
constexpr vk::MemoryPropertyFlags kMappable = Memory::eHostVisible | Memory::eHostCoherent;

}  // namespace

Arena::Arena(Device& device, std::span<const std::uint64_t> block_bytes, Home home,
             bool force_staging)
    : device_(device), force_staging_(force_staging) {
    pool_ = vk::raii::CommandPool(
        device.logical(), vk::CommandPoolCreateInfo(vk::CommandPoolCreateFlagBits::eTransient,
                                                    device.capabilities().queue_family));
    const vk::BufferUsageFlags usage =
        vk::BufferUsageFlagBits::eStorageBuffer | vk::BufferUsageFlagBits::eUniformTexelBuffer |
        vk::BufferUsageFlagBits::eTransferSrc | vk::BufferUsageFlagBits::eTransferDst;
    for (const std::uint64_t bytes : block_bytes) {
        if (home == Home::host) {
            try {
                blocks_.push_back(allocate(bytes, usage, kMappable, Memory::eHostCached));
            } catch (const Error& error) {
                throw Error(
                    ErrorCode::out_of_memory,
                    fmt::format("no host memory to stream from: {}, keep low-rank residuals "
                                "or raise the memory limit",
                                error.what()));
            }
            continue;
        }
        // Mappable device-local memory is scarce on discrete cards without a resizable BAR, so it
        // is asked for only where it is the ordinary kind (integrated and CPU devices).
        const std::string& kind = device.capabilities().info.kind;
        const bool unified = kind == "integrated" || kind == "cpu";
        blocks_.push_back(
            allocate(bytes, usage, Memory::eDeviceLocal,
                     unified && !force_staging ? kMappable : vk::MemoryPropertyFlags()));
    }
}

Arena::Block Arena::allocate(std::uint64_t bytes, vk::BufferUsageFlags usage,
                             vk::MemoryPropertyFlags required, vk::MemoryPropertyFlags preferred) {
    const auto& logical = device_.logical();
    try {
        Block block;
        block.buffer = vk::raii::Buffer(logical, vk::BufferCreateInfo({}, bytes, usage));
        const auto needs = block.buffer.getMemoryRequirements();
        const auto memory = device_.physical().getMemoryProperties();
        int chosen = -1;
        for (const auto wanted : {required | preferred, required}) {
            // What the host is to hold stays out of the device's memory where there is a choice.
            for (const bool anywhere : {false, true}) {
                for (std::uint32_t i = 0; i < memory.memoryTypeCount && chosen < 0; ++i) {
                    const auto flags = memory.memoryTypes[i].propertyFlags;
                    const bool elsewhere = !(wanted & Memory::eDeviceLocal) &&
                                           (flags & Memory::eDeviceLocal) && !anywhere;
                    if ((needs.memoryTypeBits >> i & 1) && (flags & wanted) == wanted &&
                        !elsewhere) {
                        chosen = static_cast<int>(i);
                    }
                }
            }
        }
        if (chosen < 0) throw Error(ErrorCode::device, "the device has no memory type for buffers");
        block.memory = vk::raii::DeviceMemory(
            logical, vk::MemoryAllocateInfo(needs.size, static_cast<std::uint32_t>(chosen)));
        block.buffer.bindMemory(*block.memory, 0);
        const auto flags = memory.memoryTypes[static_cast<std::uint32_t>(chosen)].propertyFlags;
        if ((flags & kMappable) == kMappable &&
            !(force_staging_ && (required & Memory::eDeviceLocal))) {
            block.mapped = static_cast<std::byte*>(block.memory.mapMemory(0, VK_WHOLE_SIZE));
        }
        return block;
    } catch (const vk::SystemError& error) {
        throw Error(
            ErrorCode::out_of_memory,
            fmt::format("the device could not allocate {:.1f} MiB ({}): lower the size, the "
                        "frames or the memory limit",
                        static_cast<double>(bytes) / (1 << 20), error.what()));
    }
}

void Arena::ensure_staging() {
    if (*staging_.buffer) return;
    staging_ =
        allocate(kStagingBytes,
                 vk::BufferUsageFlagBits::eTransferSrc | vk::BufferUsageFlagBits::eTransferDst,
                 kMappable, {});
}

template <typename Record>
void Arena::run(Record record) {
    vk::raii::CommandBuffers buffers(
        device_.logical(),
        vk::CommandBufferAllocateInfo(*pool_, vk::CommandBufferLevel::ePrimary, 1));
    const vk::raii::CommandBuffer& commands = buffers.front();
    commands.begin(vk::CommandBufferBeginInfo(vk::CommandBufferUsageFlagBits::eOneTimeSubmit));
    const vk::MemoryBarrier everything(
        vk::AccessFlagBits::eMemoryWrite | vk::AccessFlagBits::eMemoryRead,
        vk::AccessFlagBits::eMemoryWrite | vk::AccessFlagBits::eMemoryRead);
    const auto stages = vk::PipelineStageFlagBits::eAllCommands;
    commands.pipelineBarrier(stages, stages, {}, everything, {}, {});
    record(commands);
    const vk::MemoryBarrier to_host(vk::AccessFlagBits::eTransferWrite,
                                    vk::AccessFlagBits::eHostRead);
    commands.pipelineBarrier(vk::PipelineStageFlagBits::eTransfer, vk::PipelineStageFlagBits::eHost,
                             {}, to_host, {}, {});
    commands.end();
    device_.submit_and_wait(commands, "a memory transfer");
}

void Arena::write(std::size_t block, std::uint64_t offset, std::span<const std::byte> data) {
    if (blocks_[block].mapped) {
        std::memcpy(blocks_[block].mapped + offset, data.data(), data.size());
        return;
    }
    ensure_staging();
    for (std::uint64_t done = 0; done < data.size(); done += kStagingBytes) {
        const std::uint64_t bytes = std::min<std::uint64_t>(kStagingBytes, data.size() - done);
        std::memcpy(staging_.mapped, data.data() + done, bytes);
        run([&](const vk::raii::CommandBuffer& commands) {
            commands.copyBuffer(*staging_.buffer, buffer(block),
                                vk::BufferCopy(0, offset + done, bytes));
        });
    }
}

void Arena::read(std::size_t block, std::uint64_t offset, std::span<std::byte> data) {
    if (blocks_[block].mapped) {
        std::memcpy(data.data(), blocks_[block].mapped + offset, data.size());
        return;
    }
    ensure_staging();
    for (std::uint64_t done = 0; done < data.size(); done += kStagingBytes) {
        const std::uint64_t bytes = std::min<std::uint64_t>(kStagingBytes, data.size() - done);
        run([&](const vk::raii::CommandBuffer& commands) {
            commands.copyBuffer(buffer(block), *staging_.buffer,
                                vk::BufferCopy(offset + done, 0, bytes));
        });
        std::memcpy(data.data() + done, staging_.mapped, bytes);
    }
}

void Arena::clear(std::size_t block, std::uint64_t offset, std::uint64_t bytes) {
    if (blocks_[block].mapped) {
        std::memset(blocks_[block].mapped + offset, 0, bytes);
        return;
    }
    run([&](const vk::raii::CommandBuffer& commands) {
        commands.fillBuffer(buffer(block), offset, bytes, 0);
    });
}

}  // namespace quantsparse::vulkan
