#include "format/text.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace quantsparse::format {

std::string printable(std::string_view text) {
    constexpr std::size_t kLongest = 96;
    std::string result(text.substr(0, kLongest));
    for (char& c : result) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
            c = '?';
        }
    }
    if (text.size() > kLongest) {
        result += "...";
    }
    return result;
}

std::string shape_text(std::span<const std::int64_t> shape) {
    return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::string list_names(const std::vector<std::string>& names, std::size_t cap) {
    std::string result;
    for (std::size_t i = 0; i < names.size() && i < cap; ++i) {
        result += (i == 0 ? "" : ", ") + printable(names[i]);
    }
    if (names.size() > cap) {
        result += fmt::format(" and {} more", names.size() - cap);
    }
    return result;
}

}  // namespace quantsparse::format
