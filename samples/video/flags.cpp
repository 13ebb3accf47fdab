#include "flags.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace quantsparse::video {
namespace {

/// The others are called as their fields, with hyphens.
const std::map<std::string, std::string> kOtherNames = {{"adapters", "--lora"},
                                                        {"kind", "--attention"},
                                                        {"products", "--attention-arithmetic"},
                                                        {"granularity", "--mask-granularity"},
                                                        {"selector", "--device"},
                                                        {"requantize", "--weights"},
                                                        {"refreshes", "--refresh"}};

}  // namespace

std::string message_with_flag(const Error& error) {
    if (error.field().empty()) return error.what();
    std::string flag = "--" + error.field();
    std::replace(flag.begin(), flag.end(), '_', '-');
    if (const auto other = kOtherNames.find(error.field()); other != kOtherNames.end()) {
        flag = other->second;
    }
    return fmt::format("{}: {}", flag, error.what());
}

}  // namespace quantsparse::video
