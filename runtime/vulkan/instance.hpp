// The way to the physical devices: loader, instance, validation layers, and which device is meant.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>
#include <vulkan/vulkan_raii.hpp>

#include "quantsparse/device.hpp"

namespace quantsparse::vulkan {

/// What the validation layers have said. Stays where it is while an instance points to it.
struct ValidationLog {
    std::function<void(const std::string&)> on_message;
    std::atomic<int> count{0};
};

/// Members in the order in which they depend on each other.
struct Instance {
    vk::raii::Context context;
    vk::raii::Instance instance{nullptr};
    vk::raii::DebugUtilsMessengerEXT messenger{nullptr};
};

/// `log`: turns validation on. Throws Error(device) where there is no driver, Error(unsupported)
/// where the layer is not installed.
Instance open_instance(ValidationLog* log = nullptr);

/// All devices in the loader's order. Throws Error(device) where there is none.
std::vector<vk::raii::PhysicalDevice> physical_devices(const Instance& instance);
std::vector<DeviceInfo> read_all(const Instance& instance);

/// The index of the device that `selector` means (DeviceOptions). Throws Error(device).
int select(const std::vector<DeviceInfo>& devices, const std::string& selector);

}  // namespace quantsparse::vulkan
