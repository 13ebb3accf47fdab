#include "program/streamer.hpp"

#include <algorithm>
#include <limits>

#include "quantsparse/error.hpp"
#include "vulkan/device.hpp"

namespace quantsparse::program {
namespace {

bool holds(std::span<const std::uint32_t> groups, std::uint32_t group) {
    return std::find(groups.begin(), groups.end(), group) != groups.end();
}

void barrier(const vk::raii::CommandBuffer& commands) {
    const vk::MemoryBarrier everything(
        vk::AccessFlagBits::eMemoryWrite,
        vk::AccessFlagBits::eMemoryRead | vk::AccessFlagBits::eMemoryWrite);
    commands.pipelineBarrier(vk::PipelineStageFlagBits::eAllCommands,
                             vk::PipelineStageFlagBits::eAllCommands, {}, everything, {}, {});
}

}  // namespace

Streamer::Streamer(vulkan::Device& device, const Plan& plan, const vulkan::Arena& device_memory)
    : device_(device),
      plan_(plan),
      device_memory_(device_memory),
      host_memory_(device, plan.host_block_bytes, vulkan::Arena::Home::host),
      slots_(plan.slots) {
    pool_ = vk::raii::CommandPool(
        device.logical(),
        vk::CommandPoolCreateInfo(vk::CommandPoolCreateFlagBits::eResetCommandBuffer,
                                  device.capabilities().queue_family));
    commands_ = std::move(
        vk::raii::CommandBuffers(device.logical(), vk::CommandBufferAllocateInfo(
                                                       *pool_, vk::CommandBufferLevel::ePrimary, 1))
            .front());
    fence_ = vk::raii::Fence(device.logical(), vk::FenceCreateInfo());
}

Streamer::~Streamer() {
    try {
        wait();
    } catch (const std::exception&) {  // the device is lost: nothing is under way
    }
}

void Streamer::require(std::span<const std::uint32_t> groups,
                       std::span<const std::uint32_t> written) {
    fetch(groups);
    if (std::any_of(groups.begin(), groups.end(),
                    [&](std::uint32_t group) { return holds(arriving_, group); })) {
        wait();
    }
    for (const std::uint32_t group : written) slot_of(group).changed = true;
}

void Streamer::prefetch(std::span<const std::uint32_t> next, std::span<const std::uint32_t> busy) {
    std::vector<std::uint32_t> wanted;
    for (const std::uint32_t group : next) {
        const bool taken = std::any_of(busy.begin(), busy.end(), [&](std::uint32_t other) {
            return plan_.groups[other].slot == plan_.groups[group].slot;
        });
        if (!taken) wanted.push_back(group);
    }
    fetch(wanted);
}

vulkan::Arena& Streamer::settled() {
    std::vector<Copy> copies;
    for (Slot& slot : slots_) {
        if (slot.group != kNoGroup && slot.changed) copies.push_back({slot.group, true});
        slot.changed = false;
    }
    if (!copies.empty()) start(copies);
    wait();
    return host_memory_;
}

void Streamer::invalidate(std::uint32_t group) {
    Slot& slot = slot_of(group);
    if (slot.group == group) slot = {};
}

void Streamer::fetch(std::span<const std::uint32_t> groups) {
    std::vector<Copy> copies;
    for (const std::uint32_t group : groups) {
        Slot& slot = slot_of(group);
        if (slot.group == group) continue;
        if (slot.group != kNoGroup && slot.changed) copies.push_back({slot.group, true});
        copies.push_back({group, false});
        slot = {group, false};
    }
    if (!copies.empty()) start(copies);
}

void Streamer::start(const std::vector<Copy>& copies) {
    wait();
    commands_.reset();
    commands_.begin(vk::CommandBufferBeginInfo(vk::CommandBufferUsageFlagBits::eOneTimeSubmit));
    // What goes back was written by an earlier submission, and is read before its place is filled.
    barrier(commands_);
    for (const bool to_host : {true, false}) {
        for (const Copy& copy : copies) {
            if (copy.to_host != to_host) continue;
            const StreamPlace& place = plan_.groups[copy.group];
            const vk::Buffer slot = device_memory_.buffer(place.device.block);
            const vk::Buffer host = host_memory_.buffer(place.host.block);
            if (to_host) {
                commands_.copyBuffer(
                    slot, host,
                    vk::BufferCopy(place.device.offset, place.host.offset, place.bytes));
            } else {
                commands_.copyBuffer(
                    host, slot,
                    vk::BufferCopy(place.host.offset, place.device.offset, place.bytes));
                arriving_.push_back(copy.group);
            }
        }
        if (to_host) barrier(commands_);
    }
    const vk::MemoryBarrier to_host(vk::AccessFlagBits::eTransferWrite,
                                    vk::AccessFlagBits::eHostRead);
    commands_.pipelineBarrier(vk::PipelineStageFlagBits::eTransfer,
                              vk::PipelineStageFlagBits::eHost, {}, to_host, {}, {});
    commands_.end();
    device_.transfer_queue().submit(vk::SubmitInfo({}, {}, *commands_), *fence_);
    under_way_ = true;
}

void Streamer::wait() {
    if (!under_way_) return;
    under_way_ = false;
    arriving_.clear();
    const auto forever = std::numeric_limits<std::uint64_t>::max();
    if (device_.logical().waitForFences(*fence_, true, forever) != vk::Result::eSuccess) {
        throw Error(ErrorCode::device, "the device stopped answering during a memory transfer");
    }
    device_.logical().resetFences(*fence_);
}

}  // namespace quantsparse::program
