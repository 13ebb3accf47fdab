#include "vulkan/device.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "quantsparse/error.hpp"
#include "quantsparse/version.hpp"
#include "vulkan/cooperative_matrix.hpp"
#include "vulkan/pipeline_cache.hpp"
#include "vulkan/tuning_file.hpp"

namespace quantsparse::vulkan {
namespace {

constexpr const char* kValidationLayer = "VK_LAYER_KHRONOS_validation";

VKAPI_ATTR VkBool32 VKAPI_CALL
on_validation_message(VkDebugUtilsMessageSeverityFlagBitsEXT, VkDebugUtilsMessageTypeFlagsEXT,
                      const VkDebugUtilsMessengerCallbackDataEXT* data, void* user) {
    std::fprintf(stderr, "vulkan validation: %s\n", data->pMessage);
    ++*static_cast<std::atomic<int>*>(user);
    return VK_FALSE;
}

vk::ApplicationInfo application_info() {
    return vk::ApplicationInfo("quantsparse", 1, "quantsparse", 1, VK_API_VERSION_1_2);
}

[[noreturn]] void throw_no_loader(const std::string& reason) {
    throw Error(ErrorCode::device,
                fmt::format("no Vulkan driver found ({}): install your GPU's Vulkan driver, or "
                            "mesa-vulkan-drivers for the CPU implementation",
                            reason));
}

/// The filesystem::path where pipelines of this user are kept.
std::filesystem::path default_cache_directory() {
    if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg) {
        return std::filesystem::path(xdg) / "quantsparse";
    }
    if (const char* home = std::getenv("HOME"); home && *home) {
        return std::filesystem::path(home) / ".cache" / "quantsparse";
    }
    return {};
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

std::vector<DeviceInfo> read_all(const vk::raii::Instance& instance) {
    std::vector<DeviceInfo> devices;
    int index = 0;
    for (const auto& physical : vk::raii::PhysicalDevices(instance)) {
        devices.push_back(read_capabilities(instance, physical, index++).info);
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

}  // namespace

void Device::create_instance(bool validation) {
    const vk::ApplicationInfo application = application_info();
    std::vector<const char*> layers;
    std::vector<const char*> extensions;
    if (validation) {
        bool installed = false;
        for (const auto& layer : context_.enumerateInstanceLayerProperties()) {
            installed |= !std::strcmp(layer.layerName.data(), kValidationLayer);
        }
        if (!installed) {
            throw Error(
                ErrorCode::unsupported,
                "validation was asked for but the Khronos validation layer is not installed: "
                "install vulkan-validationlayers");
        }
        layers.push_back(kValidationLayer);
        extensions.push_back(VK_EXT_DEBUG_UTILS_EXTENSION_NAME);
    }
    const vk::ValidationFeatureEnableEXT enabled[] = {
        vk::ValidationFeatureEnableEXT::eSynchronizationValidation};
    vk::ValidationFeaturesEXT features(enabled);
    vk::InstanceCreateInfo info({}, &application, layers, extensions);
    if (validation) info.pNext = &features;
    instance_ = vk::raii::Instance(context_, info);
    if (validation) {
        using Severity = vk::DebugUtilsMessageSeverityFlagBitsEXT;
        using Type = vk::DebugUtilsMessageTypeFlagBitsEXT;
        messenger_ = vk::raii::DebugUtilsMessengerEXT(
            instance_,
            vk::DebugUtilsMessengerCreateInfoEXT({}, Severity::eError | Severity::eWarning,
                                                 Type::eValidation | Type::ePerformance,
                                                 on_validation_message, &validation_messages_));
    }
}

Device::Device(const DeviceOptions& options, bool inspect) : memory_limit_(options.memory_limit) {
    try {
        create_instance(options.validation);
        const vk::raii::PhysicalDevices physical_devices(instance_);
        const int index = select(read_all(instance_), options.selector);
        physical_ = physical_devices[static_cast<std::size_t>(index)];
        capabilities_ = read_capabilities(instance_, physical_, index);

        if (options.arithmetic == Arithmetic::dot && !capabilities_.info.integer_dot_product) {
            throw Error(
                ErrorCode::unsupported,
                fmt::format("device \"{}\" has no integer dot product: use --arithmetic portable",
                            capabilities_.info.name));
        }
        if (options.arithmetic == Arithmetic::matrix && !capabilities_.has_matrix_units) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("device \"{}\" has no matrix units that its driver offers "
                                    "(VK_KHR_cooperative_matrix): use --arithmetic auto",
                                    capabilities_.info.name));
        }
        const std::filesystem::path cache = inspect ? std::filesystem::path()
                                            : options.cache_directory.empty()
                                                ? default_cache_directory()
                                                : options.cache_directory;
        if (!cache.empty()) {
            tuning_file_ = cache / cache_file_name("tuning", physical_.getProperties(), "json");
            if (!options.ignore_tuning) tuning_ = read_tuning(tuning_file_);
        }
        arithmetic_ = options.arithmetic;
        if (arithmetic_ == Arithmetic::automatic && tuning_)
            arithmetic_ = offered(tuning_->arithmetic, options);
        if (arithmetic_ == Arithmetic::automatic) {
            // The drivers' "accelerated" bit is no guide: on lavapipe, which denies it, dot is
            // faster.
            const bool matrix = !capabilities_.quirks.runs_on_cpu &&
                                offered(Arithmetic::matrix, options) == Arithmetic::matrix;
            arithmetic_ = matrix                                   ? Arithmetic::matrix
                          : capabilities_.info.integer_dot_product ? Arithmetic::dot
                                                                   : Arithmetic::portable;
        }

        const float priorities[] = {1.0f, 1.0f};
        const std::uint32_t queues = std::min(
            2u, physical_.getQueueFamilyProperties()[capabilities_.queue_family].queueCount);
        const vk::DeviceQueueCreateInfo queue({}, capabilities_.queue_family, queues, priorities);
        std::vector<const char*> extensions;
        vk::PhysicalDeviceShaderIntegerDotProductFeatures dot_features(true);
        vk::DeviceCreateInfo create({}, queue);
        if (capabilities_.info.integer_dot_product) {
            extensions.push_back(VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME);
            create.pNext = &dot_features;
        }
        vk::PhysicalDeviceShaderFloat16Int8Features half_features(true, false);
        if (capabilities_.info.half_arithmetic && arithmetic_ != Arithmetic::matrix) {
            half_features.pNext = const_cast<void*>(create.pNext);
            create.pNext = &half_features;
        }
        if (capabilities_.has_memory_budget)
            extensions.push_back(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
        VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix_features{};
        matrix_features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
        matrix_features.cooperativeMatrix = VK_TRUE;
        vk::PhysicalDeviceSubgroupSizeControlFeatures size_features(true, true, &matrix_features);
        vk::PhysicalDeviceShaderFloat16Int8Features small_features(true, true, &size_features);
        vk::PhysicalDeviceVulkanMemoryModelFeatures model_features(true, false, false,
                                                                   &small_features);
        if (arithmetic_ == Arithmetic::matrix) {
            extensions.push_back(VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
            extensions.push_back(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
            matrix_features.pNext = const_cast<void*>(create.pNext);
            create.pNext = &model_features;
        }
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR executable_features(true);
        if (inspect) {
            extensions.push_back(VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
            executable_features.pNext = const_cast<void*>(create.pNext);
            create.pNext = &executable_features;
        }
        create.setPEnabledExtensionNames(extensions);
        device_ = vk::raii::Device(physical_, create);
        queue_ = device_.getQueue(capabilities_.queue_family, 0);
        if (queues > 1) transfer_queue_ = device_.getQueue(capabilities_.queue_family, 1);
        // Mesa's devices without hardware compile, but have no fences.
        if (!inspect) fence_ = vk::raii::Fence(device_, vk::FenceCreateInfo());
        pipelines_ = std::make_unique<PipelineCache>(
            physical_, device_, capabilities_.info.subgroup_size,
            capabilities_.quirks.leaves_loops_rolled, cache,
            inspect ? vk::PipelineCreateFlagBits::eCaptureStatisticsKHR |
                          vk::PipelineCreateFlagBits::eCaptureInternalRepresentationsKHR
                    : vk::PipelineCreateFlags());
    } catch (const vk::SystemError& error) {
        throw_no_loader(error.what());
    }
}

Device::~Device() = default;

Arithmetic Device::offered(Arithmetic tier, const DeviceOptions& options) const {
    // Validation layers older than the extension reject the matrix tier's kernels.
    const bool has =
        tier == Arithmetic::portable ||
        (tier == Arithmetic::dot && capabilities_.info.integer_dot_product) ||
        (tier == Arithmetic::matrix && capabilities_.has_matrix_units && !options.validation);
    return has ? tier : Arithmetic::automatic;
}

std::uint64_t Device::memory_budget() const {
    if (memory_limit_) return memory_limit_;
    if (capabilities_.has_memory_budget) {
        const auto properties =
            physical_.getMemoryProperties2<vk::PhysicalDeviceMemoryProperties2,
                                           vk::PhysicalDeviceMemoryBudgetPropertiesEXT>();
        const auto& heaps = properties.get<vk::PhysicalDeviceMemoryProperties2>().memoryProperties;
        const auto& budget = properties.get<vk::PhysicalDeviceMemoryBudgetPropertiesEXT>();
        std::uint64_t best = 0;
        for (std::uint32_t i = 0; i < heaps.memoryHeapCount; ++i) {
            if (heaps.memoryHeaps[i].flags & vk::MemoryHeapFlagBits::eDeviceLocal) {
                const std::uint64_t used = budget.heapUsage[i];
                best = std::max<std::uint64_t>(
                    best, budget.heapBudget[i] > used ? budget.heapBudget[i] - used : 0);
            }
        }
        return best;
    }
    return capabilities_.info.memory_bytes / 10 * 9;
}

[[noreturn]] static void throw_lost(const char* operation, const char* reason) {
    throw Error(ErrorCode::device,
                fmt::format("the device failed during {}: {}; try a smaller size or another device",
                            operation, reason));
}

void Device::submit(const vk::raii::CommandBuffer& commands, const char* operation) {
    try {
        queue_.submit(vk::SubmitInfo({}, {}, *commands), *fence_);
    } catch (const vk::SystemError& error) {
        throw_lost(operation, error.what());
    }
}

void Device::wait(const char* operation) {
    try {
        const vk::Result result =
            device_.waitForFences(*fence_, true, std::numeric_limits<std::uint64_t>::max());
        device_.resetFences(*fence_);
        if (result != vk::Result::eSuccess) {
            throw Error(ErrorCode::device,
                        fmt::format("the device stopped answering during {}", operation));
        }
    } catch (const vk::SystemError& error) {
        throw_lost(operation, error.what());
    }
}

void Device::submit_and_wait(const vk::raii::CommandBuffer& commands, const char* operation) {
    submit(commands, operation);
    wait(operation);
}

}  // namespace quantsparse::vulkan

namespace quantsparse {

std::vector<DeviceInfo> list_devices() {
    try {
        const vk::raii::Context context;
        const vk::ApplicationInfo application = vulkan::application_info();
        const vk::raii::Instance instance(context, vk::InstanceCreateInfo({}, &application));
        return vulkan::read_all(instance);
    } catch (const std::exception& error) {
        vulkan::throw_no_loader(error.what());
    }
}

const char* arithmetic_name(Arithmetic arithmetic) {
    switch (arithmetic) {
        case Arithmetic::portable:
            return "portable";
        case Arithmetic::dot:
            return "dot";
        case Arithmetic::matrix:
            return "matrix";
        case Arithmetic::automatic:
            break;
    }
    return "auto";
}

Arithmetic arithmetic_from(const std::string& name) {
    for (const Arithmetic arithmetic :
         {Arithmetic::automatic, Arithmetic::portable, Arithmetic::dot, Arithmetic::matrix}) {
        if (name == arithmetic_name(arithmetic)) return arithmetic;
    }
    throw Error(ErrorCode::invalid_argument,
                fmt::format("\"{}\" is no arithmetic: auto, portable, dot or matrix", name));
}

Device::Device(const DeviceOptions& options) : impl_(std::make_unique<vulkan::Device>(options)) {}
Device::~Device() = default;
Device::Device(Device&&) noexcept = default;
Device& Device::operator=(Device&&) noexcept = default;
const DeviceInfo& Device::info() const {
    return impl_->capabilities().info;
}
Arithmetic Device::arithmetic() const {
    return impl_->arithmetic();
}
bool Device::tuned() const {
    return impl_->tuning().has_value();
}
int Device::validation_message_count() const {
    return impl_->validation_messages();
}

}  // namespace quantsparse
