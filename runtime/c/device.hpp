// Devices behind the handles of the C interface.
#pragma once

#include <memory>
#include <vector>

#include "quantsparse.h"
#include "quantsparse/device.hpp"

struct qs_device_list {
    std::vector<quantsparse::DeviceInfo> devices;
};

struct qs_device {
    std::shared_ptr<quantsparse::Device> device;  ///< generators hold it, too
};
