#include "calib/activations.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "format/safetensors.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
CollectedActivations::CollectedActivations(const format::Network& network, bool keep_observations)
    : keep_observations_(keep_observations) {
    for (const auto& block : network.blocks) {
        prefixes_.push_back(block.prefix);
        for (const auto& group : block.groups) {
            GroupActivations entry;
            entry.width = group.width;
            entry.absmax.assign(static_cast<std::size_t>(group.width), 0.0f);
            groups_.emplace_back(block.prefix + group.name, std::move(entry));
        }
    }
}

GroupActivations& CollectedActivations::group(int block, std::string_view which) {
    const auto name = prefixes_.at(static_cast<std::size_t>(block)) + std::string(which);
    const auto found = std::find_if(groups_.begin(), groups_.end(),
                                    [&](const auto& entry) { return entry.first == name; });
    if (found == groups_.end()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("no activations were collected for '{}'", name));
    }
    return found->second;
}

const GroupActivations& CollectedActivations::group(int block, std::string_view which) const {
    return const_cast<CollectedActivations*>(this)->group(block, which);
}

Observation observe_rows(std::span<const float> rows, int width, int keep, std::size_t start) {
    const auto columns = static_cast<std::size_t>(width);
    const std::size_t count = rows.size() / columns;
    if (count == 0 || rows.size() % columns != 0) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{} values are no rows of {}", rows.size(), width));
    }
    Observation result;
    result.absmax.assign(columns, 0.0f);
    for (std::size_t row = 0; row < count; ++row) {
        for (std::size_t i = 0; i < columns; ++i) {
            result.absmax[i] = std::max(result.absmax[i], std::fabs(rows[row * columns + i]));
        }
    }
    const std::size_t kept = std::min(count, static_cast<std::size_t>(std::max(keep, 1)));
    for (std::size_t i = 0; i < kept; ++i) {
        const std::size_t row = (start + i * count / kept) % count;
        const auto line = rows.subspan(row * columns, columns);
        result.rows.insert(result.rows.end(), line.begin(), line.end());
    }
    return result;
}

void CollectedActivations::add(int block, std::string_view which, const Observation& observation) {
    auto& entry = group(block, which);
    for (std::size_t i = 0; i < entry.absmax.size(); ++i) {
        entry.absmax[i] += observation.absmax.at(i);
    }
    if (keep_observations_) {
        entry.observations.insert(entry.observations.end(), observation.absmax.begin(),
                                  observation.absmax.end());
    }
    entry.rows.insert(entry.rows.end(), observation.rows.begin(), observation.rows.end());
    ++entry.forwards;
}

void CollectedActivations::finish() {
    for (auto& [name, entry] : groups_) {
        for (auto& value : entry.absmax) {
            value /= static_cast<float>(std::max(entry.forwards, 1));
        }
    }
}

void CollectedActivations::save(const std::filesystem::path& path,
                                const std::string& fingerprint) const {
    using format::DType;
    format::SafetensorsWriter writer(path);
    writer.set_metadata("fingerprint", fingerprint);
    for (const auto& [name, entry] : groups_) {
        writer.declare(name + ".absmax", DType::f32, {entry.width});
        writer.declare(name + ".rows", DType::f32, {entry.row_count(), entry.width});
        if (!entry.observations.empty()) {
            const auto count = std::ssize(entry.observations) / entry.width;
            writer.declare(name + ".observations", DType::f32, {count, entry.width});
        }
    }
    for (const auto& [name, entry] : groups_) {
        writer.write(name + ".absmax", std::as_bytes(std::span(entry.absmax)));
        writer.write(name + ".rows", std::as_bytes(std::span(entry.rows)));
        if (!entry.observations.empty()) {
            writer.write(name + ".observations", std::as_bytes(std::span(entry.observations)));
        }
    }
    writer.finish();
}

std::optional<CollectedActivations> CollectedActivations::load(const std::filesystem::path& path,
                                                               const std::string& fingerprint,
                                                               const format::Network& network) {
    if (!std::filesystem::exists(path)) {
        return std::nullopt;
    }
    try {
        const format::SafetensorsFile file(path);
        const auto found = file.metadata().find("fingerprint");
        if (found == file.metadata().end() || found->second != fingerprint) {
            return std::nullopt;
        }
        CollectedActivations result(network);
        for (auto& [name, entry] : result.groups_) {
            entry.absmax = format::to_float(file.at(name + ".absmax"));
            entry.rows = format::to_float(file.at(name + ".rows"));
            if (const auto* observations = file.find(name + ".observations")) {
                entry.observations = format::to_float(*observations);
            }
        }
        return result;
    } catch (const Error&) {
        return std::nullopt;  // half of an older run: collected anew
    }
}

}  // namespace quantsparse::calib
