#include "vulkan/capabilities.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <string_view>

#include "vulkan/cooperative_matrix.hpp"

namespace quantsparse::vulkan {
namespace {

std::string kind_of(vk::PhysicalDeviceType type) {
    switch (type) {
        case vk::PhysicalDeviceType::eDiscreteGpu:
            return "discrete";
        case vk::PhysicalDeviceType::eIntegratedGpu:
            return "integrated";
        case vk::PhysicalDeviceType::eVirtualGpu:
            return "virtual";
        case vk::PhysicalDeviceType::eCpu:
            return "cpu";
        default:
            return "other";
    }
}

int preference(const DeviceInfo& device) {
    if (!device.usable) return -1;
    if (device.kind == "discrete") return 4;
    if (device.kind == "integrated") return 3;
    if (device.kind == "virtual") return 2;
    return device.kind == "cpu" ? 0 : 1;
}

/// Whether a kernel can use the shape: operands are loaded from words of 16 bytes, sums in fours.
bool usable(const VkCooperativeMatrixPropertiesKHR& shape) {
    return shape.scope == VK_SCOPE_SUBGROUP_KHR && shape.CType == shape.ResultType &&
           shape.AType == shape.BType && shape.saturatingAccumulation == VK_FALSE &&
           shape.MSize >= 8 && shape.MSize <= 16 && shape.NSize % 8 == 0 && shape.NSize <= 16 &&
           shape.KSize % 16 == 0 && shape.KSize <= 32;
}

/// The largest usable shape of one pair of types.
MatrixShape choose(const std::vector<VkCooperativeMatrixPropertiesKHR>& shapes, int operand,
                   int sum) {
    MatrixShape best;
    for (const auto& shape : shapes) {
        if (!usable(shape) || shape.AType != operand || shape.CType != sum) continue;
        if (shape.MSize * shape.NSize * shape.KSize > best.m * best.n * best.k) {
            best = {shape.MSize, shape.NSize, shape.KSize};
        }
    }
    return best;
}

/// Fills in the shapes if the device has all that the matrix tier needs.
void read_matrix_units(const vk::raii::Instance& instance, const vk::raii::PhysicalDevice& physical,
                       Capabilities& result) {
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix{};
    matrix.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
    vk::PhysicalDeviceSubgroupSizeControlFeatures control;
    control.pNext = &matrix;
    vk::PhysicalDeviceVulkan12Features v12;
    v12.pNext = &control;
    vk::PhysicalDeviceFeatures2 features;
    features.pNext = &v12;
    (*physical).getFeatures2(&features, *physical.getDispatcher());
    const auto properties =
        physical.getProperties2<vk::PhysicalDeviceProperties2, vk::PhysicalDeviceVulkan11Properties,
                                vk::PhysicalDeviceSubgroupSizeControlProperties>();
    const auto& subgroup = properties.get<vk::PhysicalDeviceVulkan11Properties>();
    const auto& sizes = properties.get<vk::PhysicalDeviceSubgroupSizeControlProperties>();
    const auto needed = vk::SubgroupFeatureFlagBits::eBasic | vk::SubgroupFeatureFlagBits::eVote |
                        vk::SubgroupFeatureFlagBits::eShuffle;
    if (!matrix.cooperativeMatrix || !v12.vulkanMemoryModel || !v12.shaderInt8 ||
        !v12.shaderFloat16 || !control.subgroupSizeControl || !control.computeFullSubgroups ||
        (subgroup.subgroupSupportedOperations & needed) != needed ||
        !(sizes.requiredSubgroupSizeStages & vk::ShaderStageFlagBits::eCompute) ||
        (subgroup.subgroupSize != 32 && subgroup.subgroupSize != 64)) {
        return;
    }
    const auto shapes = cooperative_matrix_properties(instance, physical);
    const MatrixShape bytes =
        choose(shapes, VK_COMPONENT_TYPE_SINT8_KHR, VK_COMPONENT_TYPE_SINT32_KHR);
    const MatrixShape halves =
        choose(shapes, VK_COMPONENT_TYPE_FLOAT16_KHR, VK_COMPONENT_TYPE_FLOAT32_KHR);
    if (!bytes.m || !halves.m) return;
    result.has_matrix_units = true;
    result.info.matrix_int8 = bytes;
    result.info.matrix_half = halves;
}

/// What Vulkan 1.0 says already.
void read_basics(const vk::PhysicalDeviceProperties& basic, Capabilities& result) {
    DeviceInfo& info = result.info;
    info.name = basic.deviceName.data();
    info.kind = kind_of(basic.deviceType);
    info.api_version =
        fmt::format("{}.{}.{}", VK_API_VERSION_MAJOR(basic.apiVersion),
                    VK_API_VERSION_MINOR(basic.apiVersion), VK_API_VERSION_PATCH(basic.apiVersion));
    info.driver = fmt::format("{}", basic.driverVersion);
    info.max_storage_buffer_range = basic.limits.maxStorageBufferRange;
    info.max_texel_buffer_bytes = std::uint64_t{16} * basic.limits.maxTexelBufferElements;
    info.max_workgroup_invocations = basic.limits.maxComputeWorkGroupInvocations;
    info.shared_memory_bytes = basic.limits.maxComputeSharedMemorySize;
    result.storage_alignment = basic.limits.minStorageBufferOffsetAlignment;
    result.timestamp_period_ns = basic.limits.timestampPeriod;
    result.quirks.runs_on_cpu = basic.deviceType == vk::PhysicalDeviceType::eCpu;
}

void read_driver(const vk::raii::PhysicalDevice& physical, Capabilities& result) {
    DeviceInfo& info = result.info;
    const auto properties =
        physical.getProperties2<vk::PhysicalDeviceProperties2, vk::PhysicalDeviceVulkan11Properties,
                                vk::PhysicalDeviceVulkan12Properties>();
    const auto& v11 = properties.get<vk::PhysicalDeviceVulkan11Properties>();
    const auto& v12 = properties.get<vk::PhysicalDeviceVulkan12Properties>();
    info.driver = fmt::format("{} {}", v12.driverName.data(), v12.driverInfo.data());
    result.quirks.texel_reads_are_faster = v12.driverID == vk::DriverId::eMesaLlvmpipe;
    result.quirks.leaves_loops_rolled = v12.driverID == vk::DriverId::eGoogleSwiftshader;
    info.texel_reads_are_faster = result.quirks.texel_reads_are_faster;
    result.quirks.matrix_units_in_narrow_subgroups =
        v12.driverID == vk::DriverId::eIntelOpenSourceMESA ||
        v12.driverID == vk::DriverId::eIntelProprietaryWindows;
    info.max_allocation_bytes = v11.maxMemoryAllocationSize;
    info.subgroup_size = v11.subgroupSize;
    for (const auto byte : v11.deviceUUID) info.uuid += fmt::format("{:02x}", byte);
}

void read_dot_product(const vk::raii::PhysicalDevice& physical, DeviceInfo& info) {
    using Features = vk::PhysicalDeviceShaderIntegerDotProductFeatures;
    using Properties = vk::PhysicalDeviceShaderIntegerDotProductProperties;
    const auto features = physical.getFeatures2<vk::PhysicalDeviceFeatures2, Features>();
    info.integer_dot_product = features.get<Features>().shaderIntegerDotProduct;
    const auto properties = physical.getProperties2<vk::PhysicalDeviceProperties2, Properties>();
    info.integer_dot_accelerated =
        properties.get<Properties>().integerDotProduct4x8BitPackedSignedAccelerated;
}

/// Extensions, and the features that they and Vulkan 1.2 bring.
void read_features(const vk::raii::Instance& instance, const vk::raii::PhysicalDevice& physical,
                   Capabilities& result) {
    bool matrix_extension = false, size_extension = false;
    for (const auto& extension : physical.enumerateDeviceExtensionProperties()) {
        const std::string_view name = extension.extensionName.data();
        // The instance asks for Vulkan 1.2, so this is needed even where 1.3 made it core.
        if (name == "VK_KHR_shader_integer_dot_product") result.has_dot_extension = true;
        if (name == VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME) matrix_extension = true;
        if (name == VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME) size_extension = true;
        if (name == "VK_EXT_memory_budget") result.has_memory_budget = true;
    }
    if (result.has_dot_extension) read_dot_product(physical, result.info);
    const auto features =
        physical.getFeatures2<vk::PhysicalDeviceFeatures2, vk::PhysicalDeviceVulkan12Features>();
    result.info.half_arithmetic = features.get<vk::PhysicalDeviceVulkan12Features>().shaderFloat16;
    if (matrix_extension && size_extension && !result.quirks.matrix_units_in_narrow_subgroups) {
        read_matrix_units(instance, physical, result);
    }
}

std::uint64_t largest_local_heap(const vk::raii::PhysicalDevice& physical) {
    const auto memory = physical.getMemoryProperties();
    std::uint64_t largest = 0;
    for (std::uint32_t i = 0; i < memory.memoryHeapCount; ++i) {
        if (memory.memoryHeaps[i].flags & vk::MemoryHeapFlagBits::eDeviceLocal) {
            largest = std::max<std::uint64_t>(largest, memory.memoryHeaps[i].size);
        }
    }
    return largest;
}

/// False where no queue computes.
bool read_queue(const vk::raii::PhysicalDevice& physical, Capabilities& result) {
    const auto queues = physical.getQueueFamilyProperties();
    for (std::uint32_t i = 0; i < queues.size(); ++i) {
        if (!(queues[i].queueFlags & vk::QueueFlagBits::eCompute)) continue;
        result.queue_family = i;
        result.timestamp_valid_bits = queues[i].timestampValidBits;
        return true;
    }
    return false;
}

}  // namespace

Capabilities read_capabilities(const vk::raii::Instance& instance,
                               const vk::raii::PhysicalDevice& physical, int index) {
    Capabilities result;
    DeviceInfo& info = result.info;
    const auto basic = physical.getProperties();
    info.index = index;
    read_basics(basic, result);
    if (basic.apiVersion < VK_API_VERSION_1_2) {
        info.note = "not usable: Vulkan 1.2 is needed";
        return result;
    }
    read_driver(physical, result);
    read_features(instance, physical, result);
    info.memory_bytes = largest_local_heap(physical);
    info.usable = read_queue(physical, result);
    info.timestamps = result.timestamp_valid_bits > 0;
    if (!info.usable) info.note = "not usable: no compute queue";
    return result;
}

void choose_default(std::vector<DeviceInfo>& devices) {
    DeviceInfo* best = nullptr;
    for (DeviceInfo& device : devices) {
        if (device.usable && (!best || preference(device) > preference(*best))) best = &device;
    }
    if (!best) return;
    best->is_default = true;
    best->note = best->kind == "cpu"
                     ? "default: there is no GPU, so this CPU implementation is used (slow)"
                     : fmt::format("default: the first {} device", best->kind);
    for (DeviceInfo& device : devices) {
        if (device.usable && !device.is_default && device.kind == "cpu") {
            device.note = "CPU implementation: used only when asked for";
        }
    }
}

}  // namespace quantsparse::vulkan
