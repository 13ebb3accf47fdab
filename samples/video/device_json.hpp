// Devices as JSON, the same from quantsparse-video --list-devices --json and quantsparse-bench
// devices.
#pragma once

#include <string>
#include <vector>

#include "quantsparse/device.hpp"

namespace quantsparse::video {

std::string devices_json(const std::vector<DeviceInfo>& devices);

}  // namespace quantsparse::video
