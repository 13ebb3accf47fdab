// Small helpers for error messages: whatever a hostile file holds, a message stays on one line.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quantsparse::format {

/// `text` with control characters replaced by '?', cut at 96 bytes: safe to print inside a message.
std::string printable(std::string_view text);

/// "[2, 3, 4]"
std::string shape_text(std::span<const std::int64_t> shape);

/// "a, b, c and 4 more": at most `cap` names, so that a message stays readable.
std::string list_names(const std::vector<std::string>& names, std::size_t cap = 8);

}  // namespace quantsparse::format
