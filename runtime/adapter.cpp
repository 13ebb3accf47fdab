#include "quantsparse/adapter.hpp"

#include <charconv>
#include <system_error>

namespace quantsparse {
namespace {

/// Takes what stands behind the last colon of `text`, if `understood` can do something with it.
template <typename Understood>
void take_ending(std::string& text, Understood understood) {
    std::error_code ignored;
    const std::size_t colon = text.rfind(':');
    if (colon != std::string::npos && colon > 0 && !std::filesystem::exists(text, ignored) &&
        understood(text.substr(colon + 1))) {
        text.resize(colon);
    }
}

}  // namespace

Adapter adapter_from(const std::string& text) {
    Adapter adapter;
    std::string file = text;
    take_ending(file, [&](const std::string& word) {
        adapter.target = word == "high"  ? AdapterTarget::high
                         : word == "low" ? AdapterTarget::low
                                         : AdapterTarget::both;
        return adapter.target != AdapterTarget::both;
    });
    take_ending(file, [&](const std::string& word) {
        double strength = 1;
        const char* end = word.data() + word.size();
        const auto parsed = std::from_chars(word.data(), end, strength);
        const bool number = parsed.ec == std::errc() && parsed.ptr == end;
        if (number) adapter.strength = strength;
        return number;
    });
    adapter.file = file;
    return adapter;
}

}  // namespace quantsparse
