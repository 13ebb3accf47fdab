#include "vulkan/device.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cstdlib>

#include "quantsparse/error.hpp"
#include "vulkan/cooperative_matrix.hpp"
#include "vulkan/pipeline_cache.hpp"
#include "vulkan/tuning_file.hpp"

namespace quantsparse::vulkan {
namespace {

/// Where pipelines of this user are kept.
std::filesystem::path default_cache_directory() {
    if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg) {
        return std::filesystem::path(xdg) / "quantsparse";
    }
    if (const char* home = std::getenv("HOME"); home && *home) {
        return std::filesystem::path(home) / ".cache" / "quantsparse";
    }
    return {};
}

/// Extensions and features a logical device is created with. Stays where it is: the chain points
/// into it.
struct Features {
    std::vector<const char*> extensions;
    const void* chain = nullptr;

    Features() = default;
    Features(const Features&) = delete;

    void add_half_arithmetic() { link(half_); }
    void add_dot() {
        extensions.push_back(VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME);
        link(dot_);
    }
    void add_matrix_units() {
        extensions.push_back(VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
        extensions.push_back(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
        matrix_.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
        matrix_.cooperativeMatrix = VK_TRUE;
        link(matrix_);
        link(subgroup_size_);
        link(half_and_bytes_);
        link(memory_model_);
    }
    void add_inspection() {
        extensions.push_back(VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
        link(executables_);
    }

  private:
    template <typename Feature>
    void link(Feature& feature) {
        feature.pNext = const_cast<void*>(chain);
        chain = &feature;
    }

    vk::PhysicalDeviceShaderIntegerDotProductFeatures dot_{true};
    vk::PhysicalDeviceShaderFloat16Int8Features half_{true, false};
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix_{};
    vk::PhysicalDeviceSubgroupSizeControlFeatures subgroup_size_{true, true};
    vk::PhysicalDeviceShaderFloat16Int8Features half_and_bytes_{true, true};
    vk::PhysicalDeviceVulkanMemoryModelFeatures memory_model_{true, false, false};
    vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR executables_{true};
};

void require_arithmetic(Arithmetic wanted, const Capabilities& capabilities) {
    if (wanted == Arithmetic::dot && !capabilities.info.integer_dot_product) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("device \"{}\" has no integer dot product: use portable",
                                capabilities.info.name),
                    "arithmetic");
    }
    if (wanted == Arithmetic::matrix && !capabilities.has_matrix_units) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("device \"{}\" has no matrix units that its driver offers "
                                "(VK_KHR_cooperative_matrix): use auto",
                                capabilities.info.name),
                    "arithmetic");
    }
}

}  // namespace

Device::Device(const DeviceOptions& options, bool inspect) : memory_limit_(options.memory_limit) {
    validation_.on_message = options.on_validation_message;
    instance_ = open_instance(options.validation ? &validation_ : nullptr);
    const int index = select(read_all(instance_), options.selector);
    physical_ = physical_devices(instance_)[static_cast<std::size_t>(index)];
    capabilities_ = read_capabilities(instance_.instance, physical_, index);
    require_arithmetic(options.arithmetic, capabilities_);

    const std::filesystem::path cache = inspect ? std::filesystem::path()
                                        : options.cache_directory.empty()
                                            ? default_cache_directory()
                                            : options.cache_directory;
    if (!cache.empty()) {
        tuning_file_ = cache / cache_file_name("tuning", physical_.getProperties(), "json");
        if (!options.ignore_tuning) tuning_ = read_tuning(tuning_file_);
    }
    arithmetic_ = chosen_arithmetic(options);
    try {
        create_logical_device(inspect);
        pipelines_ = std::make_unique<PipelineCache>(
            physical_, device_, capabilities_.info.subgroup_size,
            capabilities_.quirks.leaves_loops_rolled, cache,
            inspect ? vk::PipelineCreateFlagBits::eCaptureStatisticsKHR |
                          vk::PipelineCreateFlagBits::eCaptureInternalRepresentationsKHR
                    : vk::PipelineCreateFlags());
    } catch (const vk::SystemError& error) {
        throw Error(ErrorCode::device, fmt::format("device {} \"{}\" can't be opened: {}", index,
                                                   capabilities_.info.name, error.what()));
    }
}

Arithmetic Device::chosen_arithmetic(const DeviceOptions& options) const {
    if (options.arithmetic != Arithmetic::automatic) return options.arithmetic;
    if (tuning_) {
        const Arithmetic tuned = offered(tuning_->arithmetic, options);
        if (tuned != Arithmetic::automatic) return tuned;
    }
    if (!capabilities_.quirks.runs_on_cpu &&
        offered(Arithmetic::matrix, options) == Arithmetic::matrix) {
        return Arithmetic::matrix;
    }
    // The drivers' "accelerated" bit is no guide: on lavapipe, which denies it, dot is faster.
    return capabilities_.info.integer_dot_product ? Arithmetic::dot : Arithmetic::portable;
}

void Device::create_logical_device(bool inspect) {
    const std::uint32_t family = capabilities_.queue_family;
    const float priorities[] = {1.0f, 1.0f};
    const std::uint32_t queues =
        std::min(2u, physical_.getQueueFamilyProperties()[family].queueCount);
    const vk::DeviceQueueCreateInfo queue({}, family, queues, priorities);

    Features features;
    const bool matrix = arithmetic_ == Arithmetic::matrix;
    if (capabilities_.info.integer_dot_product) features.add_dot();
    if (capabilities_.info.half_arithmetic && !matrix) features.add_half_arithmetic();
    if (capabilities_.has_memory_budget) {
        features.extensions.push_back(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    }
    if (matrix) features.add_matrix_units();
    if (inspect) features.add_inspection();
    vk::DeviceCreateInfo create({}, queue);
    create.pNext = features.chain;
    create.setPEnabledExtensionNames(features.extensions);
    device_ = vk::raii::Device(physical_, create);

    queue_ = device_.getQueue(family, 0);
    if (queues > 1) transfer_queue_ = device_.getQueue(family, 1);
    // Mesa's devices without hardware compile, but have no fences.
    if (!inspect) fence_ = vk::raii::Fence(device_, vk::FenceCreateInfo());
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
