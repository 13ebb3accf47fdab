// What a physical device has, read once, and the public DeviceInfo made from it.
#pragma once

#include <vector>
#include <vulkan/vulkan_raii.hpp>

#include "quantsparse/device.hpp"
#include "vulkan/quirks.hpp"

namespace quantsparse::vulkan {

struct Capabilities {
    DeviceInfo info;
    Quirks quirks;
    std::uint32_t queue_family = 0;
    std::uint32_t timestamp_valid_bits = 0;
    double timestamp_period_ns = 0;
    std::uint64_t storage_alignment = 256;  ///< minStorageBufferOffsetAlignment
    bool has_dot_extension = false;         ///< VK_KHR_shader_integer_dot_product
    bool has_memory_budget = false;         ///< VK_EXT_memory_budget
    bool has_matrix_units = false;  ///< all the matrix tier needs: extensions, features, shapes
};

/// Reads everything; never throws for a device that merely lacks something (info.usable,
/// info.note).
Capabilities read_capabilities(const vk::raii::Instance& instance,
                               const vk::raii::PhysicalDevice& physical, int index);

/// Marks the device that is taken when none is asked for and says why in its note: a discrete GPU
/// before an integrated one before a virtual one; CPU devices only when there is nothing else.
void choose_default(std::vector<DeviceInfo>& devices);

}  // namespace quantsparse::vulkan
