#include "devices.hpp"

#include <fmt/format.h>

#include "device_json.hpp"
#include "quantsparse/device.hpp"
#include "report.hpp"

namespace quantsparse::bench {
namespace {

const char* yes_no(bool value) {
    return value ? "yes" : "no";
}

void print(const DeviceInfo& device) {
    const auto line = [](const char* what, const std::string& value) {
        fmt::print("  {:<26}{}\n", what, value);
    };
    fmt::print("{} {}{}\n", device.index, device.name, device.is_default ? " (default)" : "");
    line("kind", device.kind);
    line("driver", device.driver);
    line("uuid", device.uuid);
    line("Vulkan", device.api_version);
    line("memory", bytes_text(device.memory_bytes));
    line("largest allocation", bytes_text(device.max_allocation_bytes));
    line("largest binding", bytes_text(device.max_storage_buffer_range));
    line("work-group invocations", fmt::format("{}", device.max_workgroup_invocations));
    line("shared memory", bytes_text(device.shared_memory_bytes));
    line("subgroup size", fmt::format("{}", device.subgroup_size));
    line("integer dot product", !device.integer_dot_product      ? "no"
                                : device.integer_dot_accelerated ? "yes, accelerated"
                                                                 : "yes, not accelerated");
    line("half arithmetic", yes_no(device.half_arithmetic));
    const auto shape = [](const MatrixShape& s) { return fmt::format("{}x{}x{}", s.m, s.n, s.k); };
    line("matrix units",
         device.matrix_int8.m
             ? fmt::format("int8 {}, half {}", shape(device.matrix_int8), shape(device.matrix_half))
             : "no");
    line("timestamps", yes_no(device.timestamps));
    line("usable", yes_no(device.usable));
    if (!device.note.empty()) line("note", device.note);
}

}  // namespace

void run_devices(const std::filesystem::path& json) {
    const std::vector<DeviceInfo> devices = list_devices();
    for (const DeviceInfo& device : devices) print(device);
    if (!json.empty()) write_text(json, video::devices_json(devices));
}

}  // namespace quantsparse::bench
