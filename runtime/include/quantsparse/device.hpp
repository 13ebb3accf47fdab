// Choosing and opening a Vulkan device. Nothing of Vulkan appears here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace quantsparse {

/// How integer products are formed; all tiers give identical accumulators.
enum class Arithmetic {
    automatic,  ///< what tune() found, else the tier that is usually the fastest the device has
    portable,   ///< products summed in fp32, exact below 2^24
    dot,        ///< packed 4x8-bit dot product (OpSDot)
    matrix,  ///< matrix units (VK_KHR_cooperative_matrix); attention and half weights use them too
};

/// word_of() of names.hpp.
const char* arithmetic_name(Arithmetic arithmetic);

/// Shape of one product of matrix units, [m, k] times [k, n]; zeros: there is none.
struct MatrixShape {
    std::uint32_t m = 0, n = 0, k = 0;
};

/// What a device is and can do; filled without creating a logical device.
struct DeviceInfo {
    int index = 0;                   ///< the number DeviceOptions::selector takes
    std::string name;                ///< as the driver reports it
    std::string driver;              ///< driver name and version
    std::string uuid;                ///< 32 hexadecimal digits
    std::string kind;                ///< "discrete", "integrated", "virtual", "cpu" or "other"
    std::string api_version;         ///< for example "1.3.230"
    std::uint64_t memory_bytes = 0;  ///< the largest device-local heap
    std::uint64_t max_allocation_bytes = 0;      ///< limit of one allocation
    std::uint64_t max_storage_buffer_range = 0;  ///< limit of one buffer binding
    std::uint64_t max_texel_buffer_bytes = 0;    ///< the same of a texel buffer, 16 bytes a texel
    bool texel_reads_are_faster = false;         ///< than storage buffers: a driver's quirk
    std::uint32_t max_workgroup_invocations = 0;
    std::uint32_t shared_memory_bytes = 0;
    std::uint32_t subgroup_size = 0;
    bool integer_dot_product = false;      ///< the dot tier is available
    bool integer_dot_accelerated = false;  ///< what the driver claims of signed 4x8-bit packed
    bool half_arithmetic = false;          ///< shaderFloat16
    MatrixShape matrix_int8;  ///< signed bytes summed in int32: the matrix tier is available
    MatrixShape matrix_half;  ///< halves summed in fp32
    bool timestamps = false;
    bool usable = false;  ///< Vulkan 1.2, a compute queue, storage limits we need
    bool is_default = false;
    std::string note;  ///< why it is the default, or why it is not usable
};

/// All devices the Vulkan loader shows, in its order. Throws Error(device) when there is no loader
/// or no driver at all.
std::vector<DeviceInfo> list_devices();

struct DeviceOptions {
    std::string selector;  ///< empty: the default; else an index, a UUID or a part of the name
    Arithmetic arithmetic = Arithmetic::automatic;
    std::uint64_t memory_limit = 0;  ///< bytes; 0: what the device reports as its budget
    /// Of pipelines and of what tune() found; empty: $XDG_CACHE_HOME/quantsparse.
    std::filesystem::path cache_directory;
    bool ignore_tuning = false;  ///< as if tune() had never run
    bool validation = false;     ///< Khronos validation with synchronisation checks, when installed
    /// Called with each of its messages, possibly from a thread of the driver.
    std::function<void(const std::string&)> on_validation_message;
};

namespace vulkan {
class Device;
}

/// An opened device. Move-only, to be used from one thread at a time. Not for static storage: the
/// Vulkan loader and its layers may be unloaded before static objects are destroyed.
class Device {
  public:
    /// Throws Error(device) naming the devices there are when none matches.
    explicit Device(const DeviceOptions& options = {});
    ~Device();
    Device(Device&&) noexcept;
    Device& operator=(Device&&) noexcept;

    const DeviceInfo& info() const;
    Arithmetic arithmetic() const;  ///< the tier in use, never `automatic`
    bool tuned() const;             ///< tune() has run on this device and driver
    /// Messages of the validation layers so far, errors and warnings (0 without validation).
    int validation_message_count() const;

    vulkan::Device& internal() const { return *impl_; }  ///< for the runtime itself

  private:
    std::unique_ptr<vulkan::Device> impl_;
};

}  // namespace quantsparse
