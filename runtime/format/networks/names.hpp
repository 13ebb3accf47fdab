// What the networks' renames are made of: tables of beginnings, and numbers in names.
#pragma once

#include <array>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>

namespace quantsparse::format {

using Rename = std::pair<std::string_view, std::string_view>;

inline bool replace_prefix(std::string& name, std::string_view from, std::string_view to) {
    if (!name.starts_with(from)) {
        return false;
    }
    name.replace(0, from.size(), to);
    return true;
}

/// Applies the first matching rename of the name's beginning.
template <std::size_t N>
bool rename_start(std::string& name, const std::array<Rename, N>& renames) {
    for (const auto& [from, to] : renames) {
        if (replace_prefix(name, from, to)) {
            return true;
        }
    }
    return false;
}

/// Splits "12.rest" after the number: returns it and leaves "rest". Negative: no number.
inline int take_number(std::string_view& rest) {
    int value = -1;
    const auto [end, failure] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (failure != std::errc{} || end == rest.data() + rest.size() || *end != '.' || value < 0 ||
        value > 9999) {
        return -1;
    }
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()) + 1);
    return value;
}

/// Renames what follows "<list>.<number>." by `inner` when the name begins with `list`.
template <std::size_t N>
bool rename_in_list(std::string& name, std::string_view list, std::string_view new_list,
                    const std::array<Rename, N>& inner) {
    if (!name.starts_with(list)) {
        return false;
    }
    std::string_view rest = std::string_view(name).substr(list.size());
    const int index = take_number(rest);
    if (index < 0) {
        return false;
    }
    std::string tail(rest);
    rename_start(tail, inner);
    name = std::string(new_list) + std::to_string(index) + "." + tail;
    return true;
}

}  // namespace quantsparse::format
