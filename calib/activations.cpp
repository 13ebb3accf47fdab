#include "calib/activations.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "format/safetensors.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

std::string tensor_name(int block, InputGroup group, const char* what) {
    return fmt::format("blocks.{}.{}.{}", block, name_of(group), what);
}

}  // namespace

const char* name_of(InputGroup group) {
    switch (group) {
        case InputGroup::self_qkv:
            return "self_qkv";
        case InputGroup::self_o:
            return "self_o";
        case InputGroup::cross_q:
            return "cross_q";
        case InputGroup::cross_kv:
            return "cross_kv";
        case InputGroup::cross_o:
            return "cross_o";
        case InputGroup::ffn_0:
            return "ffn_0";
        case InputGroup::ffn_2:
            return "ffn_2";
    }
    return "?";
}

int input_width(InputGroup group, const format::WanDitConfig& config) {
    return group == InputGroup::ffn_2 ? config.ffn_dim : config.dim;
}

std::vector<std::string> linears_of(InputGroup group, int block) {
    const auto name = [&](const char* linear) {
        return fmt::format("blocks.{}.{}", block, linear);
    };
    switch (group) {
        case InputGroup::self_qkv:
            return {name("self_attn.q"), name("self_attn.k"), name("self_attn.v")};
        case InputGroup::self_o:
            return {name("self_attn.o")};
        case InputGroup::cross_q:
            return {name("cross_attn.q")};
        case InputGroup::cross_kv:
            return {name("cross_attn.k"), name("cross_attn.v")};
        case InputGroup::cross_o:
            return {name("cross_attn.o")};
        case InputGroup::ffn_0:
            return {name("ffn.0")};
        case InputGroup::ffn_2:
            return {name("ffn.2")};
    }
    return {};
}

CollectedActivations::CollectedActivations(const format::WanDitConfig& config)
    : groups_(static_cast<std::size_t>(config.num_layers) * kInputGroups.size()) {
    for (int block = 0; block < config.num_layers; ++block) {
        for (const auto which : kInputGroups) {
            auto& entry = group(block, which);
            entry.width = input_width(which, config);
            entry.absmax.assign(static_cast<std::size_t>(entry.width), 0.0f);
        }
    }
}

GroupActivations& CollectedActivations::group(int block, InputGroup which) {
    return groups_.at(static_cast<std::size_t>(block) * kInputGroups.size() +
                      static_cast<std::size_t>(which));
}

const GroupActivations& CollectedActivations::group(int block, InputGroup which) const {
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

void CollectedActivations::add(int block, InputGroup which, const Observation& observation) {
    auto& entry = group(block, which);
    for (std::size_t i = 0; i < entry.absmax.size(); ++i) {
        entry.absmax[i] += observation.absmax.at(i);
    }
    entry.rows.insert(entry.rows.end(), observation.rows.begin(), observation.rows.end());
    ++entry.forwards;
}

void CollectedActivations::finish() {
    for (auto& entry : groups_) {
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
    const int blocks = static_cast<int>(groups_.size() / kInputGroups.size());
    const auto for_each = [&](const auto& action) {
        for (int block = 0; block < blocks; ++block) {
            for (const auto which : kInputGroups) {
                action(block, which, group(block, which));
            }
        }
    };
    for_each([&](int block, InputGroup which, const GroupActivations& entry) {
        writer.declare(tensor_name(block, which, "absmax"), DType::f32, {entry.width});
        writer.declare(tensor_name(block, which, "rows"), DType::f32,
                       {entry.row_count(), entry.width});
    });
    for_each([&](int block, InputGroup which, const GroupActivations& entry) {
        writer.write(tensor_name(block, which, "absmax"), std::as_bytes(std::span(entry.absmax)));
        writer.write(tensor_name(block, which, "rows"), std::as_bytes(std::span(entry.rows)));
    });
    writer.finish();
}

std::optional<CollectedActivations> CollectedActivations::load(const std::filesystem::path& path,
                                                               const std::string& fingerprint,
                                                               const format::WanDitConfig& config) {
    if (!std::filesystem::exists(path)) {
        return std::nullopt;
    }
    try {
        const format::SafetensorsFile file(path);
        const auto found = file.metadata().find("fingerprint");
        if (found == file.metadata().end() || found->second != fingerprint) {
            return std::nullopt;
        }
        CollectedActivations result(config);
        for (int block = 0; block < config.num_layers; ++block) {
            for (const auto which : kInputGroups) {
                auto& entry = result.group(block, which);
                entry.absmax = format::to_float(file.at(tensor_name(block, which, "absmax")));
                entry.rows = format::to_float(file.at(tensor_name(block, which, "rows")));
            }
        }
        return result;
    } catch (const Error&) {
        return std::nullopt;  // half of an older run: collected anew
    }
}

}  // namespace quantsparse::calib
