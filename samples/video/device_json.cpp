#include "device_json.hpp"

#include <nlohmann/json.hpp>

namespace quantsparse::video {

std::string devices_json(const std::vector<DeviceInfo>& devices) {
    using Json = nlohmann::ordered_json;
    const auto shape = [](const MatrixShape& s) { return Json{s.m, s.n, s.k}; };
    Json list = Json::array();
    for (const DeviceInfo& device : devices) {
        list.push_back({{"index", device.index},
                        {"name", device.name},
                        {"driver", device.driver},
                        {"uuid", device.uuid},
                        {"kind", device.kind},
                        {"api_version", device.api_version},
                        {"memory_bytes", device.memory_bytes},
                        {"max_allocation_bytes", device.max_allocation_bytes},
                        {"max_storage_buffer_range", device.max_storage_buffer_range},
                        {"max_workgroup_invocations", device.max_workgroup_invocations},
                        {"shared_memory_bytes", device.shared_memory_bytes},
                        {"subgroup_size", device.subgroup_size},
                        {"integer_dot_product", device.integer_dot_product},
                        {"integer_dot_accelerated", device.integer_dot_accelerated},
                        {"half_arithmetic", device.half_arithmetic},
                        {"matrix_int8", shape(device.matrix_int8)},
                        {"matrix_half", shape(device.matrix_half)},
                        {"timestamps", device.timestamps},
                        {"usable", device.usable},
                        {"is_default", device.is_default},
                        {"note", device.note}});
    }
    // Text comes from drivers: never fails on broken UTF-8.
    return list.dump(2, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace quantsparse::video
