#include "calib/write_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>

#include "calib/progress.hpp"
#include "format/model_file.hpp"
#include "format/safetensors.hpp"
#include "pipeline/recipes.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

using format::DType;
using format::TensorView;

// Elements converted and written at a time: the embedding of UMT5-XXL is 4 GiB in fp32.
// A multiple of every format's block.
constexpr std::int64_t kPiece = std::int64_t{1} << 22;

struct Entry {
    std::string name;
    DType dtype = DType::f32;
    TensorView source;
};

/// Matrices and convolutions; biases, norms, modulation tables are small and stay exact.
bool keeps_16_bits(const TensorView& view) {
    return view.name.ends_with(".weight") && view.shape.size() >= 2;
}

DType stored_dtype(const TensorView& view) {
    if (!keeps_16_bits(view)) {
        return DType::f32;
    }
    return view.dtype == DType::bf16 ? DType::bf16 : DType::f16;
}

void require_representable(const Entry& entry, std::span<const float> values) {
    const float limit = entry.dtype == DType::f16 ? 65504.0f : 3.4028235e38f;
    for (const float value : values) {
        if (!(std::fabs(value) <= limit)) {
            throw Error(ErrorCode::non_finite,
                        fmt::format("tensor '{}' holds {}, which {} can't represent; the "
                                    "checkpoint is damaged or needs bf16 weights",
                                    entry.source.name, value, format::name_of(entry.dtype)));
        }
    }
}

void write_converted(format::SafetensorsWriter& writer, const Entry& entry) {
    const std::int64_t count = entry.source.element_count();
    const bool same = entry.source.dtype == entry.dtype;
    std::vector<float> values;
    std::vector<std::uint16_t> halves;
    for (std::int64_t start = 0; start < count; start += kPiece) {
        check_cancelled();
        const TensorView part = entry.source.slice(start, std::min(kPiece, count - start));
        if (same && entry.dtype != DType::f32 && entry.dtype != DType::f16 &&
            entry.dtype != DType::bf16) {
            writer.write(entry.name, part.bytes);
            continue;
        }
        values = format::to_float(part);
        require_representable(entry, values);
        if (same && !part.computed) {
            writer.write(entry.name, part.bytes);
        } else if (entry.dtype == DType::f32) {
            writer.write(entry.name, std::as_bytes(std::span(values)));
        } else {
            halves.resize(values.size());
            std::transform(values.begin(), values.end(), halves.begin(), format::half_from_float);
            writer.write(entry.name, std::as_bytes(std::span(halves)));
        }
    }
}

/// All tensors of the file; `blocks`: the work files, which stay open as long as the entries.
std::vector<Entry> entries_of(const format::ModelBundle& model, const std::string& quantized_role,
                              const std::vector<std::unique_ptr<format::SafetensorsFile>>& blocks) {
    std::vector<Entry> entries;
    const auto add = [&](const std::string& prefix, const TensorView& view, DType dtype) {
        entries.push_back({prefix + view.name, dtype, view});
    };
    std::set<std::string> replaced;  // by what the work files hold
    for (const auto& file : blocks) {
        for (const auto& [name, view] : file->tensors()) {
            add(quantized_role + ".", view, view.dtype);
            if (name.ends_with(".codes")) {
                const auto linear = name.substr(0, name.size() - std::string(".codes").size());
                replaced.insert({linear + ".weight", linear + ".bias"});
            }
        }
    }
    const auto add_network = [&](const std::string& role) {
        const auto& component = model.at(role);
        for (const auto& tensor : component.network.tensors) {
            if (role != quantized_role || !replaced.contains(tensor.name)) {
                const auto& view = component.checkpoint->at(tensor.name);
                add(role + ".", view, stored_dtype(view));
            }
        }
    };
    add_network(quantized_role);
    for (const auto& [role, component] : model.components) {
        if (role != quantized_role) {
            add_network(role);
        }
    }
    for (const auto& [role, bytes] : model.tokenizers) {
        add("", {role + ".model", DType::u8, {static_cast<std::int64_t>(bytes.size())}, bytes},
            DType::u8);
    }
    // Wide elements first, so that every tensor starts aligned to its element size.
    std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
        return format::block_of(a.dtype).bytes > format::block_of(b.dtype).bytes;
    });
    return entries;
}

}  // namespace

void write_model(const format::ModelBundle& model, const std::filesystem::path& output,
                 const std::vector<std::filesystem::path>& block_files,
                 const std::string& quantization_record, bool show_progress) {
    std::vector<std::unique_ptr<format::SafetensorsFile>> blocks;
    for (const auto& path : block_files) {
        blocks.push_back(std::make_unique<format::SafetensorsFile>(path));
    }
    const auto& role = pipeline::recipe_of(model.architecture).experts.front().role;
    const auto entries = entries_of(model, role, blocks);

    format::SafetensorsWriter writer(output);
    const auto has = [&](std::string_view part) {
        return std::any_of(entries.begin(), entries.end(),
                           [&](const Entry& entry) { return entry.name.ends_with(part); });
    };
    const int version = has(format::kLoraDown)                        ? 3
                        : has(".rotation") || has(".activation_clip") ? 2
                                                                      : 1;
    for (const auto& [key, value] :
         format::model_file_metadata(model, quantization_record, version)) {
        writer.set_metadata(key, value);
    }
    for (const auto& entry : entries) {
        writer.declare(entry.name, entry.dtype, entry.source.shape);
    }
    Progress progress("writing tensors", static_cast<int>(entries.size()), show_progress);
    for (const auto& entry : entries) {
        write_converted(writer, entry);
        progress.advance();
    }
    check_cancelled();
    writer.finish();
}

}  // namespace quantsparse::calib
