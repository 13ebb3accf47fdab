#include "c/device.hpp"

#include <fmt/format.h>

#include <array>

#include "c/status.hpp"
#include "c/structs.hpp"

namespace quantsparse::c {
namespace {

qs_device_info info_of(const DeviceInfo& device) {
    qs_device_info info{};
    info.index = device.index;
    info.name = device.name.c_str();
    info.driver = device.driver.c_str();
    info.uuid = device.uuid.c_str();
    info.kind = device.kind.c_str();
    info.note = device.note.c_str();
    info.memory_bytes = device.memory_bytes;
    info.usable = device.usable;
    info.is_default = device.is_default;
    return info;
}

Arithmetic arithmetic_of(qs_arithmetic arithmetic) {
    constexpr std::array kTiers = {Arithmetic::automatic, Arithmetic::portable, Arithmetic::dot,
                                   Arithmetic::matrix};
    const auto index = static_cast<std::size_t>(arithmetic);
    if (index >= kTiers.size()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("arithmetic {} is none of qs_arithmetic", index), "arithmetic");
    }
    return kTiers[index];
}

DeviceOptions options_of(const qs_device_options* options) {
    DeviceOptions result;
    if (!options) return result;
    const qs_device_options o = given(options, "options");
    if (o.selector) result.selector = o.selector;
    result.arithmetic = arithmetic_of(o.arithmetic);
    result.memory_limit = o.memory_limit;
    if (o.cache_directory) result.cache_directory = o.cache_directory;
    result.validation = o.validation != 0;
    if (o.log) {
        result.on_validation_message = [log = o.log, user = o.log_user](const std::string& text) {
            log(user, QS_LOG_ERROR, text.c_str());
        };
    }
    return result;
}

}  // namespace
}  // namespace quantsparse::c

using quantsparse::c::guarded;
using quantsparse::c::require;

void qs_device_info_init_sized(qs_device_info* info, size_t size) {
    quantsparse::c::initialise(info, size);
}

void qs_device_options_init_sized(qs_device_options* options, size_t size) {
    quantsparse::c::initialise(options, size);
}

qs_status qs_device_list_create(qs_device_list** list, qs_error* error) {
    return guarded(error, [&] {
        require(list, "list");
        *list = nullptr;
        *list = new qs_device_list{quantsparse::list_devices()};
        return QS_OK;
    });
}

size_t qs_device_list_count(const qs_device_list* list) {
    return list ? list->devices.size() : 0;
}

qs_status qs_device_list_get(const qs_device_list* list, size_t index, qs_device_info* info,
                             qs_error* error) {
    return guarded(error, [&] {
        require(list, "list");
        if (index >= list->devices.size()) {
            throw quantsparse::Error(
                quantsparse::ErrorCode::invalid_argument,
                fmt::format("there are {} devices, none is number {}", list->devices.size(), index),
                "index");
        }
        quantsparse::c::hand_out(info, "info", quantsparse::c::info_of(list->devices[index]));
        return QS_OK;
    });
}

void qs_device_list_destroy(qs_device_list* list) {
    delete list;
}

qs_status qs_device_open(const qs_device_options* options, qs_device** device, qs_error* error) {
    return guarded(error, [&] {
        require(device, "device");
        *device = nullptr;
        *device = new qs_device{
            std::make_shared<quantsparse::Device>(quantsparse::c::options_of(options))};
        return QS_OK;
    });
}

qs_status qs_device_get_info(const qs_device* device, qs_device_info* info, qs_error* error) {
    return guarded(error, [&] {
        require(device, "device");
        quantsparse::c::hand_out(info, "info", quantsparse::c::info_of(device->device->info()));
        return QS_OK;
    });
}

void qs_device_destroy(qs_device* device) {
    delete device;
}
