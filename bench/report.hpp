// What all subcommands print and write the same way.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "ordered_json.hpp"
#include "quantsparse/device.hpp"

namespace quantsparse::bench {

std::string bytes_text(std::uint64_t bytes);  ///< "12.3 MiB"

/// Both write beside and rename, so that no partial file is ever seen. Throw Error(io).
void write_text(const std::filesystem::path& file, const std::string& text);
void write_json(const std::filesystem::path& file, const Json& json);

}  // namespace quantsparse::bench
