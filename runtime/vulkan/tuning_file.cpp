#include "vulkan/tuning_file.hpp"

#include <unistd.h>

#include <fmt/format.h>
#include <bit>
#include <fstream>
#include <nlohmann/json.hpp>

#include "quantsparse/error.hpp"
#include "quantsparse/names.hpp"

namespace quantsparse::vulkan {
namespace {

/// Raised when kernels change enough that old measurements say nothing.
constexpr int kVersion = 1;

constexpr std::uint32_t kMostLanes = 1024;
constexpr std::uint32_t kMostRows = 32;

bool is_size(const nlohmann::json& value, std::uint32_t most) {
    if (!value.is_number_unsigned()) return false;
    const auto size = value.get<std::uint64_t>();
    return size == 0 || (size <= most && std::has_single_bit(size));
}

}  // namespace

std::optional<Tuning> read_tuning(const std::filesystem::path& file) {
    std::ifstream in(file);
    if (!in) return std::nullopt;
    const auto json = nlohmann::json::parse(in, nullptr, false);
    if (!json.is_object() || json.value("version", nlohmann::json()) != kVersion) {
        return std::nullopt;
    }
    for (const char* key : {"arithmetic", "product_lanes", "product_rows", "matrix_tile"}) {
        if (!json.contains(key)) return std::nullopt;
    }
    if (!json["arithmetic"].is_string() || !is_size(json["product_lanes"], kMostLanes) ||
        !is_size(json["product_rows"], kMostRows) || !json["matrix_tile"].is_number_integer()) {
        return std::nullopt;
    }
    const auto tile = json["matrix_tile"].get<std::int64_t>();
    if (tile < -1 || tile > 64) return std::nullopt;
    Tuning tuning;
    try {
        tuning.arithmetic = value_of<Arithmetic>(json["arithmetic"].get<std::string>());
    } catch (const Error&) {
        return std::nullopt;
    }
    tuning.product_lanes = json["product_lanes"].get<std::uint32_t>();
    tuning.product_rows = json["product_rows"].get<std::uint32_t>();
    tuning.matrix_tile = static_cast<int>(tile);
    return tuning;
}

bool can_keep_tuning(const std::filesystem::path& file) {
    std::error_code ignored;
    std::filesystem::create_directories(file.parent_path(), ignored);
    return std::filesystem::is_directory(file.parent_path(), ignored) &&
           ::access(file.parent_path().c_str(), W_OK) == 0;
}

bool write_tuning(const std::filesystem::path& file, const Tuning& tuning) {
    const nlohmann::ordered_json json = {{"version", kVersion},
                                         {"arithmetic", word_of(tuning.arithmetic)},
                                         {"product_lanes", tuning.product_lanes},
                                         {"product_rows", tuning.product_rows},
                                         {"matrix_tile", tuning.matrix_tile}};
    if (!can_keep_tuning(file)) return false;
    std::error_code error;
    const std::filesystem::path temporary =
        file.string() + fmt::format(".{}.tmp", static_cast<long>(::getpid()));
    {
        std::ofstream out(temporary);
        out << json.dump(1) << '\n';
        if (!out) error = std::make_error_code(std::errc::io_error);
    }
    if (!error) std::filesystem::rename(temporary, file, error);
    if (!error) return true;
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    return false;
}

}  // namespace quantsparse::vulkan
