#include "calib/write_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "calib/progress.hpp"
#include "format/model_file.hpp"
#include "format/required_tensors.hpp"
#include "format/safetensors.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

using format::DType;
using format::TensorView;

// Elements converted and written at a time: the embedding of UMT5-XXL is 4 GiB in fp32.
constexpr std::size_t kPiece = std::size_t{1} << 22;

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

void write_converted(format::SafetensorsWriter& writer, const Entry& entry) {
    const auto element = format::size_of(entry.source.dtype);
    const auto count = static_cast<std::size_t>(entry.source.element_count());
    std::vector<float> values;
    std::vector<std::uint16_t> halves;
    for (std::size_t start = 0; start < count; start += kPiece) {
        check_cancelled();
        const std::size_t piece = std::min(kPiece, count - start);
        const auto bytes = entry.source.bytes.subspan(start * element, piece * element);
        if (entry.source.dtype == entry.dtype && entry.dtype != DType::f32 &&
            entry.dtype != DType::f16 && entry.dtype != DType::bf16) {
            writer.write(entry.name, bytes);
            continue;
        }
        const TensorView part{
            entry.source.name, entry.source.dtype, {static_cast<std::int64_t>(piece)}, bytes};
        values.resize(piece);
        format::to_float(part, values);
        const float limit = entry.dtype == DType::f16 ? 65504.0f : 3.4028235e38f;
        for (const float value : values) {
            if (!(std::fabs(value) <= limit)) {
                throw Error(ErrorCode::non_finite,
                            fmt::format("tensor '{}' holds {}, which {} can't represent; the "
                                        "checkpoint is damaged or needs bf16 weights",
                                        entry.source.name, value, format::name_of(entry.dtype)));
            }
        }
        if (entry.source.dtype == entry.dtype) {
            writer.write(entry.name, bytes);
        } else if (entry.dtype == DType::f32) {
            writer.write(entry.name, std::as_bytes(std::span(values)));
        } else {
            halves.resize(piece);
            std::transform(values.begin(), values.end(), halves.begin(), format::half_from_float);
            writer.write(entry.name, std::as_bytes(std::span(halves)));
        }
    }
}

}  // namespace

void write_model(const format::ModelBundle& model, const std::filesystem::path& output,
                 const std::vector<std::filesystem::path>& block_files,
                 const std::string& quantization_record, bool show_progress) {
    std::vector<Entry> entries;
    const auto add = [&](const std::string& prefix, const TensorView& view, DType dtype) {
        entries.push_back({prefix + view.name, dtype, view});
    };
    std::vector<std::unique_ptr<format::SafetensorsFile>> blocks;
    for (const auto& path : block_files) {
        blocks.push_back(std::make_unique<format::SafetensorsFile>(path));
        for (const auto& [name, view] : blocks.back()->tensors()) {
            add("transformer.", view, view.dtype);
        }
    }
    const auto linears = format::block_linears(model.transformer_config);
    const auto quantized = [&](const std::string& name) {
        return !block_files.empty() &&
               std::any_of(linears.begin(), linears.end(), [&](const format::BlockLinear& linear) {
                   return name == linear.name + ".weight" || name == linear.name + ".bias";
               });
    };
    const auto add_network = [&](const std::string& prefix, const format::Checkpoint& checkpoint,
                                 const std::vector<format::RequiredTensor>& tensors) {
        for (const auto& tensor : tensors) {
            if (prefix != "transformer." || !quantized(tensor.name)) {
                const auto& view = checkpoint.at(tensor.name);
                add(prefix, view, stored_dtype(view));
            }
        }
    };
    add_network("transformer.", *model.transformer,
                format::required_tensors(model.transformer_config));
    add_network("text_encoder.", *model.text_encoder,
                format::required_tensors(model.text_encoder_config));
    const bool encoder = model.vae->find("encoder.conv1.weight") != nullptr;
    add_network("vae.", *model.vae, format::required_tensors(model.vae_config, encoder));
    const TensorView tokenizer{"tokenizer.model",
                               DType::u8,
                               {static_cast<std::int64_t>(model.tokenizer.size())},
                               model.tokenizer};
    add("", tokenizer, DType::u8);
    // Wide elements first, so that every tensor starts aligned to its element size.
    std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
        return format::size_of(a.dtype) > format::size_of(b.dtype);
    });

    format::SafetensorsWriter writer(output);
    const bool learned_inputs = std::any_of(entries.begin(), entries.end(), [](const Entry& entry) {
        return entry.name.ends_with(".rotation") || entry.name.ends_with(".activation_clip");
    });
    for (const auto& [key, value] :
         format::model_file_metadata(model, quantization_record, learned_inputs)) {
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
