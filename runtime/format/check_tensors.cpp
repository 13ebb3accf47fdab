#include "format/check_tensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "format/model_file.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

void check_dtype(const Checkpoint& checkpoint, const TensorView& view, bool fits,
                 const char* wanted) {
    if (!fits) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("tensor '{}' of '{}' has dtype {} where {} is needed", printable(view.name),
                        checkpoint.path().string(), name_of(view.dtype), wanted));
    }
}

/// Scales and signs multiply everything: one bad value would spoil the clip without a word.
void check_values(const Checkpoint& checkpoint, const std::string& name, bool (*allowed)(float),
                  const char* wanted) {
    const auto* view = checkpoint.find(name);
    if (view == nullptr) {
        return;
    }
    const auto values = to_float(*view);
    if (!std::all_of(values.begin(), values.end(), allowed)) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("tensor '{}' of '{}' holds values that are not {}; the file is "
                                "damaged, calibrate again",
                                name, checkpoint.path().string(), wanted));
    }
}

void throw_missing(const Checkpoint& checkpoint, const std::string& network,
                   const std::vector<std::string>& missing) {
    if (!missing.empty()) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("'{}' lacks {} tensor{} of the {}: {}; the file is incomplete or of "
                        "another model",
                        checkpoint.path().string(), missing.size(), missing.size() == 1 ? "" : "s",
                        network, list_names(missing)));
    }
}

/// A group of linears that is stored packed.
struct PackedGroup {
    std::vector<LinearSpec> linears;  ///< full names, the head first
    int width = 0;
    int bits = 0;
};

std::vector<PackedGroup> packed_groups(const Network& network, const Quantization& quantization) {
    std::vector<PackedGroup> packed;
    for (const auto& block : network.blocks) {
        for (const auto& group : block.groups) {
            const auto bits = quantization.of(block, group);
            if (bits.quantized()) {
                packed.push_back({linears_of(block, group), group.width, bits.weights});
            }
        }
    }
    return packed;
}

/// Learned rotations and clipping: all blocks have them alike, since one Program runs them all.
void check_learned_inputs(const Checkpoint& checkpoint, const std::vector<PackedGroup>& groups) {
    std::map<int, std::int64_t> blocks;  // of the rotations by input width; 0: none
    const auto clip_of = [](const PackedGroup& group) {
        return group.linears.front().name + ".activation_clip";
    };
    const bool clipped = checkpoint.find(clip_of(groups.front())) != nullptr;
    for (const auto& group : groups) {
        const auto& linear = group.linears.front();
        const auto rotation_name = linear.name + ".rotation";
        const auto* rotation = checkpoint.find(rotation_name);
        std::int64_t block = 0;
        if (rotation != nullptr) {
            block = rotation->shape.empty() ? 0 : rotation->shape.back();
            if (block < 4 || block % 4 != 0 || group.width % block != 0) {
                throw Error(ErrorCode::bad_file,
                            fmt::format("tensor '{}' of '{}' has the shape {}; blocks of a "
                                        "multiple of 4 that divide {} are needed",
                                        rotation_name, checkpoint.path().string(),
                                        shape_text(rotation->shape), group.width));
            }
            checkpoint.at(rotation_name, {group.width / block, block, block});
            check_dtype(checkpoint, *rotation, is_floating(rotation->dtype),
                        "a floating-point type");
            // Elements of an orthogonal matrix, with the rounding of half precision, or smaller:
            // columns may be divided by a channel scale of at least 1.
            check_values(
                checkpoint, rotation_name, [](float value) { return std::fabs(value) <= 1.001f; },
                "between -1 and 1");
        }
        const auto known = blocks.emplace(group.width, block).first;
        if (known->second != block) {
            throw Error(
                ErrorCode::bad_file,
                fmt::format("the rotation of '{}' in '{}' has blocks of {}, those before it "
                            "of {}; calibrate again",
                            linear.name, checkpoint.path().string(), block, known->second));
        }
        const auto clip_name = clip_of(group);
        if ((checkpoint.find(clip_name) != nullptr) != clipped) {
            throw Error(ErrorCode::bad_file,
                        fmt::format("'{}' has '.activation_clip' for some linears only ('{}'); "
                                    "calibrate again",
                                    checkpoint.path().string(), linear.name));
        }
        if (clipped) {
            check_dtype(checkpoint, checkpoint.at(clip_name, {1}),
                        checkpoint.at(clip_name).dtype == DType::f32, "F32");
            check_values(
                checkpoint, clip_name, [](float value) { return value > 0 && value <= 1; },
                "above 0, up to 1");
        }
    }
}

/// A product beside the codes has both of its matrices, of one rank.
void check_branch(const Checkpoint& checkpoint, const LinearSpec& linear) {
    const auto down_name = linear.name + kLoraDown, up_name = linear.name + kLoraUp;
    if (checkpoint.find(down_name) == nullptr && checkpoint.find(up_name) == nullptr) {
        return;
    }
    const auto& down = checkpoint.at(down_name);
    const std::int64_t rank = down.shape.empty() ? 0 : down.shape.front();
    checkpoint.at(down_name, {rank, linear.in_features});
    checkpoint.at(up_name, {linear.out_features, rank});
    for (const auto& name : {down_name, up_name}) {
        check_dtype(checkpoint, checkpoint.at(name), is_floating(checkpoint.at(name).dtype),
                    "a floating-point type");
        check_values(
            checkpoint, name, [](float value) { return std::isfinite(value); }, "finite");
    }
}

}  // namespace

void check_tensors(const Checkpoint& checkpoint, const std::string& title, const Network& network,
                   const Quantization& quantization) {
    const auto groups = packed_groups(network, quantization);
    std::set<std::string> packed;
    for (const auto& group : groups) {
        for (const auto& linear : group.linears) {
            packed.insert(linear.name + ".weight");
        }
    }
    std::vector<TensorSpec> floating = network.tensors;
    std::erase_if(floating, [&](const TensorSpec& tensor) { return packed.contains(tensor.name); });
    std::vector<TensorSpec> codes;
    for (const auto& group : groups) {
        for (const auto& linear : group.linears) {
            codes.push_back({linear.name + ".codes",
                             codes_shape(linear.out_features, linear.in_features, group.bits)});
            floating.push_back({linear.name + ".scale", {linear.out_features}});
            if (!linear.bias) {  // calibration puts the mean error there
                floating.push_back({linear.name + ".bias", {linear.out_features}});
            }
            for (const char* optional : {".channel_scale", ".rotation_signs"}) {
                if (checkpoint.find(linear.name + optional) != nullptr) {
                    floating.push_back({linear.name + optional, {linear.in_features}});
                }
            }
        }
    }
    std::vector<std::string> missing;
    for (const auto* list : {&floating, &codes}) {
        for (const auto& tensor : *list) {
            if (checkpoint.find(tensor.name) == nullptr) {
                missing.push_back(tensor.name);
            }
        }
    }
    throw_missing(checkpoint, title, missing);
    for (const auto& tensor : floating) {
        const auto& view = checkpoint.at(tensor.name, tensor.shape);
        check_dtype(checkpoint, view, is_floating(view.dtype), "a floating-point type");
    }
    if (groups.empty()) {
        return;
    }
    for (const auto& tensor : codes) {
        const auto& view = checkpoint.at(tensor.name, tensor.shape);
        check_dtype(checkpoint, view, view.dtype == DType::u32, "U32");
    }
    check_learned_inputs(checkpoint, groups);
    const auto positive = [](float value) { return value > 0 && std::isfinite(value); };
    const auto unit = [](float value) { return value == 1.0f || value == -1.0f; };
    for (const auto& group : groups) {
        for (const auto& linear : group.linears) {
            check_values(checkpoint, linear.name + ".scale", positive, "positive");
            check_values(checkpoint, linear.name + ".channel_scale", positive, "positive");
            check_values(checkpoint, linear.name + ".rotation_signs", unit, "+1 or -1");
            check_branch(checkpoint, linear);
        }
    }
}

}  // namespace quantsparse::format
