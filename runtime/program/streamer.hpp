// Moves streamed groups (residency.hpp) between host memory and their slots on the device.
//
// The next group is copied while the present one is computed with: on a second queue where the
// device has one, else behind the computation. What operations have written goes back before a
// slot is filled anew.
#pragma once

#include <cstdint>
#include <span>
#include <vector>
#include <vulkan/vulkan_raii.hpp>

#include "program/plan.hpp"
#include "vulkan/arena.hpp"

namespace quantsparse::program {

class Streamer {
  public:
    /// `plan` and `device_memory` must outlive it. Allocates the host memory.
    Streamer(vulkan::Device& device, const Plan& plan, const vulkan::Arena& device_memory);
    ~Streamer();

    /// Blocks until all of `groups` are in their slots; `written` will be changed there by the
    /// submission that follows.
    void require(std::span<const std::uint32_t> groups, std::span<const std::uint32_t> written);
    /// Starts to bring `next` whose slots none of `busy` is in; returns at once.
    void prefetch(std::span<const std::uint32_t> next, std::span<const std::uint32_t> busy);

    /// The host's copy of all groups, up to date and at rest.
    vulkan::Arena& settled();
    /// The host's copy has changed: it will be fetched again.
    void invalidate(std::uint32_t group);

  private:
    struct Slot {
        std::uint32_t group = kNoGroup;
        bool changed = false;  ///< by the device
    };
    struct Copy {
        std::uint32_t group;
        bool to_host;
    };
    Slot& slot_of(std::uint32_t group) { return slots_[plan_.groups[group].slot]; }
    /// Brings the groups that are missing; not waited for.
    void fetch(std::span<const std::uint32_t> groups);
    void start(const std::vector<Copy>& copies);
    void wait();

    vulkan::Device& device_;
    const Plan& plan_;
    const vulkan::Arena& device_memory_;
    vulkan::Arena host_memory_;
    std::vector<Slot> slots_;
    std::vector<std::uint32_t> arriving_;  ///< groups of the copies under way
    bool under_way_ = false;
    vk::raii::CommandPool pool_{nullptr};
    vk::raii::CommandBuffer commands_{nullptr};
    vk::raii::Fence fence_{nullptr};
};

}  // namespace quantsparse::program
