#include "vulkan/instance.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cctype>
#include <cstring>

#include "quantsparse/error.hpp"
#include "vulkan/capabilities.hpp"

namespace quantsparse::vulkan {
namespace {

constexpr const char* kValidationLayer = "VK_LAYER_KHRONOS_validation";

VKAPI_ATTR VkBool32 VKAPI_CALL
on_validation_message(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
                      const VkDebugUtilsMessengerCallbackDataEXT* data, void* user) {
    auto& log = *static_cast<ValidationLog*>(user);
    ++log.count;
    if (log.on_message) log.on_message(data->pMessage);
    return VK_FALSE;
}

[[noreturn]] void throw_no_driver(const std::string& reason) {
    throw Error(ErrorCode::device,
                fmt::format("no Vulkan driver found ({}): install your GPU's Vulkan driver, or "
                            "mesa-vulkan-drivers for the CPU implementation",
                            reason));
}

vk::raii::Context open_loader() {
    try {
        return vk::raii::Context();
    } catch (const std::exception& error) {  // libvulkan itself is missing
        throw_no_driver(error.what());
    }
}

void require_validation_layer(const vk::raii::Context& context) {
    for (const auto& layer : context.enumerateInstanceLayerProperties()) {
        if (!std::strcmp(layer.layerName.data(), kValidationLayer)) return;
    }
    throw Error(ErrorCode::unsupported,
                "validation was asked for but the Khronos validation layer is not installed: "
                "install vulkan-validationlayers",
                "validation");
}

vk::raii::Instance create_instance(const vk::raii::Context& context, bool validation) {
    const vk::ApplicationInfo application("quantsparse", 1, "quantsparse", 1, VK_API_VERSION_1_2);
    std::vector<const char*> layers, extensions;
    const auto synchronization = vk::ValidationFeatureEnableEXT::eSynchronizationValidation;
    const vk::ValidationFeaturesEXT features(synchronization);
    if (validation) {
        require_validation_layer(context);
        layers.push_back(kValidationLayer);
        extensions.push_back(VK_EXT_DEBUG_UTILS_EXTENSION_NAME);
    }
    vk::InstanceCreateInfo info({}, &application, layers, extensions);
    if (validation) info.pNext = &features;
    return vk::raii::Instance(context, info);
}

vk::raii::DebugUtilsMessengerEXT listen(const vk::raii::Instance& instance, ValidationLog& log) {
    using Severity = vk::DebugUtilsMessageSeverityFlagBitsEXT;
    using Type = vk::DebugUtilsMessageTypeFlagBitsEXT;
    return vk::raii::DebugUtilsMessengerEXT(
        instance, vk::DebugUtilsMessengerCreateInfoEXT({}, Severity::eError | Severity::eWarning,
                                                       Type::eValidation | Type::ePerformance,
                                                       on_validation_message, &log));
}

bool matches(const DeviceInfo& info, const std::string& selector) {
    const auto lower = [](std::string text) {
        std::transform(text.begin(), text.end(), text.begin(),
                       [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        return text;
    };
    std::string uuid = lower(selector);
    std::erase(uuid, '-');
    return uuid == info.uuid || lower(info.name).find(lower(selector)) != std::string::npos;
}

}  // namespace

Instance open_instance(ValidationLog* log) {
    Instance result{open_loader()};
    try {
        result.instance = create_instance(result.context, log != nullptr);
        if (log) result.messenger = listen(result.instance, *log);
    } catch (const vk::IncompatibleDriverError& error) {  // also where the loader knows no driver
        throw_no_driver(error.what());
    } catch (const vk::SystemError& error) {
        throw Error(ErrorCode::device,
                    fmt::format("the Vulkan loader can't make an instance: {}", error.what()));
    }
    return result;
}

std::vector<vk::raii::PhysicalDevice> physical_devices(const Instance& instance) {
    try {
        std::vector<vk::raii::PhysicalDevice> devices =
            vk::raii::PhysicalDevices(instance.instance);
        if (!devices.empty()) return devices;
    } catch (const vk::InitializationFailedError& error) {  // every driver refused to start
        throw_no_driver(error.what());
    } catch (const vk::SystemError& error) {
        throw Error(ErrorCode::device,
                    fmt::format("the Vulkan devices can't be listed: {}", error.what()));
    }
    throw_no_driver("the loader lists no device");
}

std::vector<DeviceInfo> read_all(const Instance& instance) {
    std::vector<DeviceInfo> devices;
    int index = 0;
    for (const auto& physical : physical_devices(instance)) {
        devices.push_back(read_capabilities(instance.instance, physical, index++).info);
    }
    choose_default(devices);
    return devices;
}

int select(const std::vector<DeviceInfo>& devices, const std::string& selector) {
    std::string names;
    for (const DeviceInfo& info : devices) {
        names += fmt::format("{}{} \"{}\"", names.empty() ? "" : ", ", info.index, info.name);
    }
    if (selector.empty()) {
        for (const DeviceInfo& info : devices) {
            if (info.is_default) return info.index;
        }
        throw Error(ErrorCode::device,
                    fmt::format("none of the Vulkan devices is usable: {}", names));
    }
    const bool is_number =
        selector.size() <= 4 &&
        std::all_of(selector.begin(), selector.end(), [](char c) { return c >= '0' && c <= '9'; });
    for (const DeviceInfo& info : devices) {
        if (is_number ? info.index == std::stoi(selector) : matches(info, selector)) {
            if (!info.usable) {
                throw Error(ErrorCode::device, fmt::format("device {} \"{}\" is {}", info.index,
                                                           info.name, info.note));
            }
            return info.index;
        }
    }
    throw Error(ErrorCode::device,
                fmt::format("no device matches \"{}\"; there are: {}", selector, names));
}

}  // namespace quantsparse::vulkan

namespace quantsparse {

std::vector<DeviceInfo> list_devices() {
    return vulkan::read_all(vulkan::open_instance());
}

}  // namespace quantsparse
