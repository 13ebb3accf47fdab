#include "selftest/case.hpp"

#include <fmt/format.h>
#include <cmath>
#include <fstream>
#include <limits>

#include "quantsparse/error.hpp"

namespace quantsparse::selftest {

Difference compare(std::span<const float> ours, std::span<const float> reference) {
    constexpr double kInfinite = std::numeric_limits<double>::infinity();
    if (ours.size() != reference.size()) return {kInfinite, kInfinite};
    double error = 0, norm = 0, largest = 0;
    for (std::size_t i = 0; i < ours.size(); ++i) {
        const double difference = static_cast<double>(ours[i]) - static_cast<double>(reference[i]);
        if (!std::isfinite(difference)) return {kInfinite, kInfinite};
        error += difference * difference;
        norm += static_cast<double>(reference[i]) * static_cast<double>(reference[i]);
        largest = std::max(largest, std::abs(difference));
    }
    return {std::sqrt(error / std::max(norm, 1e-300)), largest};
}

Case::Case(const std::filesystem::path& folder_in)
    : folder(folder_in), name(folder_in.filename().string()), io(folder_in / "io.safetensors") {
    std::ifstream in(folder / "case.json");
    json = nlohmann::json::parse(in, nullptr, false);
    if (json.is_discarded() || !json.contains("kind")) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("{} is no reference case: case.json can't be read", folder.string()));
    }
}

std::filesystem::path Case::weights() const {
    if (json.contains("file")) return folder / json.at("file").get<std::string>();
    const std::filesystem::path index = folder / "model.safetensors.index.json";
    return std::filesystem::exists(index) ? index : folder / "model.safetensors";
}

std::vector<float> Case::floats(const std::string& tensor) const {
    return format::to_float(io.at(tensor));
}

std::vector<std::int32_t> Case::integers(const std::string& tensor) const {
    return format::to_int32(io.at(tensor));
}

std::vector<int> Case::shape(const std::string& tensor) const {
    const auto& shape = io.at(tensor).shape;
    return {shape.begin(), shape.end()};
}

Tolerance Settings::tolerance(const nlohmann::json& of_case) const {
    const auto& chosen = of_case.at(half ? "fp16_storage" : "fp32");
    return {chosen.at("rel_l2").get<double>(), chosen.at("max_abs").get<double>()};
}

void RunReport::intermediate(const std::string& name, std::span<const float> ours,
                             std::span<const float> reference) {
    const Difference difference = compare(ours, reference);
    // Position tables and the like may be all zeros: then the absolute difference decides.
    if (difference.rel_l2 > tolerance_.rel_l2 && difference.max_abs > tolerance_.max_abs * 1e-2) {
        result_.passed = false;
        if (result_.detail.empty()) {
            result_.detail = fmt::format("first difference in {} (rel_l2 {:.2e}, max_abs {:.2e})",
                                         name, difference.rel_l2, difference.max_abs);
        }
    }
}

void RunReport::output(const std::string& name, std::span<const float> ours,
                       std::span<const float> reference) {
    const Difference difference = compare(ours, reference);
    result_.difference.rel_l2 = std::max(result_.difference.rel_l2, difference.rel_l2);
    result_.difference.max_abs = std::max(result_.difference.max_abs, difference.max_abs);
    if (!difference.within(tolerance_)) {
        result_.passed = false;
        if (result_.detail.empty()) {
            result_.detail = fmt::format("{} differs: allowed rel_l2 {:.2e}, max_abs {:.2e}", name,
                                         tolerance_.rel_l2, tolerance_.max_abs);
        }
    }
}

void RunReport::require(bool condition, const std::string& detail) {
    if (condition) return;
    result_.passed = false;
    if (result_.detail.empty()) result_.detail = detail;
}

}  // namespace quantsparse::selftest
